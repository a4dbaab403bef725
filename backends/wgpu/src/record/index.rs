//! index_score and top_k.

use hal::Op;
use hal::op::{IndexScore, Order, TopK};

use super::is_row;
use crate::launch::Launch;

/// Picks that are ordered by value in workgroup memory.
const PICKS_MAX: u32 = 1024;
/// Heads a key is decoded for at a time.
const HEADS: u32 = 8;

pub(crate) fn score_fits(op: &Op) -> bool {
    matches!(op, Op::IndexScore(op) if is_row(&op.keys.cache))
}

pub(crate) fn score(op: &Op) -> Vec<Launch> {
    let Op::IndexScore(IndexScore { out, q, weight, keys, scale }) = op else {
        unreachable!("index_score of {}", op.name());
    };
    let launch = Launch::new("index", "index_score")
        .constant("HEADS", HEADS.min(q.dims()[1]))
        .write("out", out)
        .read("q", q)
        .read("weight", weight)
        .read("keys", &keys.cache)
        .wide("keys")
        .read("reach", &keys.reach)
        .read("pages", &keys.pages)
        .number("heads", q.dims()[1])
        .number("width", q.dims()[2])
        .number("per", keys.per)
        .real("scale", *scale);
    vec![launch.threads(u64::from(out.rows()) * u64::from(out.width()))]
}

/// Picks of a narrow row, kept in registers, and columns looked at for all of them together.
const NARROW_PICKS: u32 = 16;
const NARROW_LOOKS: u32 = 1024;

pub(crate) fn narrow_top_k_fits(op: &Op) -> bool {
    let Op::TopK(TopK { out, x, .. }) = op else { return false };
    out.width() <= NARROW_PICKS && out.width() * x.width().min(NARROW_LOOKS + 1) <= NARROW_LOOKS
}

pub(crate) fn narrow_top_k(op: &Op) -> Vec<Launch> {
    let launch = picking("narrow_top_k", op).constant("PICKS", NARROW_PICKS);
    let Op::TopK(op) = op else { unreachable!("picking looked at the op") };
    vec![launch.threads(u64::from(op.x.rows()))]
}

/// What both ways have in common.
fn picking(kernel: &'static str, op: &Op) -> Launch {
    let Op::TopK(TopK { out, x, count, order }) = op else {
        unreachable!("{kernel} of {}", op.name());
    };
    Launch::new("index", kernel)
        .flag("BY_VALUE", *order == Order::Value)
        .write("out", out)
        .read("x", x)
        .optional("COUNT", "count", count.as_ref())
        .number("width", x.width())
}

pub(crate) fn top_k_fits(op: &Op) -> bool {
    matches!(op, Op::TopK(op) if op.order == Order::Index || op.out.width() <= PICKS_MAX)
}

pub(crate) fn top_k(op: &Op) -> Vec<Launch> {
    let launch = picking("top_k", op).constant("PICKS", PICKS_MAX);
    let Op::TopK(op) = op else { unreachable!("picking looked at the op") };
    vec![launch.blocks(u64::from(op.x.rows()))]
}
