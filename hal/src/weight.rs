//! Weights: matrices the backend owns in the layout it likes. The checkpoint's encoding is input;
//! what it was transcoded to, if at all, is reported. A weight is not a tensor and has no views.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::tensor::DType;

/// How the numbers of a weight are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// Elements of a dtype (`F32`, `F16`, `Bf16`).
    Plain(DType),
    /// E4M3 codes, one E8M0 scale per `rows`×`cols` block (dense weights: 128×128).
    Fp8Block {
        /// Rows per scale.
        rows: u16,
        /// Columns per scale.
        cols: u16,
    },
    /// E2M1 codes two per byte (even column in the low nibble), one E8M0 scale per `cols` inputs of
    /// a row (experts: 32).
    Fp4Block {
        /// Columns per scale.
        cols: u16,
    },
    /// INT8 codes, one f32 scale per output row.
    Int8Row,
}

impl Encoding {
    /// Bytes of the codes of a `rows`×`cols` matrix.
    pub fn code_bytes(self, rows: u64, cols: u64) -> u64 {
        match self {
            Encoding::Plain(dtype) => rows * cols * dtype.size_bytes(),
            Encoding::Fp8Block { .. } | Encoding::Int8Row => rows * cols,
            Encoding::Fp4Block { .. } => rows * cols.div_ceil(2),
        }
    }

    /// Bytes of the scales of a `rows`×`cols` segment; 0 for plain encodings.
    pub fn scale_bytes(self, rows: u64, cols: u64) -> u64 {
        match self {
            Encoding::Plain(_) => 0,
            Encoding::Fp8Block { rows: r, cols: c } => {
                rows.div_ceil(u64::from(r)) * cols.div_ceil(u64::from(c))
            }
            Encoding::Fp4Block { cols: c } => rows * cols.div_ceil(u64::from(c)),
            Encoding::Int8Row => rows * 4,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Plain(dtype) => write!(f, "{dtype:?}"),
            Encoding::Fp8Block { rows, cols } => write!(f, "fp8 {rows}x{cols}"),
            Encoding::Fp4Block { cols } => write!(f, "fp4 1x{cols}"),
            Encoding::Int8Row => f.write_str("int8 per row"),
        }
    }
}

/// What a weight is, before anything of it is read.
///
/// Mathematically `[groups, rows, cols]`: `groups` matrices that map `cols` inputs to `rows` outputs.
/// In memory all `groups * rows` rows follow each other, cut into segments of `segment_rows` rows;
/// every segment is one contiguous matrix of the checkpoint whose scale blocks start at its own
/// first row (an expert's gate and up halves are two segments; a grouped projection is one for all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// Name for reports and errors.
    pub name: Arc<str>,
    /// Number of matrices.
    pub groups: u32,
    /// Outputs of one matrix.
    pub rows: u32,
    /// Inputs of one matrix.
    pub cols: u32,
    /// Rows of one segment; divides `groups * rows`.
    pub segment_rows: u32,
    /// Coding of every segment.
    pub encoding: Encoding,
}

impl WeightSpec {
    /// Number of segments.
    pub fn segments(&self) -> u32 {
        (u64::from(self.groups) * u64::from(self.rows) / u64::from(self.segment_rows)) as u32
    }

    /// Bytes of one segment's codes.
    pub fn segment_code_bytes(&self) -> u64 {
        self.encoding.code_bytes(u64::from(self.segment_rows), u64::from(self.cols))
    }

    /// Bytes of one segment's scales.
    pub fn segment_scale_bytes(&self) -> u64 {
        self.encoding.scale_bytes(u64::from(self.segment_rows), u64::from(self.cols))
    }

    /// Bytes of codes and scales together.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.segments()) * (self.segment_code_bytes() + self.segment_scale_bytes())
    }
}

/// Which bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightPart {
    /// The codes, row-major.
    Codes,
    /// The scales, row-major over blocks.
    Scales,
}

/// Host bytes somebody keeps alive: a mapped file, or a vector.
pub trait ByteOwner: Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// A device reads them in place, again and again: an owner whose memory reads slowly may exchange it for faster
    /// memory, a piece at a time, as long as `go_on` agrees to the bytes of the next piece. Addresses and
    /// bytes stay, also for who reads meanwhile. Gives the bytes exchanged; most owners have none.
    fn promote(&self, go_on: &mut dyn FnMut(u64) -> bool) -> u64 {
        let _ = go_on;
        0
    }
}

impl ByteOwner for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A range of shared host bytes.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn ByteOwner>,
    range: Range<usize>,
}

impl SharedBytes {
    /// `range` of what `owner` holds.
    ///
    /// # Panics
    /// If the range leaves the owner's bytes: the loader checked them against the header.
    pub fn new(owner: Arc<dyn ByteOwner>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end);
        assert!(range.end <= owner.bytes().len());
        SharedBytes { owner, range }
    }

    /// All of a vector.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        SharedBytes { owner: Arc::new(bytes), range }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }

    /// Who keeps them.
    pub fn owner(&self) -> &Arc<dyn ByteOwner> {
        &self.owner
    }
}

impl Default for SharedBytes {
    /// No bytes.
    fn default() -> Self {
        SharedBytes::from_vec(Vec::new())
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.range.len())
    }
}

/// One segment lent in place.
#[derive(Clone, Debug)]
pub struct WeightSegment {
    /// The codes.
    pub codes: SharedBytes,
    /// The scales; `None` for plain encodings.
    pub scales: Option<SharedBytes>,
}

/// Where a weight comes from. Pull model: the backend asks for one segment at a time, straight into
/// its staging memory, or borrows the bytes in place.
pub trait WeightSource {
    /// What it is.
    fn spec(&self) -> &WeightSpec;

    /// Copies one part of one segment into `out`, which has exactly its size.
    ///
    /// # Errors
    /// `Io` if the bytes cannot be read.
    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> Result<()>;

    /// All segments in place, if the bytes lie in host memory that can be kept (a mapped file).
    fn lend(&self) -> Option<Vec<WeightSegment>> {
        None
    }

    /// That `part` of `segment` is this noise and nothing else: a backend may make the bytes itself, where
    /// they are needed, and then gets the same ones as from `read`.
    fn noise(&self, _segment: u32, _part: WeightPart) -> Option<Noise> {
        None
    }
}

/// Pseudo-random bytes that any device makes alike, for weights that only have to be as large as real
/// ones. Word i, little-endian, is `hash(seed, i) & and | or`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// Which noise.
    pub seed: u32,
    /// Bits that vary.
    pub and: u32,
    /// Bits that are set.
    pub or: u32,
}

impl Noise {
    /// The i-th word: Wellons' `lowbias32` of the index's halves and the seed.
    pub fn word(&self, index: u64) -> u32 {
        let mut hash = index as u32 ^ self.seed ^ ((index >> 32) as u32).wrapping_mul(0x9e37_79b9);
        hash = (hash ^ hash >> 16).wrapping_mul(0x21f0_aaad);
        hash = (hash ^ hash >> 15).wrapping_mul(0x735a_2d97);
        (hash ^ hash >> 15) & self.and | self.or
    }

    /// Its first bytes.
    pub fn fill(&self, out: &mut [u8]) {
        for (index, chunk) in out.chunks_mut(4).enumerate() {
            let word = self.word(index as u64).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// What a backend keeps behind a [`Weight`].
pub trait RawWeight: Any + Send + Sync + fmt::Debug {
    /// For the backend's own downcast.
    fn as_any(&self) -> &dyn Any;
}

/// A loaded weight.
#[derive(Clone, Debug)]
pub struct Weight {
    raw: Arc<dyn RawWeight>,
    spec: Arc<WeightSpec>,
    stored: Encoding,
}

impl Weight {
    /// Made by a backend in `Device::load_weight`; `stored` is the encoding it keeps.
    pub fn new(raw: Arc<dyn RawWeight>, spec: WeightSpec, stored: Encoding) -> Self {
        Weight { raw, spec: Arc::new(spec), stored }
    }

    /// The backend's object.
    pub fn raw(&self) -> &Arc<dyn RawWeight> {
        &self.raw
    }

    /// What it is.
    pub fn spec(&self) -> &WeightSpec {
        &self.spec
    }

    /// The encoding the device keeps; differs from the spec's if it was transcoded.
    pub fn stored(&self) -> Encoding {
        self.stored
    }
}

/// What a device does with an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightSupport {
    /// Kept as it is.
    Native,
    /// Kept in another encoding; reported when the model opens.
    Transcoded(Encoding),
    /// Cannot be loaded, and why.
    Absent(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_varies_where_it_may() {
        let noise = Noise { seed: 7, and: 0x00ff_ff0f, or: 0x4000_0000 };
        let mut bytes = [0; 4099];
        noise.fill(&mut bytes);
        assert!(bytes.iter().skip(3).step_by(4).all(|&byte| byte == 0x40));
        assert!(bytes.iter().step_by(4).all(|&byte| byte < 0x10));
        let mut seen = [false; 256];
        bytes.iter().skip(1).step_by(4).for_each(|&byte| seen[usize::from(byte)] = true);
        assert!(seen.iter().filter(|&&seen| seen).count() > 240);
        // The prefix of a longer one, and another seed's is another.
        assert_eq!(noise.word(1024).to_le_bytes()[..3], bytes[4096..]);
        assert_ne!(Noise { seed: 8, ..noise }.word(0), noise.word(0));
        assert_ne!(noise.word(1 << 32), noise.word(0));
    }

    #[test]
    fn sizes_follow_the_released_layout() {
        let spec = |groups, rows, cols, segment_rows, encoding| WeightSpec {
            name: "w".into(),
            groups,
            rows,
            cols,
            segment_rows,
            encoding,
        };
        let fp8 = Encoding::Fp8Block { rows: 128, cols: 128 };
        let experts = spec(256, 4096, 4096, 2048, Encoding::Fp4Block { cols: 32 });
        assert_eq!(experts.segments(), 512);
        assert_eq!(experts.segment_code_bytes(), 2048 * 2048);
        assert_eq!(experts.segment_scale_bytes(), 2048 * 128);
        let odd = spec(1, 130, 200, 130, fp8);
        assert_eq!((odd.segment_code_bytes(), odd.segment_scale_bytes()), (26_000, 4));
    }
}
