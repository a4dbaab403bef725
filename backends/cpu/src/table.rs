//! The one list of what this device can do.
//!
//! `supports` and `compile` both take the first entry that fits; kernel names are those of traces and
//! of the coverage report.

use hal::Op;

use crate::record::{
    Record, Scope, attend, collective, compress, convert, gemm, index, map, moe, no_workspace,
    rows, stream,
};

/// One way to run an op.
pub(crate) struct Entry {
    /// The op, as in `Op::name`.
    pub(crate) op: &'static str,
    /// The kernel.
    pub(crate) kernel: &'static str,
    /// Dtypes, codecs, widths and encodings it takes; never row counts.
    pub(crate) fits: fn(&Op) -> bool,
    /// Workspace it needs; the scope has none yet.
    pub(crate) workspace_bytes: fn(&Op, &Scope) -> u64,
    /// Resolves the op.
    pub(crate) record: fn(&Op, &Scope) -> Record,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by {}", self.op, self.kernel)
    }
}

/// An entry without workspace.
const fn plain(
    op: &'static str,
    kernel: &'static str,
    fits: fn(&Op) -> bool,
    record: fn(&Op, &Scope) -> Record,
) -> Entry {
    Entry { op, kernel, fits, workspace_bytes: no_workspace, record }
}

/// What there is, by op.
static TABLE: &[Entry] = &[
    plain("gather", "gather_rows", rows::gather_rows_fits, rows::gather_rows),
    plain("gather", "gather_coded", rows::gather_coded_fits, rows::gather_coded),
    plain("gather", "gather_elements", rows::gather_elements_fits, rows::gather_elements),
    plain("scatter", "scatter_rows", rows::scatter_fits, rows::scatter),
    plain("scatter", "scatter_coded", rows::scatter_coded_fits, rows::scatter_coded),
    plain("map", "map", map::fits, map::record),
    plain("reduce", "reduce", rows::reduce_fits, rows::reduce),
    plain("convert", "convert_rows", convert::rows_fits, convert::rows),
    plain("convert", "quantise_rows", convert::quantise_fits, convert::quantise),
    plain("convert", "dequantise_rows", convert::dequantise_fits, convert::dequantise),
    plain("rms_norm", "rms_norm_rows", rows::rms_norm_fits, rows::rms_norm),
    plain("rope", "rope_rows", rows::rope_fits, rows::rope),
    plain("matmul", "matmul", gemm::fits, gemm::matmul),
    plain("top_k", "top_k", index::top_k_fits, index::top_k),
    plain("bucket", "bucket", moe::bucket_fits, moe::bucket),
    Entry {
        op: "attend",
        kernel: "attend",
        fits: attend::fits,
        workspace_bytes: attend::workspace_bytes,
        record: attend::record,
    },
    plain("index_score", "index_score", index::score_fits, index::score),
    plain("hc_mix", "hc_mix", stream::hc_mix_fits, stream::hc_mix),
    Entry {
        op: "compress",
        kernel: "compress",
        fits: compress::fits,
        workspace_bytes: compress::workspace_bytes,
        record: compress::record,
    },
    Entry {
        op: "index_select",
        kernel: "index_select",
        fits: index::select_fits,
        workspace_bytes: index::select_workspace_bytes,
        record: index::select,
    },
    plain("all_reduce", "all_reduce", collective::fits, collective::record),
    plain("all_gather", "all_gather", collective::fits, collective::record),
    plain("reduce_scatter", "reduce_scatter", collective::fits, collective::record),
    plain("all_to_all", "all_to_all", collective::fits, collective::record),
];

/// The entry that runs `op`, if any.
pub(crate) fn entry(op: &Op) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.op == op.name() && (entry.fits)(op))
}
