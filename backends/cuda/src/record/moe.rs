//! bucket, route, route_table, moe_experts, swiglu_mlp.

use hal::op::{MoeExperts, Route, RouteTable, RowGroups, SwigluMlp};
use hal::{DType, Op, RowCodec, Tensor, Weight};

use super::gemm::{Groups, Product};
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
    fn record(&self, scope: &Scope<'_>) -> Vec<Launch> {
        let (shares, order, end) = self.shares.unwrap_or_default();
        let args = Args::new()
            .place(&self.out)
            .place(&self.both)
            .address(shares)
            .address(order)
            .address(end)
            .float(self.clamp)
            .int(self.out.kind)
            .round(self.round);
        scope.launch("swiglu_rows", [self.out.rows, 1, 1], 256, 4 * self.out.width, args)
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

pub(crate) fn experts(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::MoeExperts(op) = op else { unreachable!("moe_experts of {}", op.name()) };
    let Experts { x, mut first, both, hidden, y, sorted, .. } = Experts::new(op, scope);
    let groups = op.gate_up.spec().groups;
    let tiles = Groups::Listed {
        offsets: sorted.offsets,
        items: sorted.items,
        count: sorted.items_count,
        tile: sorted.tile,
    };
    let rows = both.rows;
    first.extend(sort(scope, &op.ids, groups, sorted));
    let product = |out: &Place, x: &Place, weight: &Weight, source| {
        Product { out, x, weight, groups: tiles, rows, source, add: None }.record(scope)
    };
    first.extend(product(&both, &x, &op.gate_up, sorted.source));
    let end = sorted.offsets + 4 * u64::from(groups);
    let shares = Some((address_of(&op.shares), sorted.order, end));
    let middle = Swiglu { out: hidden, both, shares, clamp: op.clamp, round: op.round };
    first.extend(middle.record(scope));
    first.extend(product(&y, &hidden, &op.down, 0));
    let args =
        Args::new().rows(&op.out).place(&y).address(sorted.inverse).int(op.ids.width()).int(0);
    let grid = [op.out.rows(), op.out.width().div_ceil(256), 1];
    first.extend(scope.launch("combine_rows", grid, 256, 0, args));
    first
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
    let Op::SwigluMlp(op) = op else { unreachable!("swiglu_mlp of {}", op.name()) };
    let Shared { x, mut first, both, hidden, .. } = Shared::new(op, scope);
    first.extend(gemm::product(scope, &both, &x, &op.gate_up, &RowGroups::Cyclic));
    let middle = Swiglu { out: hidden, both, shares: None, clamp: op.clamp, round: op.round };
    first.extend(middle.record(scope));
    let down = Product {
        out: &Place::of(&op.out),
        x: &hidden,
        weight: &op.down,
        groups: Groups::Cyclic,
        rows: hidden.rows,
        source: 0,
        add: Some(Place::of(&op.add)),
    };
    first.extend(down.record(scope));
    first
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
    let mut launches = gemm::product(scope, &raw, &Place::of(op.x), op.gate, &RowGroups::Cyclic);
    let args = Args::new()
        .rows(op.ids)
        .rows(op.shares)
        .place(&raw)
        .rows_or_none(op.by_score.map(|(bias, _)| bias))
        .rows_or_none(op.by_score.map(|(_, count)| count))
        .rows_or_none(op.by_table.map(|(table, _)| table))
        .rows_or_none(op.by_table.map(|(_, token)| token))
        .float(op.scale)
        .int(0);
    let shared = op.shared_bytes() as u32;
    launches.extend(scope.launch("route_rows", [op.x.rows(), 1, 1], 256, shared, args));
    launches
}
