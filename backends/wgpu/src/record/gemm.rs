//! matmul: one launch per part of the weight.

use hal::Op;
use hal::op::{Matmul, RowGroups};

use super::{is_real, is_vector};
use crate::launch::Launch;
use crate::weight::{Coding, Part, ROWS_ABREAST, WgpuWeight, raw_of};

/// Rows of x an invocation takes where there are several. Results do not depend on it.
const TILE: u32 = 4;

fn product(op: &Op) -> &Matmul {
    match op {
        Op::Matmul(op) => op,
        _ => unreachable!("matmul of {}", op.name()),
    }
}

fn weight_of(op: &Matmul) -> &WgpuWeight {
    raw_of(&op.weight).expect("fits looked at the weight")
}

pub(crate) fn fits(op: &Op) -> bool {
    matches!(op, Op::Matmul(op)
        if matches!(op.groups, RowGroups::Cyclic) && is_real(&op.x) && raw_of(&op.weight).is_ok())
}

pub(crate) fn sorted_fits(op: &Op) -> bool {
    let Op::Matmul(op) = op else { return false };
    let RowGroups::Sorted { offsets } = &op.groups else { return false };
    is_real(&op.x) && is_vector(offsets) && raw_of(&op.weight).is_ok()
}

/// A kernel in its variant: what makes its text, but for the operands.
pub(crate) fn variant(kernel: &'static str, coding: Coding, tile: u32) -> Launch {
    Launch::new("gemm", kernel)
        .flag(coding.name, true)
        .flag("SCALED", coding.scaled())
        .flag("ROW_SCALED", coding.row_scaled)
        .constant("TILE", tile)
        .constant("LANES", ROWS_ABREAST)
        .constant("PER_WORD", coding.per_word)
}

/// A launch over one part, without its size.
fn over(op: &Matmul, weight: &WgpuWeight, part: &Part, kernel: &'static str, tile: u32) -> Launch {
    let (spec, coding) = (op.weight.spec(), weight.coding);
    let words = spec.cols.div_ceil(coding.per_word);
    // Two outputs of an invocation may lie in two parts.
    let cut = |part: &Part| part.first % spec.rows % 2 == 1;
    let split = weight.parts.iter().any(cut);
    let mut launch = variant(kernel, coding, tile)
        .flag("WHOLE", spec.cols.is_multiple_of(coding.per_word))
        .flag("SPLIT", split);
    launch = match split {
        true => launch.write_single("out", &op.out),
        false => launch.write("out", &op.out),
    };
    launch = launch.read("x", &op.x).whole("codes", part.codes.raw());
    if let Some(scales) = &part.scales {
        launch = launch.whole("scales", scales.raw());
    }
    let (mut blocks, mut block_words) = (1, words);
    if coding.scaled() {
        launch = launch
            .number("block_rows", coding.block_rows)
            .number("segment_rows", part.segment_rows)
            .number("segment_blocks", part.segment_rows.div_ceil(coding.block_rows));
        blocks = spec.cols.div_ceil(coding.block_cols);
        block_words = coding.block_cols / coding.per_word;
    }
    launch
        .number("first", part.first)
        .number("count", part.rows)
        .number("words", words)
        .number("cols", spec.cols)
        .number("blocks", blocks)
        .number("block_words", block_words)
        .number("groups", spec.groups)
        .number("pairs", spec.rows.div_ceil(2))
}

pub(crate) fn record(op: &Op) -> Vec<Launch> {
    let op = product(op);
    let (weight, spec) = (weight_of(op), op.weight.spec());
    let group_rows = op.x.rows() / spec.groups;
    let tile = if group_rows == 1 { 1 } else { TILE };
    let launch = |part: &Part| {
        let first = part.first / spec.rows;
        let last = (part.first + part.rows - 1) / spec.rows;
        let matrices = last - first + 1;
        let threads = [spec.rows.div_ceil(2), matrices, group_rows.div_ceil(tile)];
        over(op, weight, part, "matmul", tile)
            .number("group_rows", group_rows)
            .number("matrix", first)
            .number("matrices", matrices)
            .threads(threads.into_iter().map(u64::from).product())
    };
    weight.parts.iter().map(launch).collect()
}

pub(crate) fn sorted(op: &Op) -> Vec<Launch> {
    let op = product(op);
    let RowGroups::Sorted { offsets } = &op.groups else {
        unreachable!("matmul_sorted of cyclic rows");
    };
    let (weight, spec) = (weight_of(op), op.weight.spec());
    let rows = op.x.rows();
    // Few rows are mostly of different groups, and a tile runs once for each.
    let tile = if rows < 4 * spec.groups { 1 } else { TILE };
    let launch = |part: &Part| {
        let threads = u64::from(spec.rows.div_ceil(2)) * u64::from(rows.div_ceil(tile));
        over(op, weight, part, "matmul_sorted", tile)
            .flat("offsets", offsets)
            .number("rows", rows)
            .threads(threads)
    };
    weight.parts.iter().map(launch).collect()
}
