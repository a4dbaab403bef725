//! Resolving ops: tensors become addresses and strides, an op becomes launches of kernels.
//!
//! One file per op family. `fits` functions look at dtypes, codecs and widths, never at row counts;
//! shapes were checked by hal. A record is only made for an op that fits, so another kind of op in it
//! is `unreachable!`.

pub(crate) mod attend;
pub(crate) mod compress;
pub(crate) mod convert;
pub(crate) mod finish;
pub(crate) mod gemm;
pub(crate) mod index;
pub(crate) mod join;
pub(crate) mod map;
pub(crate) mod moe;
pub(crate) mod rows;
pub(crate) mod stream;
pub(crate) mod then;

use std::sync::Arc;

use hal::{DType, RowCodec, Tensor};

use crate::device::Machine;
use crate::driver::{Address, Launch};
use crate::memory::address_of;

/// What the records of one plan share.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) machine: &'a Arc<Machine>,
    /// Workspace of the plan; each op may use all of it while it runs. 0 until it is there.
    pub(crate) workspace: Address,
    /// Launches may be joined (`then`): by blocks that count, here. The address is 0 until it is there.
    pub(crate) joins: bool,
    pub(crate) counters: Address,
    /// Rows whose round trip lies ready.
    pub(crate) rounded: Option<join::Rounded>,
}

/// Columns of a block of a row sum; `FOLD` in `kernels/common/common.cuh`.
const FOLD: u32 = 128;
/// Threads of a warp.
const WARP: u32 = 32;
/// Shared memory that a block may have on every GPU from compute capability 8.0 up, in bytes.
pub(crate) const SHARED_MAX: u32 = 99 << 10;
/// Most blocks along y and z.
pub(crate) const GRID_MAX: u32 = 65_535;

/// The argument of a kernel, field by field in the order of its struct. Fields of 8 bytes come before
/// those of 4, so nothing is padded but the end; the tests compare sizes with the kernels' own.
#[derive(Default)]
pub(crate) struct Args {
    bytes: Vec<u8>,
}

impl Args {
    pub(crate) fn new() -> Args {
        Args::default()
    }

    /// A `Rows`.
    pub(crate) fn rows(self, tensor: &Tensor) -> Args {
        self.place(&Place::of(tensor))
    }

    /// A `Rows`.
    pub(crate) fn place(self, place: &Place) -> Args {
        self.address(place.address)
            .long(place.stride_bytes)
            .int(place.rows)
            .int(place.width)
            .int(place.kind)
            .short(place.block)
            .short(place.tail)
    }

    /// A `Round`.
    pub(crate) fn round(self, codec: Option<RowCodec>) -> Args {
        let (form, block, tail) = match codec {
            Some(RowCodec::Fp8 { block, tail }) => (FP8_ROWS, block, tail),
            Some(RowCodec::Fp4 { block }) => (FP4_ROWS, block, 0),
            _ => (F32, 1, 0),
        };
        self.int(form).short(block).short(tail)
    }

    /// A `Rows` of one tensor or of none.
    pub(crate) fn rows_or_none(self, tensor: Option<&Tensor>) -> Args {
        self.place_or_none(tensor.map(Place::of).as_ref())
    }

    /// A `Rows` of one place or of none.
    pub(crate) fn place_or_none(self, place: Option<&Place>) -> Args {
        match place {
            Some(place) => self.place(place),
            None => self.long(0).long(0).long(0).long(0),
        }
    }

    pub(crate) fn address(self, address: Address) -> Args {
        self.long(address)
    }

    pub(crate) fn long(self, value: u64) -> Args {
        self.push(&value.to_le_bytes())
    }

    pub(crate) fn int(self, value: u32) -> Args {
        self.push(&value.to_le_bytes())
    }

    pub(crate) fn float(self, value: f32) -> Args {
        self.push(&value.to_le_bytes())
    }

    pub(crate) fn short(self, value: u16) -> Args {
        self.push(&value.to_le_bytes())
    }

    /// Bytes that mean nothing.
    fn zeros(mut self, bytes: usize) -> Args {
        self.bytes.resize(self.bytes.len() + bytes, 0);
        self
    }

    /// All fields of another argument.
    fn fields(mut self, other: &Args) -> Args {
        assert!(self.bytes.len().is_multiple_of(8), "a field would be padded");
        self.bytes.extend_from_slice(&other.bytes);
        self
    }

    fn push(mut self, bytes: &[u8]) -> Args {
        assert!(self.bytes.len().is_multiple_of(bytes.len()), "a field would be padded");
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn words(mut self) -> Box<[u64]> {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let (words, rest) = self.bytes.as_chunks::<8>();
        assert!(rest.is_empty());
        words.iter().map(|word| u64::from_le_bytes(*word)).collect()
    }
}

/// How the values of a row are stored; known before anything lies anywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) kind: u32,
    pub(crate) block: u16,
    pub(crate) tail: u16,
}

impl Layout {
    pub(crate) fn of(tensor: &Tensor) -> Layout {
        let (block, tail) = match tensor.codec() {
            RowCodec::Fp8 { block, tail } => (block, tail),
            RowCodec::Fp4 { block } => (block, 0),
            _ => (0, 0),
        };
        Layout { kind: kind_of(tensor), block, tail }
    }
}

/// Where rows lie, as a kernel sees them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: Address,
    pub(crate) stride_bytes: u64,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) kind: u32,
    block: u16,
    tail: u16,
}

impl Place {
    pub(crate) fn of(tensor: &Tensor) -> Place {
        let Layout { kind, block, tail } = Layout::of(tensor);
        Place {
            address: address_of(tensor),
            stride_bytes: tensor.row_stride_bytes(),
            rows: tensor.rows(),
            width: tensor.width(),
            kind,
            block,
            tail,
        }
    }

    /// f32 rows in the workspace of an op, `bytes` behind its begin; `bytes` moves behind them.
    pub(crate) fn scratch(scope: &Scope<'_>, bytes: &mut u64, rows: u32, width: u32) -> Place {
        Place::scratch_of(F32, scope, bytes, rows, width)
    }

    /// The same of a kind: reals or integers.
    pub(crate) fn scratch_of(
        kind: u32,
        scope: &Scope<'_>,
        bytes: &mut u64,
        rows: u32,
        width: u32,
    ) -> Place {
        let stride_bytes = u64::from(width) * if matches!(kind, F32 | INTS) { 4 } else { 2 };
        let address = scope.workspace + *bytes;
        *bytes += (stride_bytes * u64::from(rows)).next_multiple_of(256);
        Place { address, stride_bytes, rows, width, kind, block: 0, tail: 0 }
    }

    /// Rows like these without gaps, at an address.
    pub(crate) fn packed(address: Address, like: &Place) -> Place {
        let stride_bytes = u64::from(like.width) * if like.kind == F32 { 4 } else { 2 };
        Place { address, stride_bytes, block: 0, tail: 0, ..*like }
    }

    /// The same rows without gaps, cut into others.
    pub(crate) fn reshape(&self, rows: u32, width: u32) -> Place {
        let elements = |rows: u32, width: u32| u64::from(rows) * u64::from(width);
        assert_eq!(elements(rows, width), elements(self.rows, self.width));
        let stride_bytes = if self.width == 0 {
            0
        } else {
            self.stride_bytes / u64::from(self.width) * u64::from(width)
        };
        Place { rows, width, stride_bytes, ..*self }
    }

    /// Some of the rows.
    pub(crate) fn row_range(&self, first: u32, rows: u32) -> Place {
        Place { address: self.address + u64::from(first) * self.stride_bytes, rows, ..*self }
    }
}

impl Scope<'_> {
    /// A launch.
    pub(crate) fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        args: Args,
    ) -> Vec<Launch> {
        let function = self.machine.kernel(kernel);
        vec![Launch { function, grid, threads, shared_bytes, args: args.words() }]
    }

    /// A launch of one thread an element, 256 a block.
    pub(crate) fn elements(&self, kernel: &str, count: u64, args: Args) -> Vec<Launch> {
        let blocks =
            u32::try_from(count.div_ceil(256)).expect("hal bounds tensors by their buffers");
        self.launch(kernel, [blocks, 1, 1], 256, 0, args)
    }
}

/// Warps and shared bytes for a row sum over `width` columns. The number of warps does not show in bits.
pub(crate) fn row_sum_shape(width: u32) -> (u32, u32) {
    let blocks = width.div_ceil(FOLD).max(1);
    (WARP * blocks.min(8), 4 * blocks)
}

/// Number of a storage kind; as in `kernels/common/common.cuh`.
pub(crate) fn kind_of(tensor: &Tensor) -> u32 {
    match (tensor.codec(), tensor.dtype()) {
        (RowCodec::Fp8 { .. }, _) => FP8_ROWS,
        (RowCodec::Fp4 { .. }, _) => FP4_ROWS,
        (_, dtype) if dtype.is_real() => kind_of_real(dtype),
        (_, DType::F8E4M3 | DType::U8) => 3,
        _ => INTS,
    }
}

/// The same of a real dtype.
pub(crate) fn kind_of_real(dtype: DType) -> u32 {
    match dtype {
        DType::Bf16 => BF16,
        DType::F16 => 2,
        _ => F32,
    }
}

const F32: u32 = 0;
pub(crate) const BF16: u32 = 1;
pub(crate) const INTS: u32 = 4;
pub(crate) const FP8_ROWS: u32 = 5;
pub(crate) const FP4_ROWS: u32 = 6;

/// Plain rows of a real dtype.
pub(crate) fn is_real(tensor: &Tensor) -> bool {
    is_plain(tensor) && tensor.dtype().is_real()
}

/// Plain rows.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.codec() == RowCodec::Plain
}

/// True if the kernels read and write such rows.
pub(crate) fn is_row(tensor: &Tensor) -> bool {
    match tensor.codec() {
        RowCodec::Plain => tensor.dtype().is_real(),
        codec => is_block(codec, tensor.width()),
    }
}

/// Blocks the quantisers take: FP4 codes come in pairs.
pub(crate) fn is_block(codec: RowCodec, width: u32) -> bool {
    match codec {
        RowCodec::Fp8 { block, tail } => block > 0 && u32::from(tail) <= width,
        RowCodec::Fp4 { block } => block > 0 && block.is_multiple_of(2),
        _ => false,
    }
}

/// True if `write_rounded` of common.cuh takes it: rows of a codec only after a round trip to that codec.
pub(crate) fn is_rounded(out: &Tensor, round: Option<RowCodec>) -> bool {
    let Some(codec) = round else { return is_row(out) };
    is_row(out) && is_block(codec, out.width()) && (is_plain(out) || out.codec() == codec)
}

/// Gains, biases and the like are read as one row.
pub(crate) fn is_vector(tensor: &Tensor) -> bool {
    is_plain(tensor) && tensor.is_contiguous()
}
