//! matmul.

use hal::op::RowGroups;
use hal::{Op, Weight};

use super::{Args, BF16, GRID_MAX, Place, Scope};
use crate::driver::{Address, Launch};
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
/// `MANY` with the products of a warp group.
const WIDE: Kernel = Kernel { name: "matmul_wide", outputs: 64, rows: 64 };
/// Its shared memory: a tile of x, 8 steps of 64 rows of 32 bytes and 16 more.
const WIDE_SHARED_BYTES: u32 = 8 * (64 * 32 + 16);
/// Most tiles of one group that run side by side; more take turns.
const TILES_MAX: u32 = 64;

/// The kernel of a product. Its arithmetic class follows from dtype and encoding alone; `FEW`, `MANY` and `WIDE`
/// are of one class and give the same bits (of the last a probe has made sure), so rows may choose between them.
fn kernel(scope: &Scope<'_>, x: &Place, view: &View, rows_each: u32) -> Kernel {
    let is_mma = x.kind == BF16
        && matches!(view.encoding, W_BF16 | W_FP8 | W_FP4)
        && (view.scales == 0 || view.block_cols.is_multiple_of(32));
    match is_mma {
        false => SIMT,
        true if rows_each > FEW.rows && scope.machine.is_wide() => WIDE,
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

/// How rows find their matrix.
#[derive(Clone, Copy)]
pub(crate) enum Groups {
    /// Row i uses group i % groups.
    Cyclic,
    /// Sorted by group: where each begins.
    Sorted(Address),
    /// Sorted, with a list of all tiles of so many rows.
    Listed { offsets: Address, items: Address, count: u32, tile: u32 },
}

/// A product, of its own or of a fused op.
pub(crate) struct Product<'a> {
    pub(crate) out: &'a Place,
    pub(crate) x: &'a Place,
    pub(crate) weight: &'a Weight,
    pub(crate) groups: Groups,
    /// Rows of the product.
    pub(crate) rows: u32,
    /// Which row of x each of them reads; 0: its own.
    pub(crate) source: Address,
    /// Added once the product is rounded to the dtype of x.
    pub(crate) add: Option<Place>,
}

/// Groups that may have rows at once.
fn slots(weight: &Weight, rows: u32) -> u32 {
    weight.spec().groups.min(rows)
}

/// Rows of a tile of a product of sorted rows, and how many tiles there are at most.
pub(crate) fn sorted_tiles(scope: &Scope<'_>, x: &Place, weight: &Weight, rows: u32) -> (u32, u32) {
    let view = raw_of(weight, scope.machine).expect("compile checked every weight").view();
    let slots = slots(weight, rows);
    let tile = kernel(scope, x, &view, rows.div_ceil(slots.max(1))).rows;
    (tile, slots + rows / tile)
}

/// A product whose rows are those of x.
pub(crate) fn product(
    scope: &Scope<'_>,
    out: &Place,
    x: &Place,
    weight: &Weight,
    groups: &RowGroups,
) -> Vec<Launch> {
    let groups = match groups {
        RowGroups::Cyclic => Groups::Cyclic,
        RowGroups::Sorted { offsets } => Groups::Sorted(address_of(offsets)),
    };
    Product { out, x, weight, groups, rows: x.rows, source: 0, add: None }.record(scope)
}

impl Product<'_> {
    pub(crate) fn record(&self, scope: &Scope<'_>) -> Vec<Launch> {
        let raw = raw_of(self.weight, scope.machine).expect("compile checked every weight");
        let (view, spec, x) = (raw.view(), raw.spec(), self.x);
        let sorted = slots(self.weight, self.rows);
        // Sorted groups: no more of them have rows than there are rows, and one may have them all.
        let (offsets, slots, rows) = match self.groups {
            Groups::Cyclic => (0, spec.groups, self.rows / spec.groups),
            Groups::Sorted(offsets) | Groups::Listed { offsets, .. } => {
                (offsets, sorted, self.rows)
            }
        };
        let Kernel { name, outputs, rows: tile } =
            kernel(scope, x, &view, self.rows.div_ceil(slots.max(1)));
        let (items, lines, turns) = match self.groups {
            Groups::Listed { items, count, tile: listed, .. } if listed == tile => {
                (items, count, 1)
            }
            _ => (0, slots, rows.div_ceil(tile).min(TILES_MAX)),
        };
        let args = Args::new()
            .place(self.out)
            .place(x)
            .place_or_none(self.add.as_ref())
            .address(view.codes)
            .address(view.scales)
            .address(offsets)
            .address(self.source)
            .address(items)
            .long(view.row_bytes)
            .long(view.segment_scale_bytes)
            .int(spec.groups)
            .int(spec.rows)
            .int(spec.segment_rows)
            .int(view.encoding)
            .int(view.block_rows)
            .int(view.block_cols)
            .int(view.row_scales)
            .int(aligned(x, &view))
            .int(self.rows)
            .int(0);
        let grid = [spec.rows.div_ceil(outputs), lines.min(GRID_MAX), turns];
        let shared = if name == WIDE.name { WIDE_SHARED_BYTES } else { 0 };
        scope.launch(name, grid, 128, shared, args)
    }
}
