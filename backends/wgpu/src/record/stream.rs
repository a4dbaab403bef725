//! hc_mix, hc_pre, hc_turn.

use hal::op::{HcMix, HcPre, HcSite, HcTurn, Reduce, ReduceFn};
use hal::{DType, Op, Tensor};

use super::{is_vector, rows};
use crate::launch::Launch;
use crate::weight::{Coding, ROWS_ABREAST, WgpuWeight, raw_of};

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

/// Columns of a mix whose sums fit the workgroup's memory: four streams and their mixer.
const MIX_MAX: u32 = 24;

/// The start of a site, which both fused ops end with.
fn start(op: &Op) -> Option<(&Tensor, &Tensor, &Tensor, &HcSite)> {
    match op {
        Op::HcPre(HcPre { out, mix, streams, site })
        | Op::HcTurn(HcTurn { out, mix, streams, site, .. }) => Some((out, mix, streams, site)),
        _ => None,
    }
}

/// The whole function, if it lies in one part and is no code.
fn function(site: &HcSite) -> Option<&WgpuWeight> {
    let weight = raw_of(&site.function).ok()?;
    let plain = !weight.coding.scaled() && !weight.coding.row_scaled;
    (plain && weight.parts.len() == 1).then_some(weight)
}

pub(crate) fn site_fits(op: &Op) -> bool {
    start(op).is_some_and(|(_, _, _, site)| {
        site.mix_width() <= MIX_MAX
            && [&site.base, &site.scale, &site.gain].into_iter().all(is_vector)
            && function(site).is_some()
    })
}

/// `hc_pre` without its function's codes.
///
/// # Panics
/// If the op is no site.
pub(crate) fn variant(op: &Op, coding: Coding) -> Launch {
    let (out, mix, streams, site) = start(op).expect("the op is a site");
    Launch::new("stream", "hc_pre")
        .flag("FULL", site.mix_width() > site.streams)
        .flag(coding.name, true)
        .flag("OUT_F32", out.dtype() == DType::F32)
        .flag("OUT_BF16", out.dtype() == DType::Bf16)
        .flag("OUT_F16", out.dtype() == DType::F16)
        .constant("STREAMS", site.streams)
        .constant("MIX", site.mix_width())
        .constant("SUMS", site.mix_width() + 1)
        .constant("PER_WORD", coding.per_word)
        .constant("ABREAST", ROWS_ABREAST)
        .write("out", out)
        .write("mix", mix)
        .read("streams", streams)
        .flat("base", &site.base)
        .flat("scale", &site.scale)
        .flat("gain", &site.gain)
        .number("wide", streams.width())
        .number("width", out.width())
        .number("rounds", site.rounds)
        .real("epsilon", site.epsilon)
        .real("norm_epsilon", site.norm_epsilon)
        .blocks(u64::from(streams.rows()))
}

pub(crate) fn pre(op: &Op) -> Vec<Launch> {
    let (_, _, _, site) = start(op).expect("fits looked at the op");
    let weight = function(site).expect("fits looked at the function");
    vec![variant(op, weight.coding).whole("codes", weight.parts[0].codes.raw())]
}

pub(crate) fn turn(op: &Op) -> Vec<Launch> {
    let Op::HcTurn(HcTurn { streams, old, old_mix, site, out, .. }) = op else {
        unreachable!("hc_turn of {}", op.name());
    };
    let (s, d) = (site.streams, out.width());
    let ended = Reduce {
        out: streams.columns(0, &[s, d]),
        x: old.columns(0, &[s + 1, d]),
        f: ReduceFn::Mix(old_mix.columns(s, &[s + 1, s])),
    };
    let mut launches = rows::reduce(&ended.into());
    launches.extend(pre(op));
    launches
}
