//! Ops resolved to launches, a file per family. Nothing is computed here but sizes and offsets.

pub(crate) mod attend;
pub(crate) mod convert;
pub(crate) mod gemm;
pub(crate) mod index;
pub(crate) mod map;
pub(crate) mod moe;
pub(crate) mod rows;
pub(crate) mod stream;

use hal::{RowCodec, Tensor};

/// Rows of plain elements.
fn is_plain(tensor: &Tensor) -> bool {
    tensor.codec() == RowCodec::Plain
}

/// Rows of plain f32, f16 or bf16.
fn is_real(tensor: &Tensor) -> bool {
    is_plain(tensor) && tensor.dtype().is_real()
}

/// Rows that a kernel can read as numbers, coded ones included.
fn is_row(tensor: &Tensor) -> bool {
    is_real(tensor) || matches!(tensor.codec(), RowCodec::Fp8 { .. } | RowCodec::Fp4 { .. })
}

/// A vector whose elements have one distance: rank 1, or contiguous.
fn is_vector(tensor: &Tensor) -> bool {
    tensor.dims().len() == 1 || tensor.is_contiguous()
}
