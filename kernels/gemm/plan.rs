//! Cuts a matmul into tasks and hands them to the pool.

use super::amx;
use super::task::{self, DOT_ROWS_MAX, Operands, Part, RowSet, cols_max, task_rows_max};
use super::weight::{NOTED_ROWS, WeightView};
use crate::common::isa::{Isa, Level};
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut};
use crate::common::scratch;
use std::ops::Range;

/// Which rows use which group of the weight.
#[derive(Clone, Copy, Debug)]
pub enum RowGroups<'a> {
    /// Row i uses group i mod groups. One group: every row uses it.
    Cyclic,
    /// Group g owns rows `offsets[g]..offsets[g + 1]`. Rows behind the last offset are not computed
    /// and their output is not written.
    Sorted(&'a [i32]),
}

/// Tasks per thread that the cutting aims at where there is much to do, so that no thread waits long for
/// the last one.
const TASKS_PER_THREAD: usize = 4;

/// Multiply-adds, a few microseconds, below which a task is not cut to have more than one per thread:
/// what every task does before and after them would be felt.
const TASK_MACS_MIN: usize = 1 << 18;

/// Fewest rows of `x` in a task that has not all rows of its group: fewer leave panels unused.
const BLOCK_ROWS_MIN: usize = DOT_ROWS_MAX + 1;

/// Fewest weight rows in a task.
const TASK_COLS_MIN: usize = 8;
const _: () = assert!(TASK_COLS_MIN.is_multiple_of(NOTED_ROWS));

/// Multiply-adds that take as long as permuting one element of `x`, and as decoding one code into a panel.
const PERMUTE_MACS: usize = 8;
const DECODE_MACS: usize = 4;

/// Multiply-adds below which waking other threads costs more than it gains.
const SERIAL_MAX: usize = 1 << 16;

/// `out[i] = W[g(i)] · x[i]` in f32, rounded once to the dtype of `out`.
///
/// `x` is `[n, cols]`, `out` `[n, rows]`. NaN in a weight row, its scales or `x` gives the canonical
/// quiet NaN. With FP8 weights |x·scale| should lie within
/// 2^±60 (or be 0): beyond, sums overflow early or lose small products.
///
/// # Panics
/// If the shapes do not fit each other, or `offsets` is not an ascending list of groups + 1 numbers
/// within the rows.
pub fn matmul(
    isa: Isa,
    pool: &Pool,
    x: RealRows,
    weight: &WeightView<'_>,
    groups: RowGroups<'_>,
    out: RealRowsMut,
) {
    assert_eq!(x.width(), weight.cols(), "matmul: width of x");
    assert_eq!(out.width(), weight.rows(), "matmul: width of out");
    assert_eq!(x.rows(), out.rows(), "matmul: rows");
    let bounds = Bounds::new(isa, &x, weight);
    let cut = Cut::new(pool.threads(), weight, groups, x.rows(), bounds);
    let operands = Operands { isa, x, out, cols: weight.cols() };
    let run = |index: usize| {
        let (group, rows, outputs) = cut.task(index);
        let finite = !bounds.tiles && weight.finite(group, outputs.clone());
        let part = Part { segments: weight.group(group), rows, outputs, finite };
        // SAFETY: tasks cover disjoint elements of `out`, and by the contract of the views only this
        // call writes them.
        scratch::with(|block| unsafe { run_on(bounds.tiles, &operands, part, block) });
    };
    if cut.live_rows * weight.rows() * weight.cols() < SERIAL_MAX {
        (0..cut.tasks).for_each(run);
    } else {
        pool.run(cut.tasks, &run);
    }
}

/// Picks the code for the instruction set.
unsafe fn run_on(tiles: bool, operands: &Operands, part: Part<'_>, block: &mut [f32]) {
    // SAFETY: an `Isa` proves the features; outputs are exclusive by the caller.
    unsafe {
        match operands.isa.level() {
            _ if tiles => amx::run(operands, &part, block),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => run_avx512(operands, part, block),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => run_avx2(operands, part, block),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => run_neon(operands, part, block),
            _ => task::run::<super::scalar::Scalar>(operands, part, block),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_avx512(operands: &Operands, part: Part<'_>, block: &mut [f32]) {
    // SAFETY: the features are enabled here; outputs are exclusive by the caller.
    unsafe { task::run::<super::avx512::Avx512>(operands, part, block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2(operands: &Operands, part: Part<'_>, block: &mut [f32]) {
    // SAFETY: the features are enabled here; outputs are exclusive by the caller.
    unsafe { task::run::<super::avx2::Avx2>(operands, part, block) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn run_neon(operands: &Operands, part: Part<'_>, block: &mut [f32]) {
    // SAFETY: the feature is enabled here; outputs are exclusive by the caller.
    unsafe { task::run::<super::neon::Neon>(operands, part, block) }
}

/// What a task has room for, and what is worth one.
#[derive(Clone, Copy)]
struct Bounds {
    /// Whether products go by tiles: a question of dtypes and columns, never of rows.
    tiles: bool,
    /// Most rows of `x`, and fewest where a task has not all of its group's.
    rows_max: usize,
    rows_min: usize,
    outputs_min: usize,
}

impl Bounds {
    fn new(isa: Isa, x: &RealRows, weight: &WeightView<'_>) -> Bounds {
        if isa.has_tiles() && amx::takes(x, weight) {
            let (rows_max, rows_min) = (amx::task_rows_max(weight.cols()), amx::ROWS_MIN);
            return Bounds { tiles: true, rows_max, rows_min, outputs_min: amx::OUTPUTS_MIN };
        }
        Bounds {
            tiles: false,
            rows_max: task_rows_max(weight.cols()),
            rows_min: BLOCK_ROWS_MIN,
            outputs_min: TASK_COLS_MIN,
        }
    }

    /// Most weight rows for `rows` rows of `x`.
    fn outputs_max(self, rows: usize) -> usize {
        if self.tiles {
            return amx::OUTPUTS_MAX;
        }
        cols_max(rows)
    }
}

/// How a matmul is cut: per group blocks of rows times blocks of outputs.
struct Cut<'a> {
    groups: RowGroups<'a>,
    group_count: usize,
    rows: usize,
    live_rows: usize,
    bounds: Bounds,
    /// Most rows of `x` in a task.
    block_rows: usize,
    outputs: usize,
    /// Weight rows in a task.
    block_outputs: usize,
    tasks: usize,
}

impl<'a> Cut<'a> {
    fn new(
        threads: usize,
        weight: &WeightView<'_>,
        groups: RowGroups<'a>,
        rows: usize,
        bounds: Bounds,
    ) -> Cut<'a> {
        if let RowGroups::Sorted(offsets) = groups {
            assert_eq!(offsets.len(), weight.groups() + 1, "matmul: offsets");
            assert!(offsets.is_sorted() && offsets[0] >= 0, "matmul: offsets ascend");
            assert!(offsets[weight.groups()] as usize <= rows, "matmul: offsets within rows");
        }
        let mut cut = Cut {
            groups,
            group_count: weight.groups(),
            rows,
            live_rows: rows,
            bounds,
            block_rows: bounds.rows_max,
            outputs: weight.rows(),
            block_outputs: weight.rows().next_power_of_two(),
            tasks: 0,
        };
        if let RowGroups::Sorted(offsets) = groups {
            cut.live_rows = (offsets[weight.groups()] - offsets[0]) as usize;
        }
        let most = bounds.outputs_max(cut.live_rows.div_ceil(cut.group_count));
        cut.block_outputs = cut.block_outputs.clamp(bounds.outputs_min, most);
        let macs = cut.live_rows * cut.outputs * weight.cols();
        let wanted = threads * (macs / TASK_MACS_MIN / threads).clamp(1, TASKS_PER_THREAD);
        while macs > 0 && cut.count() < wanted && cut.halve() {}
        cut.tasks = cut.count();
        cut
    }

    /// Tasks that the blocks make.
    fn count(&self) -> usize {
        let blocks: usize = (0..self.group_count).map(|group| self.row_blocks(group)).sum();
        blocks * self.outputs.div_ceil(self.block_outputs)
    }

    /// Halves blocks of rows, whose weights are then decoded twice as often, or of outputs, for which x
    /// is then permuted twice as often: what costs less. Whether one of them could be halved.
    fn halve(&mut self) -> bool {
        let rows = self.live_rows.div_ceil(self.group_count);
        let block_rows = self.block_rows.min(rows);
        let rows_can = block_rows >= 2 * self.bounds.rows_min;
        let outputs_can = self.block_outputs > self.bounds.outputs_min;
        let decode = self.outputs * rows.div_ceil(block_rows.max(1)) * DECODE_MACS;
        let permute = rows * self.outputs.div_ceil(self.block_outputs) * PERMUTE_MACS;
        if rows_can && (!outputs_can || decode < permute) {
            self.block_rows = block_rows.div_ceil(2);
        } else if outputs_can {
            self.block_outputs /= 2;
        }
        rows_can || outputs_can
    }

    /// The rows of `x` that use `group`.
    fn rows_of(&self, group: usize) -> RowSet {
        match self.groups {
            RowGroups::Cyclic => RowSet {
                first: group,
                step: self.group_count,
                count: (self.rows.saturating_sub(group)).div_ceil(self.group_count),
            },
            RowGroups::Sorted(offsets) => RowSet {
                first: offsets[group] as usize,
                step: 1,
                count: (offsets[group + 1] - offsets[group]) as usize,
            },
        }
    }

    fn row_blocks(&self, group: usize) -> usize {
        self.rows_of(group).count.div_ceil(self.block_rows)
    }

    /// Task `index`: a group, some of its rows, some outputs. Tasks that share weight rows are
    /// neighbours, so that those rows are fetched from memory once.
    fn task(&self, index: usize) -> (usize, RowSet, Range<usize>) {
        let output_blocks = self.outputs.div_ceil(self.block_outputs);
        let mut rest = index;
        let mut group = 0;
        while rest >= self.row_blocks(group) * output_blocks {
            rest -= self.row_blocks(group) * output_blocks;
            group += 1;
        }
        let blocks = self.row_blocks(group);
        let (output_block, block) = (rest / blocks, rest % blocks);
        let rows = self.rows_of(group);
        // Blocks of equal size rather than full ones and a stump.
        let (begin, end) = (rows.count * block / blocks, rows.count * (block + 1) / blocks);
        let start = output_block * self.block_outputs;
        (
            group,
            RowSet { first: rows.first + begin * rows.step, count: end - begin, ..rows },
            start..self.outputs.min(start + self.block_outputs),
        )
    }
}
