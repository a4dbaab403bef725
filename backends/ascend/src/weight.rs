//! Weights: plain and INT8 ones as they are; FP8 and FP4 as they are where the hardware has these types
//! (950), elsewhere as bf16, which holds every such number exactly, or on request as INT8 per row.
//!
//! Scales of kept codes become bf16, one per row and block of columns: a power of two is exact in it, and
//! segments that begin inside a block need no care later.

use std::any::Any;
use std::sync::Arc;

use hal::{
    DType, Encoding, Error, RawWeight, Result, Weight, WeightPart, WeightSource, WeightSpec,
    WeightSupport,
};
use half::bf16;
use kernels::quant::formats::{E2M1, E4M3};

use crate::memory::DeviceMemory;
use crate::runtime::Runtime;
use crate::view::{Element, Place, View};

/// What FP8 and FP4 become where the hardware lacks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transcode {
    Bf16,
    Int8,
}

/// A loaded weight, `[groups · rows, cols]`.
#[derive(Debug)]
pub(crate) struct AscendWeight {
    runtime: Arc<Runtime>,
    codes: DeviceMemory,
    /// bf16 `[rows, blocks]`, or f32 `[rows, 1]` beside INT8.
    scales: Option<DeviceMemory>,
    pub(crate) element: Element,
    /// Columns per scale.
    pub(crate) block: i64,
    dims: [i64; 3],
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runtime({:?})", self.soc)
    }
}

impl RawWeight for AscendWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl AscendWeight {
    /// Codes `[groups, rows, cols]`.
    pub(crate) fn codes(&self) -> View {
        let place = Place::Memory { address: self.codes.address, bytes: self.codes.bytes };
        View::whole(place, self.element, &self.dims)
    }

    /// Scales `[groups, rows, blocks]`, if it has any.
    pub(crate) fn scales(&self) -> Option<View> {
        let memory = self.scales.as_ref()?;
        let place = Place::Memory { address: memory.address, bytes: memory.bytes };
        let [groups, rows, cols] = self.dims;
        let blocks = (cols + self.block - 1) / self.block;
        let element = if self.element == Element::I8 { Element::F32 } else { Element::Bf16 };
        Some(View::whole(place, element, &[groups, rows, blocks]))
    }
}

/// What a weight of `spec` becomes.
pub(crate) fn support(spec: &WeightSpec, runtime: &Runtime, to: Transcode) -> WeightSupport {
    let whole_bytes = spec.cols.is_multiple_of(2);
    match spec.encoding {
        Encoding::Plain(DType::F32 | DType::F16 | DType::Bf16) | Encoding::Int8Row => {
            WeightSupport::Native
        }
        Encoding::Fp8Block { .. } if runtime.soc.has_small_floats() => WeightSupport::Native,
        Encoding::Fp4Block { .. } if runtime.soc.has_small_floats() && whole_bytes => {
            WeightSupport::Native
        }
        Encoding::Fp8Block { .. } | Encoding::Fp4Block { .. } => {
            WeightSupport::Transcoded(match to {
                Transcode::Bf16 => Encoding::Plain(DType::Bf16),
                Transcode::Int8 => Encoding::Int8Row,
            })
        }
        _ => WeightSupport::Absent("an encoding this backend has never met"),
    }
}

/// The element codes are kept in.
fn element_of(stored: Encoding) -> Element {
    match stored {
        Encoding::Plain(DType::F32) => Element::F32,
        Encoding::Plain(DType::F16) => Element::F16,
        Encoding::Plain(_) => Element::Bf16,
        Encoding::Fp8Block { .. } => Element::F8E4M3,
        Encoding::Fp4Block { .. } => Element::F4E2M1,
        _ => Element::I8,
    }
}

/// Pulls segment after segment onto the device.
pub(crate) fn load(
    source: &mut dyn WeightSource,
    runtime: &Arc<Runtime>,
    to: Transcode,
) -> Result<Weight> {
    let spec = source.spec().clone();
    let stored = match support(&spec, runtime, to) {
        WeightSupport::Native => spec.encoding,
        WeightSupport::Transcoded(encoding) => encoding,
        WeightSupport::Absent(why) => return Err(Error::unsupported(why)),
    };
    let rows = u64::from(spec.groups) * u64::from(spec.rows);
    let cols = u64::from(spec.cols);
    let block = match stored {
        Encoding::Fp8Block { cols, .. } | Encoding::Fp4Block { cols } => u64::from(cols),
        _ => cols.max(1),
    };
    let scale_row_bytes = match stored {
        Encoding::Plain(_) => 0,
        Encoding::Int8Row => 4,
        _ => 2 * cols.div_ceil(block),
    };
    let code_bytes = stored.code_bytes(rows, cols);
    let codes = DeviceMemory::new(&spec.name, code_bytes, runtime)?;
    let scales = match scale_row_bytes {
        0 => None,
        bytes => Some(DeviceMemory::new(&spec.name, rows * bytes, runtime)?),
    };
    let mut staging = Segment::new(&spec);
    for number in 0..spec.segments() {
        staging.read(source, number)?;
        let (code, scale) = staging.stored_as(stored);
        let first = u64::from(number) * u64::from(spec.segment_rows);
        codes.write(stored.code_bytes(first, cols), &code)?;
        if let Some(scales) = &scales {
            scales.write(first * scale_row_bytes, &scale)?;
        }
    }
    let dims = [spec.groups, spec.rows, spec.cols].map(i64::from);
    let element = element_of(stored);
    let runtime = Arc::clone(runtime);
    let raw = AscendWeight { runtime, codes, scales, element, block: block as i64, dims };
    Ok(Weight::new(Arc::new(raw), spec, stored))
}

/// One segment on the host.
struct Segment {
    encoding: Encoding,
    rows: usize,
    cols: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl Segment {
    fn new(spec: &WeightSpec) -> Segment {
        Segment {
            encoding: spec.encoding,
            rows: spec.segment_rows as usize,
            cols: spec.cols as usize,
            codes: vec![0; spec.segment_code_bytes() as usize],
            scales: vec![0; spec.segment_scale_bytes() as usize],
        }
    }

    fn read(&mut self, source: &mut dyn WeightSource, number: u32) -> Result<()> {
        source.read(number, WeightPart::Codes, &mut self.codes)?;
        match self.scales.is_empty() {
            true => Ok(()),
            false => source.read(number, WeightPart::Scales, &mut self.scales),
        }
    }

    /// Codes and scales as the device keeps them.
    fn stored_as(&self, stored: Encoding) -> (Vec<u8>, Vec<u8>) {
        match (self.encoding, stored) {
            (Encoding::Plain(_) | Encoding::Int8Row, _) => {
                (self.codes.clone(), self.scales.clone())
            }
            (_, Encoding::Plain(_)) => (self.as_bf16(), Vec::new()),
            (_, Encoding::Int8Row) => self.as_int8(),
            _ => (self.codes.clone(), self.expanded_scales()),
        }
    }

    /// Exponent byte of the scale of an element.
    fn exponent(&self, row: usize, col: usize) -> u8 {
        let (rows, cols) = match self.encoding {
            Encoding::Fp8Block { rows, cols } => (usize::from(rows), usize::from(cols)),
            Encoding::Fp4Block { cols } => (1, usize::from(cols)),
            _ => unreachable!("plain weights have no exponents"),
        };
        self.scales[row / rows * self.cols.div_ceil(cols) + col / cols]
    }

    fn number(&self, row: usize, col: usize) -> f32 {
        let code = match self.encoding {
            Encoding::Fp8Block { .. } => E4M3[usize::from(self.codes[row * self.cols + col])],
            _ => {
                let byte = self.codes[row * self.cols.div_ceil(2) + col / 2];
                let nibble = if col.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
                E2M1[usize::from(nibble)]
            }
        };
        code * power(self.exponent(row, col)).to_f32()
    }

    fn as_bf16(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * self.rows * self.cols);
        for row in 0..self.rows {
            for col in 0..self.cols {
                out.extend(bf16::from_f32(self.number(row, col)).to_le_bytes());
            }
        }
        out
    }

    /// Round half to even of `127 · x / largest of the row`. A NaN makes the scale of its row NaN, so the product is.
    fn as_int8(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in 0..self.rows {
            let numbers: Vec<f32> = (0..self.cols).map(|col| self.number(row, col)).collect();
            let most = numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
            let scale = match most {
                _ if numbers.iter().any(|x| x.is_nan()) => f32::NAN,
                0.0 => 1.0,
                most => most / 127.0,
            };
            codes.extend(numbers.iter().map(|x| (x / scale).round_ties_even() as i8 as u8));
            scales.extend(scale.to_le_bytes());
        }
        (codes, scales)
    }

    /// bf16 scales, one per row and block of columns.
    fn expanded_scales(&self) -> Vec<u8> {
        let block = match self.encoding {
            Encoding::Fp8Block { cols, .. } | Encoding::Fp4Block { cols } => usize::from(cols),
            _ => unreachable!("plain weights have no exponents"),
        };
        let mut out = Vec::new();
        for row in 0..self.rows {
            for first in (0..self.cols).step_by(block) {
                out.extend(power(self.exponent(row, first)).to_le_bytes());
            }
        }
        out
    }
}

/// `2^(byte - 127)`; 255 is NaN.
fn power(byte: u8) -> bf16 {
    match byte {
        0 => bf16::from_bits(0x40),
        255 => bf16::NAN,
        byte => bf16::from_bits(u16::from(byte) << 7),
    }
}

/// This device's object behind a weight.
///
/// # Errors
/// `InvalidProgram` if another device loaded it.
pub(crate) fn raw_of<'a>(weight: &'a Weight, runtime: &Arc<Runtime>) -> Result<&'a AscendWeight> {
    let own: Option<&AscendWeight> = weight.raw().as_any().downcast_ref();
    let name = &weight.spec().name;
    own.filter(|own| Arc::ptr_eq(&own.runtime, runtime))
        .ok_or_else(|| Error::invalid(format!("weight {name} lies on another device")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_rows_are_within_half_a_step() {
        let codes: Vec<u8> = (0..3 * 64u32).map(|at| (at * 37 % 251) as u8 & 0xf7).collect();
        let scales = vec![120, 127, 130, 121, 126, 131];
        let encoding = Encoding::Fp8Block { rows: 1, cols: 32 };
        let segment = Segment { encoding, rows: 3, cols: 64, codes, scales };
        let (codes, scales) = segment.stored_as(Encoding::Int8Row);
        for row in 0..3 {
            let bytes = <[u8; 4]>::try_from(&scales[4 * row..][..4]).unwrap();
            let scale = f32::from_le_bytes(bytes);
            for col in 0..64 {
                let got = f32::from(codes[row * 64 + col] as i8) * scale;
                let off = (got - segment.number(row, col)).abs();
                assert!(off <= 0.5001 * scale, "row {row} column {col} is off by {off}");
            }
        }
    }

    #[test]
    fn a_nan_code_makes_the_int8_row_nan_and_no_other() {
        let mut codes = vec![0x38; 3 * 32];
        codes[32 + 7] = 0xff;
        let encoding = Encoding::Fp8Block { rows: 1, cols: 32 };
        let segment = Segment { encoding, rows: 3, cols: 32, codes, scales: vec![127; 3] };
        let (codes, scales) = segment.stored_as(Encoding::Int8Row);
        let (scales, _) = scales.as_chunks::<4>();
        let nan = scales.iter().map(|bytes| f32::from_le_bytes(*bytes).is_nan());
        assert_eq!(nan.collect::<Vec<_>>(), [false, true, false]);
        assert!(codes[..32].iter().all(|&code| code == 127));
    }

    #[test]
    fn every_fp8_and_fp4_number_is_exact_in_bf16() {
        for exponent in 1..=246 {
            let scale = power(exponent).to_f32();
            for code in E4M3.iter().chain(&E2M1).filter(|code| !code.is_nan()) {
                let number = code * scale;
                let kept = bf16::from_f32(number).to_f32();
                assert!(kept == number || number.abs() < f32::MIN_POSITIVE, "{code} {exponent}");
            }
        }
    }
}
