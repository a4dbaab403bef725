//! hc_mix, hc_pre, hc_turn.

use hal::op::{HcPre, HcSite, HcTurn, RowGroups};
use hal::{Op, Tensor};

use super::{Args, Place, SHARED_MAX, Scope, gemm, is_vector, row_sum_shape};
use crate::driver::Launch;
use crate::memory::address_of;
use crate::weight::any_of;

/// Streams a thread keeps in its own memory; as in `kernels/stream/stream.cu`.
const STREAMS_MAX: u32 = 8;

pub(crate) fn hc_mix_fits(op: &Op) -> bool {
    matches!(op, Op::HcMix(op) if op.streams <= STREAMS_MAX
        && is_vector(&op.base) && is_vector(&op.scale))
}

pub(crate) fn hc_mix(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::HcMix(op) = op else { unreachable!("hc_mix of {}", op.name()) };
    let args = Args::new()
        .rows(&op.out)
        .rows(&op.u)
        .rows(&op.mean_square)
        .address(address_of(&op.base))
        .address(address_of(&op.scale))
        .int(op.streams)
        .int(op.rounds)
        .float(op.epsilon)
        .float(op.norm_epsilon);
    scope.launch("hc_mix", [op.u.rows().div_ceil(32), 1, 1], 32, 0, args)
}

/// What both fused ops are.
struct Site<'a> {
    out: &'a Tensor,
    mix: &'a Tensor,
    streams: &'a Tensor,
    /// Of the site that ends: its streams with y, its mix.
    ends: Option<(&'a Tensor, &'a Tensor)>,
    site: &'a HcSite,
}

/// f32 rows of a fused op's own.
struct Scratch {
    u: Place,
    mean_square: Place,
    bytes: u64,
}

impl Site<'_> {
    fn of(op: &Op) -> Option<Site<'_>> {
        match op {
            Op::HcPre(HcPre { out, mix, streams, site }) => {
                Some(Site { out, mix, streams, ends: None, site })
            }
            Op::HcTurn(HcTurn { out, mix, streams, old, old_mix, site }) => {
                Some(Site { out, mix, streams, ends: Some((old, old_mix)), site })
            }
            _ => None,
        }
    }

    fn enter_bytes(&self) -> u64 {
        let width = self.out.width();
        u64::from(row_sum_shape(width).1) + 4 * u64::from(width)
    }

    fn scratch(&self, scope: &Scope<'_>) -> Scratch {
        let (mut bytes, rows) = (0, self.streams.rows());
        let u = Place::scratch(scope, &mut bytes, rows, self.site.mix_width());
        let mean_square = Place::scratch(scope, &mut bytes, rows, 1);
        Scratch { u, mean_square, bytes }
    }
}

pub(crate) fn site_fits(op: &Op) -> bool {
    Site::of(op).is_some_and(|op| {
        let site = op.site;
        site.streams <= STREAMS_MAX
            && [&site.base, &site.scale, &site.gain].into_iter().all(is_vector)
            && any_of(&site.function).is_some()
            && op.enter_bytes() <= u64::from(SHARED_MAX) - 1024
    })
}

pub(crate) fn site_workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    Site::of(op).expect("it fits").scratch(scope).bytes
}

pub(crate) fn site_record(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let op = Site::of(op).expect("it fits");
    let (site, rows) = (op.site, op.streams.rows());
    let Scratch { u, mean_square, .. } = op.scratch(scope);
    let args = Args::new()
        .rows(op.streams)
        .rows(op.ends.map_or(op.streams, |(old, _)| old))
        .place(&mean_square)
        .rows_or_none(op.ends.map(|(_, mix)| mix))
        .int(site.streams)
        .int(0);
    let (threads, shared) = row_sum_shape(op.streams.width());
    let mut launches = scope.launch("hc_streams", [rows, 1, 1], threads, shared, args);
    let x = Place::of(op.streams);
    launches.extend(gemm::product(scope, &u, &x, &site.function, &RowGroups::Cyclic));
    let args = Args::new()
        .rows(op.mix)
        .place(&u)
        .place(&mean_square)
        .address(address_of(&site.base))
        .address(address_of(&site.scale))
        .int(site.streams)
        .int(site.rounds)
        .float(site.epsilon)
        .float(site.norm_epsilon)
        .rows(op.out)
        .rows(op.streams)
        .address(address_of(&site.gain));
    let (threads, _) = row_sum_shape(op.out.width());
    let shared = op.enter_bytes() as u32;
    launches.extend(scope.launch("hc_enter", [rows, 1, 1], threads, shared, args));
    launches
}
