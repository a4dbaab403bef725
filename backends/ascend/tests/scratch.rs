//! Scratch: plans share what is large enough and take turns, so that many shapes of a step cost what the largest does.

mod common;

use std::sync::Arc;
use std::time::Duration;

use hal::op::{Order, TopK};
use hal::{
    BufferDesc, Builder, CompileOptions, DType, Device, MemoryKind, Mode, Plan, Profile, QueueKind,
    RowCodec, Shape, Tensor,
};

use common::{SOCS, Sim};

const PATIENCE: Duration = Duration::from_secs(60);

fn tensor(device: &dyn Device, dims: &[u32], dtype: DType) -> Tensor {
    let shape = Shape::new(dims);
    let size_bytes = shape.elements() * 4;
    let desc = BufferDesc { label: "scratch", size_bytes, kind: MemoryKind::Device };
    Tensor::new(device.alloc(&desc).unwrap(), 0, shape, dtype, RowCodec::Plain).unwrap()
}

/// A plan that needs scratch, and what compiling it took of the device.
fn picks(device: &Arc<dyn Device>, rows: u32) -> (Arc<dyn Plan>, u64) {
    let x = tensor(&**device, &[rows, 64], DType::F32);
    let out = tensor(&**device, &[rows, 4], DType::I32);
    let mut builder = Builder::new();
    builder.push(TopK { out, x, count: None, order: Order::Index }).unwrap();
    let options =
        CompileOptions { label: "picks".into(), mode: Mode::Replay, profile: Profile::Off };
    let program = builder.finish().unwrap();
    let before = device.memory().used_bytes;
    let plan = device.compile(&program, &options).unwrap();
    (plan, device.memory().used_bytes - before)
}

#[test]
fn plans_share_scratch_that_is_large_enough_and_take_turns() {
    for (name, soc) in SOCS {
        let sim = Sim::new(soc, 1);
        let device = sim.device(&[]);
        // Tables are made once and stay.
        drop(picks(&device, 1));
        let (large, first) = picks(&device, 64);
        let (small, second) = picks(&device, 8);
        let (larger, third) = picks(&device, 128);
        let needs = |plan: &Arc<dyn Plan>| plan.stats().workspace_bytes;
        assert!(needs(&small) > 0 && needs(&small) < needs(&large), "{name}");
        assert_eq!((first, second, third), (needs(&large), 0, needs(&larger)), "{name}");
        // On two queues without a wait in between: the simulator reports two that write one place.
        let queues =
            [QueueKind::Compute, QueueKind::Compute].map(|kind| device.queue(kind).unwrap());
        let points = [(&queues[0], &large), (&queues[1], &small), (&queues[0], &large)]
            .map(|(queue, plan)| (queue, queue.submit(plan, &[]).unwrap()));
        for (queue, point) in points {
            queue.wait(&point, PATIENCE).unwrap();
        }
        drop((large, small, larger, queues, device));
        sim.assert_clean();
    }
}
