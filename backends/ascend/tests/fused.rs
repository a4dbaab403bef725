//! The vendor's fused operators: used where they are there and the documents allow the operands, given up
//! where they refuse or nobody wants them, and the same values either way.

mod common;

use std::sync::Arc;
use std::time::Duration;

use backend_ascend::sys::operators::Operator;
use hal::op::{Op, Reduce, ReduceFn, Route};
use hal::{
    BufferDesc, Builder, CompileOptions, DType, Device, Encoding, MemoryKind, Mode, Profile,
    QueueKind, RowCodec, Shape, Tensor, WeightSpec,
};
use half::bf16;
use kernels::case::{Random, random_weight};

use common::{SOCS, Sim};

const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: u32 = 5;
const WIDTH: u32 = 128;
const EXPERTS: u32 = 12;
const CHOSEN: u32 = 3;

/// Ops in a plan, and its launches.
struct Ran {
    bytes: Vec<Vec<u8>>,
    launches: u32,
}

fn tensor(device: &dyn Device, dtype: DType, dims: &[u32]) -> Tensor {
    let shape = Shape::new(dims);
    let size_bytes = shape.elements() * dtype.size_bytes();
    let desc = BufferDesc { label: "fused", size_bytes, kind: MemoryKind::Device };
    Tensor::new(device.alloc(&desc).unwrap(), 0, shape, dtype, RowCodec::Plain).unwrap()
}

/// Runs one op three times (eager, captured, replayed) and brings `outs` back.
fn run(device: &Arc<dyn Device>, op: Op, inputs: &[(&Tensor, Vec<u8>)], outs: &[&Tensor]) -> Ran {
    let queue = device.queue(QueueKind::Compute).unwrap();
    for (tensor, bytes) in inputs {
        let mut slot = device.host_slot(bytes.len() as u64).unwrap();
        slot.bytes_mut().copy_from_slice(bytes);
        let point = queue.upload(tensor, slot, &[]).unwrap();
        queue.wait(&point, PATIENCE).unwrap();
    }
    let mut builder = Builder::new();
    builder.push(op).unwrap();
    let program = builder.finish().unwrap();
    let options =
        CompileOptions { label: "fused".into(), mode: Mode::Replay, profile: Profile::Off };
    let plan = hal::compile(&**device, &program, None, &options).unwrap();
    for _ in 0..3 {
        queue.submit(&plan, &[]).unwrap();
    }
    let bring = |out: &&Tensor| {
        let bytes = u64::from(out.rows()) * out.row_bytes();
        let point = queue.download(out, device.host_slot(bytes).unwrap(), &[]).unwrap();
        queue.wait(&point, PATIENCE).unwrap();
        queue.reclaim(&point).unwrap().bytes().to_vec()
    };
    Ran { bytes: outs.iter().map(bring).collect(), launches: plan.stats().launches }
}

fn floats(random: &mut Random, count: u32) -> Vec<f32> {
    (0..count).map(|_| random.gauss() as f32).collect()
}

fn as_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The end of a hyper-connection site, `[n, 5, width]` mixed to `[n, 4, width]`.
fn site(device: &Arc<dyn Device>, width: u32) -> Ran {
    let x = tensor(&**device, DType::Bf16, &[ROWS, 5 * width]);
    let mixer = tensor(&**device, DType::F32, &[ROWS, 24]);
    let out = tensor(&**device, DType::Bf16, &[ROWS, 4 * width]);
    let mut random = Random::new(7);
    let values = floats(&mut random, ROWS * 5 * width);
    let bytes = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    let weights = as_f32(&floats(&mut random, ROWS * 24));
    let op = Reduce {
        out: out.columns(0, &[4, width]),
        x: x.columns(0, &[5, width]),
        f: ReduceFn::Mix(mixer.columns(4, &[5, 4])),
    };
    run(device, op.into(), &[(&x, bytes), (&mixer, weights)], &[&out])
}

/// The router by score; one row is padding.
fn route(device: &Arc<dyn Device>) -> Ran {
    let x = tensor(&**device, DType::F32, &[ROWS, WIDTH]);
    let bias = tensor(&**device, DType::F32, &[EXPERTS]);
    let count = tensor(&**device, DType::I32, &[ROWS, 1]);
    let ids = tensor(&**device, DType::I32, &[ROWS, CHOSEN]);
    let shares = tensor(&**device, DType::F32, &[ROWS, CHOSEN]);
    let spec = WeightSpec {
        name: "gate".into(),
        groups: 1,
        rows: EXPERTS,
        cols: WIDTH,
        segment_rows: EXPERTS,
        encoding: Encoding::Plain(DType::F32),
    };
    let gate = device.load_weight(&mut random_weight(&mut Random::new(3), spec)).unwrap();
    let mut random = Random::new(5);
    let values = as_f32(&floats(&mut random, ROWS * WIDTH));
    let biases = as_f32(&floats(&mut random, EXPERTS));
    let counts: Vec<u8> = (0..ROWS as i32)
        .flat_map(|row| (if row == 2 { 0 } else { EXPERTS as i32 }).to_le_bytes())
        .collect();
    let op = Route {
        ids: ids.clone(),
        shares: shares.clone(),
        x: x.clone(),
        gate,
        bias: bias.clone(),
        count: count.clone(),
        scale: 1.5,
    };
    let inputs = [(&x, values), (&bias, biases), (&count, counts)];
    run(device, op.into(), &inputs, &[&ids, &shares])
}

/// Largest distance of two lists of bf16, in units of the last place.
fn steps_apart(a: &[u8], b: &[u8]) -> i32 {
    let order = |b: &[u8]| {
        let bits = i32::from(i16::from_le_bytes([b[0], b[1]]));
        if bits < 0 { i32::from(i16::MIN) - bits } else { bits }
    };
    let pairs = a.chunks(2).zip(b.chunks(2));
    pairs.map(|(a, b)| (order(a) - order(b)).abs()).max().unwrap_or(0)
}

#[test]
fn the_end_of_a_site_is_one_operator_where_it_may_be() {
    for (name, soc) in SOCS {
        let sim = Sim::new(soc, 1);
        let fused = site(&sim.device(&[]), WIDTH);
        let composed = site(&sim.device(&[("operators", "composed")]), WIDTH);
        assert_eq!(fused.launches, 1, "{name}");
        assert!(composed.launches > 1, "{name}: {} launches", composed.launches);
        let apart = steps_apart(&fused.bytes[0], &composed.bytes[0]);
        assert!(apart <= 1, "{name}: {apart} steps apart");
        // A width that no page allows is composed and not tried: trying would be a violation.
        assert!(site(&sim.device(&[]), 96).launches > 1, "{name}");
        sim.assert_clean();
    }
}

#[test]
fn an_operator_without_kernels_gives_way_to_its_composition() {
    let sim = Sim::new(2, 1);
    let composed = sim.device(&[("operators", "composed")]);
    let (site_composed, route_composed) = (site(&composed, WIDTH), route(&composed));
    drop(composed);
    let device = sim.device(&[]);
    sim.remove(Operator::MhcPost);
    let given_up = site(&device, WIDTH);
    assert_eq!(given_up.bytes, site_composed.bytes);
    assert_eq!(given_up.launches, site_composed.launches);
    sim.remove(Operator::MoeGatingTopKV2);
    assert_eq!(route(&device).bytes, route_composed.bytes);
    drop(device);
    sim.assert_clean();
}

#[test]
fn the_gating_operator_chooses_the_experts_of_the_composition() {
    for (name, soc) in SOCS {
        let sim = Sim::new(soc, 1);
        let fused = route(&sim.device(&[]));
        let composed = route(&sim.device(&[("operators", "composed")]));
        assert_eq!(fused.bytes[0], composed.bytes[0], "{name}: other experts");
        let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        for (a, b) in fused.bytes[1].chunks(4).zip(composed.bytes[1].chunks(4)) {
            assert!((number(a) - number(b)).abs() <= 1e-6, "{name}: {} {}", number(a), number(b));
        }
        // Only the 950 has the score function.
        assert_eq!(fused.launches < composed.launches, soc == 2, "{name}");
        sim.assert_clean();
    }
}
