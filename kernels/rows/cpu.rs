//! CPU kernels of the row ops.
//!
//! A row of an output is computed by one thread, in an order that only its own shape decides; sums
//! over a row go through fixed lanes. So bits do not depend on the rows beside it, on the number of
//! threads, or (there is no fused multiply-add here) on the instruction set.
//!
//! Shapes are the caller's duty. Indices are checked when they are used: one past its table panics.

mod convert;
mod gather;
mod map;
mod norm;
mod reduce;

pub use convert::{ROW_MAX, Target, convert, dequantise, gather_coded, quantise, scatter_coded};
pub use gather::{gather_elements, gather_rows, scatter_rows};
pub use map::{Expression, Strided, StridedMut, Values, ValuesMut, copy_i32, map, page_row};
pub use norm::{rms_norm, rope};
pub use reduce::{dot, max, mean_square, mix, sum};

use crate::common::isa::Isa;
use crate::common::rows::RealRows;

/// Columns worked on at a time: a few such pieces fit the first-level cache.
const PIECE: usize = 1024;

/// Columns `start..start + room.len()` of row `index` as f32; f32 rows are lent in place.
#[inline]
fn piece<'a>(
    isa: Isa,
    rows: &'a RealRows,
    index: usize,
    start: usize,
    room: &'a mut [f32],
) -> &'a [f32] {
    if let RealRows::F32(rows) = rows {
        return &rows.row(index)[start..start + room.len()];
    }
    rows.load(isa, index, start, room);
    room
}
