//! hc_mix, hc_pre, hc_turn, head.

use hal::op::{HcPre, HcSite, HcTurn, Head, RowGroups};
use hal::{Op, RowCodec, Tensor};

use super::gemm::{Groups, Product};
use super::then::{Next, Then};
use super::{Args, Place, SHARED_MAX, Scope, gemm, is_vector, row_sum_shape};
use crate::driver::{Address, Launch};
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

    fn scratch(&self, scope: &Scope<'_>) -> Scratch {
        let (mut bytes, rows) = (0, self.streams.rows());
        let u = Place::scratch(scope, &mut bytes, rows, self.site.mix_width());
        let mean_square = Place::scratch(scope, &mut bytes, rows, 1);
        Scratch { u, mean_square, bytes }
    }
}

fn enter_bytes(width: u32) -> u64 {
    u64::from(row_sum_shape(width).1) + 4 * u64::from(width)
}

/// True if a site of so wide rows fits.
fn params_fit(site: &HcSite, width: u32) -> bool {
    site.streams <= STREAMS_MAX
        && [&site.base, &site.scale, &site.gain].into_iter().all(is_vector)
        && any_of(&site.function).is_some()
        && enter_bytes(width) <= u64::from(SHARED_MAX) - 1024
}

pub(crate) fn site_fits(op: &Op) -> bool {
    Site::of(op).is_some_and(|op| params_fit(op.site, op.out.width()))
}

pub(crate) fn site_workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    Site::of(op).expect("it fits").scratch(scope).bytes
}

pub(crate) fn site_record(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    record(op, scope, None)
}

/// The same, with the rows after a round trip beside them.
pub(crate) fn site_and(op: &Op, scope: &Scope<'_>, rounded: (Place, RowCodec)) -> Vec<Launch> {
    record(op, scope, Some(rounded))
}

/// The rows a site makes.
pub(crate) fn made_by(op: &Op) -> Option<&Tensor> {
    Site::of(op).map(|site| site.out)
}

/// What the last kernel of a site touches, but for its parameters.
pub(crate) fn touched_at_the_end(op: &Op) -> impl Iterator<Item = &Tensor> {
    Site::of(op).into_iter().flat_map(|site| [site.out, site.mix, site.streams])
}

fn record(op: &Op, scope: &Scope<'_>, rounded: Option<(Place, RowCodec)>) -> Vec<Launch> {
    let op = Site::of(op).expect("it fits");
    let Scratch { u, mean_square, .. } = op.scratch(scope);
    let streams = Place::of(op.streams);
    let enter = Enter {
        out: Place::of(op.out),
        mix: Place::of(op.mix),
        streams,
        pick: 0,
        ends: op.ends,
        site: op.site,
        u,
        mean_square,
        rounded,
    };
    enter.record(scope)
}

/// The launches of a site.
struct Enter<'a> {
    out: Place,
    mix: Place,
    streams: Place,
    /// Which rows of the streams; 0: all.
    pick: Address,
    ends: Option<(&'a Tensor, &'a Tensor)>,
    site: &'a HcSite,
    u: Place,
    mean_square: Place,
    /// Where the row lies after a round trip, too.
    rounded: Option<(Place, RowCodec)>,
}

impl Enter<'_> {
    fn record(&self, scope: &Scope<'_>) -> Vec<Launch> {
        let (site, rows, streams) = (self.site, self.out.rows, &self.streams);
        let args = Args::new()
            .place(streams)
            .place(&self.ends.map_or(*streams, |(old, _)| Place::of(old)))
            .place(&self.mean_square)
            .rows_or_none(self.ends.map(|(_, mix)| mix))
            .address(self.pick)
            .int(site.streams)
            .int(0);
        let (threads, shared) = row_sum_shape(streams.width);
        let mut launches = scope.launch("hc_streams", [rows, 1, 1], threads, shared, args);
        let product = Product {
            source: self.pick,
            rows,
            ..gemm::of_rows(&self.u, streams, &site.function, Groups::Cyclic)
        };
        let shared = enter_bytes(self.out.width) as u32;
        let (span, whole) = (site.mix_width(), Some(rows));
        let then = Then {
            next: Next::Enter,
            span,
            unit: span,
            whole,
            shared_bytes: shared,
            args: self.args(),
        };
        launches.extend(product.record_then(scope, &then, || {
            let (threads, _) = row_sum_shape(self.out.width);
            scope.launch("hc_enter", [rows, 1, 1], threads, shared, self.args())
        }));
        launches
    }

    /// Of `hc_enter`.
    fn args(&self) -> Args {
        let site = self.site;
        let (rounded, codec) = self.rounded.unzip();
        Args::new()
            .place(&self.mix)
            .place(&self.u)
            .place(&self.mean_square)
            .address(address_of(&site.base))
            .address(address_of(&site.scale))
            .int(site.streams)
            .int(site.rounds)
            .float(site.epsilon)
            .float(site.norm_epsilon)
            .place(&self.out)
            .place(&self.streams)
            .address(address_of(&site.gain))
            .address(self.pick)
            .place_or_none(rounded.as_ref())
            .round(codec)
    }
}

/// What the head keeps between launches.
struct Between {
    u: Place,
    mean_square: Place,
    mix: Place,
    hidden: Place,
    bytes: u64,
}

impl Between {
    fn new(op: &Head, scope: &Scope<'_>) -> Between {
        let (mut bytes, rows, kind) = (0, op.out.rows(), Place::of(&op.streams).kind);
        let mut floats = |width| Place::scratch(scope, &mut bytes, rows, width);
        let (u, mean_square) = (floats(op.site.mix_width()), floats(1));
        let mix = floats(op.site.mix_width());
        let width = op.streams.width() / op.site.streams;
        let hidden = Place::scratch_of(kind, scope, &mut bytes, rows, width);
        Between { u, mean_square, mix, hidden, bytes }
    }
}

pub(crate) fn head_fits(op: &Op) -> bool {
    let Op::Head(op) = op else { return false };
    params_fit(&op.site, op.streams.width() / op.site.streams)
        && op.rows.is_contiguous()
        && any_of(&op.vocabulary).is_some()
}

pub(crate) fn head_workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    let Op::Head(op) = op else { unreachable!("head of {}", op.name()) };
    Between::new(op, scope).bytes
}

pub(crate) fn head(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Head(op) = op else { unreachable!("head of {}", op.name()) };
    let Between { u, mean_square, mix, hidden, .. } = Between::new(op, scope);
    let enter = Enter {
        out: hidden,
        mix,
        streams: Place::of(&op.streams),
        pick: address_of(&op.rows),
        ends: None,
        site: &op.site,
        u,
        mean_square,
        rounded: None,
    };
    let mut launches = enter.record(scope);
    let out = Place::of(&op.out);
    launches.extend(gemm::product(scope, &out, &hidden, &op.vocabulary, &RowGroups::Cyclic));
    launches
}
