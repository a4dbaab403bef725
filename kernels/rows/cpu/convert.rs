//! convert, and gather and scatter of coded rows: what changes how a row is stored.
//!
//! A row is decoded to f32 (exactly), rounded where the form says so, and stored, in one piece.

use crate::attend::KeyRows;
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRowsMut, Rows, RowsMut};
use crate::common::{cut, scratch};
use crate::quant::{self, Form};
use hal::tensor::RowCodec;

/// Widest row: what a thread's scratch holds.
pub const ROW_MAX: usize = scratch::SCRATCH_FLOATS;

/// Writable rows, however they are stored.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// `RowCodec::Plain` rows.
    Real(RealRowsMut),
    /// Rows of a block codec; values must be exact in it.
    Coded {
        /// One row of bytes per row.
        bytes: RowsMut<u8>,
        /// Values in a row.
        width: usize,
        /// `Fp8` or `Fp4`.
        codec: RowCodec,
    },
}

impl Target {
    fn rows(&self) -> usize {
        match self {
            Target::Real(rows) => rows.rows(),
            Target::Coded { bytes, .. } => bytes.rows(),
        }
    }

    /// Stores a whole row.
    ///
    /// # Safety
    /// Nobody else uses row `index` during the call.
    unsafe fn store(&self, isa: Isa, index: usize, values: &[f32]) {
        match self {
            // SAFETY: the caller's promise.
            Target::Real(rows) => unsafe { rows.store_shared(isa, index, 0, values) },
            Target::Coded { bytes, codec, .. } => {
                // SAFETY: the caller's promise.
                let row = unsafe { bytes.shared(index, 0..bytes.width()) };
                quant::encode_row(isa, *codec, values, row);
            }
        }
    }
}

/// Form, block and coded columns of a codec for rows of `width` values.
///
/// # Panics
/// For `Plain`, which has no codes: hal refuses it where a codec is asked for.
fn blocks(codec: RowCodec, width: usize) -> (Form, usize, usize) {
    match codec {
        RowCodec::Fp8 { block, tail } => {
            (Form::E4m3, usize::from(block), width.saturating_sub(usize::from(tail)))
        }
        RowCodec::Fp4 { block } => (Form::E2m1, usize::from(block), width),
        other => panic!("{other:?} has no codes"),
    }
}

/// `out = x` in another dtype or codec, after the round trip through `round` where there is one.
pub fn convert(isa: Isa, pool: &Pool, out: Target, x: KeyRows, round: Option<RowCodec>) {
    let width = x.width();
    cut::ranges(pool, out.rows(), 20 + width / 2, &|range| {
        scratch::with(|room| {
            let values = &mut room[..width];
            for row in range {
                // 1 decode
                x.load(isa, row, values);
                // 2 round
                if let Some(codec) = round {
                    let (form, block, coded) = blocks(codec, width);
                    quant::round_trip(isa, form, block, &mut values[..coded]);
                }
                // 3 store
                // SAFETY: every row belongs to one range.
                unsafe { out.store(isa, row, values) };
            }
        });
    });
}

/// Codes and scale bytes of every row of `x`.
pub fn quantise(
    isa: Isa,
    pool: &Pool,
    codes: RowsMut<u8>,
    scales: RowsMut<u8>,
    x: KeyRows,
    codec: RowCodec,
) {
    let width = x.width();
    let (form, block, _) = blocks(codec, width);
    cut::ranges(pool, codes.rows(), 20 + width / 2, &|range| {
        scratch::with(|room| {
            let values = &mut room[..width];
            for row in range {
                x.load(isa, row, values);
                // SAFETY: every row belongs to one range.
                let (codes, scales) = unsafe {
                    (codes.shared(row, 0..codes.width()), scales.shared(row, 0..scales.width()))
                };
                quant::quantise(isa, form, block, values, codes, scales);
            }
        });
    });
}

/// Values of codes and scale bytes, rounded to the dtype of `out`.
pub fn dequantise(
    isa: Isa,
    pool: &Pool,
    out: RealRowsMut,
    codes: Rows<u8>,
    scales: Rows<u8>,
    codec: RowCodec,
) {
    let width = out.width();
    let (form, block, _) = blocks(codec, width);
    cut::ranges(pool, out.rows(), 20 + width / 4, &|range| {
        scratch::with(|room| {
            let values = &mut room[..width];
            for row in range {
                quant::dequantise(isa, form, block, codes.row(row), scales.row(row), values);
                // SAFETY: every row belongs to one range.
                unsafe { out.store_shared(isa, row, 0, values) };
            }
        });
    });
}

/// `out[i] = source[index[i] / per]`, decoded; an index past `source` goes on in `more`, a negative one
/// gives zeros. `index` is one row.
///
/// # Panics
/// If an index is past both tables.
pub fn gather_coded(
    isa: Isa,
    pool: &Pool,
    out: RealRowsMut,
    source: KeyRows,
    more: Option<KeyRows>,
    index: Rows<i32>,
    per: u32,
) {
    let width = out.width();
    cut::ranges(pool, out.rows(), 20 + width / 4, &|range| {
        scratch::with(|room| {
            let values = &mut room[..width];
            for i in range {
                let index = index.row(0)[i];
                let at = (index.max(0) as u32 / per) as usize;
                match more {
                    _ if index < 0 => values.fill(0.0),
                    Some(more) if at >= source.rows() => {
                        more.load(isa, at - source.rows(), values);
                    }
                    _ => source.load(isa, at, values),
                }
                // SAFETY: every row belongs to one range.
                unsafe { out.store_shared(isa, i, 0, values) };
            }
        });
    });
}

/// `target[index[i]] = source[i]`, decoded and encoded; a negative index drops the row.
///
/// On one thread: two rows for one place are forbidden, but must not become a data race.
///
/// # Panics
/// If an index is past the target.
pub fn scatter_coded(isa: Isa, target: Target, source: KeyRows, index: Rows<i32>) {
    scratch::with(|room| {
        let values = &mut room[..source.width()];
        for i in 0..source.rows() {
            let at = index.row(i)[0];
            if at >= 0 {
                source.load(isa, i, values);
                // SAFETY: this call alone uses the target.
                unsafe { target.store(isa, at as usize, values) };
            }
        }
    });
}
