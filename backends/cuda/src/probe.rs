//! Asks the device whether products of a warp group give the bits of `mma` on it: rows are exact only then (law 7),
//! because few rows of a weight go the one way and many the other. No document promises it.

use std::sync::Arc;

use hal::op::RowGroups;
use hal::{DType, Encoding, Error, Noise, Result, Weight, WeightPart, WeightSource, WeightSpec};

use crate::device::Machine;
use crate::memory::CudaBuffer;
use crate::record::{BF16, Place, Scope, gemm};
use crate::weight;

/// Rows of a tile, outputs past one block, columns past a whole number of blocks.
const ROWS: u32 = 64;
const OUTPUTS: u32 = 136;
const WIDTH: u32 = 1056;

/// bf16 numbers of both signs around 2^-7 to 1.
const HALVES: Noise = Noise { seed: 7, and: 0x83ff_83ff, or: 0x3c00_3c00 };
/// E4M3 codes that are numbers, any E2M1 codes, and scales near 1.
const CODES: Noise = Noise { seed: 8, and: 0xbfbf_bfbf, or: 0 };
const SCALES: Noise = Noise { seed: 9, and: 0x0707_0707, or: 0x7878_7878 };

/// A weight of noise.
struct Probe(WeightSpec);

impl Probe {
    fn recipe(&self, part: WeightPart) -> Noise {
        match (part, self.0.encoding) {
            (WeightPart::Scales, _) => SCALES,
            (_, Encoding::Plain(_)) => HALVES,
            _ => CODES,
        }
    }
}

impl WeightSource for Probe {
    fn spec(&self) -> &WeightSpec {
        &self.0
    }
    fn read(&mut self, _segment: u32, part: WeightPart, out: &mut [u8]) -> Result<()> {
        self.recipe(part).fill(out);
        Ok(())
    }
    fn noise(&self, _segment: u32, part: WeightPart) -> Option<Noise> {
        Some(self.recipe(part))
    }
}

/// Turns products of a warp group on, if they give the bits of `mma` in every encoding.
///
/// # Errors
/// `Unsupported` if they do not; whatever the device says.
pub(crate) fn widen(machine: &Arc<Machine>) -> Result<()> {
    let encodings = [
        Encoding::Plain(DType::Bf16),
        Encoding::Fp8Block { rows: 128, cols: 128 },
        Encoding::Fp4Block { cols: 32 },
    ];
    for encoding in encodings {
        let (rows, cols) = (OUTPUTS, WIDTH);
        let name = "probe".into();
        let spec = WeightSpec { name, groups: 1, rows, cols, segment_rows: rows, encoding };
        let weight = weight::load(&mut Probe(spec), machine)?;
        machine.widen(false);
        let wanted = product(machine, &weight)?;
        machine.widen(true);
        if product(machine, &weight)? != wanted {
            machine.widen(false);
            return Err(Error::unsupported(format!(
                "wgmma=on: on {} products of a warp group do not give the bits of mma with {encoding} weights; \
                 leave it off",
                machine.info.name
            )));
        }
    }
    Ok(())
}

/// The bytes of a product of noise.
fn product(machine: &Arc<Machine>, weight: &Weight) -> Result<Vec<u8>> {
    let size = u64::from(ROWS) * u64::from(2 * WIDTH + 4 * OUTPUTS) + 1024;
    let buffer = CudaBuffer::zeroed("probe", size, machine)?;
    let scope =
        Scope { machine, workspace: buffer.address(), joins: false, counters: 0, rounded: None };
    let mut bytes = 0;
    let x = Place::scratch_of(BF16, &scope, &mut bytes, ROWS, WIDTH);
    let out_offset = bytes;
    let out = Place::scratch(&scope, &mut bytes, ROWS, OUTPUTS);
    let mut noise = vec![0; (2 * ROWS * WIDTH) as usize];
    HALVES.fill(&mut noise);
    buffer.write("probe", 0, &noise)?;
    for launch in gemm::product(&scope, &out, &x, weight, &RowGroups::Cyclic) {
        buffer.launch("probe", &launch)?;
    }
    let mut got = vec![0; (4 * ROWS * OUTPUTS) as usize];
    buffer.read("probe", out_offset, &mut got)?;
    Ok(got)
}
