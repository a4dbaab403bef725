//! attend, attend_project: in one of two arithmetic classes, which dtypes, codecs and widths decide; in each one form
//! for many rows, one that spreads the spans of few rows over the GPU. The forms of a class do the same operations in
//! the same order, so which one runs does not show in the bits.

use hal::op::{Attend, AttendProject, Far, Listed, Scatter, Visible};
use hal::{Op, RowCodec, Tensor};

use super::gemm::Groups;
use super::{
    Args, BF16, FP8_ROWS, GRID_MAX, Layout, Place, SHARED_MAX, Scope, convert, gemm, is_block,
    is_real, is_row, is_vector, join, then,
};
use crate::driver::{Address, Launch};
use crate::memory::address_of;
use crate::weight::any_of;

/// Of class `simt`, as in `kernels/attend/attend.cu`: keys at a time, of a span; heads of a block.
const TILE: u32 = 16;
const SPAN: u32 = 128;
const HEADS: u32 = 8;
/// Of class `mma`: keys of a span, columns that a block's registers hold, heads of a tile.
const KEYS: u32 = 64;
const WIDTH_MAX: u32 = 512;
const TILE_HEADS: u32 = 16;
/// What a spread may take of the workspace.
const PARTIAL_BYTES_MAX: u64 = 256 << 20;
/// The kernels of class `mma`: tiles of heads, name. The first brings a span when it needs it, the others ahead.
const FORMS: [(u32, &str); 3] = [(1, "attend_16"), (2, "attend_32"), (4, "attend_64")];

/// What both ops have in common.
#[derive(Clone, Copy)]
struct Attention<'a> {
    q: &'a Tensor,
    sink: &'a Tensor,
    near: &'a Listed,
    far: Option<&'a Far>,
    /// Turns the result back.
    angle: Option<&'a Tensor>,
    scale: f32,
}

impl<'a> From<&'a Attend> for Attention<'a> {
    fn from(op: &'a Attend) -> Self {
        let Attend { q, sink, near, far, scale, .. } = op;
        Attention { q, sink, near, far: far.as_ref(), angle: None, scale: *scale }
    }
}

impl<'a> From<&'a AttendProject> for Attention<'a> {
    fn from(op: &'a AttendProject) -> Self {
        let AttendProject { q, sink, near, far, angle, scale, .. } = op;
        Attention { q, sink, near, far: far.as_ref(), angle: Some(angle), scale: *scale }
    }
}

impl Attention<'_> {
    fn fits(&self) -> bool {
        let far = match self.far {
            None => true,
            Some(Far::Listed(Listed { cache, .. }) | Far::Visible(Visible { cache, .. })) => {
                is_row(cache)
            }
        };
        let tensors = is_row(&self.near.cache) && is_real(self.q) && is_vector(self.sink);
        far && tensors && self.shared_bytes() <= u64::from(SHARED_MAX) - 1024
    }

    fn width(&self) -> u32 {
        self.near.cache.width()
    }

    fn heads(&self) -> u32 {
        self.q.width() / self.width().max(1)
    }

    /// Entries of both lists.
    fn listed(&self) -> u32 {
        let far = match self.far {
            Some(Far::Listed(far)) => far.index.width(),
            _ => 0,
        };
        self.near.index.width() + far
    }

    fn shared_bytes(&self) -> u64 {
        if self.is_mma() {
            return self.tiles_shared_bytes(1);
        }
        let width = u64::from(self.width());
        let tile = u64::from(TILE) * width;
        let heads = u64::from(HEADS) * (3 * width + u64::from(TILE));
        4 * (tile + heads + u64::from(self.listed()))
    }

    /// True if tensor cores take it: bf16 queries over rows of bf16 or FP8, both caches alike, eight columns of one
    /// block or of the tail at a time. Decided by dtypes, codecs and widths alone: it shows in the bits.
    fn is_mma(&self) -> bool {
        let near = Layout::of(&self.near.cache);
        let eights = match near.kind {
            BF16 => true,
            FP8_ROWS => near.block.is_multiple_of(8) && near.tail.is_multiple_of(8),
            _ => false,
        };
        let alike = match self.far {
            None => true,
            Some(Far::Listed(Listed { cache, .. }) | Far::Visible(Visible { cache, .. })) => {
                Layout::of(cache) == near
            }
        };
        let fits = self.width().is_multiple_of(16) && self.width() <= WIDTH_MAX;
        let room = self.tiles_shared_bytes(1) <= u64::from(SHARED_MAX) - 1024;
        Layout::of(self.q).kind == BF16 && eights && alike && fits && room
    }

    /// `Tiles` of attend.cu for 16 times as many heads, and the lists.
    fn tiles_shared_bytes(&self, tiles: u32) -> u64 {
        let (heads, keys) = (u64::from(TILE_HEADS * tiles), u64::from(KEYS));
        let stride = |width: u64| 2 * width + 16;
        let rows = (heads + keys) * stride(u64::from(self.width()));
        let scores = heads * (4 * (keys + 4) + stride(keys) + 2 * 8);
        let ahead = if tiles > 1 { keys * self.ahead_bytes() } else { 0 };
        rows + scores + ahead + 4 * u64::from(self.listed())
    }

    /// A cached row on its way: an odd number of 16 bytes.
    fn ahead_bytes(&self) -> u64 {
        let cache = Layout::of(&self.near.cache);
        let (width, tail) = (u64::from(self.width()), u64::from(cache.tail));
        let bytes = match cache.kind {
            BF16 => 2 * width,
            _ => width + tail + (width - tail).div_ceil(cache.block.into()),
        };
        (bytes.next_multiple_of(4).div_ceil(16) | 1) * 16
    }

    /// The form of class `mma` that does all spans of a row in one block: the one that decodes a key for the most
    /// heads and still has a block for every processor.
    fn form(&self, scope: &Scope<'_>) -> (u32, &'static str) {
        let facts = &scope.machine.facts;
        let pays = |&(tiles, _): &(u32, &str)| {
            let blocks = u64::from(self.q.rows()) * u64::from(self.heads().div_ceil(16 * tiles));
            let room = self.tiles_shared_bytes(tiles) <= u64::from(facts.shared_bytes_max) - 1024;
            self.heads() > 8 * tiles && blocks >= facts.processors.into() && room
        };
        FORMS.into_iter().rev().find(pays).unwrap_or(FORMS[0])
    }

    /// Keys of a span.
    fn span(&self) -> u32 {
        if self.is_mma() { KEYS } else { SPAN }
    }

    /// Spans that a row has at most.
    fn spans(&self) -> u32 {
        let far = match self.far {
            Some(Far::Visible(far)) => u64::from(far.pages.width()) * u64::from(far.per),
            _ => 0,
        };
        let most = (u64::from(self.listed()) + far).div_ceil(self.span().into()).max(1);
        u32::try_from(most).expect("a cache has fewer rows")
    }

    /// True if a block a span pays: rows alone leave processors idle.
    fn is_spread(&self, scope: &Scope<'_>) -> bool {
        let heads = if self.is_mma() { TILE_HEADS } else { HEADS };
        let blocks = u64::from(self.q.rows()) * u64::from(self.heads().div_ceil(heads));
        let spans = self.spans();
        let pays = spans > 1 && blocks < scope.machine.facts.processors.into();
        pays && spans <= GRID_MAX && 4 * self.spread_floats() <= PARTIAL_BYTES_MAX
    }

    /// Floats of all spans: of each head its state and its weighted sum.
    fn spread_floats(&self) -> u64 {
        let places = u64::from(self.q.rows()) * u64::from(self.heads()) * u64::from(self.spans());
        places * u64::from(self.width() + 2)
    }

    /// Floats between both forms' launches.
    fn partial_floats(&self, scope: &Scope<'_>) -> u32 {
        if !self.is_spread(scope) {
            return 0;
        }
        u32::try_from(self.spread_floats()).expect("a spread is bounded")
    }

    fn args(&self, out: &Place, partial: Address) -> Args {
        let (kind, cache, index, pages, per): (u32, _, _, Option<&Tensor>, u32) = match self.far {
            None => (0, None, None, None, 1),
            Some(Far::Listed(far)) => (1, Some(&far.cache), Some(&far.index), None, 1),
            Some(Far::Visible(far)) => {
                (2, Some(&far.cache), Some(&far.reach), Some(&far.pages), far.per)
            }
        };
        Args::new()
            .place(out)
            .rows(self.q)
            .rows(&self.near.cache)
            .rows(&self.near.index)
            .rows_or_none(cache)
            .rows_or_none(index)
            .rows_or_none(pages)
            .rows_or_none(self.angle)
            .address(address_of(self.sink))
            .address(partial)
            .int(self.heads())
            .int(self.width())
            .int(kind)
            .int(per)
            .float(self.scale)
            .int(self.spans())
            .int(self.span())
    }

    /// The launches; `partial` has room for `partial_floats`.
    fn record(&self, scope: &Scope<'_>, out: &Place, partial: Address) -> Vec<Launch> {
        let (rows, heads) = (self.q.rows(), self.heads());
        let spread = self.is_spread(scope);
        let (name, groups, shared) = if self.is_mma() {
            let (tiles, name) = if spread { FORMS[0] } else { self.form(scope) };
            (name, heads.div_ceil(TILE_HEADS * tiles), self.tiles_shared_bytes(tiles))
        } else {
            ("attend", heads.div_ceil(HEADS), self.shared_bytes())
        };
        let shared = u32::try_from(shared).expect("a block has less");
        if !spread {
            return scope.launch(name, [rows, groups, 1], 256, shared, self.args(out, 0));
        }
        let grid = [rows, groups, self.spans()];
        let mut launches = scope.launch(name, grid, 256, shared, self.args(out, partial));
        let joined = self.args(out, partial);
        let shared = 4 * self.width();
        launches.extend(scope.launch("attend_merge", [rows, heads, 1], 128, shared, joined));
        launches
    }
}

pub(crate) fn fits(op: &Op) -> bool {
    matches!(op, Op::Attend(op) if Attention::from(op).fits())
}

pub(crate) fn workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    let Op::Attend(op) = op else { unreachable!("attend of {}", op.name()) };
    4 * u64::from(Attention::from(op).partial_floats(scope))
}

pub(crate) fn record(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Attend(op) = op else { unreachable!("attend of {}", op.name()) };
    Attention::from(op).record(scope, &Place::of(&op.out), scope.workspace)
}

/// What lies between the launches of attend_project.
struct Between {
    partial: Place,
    attended: Place,
    z: Place,
    rounded: Option<Place>,
    bytes: u64,
}

impl Between {
    fn new(op: &AttendProject, scope: &Scope<'_>) -> Between {
        let attention = Attention::from(op);
        let (mut bytes, kind, rows) = (0, Place::of(&op.q).kind, op.q.rows());
        let latent = op.wo_a.spec().groups * op.wo_a.spec().rows;
        let floats = attention.partial_floats(scope);
        let partial = Place::scratch(scope, &mut bytes, 1, floats);
        let mut reals = |width| Place::scratch_of(kind, scope, &mut bytes, rows, width);
        let (attended, z) = (reals(op.q.width()), reals(latent));
        let rounded = op.round.map(|_| reals(latent));
        Between { partial, attended, z, rounded, bytes }
    }
}

pub(crate) fn project_fits(op: &Op) -> bool {
    let Op::AttendProject(op) = op else { return false };
    let latent = op.wo_a.spec().groups * op.wo_a.spec().rows;
    Attention::from(op).fits()
        && any_of(&op.wo_a).is_some()
        && any_of(&op.wo_b).is_some()
        && op.round.is_none_or(|codec| is_block(codec, latent))
}

pub(crate) fn project_workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    let Op::AttendProject(op) = op else { unreachable!("attend_project of {}", op.name()) };
    Between::new(op, scope).bytes
}

pub(crate) fn project(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::AttendProject(op) = op else { unreachable!("attend_project of {}", op.name()) };
    let (mut launches, z) = latents(op, scope);
    launches.extend(gemm::of_rows(&Place::of(&op.out), &z, &op.wo_b, Groups::Cyclic).record(scope));
    launches
}

/// The same and the scatter behind it, beside the last product; none where that takes a launch of its own.
pub(crate) fn project_and(op: &Op, scope: &Scope<'_>, scatter: &Scatter) -> Option<Vec<Launch>> {
    let Op::AttendProject(op) = op else { unreachable!("attend_project of {}", op.name()) };
    let (mut launches, z) = latents(op, scope);
    let out = Place::of(&op.out);
    let product = gemm::of_rows(&out, &z, &op.wo_b, Groups::Cyclic);
    let then = join::scatter(scatter, op.wo_b.spec().rows);
    launches.push(product.record_only_with(scope, &then)?);
    Some(launches)
}

/// Attention and the first projection, ready for the second.
fn latents(op: &AttendProject, scope: &Scope<'_>) -> (Vec<Launch>, Place) {
    let Between { partial, attended, z, rounded, .. } = Between::new(op, scope);
    let mut launches = Attention::from(op).record(scope, &attended, partial.address);
    // Groups of heads become rows, and back.
    let groups = op.wo_a.spec().groups;
    let (rows, width) = (attended.rows * groups, attended.width / groups.max(1));
    let heads = attended.reshape(rows, width);
    let latents = z.reshape(rows, op.wo_a.spec().rows);
    let product = gemm::of_rows(&latents, &heads, &op.wo_a, Groups::Cyclic);
    let z = match (op.round, rounded) {
        (Some(codec), Some(rounded)) => {
            let parts = rounded.reshape(rows, latents.width);
            let then = then::convert(&parts, &latents, codec);
            let apart = || convert::round_trip(scope, &rounded, &z, codec);
            // Where blocks of codes straddle groups, a group's part is none of the row's.
            let whole = matches!(codec, RowCodec::Fp8 { block, tail: 0 } | RowCodec::Fp4 { block }
                if latents.width.is_multiple_of(block.into()));
            let scope_of = Scope { joins: scope.joins && (whole || groups == 1), ..*scope };
            launches.extend(product.record_then(&scope_of, &then, apart));
            rounded
        }
        _ => {
            launches.extend(product.record(scope));
            z
        }
    };
    (launches, z)
}
