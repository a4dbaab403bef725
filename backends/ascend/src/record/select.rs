//! The largest columns and the bucket sort, by stable sorts. Indices below 2^24 are sorted as f32, exactly.
//!
//! A NaN counts as -∞ here, so it may come before a true -∞ of a higher column.

use hal::op::Order;
use hal::{Op, Result};

use super::{list, matrix};
use crate::sys::operators::Operator;
use crate::tape::Tape;
use crate::view::{Element, View};

/// Sorts behind every index.
const BEHIND: f64 = 16_777_216.0;

pub(crate) fn top_k(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::TopK(op) = op else { unreachable!("the table looked") };
    let x = matrix(tape, &op.x)?;
    let (width, k) = (x.dim(1), i64::from(op.out.width()));
    let picks = k.min(width);
    let count = match &op.count {
        Some(count) => Some(View::rows_of(count, tape.place(count)?, Element::I32)),
        None => None,
    };
    let picked = largest(tape, &x, picks, count, op.order)?;
    let out = View::rows_of(&op.out, tape.place(&op.out)?, Element::I32);
    tape.store(&picked, &out.slice(1, 0, picks));
    if k > picks {
        tape.fill(&out.slice(1, picks, k - picks), -1.0);
    }
    Ok(())
}

/// Columns of the `picks` largest of the first `count` values of each row (f32 `[n, width]`), i32
/// `[n, picks]`, -1 where there are fewer.
pub(crate) fn largest(
    tape: &mut Tape,
    x: &View,
    picks: i64,
    count: Option<View>,
    order: Order,
) -> Result<View> {
    let width = x.dim(1);
    // -0 becomes 0, a NaN the lowest.
    let x = tape.adds(x, 0.0);
    let lowest = tape.constant(Element::F32, f64::NEG_INFINITY)?;
    let nan = tape.differ(&x, &x);
    let mut x = tape.choose(&nan, &lowest, &x);
    let count = match count {
        Some(count) => {
            let column = tape.count_up(width)?;
            let counts = tape.less(&column, &count);
            x = tape.choose(&counts, &x, &lowest);
            count
        }
        None => tape.constant(Element::I32, width as f64)?,
    };
    // Equal values keep the order of columns, so columns that do not count come last.
    let (_, places) = tape.sort(&x, true);
    let picked = tape.cast(&places.slice(1, 0, picks), Element::I32);
    let number = tape.count_up(picks)?;
    let valid = tape.less(&number, &count);
    match order {
        Order::Value => {
            let absent = tape.constant(Element::I32, -1.0)?;
            Ok(tape.choose(&valid, &picked, &absent))
        }
        Order::Index => ascending(tape, &picked, &valid),
    }
}

/// Picks of each row by ascending column, -1 behind them for those that are not valid.
pub(crate) fn ascending(tape: &mut Tape, picked: &View, valid: &View) -> Result<View> {
    let absent = tape.constant(Element::I32, -1.0)?;
    let behind = tape.constant(Element::F32, BEHIND)?;
    let keys = tape.cast(picked, Element::F32);
    let keys = tape.choose(valid, &keys, &behind);
    let (keys, _) = tape.sort(&keys, false);
    let late = tape.scalar(Operator::GeScalar, &keys, BEHIND);
    let picked = tape.cast(&keys, Element::I32);
    Ok(tape.choose(&late, &absent, &picked))
}

pub(crate) fn bucket(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Bucket(op) = op else { unreachable!("the table looked") };
    let keys = list(tape, &op.keys)?;
    let count = keys.dim(0);
    let groups = op.offsets.shape().elements() as i64 - 1;
    // Dropped keys sort behind every group.
    let dropped = tape.scalar(Operator::LtScalar, &keys, 0.0);
    let behind = tape.constant(Element::F32, groups as f64)?;
    let key = tape.cast(&keys, Element::F32);
    let key = tape.choose(&dropped, &behind, &key);
    let (_, order) = tape.sort(&key, false);
    // offsets[g] = how many keys are below g
    let group = tape.count_up(groups + 1)?;
    let group = tape.cast(&group, Element::F32);
    let below = tape.less(&key.unsqueeze(1), &group);
    let below = tape.cast(&below, Element::F32);
    let offsets = tape.sum(&below, 0);
    let offsets = tape.cast(&offsets, Element::I32);
    let absent = tape.constant(Element::I32, -1.0)?;
    // The inverse of a permutation sorts it.
    let places = tape.cast(&order, Element::I32);
    let numbers = tape.cast(&places, Element::F32);
    let (_, inverse) = tape.sort(&numbers, false);
    let inverse = tape.cast(&inverse, Element::I32);
    let inverse = tape.choose(&dropped, &absent, &inverse);
    let number = tape.count_up(count)?;
    let taken = tape.less(&number, &offsets.slice(0, groups, 1));
    let order = tape.choose(&taken, &places, &absent);
    for (x, out) in [(offsets, &op.offsets), (order, &op.order), (inverse, &op.inverse)] {
        let target = tape.view(out)?;
        tape.store(&x, &target.reshape(&x.dims));
    }
    Ok(())
}
