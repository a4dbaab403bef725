//! Resolving ops: tensors become raw row views, an op becomes a closure that runs its kernel.
//!
//! One file per op family. `fits` functions look at dtypes, codecs and widths, never at row counts;
//! shapes were checked by hal. A record is only made for an op that fits, so another kind of op in it
//! is `unreachable!`.

pub(crate) mod attend;
pub(crate) mod collective;
pub(crate) mod compress;
pub(crate) mod convert;
pub(crate) mod gemm;
pub(crate) mod index;
pub(crate) mod map;
pub(crate) mod moe;
pub(crate) mod rows;
pub(crate) mod stream;

use std::sync::Arc;

use hal::{DType, Op, RawBuffer, RowCodec, Tensor};
use kernels::attend::KeyRows;
use kernels::common::isa::Isa;
use kernels::common::pool::Pool;
use kernels::common::rows::{Element, RealRows, RealRowsMut, Rows, RowsMut};
use kernels::rows::cpu::Target;

use crate::memory::{CpuBuffer, base_of};

/// A resolved op.
pub(crate) type Record = Box<dyn Fn() + Send + Sync>;

/// What records of one plan share.
pub(crate) struct Scope {
    pub(crate) isa: Isa,
    pub(crate) pool: Arc<Pool>,
    /// The plan's workspace; each op may use all of it while it runs.
    pub(crate) room: Room,
}

/// Workspace of a plan, 64-byte aligned.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    base: *mut u8,
    bytes: u64,
}

// SAFETY: the memory belongs to the plan that owns the records with this room; ops of a plan run one
// after the other on its queue.
unsafe impl Send for Room {}
// SAFETY: as above.
unsafe impl Sync for Room {}

impl Room {
    /// No workspace.
    pub(crate) const NONE: Room = Room { base: std::ptr::dangling_mut::<f32>().cast(), bytes: 0 };

    /// All of a buffer that the plan owns.
    pub(crate) fn of(buffer: &CpuBuffer) -> Room {
        Room { base: buffer.base(), bytes: buffer.size_bytes() }
    }

    /// Size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The workspace as floats.
    ///
    /// # Safety
    /// Only the op that runs may use it, one at a time; the plan that owns it is alive.
    pub(crate) unsafe fn floats<'a>(&self) -> &'a mut [f32] {
        let count = self.bytes as usize / size_of::<f32>();
        // SAFETY: the plan allocated these bytes, aligned and zeroed; the caller excludes other uses.
        unsafe { std::slice::from_raw_parts_mut(self.base.cast(), count) }
    }
}

/// Bytes of workspace of an op that needs none.
pub(crate) fn no_workspace(_: &Op, _: &Scope) -> u64 {
    0
}

/// Plain rows of a real dtype.
pub(crate) fn is_real(tensor: &Tensor) -> bool {
    tensor.codec() == RowCodec::Plain && tensor.dtype().is_real()
}

/// Plain rows.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.codec() == RowCodec::Plain
}

/// Row stride in elements of `T`.
fn stride<T>(tensor: &Tensor) -> usize {
    tensor.row_stride_bytes() as usize / size_of::<T>()
}

fn view<T: Element>(tensor: &Tensor) -> Rows<T> {
    let (rows, width) = (tensor.rows() as usize, tensor.width() as usize);
    // SAFETY: hal checked bounds and alignment; the plan keeps the buffer alive as long as its
    // records, and the order of the queue excludes a write beside a read.
    unsafe { Rows::from_raw(base_of(tensor).cast(), stride::<T>(tensor), rows, width) }
}

fn view_mut<T: Element>(tensor: &Tensor) -> RowsMut<T> {
    let (rows, width) = (tensor.rows() as usize, tensor.width() as usize);
    // SAFETY: as in `view`; hal checked that a written operand overlaps no other, and compiling that
    // its buffer is writable.
    unsafe { RowsMut::from_raw(base_of(tensor).cast(), stride::<T>(tensor), rows, width) }
}

/// Rows of a real dtype.
pub(crate) fn real(tensor: &Tensor) -> RealRows {
    match tensor.dtype() {
        DType::F32 => RealRows::F32(view(tensor)),
        DType::Bf16 => RealRows::Bf16(view(tensor)),
        DType::F16 => RealRows::F16(view(tensor)),
        other => unreachable!("{other:?} is not real"),
    }
}

/// Writable rows of a real dtype.
pub(crate) fn real_mut(tensor: &Tensor) -> RealRowsMut {
    match tensor.dtype() {
        DType::F32 => RealRowsMut::F32(view_mut(tensor)),
        DType::Bf16 => RealRowsMut::Bf16(view_mut(tensor)),
        DType::F16 => RealRowsMut::F16(view_mut(tensor)),
        other => unreachable!("{other:?} is not real"),
    }
}

/// Rows of f32.
pub(crate) fn floats(tensor: &Tensor) -> Rows<f32> {
    assert_eq!(tensor.dtype(), DType::F32);
    view(tensor)
}

/// Writable rows of f32.
pub(crate) fn floats_mut(tensor: &Tensor) -> RowsMut<f32> {
    assert_eq!(tensor.dtype(), DType::F32);
    view_mut(tensor)
}

/// Rows of i32.
pub(crate) fn ints(tensor: &Tensor) -> Rows<i32> {
    assert_eq!(tensor.dtype(), DType::I32);
    view(tensor)
}

/// Writable rows of i32.
pub(crate) fn ints_mut(tensor: &Tensor) -> RowsMut<i32> {
    assert_eq!(tensor.dtype(), DType::I32);
    view_mut(tensor)
}

/// All elements of a contiguous tensor as one row.
pub(crate) fn flat(tensor: &Tensor) -> Tensor {
    let count = tensor.shape().elements() as u32;
    tensor.reshape(&[1, count])
}

/// Rows as bytes, as they are stored.
pub(crate) fn bytes(tensor: &Tensor) -> Rows<u8> {
    let (rows, width) = (tensor.rows() as usize, tensor.row_bytes() as usize);
    // SAFETY: as in `view`.
    unsafe { Rows::from_raw(base_of(tensor), tensor.row_stride_bytes() as usize, rows, width) }
}

/// Writable rows as bytes, as they are stored.
pub(crate) fn bytes_mut(tensor: &Tensor) -> RowsMut<u8> {
    let (rows, width) = (tensor.rows() as usize, tensor.row_bytes() as usize);
    // SAFETY: as in `view_mut`.
    unsafe { RowsMut::from_raw(base_of(tensor), tensor.row_stride_bytes() as usize, rows, width) }
}

/// Rows to read, however they are stored.
pub(crate) fn any(tensor: &Tensor) -> KeyRows {
    match tensor.codec() {
        RowCodec::Plain => KeyRows::Real(real(tensor)),
        codec => KeyRows::Coded { bytes: bytes(tensor), width: tensor.width() as usize, codec },
    }
}

/// Rows to write, however they are stored.
pub(crate) fn any_mut(tensor: &Tensor) -> Target {
    match tensor.codec() {
        RowCodec::Plain => Target::Real(real_mut(tensor)),
        codec => Target::Coded { bytes: bytes_mut(tensor), width: tensor.width() as usize, codec },
    }
}

/// True if a row is stored in a way the kernels read and write, and is not too wide for one piece.
pub(crate) fn is_row(tensor: &Tensor) -> bool {
    let known = match tensor.codec() {
        RowCodec::Plain => tensor.dtype().is_real(),
        RowCodec::Fp8 { tail, .. } => u32::from(tail) <= tensor.width(),
        RowCodec::Fp4 { block } => block.is_multiple_of(2),
        _ => false,
    };
    known && tensor.width() as usize <= kernels::rows::cpu::ROW_MAX
}
