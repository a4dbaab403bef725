//! Weights, kept in the checkpoint's encoding: the mapped file itself where it can be lent, else a copy.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use hal::{
    DType, Encoding, Error, RawWeight, Result, SharedBytes, Weight, WeightPart, WeightSource,
    WeightSpec, WeightSupport,
};
use kernels::gemm::{self, FiniteNotes, Segment, WeightView};

use crate::memory::{CpuBuffer, Ledger};
use crate::plan::Machine;

/// What keeps a weight's bytes alive.
enum Owner {
    Lent(#[allow(dead_code, reason = "held, not read")] SharedBytes),
    Buffer(#[allow(dead_code, reason = "held, not read")] CpuBuffer),
}

/// A weight as `kernels::gemm` reads it.
pub(crate) struct CpuWeight {
    view: WeightView<'static>,
    /// What `view` points into. Never touched after construction.
    _segments: Box<[Segment<'static>]>,
    /// As `_segments`; FP8 weights have them.
    _notes: Option<Box<FiniteNotes>>,
    _owners: Vec<Owner>,
    size_bytes: u64,
}

impl CpuWeight {
    /// The view. It must not outlive the weight: plans hold both.
    pub(crate) fn view(&self) -> WeightView<'static> {
        self.view
    }
}

impl RawWeight for CpuWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for CpuWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuWeight({} bytes)", self.size_bytes)
    }
}

/// The backend's object behind a weight.
///
/// # Errors
/// `InvalidProgram` if another device loaded it.
pub(crate) fn raw_of(weight: &Weight) -> Result<&CpuWeight> {
    let other = || Error::invalid(format!("weight {} is on another device", weight.spec().name));
    weight.raw().as_any().downcast_ref().ok_or_else(other)
}

/// What the device does with a weight of this spec.
pub(crate) fn support(spec: &WeightSpec) -> WeightSupport {
    if spec.cols as usize > gemm::COLS_MAX {
        return WeightSupport::Absent("more inputs than a product takes");
    }
    match encoding_of(spec.encoding) {
        Some(gemm::Encoding::Fp4) if !spec.cols.is_multiple_of(2) => {
            WeightSupport::Absent("an odd number of 4-bit codes in a row")
        }
        Some(_) => WeightSupport::Native,
        None => WeightSupport::Absent("no kernel reads this encoding"),
    }
}

fn encoding_of(encoding: Encoding) -> Option<gemm::Encoding> {
    Some(match encoding {
        Encoding::Plain(DType::F32) => gemm::Encoding::F32,
        Encoding::Plain(DType::Bf16) => gemm::Encoding::Bf16,
        Encoding::Plain(DType::F16) => gemm::Encoding::F16,
        Encoding::Fp8Block { rows, cols } => {
            gemm::Encoding::Fp8 { rows: u32::from(rows), cols: u32::from(cols) }
        }
        Encoding::Fp4Block { cols } if usize::from(cols) == gemm::FP4_COLS => gemm::Encoding::Fp4,
        Encoding::Int8Row => gemm::Encoding::Int8,
        _ => return None,
    })
}

/// Codes and scales of one segment of the spec.
struct Piece {
    codes: &'static [u8],
    scales: &'static [u8],
}

/// Loads a weight; nothing is decoded.
pub(crate) fn load(source: &mut dyn WeightSource, machine: &Machine) -> Result<Weight> {
    let ledger = &machine.ledger;
    let spec = source.spec().clone();
    if let WeightSupport::Absent(reason) = support(&spec) {
        return Err(Error::unsupported(format!(
            "weight {} ({}, {} inputs): {reason}",
            spec.name, spec.encoding, spec.cols
        )));
    }
    let mut owners = Vec::new();
    let pieces = match source.lend() {
        Some(lent) => {
            lent.iter().for_each(|segment| machine.promoter.promote(segment.codes.owner()));
            lend(&spec, lent, &mut owners)?
        }
        None => read(&spec, source, ledger, &mut owners)?,
    };
    let segments = cut(&spec, &pieces, ledger, &mut owners)?.into_boxed_slice();
    // SAFETY: the boxed slice lives as long as the weight and is not touched again; it does not move
    // when the box does.
    let lasting: &'static [Segment<'static>] =
        unsafe { std::slice::from_raw_parts(segments.as_ptr(), segments.len()) };
    let view = WeightView::new(spec.cols as usize, spec.groups as usize, lasting)
        .map_err(|reason| Error::invalid(format!("{}: {reason}", spec.name)))?;
    let notes = matches!(spec.encoding, Encoding::Fp8Block { .. })
        .then(|| Box::new(FiniteNotes::new(spec.groups as usize, spec.rows as usize)));
    let view = match &notes {
        // SAFETY: the notes stay in their box as long as the weight lives.
        Some(notes) => view.noting(unsafe { &*std::ptr::from_ref::<FiniteNotes>(notes) }),
        None => view,
    };
    let size_bytes = spec.size_bytes();
    let raw = CpuWeight { view, _segments: segments, _notes: notes, _owners: owners, size_bytes };
    let stored = spec.encoding;
    Ok(Weight::new(Arc::new(raw), spec, stored))
}

/// The bytes of a slice for as long as its owner, which the weight keeps beside it.
fn lasting(bytes: &[u8]) -> &'static [u8] {
    // SAFETY: only called on bytes whose owner is pushed to the weight's `_owners`, which live as long
    // as every use of the result; owners do not move or change their bytes.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}

fn lend(
    spec: &WeightSpec,
    lent: Vec<hal::WeightSegment>,
    owners: &mut Vec<Owner>,
) -> Result<Vec<Piece>> {
    if lent.len() != spec.segments() as usize {
        return Err(Error::invalid(format!(
            "weight {}: {} segments lent, {} expected",
            spec.name,
            lent.len(),
            spec.segments()
        )));
    }
    let mut pieces = Vec::with_capacity(lent.len());
    for segment in lent {
        let codes = lasting(segment.codes.bytes());
        owners.push(Owner::Lent(segment.codes));
        let mut scales: &'static [u8] = &[];
        if let Some(bytes) = segment.scales {
            scales = lasting(bytes.bytes());
            owners.push(Owner::Lent(bytes));
        }
        pieces.push(Piece { codes, scales });
    }
    Ok(pieces)
}

fn read(
    spec: &WeightSpec,
    source: &mut dyn WeightSource,
    ledger: &Arc<Ledger>,
    owners: &mut Vec<Owner>,
) -> Result<Vec<Piece>> {
    let buffer = CpuBuffer::zeroed(&spec.name, spec.size_bytes(), ledger)?;
    let (codes, scales) = (spec.segment_code_bytes() as usize, spec.segment_scale_bytes() as usize);
    let mut at = buffer.base();
    let mut pieces = Vec::with_capacity(spec.segments() as usize);
    for segment in 0..spec.segments() {
        // SAFETY: the buffer has room for all segments and is used by nobody else yet.
        let (code_bytes, scale_bytes) = unsafe {
            let both = std::slice::from_raw_parts_mut(at, codes + scales);
            at = at.add(codes + scales);
            both.split_at_mut(codes)
        };
        source.read(segment, WeightPart::Codes, code_bytes)?;
        if scales > 0 {
            source.read(segment, WeightPart::Scales, scale_bytes)?;
        }
        pieces.push(Piece { codes: lasting(code_bytes), scales: lasting(scale_bytes) });
    }
    owners.push(Owner::Buffer(buffer));
    Ok(pieces)
}

/// Segments of the checkpoint as segments of groups: a kernel's segment never spans two groups.
fn cut(
    spec: &WeightSpec,
    pieces: &[Piece],
    ledger: &Arc<Ledger>,
    owners: &mut Vec<Owner>,
) -> Result<Vec<Segment<'static>>> {
    let encoding = encoding_of(spec.encoding).expect("support was asked");
    let (group_rows, rows) = (spec.rows as usize, spec.segment_rows as usize);
    if group_rows.is_multiple_of(rows) {
        let whole =
            |piece: &Piece| Segment { rows, codes: piece.codes, scales: piece.scales, encoding };
        return Ok(pieces.iter().map(whole).collect());
    }
    if !rows.is_multiple_of(group_rows) {
        return Err(Error::unsupported(format!(
            "weight {}: segments of {rows} rows do not fit groups of {group_rows}",
            spec.name
        )));
    }
    let mut segments = Vec::new();
    for piece in pieces {
        let (scales, encoding) = split_scales(spec, piece, encoding, ledger, owners)?;
        let code_bytes = encoding.row_bytes(spec.cols as usize) * group_rows;
        let scale_bytes = encoding.scale_bytes(group_rows, spec.cols as usize);
        for part in 0..rows / group_rows {
            segments.push(Segment {
                rows: group_rows,
                codes: &piece.codes[part * code_bytes..][..code_bytes],
                scales: &scales[part * scale_bytes..][..scale_bytes],
                encoding,
            });
        }
    }
    Ok(segments)
}

/// Scales of a segment that spans groups, such that every group begins with its own block. Where a
/// block spans two groups, its scale is repeated for shorter blocks.
fn split_scales(
    spec: &WeightSpec,
    piece: &Piece,
    encoding: gemm::Encoding,
    ledger: &Arc<Ledger>,
    owners: &mut Vec<Owner>,
) -> Result<(&'static [u8], gemm::Encoding)> {
    let gemm::Encoding::Fp8 { rows: block, cols } = encoding else {
        return Ok((piece.scales, encoding));
    };
    if spec.rows.is_multiple_of(block) {
        return Ok((piece.scales, encoding));
    }
    let short = common_divisor(block, spec.rows);
    let row_scales = spec.cols.div_ceil(cols) as usize;
    let blocks = (spec.segment_rows / short) as usize;
    let buffer = CpuBuffer::zeroed(&spec.name, (blocks * row_scales) as u64, ledger)?;
    // SAFETY: the buffer has this size and is used by nobody else yet.
    let out = unsafe { std::slice::from_raw_parts_mut(buffer.base(), blocks * row_scales) };
    for (index, out) in out.chunks_exact_mut(row_scales).enumerate() {
        let source = index * short as usize / block as usize;
        out.copy_from_slice(&piece.scales[source * row_scales..][..row_scales]);
    }
    let scales = lasting(out);
    owners.push(Owner::Buffer(buffer));
    Ok((scales, gemm::Encoding::Fp8 { rows: short, cols }))
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
