//! The layer that writes down: every call on the device and its queues, in order, as readable lines.
//!
//! A [`Log`] is bounded and keeps the newest lines. Compiled plans print their program once;
//! submissions name the plan, its number of ops and the point they got.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{lock, own};
use crate::device::{
    BufferDesc, CompileOptions, Device, DeviceInfo, HostSlot, Limits, MemoryReport, Plan,
    PlanStats, Point, Queue, QueueKind,
};
use crate::error::Result;
use crate::op::Op;
use crate::program::Program;
use crate::tensor::{Buffer, Tensor};
use crate::weight::{SharedBytes, Weight, WeightSource, WeightSpec, WeightSupport};

/// What happened, one line each; the oldest lines give way.
#[derive(Debug)]
pub struct Log {
    lines_max: usize,
    inner: Mutex<(VecDeque<String>, u64)>,
}

impl Log {
    /// A log of at most `lines_max` lines.
    pub fn new(lines_max: usize) -> Arc<Self> {
        Arc::new(Log { lines_max, inner: Mutex::default() })
    }

    /// The lines kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.inner).0.iter().cloned().collect()
    }

    fn push(&self, line: String) {
        let mut inner = lock(&self.inner);
        inner.0.push_back(line);
        if inner.0.len() > self.lines_max {
            inner.0.pop_front();
            inner.1 += 1;
        }
    }

    /// Writes down a call and how it ended.
    fn call<T>(
        &self,
        call: impl fmt::Display,
        result: Result<T>,
        show: fn(&T) -> String,
    ) -> Result<T> {
        match &result {
            Ok(value) => self.push(format!("{call}{}", show(value))),
            Err(error) => self.push(format!("{call} failed: {error:?}")),
        }
        result
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = lock(&self.inner);
        if inner.1 > 0 {
            writeln!(f, "({} older lines are gone)", inner.1)?;
        }
        inner.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn nothing<T>(_: &T) -> String {
    String::new()
}

fn point(point: &Point) -> String {
    format!(" → {}:{}", point.queue, point.value)
}

fn points(after: &[Point]) -> String {
    if after.is_empty() {
        return String::new();
    }
    let list: Vec<String> = after.iter().map(|p| format!("{}:{}", p.queue, p.value)).collect();
    format!(" after {}", list.join(" "))
}

/// The layer. See the module's text.
pub struct Trace {
    inner: Arc<dyn Device>,
    log: Arc<Log>,
    queues: AtomicU32,
    plans: AtomicU32,
}

impl Trace {
    /// Puts the layer around `inner`; lines go to `log`.
    pub fn wrap(inner: Arc<dyn Device>, log: &Arc<Log>) -> Arc<dyn Device> {
        Arc::new(Trace {
            inner,
            log: Arc::clone(log),
            queues: AtomicU32::new(0),
            plans: AtomicU32::new(0),
        })
    }
}

impl Device for Trace {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }
    fn supports(&self, op: &Op) -> bool {
        let yes = self.inner.supports(op);
        self.log.push(format!("supports {}: {yes}", op.name()));
        yes
    }
    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport {
        let support = self.inner.weight_support(spec);
        self.log.push(format!("weight_support {} {}: {support:?}", spec.name, spec.encoding));
        support
    }
    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        let call = format!("alloc {:?} {} bytes {:?}", desc.label, desc.size_bytes, desc.kind);
        self.log.call(call, self.inner.alloc(desc), nothing)
    }
    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        let call = format!("constant {label:?} {} bytes", bytes.bytes().len());
        self.log.call(call, self.inner.constant(label, bytes), nothing)
    }
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        let spec = source.spec();
        let call = format!(
            "load_weight {} [{}, {}, {}] {}",
            spec.name, spec.groups, spec.rows, spec.cols, spec.encoding
        );
        let stored = |weight: &Weight| format!(" as {}", weight.stored());
        self.log.call(call, self.inner.load_weight(source), stored)
    }
    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        let number = self.plans.fetch_add(1, Ordering::Relaxed);
        let name = format!("plan {number} {:?}", options.label);
        let ops = program.nodes().len();
        let call = format!("compile {name} {:?}, {ops} ops\n{program}", options.mode);
        let inner =
            self.log.call(call.trim_end(), self.inner.compile(program, options), nothing)?;
        Ok(Arc::new(TracePlan { inner, name: format!("{name} ({ops} ops)") }))
    }
    fn queue(&self, kind: QueueKind) -> Result<Arc<dyn Queue>> {
        let number = self.queues.fetch_add(1, Ordering::Relaxed);
        let call = format!("queue {number} {kind:?}");
        let inner = self.log.call(call, self.inner.queue(kind), nothing)?;
        Ok(Arc::new(TraceQueue { inner, number, log: Arc::clone(&self.log) }))
    }
    fn host_slot(&self, bytes: u64) -> Result<HostSlot> {
        self.log.call(format!("host_slot {bytes} bytes"), self.inner.host_slot(bytes), nothing)
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

struct TracePlan {
    inner: Arc<dyn Plan>,
    name: String,
}

impl Plan for TracePlan {
    fn stats(&self) -> PlanStats {
        self.inner.stats()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct TraceQueue {
    inner: Arc<dyn Queue>,
    number: u32,
    log: Arc<Log>,
}

impl Queue for TraceQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        let plan: &TracePlan = own("trace", plan)?;
        let call = format!("queue {} submit {}{}", self.number, plan.name, points(after));
        self.log.call(call, self.inner.submit(&plan.inner, after), point)
    }
    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        let (shape, dtype) = (target.shape(), target.dtype());
        let call = format!("queue {} upload {dtype:?}{shape}{}", self.number, points(after));
        self.log.call(call, self.inner.upload(target, source, after), point)
    }
    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        let (shape, dtype) = (source.shape(), source.dtype());
        let call = format!("queue {} download {dtype:?}{shape}{}", self.number, points(after));
        self.log.call(call, self.inner.download(source, target, after), point)
    }
    fn poll(&self, at: &Point) -> Result<bool> {
        let call = format!("queue {} poll{}: ", self.number, point(at));
        self.log.call(call, self.inner.poll(at), bool::to_string)
    }
    fn wait(&self, at: &Point, timeout: Duration) -> Result<()> {
        let call = format!("queue {} wait{}", self.number, point(at));
        self.log.call(call, self.inner.wait(at, timeout), nothing)
    }
    fn reclaim(&self, at: &Point) -> Result<HostSlot> {
        let call = format!("queue {} reclaim{}", self.number, point(at));
        self.log.call(call, self.inner.reclaim(at), nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;
    use crate::layer::testing::{Memory, Quirk, add_program, eager, tensor_f32, upload_f32};

    fn run(lines_max: usize) -> Arc<Log> {
        let log = Log::new(lines_max);
        let device = Trace::wrap(Memory::device(Quirk::None), &log);
        let [x, out] = [0; 2].map(|_| tensor_f32(&*device, &[1, 2]));
        let queue = device.queue(QueueKind::Compute).unwrap();
        upload_f32(&*device, &*queue, &x, &[1.0, 2.0]);
        let plan = compile(&*device, &add_program(&out, &x, &x), None, &eager("add")).unwrap();
        queue.submit(&plan, &[Point { queue: 0, value: 1 }]).unwrap();
        queue.reclaim(&Point { queue: 0, value: 9 }).unwrap_err();
        log
    }

    #[test]
    fn every_call_is_a_line() {
        let lines = run(100).lines();
        let calls: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        let want =
            "alloc alloc queue host_slot queue queue queue supports alloc compile queue queue";
        assert_eq!(calls.join(" "), want, "{lines:#?}");
        assert!(lines[9].contains("start map("), "{}", lines[9]);
        assert_eq!(lines[10], "queue 0 submit plan 0 \"add\" (1 ops) after 0:1 → 0:2");
        assert!(lines[11].starts_with("queue 0 reclaim → 0:9 failed: "), "{}", lines[11]);
    }

    #[test]
    fn a_full_log_says_how_much_is_gone() {
        assert!(run(3).to_string().starts_with("(9 older lines are gone)\n"));
    }
}
