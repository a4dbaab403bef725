//! bucket, route, route_table, moe_experts, swiglu_mlp.

use hal::op::{MoeExperts, Route, RouteTable, SwigluMlp};
use hal::{DType, Op, RowCodec, Tensor, Weight};

use super::gemm::{Groups, Product};
use super::then::{Next, Then};
use super::{
    Args, INTS, Place, SHARED_MAX, Scope, WARP, convert, gemm, is_block, is_real, is_vector,
};
use crate::driver::{Address, Launch};
use crate::memory::address_of;
use crate::weight::any_of;

/// Warps of `bucket`, each of which has a counter a group.
const SORTERS: u32 = 8;

fn sort_bytes(groups: u32) -> u64 {
    4 * u64::from(SORTERS) * u64::from(groups)
}

/// Where keys are sorted to.
#[derive(Clone, Copy, Default)]
struct Sorted {
    offsets: Address,
    order: Address,
    inverse: Address,
    /// Rows that keys are of, `per` keys a row; 0: not wanted.
    source: Address,
    /// Tiles of groups; 0: not wanted.
    items: Address,
    per: u32,
    tile: u32,
    items_count: u32,
}

fn sort(scope: &Scope<'_>, keys: &Tensor, groups: u32, to: Sorted) -> Vec<Launch> {
    let args = Args::new()
        .address(to.offsets)
        .address(to.order)
        .address(to.inverse)
        .address(address_of(keys))
        .address(to.source)
        .address(to.items)
        .int(groups)
        .int(keys.shape().elements() as u32)
        .int(to.per)
        .int(to.tile)
        .int(to.items_count)
        .int(0);
    scope.launch("bucket", [1, 1, 1], WARP * SORTERS, sort_bytes(groups) as u32, args)
}

fn sortable(groups: u64) -> bool {
    u32::try_from(groups).is_ok_and(|groups| sort_bytes(groups) <= u64::from(SHARED_MAX) - 1024)
}

pub(crate) fn bucket_fits(op: &Op) -> bool {
    matches!(op, Op::Bucket(op) if sortable(op.offsets.shape().elements() - 1))
}

pub(crate) fn bucket(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Bucket(op) = op else { unreachable!("bucket of {}", op.name()) };
    let groups = op.offsets.shape().elements() as u32 - 1;
    let to = Sorted {
        offsets: address_of(&op.offsets),
        order: address_of(&op.order),
        inverse: address_of(&op.inverse),
        ..Sorted::default()
    };
    sort(scope, &op.keys, groups, to)
}

/// The middle of an expert.
struct Swiglu {
    out: Place,
    both: Place,
    /// Shares, the order they are read in, and where sorted rows end.
    shares: Option<(Address, Address, Address)>,
    clamp: f32,
    round: Option<RowCodec>,
}

impl Swiglu {
    fn args(&self) -> Args {
        let (shares, order, end) = self.shares.unwrap_or_default();
        Args::new()
            .place(&self.out)
            .place(&self.both)
            .address(shares)
            .address(order)
            .address(end)
            .float(self.clamp)
            .int(self.out.kind)
            .round(self.round)
    }

    fn record(&self, scope: &Scope<'_>) -> Vec<Launch> {
        let (rows, width) = (self.out.rows, self.out.width);
        scope.launch("swiglu_rows", [rows, 1, 1], 256, 4 * width, self.args())
    }

    /// The same for what a product of gates and ups has just made: some columns of both are a part.
    fn then(&self) -> Then {
        let span = self.out.width;
        let unit = Then::unit_of(span, self.round);
        let args = self.args();
        Then { next: Next::Swiglu, span, unit, whole: None, shared_bytes: 4 * unit, args }
    }
}

/// True if the parts between the products take it.
fn mlp_fits(x: &Tensor, gate_up: &Weight, down: &Weight, round: Option<RowCodec>) -> bool {
    let hidden = gate_up.spec().rows / 2;
    any_of(gate_up).is_some()
        && any_of(down).is_some()
        && is_real(x)
        && round.is_none_or(|codec| is_block(codec, x.width()) && is_block(codec, hidden))
        && 4 * u64::from(hidden) <= u64::from(SHARED_MAX) - 1024
}

/// x, or a copy of it after a round trip.
fn rounded(
    scope: &Scope<'_>,
    x: &Tensor,
    round: Option<RowCodec>,
    bytes: &mut u64,
) -> (Place, Vec<Launch>) {
    let x = Place::of(x);
    let Some(codec) = round else { return (x, Vec::new()) };
    if let Some(ready) = scope.rounded.filter(|ready| (ready.x, ready.codec) == (x, codec)) {
        return (ready.at, Vec::new());
    }
    let out = Place::scratch_of(x.kind, scope, bytes, x.rows, x.width);
    (out, convert::round_trip(scope, &out, &x, codec))
}

/// Everything routed experts keep between launches.
struct Experts {
    x: Place,
    first: Vec<Launch>,
    both: Place,
    hidden: Place,
    y: Place,
    sorted: Sorted,
    bytes: u64,
}

impl Experts {
    fn new(op: &MoeExperts, scope: &Scope<'_>) -> Experts {
        let (rows, hidden) = (op.ids.shape().elements() as u32, op.gate_up.spec().rows / 2);
        let mut bytes = 0;
        let (x, first) = rounded(scope, &op.x, op.round, &mut bytes);
        let mut reals = |width| Place::scratch_of(x.kind, scope, &mut bytes, rows, width);
        let (both, hidden, y) = (reals(2 * hidden), reals(hidden), reals(op.x.width()));
        let (tile, items_count) = gemm::sorted_tiles(scope, &x, &op.gate_up, rows);
        let mut ints = |count| Place::scratch_of(INTS, scope, &mut bytes, 1, count).address;
        let sorted = Sorted {
            offsets: ints(op.gate_up.spec().groups + 1),
            order: ints(rows),
            inverse: ints(rows),
            source: ints(rows),
            items: ints(2 * items_count),
            per: op.ids.width(),
            tile,
            items_count,
        };
        Experts { x, first, both, hidden, y, sorted, bytes }
    }
}

pub(crate) fn experts_fits(op: &Op) -> bool {
    let Op::MoeExperts(op) = op else { return false };
    mlp_fits(&op.x, &op.gate_up, &op.down, op.round) && sortable(op.gate_up.spec().groups.into())
}

pub(crate) fn experts_workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    let Op::MoeExperts(op) = op else { unreachable!("moe_experts of {}", op.name()) };
    Experts::new(op, scope).bytes
}

/// True if each pick has a product of its own: sorting one row's picks finds no two for one expert.
fn is_direct(op: &MoeExperts, scope: &Scope<'_>) -> bool {
    scope.joins && op.x.rows() == 1
}

pub(crate) fn experts(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::MoeExperts(op) = op else { unreachable!("moe_experts of {}", op.name()) };
    let Experts { x, mut first, both, hidden, y, sorted, .. } = Experts::new(op, scope);
    let (groups, per, rows) = (op.gate_up.spec().groups, op.ids.width(), both.rows);
    let (ids, shares) = (address_of(&op.ids), address_of(&op.shares));
    let direct = is_direct(op, scope);
    let tiles = |per| match direct {
        true => Groups::Picks { ids, per },
        false => Groups::Listed {
            offsets: sorted.offsets,
            items: sorted.items,
            count: sorted.items_count,
            tile: sorted.tile,
        },
    };
    let (order, end, source) = match direct {
        true => (0, 0, 0),
        false => (sorted.order, sorted.offsets + 4 * u64::from(groups), sorted.source),
    };
    if !direct {
        first.extend(sort(scope, &op.ids, groups, sorted));
    }
    let product = |out, x, weight, per, source| Product {
        out,
        x,
        weight,
        groups: tiles(per),
        rows,
        source,
        add: None,
    };
    let shares = Some((shares, order, end));
    let middle = Swiglu { out: hidden, both, shares, clamp: op.clamp, round: op.round };
    let gate_up = product(&both, &x, &op.gate_up, per, source);
    first.extend(gate_up.record_then(scope, &middle.then(), || middle.record(scope)));
    let inverse = if direct { ids } else { sorted.inverse };
    let sum = Combine { out: Place::of(&op.out), y, inverse, per, in_place: direct };
    let down = product(&y, &hidden, &op.down, 1, 0);
    first.extend(down.record_then(scope, &sum.then(), || sum.record(scope)));
    first
}

/// The end of routed experts: a row's picks added up.
struct Combine {
    out: Place,
    y: Place,
    /// The row of y of each pick, or, if pick i is row i, whether it is there.
    inverse: Address,
    per: u32,
    in_place: bool,
}

impl Combine {
    fn args(&self) -> Args {
        let in_place = self.in_place.into();
        Args::new()
            .place(&self.out)
            .place(&self.y)
            .address(self.inverse)
            .int(self.per)
            .int(in_place)
    }

    fn record(&self, scope: &Scope<'_>) -> Vec<Launch> {
        let grid = [self.out.rows, self.out.width.div_ceil(256), 1];
        scope.launch("combine_rows", grid, 256, 0, self.args())
    }

    fn then(&self) -> Then {
        let (span, rows) = (self.out.width, self.out.rows);
        let (unit, args) = (span.min(16), self.args());
        Then { next: Next::Combine, span, unit, whole: Some(rows), shared_bytes: 0, args }
    }
}

/// What the shared expert keeps between launches.
struct Shared {
    x: Place,
    first: Vec<Launch>,
    both: Place,
    hidden: Place,
    bytes: u64,
}

impl Shared {
    fn new(op: &SwigluMlp, scope: &Scope<'_>) -> Shared {
        let (rows, hidden) = (op.x.rows(), op.gate_up.spec().rows / 2);
        let mut bytes = 0;
        let (x, first) = rounded(scope, &op.x, op.round, &mut bytes);
        let both = Place::scratch_of(x.kind, scope, &mut bytes, rows, 2 * hidden);
        let hidden = Place::scratch_of(x.kind, scope, &mut bytes, rows, hidden);
        Shared { x, first, both, hidden, bytes }
    }
}

pub(crate) fn shared_fits(op: &Op) -> bool {
    let Op::SwigluMlp(op) = op else { return false };
    mlp_fits(&op.x, &op.gate_up, &op.down, op.round) && op.add.dtype() == DType::F32
}

pub(crate) fn shared_workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    let Op::SwigluMlp(op) = op else { unreachable!("swiglu_mlp of {}", op.name()) };
    Shared::new(op, scope).bytes
}

pub(crate) fn shared(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::SwigluMlp(mlp) = op else { unreachable!("swiglu_mlp of {}", op.name()) };
    let mut launches = gates(mlp, scope);
    launches.extend(second_half(op, scope));
    launches
}

/// Everything before the second product.
fn gates(op: &SwigluMlp, scope: &Scope<'_>) -> Vec<Launch> {
    let Shared { x, mut first, both, hidden, .. } = Shared::new(op, scope);
    let middle = Swiglu { out: hidden, both, shares: None, clamp: op.clamp, round: op.round };
    let gate_up = gemm::of_rows(&both, &x, &op.gate_up, Groups::Cyclic);
    first.extend(gate_up.record_then(scope, &middle.then(), || middle.record(scope)));
    first
}

/// The same if it is one launch. The second half finds what it leaves if it is recorded with an equal scope.
pub(crate) fn first_half(op: &SwigluMlp, scope: &Scope<'_>) -> Option<Launch> {
    let mut launches = gates(op, scope);
    if launches.len() == 1 { launches.pop() } else { None }
}

/// The second product.
pub(crate) fn second_half(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::SwigluMlp(op) = op else { unreachable!("swiglu_mlp of {}", op.name()) };
    let (hidden, out) = (Shared::new(op, scope).hidden, Place::of(&op.out));
    let down = gemm::of_rows(&out, &hidden, &op.down, Groups::Cyclic);
    Product { add: Some(Place::of(&op.add)), ..down }.record(scope)
}

/// What both routers are.
struct Router<'a> {
    ids: &'a Tensor,
    shares: &'a Tensor,
    x: &'a Tensor,
    gate: &'a Weight,
    /// Bias and count.
    by_score: Option<(&'a Tensor, &'a Tensor)>,
    /// Table and token.
    by_table: Option<(&'a Tensor, &'a Tensor)>,
    scale: f32,
}

impl Router<'_> {
    fn of(op: &Op) -> Option<Router<'_>> {
        match op {
            Op::Route(Route { ids, shares, x, gate, bias, count, scale }) => {
                let by_score = Some((bias, count));
                Some(Router { ids, shares, x, gate, by_score, by_table: None, scale: *scale })
            }
            Op::RouteTable(RouteTable { ids, shares, x, gate, table, token, scale }) => {
                let by_table = Some((table, token));
                Some(Router { ids, shares, x, gate, by_score: None, by_table, scale: *scale })
            }
            _ => None,
        }
    }

    fn experts(&self) -> u32 {
        self.gate.spec().rows
    }

    fn shared_bytes(&self) -> u64 {
        4 * (2 * u64::from(self.experts()) + u64::from(self.ids.width()))
    }
}

pub(crate) fn route_fits(op: &Op) -> bool {
    Router::of(op).is_some_and(|op| {
        any_of(op.gate).is_some()
            && op.by_score.is_none_or(|(bias, _)| is_vector(bias))
            && op.shared_bytes() <= u64::from(SHARED_MAX) - 1024
    })
}

pub(crate) fn route_workspace_bytes(op: &Op, _: &Scope<'_>) -> u64 {
    let op = Router::of(op).expect("it fits");
    4 * u64::from(op.x.rows()) * u64::from(op.experts())
}

pub(crate) fn route(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let op = Router::of(op).expect("it fits");
    let raw = Place::scratch(scope, &mut 0, op.x.rows(), op.experts());
    let args = || {
        Args::new()
            .rows(op.ids)
            .rows(op.shares)
            .place(&raw)
            .rows_or_none(op.by_score.map(|(bias, _)| bias))
            .rows_or_none(op.by_score.map(|(_, count)| count))
            .rows_or_none(op.by_table.map(|(table, _)| table))
            .rows_or_none(op.by_table.map(|(_, token)| token))
            .float(op.scale)
            .int(0)
    };
    let (span, rows, shared_bytes) = (op.experts(), op.x.rows(), op.shared_bytes() as u32);
    let whole = Some(rows);
    let then = Then { next: Next::Route, span, unit: span, whole, shared_bytes, args: args() };
    let x = Place::of(op.x);
    gemm::of_rows(&raw, &x, op.gate, Groups::Cyclic).record_then(scope, &then, || {
        scope.launch("route_rows", [rows, 1, 1], 256, shared_bytes, args())
    })
}
