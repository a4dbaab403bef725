//! Checkpoints: folders in Hugging Face's layout, mapped and checked from their headers.
//!
//! [`Checkpoint::open`] compares every tensor's name, shape and dtype with the configuration before a
//! byte of weights is read, and refuses what is too much like what is missing, by name. It reads the
//! released, transformers' and mixed spellings; FP8 blocks, packed FP4, BF16, F16 and F32; one file or
//! shards with an index. What comes out are the matrices of the op program ([`Role`]) as sources a HAL
//! device loads from, in place where it can, and small tensors as vectors.
//!
//! Not here: tokenizers, devices, and formats other than safetensors.

mod folder;
mod header;
mod inspection;
mod names;
mod survey;
mod synthetic;
mod values;
mod weight;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use hal::ByteOwner;

pub use folder::{ShardIndex, parse_index};
pub use header::{Dtype, Header, TensorEntry, parse_header};
pub use inspection::{DtypeReport, FileReport, Inspection};
pub use names::{Block, Key, Part, parse_name};
pub use synthetic::SyntheticWeight;
pub use weight::{AnyWeight, CheckpointWeight, Role};

use crate::config::{ModelConfig, parse_config};
use crate::refusal::{Refusal, RefusalKind};
use folder::{Folder, WeightFile};
use survey::Place;

/// An opened model: checked, mapped, nothing of it read but the headers.
pub struct Checkpoint {
    config: ModelConfig,
    files: Vec<WeightFile>,
    places: HashMap<Key, Place>,
    inspection: Inspection,
    /// No files: numbers are noise.
    synthetic: bool,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Checkpoint({} tensors in {} files)", self.places.len(), self.files.len())
    }
}

/// Opens `folder` and reports what it holds ([`Checkpoint::open`]).
///
/// # Errors
/// Those of [`Checkpoint::open`].
pub fn inspect(folder: &Path) -> Result<Inspection, Refusal> {
    Checkpoint::open(folder).map(|checkpoint| checkpoint.inspection)
}

impl Checkpoint {
    /// Opens the model in `folder`. Weights are mapped, so this takes milliseconds whatever their size;
    /// the files must stay as they are while the checkpoint, or anything loaded from it in place, lives.
    ///
    /// # Errors
    /// `File`, `Config`, `Header`, `Index` or `Tensor`: one line that names the file or the tensor.
    pub fn open(folder: &Path) -> Result<Self, Refusal> {
        let Folder { config, files } = folder::open(folder)?;
        Self::new(&config, files)
    }

    /// A model from memory, such as one embedded in the program: the bytes of its config.json and of
    /// its safetensors files with their names.
    ///
    /// # Errors
    /// `Config`, `Header` or `Tensor`, as in [`Checkpoint::open`].
    pub fn from_memory(
        config: &[u8],
        files: Vec<(String, Arc<dyn ByteOwner>)>,
    ) -> Result<Self, Refusal> {
        let files = files.into_iter().map(|(name, owner)| WeightFile::new(name, owner));
        Self::new(config, files.collect::<Result<_, _>>()?)
    }

    fn new(config: &[u8], files: Vec<WeightFile>) -> Result<Self, Refusal> {
        let config = parse_config(config).map_err(|refusal| refusal.at("config.json"))?;
        let survey = survey::survey(&config, &files)?;
        let inspection = Inspection::new(&config, &files, &survey);
        Ok(Self { config, files, places: survey.places, inspection, synthetic: false })
    }

    /// Geometry and schedule.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What was found.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Whether the files hold this tensor.
    fn has(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    /// A tensor's file and entry.
    fn entry(&self, key: &Key) -> Result<(usize, &TensorEntry), Refusal> {
        let Some(place) = self.places.get(key) else {
            return Err(Refusal::new(
                RefusalKind::Tensor,
                format!("this model has no tensor {key}"),
            ));
        };
        let file = place.file as usize;
        Ok((file, &self.files[file].header.tensors[place.tensor as usize]))
    }
}

/// Bytes that live as long as the program, for [`Checkpoint::from_memory`].
#[derive(Clone, Copy, Debug)]
pub struct StaticBytes(pub &'static [u8]);

impl ByteOwner for StaticBytes {
    fn bytes(&self) -> &[u8] {
        self.0
    }
}
