//! Plans: replay and eager, fused and lowered, one thread and three give the same bits; profiles name
//! every op.

mod common;
mod fused;

use std::sync::{Arc, Mutex};

use backend_cpu::CpuBackend;
use common::{Bench, LONG};
use fused::{Numerics, cases};
use hal::op::{Map, MapFn};
use hal::{
    Backend, Builder, CompileOptions, DType, DeviceInfo, Mode, Op, OpEvent, OpenOptions, Plan,
    Profile, RowCodec, Sink, Tensor,
};

const NUMERICS: [Numerics; 3] = [
    Numerics { dtype: DType::F32, served: false },
    Numerics { dtype: DType::Bf16, served: false },
    Numerics { dtype: DType::Bf16, served: true },
];

/// Compiles one op; `fused` decides whether Tier-1 entries may be used.
fn compile(bench: &Bench, op: &Op, mode: Mode, fused: bool) -> Arc<dyn Plan> {
    let mut builder = Builder::new();
    builder.push(op.clone()).unwrap_or_else(|error| panic!("{}: {error}", op.name()));
    let program = builder.finish().expect("one op");
    let supports = |op: &Op| (fused || op.is_primitive()) && bench.device.supports(op);
    let lowered = program.lower(&supports).unwrap_or_else(|error| panic!("{error}"));
    let arena = bench.alloc(lowered.arena_bytes().max(1));
    let bound = lowered.bind(&arena).expect("the arena has the size asked for");
    let options = CompileOptions { label: op.name().into(), mode, profile: Profile::Off };
    bench.device.compile(&bound, &options).expect("it compiles")
}

/// Runs from the same state each time and returns the bytes of all outputs.
fn run(bench: &Bench, plan: &Arc<dyn Plan>, outputs: &[Tensor], state: &[Vec<u8>]) -> Vec<Vec<u8>> {
    for (tensor, bytes) in outputs.iter().zip(state) {
        bench.upload(tensor, bytes);
    }
    bench.run(plan).unwrap_or_else(|error| panic!("{error}"));
    outputs.iter().map(|tensor| bench.download(tensor)).collect()
}

/// Outputs of all cases of one device, compiled one way.
fn outputs(
    settings: &[(&str, &str)],
    numerics: Numerics,
    mode: Mode,
    fused: bool,
) -> Vec<(String, Vec<Vec<u8>>)> {
    let bench = Bench::new(settings);
    let results = cases(&bench, numerics).into_iter().map(|case| {
        let state: Vec<Vec<u8>> = case.outputs.iter().map(|t| bench.download(t)).collect();
        let plan = compile(&bench, &case.op, mode, fused);
        let first = run(&bench, &plan, &case.outputs, &state);
        let again = run(&bench, &plan, &case.outputs, &state);
        assert_eq!(first, again, "{}: two runs", case.op.name());
        assert!(first != state, "{}: nothing was written", case.op.name());
        (case.op.name().to_owned(), first)
    });
    results.collect()
}

fn assert_same(a: &[(String, Vec<Vec<u8>>)], b: &[(String, Vec<Vec<u8>>)], what: &str) {
    assert_eq!(a.len(), b.len());
    for ((name, a), (_, b)) in a.iter().zip(b) {
        assert!(a == b, "{name}: {what}");
    }
}

#[test]
fn replay_equals_eager() {
    for numerics in NUMERICS {
        for fused in [false, true] {
            let eager = outputs(&[], numerics, Mode::Eager, fused);
            let replay = outputs(&[], numerics, Mode::Replay, fused);
            assert_same(&eager, &replay, "replay differs from eager");
        }
    }
}

#[test]
fn fused_equals_lowered_bitwise() {
    for isa in ["scalar", "avx2", "avx512", "amx"] {
        if common::open(&[("isa", isa)]).is_err() {
            println!("skipped: this processor has no {isa}");
            continue;
        }
        for numerics in NUMERICS {
            let settings = [("isa", isa)];
            let lowered = outputs(&settings, numerics, Mode::Replay, false);
            let fused = outputs(&settings, numerics, Mode::Replay, true);
            assert_same(
                &lowered,
                &fused,
                &format!("fused differs from lowered, {numerics:?} {isa}"),
            );
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    for numerics in NUMERICS {
        let one = outputs(&[("threads", "1")], numerics, Mode::Replay, true);
        let three = outputs(&[("threads", "3")], numerics, Mode::Replay, true);
        assert_same(&one, &three, "three threads differ from one");
    }
}

/// Keeps what it is given.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<OpEvent>>);

impl Sink for Memory {
    fn batch(&self, device: &DeviceInfo, events: &[OpEvent], dropped: u64) {
        assert_eq!((device.backend, dropped), ("cpu", 0));
        self.0.lock().unwrap().extend_from_slice(events);
    }
}

#[test]
fn a_profile_names_every_op_in_order() {
    let memory = Arc::new(Memory::default());
    let options = OpenOptions { sink: Some(memory.clone()), settings: Vec::new() };
    let bench = Bench::on(CpuBackend.open(0, &options).unwrap());
    let tensor = || bench.tensor(&[3, 9], DType::F32, RowCodec::Plain);
    let (x, y, z) = (tensor(), tensor(), tensor());
    let mut builder = Builder::new();
    builder.at(0, "first");
    builder.push(Map { out: y.clone(), f: MapFn::Copy(x.clone()) }).unwrap();
    builder.at(1, "second");
    builder.push(Map { out: z.clone(), f: MapFn::Add(x, y) }).unwrap();
    let options = CompileOptions { label: "p".into(), mode: Mode::Replay, profile: Profile::Ops };
    let program = builder.finish().unwrap();
    let plan = hal::compile(&*bench.device, &program, None, &options).unwrap();
    assert_eq!(plan.stats().launches, 2);
    let point = bench.queue.submit(&plan, &[]).unwrap();
    bench.queue.wait(&point, LONG).unwrap();
    let events = memory.0.lock().unwrap();
    let sites: Vec<_> = events.iter().map(|event| (event.site.layer, event.site.name)).collect();
    assert_eq!(sites, [(0, "first"), (1, "second")]);
    assert!(events.iter().all(|event| event.begin_ns <= event.end_ns));
    assert!(events[0].end_ns <= events[1].begin_ns);
}
