//! Collectives between CPU devices of one process.

use std::sync::Arc;

use hal::op::{AllGather, AllReduce, AllToAll, Communicator, ReduceScatter};
use hal::{Op, Tensor};
use kernels::collective::Kind;

use super::{Record, Scope, real, real_mut};
use crate::ranks::ThreadRank;

/// The parts of any collective.
fn parts(op: &Op) -> Option<(Kind, &Tensor, &Tensor, &dyn Communicator)> {
    let (kind, out, x, communicator) = match op {
        Op::AllReduce(AllReduce { out, x, communicator }) => {
            (Kind::AllReduce, out, x, communicator)
        }
        Op::AllGather(AllGather { out, x, communicator }) => {
            (Kind::AllGather, out, x, communicator)
        }
        Op::ReduceScatter(ReduceScatter { out, x, communicator }) => {
            (Kind::ReduceScatter, out, x, communicator)
        }
        Op::AllToAll(AllToAll { out, x, communicator }) => (Kind::AllToAll, out, x, communicator),
        _ => return None,
    };
    Some((kind, out, x, &**communicator))
}

/// Communicators of other makers are not ours to serve.
pub(crate) fn fits(op: &Op) -> bool {
    parts(op).is_some_and(|(.., communicator)| ThreadRank::of(communicator).is_some())
}

pub(crate) fn record(op: &Op, scope: &Scope) -> Record {
    let (kind, out, x, communicator) = parts(op).expect("a collective");
    let ours = ThreadRank::of(communicator).expect("the op fits");
    let (group, rank) = (Arc::clone(&ours.group), ours.rank);
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let (out, x) = (real_mut(out), real(x));
    Box::new(move || group.run(kind, rank, isa, &pool, x, out))
}
