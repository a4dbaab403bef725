//! Cached rows as the attention and the indexer read them: any real dtype or any row codec, decoded
//! to f32 (exactly), and the two ways an op names rows.
//!
//! Refuses nothing at run time: sizes were checked when the views were made.

use crate::common::isa::Isa;
use crate::common::rows::{RealRows, Rows};
use crate::quant::{decode_row, decode_rows};
use hal::tensor::RowCodec;

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

    /// Writes the values of rows `which` to the first [`KeyRows::width`] floats of `stride` each.
    ///
    /// # Panics
    /// If there is no such row or `out` is shorter.
    pub fn load_rows(&self, isa: Isa, which: &[u32], out: &mut [f32], stride: usize) {
        match self {
            KeyRows::Real(_) => {
                for (&row, out) in which.iter().zip(out.chunks_exact_mut(stride)) {
                    self.load(isa, row as usize, out);
                }
            }
            KeyRows::Coded { bytes, width, codec } => {
                decode_rows(isa, *codec, bytes, which, *width, out, stride);
            }
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
                decode_row(isa, *codec, bytes.row(index), &mut out[..*width]);
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
