//! hc_mix.

use hal::Op;
use hal::op::HcMix;

use super::is_vector;
use crate::launch::Launch;

/// Streams whose mixer fits an invocation's registers.
const STREAMS_MAX: u32 = 8;

pub(crate) fn fits(op: &Op) -> bool {
    matches!(op, Op::HcMix(op)
        if op.streams <= STREAMS_MAX && is_vector(&op.base) && is_vector(&op.scale))
}

pub(crate) fn record(op: &Op) -> Vec<Launch> {
    let Op::HcMix(op) = op else { unreachable!("hc_mix of {}", op.name()) };
    let HcMix { out, u, mean_square, base, scale, streams, rounds, epsilon, norm_epsilon } = op;
    let launch = Launch::new("stream", "hc_mix")
        .flag("FULL", u.width() > *streams)
        .constant("STREAMS", *streams)
        .write("out", out)
        .read("u", u)
        .read("mean_square", mean_square)
        .flat("base", base)
        .flat("scale", scale)
        .number("rounds", *rounds)
        .real("epsilon", *epsilon)
        .real("norm_epsilon", *norm_epsilon);
    vec![launch.threads(u64::from(u.rows()))]
}
