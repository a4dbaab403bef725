//! Matmul per encoding and instruction set: decode (one row; weights streamed from memory, or resident
//! in cache) and prefill (48 rows, an expert's share; 512 rows).
//!
//! Before criterion's own runs a table relates each to what was measured of the machine in the same
//! minute: read bandwidth and f32 FMA rate. On a shared machine only those ratios mean something.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use kernels::common::isa::Isa;
use kernels::common::peak::{fma_rate, read_bandwidth};
use kernels::common::pool::Pool;
use kernels::common::rows::{RealRows, RealRowsMut, Rows, RowsMut};
use kernels::gemm::cases::{Case, Fill, OwnedSegment};
use kernels::gemm::{Encoding, FiniteNotes, RowGroups, Segment, WeightView, matmul};
use kernels::quant::{Form, round_trip};
use std::time::{Duration, Instant};

const COLS: usize = 1024;
const OUTPUTS: usize = 1024;
const ROWS_MAX: usize = 512;

/// Bytes of codes that count as "from memory": well beyond any last-level cache we run on.
const STREAMED_BYTES: usize = 256 << 20;

const ENCODINGS: [(&str, Encoding); 6] = [
    ("f32", Encoding::F32),
    ("bf16", Encoding::Bf16),
    ("f16", Encoding::F16),
    ("fp8", Encoding::Fp8 { rows: 128, cols: 128 }),
    ("fp4", Encoding::Fp4),
    ("int8", Encoding::Int8),
];

/// Operands of the matmuls of one encoding.
struct Bench {
    isa: Isa,
    weights: Vec<OwnedSegment>,
    notes: Vec<FiniteNotes>,
    x: Vec<bf16>,
    out: Vec<f32>,
}

impl Bench {
    /// `copies` equal weights at different addresses.
    fn new(isa: Isa, encoding: Encoding, copies: usize) -> Bench {
        let case = Case {
            name: "bench",
            seed: 1,
            rows: ROWS_MAX,
            cols: COLS,
            groups: 1,
            parts: vec![OUTPUTS],
            encoding,
            offsets: None,
            fill: Fill::Plain,
        };
        let mut data = case.data();
        let weights = vec![data.segments.remove(0); copies];
        let notes = (0..copies).map(|_| FiniteNotes::new(1, OUTPUTS)).collect();
        let x = data.x.iter().map(|&value| bf16::from_f32(value)).collect();
        Bench { isa, weights, notes, x, out: vec![0.0; ROWS_MAX * OUTPUTS] }
    }

    fn run(&mut self, pool: &Pool, copy: usize, rows: usize) {
        let views: [Segment<'_>; 1] = [self.weights[copy].view()];
        let weight = WeightView::new(COLS, 1, &views).expect("sizes fit");
        let weight = weight.noting(&self.notes[copy]);
        // SAFETY: both views lie in vectors of at least `rows` rows that nobody else uses.
        let (x, out) = unsafe {
            (
                Rows::from_raw(self.x.as_ptr(), COLS, rows, COLS),
                RowsMut::from_raw(self.out.as_mut_ptr(), OUTPUTS, rows, OUTPUTS),
            )
        };
        let out = RealRowsMut::F32(out);
        matmul(self.isa, pool, RealRows::Bf16(x), &weight, RowGroups::Cyclic, out);
    }

    fn code_bytes(&self) -> usize {
        self.weights[0].codes.len()
    }
}

fn copies(encoding: Encoding) -> usize {
    STREAMED_BYTES / (OUTPUTS * encoding.row_bytes(COLS))
}

/// Shortest of `windows` times of `pass`, in seconds.
fn best(windows: usize, mut pass: impl FnMut()) -> f64 {
    let time = |_| {
        let begin = Instant::now();
        pass();
        begin.elapsed().as_secs_f64()
    };
    (0..windows).map(time).fold(f64::INFINITY, f64::min)
}

/// The table of ratios.
fn ratios(_: &mut Criterion) {
    let stream = vec![1.0f32; STREAMED_BYTES / 4];
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        for isa in Isa::all() {
            let read = read_bandwidth(isa, &pool, &stream, 4);
            let peak = fma_rate(isa, &pool, 50);
            println!("{isa}, {threads} threads: reads {read:.1} GB/s, f32 FMA {peak:.0} GFLOP/s");
            for (name, encoding) in ENCODINGS {
                ratio_line(isa, &pool, name, encoding, read, peak);
            }
        }
    }
}

fn ratio_line(isa: Isa, pool: &Pool, name: &str, encoding: Encoding, read: f64, peak: f64) {
    let copies = copies(encoding);
    let mut bench = Bench::new(isa, encoding, copies);
    let bytes = bench.code_bytes() as f64;
    let mut copy = 0;
    let streamed = best(4 * copies, || {
        bench.run(pool, copy, 1);
        copy = (copy + 1) % copies;
    });
    let cached = best(200, || bench.run(pool, 0, 1));
    print!("  {name:5} 1 row: streamed {:5.1} GB/s", bytes / streamed / 1e9);
    print!(" = {:3.0} % of reads,", bytes / streamed / 1e7 / read);
    print!(" cached {:5.1} GB/s;", bytes / cached / 1e9);
    for (rows, windows) in [(4, 100), (48, 50), (512, 10)] {
        let time = best(windows, || bench.run(pool, 0, rows));
        let rate = 2.0 * (rows * COLS * OUTPUTS) as f64 / time / 1e9;
        print!(" {rows} rows {rate:4.0} GFLOP/s = {:3.0} %", rate / peak * 100.0);
    }
    println!();
}

fn decode(c: &mut Criterion) {
    let pool = Pool::for_machine();
    for (place, copies) in [("streamed", copies as fn(Encoding) -> usize), ("cached", |_| 1)] {
        let mut group = c.benchmark_group(format!("matmul/1 row/{place}"));
        for isa in Isa::all() {
            for (name, encoding) in ENCODINGS {
                let mut bench = Bench::new(isa, encoding, copies(encoding));
                group.throughput(Throughput::Bytes(bench.code_bytes() as u64));
                let mut copy = 0;
                group.bench_function(BenchmarkId::new(name, isa), |bencher| {
                    bencher.iter(|| {
                        bench.run(&pool, copy, 1);
                        copy = (copy + 1) % bench.weights.len();
                    });
                });
            }
        }
        group.finish();
    }
}

fn prefill(c: &mut Criterion) {
    let pool = Pool::for_machine();
    for rows in [48, 512] {
        let mut group = c.benchmark_group(format!("matmul/{rows} rows"));
        for isa in Isa::all() {
            for (name, encoding) in ENCODINGS {
                let mut bench = Bench::new(isa, encoding, 1);
                group.throughput(Throughput::Elements((rows * COLS * OUTPUTS) as u64));
                group.bench_function(BenchmarkId::new(name, isa), |bencher| {
                    bencher.iter(|| bench.run(&pool, 0, rows));
                });
            }
        }
        group.finish();
    }
}

fn rounding(c: &mut Criterion) {
    let mut group = c.benchmark_group("round trip/4096 columns");
    let values = Bench::new(Isa::SCALAR, Encoding::Bf16, 1).x;
    let values: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
    group.throughput(Throughput::Elements(4096));
    for isa in Isa::all() {
        for (name, form, block) in [("e4m3", Form::E4m3, 128), ("e2m1", Form::E2m1, 32)] {
            let mut row = values[..4096].to_vec();
            group.bench_function(BenchmarkId::new(name, isa), |bencher| {
                bencher.iter(|| round_trip(isa, form, block, &mut row));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20);
    targets = ratios, decode, prefill, rounding
}
criterion_main!(benches);
