//! What the kernels' tests share: seeded numbers, matrices of any real dtype, and law 7.

use std::ops::Range;

use super::isa::Isa;
use super::pool::Pool;
use super::rows::{Element, Real, RealRows, RealRowsMut, Rows, RowsMut};

/// A seeded generator; tests print nothing but its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = (self.0 >> 33) ^ self.0;
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 20
    }

    /// `0..limit`
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// -1..1
    pub fn unit(&mut self) -> f32 {
        (self.next() & 0xff_ffff) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.unit() * size).collect()
    }
}

/// A matrix with a gap behind every row, filled with a pattern nobody may touch.
pub struct Matrix {
    kind: Real,
    words: Vec<u32>,
    rows: usize,
    width: usize,
}

const GAP: usize = 3;

impl Matrix {
    pub fn new(kind: Real, rows: usize, width: usize, values: &[f32]) -> Matrix {
        assert_eq!(values.len(), rows * width);
        let words = vec![0xdead_beef; (rows * (width + GAP) + 1) * kind.size_bytes() / 4 + 1];
        let mut matrix = Matrix { kind, words, rows, width };
        let mut target = matrix.view_mut();
        for (row, values) in values.chunks_exact(width).enumerate() {
            target.store(Isa::SCALAR, row, 0, values);
        }
        matrix
    }

    pub fn empty(kind: Real, rows: usize, width: usize) -> Matrix {
        Matrix::new(kind, rows, width, &vec![f32::NAN; rows * width])
    }

    pub fn view(&self) -> RealRows {
        let (base, stride) = (self.words.as_ptr(), self.width + GAP);
        // SAFETY: the words hold all rows; tests do not write beside a read.
        unsafe {
            match self.kind {
                Real::F32 => {
                    RealRows::F32(Rows::from_raw(base.cast(), stride, self.rows, self.width))
                }
                Real::Bf16 => {
                    RealRows::Bf16(Rows::from_raw(base.cast(), stride, self.rows, self.width))
                }
                Real::F16 => {
                    RealRows::F16(Rows::from_raw(base.cast(), stride, self.rows, self.width))
                }
            }
        }
    }

    pub fn view_mut(&mut self) -> RealRowsMut {
        let (base, stride) = (self.words.as_mut_ptr(), self.width + GAP);
        // SAFETY: as above.
        unsafe {
            match self.kind {
                Real::F32 => {
                    RealRowsMut::F32(RowsMut::from_raw(base.cast(), stride, self.rows, self.width))
                }
                Real::Bf16 => {
                    RealRowsMut::Bf16(RowsMut::from_raw(base.cast(), stride, self.rows, self.width))
                }
                Real::F16 => {
                    RealRowsMut::F16(RowsMut::from_raw(base.cast(), stride, self.rows, self.width))
                }
            }
        }
    }

    /// The values as they are stored.
    pub fn floats(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.width];
        for (row, out) in out.chunks_exact_mut(self.width.max(1)).enumerate() {
            self.view().load(Isa::SCALAR, row, 0, out);
        }
        out
    }

    /// The same, for an oracle.
    pub fn values(&self) -> Vec<f64> {
        self.floats().into_iter().map(f64::from).collect()
    }

    /// Relative error that one rounding to the dtype makes.
    pub fn unit_roundoff(&self) -> f64 {
        match self.kind {
            Real::F32 => 2f64.powi(-24),
            Real::Bf16 => 2f64.powi(-8),
            Real::F16 => 2f64.powi(-11),
        }
    }

    /// Asserts that every value is within `roundings` of `want`, relative to `want` plus `floor`.
    pub fn check(&self, want: &[f64], roundings: f64, floor: f64, what: &str) {
        let got = self.values();
        assert_eq!(got.len(), want.len(), "{what}");
        // f32 arithmetic in front of the one rounding to a shorter dtype.
        let tolerance = self.unit_roundoff() * 1.01 + roundings * 2f64.powi(-24);
        for (place, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (got - want).abs();
            let allowed = tolerance * (want.abs() + floor);
            assert!(error <= allowed, "{what}: element {place} is {got}, wanted {want}");
        }
    }
}

/// Rows of a plain vector.
pub fn rows<T: Element>(data: &[T], width: usize) -> Rows<T> {
    // SAFETY: the rows lie in `data`; tests do not write beside a read.
    unsafe { Rows::from_raw(data.as_ptr(), width, data.len() / width.max(1), width) }
}

/// Writable rows of a plain vector.
pub fn rows_mut<T: Element>(data: &mut [T], width: usize) -> RowsMut<T> {
    // SAFETY: as above.
    unsafe { RowsMut::from_raw(data.as_mut_ptr(), width, data.len() / width.max(1), width) }
}

/// Some rows of a real view.
pub fn part(rows: RealRows, range: Range<usize>) -> RealRows {
    match rows {
        RealRows::F32(rows) => RealRows::F32(rows.slice(range)),
        RealRows::Bf16(rows) => RealRows::Bf16(rows.slice(range)),
        RealRows::F16(rows) => RealRows::F16(rows.slice(range)),
    }
}

/// Law 7: `run(isa, pool, rows)` gives every row the same bits alone, among others, on any number of
/// threads and on any instruction set. Returns the bits of all rows.
pub fn rows_are_exact(
    count: usize,
    what: &str,
    run: impl Fn(Isa, &Pool, Range<usize>) -> Vec<f32>,
) -> Vec<u32> {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let one = Pool::new(1);
    let want = bits(run(Isa::SCALAR, &one, 0..count));
    for isa in Isa::all() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let got = bits(run(isa, &pool, 0..count));
            assert_eq!(got, want, "{what}: {isa}, {threads} threads");
        }
        let alone: Vec<u32> = (0..count).flat_map(|i| bits(run(isa, &one, i..i + 1))).collect();
        assert_eq!(alone, want, "{what}: {isa}, rows alone");
    }
    want
}
