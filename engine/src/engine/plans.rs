//! Compiled plans of one model: one per step shape, one per number of logit rows. They share a
//! scratch arena and the step block's buffer, because they run one after the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hal::{
    Buffer, BufferDesc, CompileOptions, DType, Device, HostSlot, MemoryKind, Plan, Profile,
    Program, Queue, RowCodec, Shape, Tensor, WeightSpec, WeightSupport,
};

use super::ModelOptions;
use crate::budget::{KeyStorage, Need, StateBytes, require};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::experts::ExpertCounts;
use crate::limits::{HEAD_ROWS_MAX, PAGE_TOKENS, STEP_TIMEOUT_S};
use crate::load::Checkpoint;
use crate::model::Numerics;
use crate::model::cost::{Cost, cost};
use crate::model::emit::{self, Emission, StatePart, part_tensor};
use crate::model::params::Params;
use crate::state::geometry::parts;
use crate::state::{Capacity, RunView, StepBlock, StepLayout, StepShape};

/// How long one step may take.
const TIMEOUT: Duration = Duration::from_secs(STEP_TIMEOUT_S);

/// Refuses a model whose weights and state exceed the device's memory, before anything is loaded.
///
/// # Errors
/// `Memory`, with the figures.
pub fn budget(
    device: &dyn Device,
    checkpoint: &Checkpoint,
    options: &ModelOptions,
    capacity: &Capacity,
) -> Result<()> {
    let info = device.info();
    if info.memory_bytes == 0 {
        return Ok(());
    }
    let storage = match options.numerics {
        Numerics::Served => KeyStorage::Coded,
        Numerics::Plain => KeyStorage::F32,
    };
    let config = checkpoint.config();
    let context = u64::from(capacity.sequence_pages) * u64::from(PAGE_TOKENS);
    let weights = kept_bytes(device, checkpoint);
    let mut need = Need::new(config, weights, storage, (capacity.slots, context), capacity.rows);
    need.pages = u64::from(capacity.pages) * StateBytes::new(config, storage).page();
    Ok(require(&need, info.memory_bytes, &info.name)?)
}

/// Bytes of the weights in the encodings the device keeps them in.
fn kept_bytes(device: &dyn Device, checkpoint: &Checkpoint) -> u64 {
    let stored = checkpoint.inspection().size.bytes_main;
    checkpoint.quantised().fold(stored, |bytes, spec| match device.weight_support(&spec) {
        WeightSupport::Transcoded(encoding) => {
            let before = spec.size_bytes();
            (bytes + WeightSpec { encoding, ..spec }.size_bytes()).saturating_sub(before)
        }
        WeightSupport::Native | WeightSupport::Absent(_) => bytes,
    })
}

/// Plans and the memory they share.
pub struct Plans {
    device: Arc<dyn Device>,
    config: ModelConfig,
    options: ModelOptions,
    capacity: Capacity,
    params: Params,
    state: Vec<StatePart>,
    block: Buffer,
    streams: Tensor,
    /// What rows of a step chose, and how often each was chosen.
    picks: Option<(Tensor, Arc<ExpertCounts>)>,
    arena: Buffer,
    filler: StepBlock,
    steps: HashMap<StepShape, StepPlan>,
    heads: HashMap<u32, HeadPlan>,
}

struct StepPlan {
    plan: Arc<dyn Plan>,
    /// The ops that run, where they are timed.
    program: Option<Program>,
    layout: StepLayout,
    target: Tensor,
    slot: Option<HostSlot>,
    picks: Option<(Tensor, Option<HostSlot>)>,
}

struct HeadPlan {
    plan: Arc<dyn Plan>,
    program: Option<Program>,
    rows: Tensor,
    rows_slot: Option<HostSlot>,
    logits: Tensor,
    logits_slot: Option<HostSlot>,
}

fn alloc(device: &dyn Device, label: &str, size_bytes: u64) -> hal::Result<Buffer> {
    device.alloc(&BufferDesc { label, size_bytes: size_bytes.max(1), kind: MemoryKind::Device })
}

/// A plain contiguous tensor in memory of its own.
fn tensor(device: &dyn Device, label: &str, dims: &[u32], dtype: DType) -> hal::Result<Tensor> {
    let shape = Shape::new(dims);
    let buffer = alloc(device, label, shape.elements() * dtype.size_bytes())?;
    Tensor::new(buffer, 0, shape, dtype, RowCodec::Plain)
}

/// Where steps leave what their rows chose, and an empty count of it.
fn picks(
    device: &dyn Device,
    config: &ModelConfig,
    capacity: &Capacity,
) -> hal::Result<(Tensor, Arc<ExpertCounts>)> {
    let layers = config.layers.len() as u32;
    let dims = [layers * capacity.rows, config.experts_per_token];
    let counts = ExpertCounts::new(layers, config.experts);
    Ok((tensor(device, "chosen experts", &dims, DType::I32)?, Arc::new(counts)))
}

impl Plans {
    /// Allocates state, step block, streams and arena; compiles nothing yet but the largest step, to
    /// size the arena.
    pub fn new(
        device: &Arc<dyn Device>,
        config: &ModelConfig,
        options: &ModelOptions,
        capacity: Capacity,
        params: Params,
    ) -> Result<Self> {
        let mut state = Vec::new();
        for spec in parts(config, options.numerics, &capacity) {
            let label = format!("state {}.{:?}", spec.layer, spec.part);
            let buffer = alloc(&**device, &label, spec.size_bytes())?;
            state.push(StatePart { spec, tensor: part_tensor(buffer, &spec)? });
        }
        let largest = StepShape { rows: capacity.rows, sequences: capacity.slots };
        let layout = StepLayout::new(config, largest, &capacity);
        let activation = options.numerics.activation();
        let dims = [capacity.rows, config.streams * config.hidden];
        let mut plans = Plans {
            block: alloc(&**device, "step block", layout.size_bytes)?,
            streams: tensor(&**device, "streams", &dims, activation)?,
            picks: options
                .count_experts
                .then(|| picks(&**device, config, &capacity))
                .transpose()?,
            arena: alloc(&**device, "arena", 1)?,
            device: Arc::clone(device),
            filler: StepBlock::new(config),
            config: config.clone(),
            options: options.clone(),
            capacity,
            params,
            state,
            steps: HashMap::new(),
            heads: HashMap::new(),
        };
        let program = emit::step(&plans.emission(), &layout)?;
        let bytes = program.lower(&|op| device.supports(op))?.arena_bytes();
        plans.arena = alloc(&**device, "arena", bytes)?;
        Ok(plans)
    }

    /// What the device made of weights it does not keep as they are.
    pub fn transcoded(&self) -> &[String] {
        &self.params.transcoded
    }

    /// The state's buffers.
    pub fn state(&self) -> &[StatePart] {
        &self.state
    }

    fn emission(&self) -> Emission<'_> {
        Emission {
            config: &self.config,
            numerics: self.options.numerics,
            capacity: &self.capacity,
            params: &self.params,
            state: &self.state,
            block: &self.block,
            streams: &self.streams,
            picks: self.picks.as_ref().map(|(picks, _)| picks),
        }
    }

    /// How often each expert was chosen, if that is counted.
    pub fn expert_counts(&self) -> Option<&Arc<ExpertCounts>> {
        self.picks.as_ref().map(|(_, counts)| counts)
    }

    /// Plans there are.
    pub fn count(&self) -> usize {
        self.steps.len() + self.heads.len()
    }

    fn compile(&self, program: &Program, label: String) -> Result<(Arc<dyn Plan>, Program)> {
        let device = &*self.device;
        let lowered = program.lower(&|op| device.supports(op))?;
        let own;
        let arena = match &self.arena {
            Buffer::Real(raw) if raw.size_bytes() >= lowered.arena_bytes() => &self.arena,
            _ => {
                own = alloc(device, &label, lowered.arena_bytes())?;
                &own
            }
        };
        let options =
            CompileOptions { label, mode: self.options.mode, profile: self.options.profile };
        let bound = lowered.bind(arena)?;
        Ok((device.compile(&bound, &options)?, bound))
    }

    /// Compiles the plan of a shape, if it is not there yet.
    pub fn step(&mut self, shape: StepShape) -> Result<()> {
        if self.steps.contains_key(&shape) {
            return Ok(());
        }
        let layout = StepLayout::new(&self.config, shape, &self.capacity);
        let program = emit::step(&self.emission(), &layout)?;
        let label = format!("step of {} rows, {} sequences", shape.rows, shape.sequences);
        let (plan, program) = self.compile(&program, label)?;
        let program = (self.options.profile == Profile::Ops).then_some(program);
        let bytes = Shape::new(&[1, layout.size_bytes as u32]);
        let target = Tensor::new(self.block.clone(), 0, bytes, DType::U8, RowCodec::Plain)?;
        let slot = Some(self.device.host_slot(layout.size_bytes)?);
        let picks = match &self.picks {
            None => None,
            Some((all, _)) => {
                let own = all.row_range(0, self.config.layers.len() as u32 * shape.rows);
                let bytes = own.shape().elements() * 4;
                Some((own, Some(self.device.host_slot(bytes)?)))
            }
        };
        self.steps.insert(shape, StepPlan { plan, program, layout, target, slot, picks });
        Ok(())
    }

    /// Compiles the head of so many rows, if it is not there yet.
    pub fn head(&mut self, rows: u32) -> Result<()> {
        if self.heads.contains_key(&rows) {
            return Ok(());
        }
        let device = &*self.device;
        let list = tensor(device, "logit rows", &[rows, 1], DType::I32)?;
        let logits = tensor(device, "logits", &[rows, self.config.vocab], DType::F32)?;
        let program = emit::head(&self.emission(), &list, &logits)?;
        let (plan, program) = self.compile(&program, format!("head of {rows} rows"))?;
        let program = (self.options.profile == Profile::Ops).then_some(program);
        let rows_slot = Some(device.host_slot(u64::from(rows) * 4)?);
        let logits_slot = Some(device.host_slot(logits.shape().elements() * 4)?);
        let head = HeadPlan { plan, program, rows: list, rows_slot, logits, logits_slot };
        self.heads.insert(rows, head);
        Ok(())
    }

    /// What one step and its head cost, by op; empty if ops are not timed.
    pub fn costs(&self, shape: StepShape, heads: u32, depth: u32) -> BTreeMap<&'static str, Cost> {
        let step = self.steps.get(&shape).and_then(|step| step.program.as_ref());
        let head = self.heads.get(&heads).and_then(|head| head.program.as_ref());
        let mut costs = BTreeMap::new();
        for node in step.into_iter().chain(head).flat_map(Program::nodes) {
            *costs.entry(node.op.name()).or_insert_with(Cost::default) += cost(&node.op, depth);
        }
        costs
    }

    /// Runs one step, whose first `rows` rows are real; returns when it is done.
    pub fn run_step<'a>(
        &mut self,
        queue: &dyn Queue,
        shape: StepShape,
        rows: u32,
        runs: impl Iterator<Item = RunView<'a>>,
    ) -> Result<()> {
        self.step(shape)?;
        let step = self.steps.get_mut(&shape).expect("compiled above");
        let mut slot = take(&mut step.slot)?;
        self.filler.fill(&self.config, &step.layout, &self.capacity, runs, slot.bytes_mut());
        let uploaded = queue.upload(&step.target, slot, &[])?;
        let mut done = queue.submit(&step.plan, &[])?;
        if let Some((picks, slot)) = &mut step.picks {
            done = queue.download(picks, take(slot)?, &[])?;
        }
        queue.wait(&done, TIMEOUT)?;
        step.slot = Some(queue.reclaim(&uploaded)?);
        if let (Some((_, slot)), Some((_, counts))) = (&mut step.picks, &self.picks) {
            let chosen = queue.reclaim(&done)?;
            let row_bytes = self.config.experts_per_token as usize * 4;
            let layers = chosen.bytes().chunks_exact(shape.rows as usize * row_bytes);
            for (layer, ids) in layers.take(self.config.layers.len()).enumerate() {
                counts.add(layer, &ids[..rows as usize * row_bytes]);
            }
            *slot = Some(chosen);
        }
        Ok(())
    }

    /// Appends the logits of `rows` of the last step's streams to `out`.
    pub fn run_head(&mut self, queue: &dyn Queue, rows: &[u32], out: &mut Vec<f32>) -> Result<()> {
        for piece in rows.chunks(HEAD_ROWS_MAX as usize) {
            let rung = (piece.len() as u32).next_power_of_two();
            self.head(rung)?;
            let head = self.heads.get_mut(&rung).expect("compiled above");
            let mut list = take(&mut head.rows_slot)?;
            let padded = piece.iter().map(|&row| row as i32).chain(std::iter::repeat(-1));
            for (place, row) in list.bytes_mut().chunks_exact_mut(4).zip(padded) {
                place.copy_from_slice(&row.to_le_bytes());
            }
            let uploaded = queue.upload(&head.rows, list, &[])?;
            queue.submit(&head.plan, &[])?;
            let slot = take(&mut head.logits_slot)?;
            let done = queue.download(&head.logits, slot, &[])?;
            queue.wait(&done, TIMEOUT)?;
            head.rows_slot = Some(queue.reclaim(&uploaded)?);
            let slot = queue.reclaim(&done)?;
            let wanted = piece.len() * self.config.vocab as usize * 4;
            let values = slot.bytes()[..wanted].chunks_exact(4);
            out.extend(values.map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]])));
            head.logits_slot = Some(slot);
        }
        Ok(())
    }
}

/// The slot, which is only missing if a transfer failed on the way.
fn take(slot: &mut Option<HostSlot>) -> Result<HostSlot> {
    slot.take().ok_or_else(|| {
        Error::Device(hal::Error::device_lost("an earlier transfer failed; open the model again"))
    })
}
