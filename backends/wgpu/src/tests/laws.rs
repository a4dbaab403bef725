//! Places past the binding limit, timings, and what an adapter cannot bind.

use std::sync::Arc;
use std::time::Duration;

use conformance::Bed;
use hal::op::{Gather, GatherSource, Map, MapFn, Scatter};
use hal::profile::Ring;
use hal::{
    Buffer, BufferDesc, Builder, CompileOptions, DType, Device, ErrorKind, MemoryKind, Mode,
    OpenOptions, Plan, Profile, Result, RowCodec, Shape, Tensor,
};

use super::adapter;
use crate::device::{WgpuDevice, open};
use crate::launch::Number;
use crate::plan::encode_one;
use crate::record::rows;

fn compile(device: &dyn Device, out: &Tensor, x: &Tensor) -> Result<Arc<dyn Plan>> {
    let mut builder = Builder::new();
    builder.push(Map { out: out.clone(), f: MapFn::Copy(x.clone()) })?;
    let options = CompileOptions { label: "law".into(), mode: Mode::Replay, profile: Profile::Ops };
    hal::compile(device, &builder.finish()?, None, &options)
}

#[test]
fn a_tensor_past_the_binding_limit_is_read_where_it_is() {
    let Some(shared) = adapter(&[("limits", "strict")]) else { return };
    let limit = shared.bounds.binding_bytes_max;
    let device: Arc<dyn Device> = Arc::new(WgpuDevice { shared });
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

/// Rows of f32 of a table, numbered by their first column.
fn rows_of(numbers: &[f32]) -> Vec<u8> {
    let row = |&number: &f32| (0..TABLE_WIDTH).map(move |column| number + column as f32);
    numbers.iter().flat_map(row).flat_map(f32::to_le_bytes).collect()
}

/// Columns of the table below.
const TABLE_WIDTH: u32 = 8192;

#[test]
fn a_table_wider_than_a_binding_is_read_and_written_in_windows() {
    let Some(shared) = adapter(&[("limits", "strict")]) else { return };
    let limit = shared.bounds.binding_bytes_max;
    let device: Arc<dyn Device> = Arc::new(WgpuDevice { shared });
    let bed = Bed::new(&device).unwrap();
    let tensor = |buffer: &Buffer, offset, dims: &[u32], dtype| {
        Tensor::new(buffer.clone(), offset, Shape::new(dims), dtype, RowCodec::Plain).unwrap()
    };
    // 132 bytes in, so that row 4095 lies across the border of two windows.
    let rows = (limit / (4 * u64::from(TABLE_WIDTH))) as u32 + 2;
    let memory = bed.alloc(limit + 3 * 4 * u64::from(TABLE_WIDTH)).unwrap();
    let table = tensor(&memory, 132, &[rows, TABLE_WIDTH], DType::F32);
    let list = |numbers: &[i32]| {
        let index = tensor(&bed.alloc(16).unwrap(), 0, &[4, 1], DType::I32);
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bed.upload(&index, &bytes).unwrap();
        index
    };
    let [source, out] = [(); 2].map(|()| {
        let buffer = bed.alloc(16 * u64::from(TABLE_WIDTH)).unwrap();
        tensor(&buffer, 0, &[4, TABLE_WIDTH], DType::F32)
    });
    bed.upload(&source, &rows_of(&[1e5, 2e5, 3e5, 4e5])).unwrap();
    let mut builder = Builder::new();
    let index = list(&[4095, 0, -1, 4097]);
    builder.push(Scatter { target: table.clone(), source, index }).unwrap();
    let index = list(&[4097, 4096, 4095, 0]);
    let source = GatherSource::Rows { source: table.clone(), more: None };
    builder.push(Gather { out: out.clone(), source, index, per: 1 }).unwrap();
    let options = CompileOptions { label: "law".into(), mode: Mode::Replay, profile: Profile::Off };
    let plan = hal::compile(&*device, &builder.finish().unwrap(), None, &options).unwrap();
    bed.submit(&plan).unwrap();
    let got = bed.download(&out).unwrap();
    let mut want = rows_of(&[4e5, 0.0, 1e5, 2e5]);
    want[4 * TABLE_WIDTH as usize..8 * TABLE_WIDTH as usize].fill(0);
    assert!(got == want, "the rows of the table are others");
    // Where they lie is what a transfer says, which knows of no windows.
    for (row, number) in [(0, 2e5), (4095, 1e5), (4097, 4e5)] {
        assert!(bed.download(&table.row_range(row, 1)).unwrap() == rows_of(&[number]), "row {row}");
    }
}

#[test]
fn shaders_count_past_2_31() {
    let Some(shared) = adapter(&[("limits", "strict")]) else { return };
    let device: Arc<dyn Device> = Arc::new(WgpuDevice { shared: Arc::clone(&shared) });
    let bed = Bed::new(&device).unwrap();
    let tensor = |dims: &[u32], dtype| {
        Tensor::new(bed.alloc(64).unwrap(), 0, Shape::new(dims), dtype, RowCodec::Plain).unwrap()
    };
    let (source, out) = (tensor(&[1, 8], DType::F32), tensor(&[1, 8], DType::F32));
    let index = tensor(&[1, 1], DType::I32);
    let bytes: Vec<u8> = (1..9u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    bed.upload(&source, &bytes).unwrap();
    // Row 3,000 of rows 2^20 elements apart, which begins at element 3.1e9: the few that there are lie there.
    let (row, stride) = (3000u32, 1u32 << 20);
    bed.upload(&index, &row.to_le_bytes()).unwrap();
    let gather = Gather {
        out: out.clone(),
        source: GatherSource::Rows { source, more: None },
        index,
        per: 1,
    };
    let mut launch = rows::gather_rows(&gather.into()).remove(0);
    for (name, number) in &mut launch.numbers {
        match &name[..] {
            "source_begin" => *number = Number::Whole(0u32.wrapping_sub(row * stride)),
            "source_stride" => *number = Number::Whole(stride),
            _ => {}
        }
    }
    let mut encoder = shared.device.create_command_encoder(&Default::default());
    encode_one(&shared, &launch, &mut encoder).unwrap();
    shared.queue.submit([encoder.finish()]);
    assert_eq!(bed.download(&out).unwrap(), bytes);
}

#[test]
fn a_step_and_its_transfers_are_one_submission() {
    let Some(shared) = adapter(&[]) else { return };
    let device: Arc<dyn Device> = Arc::new(WgpuDevice { shared: Arc::clone(&shared) });
    let bed = Bed::new(&device).unwrap();
    let tensor = || {
        let shape = Shape::new(&[4, 4]);
        Tensor::new(bed.alloc(64).unwrap(), 0, shape, DType::F32, RowCodec::Plain).unwrap()
    };
    let (x, out) = (tensor(), tensor());
    let plan = compile(&*device, &out, &x).unwrap();
    let slot = |byte: u8| {
        let mut slot = device.host_slot(64).unwrap();
        slot.bytes_mut().fill(byte);
        slot
    };
    let before = shared.submissions();
    let queue = &bed.queue;
    queue.upload(&x, slot(7), &[]).unwrap();
    queue.submit(&plan, &[]).unwrap();
    let read = queue.download(&out, slot(0), &[]).unwrap();
    assert_eq!(shared.submissions() - before, 1);
    // Another step's upload is not in front of this one's plan.
    queue.submit(&plan, &[]).unwrap();
    let late = queue.upload(&x, slot(9), &[]).unwrap();
    let second = queue.download(&out, slot(0), &[]).unwrap();
    for point in [&read, &late, &second] {
        queue.wait(point, Duration::from_secs(60)).unwrap();
    }
    for point in [&read, &second] {
        assert_eq!(queue.reclaim(point).unwrap().bytes(), [7; 64]);
    }
}

#[test]
fn a_tensor_wider_than_a_binding_is_refused_by_name() {
    let Some(shared) = adapter(&[("limits", "strict")]) else { return };
    let limit = shared.bounds.binding_bytes_max;
    let device = WgpuDevice { shared };
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
        ("window_bytes", "many", "a number above 0"),
        ("speed", "more", "it has limits, weight_bytes and window_bytes"),
    ] {
        let settings = vec![(name.into(), value.into())];
        let error = open(0, &OpenOptions { settings, ..OpenOptions::default() }).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
}
