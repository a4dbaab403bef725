//! norm_quant and qk_finish: one kernel.

use hal::op::{NormQuant, QkFinish};
use hal::{Op, RowCodec, Tensor};

use super::then::{Next, Then};
use super::{Args, SHARED_MAX, Scope, is_rounded, is_vector, kind_of_real, row_sum_shape};
use crate::driver::Launch;
use crate::memory::address_of;

/// What both ops are.
struct Finish<'a> {
    out: &'a Tensor,
    x: &'a Tensor,
    gain: Option<&'a Tensor>,
    /// Rows of angles, and rows of x per row of them.
    angle: Option<(&'a Tensor, u32)>,
    epsilon: f32,
    round: Option<RowCodec>,
}

impl Finish<'_> {
    fn of(op: &Op) -> Option<Finish<'_>> {
        match op {
            Op::NormQuant(NormQuant { out, x, gain, epsilon, round }) => Some(Finish {
                out,
                x,
                gain: gain.as_ref(),
                angle: None,
                epsilon: *epsilon,
                round: Some(*round),
            }),
            Op::QkFinish(QkFinish { out, x, gain, angle, heads, epsilon, round }) => Some(Finish {
                out,
                x,
                gain: gain.as_ref(),
                angle: Some((angle, *heads)),
                epsilon: *epsilon,
                round: *round,
            }),
            _ => None,
        }
    }

    fn shared_bytes(&self) -> u64 {
        u64::from(row_sum_shape(self.x.width()).1) + 4 * u64::from(self.x.width())
    }
}

pub(crate) fn fits(op: &Op) -> bool {
    Finish::of(op).is_some_and(|op| {
        op.gain.is_none_or(is_vector)
            && is_rounded(op.out, op.round)
            && op.shared_bytes() <= u64::from(SHARED_MAX) - 1024
    })
}

fn args(finish: &Finish<'_>) -> Args {
    Args::new()
        .rows(finish.out)
        .rows(finish.x)
        .rows_or_none(finish.angle.map(|(angle, _)| angle))
        .address(finish.gain.map_or(0, address_of))
        .float(finish.epsilon)
        .int(finish.angle.map_or(1, |(_, heads)| heads))
        .int(kind_of_real(finish.out.dtype()))
        .round(finish.round)
        .int(0)
}

pub(crate) fn record(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let finish = Finish::of(op).expect("it fits");
    let (threads, _) = row_sum_shape(finish.x.width());
    let shared = finish.shared_bytes() as u32;
    scope.launch("finish_rows", [finish.x.rows(), 1, 1], threads, shared, args(&finish))
}

/// The same behind a product that makes x, which is returned: each part of the outputs is a row.
pub(crate) fn then(op: &Op) -> Option<(Then, &Tensor)> {
    let finish = Finish::of(op).filter(|_| fits(op))?;
    let (unit, shared_bytes) = (finish.x.width(), finish.shared_bytes() as u32);
    let args = args(&finish);
    let then = Then { next: Next::Finish, span: unit, unit, whole: None, shared_bytes, args };
    Some((then, finish.x))
}
