//! The compressor on the CPU.
//!
//! Only windows with a place in the cache are pooled, and of those only the slots that exist: a decode
//! step that completes no window costs a look at `entry_row`. Everything behind the pooling is done by
//! the row kernels that the lowered ops use.
//!
//! **Order of sums**: that of the lowering, slot after slot, every column for itself; product and sum
//! are rounded apart. An absent slot adds a zero there; here a zero is added once at the end where a
//! slot was absent, which gives the same bits (it only turns -0 into 0). So fused and lowered agree
//! bitwise as long as gates stay above -1e29.
//!
//! What bounds it: the exponentials, 65,536 for a window of 128 rows of 512.
//!
//! Not here: the projections that make values and gates; checks of shapes (`hal` makes them).

use crate::attend::KeyRows;
use crate::common::isa::Isa;
use crate::common::math::exp;
use crate::common::per_isa::per_isa;
use crate::common::pool::Pool;
use crate::common::rows::{Real, RealRowsMut, Rows, RowsMut};
use crate::common::scratch;
use crate::gemm::{RowGroups, WeightView, matmul};
use crate::rows::cpu::{Target, convert, rms_norm, rope, scatter_coded};
use hal::tensor::RowCodec;
use half::{bf16, f16};
use std::ops::Range;

/// Columns pooled at a time: their running sums stay in the first-level cache.
const PIECE: usize = 128;

/// Operands of `hal::op::Compress`, as views. Value and gate of a slot are absent together.
#[derive(Clone, Copy, Debug)]
pub struct Compress<'a> {
    /// `[r, w]`: cache of all entries.
    pub entries: Target,
    /// `[t, 2 · halves · w]`: rings of past rows.
    pub tail: RowsMut<f32>,
    /// `[n, 2 · halves · w]`: this step's rows.
    pub landing: Rows<f32>,
    /// `[slots, w]`: position bias of the gates.
    pub bias: Rows<f32>,
    /// `[1, w]`
    pub gain: Rows<f32>,
    /// `[2E, slots]`: half rows of tail, then landing: values of E windows and then their gates.
    pub pool: Rows<i32>,
    /// `[E, R]`
    pub entry_angle: Rows<f32>,
    /// `[E, 1]`: row of `entries`; negative: the window does not exist.
    pub entry_row: Rows<i32>,
    /// `[n, 1]`: row of `tail` a landing row is kept in; negative: it is not.
    pub tail_keep: Rows<i32>,
    /// Epsilon of the entry's norm.
    pub epsilon: f32,
    /// Dtype of an entry between its steps.
    pub activation: Real,
    /// `[1, w, w]`: rotation in front of the rounding.
    pub rotation: Option<&'a WeightView<'a>>,
    /// Round trip of the finished entry.
    pub round: Option<RowCodec>,
}

/// Pools, norms, turns, rotates and rounds the entries of completed windows and writes them to their
/// places; then keeps landing rows in the tail.
///
/// `workspace` holds [`Compress::workspace_floats`] floats or more; its content does not matter.
///
/// # Panics
/// If the workspace is too small or an index leaves its table.
pub fn compress(isa: Isa, pool: &Pool, op: &Compress<'_>, workspace: &mut [f32]) {
    assert!(workspace.len() >= op.workspace_floats(), "compress: {} floats", workspace.len());
    let present = |window: usize| op.entry_row.row(window)[0] >= 0;
    let mut window = 0;
    while window < op.entry_row.rows() {
        let first = window;
        while window < op.entry_row.rows() && present(window) {
            window += 1;
        }
        if window > first {
            write_entries(isa, pool, op, first..window, workspace);
        }
        window += 1;
    }
    let mut tail = op.tail;
    for (row, keep) in (0..op.landing.rows()).map(|row| (row, op.tail_keep.row(row)[0])) {
        if keep >= 0 {
            tail.row_mut(keep as usize).copy_from_slice(op.landing.row(row));
        }
    }
}

impl Compress<'_> {
    /// Floats that [`compress`] wants as workspace.
    pub fn workspace_floats(&self) -> usize {
        2 * self.entry_row.rows() * self.width()
    }

    fn width(&self) -> usize {
        self.bias.width()
    }
}

/// Tail, then landing, as half rows.
struct Halves {
    tail: Rows<f32>,
    landing: Rows<f32>,
    width: usize,
}

impl Halves {
    /// Some columns of half row `index`.
    fn columns(&self, index: i32, columns: Range<usize>) -> &[f32] {
        let index = usize::try_from(index).expect("a gate with a place has a value with one");
        let halves = self.landing.width() / self.width;
        let (row, first) = (index / halves, index % halves * self.width);
        let columns = first + columns.start..first + columns.end;
        match row.checked_sub(self.tail.rows()) {
            Some(row) => &self.landing.row(row)[columns],
            None => &self.tail.row(row)[columns],
        }
    }
}

/// Entries of consecutive windows that all have a place.
fn write_entries(
    isa: Isa,
    pool: &Pool,
    op: &Compress<'_>,
    windows: Range<usize>,
    workspace: &mut [f32],
) {
    let (rows, width) = (windows.len(), op.width());
    let (first, second) = workspace.split_at_mut(rows * width);
    let mut x = typed_rows(op.activation, first, rows, width);
    let mut spare = typed_rows(op.activation, &mut second[..rows * width], rows, width);
    // 1 pool
    pool_windows(isa, pool, op, windows.start, &x);
    // 2 norm
    rms_norm(isa, pool, spare, x.as_rows(), Some(op.gain), op.epsilon);
    // 3 rope
    rope(isa, pool, x, spare.as_rows(), op.entry_angle.slice(windows.clone()), 1, false);
    // 4 rotation
    if let Some(rotation) = op.rotation {
        matmul(isa, pool, x.as_rows(), rotation, RowGroups::Cyclic, spare);
        std::mem::swap(&mut x, &mut spare);
    }
    // 5 rounding
    if op.round.is_some() {
        convert(isa, pool, Target::Real(spare), KeyRows::Real(x.as_rows()), op.round);
        std::mem::swap(&mut x, &mut spare);
    }
    // 6 write
    scatter_coded(isa, op.entries, KeyRows::Real(x.as_rows()), op.entry_row.slice(windows));
}

/// Rows of a dtype in a stretch of floats, which no dtype exceeds in size.
fn typed_rows(dtype: Real, room: &mut [f32], rows: usize, width: usize) -> RealRowsMut {
    assert_eq!(room.len(), rows * width);
    let base = room.as_mut_ptr();
    // SAFETY: inside the stretch, aligned for f32 and so for the smaller types; the caller holds it
    // alone and makes one view of it.
    unsafe {
        match dtype {
            Real::F32 => RealRowsMut::F32(RowsMut::from_raw(base, width, rows, width)),
            Real::Bf16 => {
                RealRowsMut::Bf16(RowsMut::from_raw(base.cast::<bf16>(), width, rows, width))
            }
            Real::F16 => {
                RealRowsMut::F16(RowsMut::from_raw(base.cast::<f16>(), width, rows, width))
            }
        }
    }
}

/// `out[i]` = pooled window `first + i`.
fn pool_windows(isa: Isa, pool: &Pool, op: &Compress<'_>, first: usize, out: &RealRowsMut) {
    let width = op.width();
    let halves = Halves { tail: op.tail.as_rows(), landing: op.landing, width };
    let pieces = width.div_ceil(PIECE);
    pool.run(out.rows() * pieces, &|part| {
        let (row, column) = (part / pieces, part % pieces * PIECE);
        let columns = column..width.min(column + PIECE);
        scratch::with(|room| {
            let sum = pool_piece(isa, op, &halves, first + row, columns, room);
            // SAFETY: a part owns its columns of its row.
            unsafe { out.store_shared(isa, row, column, sum) };
        });
    });
}

/// Some columns of a pooled window.
fn pool_piece<'a>(
    isa: Isa,
    op: &Compress<'_>,
    halves: &Halves,
    window: usize,
    columns: Range<usize>,
    room: &'a mut [f32],
) -> &'a [f32] {
    let mut pieces = room.chunks_exact_mut(PIECE).map(|piece| &mut piece[..columns.len()]);
    let mut piece = || pieces.next().expect("scratch holds three pieces");
    let (sum, top, total) = (piece(), piece(), piece());
    let values = op.pool.row(window);
    let gates = op.pool.row(op.entry_row.rows() + window);
    let slots = || gates.iter().enumerate().filter(|(_, gate)| **gate >= 0);
    // 1 maximum
    for (place, (slot, &gate)) in slots().enumerate() {
        let (gate, bias) =
            (halves.columns(gate, columns.clone()), &op.bias.row(slot)[columns.clone()]);
        raise(isa, gate, bias, top, place == 0);
    }
    // 2 shares, their sum, the weighted sum
    let mut present = 0;
    for (place, (slot, &gate)) in slots().enumerate() {
        let value = halves.columns(values[slot], columns.clone());
        let (gate, bias) =
            (halves.columns(gate, columns.clone()), &op.bias.row(slot)[columns.clone()]);
        if place == 0 {
            begin(isa, gate, bias, value, top, sum, total);
        } else {
            add(isa, gate, bias, value, top, sum, total);
        }
        present += 1;
    }
    if present == 0 {
        sum.fill(0.0);
        return sum;
    }
    // 3 the zero of an absent slot, quotient
    divide(isa, total, sum, present < gates.len());
    sum
}

per_isa! {
    /// `top = max(top, gate + bias)`, or just the score.
    fn raise(gate: &[f32], bias: &[f32], top: &mut [f32], first: bool) {
        for ((gate, bias), top) in gate.iter().zip(bias).zip(top) {
            let score = gate + bias;
            let higher = first || score > *top || score.is_nan();
            *top = if higher { score } else { *top };
        }
    }

    /// The first slot.
    fn begin(
        gate: &[f32],
        bias: &[f32],
        value: &[f32],
        top: &[f32],
        sum: &mut [f32],
        total: &mut [f32],
    ) {
        let columns = gate.iter().zip(bias).zip(value).zip(top).zip(sum).zip(total);
        for (((((gate, bias), value), top), sum), total) in columns {
            let share = exp((gate + bias) - top);
            *sum = share * value;
            *total = share;
        }
    }

    /// A later slot.
    fn add(
        gate: &[f32],
        bias: &[f32],
        value: &[f32],
        top: &[f32],
        sum: &mut [f32],
        total: &mut [f32],
    ) {
        let columns = gate.iter().zip(bias).zip(value).zip(top).zip(sum).zip(total);
        for (((((gate, bias), value), top), sum), total) in columns {
            let share = exp((gate + bias) - top);
            *sum += share * value;
            *total += share;
        }
    }

    /// `sum = sum / total`, a zero added first if `absent`.
    fn divide(total: &[f32], sum: &mut [f32], absent: bool) {
        for (sum, total) in sum.iter_mut().zip(total) {
            let whole = if absent { *sum + 0.0 } else { *sum };
            *sum = whole / total;
        }
    }
}
