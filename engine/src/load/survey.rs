//! Compares what a checkpoint's headers hold with what its configuration demands: every tensor's name,
//! shape and dtype, before a byte of weights is read. Too much is refused like too little, by name.
//!
//! Draft heads are the exception: an `mtp.` block that is not V4's own is treated as absent, with a
//! note, because the model answers without it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hal::{DType, Encoding};

use super::folder::WeightFile;
use super::header::{Dtype, TensorEntry};
use super::names::{Block, Key, Part, is_draft, parse_name};
use crate::budget::{Ledger, Stored};
use crate::config::{
    Class, Demand, Leaf, ModelConfig, WeightFormat, layer_demands, mtp_demands, top_demands,
};
use crate::refusal::{Refusal, RefusalKind, shown};

/// Where a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: u32,
    pub(super) tensor: u32,
}

/// Leaves whose rows are loaded as one matrix, so that they must be stored alike.
const STACKS: [(Leaf, Leaf); 4] = [
    (Leaf::SharedGate, Leaf::SharedUp),
    (Leaf::ExpertGate, Leaf::ExpertUp),
    (Leaf::CompressValue, Leaf::CompressGate),
    (Leaf::IndexValue, Leaf::IndexGate),
];

/// What the comparison found, once it found nothing wrong.
pub(super) struct Survey {
    pub(super) places: HashMap<Key, Place>,
    pub(super) ledger: Ledger,
    pub(super) mtp_blocks: u32,
    pub(super) notes: Vec<String>,
}

pub(super) fn refuse(message: String) -> Refusal {
    Refusal::new(RefusalKind::Tensor, message)
}

/// Compares `files` with `config`.
pub(super) fn survey(config: &ModelConfig, files: &[WeightFile]) -> Result<Survey, Refusal> {
    let (places, strangers) = locate(files)?;
    let unclaimed = places.keys().copied().collect();
    let mut surveyor =
        Surveyor { config, files, places, unclaimed, ledger: Ledger::default(), missing: vec![] };
    surveyor.main_model()?;
    let mut notes = Vec::new();
    let mtp_blocks = surveyor.draft(strangers, &mut notes)?;
    let Surveyor { places, ledger, .. } = surveyor;
    Ok(Survey { places, ledger, mtp_blocks, notes })
}

/// The key of every tensor, and the names of draft heads that have none.
fn locate(files: &[WeightFile]) -> Result<(HashMap<Key, Place>, Vec<String>), Refusal> {
    let tensors = files.iter().map(|file| file.header.tensors.len()).sum();
    let mut places: HashMap<Key, Place> = HashMap::with_capacity(tensors);
    let mut strangers = Vec::new();
    for (file_index, file) in files.iter().enumerate() {
        for (tensor_index, entry) in file.header.tensors.iter().enumerate() {
            let name = || shown(&entry.name);
            let Some(key) = parse_name(&entry.name) else {
                if is_draft(&entry.name) {
                    strangers.push(name());
                    continue;
                }
                let file = shown(&file.name);
                return Err(refuse(format!(
                    "tensor {} in {file} belongs to no known model",
                    name()
                )));
            };
            let place = Place { file: file_index as u32, tensor: tensor_index as u32 };
            let Some(before) = places.insert(key, place) else { continue };
            let (one, other) = (&files[before.file as usize], shown(&file.name));
            let name = name();
            let twin = shown(&one.header.tensors[before.tensor as usize].name);
            return Err(refuse(match twin == name {
                true => format!("tensor {name} is in {} and in {other}", shown(&one.name)),
                false => format!("tensors {twin} and {name} are two spellings of one weight"),
            }));
        }
    }
    Ok((places, strangers))
}

struct Surveyor<'a> {
    config: &'a ModelConfig,
    files: &'a [WeightFile],
    places: HashMap<Key, Place>,
    /// Keys nobody demanded yet.
    unclaimed: BTreeSet<Key>,
    ledger: Ledger,
    /// Released names of demanded tensors that are not there.
    missing: Vec<String>,
}

impl<'a> Surveyor<'a> {
    fn main_model(&mut self) -> Result<(), Refusal> {
        let config = self.config;
        for demand in top_demands(config) {
            self.main_demand(Block::Top, &demand)?;
        }
        for (index, layer) in config.layers.iter().enumerate() {
            let block = Block::Main(index as u32);
            let demands = layer_demands(config, layer);
            for demand in self.spelled(block, demands) {
                self.main_demand(block, &demand)?;
            }
            self.check_stacks(block)?;
        }
        self.refuse_missing()?;
        let extra = self.unclaimed.iter().find(|key| !matches!(key.block, Block::Mtp(_)));
        extra.map_or(Ok(()), |key| Err(self.unexpected(key)))
    }

    fn main_demand(&mut self, block: Block, demand: &Demand) -> Result<(), Refusal> {
        if let Some(stored) = self.check(block, demand)? {
            self.ledger.add_main(self.config, demand, stored);
        }
        Ok(())
    }

    /// The demands of a block as its file spells the experts: one tensor for all of them, or one each.
    fn spelled(&self, block: Block, demands: Vec<Demand>) -> Vec<Demand> {
        let has =
            |leaf| self.places.contains_key(&Key { block, leaf, expert: 0, part: Part::Codes });
        let (gate_up, down) = (has(Leaf::FusedGateUp), has(Leaf::FusedDown));
        let spell = |demand: Demand| match demand.leaf {
            Leaf::ExpertGate if gate_up => {
                Some(Demand { leaf: Leaf::FusedGateUp, rows: 2 * demand.rows, ..demand })
            }
            Leaf::ExpertUp if gate_up => None,
            Leaf::ExpertDown if down => Some(Demand { leaf: Leaf::FusedDown, ..demand }),
            _ => Some(demand),
        };
        demands.into_iter().filter_map(spell).collect()
    }

    /// Checks one demand and claims its tensors. Nothing comes back if some are missing.
    fn check(&mut self, block: Block, demand: &Demand) -> Result<Option<Stored>, Refusal> {
        let fused = matches!(demand.leaf, Leaf::FusedGateUp | Leaf::FusedDown);
        let tensors = if fused { 1 } else { demand.copies };
        let mut total: Option<(Stored, Encoding)> = None;
        let mut complete = true;
        for expert in 0..tensors {
            let key = Key { block, leaf: demand.leaf, expert, part: Part::Codes };
            let Some((stored, encoding)) = self.check_tensor(key, demand, fused)? else {
                complete = false;
                continue;
            };
            match &mut total {
                None => total = Some((stored, encoding)),
                Some((_, first)) if *first != encoding => {
                    return Err(refuse(format!(
                        "tensor {key} is stored as {encoding}, others of its layer as {first}"
                    )));
                }
                Some((sum, _)) => {
                    sum.bytes += stored.bytes;
                    sum.scale_bytes += stored.scale_bytes;
                }
            }
        }
        Ok(total.filter(|_| complete).map(|(stored, _)| stored))
    }

    /// Checks one tensor and its scales.
    fn check_tensor(
        &mut self,
        key: Key,
        demand: &Demand,
        fused: bool,
    ) -> Result<Option<(Stored, Encoding)>, Refusal> {
        let Some(entry) = self.claim(key) else {
            self.missing.push(key.to_string());
            return Ok(None);
        };
        let encoding = allowed(self.config, demand.class, entry)?;
        let batch = fused.then_some(u64::from(demand.copies));
        let (rows, cols) = (u64::from(demand.rows), u64::from(demand.cols));
        let (codes, scales) = shapes(encoding, batch, rows, cols);
        if entry.shape != codes {
            return Err(refuse(format!(
                "tensor {} is {} {:?} but config.json asks for {codes:?}",
                shown(&entry.name),
                entry.dtype,
                entry.shape
            )));
        }
        let mut stored =
            Stored { dtype: entry.dtype.name(), bytes: size_of(entry), scale_bytes: 0 };
        let Some(scales) = scales else { return Ok(Some((stored, encoding))) };
        let key = Key { part: Part::Scales, ..key };
        let Some(entry) = self.claim(key) else {
            self.missing.push(key.to_string());
            return Ok(None);
        };
        if entry.dtype != Dtype::F8E8M0 || entry.shape != scales {
            return Err(refuse(format!(
                "tensor {} is {} {:?} but the scales of its weight are F8_E8M0 {scales:?}",
                shown(&entry.name),
                entry.dtype,
                entry.shape
            )));
        }
        stored.scale_bytes = size_of(entry);
        Ok(Some((stored, encoding)))
    }

    fn claim(&mut self, key: Key) -> Option<&'a TensorEntry> {
        let place = self.places.get(&key)?;
        self.unclaimed.remove(&key);
        Some(&self.files[place.file as usize].header.tensors[place.tensor as usize])
    }

    fn entry(&self, key: &Key) -> Option<&TensorEntry> {
        let place = self.places.get(key)?;
        Some(&self.files[place.file as usize].header.tensors[place.tensor as usize])
    }

    fn check_stacks(&self, block: Block) -> Result<(), Refusal> {
        for (first, second) in STACKS {
            let key = |leaf| Key { block, leaf, expert: 0, part: Part::Codes };
            let (Some(first), Some(second)) = (self.entry(&key(first)), self.entry(&key(second)))
            else {
                continue;
            };
            if first.dtype != second.dtype {
                return Err(refuse(format!(
                    "tensor {} is {} but {} is {}; store both alike",
                    shown(&first.name),
                    first.dtype,
                    shown(&second.name),
                    second.dtype
                )));
            }
        }
        Ok(())
    }

    fn refuse_missing(&mut self) -> Result<(), Refusal> {
        let others = match self.missing.len() {
            0 => return Ok(()),
            1 => String::new(),
            several => format!(" (and {} more)", several - 1),
        };
        Err(refuse(format!("tensor {} is missing{others}", self.missing[0])))
    }

    fn unexpected(&self, key: &Key) -> Refusal {
        let name = self.entry(key).map_or_else(|| key.to_string(), |entry| shown(&entry.name));
        let config = self.config;
        let why = match key.block {
            Block::Main(layer) if layer as usize >= config.layers.len() => {
                format!("config.json has {} layers", config.layers.len())
            }
            _ if key.part == Part::Scales => "its weight is not quantised".into(),
            _ if key.expert >= config.experts => {
                format!("config.json has {} experts", config.experts)
            }
            Block::Main(layer) => {
                let spec = &config.layers[layer as usize];
                let routing = if spec.hashed { "token id" } else { "score" };
                format!("layer {layer} is {} and routed by {routing}", spec.kind())
            }
            Block::Top | Block::Mtp(_) => "such a tensor belongs inside a layer".into(),
        };
        refuse(format!("tensor {name} is unexpected: {why}"))
    }

    /// The MTP blocks that are V4's own and complete: all that the configuration promises, or none.
    fn draft(&mut self, strangers: Vec<String>, notes: &mut Vec<String>) -> Result<u32, Refusal> {
        let copies = |key: &Key| matches!(key.leaf, Leaf::Embed | Leaf::Head);
        let (copied, draft): (Vec<Key>, Vec<Key>) =
            self.unclaimed.iter().copied().partition(|key| copies(key));
        if !copied.is_empty() {
            notes.push(format!("{} copies of embed and head under mtp. are ignored", copied.len()));
            self.places.retain(|key, _| !copied.contains(key));
            self.unclaimed.retain(|key| !copied.contains(key));
        }
        let promised = self.config.mtp_blocks;
        if draft.is_empty() && strangers.is_empty() {
            if promised > 0 {
                notes.push(format!(
                    "config.json promises {promised} MTP block(s); the files hold none"
                ));
            }
            return Ok(0);
        }
        let problem = match strangers.first() {
            Some(name) => Some(format!("tensor {name} is not an MTP block's")),
            None => self.mtp_blocks(promised).err().map(|refusal| refusal.to_string()),
        };
        let Some(problem) = problem else { return Ok(promised) };
        let tensors = draft.len() + strangers.len();
        notes.push(format!("a draft head of {tensors} tensors is treated as absent: {problem}"));
        self.places.retain(|key, _| !matches!(key.block, Block::Mtp(_)));
        (self.ledger.parameters_mtp, self.ledger.bytes_mtp) = (0, 0);
        Ok(0)
    }

    fn mtp_blocks(&mut self, blocks: u32) -> Result<(), Refusal> {
        for index in 0..blocks {
            let block = Block::Mtp(index);
            let demands = mtp_demands(self.config);
            for demand in self.spelled(block, demands) {
                if let Some(stored) = self.check(block, &demand)? {
                    self.ledger.add_mtp(&demand, stored);
                }
            }
            self.check_stacks(block)?;
        }
        self.refuse_missing()?;
        let extra = self.unclaimed.first();
        extra.map_or(Ok(()), |key| {
            Err(refuse(format!("tensor {key} is not part of {blocks} MTP block(s)")))
        })
    }
}

fn size_of(entry: &TensorEntry) -> u64 {
    (entry.end - entry.begin) as u64
}

/// Checks that `class` and the configuration allow a tensor's dtype; what comes back is its encoding.
fn allowed(config: &ModelConfig, class: Class, entry: &TensorEntry) -> Result<Encoding, Refusal> {
    let format = match class {
        Class::Dense => config.dense_format,
        Class::Expert => config.expert_format,
        Class::Matrix | Class::Vector | Class::Table => WeightFormat::Float,
    };
    let is_float = matches!(entry.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16);
    let (fits, want) = match (class, format) {
        (Class::Table, _) => (matches!(entry.dtype, Dtype::I64 | Dtype::I32), "I64 or I32"),
        (_, WeightFormat::Float) => (is_float, "BF16, F16 or F32"),
        (_, WeightFormat::Fp8 { .. }) => {
            (is_float || entry.dtype == Dtype::F8E4M3, "F8_E4M3 with scales, or BF16, F16 or F32")
        }
        (_, WeightFormat::Fp4 { .. }) => {
            (is_float || entry.dtype == Dtype::I8, "I8 (FP4) with scales, or BF16, F16 or F32")
        }
    };
    if fits {
        return Ok(encoding_of(config, entry.dtype));
    }
    let (name, dtype) = (shown(&entry.name), entry.dtype);
    Err(refuse(format!("tensor {name} is {dtype} but config.json asks for {want}")))
}

/// The HAL's encoding of a dtype in this checkpoint. Integers are read as i32 tables.
pub(super) fn encoding_of(config: &ModelConfig, dtype: Dtype) -> Encoding {
    match (dtype, config.dense_format, config.expert_format) {
        (Dtype::F32, ..) => Encoding::Plain(DType::F32),
        (Dtype::Bf16, ..) => Encoding::Plain(DType::Bf16),
        (Dtype::F16, ..) => Encoding::Plain(DType::F16),
        (Dtype::F8E4M3, WeightFormat::Fp8 { rows, cols }, _) => Encoding::Fp8Block { rows, cols },
        (Dtype::I8, _, WeightFormat::Fp4 { cols }) => Encoding::Fp4Block { cols },
        _ => Encoding::Plain(DType::I32),
    }
}

/// Shapes of the codes and, for quantised encodings, of the scales. `cols` is 0 for one dimension.
fn shapes(
    encoding: Encoding,
    batch: Option<u64>,
    rows: u64,
    cols: u64,
) -> (Vec<u64>, Option<Vec<u64>>) {
    let shape = |rows, cols| batch.into_iter().chain([rows, cols]).collect::<Vec<u64>>();
    match encoding {
        Encoding::Fp8Block { rows: r, cols: c } => {
            let scales = shape(rows.div_ceil(r.into()), cols.div_ceil(c.into()));
            (shape(rows, cols), Some(scales))
        }
        Encoding::Fp4Block { cols: c } => {
            (shape(rows, cols / 2), Some(shape(rows, cols.div_ceil(c.into()))))
        }
        _ if cols == 0 => (vec![rows], None),
        _ => (shape(rows, cols), None),
    }
}

/// Tensors and bytes by dtype, over all files.
pub(super) fn count_dtypes(files: &[WeightFile]) -> BTreeMap<&'static str, (u64, u64)> {
    let mut counts: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    for entry in files.iter().flat_map(|file| &file.header.tensors) {
        let count = counts.entry(entry.dtype.name()).or_default();
        count.0 += 1;
        count.1 += size_of(entry);
    }
    counts
}
