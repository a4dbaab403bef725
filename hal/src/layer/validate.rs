//! The layer that distrusts: it checks again what `hal` checked, and makes unwritten reads visible.
//!
//! Before each submission it fills with 0xff every byte the plan writes before reading (scratch, as
//! a rule): NaN in every float type, NaN as a scale, -1 ("absent") as an index. A kernel that leaves
//! part of its output out, or an op that reads what nobody wrote, then shows in the results.
//!
//! It refuses programs with unplaced temporaries, unsupported ops, operands past the end of their
//! buffer or over the device's limits; strided transfers; points nobody has sent.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{PATIENCE, bytes_of, chunks, lock, own};
use crate::device::{
    BufferDesc, CompileOptions, Device, DeviceInfo, HostSlot, Limits, MemoryKind, MemoryReport,
    Plan, PlanStats, Point, Queue, QueueKind, check_transfer,
};
use crate::error::{Error, Result};
use crate::op::{Access, Op};
use crate::program::{Node, Program};
use crate::tensor::{Buffer, Tensor};
use crate::weight::{SharedBytes, Weight, WeightSource, WeightSpec, WeightSupport};

/// Byte that is NaN in every float format and -1 in every integer.
const POISON: u8 = 0xff;

/// What freshly allocated memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// Zeros, as the contract of `alloc` says.
    Zeroed,
    /// Poison: for engines that claim to write all state before they read it.
    Poisoned,
}

/// The layer. See the module's text.
pub struct Validate {
    inner: Arc<dyn Device>,
    fresh: Fresh,
    /// Newest point of each queue.
    sent: Arc<Mutex<HashMap<u32, u64>>>,
}

impl Validate {
    /// Puts the layer around `inner`.
    pub fn wrap(inner: Arc<dyn Device>, fresh: Fresh) -> Arc<dyn Device> {
        Arc::new(Validate { inner, fresh, sent: Arc::default() })
    }

    fn check(&self, node: &Node) -> Result<()> {
        node.op.check()?;
        if !self.inner.supports(&node.op) {
            return Err(Error::invalid("the device does not support this op"));
        }
        let limits = self.inner.limits();
        let mut bindings = 0;
        let mut fault = None;
        node.op.weights(&mut |_| bindings += 2);
        node.op.operands(&mut |_, tensor| {
            bindings += 1;
            fault = fault.take().or_else(|| out_of_place(tensor, limits));
        });
        if let Some(fault) = fault {
            return Err(Error::invalid(fault));
        }
        // A fused op a device lists may have more: the device said it can.
        if node.op.is_primitive() && bindings > limits.bindings_max {
            return Err(Error::invalid(format!(
                "{bindings} bindings, the device has {}",
                limits.bindings_max
            )));
        }
        Ok(())
    }
}

/// What is wrong with where a tensor lies.
fn out_of_place(tensor: &Tensor, limits: &Limits) -> Option<String> {
    let Buffer::Real(raw) = tensor.buffer() else {
        return Some(format!("{tensor:?} is an unplaced temporary"));
    };
    let span = tensor.end_bytes() - tensor.offset_bytes();
    if tensor.end_bytes() > raw.size_bytes() {
        return Some(format!("{tensor:?} leaves its buffer of {} bytes", raw.size_bytes()));
    }
    (span > limits.binding_bytes_max)
        .then(|| format!("{tensor:?} spans {span} bytes, at most {}", limits.binding_bytes_max))
}

impl Device for Validate {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }
    fn supports(&self, op: &Op) -> bool {
        self.inner.supports(op)
    }
    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport {
        self.inner.weight_support(spec)
    }
    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        let buffer = self.inner.alloc(desc)?;
        if self.fresh == Fresh::Poisoned && desc.kind == MemoryKind::Device {
            let queue = self.inner.queue(QueueKind::Transfer)?;
            poison(&*self.inner, &*queue, &buffer, (0, desc.size_bytes), &[])?;
        }
        Ok(buffer)
    }
    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        self.inner.constant(label, bytes)
    }
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        let spec = source.spec();
        let rows = u64::from(spec.groups) * u64::from(spec.rows);
        if spec.segment_rows == 0 || !rows.is_multiple_of(u64::from(spec.segment_rows)) {
            return Err(Error::invalid(format!(
                "weight {}: segments of {} rows do not divide {rows}",
                spec.name, spec.segment_rows
            )));
        }
        self.inner.load_weight(source)
    }
    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        for (place, node) in program.nodes().iter().enumerate() {
            let at = || format!("validate: op {place} ({} {})", node.site, node.op.name());
            self.check(node).map_err(|error| error.context(at()))?;
        }
        let inner = self.inner.compile(program, options)?;
        Ok(Arc::new(ValidPlan { inner, dead: dead_ranges(program) }))
    }
    fn queue(&self, kind: QueueKind) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(ValidQueue {
            inner: self.inner.queue(kind)?,
            device: Arc::clone(&self.inner),
            sent: Arc::clone(&self.sent),
        }))
    }
    fn host_slot(&self, bytes: u64) -> Result<HostSlot> {
        self.inner.host_slot(bytes)
    }
    fn settle(&self) {
        self.inner.settle();
    }
    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }
    fn arithmetic(&self) -> String {
        self.inner.arithmetic()
    }
}

struct ValidPlan {
    inner: Arc<dyn Plan>,
    dead: Vec<(Buffer, u64, u64)>,
}

impl Plan for ValidPlan {
    fn stats(&self) -> PlanStats {
        self.inner.stats()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct ValidQueue {
    inner: Arc<dyn Queue>,
    device: Arc<dyn Device>,
    sent: Arc<Mutex<HashMap<u32, u64>>>,
}

impl ValidQueue {
    fn known(&self, points: &[Point]) -> Result<()> {
        let sent = lock(&self.sent);
        for point in points {
            if sent.get(&point.queue).is_none_or(|&newest| point.value > newest) {
                return Err(Error::invalid(format!("validate: nobody has sent {point:?}")));
            }
        }
        Ok(())
    }

    fn note(&self, point: Point) -> Result<Point> {
        let mut sent = lock(&self.sent);
        let newest = sent.entry(point.queue).or_default();
        if point.value <= *newest {
            return Err(Error::invalid(format!(
                "validate: {point:?} was given after point {newest} of the same queue"
            )));
        }
        *newest = point.value;
        Ok(point)
    }
}

impl Queue for ValidQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        self.known(after)?;
        let plan: &ValidPlan = own("validate", plan)?;
        for (buffer, begin, end) in &plan.dead {
            poison(&*self.device, &*self.inner, buffer, (*begin, *end), after)?;
        }
        self.note(self.inner.submit(&plan.inner, after)?)
    }
    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        self.known(after)?;
        check_transfer(target, &source)?;
        self.note(self.inner.upload(target, source, after)?)
    }
    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        self.known(after)?;
        check_transfer(source, &target)?;
        self.note(self.inner.download(source, target, after)?)
    }
    fn poll(&self, point: &Point) -> Result<bool> {
        self.known(&[*point])?;
        self.inner.poll(point)
    }
    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        self.known(&[*point])?;
        self.inner.wait(point, timeout)
    }
    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        self.known(&[*point])?;
        self.inner.reclaim(point)
    }
}

/// Fills bytes of a buffer with poison and waits for it.
fn poison(
    device: &dyn Device,
    queue: &dyn Queue,
    buffer: &Buffer,
    (begin, end): (u64, u64),
    after: &[Point],
) -> Result<()> {
    for (offset, bytes) in chunks(begin, end) {
        let mut slot = device.host_slot(bytes)?;
        slot.bytes_mut().fill(POISON);
        let point = queue.upload(&bytes_of(buffer, offset, bytes)?, slot, after)?;
        queue.wait(&point, PATIENCE)?;
        queue.reclaim(&point)?;
    }
    Ok(())
}

/// Byte ranges the program writes before it reads them: nothing in them survives a step.
fn dead_ranges(program: &Program) -> Vec<(Buffer, u64, u64)> {
    let mut buffers: Vec<(Buffer, Touched)> = Vec::new();
    for node in program.nodes() {
        for pass in [Access::Read, Access::Write] {
            node.op.operands(&mut |access, tensor| {
                let written = access == Access::Write;
                if written != (pass == Access::Write) {
                    return;
                }
                let known = buffers.iter().position(|(buffer, _)| buffer.same(tensor.buffer()));
                let place = known.unwrap_or_else(|| {
                    buffers.push((tensor.buffer().clone(), Touched::default()));
                    buffers.len() - 1
                });
                let touched = &mut buffers[place].1;
                each_range(tensor, &mut |begin, end| touched.touch(begin, end, written));
            });
        }
    }
    let mut dead = Vec::new();
    for (buffer, touched) in buffers {
        for (begin, end) in touched.dead {
            dead.push((buffer.clone(), begin, end));
        }
    }
    dead
}

/// The bytes of a tensor as ranges: one if its rows follow each other, else one per row.
fn each_range(tensor: &Tensor, visit: &mut dyn FnMut(u64, u64)) {
    if tensor.is_contiguous() {
        return visit(tensor.offset_bytes(), tensor.end_bytes());
    }
    for row in 0..u64::from(tensor.rows()) {
        let begin = tensor.offset_bytes() + row * tensor.row_stride_bytes();
        visit(begin, begin + tensor.row_bytes());
    }
}

/// Bytes of one buffer that a program has used so far; disjoint ranges by their begin.
#[derive(Default)]
struct Touched {
    used: BTreeMap<u64, u64>,
    dead: BTreeMap<u64, u64>,
}

impl Touched {
    /// Marks a range as used; what was not used before and is written is dead.
    fn touch(&mut self, begin: u64, end: u64, written: bool) {
        let mut at = begin;
        let mut fresh = Vec::new();
        // Ranges are disjoint, so the one before `begin` and those that start inside are all.
        let first = self.used.range(..=begin).next_back().map_or(begin, |(&key, _)| key);
        for (&used_begin, &used_end) in self.used.range(first..end) {
            if used_end <= at {
                continue;
            }
            if at < used_begin {
                fresh.push((at, used_begin));
            }
            at = at.max(used_end);
        }
        if at < end {
            fresh.push((at, end));
        }
        for (begin, end) in fresh {
            insert(&mut self.used, begin, end);
            if written {
                insert(&mut self.dead, begin, end);
            }
        }
    }
}

/// Adds a range that meets no other, joining it with those it touches.
fn insert(ranges: &mut BTreeMap<u64, u64>, mut begin: u64, mut end: u64) {
    if begin == end {
        return;
    }
    if let Some((&before, &before_end)) = ranges.range(..begin).next_back()
        && before_end == begin
    {
        begin = before;
    }
    if let Some(after_end) = ranges.remove(&end) {
        end = after_end;
    }
    ranges.insert(begin, end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;
    use crate::device::Mode;
    use crate::error::ErrorKind;
    use crate::layer::testing::{
        Memory, Quirk, add_program, download_f32, eager, tensor_f32, upload_f32,
    };
    use crate::op::{Map, MapFn};
    use crate::program::Builder;
    use crate::tensor::{DType, RowCodec, Shape};

    fn result_of(quirk: Quirk, fresh: Fresh) -> Vec<f32> {
        let device = Validate::wrap(Memory::device(quirk), fresh);
        let [x, y, out] = [0; 3].map(|_| tensor_f32(&*device, &[3, 2]));
        let queue = device.queue(QueueKind::Compute).unwrap();
        for tensor in [&x, &y] {
            upload_f32(&*device, &*queue, tensor, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        }
        let plan = compile(&*device, &add_program(&out, &x, &y), None, &eager("add")).unwrap();
        let point = queue.submit(&plan, &[]).unwrap();
        queue.wait(&point, PATIENCE).unwrap();
        download_f32(&*device, &*queue, &out)
    }

    #[test]
    fn a_row_a_kernel_forgets_is_nan() {
        let good = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0];
        assert_eq!(result_of(Quirk::None, Fresh::Zeroed), good);
        assert_eq!(result_of(Quirk::None, Fresh::Poisoned), good);
        let bad = result_of(Quirk::ForgetsLastRow, Fresh::Zeroed);
        assert!(bad[..4] == good[..4] && bad[4].is_nan() && bad[5].is_nan(), "{bad:?}");
    }

    #[test]
    fn unwritten_state_reads_as_nan_if_asked() {
        let device = Validate::wrap(Memory::device(Quirk::None), Fresh::Poisoned);
        let queue = device.queue(QueueKind::Compute).unwrap();
        let state = tensor_f32(&*device, &[1, 3]);
        assert!(download_f32(&*device, &*queue, &state).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn only_what_is_written_first_is_dead() {
        let device = Memory::device(Quirk::None);
        let all = tensor_f32(&*device, &[4, 4]);
        let mut builder = Builder::new();
        let copy = |out: Tensor, x: Tensor| Map { out, f: MapFn::Copy(x) };
        // Row 1 is written from row 0, columns 0..2 of rows 2 and 3 from the columns beside them.
        builder.push(copy(all.row_range(1, 1), all.row_range(0, 1))).unwrap();
        let low = all.row_range(2, 2);
        builder.push(copy(low.columns(0, &[2]), low.columns(2, &[2]))).unwrap();
        builder.push(copy(all.row_range(0, 1), all.row_range(1, 1))).unwrap();
        let dead = dead_ranges(&builder.finish().unwrap());
        let ranges: Vec<(u64, u64)> = dead.iter().map(|&(_, begin, end)| (begin, end)).collect();
        assert_eq!(ranges, [(16, 40), (48, 56)]);
    }

    #[test]
    fn what_the_contract_forbids_is_refused() {
        let device = Validate::wrap(Memory::device(Quirk::None), Fresh::Zeroed);
        let queue = device.queue(QueueKind::Compute).unwrap();
        let invalid = |error: Option<Error>| {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::InvalidProgram));
        };
        let x = tensor_f32(&*device, &[2, 4]);
        let unsent = Point { queue: 7, value: 1 };
        invalid(queue.upload(&x, device.host_slot(32).unwrap(), &[unsent]).err());
        invalid(queue.wait(&unsent, PATIENCE).err());
        invalid(queue.upload(&x, device.host_slot(31).unwrap(), &[]).err());
        let strided = x.columns(0, &[2]);
        invalid(queue.download(&strided, device.host_slot(16).unwrap(), &[]).err());
        let dims = Shape::new(&[2, 4]);
        let scratch =
            Tensor::new(Buffer::Scratch(0), 0, dims, DType::F32, RowCodec::Plain).unwrap();
        let unplaced = Program::from_nodes(vec![Node {
            op: Map { out: x, f: MapFn::Copy(scratch) }.into(),
            site: crate::Site { layer: 0, name: "test" },
        }]);
        let options = CompileOptions { mode: Mode::Replay, ..eager("unplaced") };
        invalid(device.compile(&unplaced, &options).err());
    }
}
