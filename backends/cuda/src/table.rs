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

/// An entry with one.
const fn spacious(
    op: &'static str,
    fits: fn(&Op) -> bool,
    workspace_bytes: fn(&Op, &Scope<'_>) -> u64,
    record: fn(&Op, &Scope<'_>) -> Vec<Launch>,
) -> Entry {
    Entry { op, fits, workspace_bytes, record }
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
    spacious("top_k", index::pick_fits, index::pick_workspace_bytes, index::pick),
    plain("bucket", moe::bucket_fits, moe::bucket),
    spacious("attend", attend::fits, attend::workspace_bytes, attend::record),
    plain("index_score", index::score_fits, index::score),
    plain("hc_mix", stream::hc_mix_fits, stream::hc_mix),
    site("hc_pre"),
    site("hc_turn"),
    plain("norm_quant", finish::fits, finish::record),
    plain("qk_finish", finish::fits, finish::record),
    plain("compress", compress::fits, compress::record),
    spacious("index_select", index::select_fits, index::select_workspace_bytes, index::select),
    spacious(
        "attend_project",
        attend::project_fits,
        attend::project_workspace_bytes,
        attend::project,
    ),
    router("route"),
    router("route_table"),
    spacious("moe_experts", moe::experts_fits, moe::experts_workspace_bytes, moe::experts),
    spacious("swiglu_mlp", moe::shared_fits, moe::shared_workspace_bytes, moe::shared),
    spacious("head", stream::head_fits, stream::head_workspace_bytes, stream::head),
    spacious("sample", index::pick_fits, index::pick_workspace_bytes, index::pick),
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
