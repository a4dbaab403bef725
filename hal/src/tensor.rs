//! Tensors: rows with one stride in a buffer. Column ranges, row ranges and reshapes of contiguous
//! rows are views; there are no general strides anywhere, and no tensor owns its bytes alone.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Element type of a tensor. Sub-byte codes exist only inside a [`RowCodec`] or an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// E4M3 (finite, NaN at 0x7f and 0xff).
    F8E4M3,
    /// Signed 32-bit; indices, with -1 for "absent".
    I32,
    /// Unsigned 32-bit.
    U32,
    /// A byte: packed codes, E8M0 scales.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::F8E4M3 | DType::U8 => 1,
        }
    }

    /// True for the types an op may compute on in f32: `F32`, `F16`, `Bf16`.
    pub const fn is_real(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Bf16)
    }
}

/// What a backend keeps behind a [`Buffer`].
pub trait RawBuffer: Any + Send + Sync + fmt::Debug {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;
    /// For the backend's own downcast.
    fn as_any(&self) -> &dyn Any;
}

/// Bytes a tensor lies in.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// Memory of a device.
    Real(Arc<dyn RawBuffer>),
    /// A temporary of one program, by number. The arena planner gives it an address before a
    /// backend sees the program: backends never meet this variant.
    Scratch(u32),
}

impl Buffer {
    /// True if both name the same memory.
    pub fn same(&self, other: &Buffer) -> bool {
        match (self, other) {
            (Buffer::Real(a), Buffer::Real(b)) => {
                std::ptr::eq(Arc::as_ptr(a).cast::<u8>(), Arc::as_ptr(b).cast::<u8>())
            }
            (Buffer::Scratch(a), Buffer::Scratch(b)) => a == b,
            _ => false,
        }
    }
}

/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 4;

/// Up to four dimensions, rows first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [u32; RANK_MAX],
    rank: u8,
}

impl Shape {
    /// A shape of 1 to 4 dimensions.
    ///
    /// # Panics
    /// With no dimension or more than four: shapes are written in source code, not read from input.
    pub fn new(dims: &[u32]) -> Self {
        assert!(!dims.is_empty());
        assert!(dims.len() <= RANK_MAX);
        let mut all = [1; RANK_MAX];
        all[..dims.len()].copy_from_slice(dims);
        Shape { dims: all, rank: dims.len() as u8 }
    }

    /// The dimensions.
    pub fn dims(&self) -> &[u32] {
        &self.dims[..self.rank as usize]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// First dimension.
    pub fn rows(&self) -> u32 {
        self.dims[0]
    }

    /// Elements of one row: the product of all dimensions but the first.
    pub fn width(&self) -> u32 {
        self.dims[1..self.rank as usize].iter().product()
    }

    /// All elements.
    pub fn elements(&self) -> u64 {
        u64::from(self.rows()) * u64::from(self.width())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// How one cached row lies in memory. Values read through a codec are exact: the program rounds
/// (`Convert`) before it writes, so a row has the same bytes in a ring, in a page and among this
/// step's rows. A tensor with a codec other than `Plain` has dtype `Bf16`, the type of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RowCodec {
    /// Elements of the tensor's dtype, one after the other.
    Plain,
    /// E4M3 codes for the first `width - tail` columns, then `tail` bf16 values, then one E8M0 scale
    /// per `block` columns, padded to 4 bytes (v4-program section 5: 584 bytes for 512 columns).
    Fp8 {
        /// Columns per scale.
        block: u16,
        /// Last columns that stay bf16.
        tail: u16,
    },
    /// E2M1 codes two per byte (even column in the low nibble), then one E8M0 scale per `block`
    /// columns, padded to 4 bytes (68 bytes for 128 columns).
    Fp4 {
        /// Columns per scale.
        block: u16,
    },
}

impl RowCodec {
    /// Bytes of one row of `width` values of `dtype`.
    pub fn row_bytes(self, dtype: DType, width: u32) -> u64 {
        let width = u64::from(width);
        match self {
            RowCodec::Plain => width * dtype.size_bytes(),
            RowCodec::Fp8 { block, tail } => {
                let coded = width.saturating_sub(u64::from(tail));
                let scales = coded.div_ceil(u64::from(block));
                (coded + 2 * u64::from(tail) + scales).next_multiple_of(4)
            }
            RowCodec::Fp4 { block } => {
                (width.div_ceil(2) + width.div_ceil(u64::from(block))).next_multiple_of(4)
            }
        }
    }
}

/// A view of rows in a buffer. The stride is that of the first dimension; the others are contiguous.
#[derive(Clone, Debug)]
pub struct Tensor {
    buffer: Buffer,
    offset_bytes: u64,
    row_stride_bytes: u64,
    shape: Shape,
    dtype: DType,
    codec: RowCodec,
}

impl Tensor {
    /// Contiguous rows from `offset_bytes` on.
    ///
    /// # Errors
    /// `InvalidProgram` if a real buffer is too small or the offset is not a multiple of the element.
    pub fn new(
        buffer: Buffer,
        offset_bytes: u64,
        shape: Shape,
        dtype: DType,
        codec: RowCodec,
    ) -> Result<Self> {
        let row_stride_bytes = codec.row_bytes(dtype, shape.width());
        let tensor = Tensor { buffer, offset_bytes, row_stride_bytes, shape, dtype, codec };
        if !offset_bytes.is_multiple_of(tensor.align_bytes()) {
            return Err(Error::invalid(format!(
                "tensor {shape} {dtype:?}: offset {offset_bytes} is not a multiple of the element"
            )));
        }
        if let Buffer::Real(raw) = &tensor.buffer
            && tensor.end_bytes() > raw.size_bytes()
        {
            return Err(Error::invalid(format!(
                "tensor {shape} {dtype:?} ends at byte {} of a buffer of {}",
                tensor.end_bytes(),
                raw.size_bytes()
            )));
        }
        Ok(tensor)
    }

    fn align_bytes(&self) -> u64 {
        match self.codec {
            RowCodec::Plain => self.dtype.size_bytes(),
            _ => 4,
        }
    }

    /// The buffer it lies in.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// First byte of row 0 in the buffer.
    pub fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Bytes from one row to the next.
    pub fn row_stride_bytes(&self) -> u64 {
        self.row_stride_bytes
    }

    /// Bytes one row really occupies, at most the stride.
    pub fn row_bytes(&self) -> u64 {
        self.codec.row_bytes(self.dtype, self.width())
    }

    /// One past the last byte.
    pub fn end_bytes(&self) -> u64 {
        if self.rows() == 0 {
            return self.offset_bytes;
        }
        self.offset_bytes + (u64::from(self.rows()) - 1) * self.row_stride_bytes + self.row_bytes()
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Dimensions.
    pub fn dims(&self) -> &[u32] {
        self.shape.dims()
    }

    /// First dimension.
    pub fn rows(&self) -> u32 {
        self.shape.rows()
    }

    /// Elements of one row.
    pub fn width(&self) -> u32 {
        self.shape.width()
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How a row is stored.
    pub fn codec(&self) -> RowCodec {
        self.codec
    }

    /// True if rows follow each other without a gap.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride_bytes == self.row_bytes() || self.rows() <= 1
    }

    /// Columns from `column` on, seen with the inner dimensions `inner`.
    ///
    /// # Panics
    /// If the range leaves the row or the rows are coded: views are written in source code.
    #[must_use]
    pub fn columns(&self, column: u32, inner: &[u32]) -> Tensor {
        let mut dims = vec![self.rows()];
        dims.extend_from_slice(inner);
        let shape = Shape::new(&dims);
        assert!(self.codec == RowCodec::Plain, "a column range of coded rows does not exist");
        assert!(
            u64::from(column) + u64::from(shape.width()) <= u64::from(self.width()),
            "columns {column}..+{} of {self:?}",
            shape.width()
        );
        let offset_bytes = self.offset_bytes + u64::from(column) * self.dtype.size_bytes();
        Tensor { offset_bytes, shape, ..self.clone() }
    }

    /// Rows `first..first + count`.
    ///
    /// # Panics
    /// If the range leaves the tensor: views are written in source code.
    #[must_use]
    pub fn row_range(&self, first: u32, count: u32) -> Tensor {
        assert!(first <= self.rows());
        assert!(count <= self.rows() - first, "rows {first}..+{count} of {self:?}");
        let mut dims = self.dims().to_vec();
        dims[0] = count;
        let offset_bytes = self.offset_bytes + u64::from(first) * self.row_stride_bytes;
        Tensor { offset_bytes, shape: Shape::new(&dims), ..self.clone() }
    }

    /// The same contiguous elements with other dimensions.
    ///
    /// # Panics
    /// If rows are strided or coded, or the number of elements differs.
    #[must_use]
    pub fn reshape(&self, dims: &[u32]) -> Tensor {
        let shape = Shape::new(dims);
        assert!(self.codec == RowCodec::Plain, "coded rows cannot be reshaped");
        assert!(self.is_contiguous(), "strided rows cannot be reshaped: {self:?}");
        assert_eq!(shape.elements(), self.shape.elements(), "{self:?} as {dims:?}");
        let row_stride_bytes = self.codec.row_bytes(self.dtype, shape.width());
        Tensor { shape, row_stride_bytes, ..self.clone() }
    }

    /// The same view of other memory: how scratch gets its address.
    #[must_use]
    pub fn rebased(&self, buffer: Buffer, base_bytes: u64) -> Tensor {
        Tensor { buffer, offset_bytes: base_bytes + self.offset_bytes, ..self.clone() }
    }

    /// True if any byte of a row of `self` is a byte of a row of `other`.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        if !self.buffer.same(&other.buffer) || self.rows() == 0 || other.rows() == 0 {
            return false;
        }
        if self.offset_bytes >= other.end_bytes() || other.offset_bytes >= self.end_bytes() {
            return false;
        }
        let stride = self.row_stride_bytes;
        if stride != other.row_stride_bytes || stride == 0 {
            return true;
        }
        // Same stride, bounding ranges meet: rows interleave without touching if the byte columns do.
        let (a, b) = (self.offset_bytes % stride, other.offset_bytes % stride);
        let wraps = |at: u64, bytes: u64| at + bytes > stride;
        if wraps(a, self.row_bytes()) || wraps(b, other.row_bytes()) {
            return true;
        }
        a < b + other.row_bytes() && b < a + self.row_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(dims: &[u32], dtype: DType) -> Tensor {
        Tensor::new(Buffer::Scratch(0), 0, Shape::new(dims), dtype, RowCodec::Plain).unwrap()
    }

    #[test]
    fn cached_rows_have_the_bytes_of_the_program() {
        let fp8 = RowCodec::Fp8 { block: 64, tail: 64 };
        for (codec, width, bytes) in [
            (fp8, 512, 584),
            (RowCodec::Fp4 { block: 32 }, 128, 68),
            (RowCodec::Plain, 512, 1024),
            (fp8, 128, 196),
        ] {
            assert_eq!(codec.row_bytes(DType::Bf16, width), bytes, "{codec:?} {width}");
        }
    }

    #[test]
    fn column_ranges_of_one_row_do_not_overlap() {
        let xy = scratch(&[3, 50], DType::Bf16);
        let streams = xy.columns(0, &[4, 10]);
        let y = xy.columns(40, &[10]);
        assert!(!streams.overlaps(&y));
        assert!(streams.overlaps(&xy));
        assert!(!xy.row_range(0, 1).overlaps(&xy.row_range(1, 2)));
        assert!(xy.columns(35, &[10]).overlaps(&y));
    }

    #[test]
    fn reshape_keeps_elements() {
        let x = scratch(&[6, 8], DType::F32).reshape(&[12, 4]);
        assert_eq!((x.rows(), x.width(), x.row_stride_bytes()), (12, 4, 16));
    }
}
