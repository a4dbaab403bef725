//! Weights of cases: bytes of a checkpoint in any encoding, and the numbers they stand for.

use hal::{
    DType, Encoding, Error, Result, SharedBytes, WeightPart, WeightSegment, WeightSource,
    WeightSpec,
};

use super::make::Random;
use crate::gemm::oracle;
use crate::gemm::{Encoding as Coding, Segment};

/// A weight in host memory, as a checkpoint would hold it.
#[derive(Clone, Debug)]
pub struct WeightData {
    /// What it is.
    pub spec: WeightSpec,
    /// Codes and scales of each segment.
    pub segments: Vec<(Vec<u8>, Vec<u8>)>,
}

impl WeightData {
    /// Every number, `[groups · rows, cols]`.
    pub fn numbers(&self) -> Vec<f64> {
        let mut all = Vec::new();
        for (codes, scales) in &self.segments {
            all.extend(self.segment_numbers(codes, scales));
        }
        all
    }

    fn segment_numbers(&self, codes: &[u8], scales: &[u8]) -> Vec<f64> {
        let (rows, cols) = (self.spec.segment_rows as usize, self.spec.cols as usize);
        let encoding = match self.spec.encoding {
            Encoding::Plain(DType::F32) => Coding::F32,
            Encoding::Plain(DType::F16) => Coding::F16,
            Encoding::Plain(_) => Coding::Bf16,
            Encoding::Int8Row => Coding::Int8,
            Encoding::Fp8Block { rows, cols } => {
                Coding::Fp8 { rows: u32::from(rows), cols: u32::from(cols) }
            }
            Encoding::Fp4Block { .. } => Coding::Fp4,
            other => unreachable!("no case has {other} weights"),
        };
        oracle::decode(&Segment { rows, codes, scales, encoding }, cols)
    }
}

impl WeightSource for WeightData {
    fn spec(&self) -> &WeightSpec {
        &self.spec
    }

    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> Result<()> {
        let (codes, scales) = &self.segments[segment as usize];
        let bytes = match part {
            WeightPart::Codes => codes,
            WeightPart::Scales => scales,
        };
        if bytes.len() != out.len() {
            return Err(Error::invalid(format!(
                "{}: {part:?} of segment {segment} has {} bytes, {} were asked for",
                self.spec.name,
                bytes.len(),
                out.len()
            )));
        }
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn lend(&self) -> Option<Vec<WeightSegment>> {
        // Copies, so that the case stays usable; a device cannot tell.
        let lend = |(codes, scales): &(Vec<u8>, Vec<u8>)| WeightSegment {
            codes: SharedBytes::from_vec(codes.clone()),
            scales: (!scales.is_empty()).then(|| SharedBytes::from_vec(scales.clone())),
        };
        Some(self.segments.iter().map(lend).collect())
    }
}

/// Random codes of `spec`; numbers of about 1 / 16, whatever the encoding.
pub fn random_weight(random: &mut Random, spec: WeightSpec) -> WeightData {
    let mut segments = Vec::new();
    for _ in 0..spec.segments() {
        let mut codes = codes(random, &spec);
        let count = spec.segment_scale_bytes() as usize;
        let scales = match spec.encoding {
            Encoding::Int8Row => {
                let scale = |_| (2f32.powi(-11) * (1.0 + random.below(8) as f32)).to_le_bytes();
                (0..count / 4).flat_map(scale).collect()
            }
            // E2M1 reaches 6, E4M3 448: the scales bring both near 1 / 16.
            Encoding::Fp4Block { .. } => (0..count).map(|_| 120 + random.below(3) as u8).collect(),
            _ => (0..count).map(|_| 115 + random.below(3) as u8).collect(),
        };
        if let Encoding::Fp8Block { .. } = spec.encoding {
            // 0x7f and 0xff are NaN.
            codes.iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code ^= 1);
        }
        segments.push((codes, scales));
    }
    WeightData { spec, segments }
}

fn codes(random: &mut Random, spec: &WeightSpec) -> Vec<u8> {
    let count = spec.segment_code_bytes();
    match spec.encoding {
        Encoding::Plain(dtype) => {
            let elements = count / dtype.size_bytes();
            let mut bytes = Vec::new();
            for _ in 0..elements {
                let value = [random.gauss() / 16.0];
                bytes.extend(super::encode(dtype, hal::RowCodec::Plain, 1, &value));
            }
            bytes
        }
        _ => (0..count).map(|_| random.bits() as u8).collect(),
    }
}
