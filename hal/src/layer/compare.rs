//! The layer that runs everything twice: each op on the device and on a second one, outputs compared.
//!
//! A plan becomes one plan per op. After each op, what it wrote is downloaded from both devices and
//! compared; then the second device gets the first one's bytes, so that every op is judged on equal
//! inputs and the first that differs is the culprit, not a victim. Differences surface at `wait` with
//! the site and the op; the rest of that submission is not run.
//!
//! A program is lowered to what both devices support. It refuses buffers and weights of other
//! devices. Bytes no op writes (columns an `index_score` leaves out) are equal by construction.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{PATIENCE, bytes_of, chunks, lock, own};
use crate::device::{
    BufferDesc, CompileOptions, Device, DeviceInfo, HostSlot, Limits, MemoryReport, Plan,
    PlanStats, Point, Queue, QueueKind,
};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Access, Op};
use crate::program::{Node, Program, Site};
use crate::tensor::{Buffer, DType, RawBuffer, RowCodec, Tensor};
use crate::weight::{RawWeight, SharedBytes, Weight, WeightSource, WeightSpec, WeightSupport};

/// How far outputs may differ, as a part of the largest magnitude in the output's row. Integers,
/// codes and coded rows must be equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// For f32 outputs.
    pub single: f64,
    /// For bf16 and f16 outputs.
    pub half: f64,
}

impl Tolerance {
    /// No difference at all: two devices of one arithmetic class.
    pub const EXACT: Tolerance = Tolerance { single: 0.0, half: 0.0 };
}

impl Default for Tolerance {
    /// 1e-4 and 1e-2: sums in another order, one rounding that falls to the other side.
    fn default() -> Self {
        Tolerance { single: 1e-4, half: 1e-2 }
    }
}

/// The first op of a submission whose outputs differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Label of the plan.
    pub plan: String,
    /// Place of the op in the plan.
    pub place: usize,
    /// Where it came from.
    pub site: Site,
    /// Its name.
    pub op: &'static str,
    /// Which operand, in the order of [`Op::operands`].
    pub operand: usize,
    /// Row of the output.
    pub row: u32,
    /// Element of the row; byte of the row where it is coded.
    pub column: u32,
    /// What the device wrote.
    pub value: f64,
    /// What the second device wrote.
    pub reference: f64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { plan, place, site, op, operand, row, column, value, reference } = self;
        write!(
            f,
            "{plan}: op {place} ({site} {op}) operand {operand} row {row} column {column}: \
             {value:e} against {reference:e}"
        )
    }
}

/// The layer. See the module's text.
pub struct Compare {
    pair: Arc<Pair>,
    /// The tighter of both devices' limits.
    limits: Limits,
}

struct Pair {
    device: Arc<dyn Device>,
    reference: Arc<dyn Device>,
    tolerance: Tolerance,
    found: Mutex<Option<Finding>>,
}

impl Compare {
    /// Puts the layer around `device`; `reference` runs along.
    pub fn wrap(
        device: Arc<dyn Device>,
        reference: Arc<dyn Device>,
        tolerance: Tolerance,
    ) -> Arc<Compare> {
        let (a, b) = (*device.limits(), *reference.limits());
        let limits = Limits {
            binding_bytes_max: a.binding_bytes_max.min(b.binding_bytes_max),
            bindings_max: a.bindings_max.min(b.bindings_max),
            plans_max: a.plans_max.min(b.plans_max),
        };
        let pair = Pair { device, reference, tolerance, found: Mutex::default() };
        Arc::new(Compare { pair: Arc::new(pair), limits })
    }

    /// The first difference so far.
    pub fn finding(&self) -> Option<Finding> {
        lock(&self.pair.found).clone()
    }
}

#[derive(Debug)]
struct PairBuffer {
    device: Buffer,
    reference: Buffer,
    size_bytes: u64,
}

impl RawBuffer for PairBuffer {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Debug)]
struct PairWeight {
    device: Weight,
    reference: Weight,
}

impl RawWeight for PairWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Which of the two.
#[derive(Clone, Copy)]
enum Side {
    Device,
    Reference,
}

/// A tensor of the layer as one of its devices knows it.
fn tensor_on(side: Side, tensor: &Tensor) -> Result<Tensor> {
    let foreign = || Error::invalid(format!("compare: {tensor:?} is not of this layer"));
    let Buffer::Real(raw) = tensor.buffer() else { return Err(foreign()) };
    let pair: &PairBuffer = raw.as_any().downcast_ref().ok_or_else(foreign)?;
    let buffer = match side {
        Side::Device => &pair.device,
        Side::Reference => &pair.reference,
    };
    Ok(tensor.rebased(buffer.clone(), 0))
}

fn op_on(side: Side, op: &Op) -> Result<Op> {
    let mut op = op.clone();
    let mut fault = None;
    op.operands_mut(&mut |_, tensor| match tensor_on(side, tensor) {
        Ok(own) => *tensor = own,
        Err(error) => fault = Some(error),
    });
    op.weights_mut(
        &mut |weight| match (weight.raw().as_any().downcast_ref::<PairWeight>(), side) {
            (Some(pair), Side::Device) => *weight = pair.device.clone(),
            (Some(pair), Side::Reference) => *weight = pair.reference.clone(),
            (None, _) => {
                let name = &weight.spec().name;
                fault =
                    Some(Error::invalid(format!("compare: weight {name} is not of this layer")));
            }
        },
    );
    fault.map_or(Ok(op), Err)
}

/// The op with each device's weights, to ask what it supports. Tensors may still be unplaced.
fn asked(side: Side, op: &Op) -> Op {
    let mut op = op.clone();
    op.weights_mut(&mut |weight| {
        let own = weight.raw().as_any().downcast_ref::<PairWeight>().map(|pair| match side {
            Side::Device => pair.device.clone(),
            Side::Reference => pair.reference.clone(),
        });
        if let Some(own) = own {
            *weight = own;
        }
    });
    op
}

impl Device for Compare {
    fn info(&self) -> &DeviceInfo {
        self.pair.device.info()
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn supports(&self, op: &Op) -> bool {
        self.pair.device.supports(&asked(Side::Device, op))
            && self.pair.reference.supports(&asked(Side::Reference, op))
    }
    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport {
        match self.pair.reference.weight_support(spec) {
            WeightSupport::Absent(why) => WeightSupport::Absent(why),
            _ => self.pair.device.weight_support(spec),
        }
    }
    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        let (device, reference) = (self.pair.device.alloc(desc)?, self.pair.reference.alloc(desc)?);
        Ok(Buffer::Real(Arc::new(PairBuffer { device, reference, size_bytes: desc.size_bytes })))
    }
    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        let size_bytes = bytes.bytes().len() as u64;
        let device = self.pair.device.constant(label, bytes.clone())?;
        let reference = self.pair.reference.constant(label, bytes)?;
        Ok(Buffer::Real(Arc::new(PairBuffer { device, reference, size_bytes })))
    }
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        let device = self.pair.device.load_weight(source)?;
        let reference = self.pair.reference.load_weight(source)?;
        let (spec, stored) = (device.spec().clone(), device.stored());
        Ok(Weight::new(Arc::new(PairWeight { device, reference }), spec, stored))
    }
    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        let mut ops = Vec::new();
        for node in program.nodes() {
            let one = |side, device: &dyn Device| {
                let op = op_on(side, &node.op)?;
                device.compile(&Program::from_nodes(vec![Node { op, site: node.site }]), options)
            };
            ops.push(PairOp {
                device: one(Side::Device, &*self.pair.device)?,
                reference: one(Side::Reference, &*self.pair.reference)?,
                node: node.clone(),
            });
        }
        Ok(Arc::new(PairPlan { label: options.label.clone(), ops }))
    }
    fn queue(&self, kind: QueueKind) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(PairQueue {
            pair: Arc::clone(&self.pair),
            device: self.pair.device.queue(kind)?,
            reference: self.pair.reference.queue(kind)?,
            failed: Mutex::default(),
        }))
    }
    fn host_slot(&self, bytes: u64) -> Result<HostSlot> {
        self.pair.device.host_slot(bytes)
    }
    fn settle(&self) {
        self.pair.device.settle();
    }
    fn memory(&self) -> MemoryReport {
        self.pair.device.memory()
    }
    fn arithmetic(&self) -> String {
        self.pair.device.arithmetic()
    }
}

struct PairOp {
    device: Arc<dyn Plan>,
    reference: Arc<dyn Plan>,
    node: Node,
}

struct PairPlan {
    label: String,
    ops: Vec<PairOp>,
}

impl Plan for PairPlan {
    fn stats(&self) -> PlanStats {
        self.ops.iter().fold(PlanStats::default(), |sum, op| {
            let stats = op.device.stats();
            PlanStats {
                launches: sum.launches + stats.launches,
                workspace_bytes: sum.workspace_bytes + stats.workspace_bytes,
            }
        })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct PairQueue {
    pair: Arc<Pair>,
    device: Arc<dyn Queue>,
    reference: Arc<dyn Queue>,
    /// Points whose work differed, and how.
    failed: Mutex<Vec<(Point, String)>>,
}

impl PairQueue {
    fn run_op(&self, op: &PairOp, after: &[Point]) -> Result<Point> {
        let ours = self.device.submit(&op.device, after)?;
        let theirs = self.reference.submit(&op.reference, &[])?;
        self.device.wait(&ours, PATIENCE)?;
        self.reference.wait(&theirs, PATIENCE)?;
        Ok(ours)
    }

    /// The first difference in what an op wrote; makes the reference's outputs equal.
    fn compare(&self, plan: &PairPlan, place: usize) -> Result<Option<Finding>> {
        let node = &plan.ops[place].node;
        let mut written = Vec::new();
        let mut operand = 0;
        node.op.operands(&mut |access, tensor| {
            if access != Access::Read {
                written.push((operand, tensor.clone()));
            }
            operand += 1;
        });
        for (operand, tensor) in written {
            let ours = tensor_on(Side::Device, &tensor)?;
            let theirs = tensor_on(Side::Reference, &tensor)?;
            let bytes = download(&*self.pair.device, &*self.device, &ours)?;
            let reference = download(&*self.pair.reference, &*self.reference, &theirs)?;
            let tolerance = &self.pair.tolerance;
            if let Some((row, column, value, reference)) =
                first_difference(&tensor, &bytes, &reference, tolerance)
            {
                let (site, op) = (node.site, node.op.name());
                let plan = plan.label.clone();
                return Ok(Some(Finding {
                    plan,
                    place,
                    site,
                    op,
                    operand,
                    row,
                    column,
                    value,
                    reference,
                }));
            }
            upload(&*self.pair.reference, &*self.reference, &theirs, &bytes)?;
        }
        Ok(None)
    }

    fn verdict(&self, point: &Point) -> Result<()> {
        // Work behind a failed submission ran on its leftovers: it failed too.
        let failed = lock(&self.failed);
        match failed.iter().find(|(at, _)| at.queue == point.queue && at.value <= point.value) {
            Some((_, message)) => Err(Error::new(ErrorKind::Driver, message.clone())),
            None => Ok(()),
        }
    }
}

impl Queue for PairQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        let plan: &PairPlan = own("compare", plan)?;
        let mut last = None;
        for (place, op) in plan.ops.iter().enumerate() {
            let point = self.run_op(op, after)?;
            last = Some(point);
            if let Some(finding) = self.compare(plan, place)? {
                let message = format!("compare: {finding}");
                lock(&self.failed).push((point, message));
                lock(&self.pair.found).get_or_insert(finding);
                break;
            }
        }
        last.ok_or_else(|| Error::invalid("compare: the plan has no ops"))
    }
    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        let mut copy = self.pair.reference.host_slot(source.bytes().len() as u64)?;
        copy.bytes_mut().copy_from_slice(source.bytes());
        let theirs = tensor_on(Side::Reference, target)?;
        let point = self.reference.upload(&theirs, copy, &[])?;
        self.reference.wait(&point, PATIENCE)?;
        self.reference.reclaim(&point)?;
        self.device.upload(&tensor_on(Side::Device, target)?, source, after)
    }
    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        self.device.download(&tensor_on(Side::Device, source)?, target, after)
    }
    fn poll(&self, point: &Point) -> Result<bool> {
        self.verdict(point)?;
        self.device.poll(point)
    }
    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        self.verdict(point)?;
        self.device.wait(point, timeout)
    }
    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        self.device.reclaim(point)
    }
}

/// All bytes from a tensor's first to its last, gaps between strided rows included.
fn download(device: &dyn Device, queue: &dyn Queue, tensor: &Tensor) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for (offset, bytes) in chunks(tensor.offset_bytes(), tensor.end_bytes()) {
        let slot = device.host_slot(bytes)?;
        let point = queue.download(&bytes_of(tensor.buffer(), offset, bytes)?, slot, &[])?;
        queue.wait(&point, PATIENCE)?;
        all.extend_from_slice(queue.reclaim(&point)?.bytes());
    }
    Ok(all)
}

fn upload(device: &dyn Device, queue: &dyn Queue, tensor: &Tensor, all: &[u8]) -> Result<()> {
    let begin = tensor.offset_bytes();
    for (offset, bytes) in chunks(begin, tensor.end_bytes()) {
        let mut slot = device.host_slot(bytes)?;
        let from = (offset - begin) as usize;
        slot.bytes_mut().copy_from_slice(&all[from..from + bytes as usize]);
        let point = queue.upload(&bytes_of(tensor.buffer(), offset, bytes)?, slot, &[])?;
        queue.wait(&point, PATIENCE)?;
        queue.reclaim(&point)?;
    }
    Ok(())
}

/// Row, column and both values of the first element that differs by more than it may.
fn first_difference(
    tensor: &Tensor,
    ours: &[u8],
    theirs: &[u8],
    tolerance: &Tolerance,
) -> Option<(u32, u32, f64, f64)> {
    let (dtype, may) = match (tensor.codec(), tensor.dtype()) {
        (RowCodec::Plain, DType::F32) => (DType::F32, tolerance.single),
        (RowCodec::Plain, DType::F16 | DType::Bf16) => (tensor.dtype(), tolerance.half),
        (RowCodec::Plain, DType::I32 | DType::U32) => (tensor.dtype(), 0.0),
        _ => (DType::U8, 0.0),
    };
    for row in 0..tensor.rows() {
        let begin = u64::from(row) * tensor.row_stride_bytes();
        let range = begin as usize..(begin + tensor.row_bytes()) as usize;
        let (ours, theirs) = (values(dtype, &ours[range.clone()]), values(dtype, &theirs[range]));
        let size = theirs.iter().filter(|x| x.is_finite()).fold(0f64, |most, x| most.max(x.abs()));
        for (column, (a, b)) in ours.into_iter().zip(theirs).enumerate() {
            let equal = a == b || (a.is_nan() && b.is_nan());
            // Not `> may`: a NaN on one side must count as a difference.
            let close = (a - b).abs() <= may * size;
            if !equal && !close {
                return Some((row, column as u32, a, b));
            }
        }
    }
    None
}

/// The numbers in the bytes of a row.
fn values(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match dtype {
        DType::F32 => bytes.chunks(4).map(|b| f64::from(f32::from_bits(word(b)))).collect(),
        DType::I32 => bytes.chunks(4).map(|b| f64::from(word(b) as i32)).collect(),
        DType::U32 => bytes.chunks(4).map(|b| f64::from(word(b))).collect(),
        DType::Bf16 => {
            bytes.chunks(2).map(|b| f64::from(f32::from_bits(u32::from(half(b)) << 16))).collect()
        }
        DType::F16 => bytes.chunks(2).map(|b| f16(half(b))).collect(),
        DType::F8E4M3 | DType::U8 => bytes.iter().map(|&b| f64::from(b)).collect(),
    }
}

fn f16(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (power, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    sign * match power {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2f64.powi(power - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;
    use crate::layer::testing::{
        Memory, Quirk, download_f32, eager, identity, tensor_f32, upload_f32,
    };
    use crate::op::{Map, MapFn, Matmul, RowGroups};
    use crate::program::Builder;

    /// copy · matmul by the identity · add, on a device with `quirk` beside one without.
    fn run(quirk: Quirk, tolerance: Tolerance) -> (Arc<Compare>, Result<()>, Vec<f32>) {
        let device = Compare::wrap(Memory::device(quirk), Memory::device(Quirk::None), tolerance);
        let [x, out] = [0; 2].map(|_| tensor_f32(&*device, &[2, 2]));
        let weight = device.load_weight(&mut identity(2)).unwrap();
        let queue = device.queue(QueueKind::Compute).unwrap();
        upload_f32(&*device, &*queue, &x, &[1.0, 2.0, 3.0, 4.0]);
        let mut builder = Builder::new();
        let (copy, turned) = (builder.temp(DType::F32, &[2, 2]), builder.temp(DType::F32, &[2, 2]));
        builder.at(0, "copy");
        builder.push(Map { out: copy.clone(), f: MapFn::Copy(x.clone()) }).unwrap();
        builder.at(1, "turn");
        let groups = RowGroups::Cyclic;
        builder.push(Matmul { out: turned.clone(), x: copy, weight, groups }).unwrap();
        builder.at(2, "sum");
        builder.push(Map { out: out.clone(), f: MapFn::Add(turned, x) }).unwrap();
        let plan = compile(&*device, &builder.finish().unwrap(), None, &eager("step")).unwrap();
        let point = queue.submit(&plan, &[]).unwrap();
        let waited = queue.wait(&point, PATIENCE);
        let result = download_f32(&*device, &*queue, &out);
        (device, waited, result)
    }

    #[test]
    fn equal_devices_give_the_result_and_no_finding() {
        let (device, waited, result) = run(Quirk::None, Tolerance::EXACT);
        waited.unwrap();
        assert_eq!((device.finding(), result), (None, vec![2.0, 4.0, 6.0, 8.0]));
    }

    #[test]
    fn the_first_op_that_differs_is_named() {
        let (device, waited, _) = run(Quirk::AddsTooMuch(0.5), Tolerance::default());
        let finding = device.finding().unwrap();
        assert_eq!((finding.site, finding.op), (Site { layer: 2, name: "sum" }, "map"));
        assert_eq!((finding.place, finding.row, finding.column), (2, 0, 0));
        assert_eq!((finding.value, finding.reference), (2.5, 2.0));
        let message = waited.unwrap_err().to_string();
        let want = "compare: step: op 2 (2.sum map) operand 0 row 0 column 0: 2.5e0 against 2e0";
        assert_eq!(message, want);
    }

    #[test]
    fn small_differences_are_tolerated_only_if_asked() {
        let quirk = Quirk::AddsTooMuch(1e-5);
        assert!(run(quirk, Tolerance::default()).1.is_ok());
        assert!(run(quirk, Tolerance::EXACT).1.is_err());
    }

    #[test]
    fn a_forgotten_row_and_a_nan_are_differences() {
        assert!(run(Quirk::ForgetsLastRow, Tolerance::default()).1.is_err());
        assert!(run(Quirk::AddsTooMuch(f32::NAN), Tolerance::default()).1.is_err());
    }

    #[test]
    fn halves_read_as_ieee_says() {
        for (bits, value) in [(0x3c00, 1.0), (0xc000, -2.0), (1, 2f64.powi(-24)), (0x7bff, 65504.0)]
        {
            assert_eq!(f16(bits), value);
        }
        assert!(f16(0x7c01).is_nan());
    }
}
