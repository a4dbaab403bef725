//! Weights that come by bulk copies (`bulk=on`): the bits are those of loads, whatever the length of rows, and the
//! stand-in for such copies reports what is done wrong with them.
//!
//! Not here: that a GPU does what the stand-in does. `scripts/cuda-prove` compares both ways on one.

mod emulated;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use backend_cuda::CudaBackend;
use backend_cuda::driver::{Launch, Platform};
use backend_cuda::source::Unit;
use conformance::Bed;
use emulated::Emulated;
use hal::op::{Matmul, RowGroups};
use hal::{
    Backend, Builder, CompileOptions, DType, Encoding, Mode, Noise, OpenOptions, Profile, Result,
    RowCodec, Shape, Tensor, WeightPart, WeightSource, WeightSpec,
};

/// bf16 numbers of both signs around 2^-7 to 1.
const HALVES: Noise = Noise { seed: 7, and: 0x83ff_83ff, or: 0x3c00_3c00 };
/// Codes that are numbers in both formats, and scales near 1.
const CODES: Noise = Noise { seed: 8, and: 0xbfbf_bfbf, or: 0 };
const SCALES: Noise = Noise { seed: 9, and: 0x0707_0707, or: 0x7878_7878 };

/// Encodings, and columns of 16 bytes.
const ENCODINGS: [(Encoding, u32); 3] = [
    (Encoding::Plain(DType::Bf16), 8),
    (Encoding::Fp8Block { rows: 128, cols: 128 }, 16),
    (Encoding::Fp4Block { cols: 32 }, 32),
];

/// A weight of noise.
struct Noisy(WeightSpec);

impl WeightSource for Noisy {
    fn spec(&self) -> &WeightSpec {
        &self.0
    }
    fn read(&mut self, _segment: u32, part: WeightPart, out: &mut [u8]) -> Result<()> {
        match (part, self.0.encoding) {
            (WeightPart::Scales, _) => SCALES,
            (_, Encoding::Plain(_)) => HALVES,
            _ => CODES,
        }
        .fill(out);
        Ok(())
    }
}

/// A product of few rows: 20 outputs of so many groups, so many columns and rows.
#[derive(Clone, Debug)]
struct Case {
    encoding: Encoding,
    groups: u32,
    cols: u32,
    rows: u32,
    /// Offsets of groups; none: row i uses group i % groups.
    offsets: Option<Vec<i32>>,
}

/// The bytes of the product on a machine.
fn product(machine: Emulated, case: &Case) -> Vec<u8> {
    let Case { encoding, groups, cols, rows, .. } = *case;
    let outputs = 20;
    let device = CudaBackend::on(Arc::new(machine)).open(0, &OpenOptions::default()).unwrap();
    let bed = Bed::new(&device).unwrap();
    let spec = WeightSpec {
        name: "noise".into(),
        groups,
        rows: outputs,
        cols,
        segment_rows: outputs,
        encoding,
    };
    let weight = device.load_weight(&mut Noisy(spec)).unwrap();
    let tensor = |dims: &[u32], dtype: DType| {
        let shape = Shape::new(dims);
        let memory = bed.alloc(shape.elements() * dtype.size_bytes()).unwrap();
        Tensor::new(memory, 0, shape, dtype, RowCodec::Plain).unwrap()
    };
    let (x, out) = (tensor(&[rows, cols], DType::Bf16), tensor(&[rows, outputs], DType::F32));
    let mut noise = vec![0; 2 * (rows * cols) as usize];
    HALVES.fill(&mut noise);
    bed.upload(&x, &noise).unwrap();
    let groups = case.offsets.as_ref().map_or(RowGroups::Cyclic, |offsets| {
        let place = tensor(&[offsets.len() as u32], DType::I32);
        let bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        bed.upload(&place, &bytes).unwrap();
        RowGroups::Sorted { offsets: place }
    });
    let mut builder = Builder::new();
    builder.push(Matmul { out: out.clone(), x, weight, groups }).unwrap();
    let options =
        CompileOptions { label: "product".into(), mode: Mode::Eager, profile: Profile::Off };
    let plan = hal::compile(&*device, &builder.finish().unwrap(), None, &options).unwrap();
    let point = bed.queue.submit(&plan, &[]).unwrap();
    bed.queue.wait(&point, Duration::from_secs(60)).unwrap();
    bed.download(&out).unwrap()
}

/// Checks that a case gives the bits of loads, and that it is by bulk copies that it does.
fn check(case: &Case) {
    let want = product(Emulated::default(), case);
    assert!(want.iter().any(|&byte| byte != 0), "{case:?}");
    for wide in [false, true] {
        let bulk = Emulated { bulk: true, wide, ..Emulated::default() };
        assert_eq!(product(bulk, case), want, "{case:?}, backwards {wide}");
    }
    let idle = Emulated { bulk: true, idle: Some("matmul_bulk"), ..Emulated::default() };
    assert_ne!(product(idle, case), want, "{case:?}: another kernel did it");
}

#[test]
fn bulk_copies_give_the_bits_of_loads() {
    // Of a row: one copy of 16 bytes, one less or more than a piece, as many pieces as there is room for, and more.
    for units in [1, 63, 64, 65, 3 * 64, 5 * 64 + 1] {
        for (encoding, per_unit) in ENCODINGS {
            let cols = units * per_unit;
            for (groups, rows) in [(1, 8), (2, 6)] {
                check(&Case { encoding, groups, cols, rows, offsets: None });
            }
        }
    }
}

#[test]
fn a_block_with_many_tiles_of_rows_goes_on_with_its_ring() {
    // All rows are of one of 80 groups, so some blocks have two tiles: 600 of 64 times 8 rows. Three pieces a tile, and
    // two, so that the second tile begins at another stage.
    for (units, per_unit) in [(2 * 64 + 1, 16), (64 + 1, 16)] {
        let offsets = (0..=80).map(|group| if group > 7 { 600 } else { 0 }).collect();
        check(&Case {
            encoding: Encoding::Fp8Block { rows: 128, cols: 128 },
            groups: 80,
            cols: units * per_unit,
            rows: 600,
            offsets: Some(offsets),
        });
    }
}

/// Kernels that copy 64 bytes, each but the first with one mistake.
const COPIES: Unit = Unit {
    name: "copies",
    text: r#"
#include "../common/mma.cuh"
struct Pair {
    const u8* from;
    u32* to;
};
enum Mistake { NONE, MISPLACED, OUTSIDE, MISCOUNTED, UNANNOUNCED, TWICE, UNWAITED, TOO_EARLY };
template <Mistake MISTAKE>
DEVICE void copy(const Pair& p, u8* shared) {
    __shared__ u64 full;
    if (threadIdx.x == 0) {
        bulk_init(&full, 1);
        bulk_ready();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        if (MISTAKE != UNANNOUNCED) bulk_expect(&full, MISTAKE == MISCOUNTED ? 80 : 64);
        if (MISTAKE == TWICE) bulk_expect(&full, 0);
        bulk_copy(shared + (MISTAKE == MISPLACED ? 8 : MISTAKE == OUTSIDE ? 16 : 0), p.from, 64, &full);
    }
    if (MISTAKE != UNWAITED) bulk_wait(&full, MISTAKE == TOO_EARLY ? 1 : 0);
    __syncthreads();
    if (threadIdx.x < 16) p.to[threadIdx.x] = ((u32*)shared)[threadIdx.x];
}
KERNEL(right, Pair, 32) { SHARED(s); copy<NONE>(p, s); }
KERNEL(misplaced, Pair, 32) { SHARED(s); copy<MISPLACED>(p, s); }
KERNEL(outside, Pair, 32) { SHARED(s); copy<OUTSIDE>(p, s); }
KERNEL(miscounted, Pair, 32) { SHARED(s); copy<MISCOUNTED>(p, s); }
KERNEL(unannounced, Pair, 32) { SHARED(s); copy<UNANNOUNCED>(p, s); }
KERNEL(twice, Pair, 32) { SHARED(s); copy<TWICE>(p, s); }
KERNEL(unwaited, Pair, 32) { SHARED(s); copy<UNWAITED>(p, s); }
KERNEL(too_early, Pair, 32) { SHARED(s); copy<TOO_EARLY>(p, s); }
"#,
    kernels: &[],
};

/// What a kernel of `COPIES` leaves of 64 bytes; the report if it makes a mistake.
fn copied(kernel: &str, from: &[u8; 64]) -> std::result::Result<Vec<u8>, String> {
    let machine = Emulated { more: Some(&COPIES), ..Emulated::default() };
    let driver = machine.open(0, &[]).unwrap();
    let function = driver.function(&COPIES, kernel).unwrap();
    let stream = driver.stream_create().unwrap();
    let (source, target) = (driver.alloc(64).unwrap(), driver.alloc(64).unwrap());
    let mut to = vec![0; 64];
    let args = Box::new([source, target]);
    let launch = Launch { function, grid: [1, 1, 1], threads: 32, shared_bytes: 64, args };
    let run = || {
        // SAFETY: the addresses are of 64 bytes each, and all of this lives until the stream is waited for.
        unsafe { driver.copy_in(stream, source, from.as_ptr(), 64) }.unwrap();
        // SAFETY: the kernel takes two addresses.
        unsafe { driver.launch(stream, &launch) }.unwrap();
        // SAFETY: as above.
        unsafe { driver.copy_out(stream, to.as_mut_ptr(), target, 64) }.unwrap();
        driver.synchronize(stream).unwrap();
    };
    let done = catch_unwind(AssertUnwindSafe(run));
    done.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())?;
    Ok(to)
}

#[test]
fn mistakes_with_bulk_copies_are_reported() {
    let from: [u8; 64] = std::array::from_fn(|place| place as u8);
    assert_eq!(copied("right", &from).unwrap(), from);
    for kernel in ["misplaced", "outside", "miscounted", "twice", "unwaited", "too_early"] {
        let report = copied(kernel, &from).expect_err(kernel);
        assert!(report.contains("misplaced, miscounted or not waited for"), "{kernel}: {report}");
    }
    let report = copied("unannounced", &from).expect_err("it waits for ever");
    assert!(report.contains("a barrier that some threads never reach"), "{report}");
}
