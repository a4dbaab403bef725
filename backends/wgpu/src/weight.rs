//! Weights, kept in the checkpoint's encoding: rows of words, 32 rows side by side, cut into parts that
//! fit a binding. Nothing is decoded here.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use hal::{
    DType, Encoding, Error, RawWeight, Result, Weight, WeightPart, WeightSource, WeightSpec,
    WeightSupport,
};

use crate::memory::WgpuBuffer;
use crate::shared::Shared;

/// Weight rows whose words lie side by side.
pub(crate) const ROWS_ABREAST: u32 = 32;

/// How a shader reads an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coding {
    /// Flag of the shader text.
    pub(crate) name: &'static str,
    /// Numbers in a word.
    pub(crate) per_word: u32,
    /// Rows and columns of a block with an E8M0 scale; 0: no such scales.
    pub(crate) block_rows: u32,
    pub(crate) block_cols: u32,
    /// Each row has an f32 scale.
    pub(crate) row_scaled: bool,
}

impl Coding {
    /// How the shader reads `encoding`, if it does.
    pub(crate) fn of(encoding: Encoding) -> Option<Coding> {
        let coding = |name, per_word, block_rows, block_cols| {
            Some(Coding { name, per_word, block_rows, block_cols, row_scaled: name == "int8" })
        };
        match encoding {
            Encoding::Plain(DType::F32) => coding("f32", 1, 0, 0),
            Encoding::Plain(DType::Bf16) => coding("bf16", 2, 0, 0),
            Encoding::Plain(DType::F16) => coding("f16", 2, 0, 0),
            Encoding::Fp8Block { rows, cols } if rows > 0 && cols > 0 && cols.is_multiple_of(4) => {
                coding("fp8", 4, u32::from(rows), u32::from(cols))
            }
            Encoding::Fp4Block { cols } if cols > 0 && cols.is_multiple_of(8) => {
                coding("fp4", 8, 1, u32::from(cols))
            }
            Encoding::Int8Row => coding("int8", 4, 0, 0),
            _ => None,
        }
    }

    pub(crate) fn scaled(self) -> bool {
        self.block_cols > 0
    }
}

/// Consecutive rows of a weight in buffers of their own.
pub(crate) struct Part {
    /// First row, of all groups' rows one after the other.
    pub(crate) first: u32,
    pub(crate) rows: u32,
    /// Rows after which blocks start anew, within the part.
    pub(crate) segment_rows: u32,
    pub(crate) codes: WgpuBuffer,
    pub(crate) scales: Option<WgpuBuffer>,
}

/// A weight on the device.
pub(crate) struct WgpuWeight {
    pub(crate) coding: Coding,
    pub(crate) parts: Vec<Part>,
}

impl RawWeight for WgpuWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for WgpuWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WgpuWeight({} in {} parts)", self.coding.name, self.parts.len())
    }
}

/// The backend's object behind a weight.
///
/// # Errors
/// `InvalidProgram` if another kind of device loaded it.
pub(crate) fn raw_of(weight: &Weight) -> Result<&WgpuWeight> {
    let other = || Error::invalid(format!("weight {} is on another device", weight.spec().name));
    weight.raw().as_any().downcast_ref().ok_or_else(other)
}

/// What the device does with a weight of this spec.
pub(crate) fn support(spec: &WeightSpec) -> WeightSupport {
    match Coding::of(spec.encoding) {
        Some(_) => WeightSupport::Native,
        None => WeightSupport::Absent("no shader reads this encoding"),
    }
}

/// Where a weight is cut: rows of each part. `bytes_max` bounds the codes of a part.
///
/// A part holds whole segments, or a piece of one that begins with a block of rows.
fn cuts(spec: &WeightSpec, coding: Coding, row_bytes: u64, bytes_max: u64) -> Result<Vec<u32>> {
    let fitting = (bytes_max / row_bytes.max(1)).min(u64::from(u32::MAX)) as u32;
    // Rows lie 32 abreast, so a part's last rows may be padding.
    let fitting = fitting - fitting % ROWS_ABREAST;
    let total = spec.groups * spec.rows;
    let unit = match spec.segment_rows <= fitting {
        true => spec.segment_rows,
        false => coding.block_rows.max(2),
    };
    let step = fitting - fitting % unit;
    if step == 0 {
        return Err(Error::unsupported(format!(
            "weight {}: a row has {row_bytes} bytes, a binding of this adapter {bytes_max}",
            spec.name
        )));
    }
    let mut cuts = Vec::new();
    // Pieces of a segment never reach into the next one.
    let span = if spec.segment_rows <= fitting { total } else { spec.segment_rows };
    for _ in 0..total / span {
        let mut left = span;
        while left > 0 {
            let rows = left.min(step);
            cuts.push(rows);
            left -= rows;
        }
    }
    Ok(cuts)
}

/// Segments as they come from the source, one kept at a time.
struct Segments<'a> {
    source: &'a mut dyn WeightSource,
    lent: Option<Vec<hal::WeightSegment>>,
    current: Option<u32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl Segments<'_> {
    /// Codes and scales of a segment.
    fn get(&mut self, segment: u32) -> Result<(&[u8], &[u8])> {
        if let Some(lent) = &self.lent {
            let one = &lent[segment as usize];
            let scales = one.scales.as_ref().map_or(&[][..], |scales| scales.bytes());
            return Ok((one.codes.bytes(), scales));
        }
        if self.current != Some(segment) {
            self.source.read(segment, WeightPart::Codes, &mut self.codes)?;
            if !self.scales.is_empty() {
                self.source.read(segment, WeightPart::Scales, &mut self.scales)?;
            }
            self.current = Some(segment);
        }
        Ok((&self.codes, &self.scales))
    }
}

/// Loads a weight part by part.
///
/// # Errors
/// `Unsupported` for an encoding no shader reads, `OutOfMemory`, `Io` from the source.
pub(crate) fn load(shared: &Shared, source: &mut dyn WeightSource) -> Result<Weight> {
    let spec = source.spec().clone();
    let coding = Coding::of(spec.encoding).ok_or_else(|| {
        Error::unsupported(format!(
            "weight {} ({}): no shader reads this encoding",
            spec.name, spec.encoding
        ))
    })?;
    let words = spec.cols.div_ceil(coding.per_word);
    let cuts = cuts(&spec, coding, 4 * u64::from(words), shared.weight_bytes_max)?;
    let lent = source.lend();
    let read = lent.is_none();
    let room = |bytes: u64| vec![0; if read { bytes as usize } else { 0 }];
    let mut segments = Segments {
        lent,
        current: None,
        codes: room(spec.segment_code_bytes()),
        scales: room(spec.segment_scale_bytes()),
        source,
    };
    let mut parts = Vec::with_capacity(cuts.len());
    let mut first = 0;
    for rows in cuts {
        parts.push(load_part(shared, &spec, coding, &mut segments, (first, rows))?);
        first += rows;
    }
    let stored = spec.encoding;
    Ok(Weight::new(Arc::new(WgpuWeight { coding, parts }), spec, stored))
}

fn load_part(
    shared: &Shared,
    spec: &WeightSpec,
    coding: Coding,
    segments: &mut Segments<'_>,
    (first, rows): (u32, u32),
) -> Result<Part> {
    let words = spec.cols.div_ceil(coding.per_word) as usize;
    let row_bytes = spec.encoding.code_bytes(1, u64::from(spec.cols)) as usize;
    let abreast = ROWS_ABREAST as usize;
    let mut codes = vec![0u8; rows.next_multiple_of(ROWS_ABREAST) as usize * words * 4];
    let mut scales = Vec::new();
    let scale_cols = match coding.scaled() {
        true => spec.cols.div_ceil(coding.block_cols) as usize,
        false => 0,
    };
    for row in 0..rows {
        let (segment, inner) =
            ((first + row) / spec.segment_rows, (first + row) % spec.segment_rows);
        let (source, source_scales) = segments.get(segment)?;
        // 1 codes, word by word
        let source = &source[inner as usize * row_bytes..][..row_bytes];
        let (group, lane) = (row as usize / abreast, row as usize % abreast);
        for (word, bytes) in source.chunks(4).enumerate() {
            let at = ((group * words + word) * abreast + lane) * 4;
            codes[at..at + bytes.len()].copy_from_slice(bytes);
        }
        // 2 scales, a row of blocks at a time
        if coding.scaled() && inner.is_multiple_of(coding.block_rows) {
            let block = (inner / coding.block_rows) as usize;
            scales.extend_from_slice(&source_scales[block * scale_cols..][..scale_cols]);
        }
        if coding.row_scaled {
            scales.extend_from_slice(&source_scales[4 * inner as usize..][..4]);
        }
    }
    let scales = match scales.is_empty() {
        false => Some(shared.filled(&spec.name, &scales)?),
        true => None,
    };
    let codes = shared.filled(&spec.name, &codes)?;
    Ok(Part { first, rows, segment_rows: spec.segment_rows.min(rows), codes, scales })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(groups: u32, rows: u32, cols: u32, segment_rows: u32) -> WeightSpec {
        let encoding = Encoding::Fp8Block { rows: 128, cols: 128 };
        WeightSpec { name: "w".into(), groups, rows, cols, segment_rows, encoding }
    }

    #[test]
    fn parts_fit_a_binding_and_begin_with_a_block() {
        let coding = |spec: &WeightSpec| Coding::of(spec.encoding).unwrap();
        for (spec, bytes_max, want) in [
            (spec(1, 256, 64, 256), 1 << 20, vec![256]),
            // 4 segments of 64 rows, two fit.
            (spec(2, 128, 64, 64), 128 * 64, vec![128, 128]),
            // A segment of 300 rows is cut at blocks; the next begins anew.
            (spec(2, 300, 64, 300), 256 * 64, vec![256, 44, 256, 44]),
        ] {
            let row_bytes = u64::from(spec.cols);
            let got = cuts(&spec, coding(&spec), row_bytes, bytes_max).unwrap();
            assert_eq!(got, want, "{spec:?}");
            assert!(got.iter().all(|&rows| u64::from(rows) * row_bytes <= bytes_max));
        }
    }

    #[test]
    fn a_row_wider_than_a_binding_is_refused_by_name() {
        let spec = spec(1, 256, 1 << 20, 256);
        let error = cuts(&spec, Coding::of(spec.encoding).unwrap(), 1 << 20, 1 << 24).unwrap_err();
        assert!(error.to_string().contains("weight w"), "{error}");
    }
}
