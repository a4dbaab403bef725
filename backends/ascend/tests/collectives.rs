//! Collectives between devices of one process: every form gives what its definition says on 1, 2 and 4
//! simulated devices of every generation, eagerly and replayed.

mod common;

use std::sync::Arc;
use std::time::Duration;

use backend_ascend::AscendCommunicator;
use hal::op::{AllGather, AllReduce, AllToAll, Communicator, Op, ReduceScatter};
use hal::{
    Backend, BufferDesc, Builder, CompileOptions, DType, Device, MemoryKind, Mode, OpenOptions,
    Profile, Queue, QueueKind, RowCodec, Shape, Tensor,
};

use common::{SOCS, Sim};

const WIDTH: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);

fn tensor(device: &dyn Device, rows: u32) -> Tensor {
    let shape = Shape::new(&[rows, WIDTH]);
    let size_bytes = shape.elements() * 4;
    let kind = MemoryKind::Device;
    let desc = BufferDesc { label: "collectives", size_bytes, kind };
    let buffer = device.alloc(&desc).unwrap();
    Tensor::new(buffer, 0, shape, DType::F32, RowCodec::Plain).unwrap()
}

/// What rank `rank` brings: rows of numbers that name rank and place.
fn brought(rank: u32, rows: u32) -> Vec<f32> {
    (0..rows * WIDTH).map(|at| (rank * 100 + at) as f32).collect()
}

/// Builds an op of rank's end; rows in, rows out.
type Build = fn(Tensor, Tensor, Arc<dyn Communicator>) -> Op;
/// What a rank gets, of what all brought.
type Expect = fn(&[Vec<f32>], usize) -> Vec<f32>;

fn summed(all: &[Vec<f32>]) -> Vec<f32> {
    (0..all[0].len()).map(|at| all.iter().map(|one| one[at]).sum()).collect()
}

fn share(values: &[f32], rank: usize, ranks: usize) -> &[f32] {
    let size = values.len() / ranks;
    &values[rank * size..(rank + 1) * size]
}

const FORMS: [(&str, Build, Expect); 4] = [
    (
        "all_reduce",
        |out, x, communicator| AllReduce { out, x, communicator }.into(),
        |all, _| summed(all),
    ),
    (
        "all_gather",
        |out, x, communicator| AllGather { out, x, communicator }.into(),
        |all, _| all.concat(),
    ),
    (
        "reduce_scatter",
        |out, x, communicator| ReduceScatter { out, x, communicator }.into(),
        |all, rank| share(&summed(all), rank, all.len()).to_vec(),
    ),
    (
        "all_to_all",
        |out, x, communicator| AllToAll { out, x, communicator }.into(),
        |all, rank| all.iter().flat_map(|one| share(one, rank, all.len()).to_vec()).collect(),
    ),
];

struct Rank {
    device: Arc<dyn Device>,
    queue: Arc<dyn Queue>,
    end: Arc<AscendCommunicator>,
}

fn check(ranks: &[Rank], (name, build, expect): (&str, Build, Expect)) {
    let size = ranks.len() as u32;
    let rows = 4 * size;
    let all: Vec<Vec<f32>> = (0..size).map(|rank| brought(rank, rows)).collect();
    let mut runs = Vec::new();
    for (rank, Rank { device, queue, end }) in ranks.iter().enumerate() {
        let out_rows = expect(&all, rank).len() as u32 / WIDTH;
        let (x, out) = (tensor(&**device, rows), tensor(&**device, out_rows));
        let mut slot = device.host_slot(u64::from(rows * WIDTH * 4)).unwrap();
        let bytes: Vec<u8> = all[rank].iter().flat_map(|x| x.to_le_bytes()).collect();
        slot.bytes_mut().copy_from_slice(&bytes);
        queue.upload(&x, slot, &[]).unwrap();
        let mut builder = Builder::new();
        let end: Arc<dyn Communicator> = Arc::clone(end) as _;
        builder.push(build(out.clone(), x, end)).unwrap();
        let options =
            CompileOptions { label: name.into(), mode: Mode::Replay, profile: Profile::Off };
        let program = builder.finish().unwrap();
        runs.push((hal::compile(&**device, &program, None, &options).unwrap(), out));
    }
    // Eagerly, captured, replayed: every rank enqueues before any waits.
    for _ in 0..3 {
        for (Rank { queue, .. }, (plan, _)) in ranks.iter().zip(&runs) {
            queue.submit(plan, &[]).unwrap();
        }
        for (rank, (Rank { device, queue, .. }, (_, out))) in ranks.iter().zip(&runs).enumerate() {
            let bytes = u64::from(out.rows()) * out.row_bytes();
            let point = queue.download(out, device.host_slot(bytes).unwrap(), &[]).unwrap();
            queue.wait(&point, PATIENCE).unwrap();
            let slot = queue.reclaim(&point).unwrap();
            let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let got: Vec<f32> = slot.bytes().chunks(4).map(number).collect();
            assert_eq!(got, expect(&all, rank), "{name}, rank {rank} of {size}");
        }
    }
}

#[test]
fn collectives_give_what_their_definitions_say() {
    let sizes = SOCS.into_iter().flat_map(|(_, soc)| [1, 2, 4].map(|size| (soc, size)));
    for (soc, size) in sizes {
        let sim = Sim::new(soc, size);
        let backend = sim.backend();
        let ordinals: Vec<u32> = (0..size).collect();
        let ends = backend.communicators(&ordinals).unwrap();
        let open = |ordinal| backend.open(ordinal, &OpenOptions::default()).unwrap();
        let ranks: Vec<Rank> = ends
            .into_iter()
            .zip(ordinals)
            .map(|(end, ordinal)| {
                let device = open(ordinal);
                let queue = device.queue(QueueKind::Compute).unwrap();
                Rank { device, queue, end }
            })
            .collect();
        for form in FORMS {
            check(&ranks, form);
        }
        drop(ranks);
        drop(backend);
        sim.assert_clean();
    }
}
