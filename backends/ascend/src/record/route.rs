//! The router by score, where the vendor's gating operator has its score function (`normType` 2, the 950).
//!
//! Taken from the operator: the scores, and which experts are largest. Not taken: its shares. The vendor's
//! page divides them by the sum over all experts in one mode and over the chosen ones in the other, and
//! one of the two must be a slip. Order among equal scores is the operator's; no page states it.

use hal::op::{Order, Route, RowGroups};
use hal::{DType, Op, Result, RowCodec};

use super::{matmul, rows, select};
use crate::runtime::{Runtime, Soc};
use crate::sys::operators::Operator;
use crate::tape::{Arg, Tape};
use crate::view::{Element, View};

/// Most experts the operator takes; a group's experts count in multiples of 32.
const EXPERTS_MAX: u32 = 2048;
/// `normType`: the root of softplus.
const SQRT_SOFTPLUS: i64 = 2;
/// Guard of a quotient that is not used.
const EPSILON: f64 = 1e-20;

/// True where the gating operator does the choosing.
pub(crate) fn fits(op: &Op, runtime: &Runtime) -> bool {
    let Op::Route(Route { ids, shares, gate, bias, .. }) = op else { return false };
    let plain = [ids, shares, bias].into_iter().all(|tensor| tensor.codec() == RowCodec::Plain);
    runtime.soc == Soc::A5
        && runtime.has(Operator::MoeGatingTopKV2)
        && plain
        && bias.dtype() == DType::F32
        && gate.spec().rows.next_multiple_of(32) <= EXPERTS_MAX
}

pub(crate) fn route(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Route(op) = op else { unreachable!("the table looked") };
    let (n, experts) = (i64::from(op.x.rows()), i64::from(op.gate.spec().rows));
    let k = i64::from(op.ids.width());
    let raw = tape.temp(Element::F32, &[n, experts]);
    matmul::product_with(tape, (&op.x, &op.gate), &RowGroups::Cyclic, &raw)?;
    let count = View::rows_of(&op.count, tape.place(&op.count)?, Element::I32);
    let scores = tape.temp(Element::F32, &[n, experts]);
    let picked = tape.temp(Element::I32, &[n, k]);
    choose(tape, op, &raw, (&scores, &picked))?;
    // Rows of padding choose nothing.
    let number = tape.count_up(k)?;
    let valid = tape.less(&number, &count);
    let ids = select::ascending(tape, &picked, &valid)?;
    let absent = tape.scalar(Operator::LtScalar, &ids, 0.0);
    let safe = tape.clamp(&ids, 0.0, experts as f64 - 1.0);
    let chosen = tape.temp(Element::F32, &[n, k]);
    let args = [&scores, &safe, &chosen].map(|view| Arg::View(view.clone()));
    let [scores, safe, out] = args;
    tape.push(Operator::Gather, vec![scores, Arg::I64(1), safe, out]);
    let zero = tape.constant(Element::F32, 0.0)?;
    let chosen = tape.choose(&absent, &zero, &chosen);
    let total = tape.sum(&chosen, 1).unsqueeze(1);
    let shares = rows::share(tape, &chosen, &total, f64::from(op.scale));
    let target = View::rows_of(&op.ids, tape.place(&op.ids)?, Element::I32);
    tape.store(&ids, &target);
    let target = View::rows_of(&op.shares, tape.place(&op.shares)?, Element::F32);
    tape.store(&shares, &target);
    Ok(())
}

/// Scores of all experts and the k largest of score plus bias, in no order that matters.
fn choose(tape: &mut Tape, op: &Route, raw: &View, (scores, picked): (&View, &View)) -> Result<()> {
    let bias = tape.vector(&op.bias)?;
    let unused = tape.temp(Element::F32, &picked.dims);
    let view = |view: &View| Arg::View(view.clone());
    let mut args = vec![view(raw), view(&bias), Arg::NoView, Arg::NoView];
    // One group of all experts.
    args.extend([picked.dim(1), 1, 1, 0, 0, SQRT_SOFTPLUS].map(Arg::I64));
    args.extend([Arg::Bool(true), Arg::F64(f64::from(op.scale)), Arg::F64(EPSILON)]);
    args.extend([view(&unused), view(picked), view(scores)]);
    tape.prefer(Operator::MoeGatingTopKV2, args, |tape| {
        let composed = rows::sqrt_softplus(tape, raw);
        tape.store(&composed, scores);
        let keys = tape.add(&composed, &bias);
        let experts = select::largest(tape, &keys, picked.dim(1), None, Order::Value)?;
        tape.store(&experts, picked);
        Ok(())
    })
}
