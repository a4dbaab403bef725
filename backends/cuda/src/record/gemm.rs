//! matmul.

use hal::op::RowGroups;

use hal::{Op, Weight};

use super::{Args, BF16, GRID_MAX, Place, Scope};
use crate::driver::Launch;
use crate::memory::address_of;
use crate::weight::{View, W_BF16, W_F32, W_FP4, W_FP8, any_of, raw_of};

/// A kernel, the outputs of a block and the rows of a tile; as in `kernels/gemm/gemm.cu`.
struct Kernel {
    name: &'static str,
    outputs: u32,
    rows: u32,
}

const SIMT: Kernel = Kernel { name: "matmul", outputs: 4, rows: 8 };
const FEW: Kernel = Kernel { name: "matmul_few", outputs: 16, rows: 8 };
const MANY: Kernel = Kernel { name: "matmul_many", outputs: 64, rows: 64 };
/// Most tiles of one group that run side by side; more take turns.
const TILES_MAX: u32 = 64;

/// The kernel of a product. Its arithmetic class follows from dtype and encoding alone; `FEW` and `MANY`
/// are of one class and give the same bits, so rows may choose between them.
fn kernel(x: &Place, view: &View, rows_each: u32) -> Kernel {
    let is_mma = x.kind == BF16
        && matches!(view.encoding, W_BF16 | W_FP8 | W_FP4)
        && (view.scales == 0 || view.block_cols.is_multiple_of(32));
    match is_mma {
        false => SIMT,
        true if rows_each > FEW.rows => MANY,
        true => FEW,
    }
}

/// Which loads may be wide: 1 16 bytes of weights, 2 16 bytes of x, 4 four weights.
fn aligned(x: &Place, view: &View) -> u32 {
    let four_bytes = match view.encoding {
        W_F32 => 16,
        W_BF16 => 8,
        W_FP8 => 4,
        W_FP4 => 2,
        // Halves are taken apart.
        _ => 0,
    };
    let of = |bytes: u64, unit: u64| unit > 0 && bytes.is_multiple_of(unit);
    let x = of(x.address, 16) && of(x.stride_bytes, 16);
    u32::from(of(view.row_bytes, 16))
        | u32::from(x) << 1
        | u32::from(of(view.row_bytes, four_bytes)) << 2
}

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Matmul(op) = op else { return false };
    let contiguous = match &op.groups {
        RowGroups::Cyclic => true,
        RowGroups::Sorted { offsets } => offsets.is_contiguous(),
    };
    contiguous && any_of(&op.weight).is_some()
}

pub(crate) fn matmul(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Matmul(op) = op else { unreachable!("matmul of {}", op.name()) };
    product(scope, &Place::of(&op.out), &Place::of(&op.x), &op.weight, &op.groups)
}

/// A product of its own or of a fused op.
pub(crate) fn product(
    scope: &Scope<'_>,
    out: &Place,
    x: &Place,
    weight: &Weight,
    groups: &RowGroups,
) -> Vec<Launch> {
    let weight = raw_of(weight, scope.machine).expect("compile checked every weight");
    let (view, spec) = (weight.view(), weight.spec());
    // Sorted groups: no more of them have rows than there are rows, and one may have them all.
    let (offsets, slots, rows) = match groups {
        RowGroups::Cyclic => (0, spec.groups, x.rows / spec.groups),
        RowGroups::Sorted { offsets } => (address_of(offsets), spec.groups.min(x.rows), x.rows),
    };
    let args = Args::new()
        .place(out)
        .place(x)
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
        .int(aligned(x, &view));
    let Kernel { name, outputs, rows: tile } = kernel(x, &view, x.rows.div_ceil(slots.max(1)));
    let tiles = rows.div_ceil(tile).min(TILES_MAX);
    let grid = [spec.rows.div_ceil(outputs), slots.min(GRID_MAX), tiles];
    scope.launch(name, grid, 128, 0, args)
}
