//! matmul.

use hal::Op;
use hal::op::{Matmul, RowGroups};

use super::{Args, GRID_MAX, Scope};
use crate::driver::Launch;
use crate::memory::address_of;
use crate::weight::{any_of, raw_of};

/// Outputs a block computes and rows a tile has; as in `kernels/gemm/gemm.cu`.
const BLOCK_OUTPUTS: u32 = 16;
const TILE: u32 = 8;
/// Most tiles of one group that run side by side; more take turns.
const TILES_MAX: u32 = 64;

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Matmul(op) = op else { return false };
    let contiguous = match &op.groups {
        RowGroups::Cyclic => true,
        RowGroups::Sorted { offsets } => offsets.is_contiguous(),
    };
    contiguous && any_of(&op.weight).is_some()
}

pub(crate) fn matmul(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Matmul(Matmul { out, x, weight, groups }) = op else {
        unreachable!("matmul of {}", op.name());
    };
    let weight = raw_of(weight, scope.machine).expect("compile checked every weight");
    let (view, spec) = (weight.view(), weight.spec());
    // Sorted groups: no more of them have rows than there are rows, and one may have them all.
    let (offsets, slots, rows) = match groups {
        RowGroups::Cyclic => (0, spec.groups, x.rows() / spec.groups),
        RowGroups::Sorted { offsets } => {
            (address_of(offsets), spec.groups.min(x.rows()), x.rows())
        }
    };
    let args = Args::new()
        .rows(out)
        .rows(x)
        .address(view.codes)
        .address(view.scales)
        .address(offsets)
        .long(view.row_bytes)
        .long(view.segment_scale_bytes)
        .int(spec.groups)
        .int(spec.rows)
        .int(spec.segment_rows)
        .int(view.encoding)
        .int(view.block_rows)
        .int(view.block_cols)
        .int(view.row_scales)
        .int(view.aligned.into());
    let grid = [
        spec.rows.div_ceil(BLOCK_OUTPUTS),
        slots.min(GRID_MAX),
        rows.div_ceil(TILE).min(TILES_MAX),
    ];
    scope.launch("matmul", grid, 128, 0, args)
}
