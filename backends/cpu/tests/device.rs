//! Device, memory, queues and weights of the CPU backend.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backend_cpu::CpuBackend;
use common::{Bench, LONG, RandomWeight, bytes_of, open, random, spec};
use hal::op::{Gather, GatherSource, Map, MapFn, Matmul, RowGroups};
use hal::{
    Backend, Buffer, BufferDesc, Builder, ByteOwner, DType, Encoding, ErrorKind, HostSlot,
    MemoryKind, Mode, OpenOptions, Point, QueueKind, RowCodec, Shape, SharedBytes, Tensor,
    WeightPart, WeightSegment, WeightSource, WeightSpec, WeightSupport,
};

#[test]
fn settings_are_checked_by_name_and_value() {
    for (settings, good) in [
        (vec![], true),
        (vec![("threads", "3"), ("isa", "scalar")], true),
        (vec![("threads", "0")], false),
        (vec![("threads", "many")], false),
        (vec![("isa", "sse9")], false),
        (vec![("speed", "high")], false),
        (vec![("huge_pages", "off")], true),
        (vec![("huge_pages", "on")], true),
        (vec![("huge_pages", "some")], false),
    ] {
        let opened = open(&settings);
        assert_eq!(opened.is_ok(), good, "{settings:?}");
        if let Err(error) = opened {
            assert_eq!(error.kind(), ErrorKind::InvalidProgram, "{error}");
        }
    }
    let other = CpuBackend.open(1, &OpenOptions::default());
    assert_eq!(other.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
}

#[test]
fn the_device_says_what_it_is() {
    let device = open(&[("threads", "2"), ("isa", "scalar")]).unwrap();
    let info = device.info();
    assert!(info.name.contains("scalar") && info.name.contains("2 threads"), "{}", info.name);
    assert!(info.memory_bytes > 1 << 20);
    assert_eq!(device.arithmetic(), "cpu/scalar");
    assert_eq!(CpuBackend.devices().unwrap().len(), 1);
    assert!(!CpuBackend.doctor().is_empty());
}

#[test]
fn memory_is_zeroed_aligned_counted_and_refused() {
    let bench = Bench::new(&[]);
    let before = bench.device.memory().used_bytes;
    let tensor = bench.tensor(&[3, 5], DType::F32, RowCodec::Plain);
    assert_eq!(bench.read(&tensor), [0.0; 15]);
    assert!(bench.device.memory().used_bytes >= before + 60);
    let size_bytes = u64::MAX / 3;
    let desc = BufferDesc { label: "ring of all", size_bytes, kind: MemoryKind::Device };
    let error = bench.device.alloc(&desc).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("ring of all"), "{error}");
    drop(tensor);
    assert_eq!(bench.device.memory().used_bytes, before);
    assert!(bench.device.memory().peak_bytes >= before + 60);
}

#[test]
fn constants_stay_in_place_and_odd_ones_are_copied() {
    let bench = Bench::new(&[]);
    let before = bench.device.memory().used_bytes;
    let values = random(64, 1);
    let check = |bytes: SharedBytes| {
        let buffer = bench.device.constant("table", bytes).unwrap();
        let table = Tensor::new(buffer, 0, Shape::new(&[8, 8]), DType::F32, RowCodec::Plain);
        let out = bench.tensor(&[1, 8], DType::F32, RowCodec::Plain);
        let mut builder = Builder::new();
        let index = bench.ints(&[1], &[5]);
        let source = GatherSource::Rows { source: table.unwrap(), more: None };
        builder.push(Gather { out: out.clone(), source, index, per: 1 }).unwrap();
        let plan = bench.plan(builder, Mode::Replay).unwrap();
        let used = bench.device.memory().used_bytes;
        bench.run(&plan).unwrap();
        assert_eq!(bench.read(&out), values[40..48]);
        used
    };
    let lent = check(SharedBytes::from_vec(bytes_of(&values)));
    let mut bytes = vec![0; 257];
    bytes[1..].copy_from_slice(&bytes_of(&values));
    let odd: Arc<dyn ByteOwner> = Arc::new(bytes);
    let copied = check(SharedBytes::new(odd, 1..257));
    assert!(lent < copied, "{lent} {copied}");
    assert!(lent >= before);
}

#[test]
fn a_constant_is_not_written() {
    let bench = Bench::new(&[]);
    let buffer = bench.device.constant("gain", SharedBytes::from_vec(vec![0; 16])).unwrap();
    let gain = Tensor::new(buffer, 0, Shape::new(&[4]), DType::F32, RowCodec::Plain).unwrap();
    let x = bench.floats(&[4], &[1.0; 4]);
    let mut builder = Builder::new();
    builder.push(Map { out: gain.clone(), f: MapFn::Copy(x) }).unwrap();
    let error = bench.plan(builder, Mode::Replay).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidProgram);
    let slot = HostSlot::new(Box::new(vec![0u8; 16]));
    assert!(bench.queue.upload(&gain, slot, &[]).is_err());
}

// ---- queues

fn copy_plan(bench: &Bench, x: &Tensor, out: &Tensor) -> Arc<dyn hal::Plan> {
    let mut builder = Builder::new();
    builder.push(Map { out: out.clone(), f: MapFn::Copy(x.clone()) }).unwrap();
    bench.plan(builder, Mode::Replay).unwrap()
}

#[test]
fn submissions_see_the_results_of_those_before() {
    let bench = Bench::new(&[]);
    let tensors: Vec<Tensor> =
        (0..40).map(|_| bench.tensor(&[1, 33], DType::F32, RowCodec::Plain)).collect();
    let values = random(33, 2);
    let plans: Vec<_> =
        tensors.windows(2).map(|pair| copy_plan(&bench, &pair[0], &pair[1])).collect();
    let slot = HostSlot::new(Box::new(bytes_of(&values)));
    let first = bench.queue.upload(&tensors[0], slot, &[]).unwrap();
    let mut last = first;
    for plan in &plans {
        let point = bench.queue.submit(plan, &[]).unwrap();
        assert!(point > last);
        last = point;
    }
    drop(plans);
    assert_eq!(bench.read(&tensors[39]), values);
    assert!(bench.queue.poll(&first).unwrap());
}

#[test]
fn queues_wait_for_points_of_others() {
    let bench = Bench::new(&[]);
    let transfer = bench.device.queue(QueueKind::Transfer).unwrap();
    let x = bench.tensor(&[64, 1024], DType::F32, RowCodec::Plain);
    let out = bench.tensor(&[64, 1024], DType::F32, RowCodec::Plain);
    let plan = copy_plan(&bench, &x, &out);
    for round in 0..20 {
        let values = vec![round as f32; 64 * 1024];
        let up = transfer.upload(&x, HostSlot::new(Box::new(bytes_of(&values))), &[]).unwrap();
        let done = bench.queue.submit(&plan, &[up]).unwrap();
        let slot = HostSlot::new(Box::new(vec![0u8; 4 * 64 * 1024]));
        let down = transfer.download(&out, slot, &[done]).unwrap();
        transfer.wait(&down, LONG).unwrap();
        let back = transfer.reclaim(&down).unwrap();
        assert_eq!(back.bytes(), bytes_of(&values), "round {round}");
        transfer.reclaim(&up).unwrap();
    }
}

#[test]
fn a_slot_comes_back_once_and_only_to_its_queue() {
    let bench = Bench::new(&[]);
    let x = bench.tensor(&[4], DType::F32, RowCodec::Plain);
    let slot = || HostSlot::new(Box::new(vec![0u8; 16]));
    let point = bench.queue.upload(&x, slot(), &[]).unwrap();
    bench.queue.wait(&point, LONG).unwrap();
    let other = bench.device.queue(QueueKind::Transfer).unwrap();
    assert!(other.reclaim(&point).is_err());
    assert!(bench.queue.reclaim(&point).is_ok());
    assert!(bench.queue.reclaim(&point).is_err());
    let short = HostSlot::new(Box::new(vec![0u8; 15]));
    assert!(bench.queue.upload(&x, short, &[]).is_err());
    let nowhere = Point { queue: 99, value: 1 };
    assert!(bench.queue.wait(&nowhere, LONG).is_err());
}

#[test]
fn a_point_nobody_reached_times_out() {
    let bench = Bench::new(&[]);
    let error = bench.queue.wait(&Point { queue: 0, value: 7 }, Duration::from_millis(1));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Timeout);
}

#[test]
fn dropping_everything_in_flight_is_safe() {
    let bench = Bench::new(&[("threads", "2")]);
    let x = bench.tensor(&[256, 4096], DType::F32, RowCodec::Plain);
    let out = bench.tensor(&[256, 4096], DType::F32, RowCodec::Plain);
    let plan = copy_plan(&bench, &x, &out);
    for _ in 0..50 {
        bench.queue.submit(&plan, &[]).unwrap();
    }
    drop((x, out, plan));
    drop(bench);
}

#[test]
fn a_fault_loses_the_device_and_says_where() {
    let bench = Bench::new(&[]);
    let table = bench.tensor(&[2, 4], DType::F32, RowCodec::Plain);
    let out = bench.tensor(&[1, 4], DType::F32, RowCodec::Plain);
    let index = bench.ints(&[1], &[9]);
    let mut builder = Builder::new();
    builder.at(3, "embed");
    let source = GatherSource::Rows { source: table.clone(), more: None };
    builder.push(Gather { out, source, index, per: 1 }).unwrap();
    let plan = bench.plan(builder, Mode::Replay).unwrap();
    let point = bench.queue.submit(&plan, &[]).unwrap();
    let error = bench.queue.wait(&point, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceLost);
    let text = error.to_string();
    assert!(text.contains("test") && text.contains("3.embed gather"), "{text}");
    for again in [
        bench.queue.submit(&plan, &[]).err(),
        bench.queue.wait(&point, LONG).err(),
        bench.device.queue(QueueKind::Compute).err(),
    ] {
        assert_eq!(again.map(|error| error.kind()), Some(ErrorKind::DeviceLost));
    }
}

// ---- weights

#[test]
fn weights_are_kept_in_place_and_counted_when_copied() {
    let bench = Bench::new(&[]);
    let fp8 = Encoding::Fp8Block { rows: 128, cols: 128 };
    for encoding in [
        Encoding::Plain(DType::F32),
        Encoding::Plain(DType::Bf16),
        fp8,
        Encoding::Fp4Block { cols: 32 },
    ] {
        let spec = spec(2, 256, 384, encoding);
        assert_eq!(bench.device.weight_support(&spec), WeightSupport::Native);
        let before = bench.device.memory().used_bytes;
        let lent = bench.weight(spec.clone(), 3, true).unwrap();
        assert_eq!(bench.device.memory().used_bytes, before, "{encoding}");
        let read = bench.weight(spec.clone(), 3, false).unwrap();
        let owned = bench.device.memory().used_bytes - before;
        assert!(owned >= spec.size_bytes() && owned < spec.size_bytes() + 4096, "{encoding}");
        let x = bench.floats(&[4, 384], &random(4 * 384, 4));
        let product = |weight| {
            let out = bench.tensor(&[4, 256], DType::F32, RowCodec::Plain);
            let mut builder = Builder::new();
            let groups = RowGroups::Cyclic;
            builder.push(Matmul { out: out.clone(), x: x.clone(), weight, groups }).unwrap();
            bench.run(&bench.plan(builder, Mode::Replay).unwrap()).unwrap();
            bench.download(&out)
        };
        assert_eq!(product(lent), product(read), "{encoding}");
    }
}

/// Bytes whose owner counts how often it may move a piece of them.
struct Watched(SharedBytes, Arc<AtomicUsize>);

impl ByteOwner for Watched {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn promote(&self, go_on: &mut dyn FnMut(u64) -> bool) -> u64 {
        let moved = u64::from(go_on(1));
        self.1.fetch_add(moved as usize, Ordering::Relaxed);
        moved
    }
}

/// A weight that lends watched bytes and cannot be read in another way.
struct WatchedWeight(RandomWeight, Arc<AtomicUsize>);

impl WeightSource for WatchedWeight {
    fn spec(&self) -> &WeightSpec {
        self.0.spec()
    }

    fn read(&mut self, _: u32, _: WeightPart, _: &mut [u8]) -> hal::Result<()> {
        panic!("it is lent")
    }

    fn lend(&self) -> Option<Vec<WeightSegment>> {
        let watched = |bytes: &SharedBytes| {
            let range = 0..bytes.bytes().len();
            SharedBytes::new(Arc::new(Watched(bytes.clone(), Arc::clone(&self.1))), range)
        };
        let segment = |segment: &WeightSegment| WeightSegment {
            codes: watched(&segment.codes),
            scales: segment.scales.as_ref().map(watched),
        };
        Some(self.0.lend()?.iter().map(segment).collect())
    }
}

#[test]
fn owners_of_lent_weights_are_asked_to_move_to_huge_pages_where_there_are_any() {
    // What the machine has decides, so what it says must be what happens.
    let offered = CpuBackend.doctor().iter().any(|line| line.contains("move to huge pages"));
    for (settings, asked) in [
        (vec![("huge_pages", "off")], false),
        (vec![("huge_pages", "auto")], offered),
        (vec![], offered),
    ] {
        let bench = Bench::new(&settings);
        let moved = Arc::new(AtomicUsize::new(0));
        let spec = spec(3, 128, 256, Encoding::Fp8Block { rows: 128, cols: 128 });
        let source = RandomWeight::new(spec, 3, true);
        let mut source = WatchedWeight(source, Arc::clone(&moved));
        let _weight = bench.device.load_weight(&mut source).unwrap();
        bench.device.settle();
        assert_eq!(moved.load(Ordering::Relaxed) > 0, asked, "{settings:?}");
        assert_eq!(bench.device.memory().used_bytes, 0, "lent, not copied");
    }
}

#[test]
fn a_segment_may_span_groups_whose_rows_cut_scale_blocks() {
    let bench = Bench::new(&[]);
    let encoding = Encoding::Fp8Block { rows: 128, cols: 128 };
    // One segment of 4 groups of 96 rows: blocks of 128 rows begin inside groups.
    let whole = WeightSpec { segment_rows: 384, ..spec(4, 96, 256, encoding) };
    let grouped = bench.weight(whole.clone(), 5, true).unwrap();
    // The same rows as one group.
    let flat = WeightSpec { groups: 1, rows: 384, ..whole };
    let flat = bench.weight(flat, 5, true).unwrap();
    let x = random(256, 6);
    let same: Vec<f32> = (0..4).flat_map(|_| x.clone()).collect();
    let product = |weight, x: &Tensor, dims: &[u32]| {
        let out = bench.tensor(dims, DType::F32, RowCodec::Plain);
        let mut builder = Builder::new();
        let groups = RowGroups::Cyclic;
        builder.push(Matmul { out: out.clone(), x: x.clone(), weight, groups }).unwrap();
        bench.run(&bench.plan(builder, Mode::Replay).unwrap()).unwrap();
        bench.read(&out)
    };
    let by_group = product(grouped, &bench.floats(&[4, 256], &same), &[4, 96]);
    let at_once = product(flat, &bench.floats(&[1, 256], &x), &[1, 384]);
    for (a, b) in by_group.iter().zip(&at_once) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn unreadable_encodings_are_refused_with_a_reason() {
    let bench = Bench::new(&[]);
    for spec in [
        spec(1, 8, 64, Encoding::Fp4Block { cols: 16 }),
        spec(1, 8, 33, Encoding::Fp4Block { cols: 32 }),
    ] {
        let support = bench.device.weight_support(&spec);
        assert!(matches!(support, WeightSupport::Absent(_)), "{spec:?}");
        let error = bench.device.load_weight(&mut RandomWeight::new(spec, 1, true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counted(Vec<u8>);

impl ByteOwner for Counted {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_plan_keeps_its_constants_alive_and_no_longer() {
    let bench = Bench::new(&[]);
    LIVE.fetch_add(1, Ordering::SeqCst);
    let bytes = SharedBytes::new(Arc::new(Counted(bytes_of(&[1.5; 4]))), 0..16);
    let buffer: Buffer = bench.device.constant("x", bytes).unwrap();
    let x = Tensor::new(buffer, 0, Shape::new(&[4]), DType::F32, RowCodec::Plain).unwrap();
    let out = bench.tensor(&[4], DType::F32, RowCodec::Plain);
    let plan = copy_plan(&bench, &x, &out);
    drop(x);
    assert_eq!(LIVE.load(Ordering::SeqCst), 1);
    bench.run(&plan).unwrap();
    assert_eq!(bench.read(&out), [1.5; 4]);
    drop(plan);
    assert_eq!(LIVE.load(Ordering::SeqCst), 0);
}
