//! gather and scatter of plain rows, which are moved as bytes, and gather of elements.

use crate::common::cut;
use crate::common::pool::Pool;
use crate::common::rows::{Element, Rows, RowsMut};

/// `out[i] = source[index[i] / per]`; an index at or past the end of `source` goes on in `more`; a
/// negative one fills the row with `absent` bytes (0 for reals, 0xff for integers: -1).
///
/// `index` is one row. Memory bound: reads and writes each row once.
///
/// # Panics
/// If an index is past both tables.
pub fn gather_rows(
    pool: &Pool,
    out: RowsMut<u8>,
    source: Rows<u8>,
    more: Option<Rows<u8>>,
    index: Rows<i32>,
    per: u32,
    absent: u8,
) {
    let width = out.width();
    cut::ranges(pool, out.rows(), 10 + width / 8, &|range| {
        let index = index.row(0);
        for i in range {
            // SAFETY: every row belongs to one range, and rows do not overlap.
            let out = unsafe { out.shared(i, 0..width) };
            if index[i] < 0 {
                out.fill(absent);
                continue;
            }
            let at = (index[i] as u32 / per) as usize;
            let row = match more {
                Some(ref more) if at >= source.rows() => more.row(at - source.rows()),
                _ => source.row(at),
            };
            out.copy_from_slice(row);
        }
    });
}

/// `out[i, j] = source[rows[i], index[i, j] / per]`; without `rows`, from row i. A negative index or
/// row gives `absent`.
///
/// # Panics
/// If an index or row does not exist.
pub fn gather_elements<T: Element>(
    pool: &Pool,
    mut out: RowsMut<T>,
    source: Rows<T>,
    rows: Option<Rows<i32>>,
    index: Rows<i32>,
    per: u32,
    absent: T,
) {
    let grain = cut::grain(pool, out.rows(), 10 + 2 * out.width());
    out.each_row(pool, grain, &|i, out| {
        let at = rows.map_or(i as i32, |rows| rows.row(i)[0]);
        if at < 0 {
            out.fill(absent);
            return;
        }
        let source = source.row(at as usize);
        for (out, &index) in out.iter_mut().zip(index.row(i)) {
            *out = if index < 0 { absent } else { source[(index as u32 / per) as usize] };
        }
    });
}

/// `target[index[i]] = source[i]`; a negative index drops the row.
///
/// On one thread: two rows for one place are forbidden, but must not become a data race.
///
/// # Panics
/// If an index is past the target.
pub fn scatter_rows(mut target: RowsMut<u8>, source: Rows<u8>, index: Rows<i32>) {
    for i in 0..source.rows() {
        let at = index.row(i)[0];
        if at >= 0 {
            target.row_mut(at as usize).copy_from_slice(source.row(i));
        }
    }
}
