//! map: one expression from a closed list over broadcast inputs.
//!
//! Every operand is a grid of three dimensions with its own strides (0 repeats it). A line is a run of
//! the last dimension; lines are cut into pieces, widened to f32, computed, and rounded once.

use super::PIECE;
use crate::common::isa::Isa;
use crate::common::math;
use crate::common::per_isa::per_isa;
use crate::common::pool::Pool;
use crate::common::real::{bf16_bits, narrow_bf16, widen_bf16};
use crate::common::rows::Element;
use crate::common::{cut, scratch};
use half::{bf16, f16};

/// A readable grid of three dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Strided<T> {
    base: *const T,
    strides: [usize; 3],
}

/// A writable grid of three dimensions.
#[derive(Clone, Copy, Debug)]
pub struct StridedMut<T> {
    base: *mut T,
    strides: [usize; 3],
    dims: [usize; 3],
}

// SAFETY: a pointer and numbers; the constructors' contract excludes a write beside a read.
unsafe impl<T: Element> Send for Strided<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for Strided<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Send for StridedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for StridedMut<T> {}

impl<T: Element> Strided<T> {
    /// Element (i, j, k) lies `i·s0 + j·s1 + k·s2` elements behind `base`.
    ///
    /// # Safety
    /// `base` is aligned, every element inside the dimensions of the map it is used in is valid for
    /// reads, and nobody writes to them during a call.
    pub unsafe fn from_raw(base: *const T, strides: [usize; 3]) -> Strided<T> {
        Strided { base, strides }
    }

    /// The same strides over other memory.
    #[cfg(test)]
    pub(crate) fn with_base<U: Element>(&self, base: *const U) -> Strided<U> {
        Strided { base, strides: self.strides }
    }

    fn line(&self, at: [usize; 3]) -> *const T {
        // SAFETY: `at` is inside the dimensions, by the constructor's contract inside the memory.
        unsafe { self.base.add(place(at, self.strides)) }
    }

    /// Calls `each(k, value)` for `len` elements from `at` on.
    fn walk(&self, at: [usize; 3], len: usize, mut each: impl FnMut(usize, T)) {
        let line = self.line(at);
        for k in 0..len {
            // SAFETY: as in `line`.
            each(k, unsafe { *line.add(k * self.strides[2]) });
        }
    }

    /// `len` elements from `at` on, where they are neighbours.
    fn slice(&self, at: [usize; 3], len: usize) -> Option<&[T]> {
        // SAFETY: as in `line`; a stride of 1 makes the elements neighbours.
        (self.strides[2] == 1).then(|| unsafe { std::slice::from_raw_parts(self.line(at), len) })
    }
}

impl<T: Element> StridedMut<T> {
    /// Element (i, j, k) of `dims` lies `i·s0 + j·s1 + k·s2` elements behind `base`.
    ///
    /// # Safety
    /// `base` is aligned, every element is valid for reads and writes, no two share memory, and nobody
    /// else uses them during a call.
    pub unsafe fn from_raw(base: *mut T, strides: [usize; 3], dims: [usize; 3]) -> StridedMut<T> {
        StridedMut { base, strides, dims }
    }

    /// Writes `value(k)` to `len` elements from `at` on.
    ///
    /// # Safety
    /// Nobody else uses these elements during the call.
    unsafe fn fill(&self, at: [usize; 3], len: usize, value: impl Fn(usize) -> T) {
        for k in 0..len {
            // SAFETY: inside the memory promised at construction; the caller excludes aliasing.
            unsafe { *self.base.add(place(at, self.strides) + k * self.strides[2]) = value(k) };
        }
    }

    /// `len` elements from `at` on, where they are neighbours.
    ///
    /// # Safety
    /// Nobody else uses these elements while the result lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, at: [usize; 3], len: usize) -> Option<&mut [T]> {
        let base = self.base;
        // SAFETY: inside the memory promised at construction; the caller excludes aliasing.
        (self.strides[2] == 1).then(|| unsafe {
            std::slice::from_raw_parts_mut(base.add(place(at, self.strides)), len)
        })
    }
}

fn place(at: [usize; 3], strides: [usize; 3]) -> usize {
    at[0] * strides[0] + at[1] * strides[1] + at[2] * strides[2]
}

/// A readable grid of a real dtype.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// f32 elements.
    F32(Strided<f32>),
    /// bf16 elements.
    Bf16(Strided<bf16>),
    /// f16 elements.
    F16(Strided<f16>),
}

/// A writable grid of a real dtype.
#[derive(Clone, Copy, Debug)]
pub enum ValuesMut {
    /// f32 elements.
    F32(StridedMut<f32>),
    /// bf16 elements.
    Bf16(StridedMut<bf16>),
    /// f16 elements.
    F16(StridedMut<f16>),
}

impl Values {
    /// `room.len()` elements from `at` on as f32; lent in place where they lie as neighbours.
    fn fetch<'a>(&'a self, isa: Isa, at: [usize; 3], room: &'a mut [f32]) -> &'a [f32] {
        match self {
            Values::F32(grid) => match grid.slice(at, room.len()) {
                Some(slice) => return slice,
                None if grid.strides[2] == 0 => grid.walk(at, 1, |_, value| room.fill(value)),
                None => grid.walk(at, room.len(), |k, value| room[k] = value),
            },
            Values::Bf16(grid) => match grid.slice(at, room.len()) {
                Some(slice) => widen_bf16(isa, slice, room),
                None => grid.walk(at, room.len(), |k, value| room[k] = value.to_f32()),
            },
            Values::F16(grid) => grid.walk(at, room.len(), |k, value| room[k] = value.to_f32()),
        }
        room
    }
}

impl ValuesMut {
    fn dims(&self) -> [usize; 3] {
        match self {
            ValuesMut::F32(grid) => grid.dims,
            ValuesMut::Bf16(grid) => grid.dims,
            ValuesMut::F16(grid) => grid.dims,
        }
    }

    /// Rounds `values` to the elements from `at` on.
    ///
    /// # Safety
    /// Nobody else uses these elements during the call.
    unsafe fn put(&self, isa: Isa, at: [usize; 3], values: &[f32]) {
        // SAFETY: the caller excludes other uses.
        unsafe {
            match self {
                ValuesMut::F32(grid) => grid.fill(at, values.len(), |k| values[k]),
                ValuesMut::Bf16(grid) => match grid.slice(at, values.len()) {
                    Some(slice) => narrow_bf16(isa, values, slice),
                    None => {
                        grid.fill(at, values.len(), |k| bf16::from_bits(bf16_bits(values[k])));
                    }
                },
                ValuesMut::F16(grid) => {
                    grid.fill(at, values.len(), |k| f16::from_f32(values[k]));
                }
            }
        }
    }
}

/// The real expressions; names and meanings as in `hal::op::MapFn`.
#[derive(Clone, Copy, Debug)]
pub enum Expression {
    /// `x`
    Copy(Values),
    /// `x + y`
    Add(Values, Values),
    /// `x / y`
    Divide(Values, Values),
    /// `exp(x - y)`
    ExpMinus(Values, Values),
    /// `sqrt(ln(1 + e^x))`
    SqrtSoftplus(Values),
    /// `index < 0 ? -1e30 : x + y`
    MaskedAdd(Values, Values, Strided<i32>),
    /// `x / (total + 1e-20) · scale`
    Share(Values, Values, f32),
    /// `[weight ·] silu(min(gate, clamp)) · clamp(up, ±clamp)`: gate, up, weight, clamp.
    Swiglu(Values, Values, Option<Values>, f32),
}

impl Expression {
    /// About how long one element takes on one thread, in sixteenths of a nanosecond.
    fn cost(&self) -> usize {
        match self {
            Expression::Copy(_) | Expression::Add(..) => 3,
            Expression::Divide(..) | Expression::Share(..) | Expression::MaskedAdd(..) => 8,
            Expression::ExpMinus(..) => 12,
            Expression::SqrtSoftplus(_) | Expression::Swiglu(..) => 24,
        }
    }
}

/// Evaluates `f` for every element of `out`.
pub fn map(isa: Isa, pool: &Pool, out: ValuesMut, f: &Expression) {
    let [planes, lines, width] = out.dims();
    let line_ns = 5 + width * f.cost() / 16;
    cut::ranges(pool, planes * lines, line_ns, &|range| {
        scratch::with(|room| {
            let (room, result) = room.split_at_mut(3 * PIECE);
            for line in range {
                for start in (0..width).step_by(PIECE) {
                    let at = [line / lines, line % lines, start];
                    let len = PIECE.min(width - start);
                    // SAFETY: every line belongs to one range; elements do not share memory.
                    unsafe {
                        map_piece(isa, &out, f, at, &mut room[..3 * len], &mut result[..len])
                    };
                }
            }
        });
    });
}

/// # Safety
/// Nobody else uses the elements of `out` that are written.
unsafe fn map_piece(
    isa: Isa,
    out: &ValuesMut,
    f: &Expression,
    at: [usize; 3],
    room: &mut [f32],
    result: &mut [f32],
) {
    if let ValuesMut::F32(grid) = out {
        // SAFETY: the caller's promise.
        if let Some(slice) = unsafe { grid.slice(at, result.len()) } {
            return evaluate(isa, f, at, room, slice);
        }
    }
    evaluate(isa, f, at, room, result);
    // SAFETY: the caller's promise.
    unsafe { out.put(isa, at, result) };
}

fn evaluate(isa: Isa, f: &Expression, at: [usize; 3], room: &mut [f32], out: &mut [f32]) {
    let len = out.len();
    let (a, rest) = room.split_at_mut(len);
    let (b, c) = rest.split_at_mut(len);
    match f {
        Expression::Copy(x) => out.copy_from_slice(x.fetch(isa, at, a)),
        Expression::Add(x, y) => add(isa, x.fetch(isa, at, a), y.fetch(isa, at, b), out),
        Expression::Divide(x, y) => divide(isa, x.fetch(isa, at, a), y.fetch(isa, at, b), out),
        Expression::ExpMinus(x, y) => {
            exp_minus(isa, x.fetch(isa, at, a), y.fetch(isa, at, b), out);
        }
        Expression::SqrtSoftplus(x) => sqrt_softplus(isa, x.fetch(isa, at, a), out),
        Expression::MaskedAdd(x, y, index) => {
            add(isa, x.fetch(isa, at, a), y.fetch(isa, at, b), out);
            index.walk(at, len, |k, index| {
                if index < 0 {
                    out[k] = -1e30;
                }
            });
        }
        Expression::Share(x, total, scale) => {
            share(isa, x.fetch(isa, at, a), total.fetch(isa, at, b), *scale, out);
        }
        Expression::Swiglu(gate, up, weight, clamp) => {
            swiglu(isa, gate.fetch(isa, at, a), up.fetch(isa, at, b), *clamp, out);
            if let Some(weight) = weight {
                scale_by(isa, weight.fetch(isa, at, c), out);
            }
        }
    }
}

per_isa! {
    fn add(x: &[f32], y: &[f32], out: &mut [f32]) {
        for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = x + y;
        }
    }
    fn divide(x: &[f32], y: &[f32], out: &mut [f32]) {
        for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = x / y;
        }
    }
    fn exp_minus(x: &[f32], y: &[f32], out: &mut [f32]) {
        for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = math::exp(x - y);
        }
    }
    fn sqrt_softplus(x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = math::softplus(*x).sqrt();
        }
    }
    fn share(x: &[f32], total: &[f32], scale: f32, out: &mut [f32]) {
        for (out, (x, total)) in out.iter_mut().zip(x.iter().zip(total)) {
            *out = x / (total + 1e-20) * scale;
        }
    }
    fn scale_by(weight: &[f32], out: &mut [f32]) {
        for (out, weight) in out.iter_mut().zip(weight) {
            *out *= weight;
        }
    }
    /// `silu(min(gate, clamp)) · clamp(up, ±clamp)`; selects, so that a NaN stays.
    pub fn swiglu(gate: &[f32], up: &[f32], clamp: f32, out: &mut [f32]) {
        for (out, (&gate, &up)) in out.iter_mut().zip(gate.iter().zip(up)) {
            let gate = if gate > clamp { clamp } else { gate };
            let up = if up > clamp { clamp } else { up };
            let up = if up < -clamp { -clamp } else { up };
            *out = math::silu(gate) * up;
        }
    }
}

/// `out = x` for integers.
pub fn copy_i32(out: StridedMut<i32>, x: Strided<i32>) {
    map_i32(out, |at| {
        // SAFETY: `at` is inside the dimensions.
        unsafe { *x.line(at) }
    });
}

/// `out = page · per + entry % per`, or -1 if either is negative.
pub fn page_row(out: StridedMut<i32>, entry: Strided<i32>, page: Strided<i32>, per: u32) {
    let per = per as i32;
    map_i32(out, |at| {
        // SAFETY: `at` is inside the dimensions.
        let (entry, page) = unsafe { (*entry.line(at), *page.line(at)) };
        if entry < 0 || page < 0 { -1 } else { page * per + entry % per }
    });
}

/// Index lists are short: one thread.
fn map_i32(out: StridedMut<i32>, value: impl Fn([usize; 3]) -> i32) {
    let [planes, lines, width] = out.dims;
    for line in 0..planes * lines {
        let at = [line / lines, line % lines, 0];
        // SAFETY: this call alone uses the grid.
        unsafe { out.fill(at, width, |k| value([at[0], at[1], k])) };
    }
}
