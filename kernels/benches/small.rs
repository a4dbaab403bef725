//! Matmuls as small as the demo model's: weights of 128 columns in cache, 1 to 64 rows.
//!
//! A table of the best of many runs, in microseconds. Here what surrounds the products counts: permuting
//! x, adding up lanes, rounding, waking a thread. gemm.rs has the sizes where the products themselves do.

use half::bf16;
use kernels::case::Random;
use kernels::common::isa::Isa;
use kernels::common::peak::fma_rate;
use kernels::common::pool::Pool;
use kernels::common::rows::{RealRows, RealRowsMut, Rows, RowsMut};
use kernels::gemm::cases::{Case, Fill, OwnedSegment};
use kernels::gemm::{Encoding, FiniteNotes, RowGroups, Segment, WeightView, matmul};
use kernels::quant::formats::encode_e4m3;
use std::time::Instant;

const FP8: Encoding = Encoding::Fp8 { rows: 128, cols: 128 };
const ROWS: [usize; 6] = [1, 4, 8, 16, 32, 64];

/// Name, outputs, columns, groups (more than one: a quarter of them a row's, sorted), encoding.
const SHAPES: [(&str, usize, usize, usize, Encoding); 7] = [
    ("query", 128, 128, 1, FP8),
    ("heads", 512, 128, 1, FP8),
    ("index heads", 1024, 128, 1, FP8),
    ("mixing", 24, 512, 1, Encoding::F32),
    ("gates of experts", 256, 128, 8, Encoding::Fp4),
    ("experts", 128, 128, 8, Encoding::Fp4),
    ("vocabulary", 2048, 128, 1, Encoding::Bf16),
];

fn main() {
    let threads: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    for isa in Isa::all() {
        for &threads in if threads.is_empty() { &[1, 2][..] } else { &threads } {
            let pool = Pool::new(threads);
            println!("{isa}, {threads} threads, {:.0} GFLOP/s", fma_rate(isa, &pool, 50));
            print!("{:18}", "rows");
            ROWS.iter().for_each(|rows| print!("{rows:>9}"));
            println!();
            for shape in SHAPES {
                print!("{:18}", shape.0);
                ROWS.iter().for_each(|&rows| print!("{:9.1}", best_us(isa, &pool, shape, rows)));
                println!();
            }
        }
    }
}

/// FP8 codes as trained weights have them: few subnormal ones, which take time of their own.
fn bell(segment: &mut OwnedSegment) {
    if segment.encoding == FP8 {
        let mut random = Random::new(2);
        segment.codes.fill_with(|| encode_e4m3((random.gauss() * 112.0) as f32));
    }
}

/// Best of 2,000 runs, in microseconds.
fn best_us(
    isa: Isa,
    pool: &Pool,
    (name, outputs, cols, groups, encoding): (&'static str, usize, usize, usize, Encoding),
    rows: usize,
) -> f64 {
    // Two of eight experts a row, as evenly as it goes.
    let rows = if groups > 1 { rows * groups / 4 } else { rows };
    let parts = vec![outputs];
    let case = Case {
        name,
        seed: 1,
        rows,
        cols,
        groups,
        parts,
        encoding,
        offsets: None,
        fill: Fill::Plain,
    };
    let mut data = case.data();
    data.segments.iter_mut().for_each(bell);
    let x: Vec<bf16> = data.x.iter().map(|&x| bf16::from_f32(x)).collect();
    let mut out = vec![bf16::ZERO; rows * outputs];
    let views: Vec<Segment<'_>> = data.segments.iter().map(|segment| segment.view()).collect();
    let weight = WeightView::new(cols, groups, &views).expect("sizes fit");
    let notes = FiniteNotes::new(groups, outputs);
    let weight = weight.noting(&notes);
    let offsets: Vec<i32> = (0..=groups).map(|group| (rows * group / groups) as i32).collect();
    let cut = if groups > 1 { RowGroups::Sorted(&offsets) } else { RowGroups::Cyclic };
    // SAFETY: both views lie in vectors of `rows` rows that nobody else uses.
    let (x, out) = unsafe {
        (
            RealRows::Bf16(Rows::from_raw(x.as_ptr(), cols, rows, cols)),
            RealRowsMut::Bf16(RowsMut::from_raw(out.as_mut_ptr(), outputs, rows, outputs)),
        )
    };
    let time = |_| {
        let begin = Instant::now();
        matmul(isa, pool, x, &weight, cut, out);
        begin.elapsed().as_secs_f64() * 1e6
    };
    (0..2_000).map(time).fold(f64::INFINITY, f64::min)
}
