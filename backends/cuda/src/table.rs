//! The one list of what this device can do.
//!
//! `supports` and `compile` both take the first entry that fits; kernel names are those of the units in
//! `source.rs` and of traces.

use hal::Op;

use crate::driver::Launch;
use crate::record::{
    Scope, attend, compress, convert, finish, gemm, index, map, moe, rows, stream,
};

/// One way to run an op.
pub(crate) struct Entry {
    /// The op, as in `Op::name`.
    op: &'static str,
    /// Dtypes, codecs, widths and encodings it takes; never row counts.
    fits: fn(&Op) -> bool,
    /// Workspace it needs; the scope has none yet.
    pub(crate) workspace_bytes: fn(&Op, &Scope<'_>) -> u64,
    /// Resolves the op to its launches.
    pub(crate) record: fn(&Op, &Scope<'_>) -> Vec<Launch>,
}

/// An entry without workspace.
const fn plain(
    op: &'static str,
    fits: fn(&Op) -> bool,
    record: fn(&Op, &Scope<'_>) -> Vec<Launch>,
) -> Entry {
    Entry { op, fits, workspace_bytes: |_, _| 0, record }
}

/// A hyper-connection site.
const fn site(op: &'static str) -> Entry {
    Entry {
        op,
        fits: stream::site_fits,
        workspace_bytes: stream::site_workspace_bytes,
        record: stream::site_record,
    }
}

/// A router.
const fn router(op: &'static str) -> Entry {
    Entry {
        op,
        fits: moe::route_fits,
        workspace_bytes: moe::route_workspace_bytes,
        record: moe::route,
    }
}

/// What there is, by op.
static TABLE: &[Entry] = &[
    plain("gather", rows::gather_rows_fits, rows::gather_rows),
    plain("gather", rows::gather_coded_fits, rows::gather_coded),
    plain("gather", rows::gather_elements_fits, rows::gather_elements),
    plain("scatter", rows::scatter_rows_fits, rows::scatter_rows),
    plain("scatter", rows::scatter_coded_fits, rows::scatter_coded),
    plain("map", map::fits, map::record),
    plain("reduce", rows::reduce_fits, rows::reduce),
    plain("convert", convert::rows_fits, convert::rows),
    plain("convert", convert::quantise_fits, convert::quantise),
    plain("convert", convert::dequantise_fits, convert::dequantise),
    plain("rms_norm", rows::rms_norm_fits, rows::rms_norm),
    plain("rope", rows::rope_fits, rows::rope),
    plain("matmul", gemm::fits, gemm::matmul),
    plain("top_k", index::top_k_fits, index::top_k),
    plain("bucket", moe::bucket_fits, moe::bucket),
    Entry {
        op: "attend",
        fits: attend::fits,
        workspace_bytes: attend::workspace_bytes,
        record: attend::record,
    },
    plain("index_score", index::score_fits, index::score),
    plain("hc_mix", stream::hc_mix_fits, stream::hc_mix),
    site("hc_pre"),
    site("hc_turn"),
    plain("norm_quant", finish::fits, finish::record),
    plain("qk_finish", finish::fits, finish::record),
    plain("compress", compress::fits, compress::record),
    router("route"),
    router("route_table"),
];

/// The entry that runs `op`, if any.
pub(crate) fn entry(op: &Op) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.op == op.name() && (entry.fits)(op))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_has_an_entry() {
        let mut names: Vec<&str> = TABLE.iter().map(|entry| entry.op).collect();
        names.dedup();
        assert_eq!(names[..Op::PRIMITIVES], Op::NAMES[..Op::PRIMITIVES]);
        assert!(names.iter().all(|name| Op::NAMES.contains(name)), "{names:?}");
    }
}
