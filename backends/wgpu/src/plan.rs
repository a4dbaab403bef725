//! Plans: a program resolved to pipelines and bind groups, made once; a submission encodes them.

use std::any::Any;
use std::sync::Arc;

use hal::{CompileOptions, Error, Node, OpEvent, Plan, PlanStats, Profile, Program, Result, Site};

use crate::fit::fit;
use crate::launch::{BINDING_ALIGN_BYTES, Launch, Number, Operand, Place};
use crate::memory::{Counted, buffer_of, padded};
use crate::shared::Shared;
use crate::table;
use crate::weight::raw_of;

/// Workgroups along one dimension of a grid, in WebGPU's default limits.
const GRID_MAX: u64 = 65_535;
/// Timestamps of one query set.
const QUERIES_MAX: u32 = wgpu::QUERY_SET_MAX_QUERIES;

/// A launch, ready to encode.
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 2],
}

/// The launches of one op.
struct Step {
    site: Site,
    kernel: &'static str,
    dispatches: Vec<Dispatch>,
}

/// A compiled program.
pub(crate) struct WgpuPlan {
    label: String,
    /// Keeps buffers and weights alive, and counted, as long as the plan.
    _program: Program,
    steps: Vec<Step>,
    launches: u32,
    numbers: Counted,
    profiler: Option<Profiler>,
}

impl WgpuPlan {
    pub(crate) fn compile(
        shared: &Arc<Shared>,
        program: &Program,
        options: &CompileOptions,
    ) -> Result<WgpuPlan> {
        let mut recorded = Vec::with_capacity(program.nodes().len());
        for node in program.nodes() {
            check_memory(node).map_err(|error| error.context(place(node)))?;
            let entry = table::entry(&node.op)
                .ok_or_else(|| Error::unsupported(format!("{}: no kernel", place(node))))?;
            let mut launches = (entry.record)(&node.op);
            launches.retain(|launch| launch.groups > 0);
            let mut fits = launches.iter_mut().map(|launch| fit(launch, &shared.bounds));
            fits.try_for_each(|fits| fits.map_err(|error| error.context(place(node))))?;
            recorded.push((entry.kernel, launches));
        }
        let numbers = numbers_of(shared, &options.label, &recorded)?;
        let mut steps = Vec::with_capacity(recorded.len());
        let mut offset = 0;
        let mut count = 0;
        for (node, (kernel, launches)) in program.nodes().iter().zip(&recorded) {
            let mut dispatches = Vec::with_capacity(launches.len());
            for launch in launches {
                let dispatch = dispatch(shared, launch, &numbers, offset);
                dispatches.push(dispatch.map_err(|error| error.context(place(node)))?);
                offset += block_bytes(launch);
                count += 1;
            }
            steps.push(Step { site: node.site, kernel, dispatches });
        }
        let wanted = options.profile == Profile::Ops && shared.timestamps && shared.sink.is_some();
        Ok(WgpuPlan {
            label: options.label.clone(),
            _program: program.clone(),
            profiler: wanted.then(|| Profiler::new(shared, steps.len())),
            steps,
            launches: count,
            numbers: Counted::new(numbers.size(), &shared.ledger),
        })
    }

    /// The commands of one submission, open for more.
    pub(crate) fn encode(&self, shared: &Shared) -> wgpu::CommandEncoder {
        let label = wgpu::CommandEncoderDescriptor { label: Some(&self.label) };
        let mut encoder = shared.device.create_command_encoder(&label);
        match &self.profiler {
            Some(profiler) => {
                for (place, step) in self.steps.iter().enumerate() {
                    let mut pass = profiler.pass(&mut encoder, place, step.kernel);
                    step.dispatches.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                }
            }
            None => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for step in &self.steps {
                    step.dispatches.iter().for_each(|dispatch| dispatch.encode(&mut pass));
                }
            }
        }
        if let Some(profiler) = &self.profiler {
            profiler.resolve(&mut encoder);
        }
        encoder
    }

    /// Where the times of a submission are read from, if it measures.
    pub(crate) fn times(&self) -> Option<&wgpu::Buffer> {
        self.profiler.as_ref().map(|profiler| &profiler.times)
    }

    /// Ops of the program.
    pub(crate) fn ops(&self) -> u64 {
        self.steps.len() as u64
    }

    /// The events in a submission's times.
    pub(crate) fn events(&self, times: &[u8], period_ns: f32) -> Vec<OpEvent> {
        let tick = |place: usize| {
            let bytes = times[8 * place..8 * place + 8].try_into().expect("8 bytes of a slice");
            (u64::from_le_bytes(bytes) as f64 * f64::from(period_ns)) as u64
        };
        let event = |(place, step): (usize, &Step)| OpEvent {
            site: step.site,
            op: step.kernel,
            begin_ns: tick(2 * place),
            end_ns: tick(2 * place + 1),
        };
        self.steps.iter().enumerate().map(event).collect()
    }
}

impl Dispatch {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}

impl Plan for WgpuPlan {
    fn stats(&self) -> PlanStats {
        PlanStats { launches: self.launches, workspace_bytes: self.numbers.bytes() }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn place(node: &Node) -> String {
    format!("{} {}", node.site, node.op.name())
}

/// Every operand lies on this kind of device.
fn check_memory(node: &Node) -> Result<()> {
    let mut fault = Ok(());
    node.op.operands(&mut |_, tensor| {
        if fault.is_ok() {
            fault = buffer_of(tensor).map(|_| ());
        }
    });
    node.op.weights(&mut |weight| {
        if fault.is_ok() {
            fault = raw_of(weight).map(|_| ());
        }
    });
    fault
}

/// Bytes of a launch's block of numbers, with its padding.
fn block_bytes(launch: &Launch) -> u64 {
    (4 * launch.numbers.len() as u64).next_multiple_of(BINDING_ALIGN_BYTES)
}

/// The numbers of all launches, a block each.
fn numbers_of(
    shared: &Shared,
    label: &str,
    recorded: &[(&'static str, Vec<Launch>)],
) -> Result<wgpu::Buffer> {
    let launches = || recorded.iter().flat_map(|(_, launches)| launches);
    let mut bytes = Vec::new();
    for launch in launches() {
        let end = bytes.len() as u64 + block_bytes(launch);
        for (_, number) in &launch.numbers {
            bytes.extend_from_slice(&match number {
                Number::Whole(number) => number.to_le_bytes(),
                Number::Real(number) => number.to_le_bytes(),
            });
        }
        bytes.resize(end as usize, 0);
    }
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let buffer = shared.raw_buffer(label, padded(bytes.len() as u64), usage)?;
    shared.queue.write_buffer(&buffer, 0, &bytes);
    Ok(buffer)
}

/// Encodes a launch that belongs to no plan.
///
/// # Errors
/// As compiling a plan.
pub(crate) fn encode_one(
    shared: &Shared,
    launch: &Launch,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let mut launch = launch.clone();
    fit(&mut launch, &shared.bounds)?;
    let recorded = [(launch.kernel, vec![launch])];
    let numbers = numbers_of(shared, recorded[0].0, &recorded)?;
    let dispatch = dispatch(shared, &recorded[0].1[0], &numbers, 0)?;
    dispatch.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
    Ok(())
}

fn dispatch(
    shared: &Shared,
    launch: &Launch,
    numbers: &wgpu::Buffer,
    offset: u64,
) -> Result<Dispatch> {
    let pipeline = shared.pipeline(launch)?;
    let rows = launch.groups.div_ceil(GRID_MAX);
    if rows > GRID_MAX {
        let text = format!("{} workgroups of {} are too many", launch.groups, launch.kernel);
        return Err(Error::unsupported(text));
    }
    let size = 4 * launch.numbers.len() as u64;
    let mut entries = vec![wgpu::BindGroupEntry {
        binding: 0,
        resource: binding(numbers, offset, size.next_multiple_of(16)),
    }];
    for operand in &launch.operands {
        let buffer = buffer_behind(operand)?;
        for window in operand.windows() {
            let resource = binding(buffer, window.offset, window.size);
            entries.push(wgpu::BindGroupEntry { binding: entries.len() as u32, resource });
        }
    }
    let layout = shared.layout(launch.bindings());
    let group = shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(launch.kernel),
        layout: &layout.group,
        entries: &entries,
    });
    shared.alive()?;
    Ok(Dispatch { pipeline, group, grid: [launch.groups.div_ceil(rows) as u32, rows as u32] })
}

fn binding(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
        buffer,
        offset,
        size: std::num::NonZeroU64::new(size),
    })
}

/// The buffer an operand lies in.
fn buffer_behind(operand: &Operand) -> Result<&wgpu::Buffer> {
    match &operand.place {
        Place::Whole(buffer) => Ok(buffer),
        Place::Tensor(tensor) => Ok(buffer_of(tensor)?.raw()),
    }
}

/// Two timestamps an op, and where they are resolved to.
struct Profiler {
    sets: Vec<wgpu::QuerySet>,
    times: wgpu::Buffer,
    count: u32,
}

impl Profiler {
    fn new(shared: &Shared, ops: usize) -> Profiler {
        let count = 2 * ops as u32;
        let set = |first: u32| {
            shared.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: QUERIES_MAX.min(count - first),
            })
        };
        let sets = (0..count).step_by(QUERIES_MAX as usize).map(set).collect();
        let times = shared.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("times"),
            size: 8 * u64::from(count.max(1)),
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Profiler { sets, times, count }
    }

    /// A pass of one op, between its timestamps.
    fn pass<'a>(
        &self,
        encoder: &'a mut wgpu::CommandEncoder,
        place: usize,
        kernel: &str,
    ) -> wgpu::ComputePass<'a> {
        let first = 2 * place as u32;
        let begin = first % QUERIES_MAX;
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(kernel),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.sets[(first / QUERIES_MAX) as usize],
                beginning_of_pass_write_index: Some(begin),
                end_of_pass_write_index: Some(begin + 1),
            }),
        })
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        for (place, set) in self.sets.iter().enumerate() {
            let first = place as u32 * QUERIES_MAX;
            let count = QUERIES_MAX.min(self.count - first);
            encoder.resolve_query_set(set, 0..count, &self.times, 8 * u64::from(first));
        }
    }
}
