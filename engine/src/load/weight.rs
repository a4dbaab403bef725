//! Weights as the HAL takes them: which tensors of a checkpoint, stacked by rows, make one matrix of
//! the op program. Bytes are lent in place from the mapped file; nothing is copied or converted here.
//! Scales are looked through once for NaN, because one of them silently poisons a whole row.

use hal::{Encoding, SharedBytes, WeightPart, WeightSegment, WeightSource, WeightSpec};

use super::Checkpoint;
use super::header::TensorEntry;
use super::names::{Block, Key, Part};
use super::survey::{encoding_of, refuse};
use super::synthetic::SyntheticWeight;
use crate::config::{Leaf, ModelConfig};
use crate::refusal::{Refusal, RefusalKind, shown};

/// E8M0's NaN.
const SCALE_NAN: u8 = 255;

/// A matrix of the op program and the tensors it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A tensor of its own: `[rows, cols]` as stored.
    One(Leaf),
    /// `wo_a`: one matrix `[o_rank, group_width]` per group of heads.
    OutDown,
    /// Compressor: value rows, then gate rows.
    Compress,
    /// Indexer's compressor: value rows, then gate rows.
    IndexCompress,
    /// Shared expert: gate rows, then up rows.
    SharedGateUp,
    /// Routed experts, one group each: gate rows, then up rows.
    ExpertsGateUp,
    /// Routed experts' down matrices, one group each.
    ExpertsDown,
}

impl Role {
    /// The stacked leaves, first rows first.
    pub(super) fn leaves(self) -> &'static [Leaf] {
        match self {
            Role::One(leaf) => {
                let place = Leaf::ALL.iter().position(|other| *other == leaf);
                let place = place.expect("ALL holds every leaf");
                &Leaf::ALL[place..=place]
            }
            Role::OutDown => &[Leaf::OutDown],
            Role::Compress => &[Leaf::CompressValue, Leaf::CompressGate],
            Role::IndexCompress => &[Leaf::IndexValue, Leaf::IndexGate],
            Role::SharedGateUp => &[Leaf::SharedGate, Leaf::SharedUp],
            Role::ExpertsGateUp => &[Leaf::ExpertGate, Leaf::ExpertUp],
            Role::ExpertsDown => &[Leaf::ExpertDown],
        }
    }

    fn fused(self) -> Option<Leaf> {
        match self {
            Role::ExpertsGateUp => Some(Leaf::FusedGateUp),
            Role::ExpertsDown => Some(Leaf::FusedDown),
            _ => None,
        }
    }

    pub(super) fn groups(self, config: &ModelConfig) -> u32 {
        match self {
            Role::OutDown => config.o_groups,
            Role::ExpertsGateUp | Role::ExpertsDown => config.experts,
            _ => 1,
        }
    }

    /// The name of the matrix in reports: the released name, without a `.weight`.
    pub fn name(self) -> &'static str {
        match self {
            Role::One(leaf) => leaf.name().strip_suffix(".weight").unwrap_or(leaf.name()),
            Role::OutDown => "attn.wo_a",
            Role::Compress => "attn.compressor.wkv_wgate",
            Role::IndexCompress => "attn.indexer.compressor.wkv_wgate",
            Role::SharedGateUp => "ffn.shared_experts.w1_w3",
            Role::ExpertsGateUp => "ffn.experts.w1_w3",
            Role::ExpertsDown => "ffn.experts.w2",
        }
    }
}

/// A weight of a checkpoint: its specification and its bytes in place.
#[derive(Clone, Debug)]
pub struct CheckpointWeight {
    spec: WeightSpec,
    segments: Vec<WeightSegment>,
}

impl CheckpointWeight {
    /// Its segments, first rows first.
    pub fn segments(&self) -> &[WeightSegment] {
        &self.segments
    }
}

impl WeightSource for CheckpointWeight {
    fn spec(&self) -> &WeightSpec {
        &self.spec
    }

    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> hal::Result<()> {
        let segment = &self.segments[segment as usize];
        match (part, &segment.scales) {
            (WeightPart::Codes, _) => out.copy_from_slice(segment.codes.bytes()),
            (WeightPart::Scales, Some(scales)) => out.copy_from_slice(scales.bytes()),
            (WeightPart::Scales, None) => assert!(out.is_empty(), "plain weights have no scales"),
        }
        Ok(())
    }

    fn lend(&self) -> Option<Vec<WeightSegment>> {
        Some(self.segments.clone())
    }
}

/// A weight of a model: from a file, or noise.
#[derive(Clone, Debug)]
pub enum AnyWeight {
    /// From a file.
    Stored(CheckpointWeight),
    /// Noise.
    Synthetic(SyntheticWeight),
}

impl AnyWeight {
    fn source(&self) -> &dyn WeightSource {
        match self {
            AnyWeight::Stored(weight) => weight,
            AnyWeight::Synthetic(weight) => weight,
        }
    }
}

impl WeightSource for AnyWeight {
    fn spec(&self) -> &WeightSpec {
        self.source().spec()
    }

    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> hal::Result<()> {
        match self {
            AnyWeight::Stored(weight) => weight.read(segment, part, out),
            AnyWeight::Synthetic(weight) => weight.read(segment, part, out),
        }
    }

    fn lend(&self) -> Option<Vec<WeightSegment>> {
        self.source().lend()
    }

    fn noise(&self, segment: u32, part: WeightPart) -> Option<hal::Noise> {
        self.source().noise(segment, part)
    }
}

impl Checkpoint {
    /// One matrix of the op program; of a stored model its bytes in place.
    ///
    /// # Errors
    /// `Tensor` if the model has no such matrix (the wrong block or kind of layer), `Value` if a scale
    /// is NaN.
    pub fn any_weight(&self, block: Block, role: Role) -> Result<AnyWeight, Refusal> {
        match self.synthetic {
            true => self.synthetic_weight(block, role).map(AnyWeight::Synthetic),
            false => self.weight(block, role).map(AnyWeight::Stored),
        }
    }

    /// One matrix of a stored model, its bytes in place.
    ///
    /// # Errors
    /// As [`Checkpoint::any_weight`]; a synthetic model has no bytes in place.
    pub fn weight(&self, block: Block, role: Role) -> Result<CheckpointWeight, Refusal> {
        let key = |leaf, expert| Key { block, leaf, expert, part: Part::Codes };
        let groups = role.groups(&self.config);
        let fused = role.fused().map(|leaf| key(leaf, 0)).filter(|key| self.has(key));
        let mut stack = Stack { checkpoint: self, segments: vec![], form: None };
        match (fused, role) {
            (Some(key), _) => stack.push(key, groups)?,
            (None, Role::ExpertsGateUp | Role::ExpertsDown) => {
                for expert in 0..groups {
                    for leaf in role.leaves() {
                        stack.push(key(*leaf, expert), 1)?;
                    }
                }
            }
            (None, _) => {
                for leaf in role.leaves() {
                    stack.push(key(*leaf, 0), 1)?;
                }
            }
        }
        let Stack { segments, form, .. } = stack;
        let form = form.expect("every role has a leaf");
        let rows = form.rows as usize * segments.len() / groups as usize;
        let spec = WeightSpec {
            name: format!("{block}{}", role.name()).into(),
            groups,
            rows: rows as u32,
            cols: form.cols,
            segment_rows: form.rows,
            encoding: form.encoding,
        };
        Ok(CheckpointWeight { spec, segments })
    }
}

impl Checkpoint {
    /// What the quantised matrices of the main layers are, tensor by tensor, from the headers alone.
    /// Whatever is stacked when it is loaded, their bytes add up.
    pub fn quantised(&self) -> impl Iterator<Item = WeightSpec> + '_ {
        let main = |key: &&Key| key.part == Part::Codes && !matches!(key.block, Block::Mtp(_));
        self.places.keys().filter(main).filter_map(|key| {
            let (_, entry) = self.entry(key).ok()?;
            let encoding = encoding_of(&self.config, entry.dtype);
            if matches!(encoding, Encoding::Plain(_)) {
                return None;
            }
            let Form { rows, cols, encoding } = form(entry, encoding);
            let batch = &entry.shape[..entry.shape.len().saturating_sub(2)];
            let groups = batch.iter().product::<u64>() as u32;
            let name = entry.name.as_str().into();
            Some(WeightSpec { name, groups, rows, cols, segment_rows: rows, encoding })
        })
    }
}

/// What all segments of a weight have in common.
#[derive(Clone, Copy, PartialEq)]
struct Form {
    rows: u32,
    cols: u32,
    encoding: Encoding,
}

/// Segments being stacked.
struct Stack<'a> {
    checkpoint: &'a Checkpoint,
    segments: Vec<WeightSegment>,
    form: Option<Form>,
}

impl Stack<'_> {
    /// Adds a tensor as `parts` segments of equal size.
    fn push(&mut self, key: Key, parts: u32) -> Result<(), Refusal> {
        let checkpoint = self.checkpoint;
        let (file, entry) = checkpoint.entry(&key)?;
        let encoding = encoding_of(&checkpoint.config, entry.dtype);
        let form = form(entry, encoding);
        if *self.form.get_or_insert(form) != form {
            let name = shown(&entry.name);
            return Err(refuse(format!(
                "tensor {name} differs in form from those it is stacked with"
            )));
        }
        let scales = match encoding {
            Encoding::Plain(_) => None,
            _ => {
                let (file, scales) = checkpoint.entry(&Key { part: Part::Scales, ..key })?;
                let bytes = &checkpoint.files[file].owner.bytes()[scales.begin..scales.end];
                check_scales(&scales.name, bytes)?;
                Some((file, scales))
            }
        };
        let share = |file: usize, entry: &TensorEntry, part: usize| {
            let bytes = (entry.end - entry.begin) / parts as usize;
            let begin = entry.begin + part * bytes;
            SharedBytes::new(checkpoint.files[file].owner.clone(), begin..begin + bytes)
        };
        self.segments.extend((0..parts as usize).map(|part| WeightSegment {
            codes: share(file, entry, part),
            scales: scales.map(|(file, scales)| share(file, scales, part)),
        }));
        Ok(())
    }
}

/// Rows and columns of the matrices in a tensor, which may have a leading batch dimension. The survey
/// compared shapes with the configuration, whose numbers fit.
fn form(entry: &TensorEntry, encoding: Encoding) -> Form {
    let fit = |dimension: u64| u32::try_from(dimension).expect("the survey saw this shape");
    let (rows, cols) = match entry.shape.as_slice() {
        [.., rows, cols] => (fit(*rows), fit(*cols)),
        [rows] => (fit(*rows), 1),
        [] => (1, 1),
    };
    let packed = matches!(encoding, Encoding::Fp4Block { .. });
    Form { rows, cols: if packed { 2 * cols } else { cols }, encoding }
}

/// Refuses NaN among E8M0 scales.
fn check_scales(name: &str, scales: &[u8]) -> Result<(), Refusal> {
    // The maximum of a block compiles to vector instructions, where a search for a byte does not.
    const BLOCK: usize = 4096;
    let largest = |block: &[u8]| block.iter().fold(0, |most: u8, &scale| most.max(scale));
    let Some(block) = scales.chunks(BLOCK).position(|block| largest(block) == SCALE_NAN) else {
        return Ok(());
    };
    let inside = scales[block * BLOCK..].iter().position(|&scale| scale == SCALE_NAN);
    let place = block * BLOCK + inside.expect("this block holds one");
    let name = shown(name);
    Err(Refusal::new(
        RefusalKind::Value,
        format!("tensor {name} holds a NaN scale at place {place}; the file is damaged"),
    ))
}
