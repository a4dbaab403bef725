//! The kernels as sources: which file has which kernels, and what a file needs to compile.
//!
//! The sources are in the binary, so a device opens without a toolkit or headers on the machine: NVRTC
//! alone compiles them. They lie beside their oracles in `kernels/`.

/// A file of kernels, compiled as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Name of the family.
    pub name: &'static str,
    /// The text of `kernels/<name>/<name>.cu`.
    pub text: &'static str,
    /// The kernels in it.
    pub kernels: &'static [&'static str],
}

/// What units include: names and texts.
pub const HEADERS: [(&str, &str); 3] = [
    ("../common/common.cuh", include_str!("../../../kernels/common/common.cuh")),
    ("../common/mma.cuh", include_str!("../../../kernels/common/mma.cuh")),
    ("../common/rows.cuh", include_str!("../../../kernels/common/rows.cuh")),
];

/// All units.
pub static UNITS: [Unit; 7] = [
    Unit {
        name: "rows",
        text: include_str!("../../../kernels/rows/rows.cu"),
        kernels: &[
            "gather_rows",
            "gather_coded",
            "gather_elements",
            "scatter_rows",
            "scatter_coded",
            "map",
            "reduce",
            "mean_square",
            "convert_rows",
            "quantise_rows",
            "dequantise_rows",
            "rms_norm_rows",
            "rope_rows",
            "finish_rows",
            "make_noise",
        ],
    },
    Unit {
        name: "gemm",
        text: include_str!("../../../kernels/gemm/gemm.cu"),
        kernels: &[
            "matmul",
            "matmul_few",
            "matmul_bulk",
            "matmul_several",
            "matmul_several_bulk",
            "matmul_many",
            "matmul_wide",
        ],
    },
    Unit {
        name: "index",
        text: include_str!("../../../kernels/index/index.cu"),
        kernels: &["index_score", "index_score_mma", "top_k_pieces", "top_k"],
    },
    Unit {
        name: "attend",
        text: include_str!("../../../kernels/attend/attend.cu"),
        kernels: &["attend", "attend_16", "attend_32", "attend_64", "attend_merge"],
    },
    Unit {
        name: "compress",
        text: include_str!("../../../kernels/compress/compress.cu"),
        kernels: &["compress_entries", "compress_two"],
    },
    Unit {
        name: "moe",
        text: include_str!("../../../kernels/moe/moe.cu"),
        kernels: &["bucket", "route_rows", "swiglu_rows", "combine_rows"],
    },
    Unit {
        name: "stream",
        text: include_str!("../../../kernels/stream/stream.cu"),
        kernels: &["hc_mix", "hc_streams", "hc_enter"],
    },
];

/// Options every compilation gets beside the architecture. Contraction is a decision of the source
/// (`fmaf`), so that two kernels cannot differ in it; nothing is approximated behind its back.
pub const OPTIONS: [&str; 4] =
    ["--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true"];
