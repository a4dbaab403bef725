//! attend, attend_project: one form for many rows, one that spreads the spans of few rows over the GPU. Both
//! do the same operations in the same order, so which one runs does not show in the bits.

use hal::op::{Attend, AttendProject, Far, Listed, RowGroups, Visible};
use hal::{Op, Tensor};

use super::{
    Args, GRID_MAX, Place, SHARED_MAX, Scope, convert, gemm, is_block, is_real, is_row, is_vector,
};
use crate::driver::{Address, Launch};
use crate::memory::address_of;
use crate::weight::any_of;

/// As in `kernels/attend/attend.cu`.
const TILE: u32 = 16;
const SPAN: u32 = 128;
const HEADS: u32 = 8;

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
        let width = u64::from(self.width());
        let tile = u64::from(TILE) * width;
        let heads = u64::from(HEADS) * (3 * width + u64::from(TILE));
        4 * (tile + heads + u64::from(self.listed()))
    }

    /// Spans that a row has at most.
    fn spans(&self) -> u32 {
        let far = match self.far {
            Some(Far::Visible(far)) => u64::from(far.pages.width()) * u64::from(far.per),
            _ => 0,
        };
        let most = (u64::from(self.listed()) + far).div_ceil(SPAN.into()).max(1);
        u32::try_from(most).expect("a cache has fewer rows")
    }

    /// True if a block a span pays: rows alone leave processors idle.
    fn is_spread(&self, scope: &Scope<'_>) -> bool {
        let blocks = u64::from(self.q.rows()) * u64::from(self.heads().div_ceil(HEADS));
        let spans = self.spans();
        spans > 1 && spans <= GRID_MAX && blocks < scope.machine.facts.processors.into()
    }

    /// Floats between both forms' launches.
    fn partial_floats(&self, scope: &Scope<'_>) -> u32 {
        if !self.is_spread(scope) {
            return 0;
        }
        let places = u64::from(self.q.rows()) * u64::from(self.heads()) * u64::from(self.spans());
        u32::try_from(places * u64::from(self.width() + 2)).expect("few rows are spread")
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
    }

    /// The launches; `partial` has room for `partial_floats`.
    fn record(&self, scope: &Scope<'_>, out: &Place, partial: Address) -> Vec<Launch> {
        let (rows, heads, shared) = (self.q.rows(), self.heads(), self.shared_bytes() as u32);
        let groups = heads.div_ceil(HEADS);
        if !self.is_spread(scope) {
            return scope.launch("attend", [rows, groups, 1], 256, shared, self.args(out, 0));
        }
        let grid = [rows, groups, self.spans()];
        let mut launches = scope.launch("attend", grid, 256, shared, self.args(out, partial));
        let joined = self.args(out, partial);
        let shared = 4 * self.width();
        launches.extend(scope.launch("attend_merge", [rows, heads, 1], 32, shared, joined));
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
    let Between { partial, attended, z, rounded, .. } = Between::new(op, scope);
    let mut launches = Attention::from(op).record(scope, &attended, partial.address);
    // Groups of heads become rows, and back.
    let groups = op.wo_a.spec().groups;
    let (rows, width) = (attended.rows * groups, attended.width / groups.max(1));
    let heads = attended.reshape(rows, width);
    let latents = z.reshape(rows, op.wo_a.spec().rows);
    launches.extend(gemm::product(scope, &latents, &heads, &op.wo_a, &RowGroups::Cyclic));
    let z = match (op.round, rounded) {
        (Some(codec), Some(rounded)) => {
            launches.extend(convert::round_trip(scope, &rounded, &z, codec));
            rounded
        }
        _ => z,
    };
    let out = Place::of(&op.out);
    launches.extend(gemm::product(scope, &out, &z, &op.wo_b, &RowGroups::Cyclic));
    launches
}
