//! What `hadal inspect` reports: a model's geometry, schedule, storage and size, known from its
//! configuration and headers alone.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::folder::WeightFile;
use super::survey::{Survey, count_dtypes};
use crate::budget::{Ledger, gigabytes, parameters};
use crate::config::ModelConfig;

/// One weight file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Name in the model's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Tensors in it.
    pub tensors: u64,
}

/// All tensors of one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DtypeReport {
    /// How many.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A model that passed inspection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Name of the released model with this geometry, if it is one.
    pub released: Option<&'static str>,
    /// Geometry and schedule.
    pub config: ModelConfig,
    /// Parameters and bytes.
    pub size: Ledger,
    /// Complete MTP blocks in the files.
    pub mtp_blocks: u32,
    /// Storage by dtype name.
    pub dtypes: BTreeMap<&'static str, DtypeReport>,
    /// Weight files.
    pub files: Vec<FileReport>,
    /// What a user should know and need not act on.
    pub notes: Vec<String>,
}

impl Inspection {
    pub(super) fn new(config: &ModelConfig, files: &[WeightFile], survey: &Survey) -> Self {
        let report = |file: &WeightFile| FileReport {
            name: file.name.clone(),
            bytes: file.owner.bytes().len() as u64,
            tensors: file.header.tensors.len() as u64,
        };
        let dtypes = count_dtypes(files).into_iter();
        Self {
            released: config.preset_name(),
            config: config.clone(),
            size: survey.ledger.clone(),
            mtp_blocks: survey.mtp_blocks,
            dtypes: dtypes
                .map(|(name, (tensors, bytes))| (name, DtypeReport { tensors, bytes }))
                .collect(),
            files: files.iter().map(report).collect(),
            notes: survey.notes.clone(),
        }
    }
}

/// The report as text, a line per fact.
impl fmt::Display for Inspection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        writeln!(out, "model       DeepSeek-V4 {}", self.released.unwrap_or("(own geometry)"))?;
        writeln!(
            out,
            "geometry    vocabulary {}, hidden {}, {} heads x {}, window {}, context {}",
            config.vocab,
            config.hidden,
            config.heads,
            config.head_dim,
            config.window,
            config.context
        )?;
        let hashed = config.layers.iter().filter(|layer| layer.hashed).count();
        writeln!(
            out,
            "layers      {}: {} SWA, {} CSA, {} HCA; {hashed} routed by token id; {} MTP",
            config.layers.len(),
            config.count("SWA"),
            config.count("CSA"),
            config.count("HCA"),
            self.mtp_blocks
        )?;
        let ratio = |ratio: u32| if ratio == 0 { "-".into() } else { ratio.to_string() };
        let schedule: Vec<String> = config.layers.iter().map(|layer| ratio(layer.ratio)).collect();
        writeln!(out, "schedule    {}", schedule.join(" "))?;
        writeln!(
            out,
            "experts     {} of width {}, {} per token, 1 shared",
            config.experts, config.expert_width, config.experts_per_token
        )?;
        let size = &self.size;
        writeln!(
            out,
            "parameters  {}, active {}, MTP {}",
            parameters(size.parameters_main),
            parameters(size.parameters_active),
            parameters(size.parameters_mtp)
        )?;
        writeln!(
            out,
            "bytes       {}, MTP {}, read per token {}",
            gigabytes(size.bytes_main),
            gigabytes(size.bytes_mtp),
            gigabytes(size.bytes_per_token)
        )?;
        for (name, dtype) in &self.dtypes {
            writeln!(out, "{name:<11} {} tensors, {}", dtype.tensors, gigabytes(dtype.bytes))?;
        }
        for file in &self.files {
            writeln!(
                out,
                "file        {}, {}, {} tensors",
                file.name,
                gigabytes(file.bytes),
                file.tensors
            )?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note        {note}"))
    }
}
