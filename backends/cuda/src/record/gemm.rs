//! matmul.

use hal::op::{Matmul, RowGroups};
use hal::{Op, Weight};

use super::then::{Blocks, COUNTERS, Next, Then};
use super::{Args, BF16, GRID_MAX, Place, Scope};
use crate::driver::{Address, Function, Launch};
use crate::memory::address_of;
use crate::weight::{View, W_BF16, W_F32, W_FP4, W_FP8, any_of, raw_of};

/// A kernel, the outputs of a block, the rows of a tile and its shared memory; as in `kernels/gemm/gemm.cu`.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    outputs: u32,
    rows: u32,
    shared_bytes: u32,
}

const SIMT: Kernel = Kernel { name: "matmul", outputs: 4, rows: 8, shared_bytes: 0 };
const FEW: Kernel = Kernel { name: "matmul_few", outputs: 16, rows: 8, shared_bytes: 0 };
const MANY: Kernel = Kernel { name: "matmul_many", outputs: 64, rows: 64, shared_bytes: 0 };
/// `FEW` with weights that come by bulk copies, where rows allow them.
const BULK: Kernel = Kernel { name: "matmul_bulk", shared_bytes: RING_BYTES, ..FEW };
/// Its ring: 3 pieces of 16 weight rows, 1024 bytes each and 64 more.
const RING_BYTES: u32 = 3 * 16 * (1024 + 64);
/// Rows of a product of few.
pub(crate) const FEW_ROWS: u32 = FEW.rows;
/// `MANY` with the products of a warp group.
const WIDE: Kernel = Kernel { name: "matmul_wide", shared_bytes: TILE_BYTES, ..MANY };
/// Its tile of x: 8 steps of 64 rows of 32 bytes and 16 more.
const TILE_BYTES: u32 = 8 * (64 * 32 + 16);
/// Most tiles of one group that run side by side; more take turns.
const TILES_MAX: u32 = 64;

/// The kernel of a product. Its arithmetic class follows from dtype and encoding alone; `FEW`, `BULK`, `MANY` and
/// `WIDE` are of one class and give the same bits (of the last a probe has made sure), so rows may choose between them.
fn kernel(scope: &Scope<'_>, x: &Place, view: &View, rows_each: u32) -> Kernel {
    let is_mma = x.kind == BF16
        && matches!(view.encoding, W_BF16 | W_FP8 | W_FP4)
        && (view.scales == 0 || view.block_cols.is_multiple_of(32));
    match is_mma {
        false => SIMT,
        true if rows_each > FEW.rows && scope.machine.is_wide() => WIDE,
        true if rows_each > FEW.rows => MANY,
        true if scope.machine.facts.bulk && view.row_bytes.is_multiple_of(16) => BULK,
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
    /// Row i uses group `ids[i]`, none where that is -1, and reads row i / per of x: few rows need no sorting.
    Picks { ids: Address, per: u32 },
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
    of_rows(out, x, weight, groups).record(scope)
}

/// The same, not recorded yet.
pub(crate) fn of_rows<'a>(
    out: &'a Place,
    x: &'a Place,
    weight: &'a Weight,
    groups: Groups,
) -> Product<'a> {
    Product { out, x, weight, groups, rows: x.rows, source: 0, add: None }
}

/// Products of one launch, at most; as in `gemm.cu`.
pub(crate) const SEVERAL: usize = 5;

/// The scope of the n-th product of a launch: its counters are its own.
pub(crate) fn counting_apart<'a>(scope: &Scope<'a>, n: usize) -> Scope<'a> {
    Scope { counters: scope.counters + 4 * u64::from(COUNTERS) * n as u64, ..*scope }
}

/// The launch of an op, with what follows; none where its blocks cannot go on with that.
pub(crate) fn with_then(scope: &Scope<'_>, op: &Matmul, then: Option<&Then>) -> Option<Launch> {
    let RowGroups::Cyclic = op.groups else { return None };
    let (out, x) = (Place::of(&op.out), Place::of(&op.x));
    let product = of_rows(&out, &x, &op.weight, Groups::Cyclic);
    if then.is_some_and(|then| !product.may(scope, then)) {
        return None;
    }
    product.launch(scope, then).pop()
}

/// The kernel of several products that are each of this one, if there is one.
fn kernel_of_several(scope: &Scope<'_>, launch: &Launch) -> Option<Function> {
    let is = |kernel: Kernel| launch.function == scope.machine.kernel(kernel.name);
    let name = match () {
        () if is(FEW) => "matmul_several",
        () if is(BULK) => "matmul_several_bulk",
        () => return None,
    };
    Some(scope.machine.kernel(name))
}

/// True if a launch may be beside `first`, or have others beside it: few rows of one group, in one tile, by one kernel.
pub(crate) fn may_be_beside(scope: &Scope<'_>, launch: &Launch, first: &Launch) -> bool {
    launch.function == first.function
        && kernel_of_several(scope, launch).is_some()
        && launch.grid[1..] == [1, 1]
        && launch.grid[0] > 0
}

/// One launch for some of few rows each, which do not depend on each other.
pub(crate) fn several(scope: &Scope<'_>, mut parts: Vec<Launch>) -> Launch {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let function = kernel_of_several(scope, &parts[0]).expect("parts may be beside each other");
    let words = parts[0].args.len();
    let mut args = Vec::with_capacity(4 + SEVERAL * words);
    let (mut ends, mut blocks) = ([u32::MAX; 8], 0);
    for (part, end) in parts.iter().zip(&mut ends) {
        blocks += part.grid[0];
        *end = blocks;
    }
    args.extend(ends.chunks(2).map(|two| u64::from(two[0]) | u64::from(two[1]) << 32));
    parts.iter().for_each(|part| args.extend_from_slice(&part.args));
    args.resize(4 + SEVERAL * words, 0);
    let shared_bytes = parts.iter().map(|part| part.shared_bytes).max().unwrap_or(0);
    Launch {
        function,
        grid: [blocks, 1, 1],
        threads: parts[0].threads,
        shared_bytes,
        args: args.into(),
    }
}

/// A product resolved: how its blocks are dealt.
struct Form {
    view: View,
    kernel: Kernel,
    offsets: Address,
    items: Address,
    lines: u32,
    turns: u32,
    /// A block has one tile at most.
    apart: bool,
}

impl Product<'_> {
    fn form(&self, scope: &Scope<'_>) -> Form {
        let view = raw_of(self.weight, scope.machine).expect("compile checked every weight").view();
        let sorted = slots(self.weight, self.rows);
        let groups = self.weight.spec().groups;
        // Sorted groups: no more of them have rows than there are rows, and one may have them all.
        let (offsets, slots, rows) = match self.groups {
            Groups::Cyclic => (0, groups, self.rows / groups),
            Groups::Picks { .. } => (0, self.rows, 1),
            Groups::Sorted(offsets) | Groups::Listed { offsets, .. } => {
                (offsets, sorted, self.rows)
            }
        };
        let kernel = kernel(scope, self.x, &view, self.rows.div_ceil(slots.max(1)));
        let (items, lines, turns) = match self.groups {
            Groups::Listed { items, count, tile, .. } if tile == kernel.rows => (items, count, 1),
            _ => (0, slots, rows.div_ceil(kernel.rows).min(TILES_MAX)),
        };
        let apart = lines <= GRID_MAX
            && (items != 0 || rows <= kernel.rows * TILES_MAX)
            && !matches!(self.groups, Groups::Sorted(_));
        Form { view, kernel, offsets, items, lines: lines.min(GRID_MAX), turns, apart }
    }

    pub(crate) fn record(&self, scope: &Scope<'_>) -> Vec<Launch> {
        self.launch(scope, None)
    }

    /// The product and what follows it, in one launch where that may be; where not, `apart` records it.
    pub(crate) fn record_then(
        &self,
        scope: &Scope<'_>,
        then: &Then,
        apart: impl FnOnce() -> Vec<Launch>,
    ) -> Vec<Launch> {
        if self.may(scope, then) {
            return self.launch(scope, Some(then));
        }
        let mut launches = self.launch(scope, None);
        launches.extend(apart());
        launches
    }

    /// The product and what follows it; none where that takes a launch of its own.
    pub(crate) fn record_only_with(&self, scope: &Scope<'_>, then: &Then) -> Option<Launch> {
        if self.may(scope, then) { self.launch(scope, Some(then)).pop() } else { None }
    }

    fn may(&self, scope: &Scope<'_>, then: &Then) -> bool {
        let Form { kernel, lines, turns, apart, .. } = self.form(scope);
        let rows = self.rows.div_ceil(lines.max(1)).min(kernel.rows);
        let blocks = Blocks {
            outputs: self.weight.spec().rows,
            each: kernel.outputs,
            lines: lines * turns,
            rows: if matches!(self.groups, Groups::Listed { .. }) { kernel.rows } else { rows },
        };
        let kernels = if then.next == Next::Enter {
            &[SIMT.name][..]
        } else {
            &[SIMT, FEW, BULK].map(|k| k.name)
        };
        scope.joins && apart && kernels.contains(&kernel.name) && then.fits(&blocks)
    }

    fn launch(&self, scope: &Scope<'_>, then: Option<&Then>) -> Vec<Launch> {
        let Form { view, kernel, offsets, items, lines, turns, .. } = self.form(scope);
        let (spec, x) = (self.weight.spec(), self.x);
        let (picks, per) = match self.groups {
            Groups::Picks { ids, per } => (ids, per),
            _ => (0, 0),
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
            .address(picks)
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
            .int(per)
            .then(then, scope.counters);
        let grid = [spec.rows.div_ceil(kernel.outputs), lines, turns];
        let shared = then.map_or(0, |then| then.shared_bytes).max(kernel.shared_bytes);
        scope.launch(kernel.name, grid, 128, shared, args)
    }
}
