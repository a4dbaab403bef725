//! Joining launches of different ops: what follows a product into its last blocks (`then`), products that do not
//! depend on each other into one launch, two compressors into one, a round trip into the site that makes its rows.
//!
//! A program is a list; an op that is joined to an earlier one runs earlier than the list says, beside others. It may
//! if it shares no bytes, but those it is joined for, with any op it passes or runs beside, so that nobody can tell.
//! Scratch is bytes like any others here: where the arena gave two temporaries one place, they are not joined.
//! Refused: leaving out what an op writes. Somebody may read it.

use std::ops::Range;

use hal::op::{Convert, ConvertForm, Matmul};
use hal::{Access, Node, Op, RowCodec, Tensor};

use super::then::{COUNTERS, Then};
use super::{
    Args, Place, Scope, attend, compress, convert, finish, gemm, is_plain, is_real, moe, rows,
    stream,
};
use crate::driver::{Address, Launch};
use crate::memory::address_of;
use crate::table::Entry;

/// How far ahead an op that might be joined is looked for.
const AHEAD: usize = 24;

/// Rows that a site has already made a round trip of, beside its own.
#[derive(Clone, Copy)]
pub(crate) struct Rounded {
    pub(crate) x: Place,
    pub(crate) codec: RowCodec,
    pub(crate) at: Place,
}

/// Bytes that a tensor touches.
fn bytes_of(tensor: &Tensor) -> Range<Address> {
    let begin = address_of(tensor);
    let rows = u64::from(tensor.rows());
    let end = begin + rows.saturating_sub(1) * tensor.row_stride_bytes() + tensor.row_bytes();
    begin..if rows == 0 { begin } else { end }
}

fn overlap(a: &Range<Address>, b: &Range<Address>) -> bool {
    a.start < b.end && b.start < a.end
}

/// True if both are the same numbers, perhaps cut into other rows.
fn same(a: &Tensor, b: &Tensor) -> bool {
    let whole = |tensor: &Tensor| tensor.rows() == 1 || tensor.is_contiguous();
    let alike = (a.rows(), a.row_stride_bytes()) == (b.rows(), b.row_stride_bytes());
    bytes_of(a) == bytes_of(b)
        && (a.dtype(), a.codec()) == (b.dtype(), b.codec())
        && (alike || (whole(a) && whole(b)))
}

/// True if one of two ops writes what the other touches; `between` is what the second is joined to the first for.
fn collide(first: &Op, second: &Op, between: Option<&Tensor>) -> bool {
    let list = |op: &Op| {
        let mut all = Vec::new();
        op.operands(&mut |access, tensor| all.push((access != Access::Read, bytes_of(tensor))));
        all
    };
    let between = between.map(bytes_of);
    let (a, b) = (list(first), list(second));
    a.iter().any(|(writes, x)| {
        b.iter().any(|(too, y)| {
            let meant = *writes && !*too && between.as_ref() == Some(y);
            (*writes || *too) && overlap(x, y) && !meant
        })
    })
}

/// Places in front of a plan's workspace that joined launches need, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Room {
    /// Counters, if any op may be joined; and wherever there is a workspace at all, as plans share that and no other
    /// may write to them.
    pub(crate) counters: u64,
    /// What sites round ahead for the experts behind them, as much as the largest needs.
    pub(crate) rounded: u64,
    /// What a shared expert's first half leaves for its second.
    pub(crate) halves: u64,
}

impl Room {
    /// In front of a workspace of so many bytes.
    pub(crate) fn of(nodes: &[Node], scope: &Scope<'_>, workspace_bytes: u64) -> Room {
        let mut room = Room::default();
        if scope.joins && (workspace_bytes > 0 || nodes.iter().any(|node| may_count(&node.op))) {
            room.counters = 4 * u64::from(COUNTERS) * gemm::SEVERAL as u64;
        }
        for Node { op, .. } in nodes.iter().filter(|_| scope.joins) {
            if let Some(out) = stream::made_by(op) {
                let bytes = 4 * u64::from(out.rows()) * u64::from(out.width());
                room.rounded = room.rounded.max(bytes.next_multiple_of(256));
            }
            if let Op::SwigluMlp(mlp) = op
                && mlp.x.rows() <= gemm::FEW_ROWS
            {
                room.halves = room.halves.max(moe::shared_workspace_bytes(op, scope));
            }
        }
        room
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.counters + self.rounded + self.halves
    }
}

/// True for ops that may be joined: those with a weight, those that pick from pieces, and a compressor's.
fn may_count(op: &Op) -> bool {
    let mut may = matches!(op, Op::Compress(_) | Op::IndexSelect(_) | Op::TopK(_) | Op::Sample(_));
    op.weights(&mut |_| may = true);
    may
}

/// Resolves a program.
pub(crate) struct Joiner<'a> {
    nodes: &'a [Node],
    entries: &'a [&'static Entry],
    scope: Scope<'a>,
    /// Where what a site rounds for others lies, and where the half of a shared expert.
    rounded: Address,
    halves: Address,
    /// Ops that are part of an earlier launch.
    done: Vec<bool>,
    /// A shared expert whose first half is part of one, and how that was resolved.
    begun: Option<(usize, Scope<'a>)>,
}

impl<'a> Joiner<'a> {
    pub(crate) fn new(
        nodes: &'a [Node],
        entries: &'a [&'static Entry],
        scope: Scope<'a>,
        room: Room,
    ) -> Joiner<'a> {
        let rounded = scope.counters + room.counters;
        let done = vec![false; nodes.len()];
        let halves = rounded + room.rounded;
        Joiner { nodes, entries, scope, rounded, halves, done, begun: None }
    }

    /// The launches of an op, with those of others that are joined to it; ops come in order.
    pub(crate) fn record(&mut self, at: usize) -> Vec<Launch> {
        let op = &self.nodes[at].op;
        self.forget(op);
        if self.done[at] {
            return Vec::new();
        }
        let joined = match op {
            _ if !self.scope.joins => None,
            Op::Matmul(_) => self.products(at),
            Op::AttendProject(_) => self.projection(at),
            Op::Route(_) | Op::RouteTable(_) => self.router(at),
            Op::SwigluMlp(_) => self.second_half(at),
            Op::Compress(_) => self.compressors(at),
            _ => self.site(at),
        };
        joined.unwrap_or_else(|| (self.entries[at].record)(op, &self.scope))
    }

    /// Rows whose round trip lies ready are no longer those if an op writes over them.
    fn forget(&mut self, op: &Op) {
        let Some(rounded) = self.scope.rounded else { return };
        let end = rounded.x.address + u64::from(rounded.x.rows) * rounded.x.stride_bytes;
        if writes_to(op, &(rounded.x.address..end)) {
            self.scope.rounded = None;
        }
    }

    /// True if `op` may run beside those of `beside`, all of which run at the place of the first: past everything
    /// between that is not done yet.
    fn may_move(&self, op: usize, beside: &[usize], joined_to: Option<(usize, &Tensor)>) -> bool {
        let node = |at: usize| &self.nodes[at].op;
        let passed = (beside[0]..op).filter(|at| !self.done[*at] && !beside.contains(at));
        let met = beside.iter().copied().filter(|at| joined_to.is_none_or(|(to, _)| to != *at));
        passed.chain(met).all(|other| !collide(node(other), node(op), None))
            && joined_to.is_none_or(|(to, between)| !collide(node(to), node(op), Some(between)))
    }

    /// The op that a product may go on with.
    fn follower(&self, at: usize, product: &Matmul, beside: &[usize]) -> Option<(usize, Then)> {
        let end = self.nodes.len().min(at + AHEAD);
        let found = (at + 1..end).find_map(|next| {
            if self.done[next] || beside.contains(&next) {
                return None;
            }
            then_of(&self.nodes[next].op, &product.out).map(|then| (next, then))
        });
        found.filter(|(next, _)| self.may_move(*next, beside, Some((at, &product.out))))
    }

    /// A product, what follows it, and the products behind it that do not need it, with what follows them.
    fn products(&mut self, at: usize) -> Option<Vec<Launch>> {
        let (mut taken, mut parts) = (vec![at], Vec::new());
        let end = self.nodes.len().min(at + AHEAD);
        for next in at..end {
            let Op::Matmul(product) = &self.nodes[next].op else { continue };
            if self.done[next] || parts.len() == gemm::SEVERAL {
                continue;
            }
            if next > at {
                if !self.may_move(next, &taken, None) {
                    continue;
                }
                taken.push(next);
            }
            let scope = gemm::counting_apart(&self.scope, parts.len());
            let follower = self.follower(next, product, &taken);
            let joined = follower.and_then(|(op, then)| {
                gemm::with_then(&scope, product, Some(&then)).map(|launch| (Some(op), launch))
            });
            let alone = || gemm::with_then(&scope, product, None).map(|launch| (None, launch));
            match joined.or_else(alone) {
                Some((follower, launch))
                    if next == at || gemm::may_be_beside(&scope, &launch, &parts[0]) =>
                {
                    taken.extend(follower);
                    parts.push(launch);
                }
                _ if next == at => return None,
                _ => {
                    taken.pop();
                }
            }
            if !gemm::may_be_beside(&self.scope, &parts[0], &parts[0]) {
                break;
            }
        }
        taken.iter().for_each(|&op| self.done[op] = true);
        Some(vec![gemm::several(&self.scope, parts)])
    }

    /// attend_project, which may end with the scatter behind it.
    fn projection(&mut self, at: usize) -> Option<Vec<Launch>> {
        let next = self.nodes.get(at + 1)?;
        let Op::Scatter(scatter) = &next.op else { return None };
        // It runs behind everything attention reads, beside the last product.
        let mut meets = false;
        next.op.operands(&mut |_, tensor| {
            meets |= writes_to(&self.nodes[at].op, &bytes_of(tensor));
        });
        if meets || !rows::scatter_rows_fits(&next.op) {
            return None;
        }
        let launches = attend::project_and(&self.nodes[at].op, &self.scope, scatter)?;
        self.done[at + 1] = true;
        Some(launches)
    }

    /// A router and, beside its product, the first half of the shared expert behind it.
    fn router(&mut self, at: usize) -> Option<Vec<Launch>> {
        let of = |at: usize| self.nodes.get(at).map(|node| &node.op);
        let (behind, mlp) = (at + 1..at + 3).find_map(|behind| match of(behind) {
            Some(Op::SwigluMlp(mlp)) => Some((behind, mlp)),
            _ => None,
        })?;
        let passed = &self.nodes[at..behind];
        if passed.iter().any(|node| writes_to(&node.op, &bytes_of(&mlp.x))) {
            return None;
        }
        let apart = gemm::counting_apart(&self.scope, 1);
        let scope = Scope { workspace: self.halves, ..apart };
        let beside = moe::first_half(mlp, &scope)?;
        let mut launches = moe::route(&self.nodes[at].op, &self.scope);
        let first = &launches[0];
        if ![first, &beside].iter().all(|launch| gemm::may_be_beside(&scope, launch, first)) {
            return None;
        }
        launches[0] = gemm::several(&scope, vec![launches[0].clone(), beside]);
        self.begun = Some((behind, scope));
        Some(launches)
    }

    fn second_half(&mut self, at: usize) -> Option<Vec<Launch>> {
        let (_, scope) = self.begun.take_if(|(begun, _)| *begun == at)?;
        Some(moe::second_half(&self.nodes[at].op, &scope))
    }

    /// A compressor, and beside it the next one if that does not need it.
    fn compressors(&mut self, at: usize) -> Option<Vec<Launch>> {
        let end = self.nodes.len().min(at + AHEAD);
        let is_next = |next: &usize| matches!(self.nodes[*next].op, Op::Compress(_));
        let next = (at + 1..end).filter(|next| !self.done[*next]).find(is_next)?;
        if !self.may_move(next, &[at], None) {
            return None;
        }
        let apart = gemm::counting_apart(&self.scope, 1);
        let mut first = compress::record(&self.nodes[at].op, &self.scope);
        let mut second = compress::record(&self.nodes[next].op, &apart);
        if (first.len(), second.len()) != (1, 1) {
            return None;
        }
        self.done[next] = true;
        Some(vec![compress::two(&self.scope, [first.remove(0), second.remove(0)])])
    }

    /// A site whose rows somebody makes a round trip of next.
    fn site(&mut self, at: usize) -> Option<Vec<Launch>> {
        let op = &self.nodes[at].op;
        let out = stream::made_by(op)?;
        let rounded = match self.nodes.get(at + 1).map(|node| &node.op) {
            Some(Op::Convert(next)) => {
                let codec = round_of(next, out)?;
                let target = bytes_of(&next.out);
                if stream::touched_at_the_end(op).any(|tensor| overlap(&target, &bytes_of(tensor)))
                {
                    return None;
                }
                self.done[at + 1] = true;
                (Place::of(&next.out), codec)
            }
            _ => {
                let behind = self.nodes.iter().skip(at + 1).take(3);
                let codec = behind.filter_map(|node| wanted_by(&node.op, out)).next()?;
                let x = Place::of(out);
                let at = Place::packed(self.rounded, &x);
                self.scope.rounded = Some(Rounded { x, codec, at });
                (at, codec)
            }
        };
        Some(stream::site_and(op, &self.scope, rounded))
    }
}

/// True if an op writes any of these bytes.
fn writes_to(op: &Op, bytes: &Range<Address>) -> bool {
    let mut any = false;
    op.operands(&mut |access, tensor| {
        any |= access != Access::Read && overlap(&bytes_of(tensor), bytes);
    });
    any
}

/// The codec of a round trip of these rows into plain ones of their kind.
fn round_of(op: &Convert, x: &Tensor) -> Option<RowCodec> {
    let ConvertForm::RoundTrip(codec) = op.form else { return None };
    let plain = is_real(x) && is_plain(&op.out) && op.x.dims() == x.dims() && same(&op.x, x);
    (plain && convert::rows_fits(&op.clone().into())).then_some(codec)
}

/// The codec in which experts want these rows.
fn wanted_by(op: &Op, x: &Tensor) -> Option<RowCodec> {
    let (wanted, round) = match op {
        Op::MoeExperts(op) => (&op.x, op.round),
        Op::SwigluMlp(op) => (&op.x, op.round),
        _ => return None,
    };
    round.filter(|_| is_real(x) && wanted.dims() == x.dims() && same(wanted, x))
}

/// What a product of these outputs goes on with to do an op, if it is about them.
fn then_of(op: &Op, out: &Tensor) -> Option<Then> {
    match op {
        Op::NormQuant(_) | Op::QkFinish(_) => finish::then(op).filter(|(_, x)| same(x, out)),
        Op::Rope(_) => rows::rope_then(op).filter(|(_, x)| same(x, out)),
        Op::Convert(next) => {
            let codec = round_of(next, out)?;
            let (to, from) = (Place::of(&next.out), Place::of(&next.x));
            Some((super::then::convert(&to, &from, codec), &next.x))
        }
        _ => None,
    }
    .map(|(then, _)| Then { span: out.width(), ..then })
    .filter(|then| out.width().is_multiple_of(then.unit.max(1)))
}

/// The argument of what follows a projection.
pub(crate) fn scatter(op: &hal::op::Scatter, outputs: u32) -> Then {
    let (args, _): (Args, u32) = rows::scatter_args(&op.target, &op.source, &op.index);
    Then {
        next: super::then::Next::Scatter,
        span: outputs,
        unit: outputs,
        whole: Some(op.source.rows()),
        shared_bytes: 0,
        args,
    }
}
