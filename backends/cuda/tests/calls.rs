//! What the backend asks of a driver, in which order, and what becomes of a refusal: on a driver that
//! only writes down its calls.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backend_cuda::CudaBackend;
use backend_cuda::driver::{
    Address, Driver, Event, EventKind, Facts, Function, Graph, Launch, Platform, Stream,
};
use backend_cuda::source::Unit;
use hal::op::{Map, MapFn, Order, TopK};
use hal::profile::Ring;
use hal::{
    Backend, BufferDesc, Builder, CompileOptions, DType, Device, Error, ErrorKind, MemoryKind,
    Mode, OpenOptions, Plan, Profile, Program, Queue, QueueKind, Result, RowCodec, Shape, Tensor,
};

/// Writes down calls; fails those named in `failing`.
#[derive(Debug, Default)]
struct Recorder {
    facts: Option<Facts>,
    calls: Mutex<Vec<String>>,
    failing: Mutex<Vec<(&'static str, ErrorKind)>>,
    last: AtomicU64,
}

impl Recorder {
    fn new() -> Arc<Recorder> {
        let facts = Facts {
            name: "recorder".into(),
            ordinal: 0,
            memory_bytes: 1 << 20,
            compute: (9, 0),
            processors: 1,
            shared_bytes_max: 99 << 10,
            wide: false,
            bulk: false,
        };
        Arc::new(Recorder { facts: Some(facts), ..Recorder::default() })
    }

    fn call(&self, name: &'static str) -> Result<u64> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match failing.iter().find(|(failing, _)| *failing == name) {
            Some((_, ErrorKind::OutOfMemory)) => Err(Error::out_of_memory(name)),
            Some(_) => Err(Error::driver(700, name)),
            None => Ok(256 * (1 + self.last.fetch_add(1, Ordering::Relaxed))),
        }
    }

    fn fail(&self, calls: &[(&'static str, ErrorKind)]) {
        *self.failing.lock().unwrap() = calls.to_vec();
    }

    /// The calls since the last time, without those that only ask or make marks.
    fn take(&self) -> String {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        let quiet = ["query", "event", "record"];
        let loud: Vec<_> = calls.into_iter().filter(|call| !quiet.contains(&&**call)).collect();
        loud.join(" ")
    }
}

/// The recorder as a platform and as its one device.
#[derive(Clone, Debug)]
struct Shared(Arc<Recorder>);

impl Platform for Shared {
    fn devices(&self) -> Result<Vec<Facts>> {
        Ok(self.0.facts.clone().into_iter().collect())
    }
    fn findings(&self) -> Vec<String> {
        vec!["nothing is installed".into()]
    }
    fn open(&self, _ordinal: u32, _settings: &[(String, String)]) -> Result<Arc<dyn Driver>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Driver for Shared {
    fn facts(&self) -> &Facts {
        self.0.facts.as_ref().expect("only opened with a device")
    }
    fn alloc(&self, _bytes: u64) -> Result<Address> {
        self.0.call("alloc")
    }
    unsafe fn free(&self, _address: Address) {
        let _ = self.0.call("free");
    }
    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>> {
        self.0.call("host_alloc")?;
        let memory = Box::leak(vec![0u8; bytes].into_boxed_slice());
        Ok(NonNull::new(memory.as_mut_ptr()).expect("not null"))
    }
    unsafe fn host_free(&self, memory: NonNull<u8>, bytes: usize) {
        let memory = std::ptr::slice_from_raw_parts_mut(memory.as_ptr(), bytes);
        // SAFETY: leaked by `host_alloc` with this size.
        drop(unsafe { Box::from_raw(memory) });
    }
    fn function(&self, _unit: &Unit, _name: &str) -> Result<Function> {
        Ok(Function(1))
    }
    fn stream_create(&self) -> Result<Stream> {
        self.0.call("stream").map(Stream)
    }
    fn stream_destroy(&self, _stream: Stream) {
        let _ = self.0.call("stream_destroy");
    }
    fn synchronize(&self, _stream: Stream) -> Result<()> {
        self.0.call("synchronize").map(|_| ())
    }
    fn event_create(&self, _kind: EventKind) -> Result<Event> {
        self.0.call("event").map(Event)
    }
    fn event_destroy(&self, _event: Event) {
        let _ = self.0.call("event");
    }
    fn record(&self, _event: Event, _stream: Stream) -> Result<()> {
        self.0.call("record").map(|_| ())
    }
    fn wait_event(&self, _stream: Stream, _event: Event) -> Result<()> {
        self.0.call("wait_event").map(|_| ())
    }
    fn query(&self, _event: Event) -> Result<bool> {
        self.0.call("query").map(|_| true)
    }
    fn elapsed_ns(&self, begin: Event, end: Event) -> Result<u64> {
        Ok(end.0.saturating_sub(begin.0))
    }
    unsafe fn zero(&self, _stream: Stream, _target: Address, _bytes: u64) -> Result<()> {
        self.0.call("zero").map(|_| ())
    }
    unsafe fn copy_in(&self, _: Stream, _: Address, _: *const u8, _: usize) -> Result<()> {
        self.0.call("copy_in").map(|_| ())
    }
    unsafe fn copy_out(&self, _: Stream, _: *mut u8, _: Address, _: usize) -> Result<()> {
        self.0.call("copy_out").map(|_| ())
    }
    unsafe fn launch(&self, _stream: Stream, _launch: &Launch) -> Result<()> {
        self.0.call("launch").map(|_| ())
    }
    fn capture_begin(&self, _stream: Stream) -> Result<()> {
        self.0.call("capture_begin").map(|_| ())
    }
    fn capture_end(&self, _stream: Stream) -> Result<Graph> {
        self.0.call("capture_end").map(Graph)
    }
    unsafe fn graph_launch(&self, _stream: Stream, _graph: Graph) -> Result<()> {
        self.0.call("graph_launch").map(|_| ())
    }
    fn graph_free(&self, _graph: Graph) {
        let _ = self.0.call("graph_free");
    }
}

struct Bench {
    recorder: Arc<Recorder>,
    device: Arc<dyn Device>,
    queue: Arc<dyn Queue>,
}

impl Bench {
    fn new(options: &OpenOptions) -> Bench {
        let recorder = Recorder::new();
        let backend = CudaBackend::on(Arc::new(Shared(Arc::clone(&recorder))));
        let device = backend.open(0, options).unwrap();
        let queue = device.queue(QueueKind::Compute).unwrap();
        Bench { recorder, device, queue }
    }

    fn floats(&self, label: &str) -> Result<Tensor> {
        let desc = BufferDesc { label, size_bytes: 128, kind: MemoryKind::Device };
        let buffer = self.device.alloc(&desc)?;
        Tensor::new(buffer, 0, Shape::new(&[4, 8]), DType::F32, RowCodec::Plain)
    }

    /// Two copies.
    fn program(&self) -> Program {
        let [a, b, c] = ["a", "b", "c"].map(|label| self.floats(label).unwrap());
        let mut builder = Builder::new();
        builder.push(Map { out: b.clone(), f: MapFn::Copy(a) }).unwrap();
        builder.push(Map { out: c, f: MapFn::Copy(b) }).unwrap();
        builder.finish().unwrap()
    }

    fn plan(&self, mode: Mode, profile: Profile) -> Arc<dyn Plan> {
        let options = CompileOptions { label: "two copies".into(), mode, profile };
        self.device.compile(&self.program(), &options).unwrap()
    }

    fn run(&self, plan: &Arc<dyn Plan>) -> Result<String> {
        self.recorder.take();
        let point = self.queue.submit(plan, &[])?;
        self.queue.wait(&point, Duration::from_secs(1))?;
        Ok(self.recorder.take())
    }
}

#[test]
fn a_plan_is_captured_at_its_second_run_and_replayed_from_then_on() {
    let bench = Bench::new(&OpenOptions::default());
    let plan = bench.plan(Mode::Replay, Profile::Off);
    assert_eq!(plan.stats().launches, 2);
    for calls in [
        "launch launch",
        "capture_begin launch launch capture_end graph_launch",
        "graph_launch",
        "graph_launch",
    ] {
        assert_eq!(bench.run(&plan).unwrap(), calls);
    }
    drop(plan);
    assert!(bench.recorder.take().starts_with("graph_free"));
}

/// Two machines' worth of devices, under numbers with a gap: some are hidden from a process.
#[derive(Debug)]
struct Several(Vec<Shared>);

impl Platform for Several {
    fn devices(&self) -> Result<Vec<Facts>> {
        Ok(self.0.iter().map(|device| device.facts().clone()).collect())
    }
    fn findings(&self) -> Vec<String> {
        vec![format!("{} GPUs", self.0.len())]
    }
    fn open(&self, ordinal: u32, _settings: &[(String, String)]) -> Result<Arc<dyn Driver>> {
        let device = self.0.iter().find(|device| device.facts().ordinal == ordinal);
        Ok(Arc::new(device.expect("only numbers that were listed are opened").clone()))
    }
}

#[test]
fn every_gpu_opens_under_its_number_and_no_other() {
    let device = |ordinal| {
        let facts = Recorder::new().facts.clone().map(|facts| Facts { ordinal, ..facts });
        Shared(Arc::new(Recorder { facts, ..Recorder::default() }))
    };
    let backend = CudaBackend::on(Arc::new(Several(vec![device(0), device(1), device(3)])));
    let listed: Vec<u32> = backend.devices().unwrap().iter().map(|info| info.ordinal).collect();
    assert_eq!(listed, [0, 1, 3]);
    for ordinal in listed {
        let opened = backend.open(ordinal, &OpenOptions::default()).unwrap();
        assert_eq!(opened.info().ordinal, ordinal);
    }
    let error = backend.open(2, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.to_string(), "no device cuda:2: 3 GPUs");
}

#[test]
fn rungs_captured_largest_first_share_one_arena_and_replay_without_allocating() {
    let bench = Bench::new(&OpenOptions::default());
    let floats = |rows: u32| {
        let shape = Shape::new(&[rows, 8]);
        let desc = BufferDesc {
            label: "rows",
            size_bytes: shape.elements() * 4,
            kind: MemoryKind::Device,
        };
        let buffer = bench.device.alloc(&desc).unwrap();
        Tensor::new(buffer, 0, shape, DType::F32, RowCodec::Plain).unwrap()
    };
    // Two copies through a temporary, so that there is something in the arena.
    let rung = |rows: u32| {
        let (from, to) = (floats(rows), floats(rows));
        let mut builder = Builder::new();
        let between = builder.temp(DType::F32, &[rows, 8]);
        builder.push(Map { out: between.clone(), f: MapFn::Copy(from) }).unwrap();
        builder.push(Map { out: to, f: MapFn::Copy(between) }).unwrap();
        builder.finish().unwrap()
    };
    let programs = [64, 8, 1].map(rung);
    let lowered = programs.each_ref().map(|program| program.lower(&|_| true).unwrap());
    let bytes = lowered[0].arena_bytes();
    assert!(lowered.iter().all(|smaller| smaller.arena_bytes() <= bytes));
    let desc = BufferDesc { label: "arena", size_bytes: bytes, kind: MemoryKind::Device };
    let arena = bench.device.alloc(&desc).unwrap();
    let used = bench.device.memory().used_bytes;
    bench.recorder.take();
    let plans = programs.map(|program| {
        let options =
            CompileOptions { label: "rung".into(), mode: Mode::Replay, profile: Profile::Off };
        hal::compile(&*bench.device, &program, Some(&arena), &options).unwrap()
    });
    assert_eq!((bench.recorder.take().as_str(), bench.device.memory().used_bytes), ("", used));
    for plan in &plans {
        assert_eq!(bench.run(plan).unwrap(), "launch launch");
        let captured = "capture_begin launch launch capture_end graph_launch";
        assert_eq!(bench.run(plan).unwrap(), captured);
    }
    for _ in 0..3 {
        for plan in plans.iter().rev() {
            assert_eq!(bench.run(plan).unwrap(), "graph_launch");
        }
    }
    assert_eq!(bench.device.memory().used_bytes, used);
}

/// A plan whose op needs a workspace that grows with the rows.
fn picks(bench: &Bench, rows: u32) -> Result<Arc<dyn Plan>> {
    let tensor = |dims: &[u32], dtype: DType| {
        let shape = Shape::new(dims);
        let size_bytes = shape.elements() * dtype.size_bytes();
        let desc = BufferDesc { label: "logits", size_bytes, kind: MemoryKind::Device };
        Tensor::new(bench.device.alloc(&desc)?, 0, shape, dtype, RowCodec::Plain)
    };
    // 3 pieces a row: their candidates are the workspace.
    let (x, out) = (tensor(&[rows, 20_000], DType::F32)?, tensor(&[rows, 64], DType::I32)?);
    let mut builder = Builder::new();
    builder.push(TopK { out, x, count: None, order: Order::Index })?;
    let options =
        CompileOptions { label: "picks".into(), mode: Mode::Replay, profile: Profile::Off };
    bench.device.compile(&builder.finish()?, &options)
}

/// Every launch its own: no counters lie in front of a workspace.
fn apart() -> OpenOptions {
    let settings = vec![("join".to_owned(), "off".to_owned())];
    OpenOptions { settings, ..OpenOptions::default() }
}

#[test]
fn plans_share_a_workspace_that_is_large_enough_and_take_turns() {
    let bench = Bench::new(&apart());
    let workspace = |rows| {
        let before = bench.device.memory().used_bytes;
        let plan = picks(&bench, rows).unwrap();
        let own = bench.device.memory().used_bytes - before - u64::from(rows) * 4 * (20_000 + 64);
        assert_eq!(plan.stats().workspace_bytes, u64::from(rows) * 3 * 64 * 4);
        (plan, own)
    };
    let (large, first) = workspace(2);
    let (small, second) = workspace(1);
    let (larger, third) = workspace(3);
    assert_eq!([first, second, third], [2 * 768, 0, 3 * 768]);
    let other = bench.device.queue(QueueKind::Compute).unwrap();
    bench.run(&large).unwrap();
    bench.recorder.take();
    other.submit(&small, &[]).unwrap();
    assert_eq!(bench.recorder.take(), "wait_event launch launch");
    other.submit(&larger, &[]).unwrap();
    assert_eq!(bench.recorder.take(), "launch launch");
    // It goes with the last plan that has it.
    let used = bench.device.memory().used_bytes;
    drop(larger);
    other.wait(&other.submit(&small, &[]).unwrap(), Duration::from_secs(60)).unwrap();
    assert_eq!(used - bench.device.memory().used_bytes, 3 * (768 + 4 * (20_000 + 64)));
}

#[test]
fn a_plan_whose_workspace_does_not_fit_is_refused_when_it_is_compiled() {
    let bench = Bench::new(&apart());
    let tensor = |dims: &[u32], dtype: DType| {
        let shape = Shape::new(dims);
        let size_bytes = shape.elements() * dtype.size_bytes();
        let desc = BufferDesc { label: "logits", size_bytes, kind: MemoryKind::Device };
        Tensor::new(bench.device.alloc(&desc).unwrap(), 0, shape, dtype, RowCodec::Plain).unwrap()
    };
    // Candidates of 25 pieces take 4 * 25 * 2048 bytes; the recorder's GPU has 1 MiB.
    let (x, out) = (tensor(&[1, 200_000], DType::F32), tensor(&[1, 2048], DType::I32));
    let filler = tensor(&[15_000], DType::F32);
    let mut builder = Builder::new();
    builder.push(TopK { out, x, count: None, order: Order::Index }).unwrap();
    let options =
        CompileOptions { label: "picks".into(), mode: Mode::Replay, profile: Profile::Off };
    let compiled = bench.device.compile(&builder.finish().unwrap(), &options);
    let error = compiled.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let text = error.to_string();
    assert!(text.starts_with("workspace of picks: 204800 bytes wanted, 8"), "{text}");
    assert!(text.contains("of the GPU's 1048576 are in use"), "{text}");
    drop(filler);
}

#[test]
fn an_eager_plan_is_never_captured() {
    let bench = Bench::new(&OpenOptions::default());
    let plan = bench.plan(Mode::Eager, Profile::Off);
    for _ in 0..3 {
        assert_eq!(bench.run(&plan).unwrap(), "launch launch");
    }
}

#[test]
fn where_capture_is_refused_plans_run_eagerly() {
    for (call, calls) in [
        ("capture_begin", "capture_begin launch launch"),
        ("capture_end", "capture_begin launch launch capture_end launch launch"),
    ] {
        let bench = Bench::new(&OpenOptions::default());
        let plan = bench.plan(Mode::Replay, Profile::Off);
        bench.run(&plan).unwrap();
        bench.recorder.fail(&[(call, ErrorKind::Driver)]);
        assert_eq!(bench.run(&plan).unwrap(), calls);
        assert_eq!(bench.run(&plan).unwrap(), "launch launch");
    }
}

#[test]
fn a_failed_launch_loses_the_device_with_the_label_of_the_plan() {
    for call in ["launch", "record", "query"] {
        let bench = Bench::new(&OpenOptions::default());
        let plan = bench.plan(Mode::Eager, Profile::Off);
        bench.recorder.fail(&[(call, ErrorKind::Driver)]);
        let error = bench.run(&plan).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{call}: {error}");
        assert_eq!(error.to_string(), format!("two copies: {call} (code 700)"));
        // For good, also where the driver has recovered.
        bench.recorder.fail(&[]);
        let later = bench.floats("later").unwrap_err();
        assert_eq!((later.kind(), later.to_string()), (ErrorKind::DeviceLost, error.to_string()));
    }
}

#[test]
fn memory_the_driver_refuses_is_named_and_nothing_is_lost() {
    let bench = Bench::new(&OpenOptions::default());
    let used = bench.device.memory().used_bytes;
    bench.recorder.fail(&[("alloc", ErrorKind::OutOfMemory)]);
    let error = bench.floats("the cache").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().starts_with("the cache: 128 bytes wanted, "), "{error}");
    assert_eq!(bench.device.memory().used_bytes, used);
    bench.recorder.fail(&[]);
    bench.floats("the cache").unwrap();
}

#[test]
fn a_plan_on_another_queue_waits_for_its_last_run() {
    let bench = Bench::new(&OpenOptions::default());
    let other = bench.device.queue(QueueKind::Compute).unwrap();
    let plan = bench.plan(Mode::Eager, Profile::Off);
    bench.run(&plan).unwrap();
    other.submit(&plan, &[]).unwrap();
    assert_eq!(bench.recorder.take(), "wait_event launch launch");
}

#[test]
fn a_measured_plan_gives_every_op_to_the_sink() {
    let ring = Arc::new(Ring::new(16));
    let bench = Bench::new(&OpenOptions { sink: Some(ring.clone()), settings: Vec::new() });
    let plan = bench.plan(Mode::Replay, Profile::Ops);
    bench.run(&plan).unwrap();
    let (events, dropped) = ring.take();
    assert_eq!((events.len(), dropped), (2, 0));
    assert!(events.iter().all(|event| event.op == "map" && event.end_ns > event.begin_ns));
    assert_eq!(events[0].end_ns, events[1].begin_ns);
}

#[test]
fn where_there_is_no_driver_there_are_no_devices_and_a_reason() {
    let nothing = CudaBackend::on(Arc::new(Shared(Arc::new(Recorder::default()))));
    assert_eq!(nothing.devices().unwrap(), []);
    let error = nothing.open(0, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "no device cuda:0: nothing is installed");
}

#[test]
fn the_native_driver_answers_on_a_machine_without_one() {
    let native = CudaBackend::default();
    let devices = native.devices().unwrap();
    assert!(!native.doctor().is_empty());
    // A number that no machine has.
    let error = native.open(4096, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{} devices: {error}", devices.len());
}
