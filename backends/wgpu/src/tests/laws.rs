//! Places past the binding limit, timings, and what an adapter cannot bind.

use std::sync::Arc;
use std::time::Duration;

use conformance::Bed;
use hal::op::{Map, MapFn};
use hal::profile::Ring;
use hal::{
    BufferDesc, Builder, CompileOptions, DType, Device, ErrorKind, MemoryKind, Mode, OpenOptions,
    Plan, Profile, Result, RowCodec, Shape, Tensor,
};

use super::adapter;
use crate::device::{WgpuDevice, open};

fn compile(device: &dyn Device, out: &Tensor, x: &Tensor) -> Result<Arc<dyn Plan>> {
    let mut builder = Builder::new();
    builder.push(Map { out: out.clone(), f: MapFn::Copy(x.clone()) })?;
    let options = CompileOptions { label: "law".into(), mode: Mode::Replay, profile: Profile::Ops };
    hal::compile(device, &builder.finish()?, None, &options)
}

#[test]
fn a_tensor_past_the_binding_limit_is_read_where_it_is() {
    let Some(shared) = adapter(&[("limits", "strict")]) else { return };
    let device: Arc<dyn Device> = Arc::new(WgpuDevice { shared });
    let limit = device.limits().binding_bytes_max;
    assert_eq!(limit, 128 << 20);
    let bed = Bed::new(&device).unwrap();
    let buffer = bed.alloc(limit + 4096).unwrap();
    let place = |offset| {
        Tensor::new(buffer.clone(), offset, Shape::new(&[2, 8]), DType::F32, RowCodec::Plain)
    };
    // Neither begins where a binding may.
    let (x, out) = (place(limit + 132).unwrap(), place(limit + 1040).unwrap());
    let bytes: Vec<u8> = (0..16u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    bed.upload(&x, &bytes).unwrap();
    bed.submit(&compile(&*device, &out, &x).unwrap()).unwrap();
    assert_eq!(bed.download(&out).unwrap(), bytes);
}

#[test]
fn a_tensor_wider_than_a_binding_is_refused_by_name() {
    let Some(shared) = adapter(&[("limits", "strict")]) else { return };
    let device = WgpuDevice { shared };
    let limit = device.limits().binding_bytes_max;
    let desc = BufferDesc { label: "wide", size_bytes: limit + 256, kind: MemoryKind::Device };
    let shape = Shape::new(&[1, (limit / 4 + 1) as u32]);
    let wide = || {
        Tensor::new(device.alloc(&desc).unwrap(), 0, shape, DType::F32, RowCodec::Plain).unwrap()
    };
    let error = compile(&device, &wide(), &wide()).err().expect("it does not fit");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("binds at most"), "{error}");
}

#[test]
fn ops_are_timed_where_the_adapter_has_timestamps() {
    let Some(shared) = adapter(&[]) else { return };
    if !shared.timestamps {
        println!("skipped: the adapter has no timestamps");
        return;
    }
    let ring = Arc::new(Ring::new(64));
    let options = OpenOptions { sink: Some(ring.clone()), ..OpenOptions::default() };
    let device: Arc<dyn Device> = Arc::new(WgpuDevice { shared: open(0, &options).unwrap() });
    let bed = Bed::new(&device).unwrap();
    let tensor = |buffer| {
        Tensor::new(buffer, 0, Shape::new(&[64, 64]), DType::F32, RowCodec::Plain).unwrap()
    };
    let (x, out) = (tensor(bed.alloc(1 << 14).unwrap()), tensor(bed.alloc(1 << 14).unwrap()));
    let plan = compile(&*device, &out, &x).unwrap();
    for _ in 0..3 {
        bed.submit(&plan).unwrap();
        let point = bed.queue.submit(&plan, &[]).unwrap();
        bed.queue.wait(&point, Duration::from_secs(60)).unwrap();
    }
    let (events, dropped) = ring.take();
    assert_eq!((events.len(), dropped), (6, 0));
    assert!(events.iter().all(|event| event.op == "map" && event.begin_ns <= event.end_ns));
}

#[test]
fn settings_that_do_not_exist_are_refused_by_name() {
    for (name, value, words) in [
        ("limits", "none", "strict or adapter"),
        ("weight_bytes", "0", "a number above 0"),
        ("speed", "more", "it has limits and weight_bytes"),
    ] {
        let settings = vec![(name.into(), value.into())];
        let error = open(0, &OpenOptions { settings, ..OpenOptions::default() }).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
}
