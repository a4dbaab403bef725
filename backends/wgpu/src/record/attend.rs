//! attend.

use hal::Op;
use hal::op::{Attend, Far};

use super::{is_real, is_row, is_vector};
use crate::launch::Launch;

/// Columns of a head: what an invocation sums is kept in its registers.
const WIDTH_MAX: u32 = 1024;
/// Columns a workgroup's lanes take at a time, two each.
const STRIP: u32 = 128;

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Attend(op) = op else { return false };
    let far = match &op.far {
        None => true,
        Some(Far::Listed(listed)) => is_row(&listed.cache),
        Some(Far::Visible(visible)) => is_row(&visible.cache),
    };
    let &[_, _, width] = op.q.dims() else { return false };
    far && width <= WIDTH_MAX && is_row(&op.near.cache) && is_real(&op.q) && is_vector(&op.sink)
}

pub(crate) fn record(op: &Op) -> Vec<Launch> {
    let Op::Attend(Attend { out, q, sink, near, far, scale }) = op else {
        unreachable!("attend of {}", op.name());
    };
    let (rows, heads, width) = (q.dims()[0], q.dims()[1], q.dims()[2]);
    let mut launch = Launch::new("attend", "attend")
        .flag("FAR", far.is_some())
        .constant("PAIRS", width.div_ceil(STRIP))
        .write_pairs("out", out, width.is_multiple_of(2))
        .flat("sink", sink)
        .read("near", &near.cache)
        .wide("near")
        .read("near_index", &near.index)
        .number("near_count", near.index.width())
        .number("heads", heads)
        .number("width", width)
        .real("scale", *scale);
    launch = match width.is_multiple_of(2) {
        true => launch.read("q", q),
        false => launch.read_single("q", q),
    };
    launch = match far {
        None => launch,
        Some(Far::Listed(listed)) => launch
            .flag("LISTED_FAR", true)
            .read("far", &listed.cache)
            .wide("far")
            .read("far_index", &listed.index)
            .number("far_count", listed.index.width()),
        Some(Far::Visible(visible)) => launch
            .flag("VISIBLE_FAR", true)
            .read("far", &visible.cache)
            .wide("far")
            .read("reach", &visible.reach)
            .read("pages", &visible.pages)
            .number("per", visible.per),
    };
    vec![launch.blocks(u64::from(rows) * u64::from(heads))]
}
