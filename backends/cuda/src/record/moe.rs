//! bucket, route, route_table.

use hal::op::{Route, RouteTable, RowGroups};
use hal::{Op, Tensor, Weight};

use super::{Args, Place, SHARED_MAX, Scope, gemm, is_vector};
use crate::driver::Launch;
use crate::memory::address_of;
use crate::weight::any_of;

pub(crate) fn bucket_fits(op: &Op) -> bool {
    matches!(op, Op::Bucket(_))
}

pub(crate) fn bucket(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Bucket(op) = op else { unreachable!("bucket of {}", op.name()) };
    let args = Args::new()
        .address(address_of(&op.offsets))
        .address(address_of(&op.order))
        .address(address_of(&op.inverse))
        .address(address_of(&op.keys))
        .int(op.offsets.shape().elements() as u32 - 1)
        .int(op.keys.shape().elements() as u32);
    scope.launch("bucket", [1, 1, 1], 256, 0, args)
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
