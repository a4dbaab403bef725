//! Every mistake a caller of the vendor's interface could make is found: the same work is done with one
//! mistake at a time, made at the simulator's door as if the backend had made it. Found means that the
//! simulator writes it down, a call fails, or the result differs from the clean one.

mod common;

use std::sync::Arc;
use std::time::Duration;

use acl_sim::mutation::{ALL, Mutation};
use hal::op::{AllReduce, Communicator, Map, MapFn, Matmul, Order, RowGroups, TopK};
use hal::{
    Backend, BufferDesc, Builder, CompileOptions, DType, Device, Encoding, MemoryKind, Mode,
    OpenOptions, Profile, QueueKind, Result, RowCodec, Shape, Tensor, WeightSpec,
};
use kernels::case::{Random, random_weight};

use common::Sim;

const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: u32 = 6;
const WIDTH: u32 = 40;
/// Calls of this work that are for nothing: leaving them out is no mistake.
const NEEDLESS: [(Mutation, u64); 5] = [
    // The third and fourth waits repeat the second: one queue for the same run.
    (Mutation::DroppedWait, 3),
    // The second queue that is dropped is idle, and the host knows it.
    (Mutation::DroppedSynchronise, 1),
    // All of these is written before it is read.
    (Mutation::DroppedMemset, 1),
    (Mutation::DroppedMemset, 3),
    (Mutation::DroppedMemset, 4),
];

fn tensor(device: &dyn Device, dtype: DType, dims: &[u32]) -> Result<Tensor> {
    let shape = Shape::new(dims);
    let size_bytes = shape.elements() * dtype.size_bytes();
    let kind = MemoryKind::Device;
    let buffer = device.alloc(&BufferDesc { label: "mutations", size_bytes, kind })?;
    Tensor::new(buffer, 0, shape, dtype, RowCodec::Plain)
}

/// Values with ties, so that an unstable sort shows.
fn input() -> Vec<u8> {
    (0..ROWS * WIDTH).flat_map(|i| (((i * 7) % 11) as f32 - 5.3).to_le_bytes()).collect()
}

/// Uploads on one queue, computes on another (three times: eager, captured, replayed), downloads on the
/// first: what came back.
fn work(device: &Arc<dyn Device>, end: Arc<dyn Communicator>) -> Result<Vec<u8>> {
    let dims = [ROWS, WIDTH];
    // Read without ever being written: memory comes as zeros.
    let zeros = tensor(&**device, DType::F32, &dims)?;
    let x = tensor(&**device, DType::F32, &dims)?;
    let y = tensor(&**device, DType::F32, &dims)?;
    let product = tensor(&**device, DType::F32, &dims)?;
    let summed = tensor(&**device, DType::F32, &dims)?;
    let picks = tensor(&**device, DType::I32, &[ROWS, 8])?;
    let spec = WeightSpec {
        name: "w".into(),
        groups: 1,
        rows: WIDTH,
        cols: WIDTH,
        segment_rows: WIDTH,
        encoding: Encoding::Plain(DType::F32),
    };
    let weight = device.load_weight(&mut random_weight(&mut Random::new(3), spec))?;
    let mut builder = Builder::new();
    let half = x.row_range(0, 1);
    builder.push(Map { out: y.clone(), f: MapFn::ExpMinus(x.clone(), half) })?;
    let groups = RowGroups::Cyclic;
    builder.push(Matmul { out: product.clone(), x: y, weight, groups })?;
    builder.push(AllReduce { out: summed.clone(), x: product.clone(), communicator: end })?;
    builder.push(TopK { out: picks.clone(), x: x.clone(), count: None, order: Order::Value })?;
    let options =
        CompileOptions { label: "mutated".into(), mode: Mode::Replay, profile: Profile::Off };
    let plan = hal::compile(&**device, &builder.finish()?, None, &options)?;
    let (transfer, compute) =
        (device.queue(QueueKind::Transfer)?, device.queue(QueueKind::Compute)?);
    let mut all = Vec::new();
    let mut last = None;
    for _ in 0..3 {
        let mut slot = device.host_slot(u64::from(ROWS * WIDTH * 4))?;
        slot.bytes_mut().copy_from_slice(&input());
        let up = transfer.upload(&x, slot, last.as_slice())?;
        let ran = compute.submit(&plan, &[up])?;
        for out in [&summed, &picks, &zeros] {
            let bytes = u64::from(out.rows()) * out.row_bytes();
            let down = transfer.download(out, device.host_slot(bytes)?, &[ran])?;
            transfer.wait(&down, PATIENCE)?;
            all.extend_from_slice(transfer.reclaim(&down)?.bytes());
            last = Some(down);
        }
    }
    // Nobody waits for the last one: the queue is dropped on it.
    compute.submit(&plan, last.as_slice())?;
    Ok(all)
}

/// One machine with one mistake ordered; what was wrong, and what came back.
fn run(mutation: Option<(usize, u64)>) -> (Vec<String>, Result<Vec<u8>>, bool) {
    let sim = Sim::new(0, 1);
    let backend = sim.backend();
    let end = backend.communicators(&[0]).expect("a group of one").remove(0);
    let device = backend.open(0, &OpenOptions::default()).expect("the simulated device opens");
    drop(backend);
    if let Some((number, calls)) = mutation {
        let mutate: extern "C" fn(u32, u64) = sim.symbol("acl_sim_mutate");
        mutate(number as u32, calls);
    }
    let got = work(&device, end);
    drop(device);
    let pending: extern "C" fn() -> u32 = sim.symbol("acl_sim_is_pending");
    let made = pending() == 0;
    (sim.violations(), got, made)
}

#[test]
fn every_mistake_is_found() {
    let (violations, clean, _) = run(None);
    assert!(violations.is_empty(), "the clean run: {violations:?}");
    let clean = clean.expect("the clean run works");
    let mut unfound: Vec<String> = Vec::new();
    for (number, mutation) in ALL.iter().enumerate() {
        // The first call of the kind and later ones.
        let mut made_once = false;
        for calls in [0, 1, 3, 4] {
            if NEEDLESS.contains(&(*mutation, calls)) {
                continue;
            }
            let (violations, got, made) = run(Some((number, calls)));
            if !made {
                continue;
            }
            made_once = true;
            let differs = got.as_ref().map_or(true, |got| *got != clean);
            if violations.is_empty() && !differs {
                unfound.push(format!("{mutation:?} after {calls} calls"));
            }
        }
        if !made_once {
            unfound.push(format!("{mutation:?}: the work makes no such call"));
        }
    }
    assert!(unfound.is_empty(), "not found: {unfound:?}");
}
