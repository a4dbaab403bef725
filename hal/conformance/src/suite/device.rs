//! Memory, transfers, order, points, plans whose owners are gone, errors that must be errors.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use hal::op::{Map, MapFn};
use hal::{
    Buffer, BufferDesc, Builder, DType, Device, Error, ErrorKind, MemoryKind, Mode, Plan, Point,
    Program, QueueKind, RawBuffer, Result, RowCodec, Shape, SharedBytes, Tensor,
};

use super::Item;
use crate::Settings;
use crate::bed::{Bed, PATIENCE, filled, options};
use crate::report::{Check, Trouble, ensure};

/// One check on a bed of its own.
type Contract = fn(&Bed) -> Check;

pub(super) fn checks<'a>(device: &'a Arc<dyn Device>, settings: &'a Settings<'a>) -> Vec<Item<'a>> {
    let all: [(&str, Contract); 20] = [
        ("info is filled in", info),
        ("memory starts as zeros", zeroed),
        ("transfers keep every byte", round_trip),
        ("ranges of a buffer transfer alone", ranges),
        ("constants hold their bytes", constants),
        ("transfers of the wrong size are refused", wrong_size),
        ("strided transfers are refused", strided),
        ("submissions run in order", order),
        ("points rise and pass", points),
        ("queues have points of their own", two_queues),
        ("one queue waits for another", cross_queue),
        ("a slot comes back once, unchanged", reclaim),
        ("queues work from many threads", threads),
        ("buffers may be dropped in flight", drop_buffers),
        ("plans may be dropped in flight", drop_plan),
        ("a plan outlives every handle", plan_owns),
        ("an empty program runs", empty_program),
        ("memory is counted and given back", ledger),
        ("too much memory is refused, and nothing breaks", out_of_memory),
        ("memory of another device is refused", foreign),
    ];
    let item =
        |(id, check): (&'static str, Contract)| Item::new(id, move || check(&Bed::new(device)?));
    let mut items: Vec<Item<'a>> = all.into_iter().map(item).collect();
    items.push(Item::new("loss is sticky", move || sticky_loss(settings)));
    items
}

fn bytes(count: u64, seed: u8) -> Vec<u8> {
    (0..count).map(|place| (place as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn plain(buffer: &Buffer, offset: u64, count: u64) -> Result<Tensor> {
    Tensor::new(buffer.clone(), offset, Shape::new(&[count as u32]), DType::U8, RowCodec::Plain)
}

/// `[rows, width]` f32 in memory of its own.
fn floats(bed: &Bed, rows: u32, width: u32) -> Result<Tensor> {
    let shape = Shape::new(&[rows, width]);
    Tensor::new(bed.alloc(shape.elements() * 4)?, 0, shape, DType::F32, RowCodec::Plain)
}

fn copy_program(out: &Tensor, x: &Tensor) -> Result<Program> {
    let mut builder = Builder::new();
    builder.push(Map { out: out.clone(), f: MapFn::Copy(x.clone()) })?;
    builder.finish()
}

fn compile(bed: &Bed, program: &Program, mode: Mode) -> Result<Arc<dyn Plan>> {
    hal::compile(&*bed.device, program, None, &options("conformance", mode))
}

fn kind_of<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn refused<T>(what: &str, result: Result<T>, kind: ErrorKind) -> Check {
    let got = kind_of(result);
    ensure(got == Some(kind), || format!("{what}: {got:?} where {kind:?} is due"))
}

fn info(bed: &Bed) -> Check {
    let (info, limits) = (bed.device.info(), bed.device.limits());
    ensure(!info.backend.is_empty() && !info.name.is_empty(), || format!("{info:?}"))?;
    // The step's largest Tier-0 op has 8 tensors; WebGPU's smallest binding is 128 MiB.
    ensure(limits.bindings_max >= 8, || format!("{limits:?}"))?;
    ensure(limits.binding_bytes_max >= 1 << 27, || format!("{limits:?}"))?;
    ensure(limits.plans_max >= 8, || format!("{limits:?}"))?;
    ensure(!bed.device.arithmetic().is_empty(), || "arithmetic() is empty".into())
}

fn zeroed(bed: &Bed) -> Check {
    for size in [1, 3, 4096, (1 << 20) + 5] {
        // Twice, in case the first left something behind.
        for _ in 0..2 {
            let tensor = plain(&bed.alloc(size)?, 0, size)?;
            let got = bed.download(&tensor)?;
            ensure(got.iter().all(|&byte| byte == 0), || format!("{size} bytes are not all 0"))?;
            bed.upload(&tensor, &bytes(size, 7))?;
        }
    }
    Ok(())
}

fn round_trip(bed: &Bed) -> Check {
    for size in [1, 2, 255, 4099, (1 << 20) + 1] {
        let tensor = plain(&bed.alloc(size)?, 0, size)?;
        bed.upload(&tensor, &bytes(size, 3))?;
        ensure(bed.download(&tensor)? == bytes(size, 3), || format!("{size} bytes changed"))?;
    }
    Ok(())
}

fn ranges(bed: &Bed) -> Check {
    let buffer = bed.alloc(1024)?;
    bed.upload(&plain(&buffer, 0, 1024)?, &bytes(1024, 1))?;
    bed.upload(&plain(&buffer, 100, 33)?, &bytes(33, 9))?;
    let mut want = bytes(1024, 1);
    want[100..133].copy_from_slice(&bytes(33, 9));
    let got = bed.download(&plain(&buffer, 0, 1024)?)?;
    ensure(got == want, || "a write of 33 bytes at 100 changed others, or not these".into())?;
    let rows = Tensor::new(buffer, 0, Shape::new(&[16, 16]), DType::F32, RowCodec::Plain)?;
    let got = bed.download(&rows.row_range(3, 2))?;
    ensure(got == want[192..320], || "rows 3 and 4 of [16, 16] are other bytes".into())
}

fn constants(bed: &Bed) -> Check {
    let owner: Arc<Vec<u8>> = Arc::new(bytes(5000, 5));
    for range in [0..5000, 1..4097, 64..65, 2..3003] {
        let want = owner[range.clone()].to_vec();
        let lent = SharedBytes::new(owner.clone(), range.clone());
        let buffer = bed.device.constant("conformance", lent)?;
        let got = bed.download(&plain(&buffer, 0, want.len() as u64)?)?;
        ensure(got == want, || format!("bytes {range:?} of a constant differ"))?;
    }
    Ok(())
}

fn wrong_size(bed: &Bed) -> Check {
    let tensor = floats(bed, 2, 4)?;
    for size in [0, 31, 33] {
        let slot = || filled(&*bed.device, &bytes(size, 0));
        let kind = ErrorKind::InvalidProgram;
        refused("upload", bed.queue.upload(&tensor, slot()?, &[]), kind)?;
        refused("download", bed.queue.download(&tensor, slot()?, &[]), kind)?;
    }
    bed.upload(&tensor, &bytes(32, 0)).map_err(Trouble::from)
}

fn strided(bed: &Bed) -> Check {
    let tensor = floats(bed, 2, 4)?.columns(0, &[2]);
    let slot = || filled(&*bed.device, &bytes(16, 0));
    let kind = ErrorKind::InvalidProgram;
    refused("upload", bed.queue.upload(&tensor, slot()?, &[]), kind)?;
    refused("download", bed.queue.download(&tensor, slot()?, &[]), kind)
}

fn order(bed: &Bed) -> Check {
    let tensor = plain(&bed.alloc(512)?, 0, 512)?;
    let mut downloads = Vec::new();
    for round in 0..32 {
        bed.queue.upload(&tensor, filled(&*bed.device, &bytes(512, round))?, &[])?;
        let slot = bed.device.host_slot(512)?;
        downloads.push(bed.queue.download(&tensor, slot, &[])?);
    }
    for (round, point) in downloads.into_iter().enumerate() {
        bed.queue.wait(&point, PATIENCE)?;
        let slot = bed.queue.reclaim(&point)?;
        let ok = slot.bytes() == bytes(512, round as u8);
        ensure(ok, || format!("download {round} saw another upload than the one before it"))?;
    }
    Ok(())
}

fn points(bed: &Bed) -> Check {
    let tensor = plain(&bed.alloc(64)?, 0, 64)?;
    let mut last: Option<Point> = None;
    for round in 0..16 {
        let point = bed.queue.upload(&tensor, filled(&*bed.device, &bytes(64, round))?, &[])?;
        if let Some(last) = last {
            let rises = point.queue == last.queue && point.value > last.value;
            ensure(rises, || format!("{point:?} after {last:?}"))?;
        }
        last = Some(point);
    }
    let last = last.expect("16 rounds");
    bed.queue.wait(&last, PATIENCE)?;
    ensure(bed.queue.poll(&last)?, || "poll is false after wait".into())?;
    // What has passed stays passed, whatever time is given.
    bed.queue.wait(&last, Duration::ZERO)?;
    let first = Point { value: 1, ..last };
    ensure(bed.queue.poll(&first)?, || "the first point has not passed, the last has".into())
}

fn two_queues(bed: &Bed) -> Check {
    let other = bed.device.queue(QueueKind::Transfer)?;
    let tensor = plain(&bed.alloc(64)?, 0, 64)?;
    let a = bed.queue.upload(&tensor, filled(&*bed.device, &bytes(64, 1))?, &[])?;
    let b = other.upload(&tensor, filled(&*bed.device, &bytes(64, 2))?, &[a])?;
    ensure(a.queue != b.queue, || format!("two queues share number {}", a.queue))?;
    other.wait(&b, PATIENCE)?;
    bed.queue.wait(&a, PATIENCE).map_err(Trouble::from)
}

fn cross_queue(bed: &Bed) -> Check {
    let other = bed.device.queue(QueueKind::Transfer)?;
    let tensor = plain(&bed.alloc(1 << 20)?, 0, 1 << 20)?;
    for round in 0..8 {
        let want = bytes(1 << 20, round);
        let up = bed.queue.upload(&tensor, filled(&*bed.device, &want)?, &[])?;
        let slot = bed.device.host_slot(1 << 20)?;
        let down = other.download(&tensor, slot, &[up])?;
        // The next upload must not overtake the download.
        let clear = filled(&*bed.device, &bytes(1 << 20, 200))?;
        let cleared = bed.queue.upload(&tensor, clear, &[down])?;
        other.wait(&down, PATIENCE)?;
        let ok = other.reclaim(&down)?.bytes() == want;
        ensure(ok, || format!("round {round}: the other queue did not wait"))?;
        bed.queue.wait(&cleared, PATIENCE)?;
    }
    Ok(())
}

fn reclaim(bed: &Bed) -> Check {
    let tensor = plain(&bed.alloc(100)?, 0, 100)?;
    let point = bed.queue.upload(&tensor, filled(&*bed.device, &bytes(100, 4))?, &[])?;
    bed.queue.wait(&point, PATIENCE)?;
    let slot = bed.queue.reclaim(&point)?;
    ensure(slot.bytes() == bytes(100, 4), || "an upload changed its slot".into())?;
    refused("a second reclaim", bed.queue.reclaim(&point), ErrorKind::InvalidProgram)?;
    let x = floats(bed, 1, 4)?;
    let plan = compile(bed, &copy_program(&floats(bed, 1, 4)?, &x)?, Mode::Eager)?;
    let point = bed.queue.submit(&plan, &[])?;
    bed.queue.wait(&point, PATIENCE)?;
    refused("reclaim of a plan", bed.queue.reclaim(&point), ErrorKind::InvalidProgram)
}

fn threads(bed: &Bed) -> Check {
    let work = |seed: u8| -> Check {
        let own = Bed::new(&bed.device)?;
        for round in 0..8u8 {
            let tensor = plain(&own.alloc(4096)?, 0, 4096)?;
            own.upload(&tensor, &bytes(4096, seed + round))?;
            let ok = own.download(&tensor)? == bytes(4096, seed + round);
            ensure(ok, || format!("thread {seed}, round {round}: other bytes"))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = [0, 50, 100, 150].map(|seed| scope.spawn(move || work(seed))).into();
        all.into_iter().try_for_each(|one| match one.join() {
            Ok(check) => check,
            Err(_) => Err(Trouble::Failed("a thread panicked".into())),
        })
    })
}

fn drop_buffers(bed: &Bed) -> Check {
    let mut last = None;
    for round in 0..16 {
        let tensor = plain(&bed.alloc(1 << 16)?, 0, 1 << 16)?;
        let slot = filled(&*bed.device, &bytes(1 << 16, round))?;
        last = Some(bed.queue.upload(&tensor, slot, &[])?);
        let slot = bed.device.host_slot(1 << 16)?;
        bed.queue.download(&tensor, slot, &[])?;
    }
    bed.queue.wait(&last.expect("16 rounds"), PATIENCE)?;
    // A queue may go while its work is under way, too.
    let tensor = plain(&bed.alloc(1 << 16)?, 0, 1 << 16)?;
    let other = bed.device.queue(QueueKind::Compute)?;
    other.upload(&tensor, filled(&*bed.device, &bytes(1 << 16, 1))?, &[])?;
    drop(other);
    round_trip(bed)
}

fn drop_plan(bed: &Bed) -> Check {
    for mode in [Mode::Eager, Mode::Replay] {
        let (x, out) = (floats(bed, 8, 32)?, floats(bed, 8, 32)?);
        let plan = compile(bed, &copy_program(&out, &x)?, mode)?;
        let point = bed.queue.submit(&plan, &[])?;
        drop((plan, x, out));
        bed.queue.wait(&point, PATIENCE)?;
    }
    Ok(())
}

fn plan_owns(bed: &Bed) -> Check {
    let plan = {
        let mut builder = Builder::new();
        let (x, out) = (floats(bed, 8, 32)?, floats(bed, 8, 32)?);
        let middle = builder.temp(DType::F32, &[8, 32]);
        builder.push(Map { out: middle.clone(), f: MapFn::Copy(x) })?;
        builder.push(Map { out, f: MapFn::Copy(middle) })?;
        compile(bed, &builder.finish()?, Mode::Replay)?
    };
    for _ in 0..3 {
        bed.submit(&plan)?;
    }
    Ok(())
}

fn empty_program(bed: &Bed) -> Check {
    let plan = compile(bed, &Builder::new().finish()?, Mode::Replay)?;
    bed.submit(&plan)?;
    bed.submit(&plan).map_err(Trouble::from)
}

fn ledger(bed: &Bed) -> Check {
    let size = 1 << 20;
    let before = bed.device.memory();
    let buffer = bed.alloc(size)?;
    let during = bed.device.memory();
    drop(buffer);
    let after = bed.device.memory();
    ensure(during.used_bytes >= before.used_bytes + size, || {
        format!("{size} bytes were allocated, {before:?} became {during:?}")
    })?;
    ensure(during.peak_bytes >= during.used_bytes, || format!("{during:?}"))?;
    ensure(after.used_bytes <= during.used_bytes - size, || {
        format!("{size} bytes were dropped, {during:?} became {after:?}")
    })
}

fn out_of_memory(bed: &Bed) -> Check {
    for size_bytes in [u64::MAX, 1 << 62, 1 << 50] {
        let desc = BufferDesc { label: "the moon", size_bytes, kind: MemoryKind::Device };
        let Err(error) = bed.device.alloc(&desc) else {
            return ensure(false, || format!("{size_bytes} bytes were allocated"));
        };
        let named =
            error.kind() == ErrorKind::OutOfMemory && error.to_string().contains("the moon");
        ensure(named, || format!("{size_bytes} bytes: {error:?} does not say what lacks memory"))?;
    }
    round_trip(bed)
}

fn foreign(bed: &Bed) -> Check {
    #[derive(Debug)]
    struct Elsewhere;
    impl RawBuffer for Elsewhere {
        fn size_bytes(&self) -> u64 {
            128
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
    }
    let shape = Shape::new(&[4, 8]);
    let there = Buffer::Real(Arc::new(Elsewhere));
    let there = Tensor::new(there, 0, shape, DType::F32, RowCodec::Plain)?;
    let here = floats(bed, 4, 8)?;
    let kind = ErrorKind::InvalidProgram;
    refused("compile", compile(bed, &copy_program(&here, &there)?, Mode::Eager), kind)?;
    let slot = filled(&*bed.device, &bytes(128, 0))?;
    refused("upload", bed.queue.upload(&there, slot, &[]), kind)
}

/// After a loss everything that can fail fails with `DeviceLost`, again and again.
fn sticky_loss(settings: &Settings<'_>) -> Check {
    let Some(lost) = settings.lost else {
        return Err(Trouble::Skipped("no way to lose the device was given".into()));
    };
    let (device, queue) = lost()?;
    for round in 0..2 {
        let desc = BufferDesc { label: "after", size_bytes: 64, kind: MemoryKind::Device };
        let empty = Builder::new().finish()?;
        let point = Point { queue: 0, value: 1 };
        let calls: [(&str, Option<Error>); 5] = [
            ("alloc", device.alloc(&desc).err()),
            ("constant", device.constant("after", SharedBytes::from_vec(vec![0; 4])).err()),
            ("compile", device.compile(&empty, &options("after", Mode::Eager)).err()),
            ("poll", queue.poll(&point).err()),
            ("wait", queue.wait(&point, Duration::ZERO).err()),
        ];
        for (call, error) in calls {
            let kind = error.map(|error| error.kind());
            ensure(kind == Some(ErrorKind::DeviceLost), || {
                format!("{call}, round {round} after the loss: {kind:?}")
            })?;
        }
    }
    Ok(())
}
