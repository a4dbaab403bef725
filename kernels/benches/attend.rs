//! Attention, indexer and compressor at the shapes of V4-Flash: a row of decode and rows of prefill,
//! per instruction set and row codec.
//!
//! Before criterion's own runs a table relates attention and indexer to the f32 FMA rate measured in
//! the same minute. On a shared machine only those ratios mean something.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hal::tensor::{DType, RowCodec};
use kernels::attend::{Attend, Far, KeyRows, Listed, Visible, attend};
use kernels::common::isa::Isa;
use kernels::common::peak::fma_rate;
use kernels::common::pool::Pool;
use kernels::common::rows::{Element, Real, RealRows, RealRowsMut, Rows, RowsMut};
use kernels::compress::{Compress, compress};
use kernels::index::{IndexScore, IndexSelect, index_score, index_select};
use kernels::quant::encode_row;
use kernels::rows::cpu::Target;
use std::time::{Duration, Instant};

/// V4-Flash: heads and width of queries, window, picks, heads and width of index queries.
const HEADS: usize = 64;
const WIDTH: usize = 512;
const WINDOW: usize = 128;
const PICKS: usize = 512;
const INDEX_WIDTH: usize = 128;

const FP8: RowCodec = RowCodec::Fp8 { block: 64, tail: 64 };
const FP4: RowCodec = RowCodec::Fp4 { block: 32 };

/// Numbers between -1 and 1 without a pattern.
fn noise(count: usize) -> Vec<f32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

fn view<T: Element>(data: &[T], width: usize) -> Rows<T> {
    // SAFETY: the benches keep `data` and do not write it while a view is used.
    unsafe { Rows::from_raw(data.as_ptr(), width, data.len() / width, width) }
}

fn view_mut<T: Element>(data: &mut [T], width: usize) -> RowsMut<T> {
    // SAFETY: the benches use `data` through this view only.
    unsafe { RowsMut::from_raw(data.as_mut_ptr(), width, data.len() / width, width) }
}

/// Cached rows in f32 or in a codec.
struct Cache {
    codec: RowCodec,
    width: usize,
    floats: Vec<f32>,
    bytes: Vec<u8>,
}

impl Cache {
    fn new(codec: RowCodec, rows: usize, width: usize) -> Cache {
        let floats = noise(rows * width);
        let row_bytes = codec.row_bytes(DType::Bf16, width as u32) as usize;
        let mut bytes = vec![0; if codec == RowCodec::Plain { 0 } else { rows * row_bytes }];
        for (row, bytes) in floats.chunks(width).zip(bytes.chunks_mut(row_bytes)) {
            encode_row(Isa::best(), codec, row, bytes);
        }
        Cache { codec, width, floats, bytes }
    }

    fn view(&self) -> KeyRows {
        if self.codec == RowCodec::Plain {
            return KeyRows::Real(RealRows::F32(view(&self.floats, self.width)));
        }
        let row_bytes = self.codec.row_bytes(DType::Bf16, self.width as u32) as usize;
        KeyRows::Coded { bytes: view(&self.bytes, row_bytes), width: self.width, codec: self.codec }
    }
}

/// Far keys of an attention bench.
#[derive(Clone, Copy)]
enum Reach {
    Nothing,
    Picks,
    Visible(usize),
}

impl Reach {
    fn keys(self) -> usize {
        match self {
            Reach::Nothing => 0,
            Reach::Picks => PICKS,
            Reach::Visible(count) => count,
        }
    }
}

/// Name, rows and far keys: the three kinds of layer, the last one at a context of a million.
const ATTENDS: [(&str, usize, Reach); 5] = [
    ("window, 1 row", 1, Reach::Nothing),
    ("window and picks, 1 row", 1, Reach::Picks),
    ("window and 8192 entries, 1 row", 1, Reach::Visible(8192)),
    ("window, 16 rows", 16, Reach::Nothing),
    ("window and picks, 16 rows", 16, Reach::Picks),
];

struct AttendBench {
    rows: usize,
    reach: Reach,
    cache: Cache,
    q: Vec<f32>,
    sink: Vec<f32>,
    out: Vec<f32>,
    near: Vec<i32>,
    far: Vec<i32>,
    reaches: Vec<i32>,
    pages: Vec<i32>,
    workspace: Vec<f32>,
}

impl AttendBench {
    fn new(codec: RowCodec, rows: usize, reach: Reach, threads: usize) -> AttendBench {
        let keys = reach.keys().max(1);
        let mut bench = AttendBench {
            rows,
            reach,
            cache: Cache::new(codec, WINDOW + rows + keys, WIDTH),
            q: noise(rows * HEADS * WIDTH),
            sink: noise(HEADS),
            out: vec![0.0; rows * HEADS * WIDTH],
            near: (0..rows * WINDOW).map(|i| (i / WINDOW + i % WINDOW) as i32).collect(),
            far: (0..rows * keys).map(|i| (i * 7 % keys) as i32).collect(),
            reaches: (0..rows).flat_map(|_| [0, keys as i32]).collect(),
            pages: (0..keys.div_ceil(2) as i32).rev().collect(),
            workspace: vec![],
        };
        bench.workspace = vec![0.0; bench.op().workspace_floats(threads)];
        bench
    }

    fn op(&mut self) -> Attend<'_> {
        let (cache, width) = (self.cache.view(), HEADS * WIDTH);
        let far = match self.reach {
            Reach::Nothing => None,
            Reach::Picks => Some(Far::Listed(Listed { cache, index: view(&self.far, PICKS) })),
            Reach::Visible(_) => Some(Far::Visible(Visible {
                cache,
                reach: view(&self.reaches, 2),
                pages: view(&self.pages, self.pages.len()),
                per: 2,
            })),
        };
        Attend {
            out: RealRowsMut::F32(view_mut(&mut self.out, width)),
            q: RealRows::F32(view(&self.q, width)),
            sink: &self.sink,
            near: Listed { cache, index: view(&self.near, WINDOW) },
            far,
            scale: 0.044,
        }
    }

    fn run(&mut self, isa: Isa, pool: &Pool) {
        let mut workspace = std::mem::take(&mut self.workspace);
        attend(isa, pool, &self.op(), &mut workspace);
        self.workspace = workspace;
    }

    /// Two products of all heads with every key.
    fn operations(&self) -> usize {
        4 * self.rows * HEADS * WIDTH * (WINDOW + self.reach.keys())
    }
}

/// Rows and visible entries.
const INDEXES: [(usize, usize); 3] = [(1, 1024), (1, 65536), (16, 8192)];

struct IndexBench {
    rows: usize,
    visible: usize,
    keys: Cache,
    q: Vec<f32>,
    weight: Vec<f32>,
    scores: Vec<f32>,
    picks: Vec<i32>,
    reach: Vec<i32>,
    pages: Vec<i32>,
    workspace: Vec<f32>,
}

impl IndexBench {
    fn new(codec: RowCodec, rows: usize, visible: usize) -> IndexBench {
        let mut bench = IndexBench {
            rows,
            visible,
            keys: Cache::new(codec, visible, INDEX_WIDTH),
            q: noise(rows * HEADS * INDEX_WIDTH),
            weight: noise(rows * HEADS),
            scores: vec![0.0; rows * visible],
            picks: vec![0; rows * PICKS],
            reach: (0..rows).flat_map(|_| [0, visible as i32]).collect(),
            pages: (0..visible as i32 / 64).rev().collect(),
            workspace: vec![],
        };
        bench.workspace = vec![0.0; bench.select_op().workspace_floats()];
        bench
    }

    fn select_op(&mut self) -> IndexSelect {
        IndexSelect {
            out: view_mut(&mut self.picks, PICKS),
            q: RealRows::F32(view(&self.q, HEADS * INDEX_WIDTH)),
            weight: RealRows::F32(view(&self.weight, HEADS)),
            keys: Visible {
                cache: self.keys.view(),
                reach: view(&self.reach, 2),
                pages: view(&self.pages, self.pages.len()),
                per: 64,
            },
            scale: 0.011,
        }
    }

    fn score(&mut self, isa: Isa, pool: &Pool) {
        let IndexSelect { q, weight, keys, scale, .. } = self.select_op();
        let out = view_mut(&mut self.scores, self.visible);
        index_score(isa, pool, &IndexScore { out, q, weight, keys, scale });
    }

    fn select(&mut self, isa: Isa, pool: &Pool) {
        let op = self.select_op();
        index_select(isa, pool, &op, &mut self.workspace);
    }

    fn operations(&self) -> usize {
        2 * self.rows * HEADS * INDEX_WIDTH * self.visible
    }
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

fn ratio_line(name: &str, operations: usize, seconds: f64, peak: f64) {
    let rate = operations as f64 / seconds / 1e9;
    let share = rate / peak * 100.0;
    println!("  {name:44} {:8.3} ms {rate:5.0} GFLOP/s = {share:3.0} %", seconds * 1e3);
}

/// The table of ratios.
fn ratios(_: &mut Criterion) {
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        for isa in Isa::all() {
            let peak = fma_rate(isa, &pool, 50);
            println!("{isa}, {threads} threads: f32 FMA {peak:.0} GFLOP/s");
            for (name, rows, reach) in ATTENDS {
                for (codec, codec_name) in [(RowCodec::Plain, "f32"), (FP8, "fp8")] {
                    let mut bench = AttendBench::new(codec, rows, reach, threads);
                    let time = best(40, || bench.run(isa, &pool));
                    let name = format!("attend, {name}, {codec_name}");
                    ratio_line(&name, bench.operations(), time, peak);
                }
            }
            for (rows, visible) in INDEXES {
                let mut bench = IndexBench::new(FP4, rows, visible);
                let operations = bench.operations();
                let time = best(20, || bench.score(isa, &pool));
                let name = format!("index_score, {rows} rows, {visible} entries, fp4");
                ratio_line(&name, operations, time, peak);
                let time = best(20, || bench.select(isa, &pool));
                let name = format!("index_select, {rows} rows, {visible} entries, fp4");
                ratio_line(&name, operations, time, peak);
            }
        }
    }
}

fn attends(c: &mut Criterion) {
    let pool = Pool::for_machine();
    for (name, rows, reach) in ATTENDS {
        let mut group = c.benchmark_group(format!("attend/{name}"));
        for isa in Isa::all() {
            for (codec, codec_name) in [(RowCodec::Plain, "f32"), (FP8, "fp8")] {
                let mut bench = AttendBench::new(codec, rows, reach, pool.threads());
                group.throughput(Throughput::Elements(bench.operations() as u64));
                group.bench_function(BenchmarkId::new(codec_name, isa), |bencher| {
                    bencher.iter(|| bench.run(isa, &pool));
                });
            }
        }
        group.finish();
    }
}

fn indexes(c: &mut Criterion) {
    let pool = Pool::for_machine();
    for (rows, visible) in INDEXES {
        let mut group = c.benchmark_group(format!("index/{rows} rows, {visible} entries"));
        for isa in Isa::all() {
            let mut bench = IndexBench::new(FP4, rows, visible);
            group.throughput(Throughput::Elements(bench.operations() as u64));
            group.bench_function(BenchmarkId::new("score", isa), |bencher| {
                bencher.iter(|| bench.score(isa, &pool));
            });
            group.bench_function(BenchmarkId::new("select", isa), |bencher| {
                bencher.iter(|| bench.select(isa, &pool));
            });
        }
        group.finish();
    }
}

/// Windows, slots and halves: what 512 rows of prefill complete in a layer of ratio 128 and of ratio 4,
/// and what a row of decode does where it completes a window.
const COMPRESSES: [(&str, usize, usize, usize); 3] = [
    ("4 windows of 128", 4, 128, 1),
    ("128 windows of 8", 128, 8, 2),
    ("1 window of 128", 1, 128, 1),
];

fn compresses(c: &mut Criterion) {
    let pool = Pool::for_machine();
    for (name, windows, slots, halves) in COMPRESSES {
        let (wide, places) = (2 * halves * WIDTH, windows * slots * 2);
        let (mut tail, landing) = (noise(256 * wide), noise(512 * wide));
        let half_rows = 768 * 2 * halves;
        let list: Vec<i32> = (0..places).map(|place| (place * 3 % half_rows) as i32).collect();
        let (bias, gain, angle) = (noise(slots * WIDTH), noise(WIDTH), noise(windows * 64));
        let row_bytes = FP8.row_bytes(DType::Bf16, WIDTH as u32) as usize;
        let mut entries = vec![0u8; windows * row_bytes];
        let (rows, keep): (Vec<i32>, Vec<i32>) = ((0..windows as i32).collect(), vec![-1; 512]);
        let op = Compress {
            entries: Target::Coded {
                bytes: view_mut(&mut entries, row_bytes),
                width: WIDTH,
                codec: FP8,
            },
            tail: view_mut(&mut tail, wide),
            landing: view(&landing, wide),
            bias: view(&bias, WIDTH),
            gain: view(&gain, WIDTH),
            pool: view(&list, slots),
            entry_angle: view(&angle, 64),
            entry_row: view(&rows, 1),
            tail_keep: view(&keep, 1),
            epsilon: 1e-6,
            activation: Real::Bf16,
            rotation: None,
            round: Some(FP8),
        };
        let mut workspace = vec![0.0; op.workspace_floats()];
        let mut group = c.benchmark_group(format!("compress/{name}"));
        group.throughput(Throughput::Elements((windows * slots * WIDTH) as u64));
        for isa in Isa::all() {
            group.bench_function(BenchmarkId::new("fp8", isa), |bencher| {
                bencher.iter(|| compress(isa, &pool, &op, &mut workspace));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20);
    targets = ratios, attends, indexes, compresses
}
criterion_main!(benches);
