//! The one list of what this device can do.
//!
//! `supports` and `compile` both take the first entry that fits; kernel names are the entry points in
//! `kernels/<family>/<family>.wgsl`, and what profiles show.

use hal::Op;

use crate::launch::Launch;
use crate::record::{attend, convert, gemm, index, map, moe, rows, stream};

/// One way to run an op.
pub(crate) struct Entry {
    /// The op, as in `Op::name`.
    pub(crate) op: &'static str,
    /// The kernel.
    pub(crate) kernel: &'static str,
    /// Dtypes, codecs, widths and encodings it takes; never row counts.
    pub(crate) fits: fn(&Op) -> bool,
    /// Resolves the op.
    pub(crate) record: fn(&Op) -> Vec<Launch>,
}

const fn entry_of(
    op: &'static str,
    kernel: &'static str,
    fits: fn(&Op) -> bool,
    record: fn(&Op) -> Vec<Launch>,
) -> Entry {
    Entry { op, kernel, fits, record }
}

/// What there is, by op.
pub(crate) static TABLE: &[Entry] = &[
    entry_of("gather", "gather_rows", rows::gather_rows_fits, rows::gather_rows),
    entry_of("gather", "gather_elements", rows::gather_elements_fits, rows::gather_elements),
    entry_of("scatter", "scatter_rows", rows::scatter_fits, rows::scatter),
    entry_of("scatter", "encode_rows", convert::scatter_fits, convert::scatter),
    entry_of("map", "map_int", map::int_fits, map::int),
    entry_of("map", "map", map::fits, map::record),
    entry_of(
        "reduce",
        "narrow_mean_square",
        rows::narrow_mean_square_fits,
        rows::narrow_mean_square,
    ),
    entry_of("reduce", "mean_square", rows::mean_square_fits, rows::mean_square),
    entry_of("reduce", "reduce", rows::reduce_fits, rows::reduce),
    entry_of("convert", "convert_rows", convert::rows_fits, convert::rows),
    entry_of("convert", "round_trip_rows", convert::round_trip_fits, convert::round_trip),
    entry_of("convert", "encode_rows", convert::encode_fits, convert::encode),
    entry_of("convert", "quantise_rows", convert::quantise_fits, convert::quantise),
    entry_of("convert", "dequantise_rows", convert::dequantise_fits, convert::dequantise),
    entry_of("rms_norm", "narrow_rms_norm_rows", rows::narrow_rms_norm_fits, rows::narrow_rms_norm),
    entry_of("rms_norm", "rms_norm_rows", rows::rms_norm_fits, rows::rms_norm),
    entry_of("rope", "rope_rows", rows::rope_fits, rows::rope),
    entry_of("matmul", "matmul", gemm::fits, gemm::record),
    entry_of("matmul", "matmul_sorted", gemm::sorted_fits, gemm::sorted),
    entry_of("top_k", "narrow_top_k", index::narrow_top_k_fits, index::narrow_top_k),
    entry_of("top_k", "top_k", index::top_k_fits, index::top_k),
    entry_of("bucket", "bucket", moe::fits, moe::record),
    entry_of("attend", "attend", attend::fits, attend::record),
    entry_of("index_score", "index_score", index::score_fits, index::score),
    entry_of("hc_mix", "hc_mix", stream::fits, stream::record),
    entry_of("hc_pre", "hc_pre", stream::site_fits, stream::pre),
    entry_of("hc_turn", "hc_pre", stream::site_fits, stream::turn),
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
        for name in &Op::NAMES[..Op::PRIMITIVES] {
            assert!(TABLE.iter().any(|entry| entry.op == *name), "{name}");
        }
    }
}
