//! Rows in memory: views with one stride, of a fixed element type or of any real dtype.
//!
//! A tensor is rows with one stride (the stride belongs to the rows, columns are contiguous). Plans
//! keep such views next to the buffers they own, so the views carry raw pointers and no lifetime; who
//! makes one promises that the memory outlives it. All access after that is bounds-checked per row.
//!
//! Not here: codecs of cached rows (`quant`) and allocation.

use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::real::{narrow_bf16, narrow_f16, widen_bf16, widen_f16};
use half::{bf16, f16};
use std::ops::Range;

/// Element types a row may have: plain numbers for which every bit pattern is a value.
///
/// # Safety
/// Implementors have no padding, no invalid bit patterns and no drop glue.
pub unsafe trait Element: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers (the two half types are transparent over `u16`).
unsafe impl Element for f32 {}
// SAFETY: as above.
unsafe impl Element for bf16 {}
// SAFETY: as above.
unsafe impl Element for f16 {}
// SAFETY: as above.
unsafe impl Element for i32 {}
// SAFETY: as above.
unsafe impl Element for u32 {}
// SAFETY: as above.
unsafe impl Element for u8 {}

/// Read-only rows. Copying the view copies no data.
#[derive(Clone, Copy, Debug)]
pub struct Rows<T> {
    base: *const T,
    stride: usize,
    rows: usize,
    width: usize,
}

/// Writable rows.
///
/// The view is `Copy`, as a pointer is; the promise made at construction covers all copies.
#[derive(Clone, Copy, Debug)]
pub struct RowsMut<T> {
    base: *mut T,
    stride: usize,
    rows: usize,
    width: usize,
}

// SAFETY: a view is a pointer and three numbers; `Element` types may be read from any thread, and
// the constructors' contract excludes a write beside a read.
unsafe impl<T: Element> Send for Rows<T> {}
// SAFETY: as above; shared use only reads.
unsafe impl<T: Element> Sync for Rows<T> {}
// SAFETY: as above; writing needs `&mut` or one of the `unsafe` methods.
unsafe impl<T: Element> Send for RowsMut<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for RowsMut<T> {}

impl<T: Element> Rows<T> {
    /// `rows` rows of `width` elements, `stride` elements apart, the first at `base`.
    ///
    /// # Safety
    /// While any copy of the view is used: `base` is aligned for `T`, the rows lie in memory valid for
    /// reads, and nobody writes to them during a call that reads through the view. Consecutive rows
    /// may overlap or repeat (`stride` below `width`); reading does not mind.
    pub unsafe fn from_raw(base: *const T, stride: usize, rows: usize, width: usize) -> Rows<T> {
        debug_assert!(base.is_aligned());
        Rows { base, stride, rows, width }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `index`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn row(&self, index: usize) -> &[T] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the row lies in the memory promised at construction.
        unsafe { std::slice::from_raw_parts(self.base.add(index * self.stride), self.width) }
    }

    /// The view of some of the rows.
    ///
    /// # Panics
    /// If the range leaves the view.
    pub fn slice(&self, rows: Range<usize>) -> Rows<T> {
        assert!(rows.start <= rows.end);
        assert!(rows.end <= self.rows);
        // SAFETY: the offset stays inside (or one past) the promised memory.
        let base = unsafe { self.base.add(offset(rows.start, self.stride, rows.is_empty())) };
        Rows { base, rows: rows.len(), ..*self }
    }

    /// The view of some of the columns of every row.
    ///
    /// # Panics
    /// If the range leaves the rows.
    pub fn columns(&self, columns: Range<usize>) -> Rows<T> {
        assert!(columns.start <= columns.end);
        assert!(columns.end <= self.width);
        // SAFETY: as in `slice`; a view without rows keeps its base.
        let base = unsafe { self.base.add(offset(columns.start, 1, self.rows == 0)) };
        Rows { base, width: columns.len(), ..*self }
    }
}

/// An empty view must not move its base out of the memory it was made from.
fn offset(index: usize, stride: usize, empty: bool) -> usize {
    if empty { 0 } else { index * stride }
}

impl<T: Element> RowsMut<T> {
    /// `rows` rows of `width` elements, `stride` elements apart, the first at `base`.
    ///
    /// # Safety
    /// While any copy of the view is used: `base` is aligned for `T`, the rows lie in memory valid for
    /// reads and writes, rows do not overlap each other (`stride >= width` where `rows > 1`), and
    /// during a call that is given the view nobody else reads or writes these rows.
    pub unsafe fn from_raw(base: *mut T, stride: usize, rows: usize, width: usize) -> RowsMut<T> {
        debug_assert!(base.is_aligned());
        debug_assert!(rows < 2 || stride >= width);
        RowsMut { base, stride, rows, width }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The same rows, to read.
    pub fn as_rows(&self) -> Rows<T> {
        Rows { base: self.base, stride: self.stride, rows: self.rows, width: self.width }
    }

    /// Row `index`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn row_mut(&mut self, index: usize) -> &mut [T] {
        // SAFETY: `&mut self` is the only use of this copy, and by the constructor's contract only
        // this call uses the rows.
        unsafe { self.shared(index, 0..self.width) }
    }

    /// Some columns of row `index`, through a shared view: how the parts of a parallel kernel write.
    ///
    /// # Panics
    /// If the row or the columns do not exist.
    ///
    /// # Safety
    /// No other reference to any of these elements exists while the result lives.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn shared(&self, index: usize, columns: Range<usize>) -> &mut [T] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        assert!(columns.start <= columns.end);
        assert!(columns.end <= self.width);
        // SAFETY: inside the memory promised at construction; the caller excludes aliasing.
        unsafe {
            let start = self.base.add(index * self.stride + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }

    /// The view of some of the rows.
    ///
    /// # Panics
    /// If the range leaves the view.
    pub fn slice(&self, rows: Range<usize>) -> RowsMut<T> {
        assert!(rows.start <= rows.end);
        assert!(rows.end <= self.rows);
        // SAFETY: the offset stays inside (or one past) the promised memory.
        let base = unsafe { self.base.add(offset(rows.start, self.stride, rows.is_empty())) };
        RowsMut { base, rows: rows.len(), ..*self }
    }

    /// The view of some of the columns of every row.
    ///
    /// # Panics
    /// If the range leaves the rows.
    pub fn columns(&self, columns: Range<usize>) -> RowsMut<T> {
        assert!(columns.start <= columns.end);
        assert!(columns.end <= self.width);
        // SAFETY: as in `slice`; a view without rows keeps its base.
        let base = unsafe { self.base.add(offset(columns.start, 1, self.rows == 0)) };
        RowsMut { base, width: columns.len(), ..*self }
    }

    /// Calls `task(index, row)` for every row, `grain` rows to a part of the pool.
    ///
    /// # Panics
    /// If `grain` is 0, or where `task` does.
    pub fn each_row(&mut self, pool: &Pool, grain: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        assert!(grain > 0);
        let (view, width) = (*self, self.width);
        pool.run(view.rows.div_ceil(grain), &|part| {
            for index in part * grain..view.rows.min((part + 1) * grain) {
                // SAFETY: every row belongs to exactly one part, and rows do not overlap.
                task(index, unsafe { view.shared(index, 0..width) });
            }
        });
    }
}

/// Real dtypes a row of activations may be stored in. All arithmetic is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Real {
    /// IEEE binary32.
    F32,
    /// The upper half of a binary32.
    Bf16,
    /// IEEE binary16.
    F16,
}

impl Real {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Real::F32 => 4,
            Real::Bf16 | Real::F16 => 2,
        }
    }
}

/// Read-only rows of any real dtype.
#[derive(Clone, Copy, Debug)]
pub enum RealRows {
    /// f32 rows.
    F32(Rows<f32>),
    /// bf16 rows.
    Bf16(Rows<bf16>),
    /// f16 rows.
    F16(Rows<f16>),
}

/// Writable rows of any real dtype.
#[derive(Clone, Copy, Debug)]
pub enum RealRowsMut {
    /// f32 rows.
    F32(RowsMut<f32>),
    /// bf16 rows.
    Bf16(RowsMut<bf16>),
    /// f16 rows.
    F16(RowsMut<f16>),
}

impl RealRows {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            RealRows::F32(rows) => rows.rows(),
            RealRows::Bf16(rows) => rows.rows(),
            RealRows::F16(rows) => rows.rows(),
        }
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        match self {
            RealRows::F32(rows) => rows.width(),
            RealRows::Bf16(rows) => rows.width(),
            RealRows::F16(rows) => rows.width(),
        }
    }

    /// Writes columns `start..start + out.len()` of row `index` to `out` as f32 (exact).
    ///
    /// # Panics
    /// If the row or the columns do not exist.
    pub fn load(&self, isa: Isa, index: usize, start: usize, out: &mut [f32]) {
        let columns = start..start + out.len();
        match self {
            RealRows::F32(rows) => out.copy_from_slice(&rows.row(index)[columns]),
            RealRows::Bf16(rows) => widen_bf16(isa, &rows.row(index)[columns], out),
            RealRows::F16(rows) => widen_f16(&rows.row(index)[columns], out),
        }
    }
}

impl RealRowsMut {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.as_rows().rows()
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.as_rows().width()
    }

    /// The same rows, to read.
    pub fn as_rows(&self) -> RealRows {
        match self {
            RealRowsMut::F32(rows) => RealRows::F32(rows.as_rows()),
            RealRowsMut::Bf16(rows) => RealRows::Bf16(rows.as_rows()),
            RealRowsMut::F16(rows) => RealRows::F16(rows.as_rows()),
        }
    }

    /// Rounds `values` (nearest, ties to even) into row `index` from column `start` on.
    ///
    /// # Panics
    /// If the row or the columns do not exist.
    pub fn store(&mut self, isa: Isa, index: usize, start: usize, values: &[f32]) {
        // SAFETY: `&mut self`, and by the constructors' contract only this call uses the rows.
        unsafe { self.store_shared(isa, index, start, values) }
    }

    /// [`RealRowsMut::store`] through a shared view: how the parts of a parallel kernel write.
    ///
    /// # Panics
    /// If the row or the columns do not exist.
    ///
    /// # Safety
    /// Nobody else uses these elements during the call.
    pub unsafe fn store_shared(&self, isa: Isa, index: usize, start: usize, values: &[f32]) {
        let columns = start..start + values.len();
        match self {
            RealRowsMut::F32(rows) => {
                // SAFETY: the caller excludes other uses of these elements.
                unsafe { rows.shared(index, columns) }.copy_from_slice(values)
            }
            RealRowsMut::Bf16(rows) => {
                // SAFETY: as above.
                narrow_bf16(isa, values, unsafe { rows.shared(index, columns) });
            }
            RealRowsMut::F16(rows) => {
                // SAFETY: as above.
                narrow_f16(values, unsafe { rows.shared(index, columns) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_views() {
        let data: Vec<f32> = (0..40).map(|i| i as f32).collect();
        // SAFETY: 4 rows of 8, 10 apart, inside `data`, which nobody writes.
        let rows = unsafe { Rows::from_raw(data.as_ptr(), 10, 4, 8) };
        assert_eq!(rows.row(3)[7], 37.0);
        assert_eq!(rows.slice(1..3).columns(2..4).row(1), &[22.0, 23.0]);
        assert_eq!(rows.slice(4..4).rows(), 0);
    }

    #[test]
    #[should_panic(expected = "row 4 of 4")]
    fn row_past_the_end_panics() {
        let data = [0.0f32; 40];
        // SAFETY: as above.
        let rows = unsafe { Rows::from_raw(data.as_ptr(), 10, 4, 8) };
        rows.row(4);
    }

    #[test]
    fn each_row_visits_all_rows_and_nothing_between() {
        let pool = Pool::new(3);
        for grain in [1, 2, 5, 100] {
            let mut data = vec![-1i32; 7 * 5];
            // SAFETY: 7 rows of 3, 5 apart (the last row's gap included), used only here.
            let mut rows = unsafe { RowsMut::from_raw(data.as_mut_ptr(), 5, 7, 3) };
            rows.each_row(&pool, grain, &|index, row| row.fill(index as i32));
            let want: Vec<i32> = (0..7).flat_map(|row| [row, row, row, -1, -1]).collect();
            assert_eq!(data, want);
        }
    }

    #[test]
    fn store_rounds_and_load_is_exact() {
        let mut data = vec![bf16::ZERO; 16];
        // SAFETY: 2 rows of 8, used only here.
        let rows = unsafe { RowsMut::from_raw(data.as_mut_ptr(), 8, 2, 8) };
        let mut rows = RealRowsMut::Bf16(rows);
        rows.store(Isa::best(), 1, 2, &[1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -3.5]);
        let mut back = [9.0; 6];
        rows.as_rows().load(Isa::best(), 1, 1, &mut back);
        assert_eq!(back, [0.0, 1.0, 1.0, 1.015625, -3.5, 0.0]);
    }
}
