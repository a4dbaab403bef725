//! Gates and mixer of a hyper-connection site, and the sums over its streams: where one ends, by the
//! vendor's fused operator.

use hal::op::{HcMix, Reduce};
use hal::{DType, Op, Result, RowCodec, Tensor};

use super::{matrix, put, values};
use crate::runtime::Runtime;
use crate::sys::operators::Operator;
use crate::tape::{Arg, Tape};
use crate::view::{Element, View};

/// Streams the fused operator takes.
const STREAMS: u32 = 4;
/// Widths it takes are multiples of this.
const POST_WIDTH: u32 = 128;

/// `out[k] = Σ_j y[j, k] · x[j]`: x `[n, j, d]`, y f32 `[n, j, k]`.
pub(crate) fn mixed(tape: &mut Tape, op: &Reduce, y: &Tensor) -> Result<()> {
    if is_post(op, y, &tape.runtime) {
        return post(tape, op, y);
    }
    compose(tape, op, y)
}

fn compose(tape: &mut Tape, op: &Reduce, y: &Tensor) -> Result<()> {
    let x = values(tape, &op.x)?;
    let x = if x.dims.len() == 2 { x.unsqueeze(2) } else { x };
    let y = values(tape, y)?;
    let y = if y.dims.len() == 2 { y.unsqueeze(2) } else { y };
    let out = tape.product(&y.swap(1, 2), &x);
    put(tape, &out, &op.out)
}

/// True for the end of a site as `aclnnMhcPost` documents it: four streams and the block's output
/// behind them, all of one half type, the mixer f32.
fn is_post(op: &Reduce, y: &Tensor, runtime: &Runtime) -> bool {
    let half = [DType::Bf16, DType::F16].contains(&op.x.dtype());
    let plain = [&op.x, y, &op.out].into_iter().all(|tensor| tensor.codec() == RowCodec::Plain);
    let shaped = match (op.x.dims(), y.dims()) {
        ([_, slots, width], [_, rows, columns]) => {
            (*slots, *rows, *columns) == (STREAMS + 1, STREAMS + 1, STREAMS)
                && width.is_multiple_of(POST_WIDTH)
        }
        _ => false,
    };
    runtime.has(Operator::MhcPost)
        && half
        && plain
        && shaped
        && op.out.dtype() == op.x.dtype()
        && y.dtype() == DType::F32
}

fn post(tape: &mut Tape, op: &Reduce, y: &Tensor) -> Result<()> {
    let (x, mixer) = (tape.view(&op.x)?, tape.view(y)?);
    let s = i64::from(STREAMS);
    let out = View::rows_of(&op.out, tape.place(&op.out)?, Element::of(op.out.dtype()));
    let operands = [
        x.slice(1, 0, s),
        mixer.slice(1, 0, s),
        x.at(1, s),
        mixer.at(1, s),
        // Rows of streams · width numbers, as streams.
        out.split(1, x.dim(2)),
    ];
    let args = operands.map(Arg::View).to_vec();
    tape.prefer(Operator::MhcPost, args, |tape| compose(tape, op, y))
}

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
