//! What a step costs the host: compiling its plan, and encoding and submitting it.
//!
//! The program has as many ops as a decode step of Flash in Tier 0 (2,851), each of a few elements, so
//! the device's share is small; the time until a submission is done is not counted. The null device is
//! the yardstick: what any backend's host side costs at least.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backend_null::NullBackend;
use backend_wgpu::WgpuBackend;
use criterion::{Criterion, criterion_group, criterion_main};
use hal::op::{Map, MapFn};
use hal::{
    Backend, BufferDesc, Builder, CompileOptions, DType, Device, MemoryKind, Mode, OpenOptions,
    Plan, Profile, Program, QueueKind, RowCodec, Shape, Tensor,
};

/// Ops of a decode step of Flash.
const OPS: usize = 2851;
/// How long a submission may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn program(device: &dyn Device) -> Program {
    let desc = BufferDesc { label: "x", size_bytes: 1024, kind: MemoryKind::Device };
    let buffer = device.alloc(&desc).expect("a kilobyte");
    let shape = Shape::new(&[1, 128]);
    let x = Tensor::new(buffer, 0, shape, DType::F32, RowCodec::Plain).expect("it fits");
    let mut builder = Builder::new();
    let mut last = x.clone();
    for _ in 0..OPS {
        let out = builder.temp(DType::F32, &[1, 128]);
        let f = MapFn::Add(last, x.clone());
        builder.push(Map { out: out.clone(), f }).expect("shapes are equal");
        last = out;
    }
    builder.finish().expect("every temporary is written first")
}

fn compile(device: &dyn Device, program: &Program) -> Arc<dyn Plan> {
    let options =
        CompileOptions { label: "bench".into(), mode: Mode::Replay, profile: Profile::Off };
    hal::compile(device, program, None, &options).expect("a program of maps")
}

fn step(criterion: &mut Criterion) {
    let backends: [(&str, &dyn Backend); 2] = [("null", &NullBackend), ("wgpu", &WgpuBackend)];
    for (name, backend) in backends {
        let Ok(device) = backend.open(0, &OpenOptions::default()) else {
            println!("{name}: skipped, no device");
            continue;
        };
        println!("{name}: {}", device.info().name);
        let program = program(&*device);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        group.bench_function("compile", |bencher| bencher.iter(|| compile(&*device, &program)));
        let plan = compile(&*device, &program);
        let queue = device.queue(QueueKind::Compute).expect("a queue");
        group.bench_function("encode and submit", |bencher| {
            bencher.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    let begin = Instant::now();
                    let point = queue.submit(&plan, &[]).expect("the device is alive");
                    total += begin.elapsed();
                    queue.wait(&point, PATIENCE).expect("the work is done");
                }
                total
            });
        });
        group.finish();
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
