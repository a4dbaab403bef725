//! Cached rows as the attention and the indexer read them: any real dtype or any row codec, decoded
//! to f32 (exactly), and the two ways an op names rows.
//!
//! Refuses nothing at run time: sizes were checked when the views were made.

use crate::common::isa::Isa;
use crate::common::per_isa::per_isa;
use crate::common::rows::{RealRows, Rows};
use hal::tensor::RowCodec;
use half::bf16;

/// Rows of a cache, decoded as they are read.
#[derive(Clone, Copy, Debug)]
pub enum KeyRows {
    /// `RowCodec::Plain` rows.
    Real(RealRows),
    /// Rows of a block codec: bytes as [`RowCodec`] lays them out.
    Coded {
        /// One row of bytes per cached row.
        bytes: Rows<u8>,
        /// Values in a row.
        width: usize,
        /// `Fp8` or `Fp4`.
        codec: RowCodec,
    },
}

/// Rows of a cache by an index list per query. Fields as in `hal::op::Listed`.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// `[r, c]`
    pub cache: KeyRows,
    /// `[n, w]`; negative is absent.
    pub index: Rows<i32>,
}

/// Visible entries of a paged cache. Fields as in `hal::op::Visible`.
#[derive(Clone, Copy, Debug)]
pub struct Visible {
    /// `[r, c]`
    pub cache: KeyRows,
    /// `[n, 2]`: row of `pages`, visible entries.
    pub reach: Rows<i32>,
    /// `[S, P]`; entries on a negative page are absent.
    pub pages: Rows<i32>,
    /// Entries per page.
    pub per: usize,
}

impl KeyRows {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            KeyRows::Real(rows) => rows.rows(),
            KeyRows::Coded { bytes, .. } => bytes.rows(),
        }
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        match self {
            KeyRows::Real(rows) => rows.width(),
            KeyRows::Coded { width, .. } => *width,
        }
    }

    /// Writes the values of row `index` to the first [`KeyRows::width`] floats of `out`.
    ///
    /// # Panics
    /// If there is no such row or `out` is shorter.
    pub fn load(&self, isa: Isa, index: usize, out: &mut [f32]) {
        match self {
            KeyRows::Real(rows) => rows.load(isa, index, 0, &mut out[..rows.width()]),
            KeyRows::Coded { bytes, width, codec } => {
                decode(isa, *codec, bytes.row(index), &mut out[..*width]);
            }
        }
    }
}

impl Visible {
    /// Visible entries of query `row`, present or not.
    pub fn count(&self, row: usize) -> usize {
        usize::try_from(self.reach.row(row)[1]).unwrap_or(0)
    }

    /// Most entries a query can see.
    pub fn capacity(&self) -> usize {
        self.pages.width() * self.per
    }

    /// Calls `visit(first cache row or None, entries)` for each visible stretch of one page.
    #[inline(always)]
    pub(crate) fn each_page(&self, row: usize, mut visit: impl FnMut(Option<usize>, usize)) {
        let visible = self.count(row);
        if visible == 0 {
            return;
        }
        let sequence = self.reach.row(row)[0];
        let pages = self.pages.row(usize::try_from(sequence).expect("a query that sees has pages"));
        for (page, first) in pages.iter().zip((0..visible).step_by(self.per)) {
            let first_row = usize::try_from(*page).ok().map(|page| page * self.per);
            visit(first_row, self.per.min(visible - first));
        }
    }
}

/// 2^(code - 127); 255 is NaN.
#[inline(always)]
fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// Value of an E4M3 code. Selects instead of branches: the compiler makes vectors of it.
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    let normal = f32::from_bits((magnitude << 20) + (120 << 23));
    let small = magnitude as f32 * (1.0 / 512.0);
    let value = if magnitude < 8 { small } else { normal };
    let value = if magnitude == 0x7f { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

/// Value of an E2M1 code in the low four bits.
#[inline(always)]
fn e2m1(code: u8) -> f32 {
    let magnitude = u32::from(code & 7);
    let normal = f32::from_bits((magnitude << 22) + (126 << 23));
    let value = if magnitude < 2 { magnitude as f32 * 0.5 } else { normal };
    f32::from_bits(value.to_bits() | u32::from(code & 8) << 28)
}

per_isa! {
    /// Values of one coded row.
    fn decode(codec: RowCodec, row: &[u8], out: &mut [f32]) {
        match codec {
            RowCodec::Fp8 { block, tail } => {
                let (block, coded) = (usize::from(block), out.len() - usize::from(tail));
                let (codes, rest) = row.split_at(coded);
                let (plain, scales) = rest.split_at(2 * usize::from(tail));
                let (out, last) = out.split_at_mut(coded);
                let blocks = out.chunks_mut(block).zip(codes.chunks(block));
                for ((out, codes), &scale) in blocks.zip(scales) {
                    let scale = e8m0(scale);
                    for (out, &code) in out.iter_mut().zip(codes) {
                        *out = e4m3(code) * scale;
                    }
                }
                for (out, pair) in last.iter_mut().zip(plain.chunks_exact(2)) {
                    *out = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
                }
            }
            RowCodec::Fp4 { block } => {
                let block = usize::from(block);
                let (codes, scales) = row.split_at(out.len().div_ceil(2));
                for (index, out) in out.chunks_mut(block).enumerate() {
                    let scale = e8m0(scales[index]);
                    if block.is_multiple_of(2) && out.len() == block {
                        let codes = &codes[index * block / 2..(index + 1) * block / 2];
                        for (pair, &code) in out.chunks_exact_mut(2).zip(codes) {
                            pair[0] = e2m1(code) * scale;
                            pair[1] = e2m1(code >> 4) * scale;
                        }
                        continue;
                    }
                    for (column, out) in out.iter_mut().enumerate() {
                        let column = index * block + column;
                        *out = e2m1(codes[column / 2] >> (column % 2 * 4)) * scale;
                    }
                }
            }
            _ => unreachable!("plain rows are read as real rows"),
        }
    }
}
