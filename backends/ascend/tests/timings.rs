//! Op timings: a plan that measures gives its sink every op of every submission, in order, however it was
//! submitted; without a sink it measures nothing.

mod common;

use std::sync::Arc;
use std::time::Duration;

use hal::op::{Map, MapFn};
use hal::profile::Ring;
use hal::{
    BufferDesc, Builder, CompileOptions, DType, Device, MemoryKind, Mode, Profile, QueueKind,
    RowCodec, Shape, Sink, Tensor,
};

use common::{SOCS, Sim};

const PATIENCE: Duration = Duration::from_secs(60);
const OPS: usize = 3;
const SUBMISSIONS: usize = 4;

fn tensor(device: &dyn Device) -> Tensor {
    let shape = Shape::new(&[8, 16]);
    let desc =
        BufferDesc { label: "timings", size_bytes: shape.elements() * 4, kind: MemoryKind::Device };
    let buffer = device.alloc(&desc).unwrap();
    Tensor::new(buffer, 0, shape, DType::F32, RowCodec::Plain).unwrap()
}

/// Submits a plan of a few ops on two queues in turn.
fn submit(device: &Arc<dyn Device>) {
    let (x, y) = (tensor(&**device), tensor(&**device));
    let mut builder = Builder::new();
    for number in 0..OPS {
        builder.at(number as u16, "timed");
        builder.push(Map { out: y.clone(), f: MapFn::Add(x.clone(), x.clone()) }).unwrap();
    }
    let options =
        CompileOptions { label: "timed".into(), mode: Mode::Replay, profile: Profile::Ops };
    let program = builder.finish().unwrap();
    let plan = hal::compile(&**device, &program, None, &options).unwrap();
    let kinds = [QueueKind::Compute, QueueKind::Transfer];
    let queues = kinds.map(|kind| device.queue(kind).unwrap());
    let mut last = None;
    for number in 0..SUBMISSIONS {
        let queue = &queues[number % queues.len()];
        let point = queue.submit(&plan, last.as_slice()).unwrap();
        queue.wait(&point, PATIENCE).unwrap();
        last = Some(point);
    }
    // Two under way together.
    queues[0].submit(&plan, &[]).unwrap();
    let point = queues[0].submit(&plan, &[]).unwrap();
    queues[0].wait(&point, PATIENCE).unwrap();
}

#[test]
fn every_op_of_every_submission_is_timed_in_order() {
    for (name, soc) in SOCS {
        let sim = Sim::new(soc, 1);
        let ring = Arc::new(Ring::new(1024));
        let device = sim.device_to(&[], Some(Arc::clone(&ring) as Arc<dyn Sink>));
        submit(&device);
        drop(device);
        let (events, dropped) = ring.take();
        assert_eq!((events.len(), dropped), (OPS * (SUBMISSIONS + 2), 0), "{name}");
        for step in events.chunks(OPS) {
            for (number, event) in step.iter().enumerate() {
                assert_eq!((event.op, event.site.layer), ("map", number as u16), "{name}");
                assert!(event.begin_ns <= event.end_ns, "{name}: {event:?}");
            }
            assert!(step.windows(2).all(|pair| pair[0].end_ns <= pair[1].begin_ns), "{name}");
        }
        assert!(events.iter().any(|event| event.duration_ns() > 0), "{name}: no op took time");
        sim.assert_clean();
    }
}

#[test]
fn without_a_sink_nothing_is_measured() {
    let sim = Sim::new(0, 1);
    submit(&sim.device(&[]));
    sim.assert_clean();
}
