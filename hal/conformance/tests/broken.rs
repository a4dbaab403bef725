//! The kit can fail: devices that are wrong in one way each, and what it says about them.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use backend_cpu::CpuBackend;
use conformance::{Expectations, Report, Settings, Suite, run_on};
use hal::{
    Access, Backend, Buffer, BufferDesc, CompileOptions, DType, Device, DeviceInfo, Error,
    HostSlot, Limits, MemoryReport, Mode, Op, OpenOptions, Plan, PlanStats, Point, Program, Queue,
    QueueKind, Result, SharedBytes, Tensor, Weight, WeightSource, WeightSpec, WeightSupport,
};

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    /// Nothing: the wrapper itself must not fail.
    None,
    /// Doubles or halves the first number that this op writes.
    Wrong(&'static str),
    /// One unit in the last place of row 0, in steps of three rows or more.
    RowsDiffer(&'static str),
    /// As above, but in replayed plans only.
    ReplayDiffers(&'static str),
    /// Says plans are done and does nothing.
    FakesSuccess,
    /// Does not run the last op of a plan.
    ForgetsTheLastOp,
    /// Fresh memory is not zeroed.
    DirtyMemory,
    /// Downloads give the bytes of one upload before.
    LosesUploads,
    /// Says it has no FP4.
    NoFp4,
    /// Says it transcodes to FP8, and keeps what it was.
    Lies,
}

struct Flawed {
    inner: Arc<dyn Device>,
    flaw: Flaw,
}

fn flawed(flaw: Flaw) -> Arc<dyn Device> {
    let inner = CpuBackend.open(0, &OpenOptions::default()).expect("there is a cpu");
    Arc::new(Flawed { inner, flaw })
}

impl Device for Flawed {
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
        match (self.flaw, spec.encoding) {
            (Flaw::NoFp4, hal::Encoding::Fp4Block { .. }) => WeightSupport::Absent("no FP4"),
            (Flaw::Lies, hal::Encoding::Fp4Block { .. }) => {
                WeightSupport::Transcoded(hal::Encoding::Fp8Block { rows: 1, cols: 32 })
            }
            _ => self.inner.weight_support(spec),
        }
    }
    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        let buffer = self.inner.alloc(desc)?;
        if self.flaw == Flaw::DirtyMemory && desc.size_bytes == 4096 {
            let queue = self.inner.queue(QueueKind::Transfer)?;
            let shape = hal::Shape::new(&[1]);
            let byte = Tensor::new(buffer.clone(), 9, shape, DType::U8, hal::RowCodec::Plain)?;
            put(&*self.inner, &*queue, &byte, &[1])?;
        }
        Ok(buffer)
    }
    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        self.inner.constant(label, bytes)
    }
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        if let WeightSupport::Absent(why) = self.weight_support(source.spec()) {
            return Err(Error::unsupported(why));
        }
        self.inner.load_weight(source)
    }
    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        let inner = self.inner.compile(program, options)?;
        let nodes = program.nodes();
        let mut targets = Vec::new();
        for node in nodes {
            targets.extend(target(&node.op, self.flaw, options.mode));
        }
        let runs = match self.flaw {
            Flaw::FakesSuccess => false,
            // The kits' plans of a primitive have one op.
            Flaw::ForgetsTheLastOp => nodes.len() != 1,
            _ => true,
        };
        Ok(Arc::new(FlawedPlan { inner, targets, runs, flaw: self.flaw }))
    }
    fn queue(&self, kind: QueueKind) -> Result<Arc<dyn Queue>> {
        let (inner, device) = (self.inner.queue(kind)?, Arc::clone(&self.inner));
        Ok(Arc::new(FlawedQueue { inner, device, flaw: self.flaw }))
    }
    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }
    fn arithmetic(&self) -> String {
        self.inner.arithmetic()
    }
}

/// The output of `op` that the flaw touches.
fn target(op: &Op, flaw: Flaw, mode: Mode) -> Option<Tensor> {
    let (name, rows_min) = match flaw {
        Flaw::Wrong(name) => (name, 1),
        Flaw::RowsDiffer(name) => (name, 3),
        Flaw::ReplayDiffers(name) if mode == Mode::Replay => (name, 1),
        _ => return None,
    };
    let mut found = None;
    op.operands(&mut |access, tensor| {
        let real = tensor.dtype().is_real();
        let plain = tensor.codec() == hal::RowCodec::Plain;
        if op.name() == name && access == Access::Write && real && plain && found.is_none() {
            found = Some(tensor.clone());
        }
    });
    found.filter(|tensor| tensor.rows() >= rows_min)
}

struct FlawedPlan {
    inner: Arc<dyn Plan>,
    targets: Vec<Tensor>,
    runs: bool,
    flaw: Flaw,
}

impl Plan for FlawedPlan {
    fn stats(&self) -> PlanStats {
        self.inner.stats()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct FlawedQueue {
    inner: Arc<dyn Queue>,
    device: Arc<dyn Device>,
    flaw: Flaw,
}

const PATIENCE: Duration = Duration::from_secs(60);

fn put(device: &dyn Device, queue: &dyn Queue, target: &Tensor, bytes: &[u8]) -> Result<Point> {
    let mut slot = device.host_slot(bytes.len() as u64)?;
    slot.bytes_mut().copy_from_slice(bytes);
    let point = queue.upload(target, slot, &[])?;
    queue.wait(&point, PATIENCE)?;
    Ok(point)
}

impl FlawedQueue {
    /// Spoils the first number of a tensor.
    fn spoil(&self, tensor: &Tensor, flaw: Flaw) -> Result<Point> {
        let first = tensor.row_range(0, 1).columns(0, &[1]);
        let slot = self.device.host_slot(first.row_bytes())?;
        let point = self.inner.download(&first, slot, &[])?;
        self.inner.wait(&point, PATIENCE)?;
        let mut bytes = self.inner.reclaim(&point)?.bytes().to_vec();
        let last = bytes.len() - 2;
        match flaw {
            Flaw::Wrong(_) => bytes[last] ^= 0x80,
            _ => bytes[0] ^= 1,
        }
        put(&*self.device, &*self.inner, &first, &bytes)
    }
}

impl Queue for FlawedQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        let plan: &FlawedPlan = plan.as_any().downcast_ref().expect("our own plan");
        if !plan.runs {
            // Something harmless that gives a point.
            let desc = BufferDesc { label: "x", size_bytes: 1, kind: hal::MemoryKind::Device };
            let (buffer, shape) = (self.device.alloc(&desc)?, hal::Shape::new(&[1]));
            let byte = Tensor::new(buffer, 0, shape, DType::U8, hal::RowCodec::Plain)?;
            let point = put(&*self.device, &*self.inner, &byte, &[0])?;
            self.inner.reclaim(&point)?;
            return Ok(point);
        }
        let mut point = self.inner.submit(&plan.inner, after)?;
        for tensor in &plan.targets {
            self.inner.wait(&point, PATIENCE)?;
            point = self.spoil(tensor, plan.flaw)?;
        }
        Ok(point)
    }
    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        self.inner.upload(target, source, after)
    }
    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        self.inner.download(source, target, after)
    }
    fn poll(&self, point: &Point) -> Result<bool> {
        self.inner.poll(point)
    }
    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        self.inner.wait(point, timeout)
    }
    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        let mut slot = self.inner.reclaim(point)?;
        if self.flaw == Flaw::LosesUploads && slot.bytes().len() == 512 {
            slot.bytes_mut()[7] = 0;
        }
        Ok(slot)
    }
}

fn report(flaw: Flaw, suites: &[Suite], filter: &str) -> Report {
    let settings =
        Settings { suites: suites.to_vec(), filter: filter.into(), ..Settings::default() };
    run_on(&flawed(flaw), &settings, &Expectations::none())
}

/// Every failed check's id.
fn failures(report: &Report) -> Vec<String> {
    report.failures().map(|(id, _)| id.to_owned()).collect()
}

#[test]
fn the_wrapper_without_a_flaw_is_green() {
    let report = report(Flaw::None, &[Suite::Device, Suite::Ops, Suite::Weights], "");
    report.assert_green();
}

#[test]
fn one_wrong_number_of_one_op_fails_that_op() {
    for op in ["rms_norm", "matmul", "attend", "index_score", "hc_mix", "convert", "rope"] {
        let filter = format!("/{op}/");
        let report = report(Flaw::Wrong(op), &[Suite::Ops], &filter);
        assert!(report.failed() * 2 > report.passed(), "{op}: {report}");
        assert!(failures(&report).iter().all(|id| id.contains(&filter)), "{report}");
    }
}

#[test]
fn rows_that_depend_on_their_neighbours_pass_ops_and_fail_rows() {
    for op in ["rms_norm", "matmul", "attend", "index_score"] {
        let filter = format!("{op}/f32");
        // One unit in the last place of f32 is within every tolerance.
        if op != "matmul" {
            report(Flaw::RowsDiffer(op), &[Suite::Ops], &filter).assert_green();
        }
        let rows = report(Flaw::RowsDiffer(op), &[Suite::Rows], &format!("/{op}/"));
        assert!(rows.failed() > 0, "{op}: {rows}");
        let texts: Vec<&str> = rows.failures().map(|(_, text)| text).collect();
        assert!(texts.iter().all(|text| text.contains("in the whole step")), "{texts:?}");
    }
}

#[test]
fn a_replay_that_differs_fails_rows_and_the_whole_step() {
    let rows = report(Flaw::ReplayDiffers("rms_norm"), &[Suite::Rows], "/rms_norm/");
    assert_eq!(rows.passed(), 0, "{rows}");
    // The last op of the step is a product: the logits.
    let step = report(Flaw::ReplayDiffers("matmul"), &[Suite::Program], "replay equals eager");
    assert_eq!((step.passed(), step.failed()), (0, 2), "{step}");
}

#[test]
fn a_device_that_fakes_success_fails_every_op() {
    let report = report(Flaw::FakesSuccess, &[Suite::Ops], "");
    assert_eq!(report.passed(), 0, "{report}");
}

#[test]
fn an_op_that_is_not_launched_is_noticed() {
    let report = report(Flaw::ForgetsTheLastOp, &[Suite::Ops], "/rope/");
    assert_eq!(report.passed(), 0, "{report}");
}

#[test]
fn dirty_memory_fails_by_name() {
    let report = report(Flaw::DirtyMemory, &[Suite::Device], "");
    assert_eq!(failures(&report), ["device/memory starts as zeros"]);
}

#[test]
fn a_download_of_other_bytes_fails_the_order_of_submissions() {
    let report = report(Flaw::LosesUploads, &[Suite::Device], "");
    assert_eq!(failures(&report), ["device/submissions run in order"]);
}

#[test]
fn a_missing_encoding_fails_until_it_is_declared() {
    let suites = [Suite::Weights];
    let bare = report(Flaw::NoFp4, &suites, "");
    assert!(bare.failed() > 0 && failures(&bare).iter().all(|id| id.contains("fp4")), "{bare}");
    let settings = Settings { suites: suites.to_vec(), ..Settings::default() };
    let list = Expectations::none().unsupported("weights/fp4*", "no FP4 decoder");
    let declared = run_on(&flawed(Flaw::NoFp4), &settings, &list);
    declared.assert_green();
    assert_eq!(declared.skipped(), bare.failed() + bare.skipped());
    // On a device that can, the same declaration is a lie.
    let able = run_on(&flawed(Flaw::None), &settings, &list);
    assert!(able.failed() > 0, "{able}");
}

#[test]
fn a_transcode_that_is_not_what_was_announced_fails() {
    let report = report(Flaw::Lies, &[Suite::Weights], "fp4");
    assert_eq!(report.passed(), 0, "{report}");
}

#[test]
fn an_expectation_that_matches_nothing_fails() {
    let device = flawed(Flaw::None);
    let list = Expectations::none().known_failure("ops/no_such_op/*", "a bug of old");
    let report = run_on(&device, &Settings::default(), &list);
    assert_eq!(failures(&report), ["ops/no_such_op/*"]);
}

#[test]
fn a_filter_that_leaves_a_suite_empty_is_red() {
    let report = report(Flaw::None, &[Suite::Ops], "no such case");
    assert!(!report.is_green() && report.failed() == 0, "{report}");
}
