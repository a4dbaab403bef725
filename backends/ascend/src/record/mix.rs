//! Gates and mixer of a hyper-connection site.

use hal::op::HcMix;
use hal::{Op, Result};

use super::matrix;
use crate::sys::operators::Operator;
use crate::tape::{Arg, Tape};
use crate::view::{Element, View};

pub(crate) fn hc_mix(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::HcMix(op) = op else { unreachable!("the table looked") };
    let u = matrix(tape, &op.u)?;
    let mean_square = View::rows_of(&op.mean_square, tape.place(&op.mean_square)?, Element::F32);
    let (n, width, s) = (u.dim(0), u.dim(1), i64::from(op.streams));
    let size = tape.adds(&mean_square, f64::from(op.norm_epsilon));
    let size = tape.unary(Operator::Sqrt, &size);
    let v = tape.div(&u, &size);
    let base = tape.vector(&op.base)?;
    let scale = tape.vector(&op.scale)?;
    let out = View::rows_of(&op.out, tape.place(&op.out)?, Element::F32);
    let part = |tape: &mut Tape, number: i64, first: i64, count: i64| {
        let scaled = tape.mul(&v.slice(1, first, count), &scale.slice(0, number, 1));
        tape.add(&scaled, &base.slice(0, first, count))
    };
    let pre = part(tape, 0, 0, s);
    let pre = tape.unary(Operator::Sigmoid, &pre);
    let pre = tape.adds(&pre, f64::from(op.epsilon));
    tape.store(&pre, &out.slice(1, 0, s));
    if width == s {
        return Ok(());
    }
    let comb = part(tape, 2, 2 * s, s * s).reshape(&[n, s, s]);
    let comb = sinkhorn(tape, comb, op);
    tape.store(&comb.reshape(&[n, s * s]), &out.slice(1, s, s * s));
    let post = part(tape, 1, s, s);
    let post = tape.unary(Operator::Sigmoid, &post);
    let post = tape.muls(&post, 2.0);
    tape.store(&post, &out.slice(1, s + s * s, s));
    Ok(())
}

/// Softmax over rows, columns by their sums, then rows and columns in turn.
fn sinkhorn(tape: &mut Tape, comb: View, op: &HcMix) -> View {
    let epsilon = f64::from(op.epsilon);
    let shares = tape.temp(Element::F32, &comb.dims);
    let args = vec![Arg::View(comb), Arg::I64(2), Arg::View(shares.clone())];
    tape.push(Operator::Softmax, args);
    let mut comb = tape.adds(&shares, epsilon);
    comb = divided(tape, &comb, 1, epsilon);
    for _ in 1..op.rounds {
        comb = divided(tape, &comb, 2, epsilon);
        comb = divided(tape, &comb, 1, epsilon);
    }
    comb
}

/// `[n, s, s]` by its sums over dimension `at`.
fn divided(tape: &mut Tape, comb: &View, at: usize, epsilon: f64) -> View {
    let sums = tape.sum(comb, at).unsqueeze(at);
    let sums = tape.adds(&sums, epsilon);
    tape.div(comb, &sums)
}
