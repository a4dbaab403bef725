//! Weights, kept in the checkpoint's encoding: all codes one after the other, then all scales.
//!
//! What the source lends and what it must read pass through pinned memory, one part being fetched while another is
//! sent (`transfer`); noise is made on the device. INT8 is refused: no kernel reads it.

use std::any::Any;
use std::sync::Arc;

use hal::{
    DType, Encoding, Error, RawWeight, Result, Weight, WeightPart, WeightSegment, WeightSource,
    WeightSpec, WeightSupport,
};

use crate::device::Machine;
use crate::driver::Address;
use crate::memory::{CudaBuffer, lock};
use crate::transfer::Transfer;

/// Numbers of the encodings; as in `kernels/gemm/gemm.cu`.
pub(crate) const W_F32: u32 = 0;
pub(crate) const W_BF16: u32 = 1;
const W_F16: u32 = 2;
pub(crate) const W_FP8: u32 = 3;
pub(crate) const W_FP4: u32 = 4;

/// Scales begin at a multiple of this.
const ALIGN_BYTES: u64 = 256;

/// A loaded weight.
#[derive(Debug)]
pub(crate) struct CudaWeight {
    buffer: CudaBuffer,
    scales_offset: u64,
    spec: WeightSpec,
    machine: Arc<Machine>,
}

impl RawWeight for CudaWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// How a kernel sees a weight.
pub(crate) struct View {
    pub(crate) codes: Address,
    /// 0: none.
    pub(crate) scales: Address,
    pub(crate) row_bytes: u64,
    pub(crate) segment_scale_bytes: u64,
    pub(crate) encoding: u32,
    pub(crate) block_rows: u32,
    pub(crate) block_cols: u32,
    /// Scales of one row of blocks.
    pub(crate) row_scales: u32,
}

impl CudaWeight {
    pub(crate) fn view(&self) -> View {
        let spec = &self.spec;
        let (encoding, block_rows, block_cols) = match spec.encoding {
            Encoding::Plain(DType::F32) => (W_F32, 1, spec.cols),
            Encoding::Plain(DType::Bf16) => (W_BF16, 1, spec.cols),
            Encoding::Plain(DType::F16) => (W_F16, 1, spec.cols),
            Encoding::Fp8Block { rows, cols } => (W_FP8, u32::from(rows), u32::from(cols)),
            Encoding::Fp4Block { cols } => (W_FP4, 1, u32::from(cols)),
            other => unreachable!("support refused {other}"),
        };
        let row_bytes = spec.encoding.code_bytes(1, u64::from(spec.cols));
        let scaled = spec.segment_scale_bytes() > 0;
        View {
            codes: self.buffer.address(),
            scales: if scaled { self.buffer.address() + self.scales_offset } else { 0 },
            row_bytes,
            segment_scale_bytes: spec.segment_scale_bytes(),
            encoding,
            block_rows,
            block_cols,
            row_scales: spec.cols.div_ceil(block_cols),
        }
    }
}

/// What the device does with a weight of this spec.
pub(crate) fn support(spec: &WeightSpec) -> WeightSupport {
    match spec.encoding {
        Encoding::Plain(dtype) if dtype.is_real() => WeightSupport::Native,
        Encoding::Fp8Block { cols, rows } if cols > 0 && rows > 0 && cols % 4 == 0 => {
            WeightSupport::Native
        }
        Encoding::Fp4Block { cols } if cols > 0 && cols % 4 == 0 => match spec.cols % 2 {
            0 => WeightSupport::Native,
            _ => WeightSupport::Absent("an odd number of 4-bit codes in a row"),
        },
        Encoding::Fp8Block { .. } | Encoding::Fp4Block { .. } => {
            WeightSupport::Absent("a scale is for a multiple of 4 columns")
        }
        _ => WeightSupport::Absent("no kernel reads this encoding"),
    }
}

/// Loads a weight; nothing is decoded.
pub(crate) fn load(source: &mut dyn WeightSource, machine: &Arc<Machine>) -> Result<Weight> {
    let spec = source.spec().clone();
    if let WeightSupport::Absent(reason) = support(&spec) {
        return Err(Error::unsupported(format!(
            "weight {} ({}, {} inputs): {reason}",
            spec.name, spec.encoding, spec.cols
        )));
    }
    let segments = u64::from(spec.segments());
    let scales_offset = (segments * spec.segment_code_bytes()).next_multiple_of(ALIGN_BYTES);
    let bytes = scales_offset + segments * spec.segment_scale_bytes();
    let buffer = CudaBuffer::constant(&spec.name, bytes, machine)?;
    let machine = Arc::clone(machine);
    let weight = CudaWeight { buffer, scales_offset, spec: spec.clone(), machine };
    if source.noise(0, WeightPart::Codes).is_some() {
        weight.make(source)?;
    } else {
        weight.send(source)?;
    }
    let stored = spec.encoding;
    Ok(Weight::new(Arc::new(weight), spec, stored))
}

impl CudaWeight {
    fn part_bytes(&self, part: WeightPart) -> u64 {
        match part {
            WeightPart::Codes => self.spec.segment_code_bytes(),
            WeightPart::Scales => self.spec.segment_scale_bytes(),
        }
    }

    /// Where a part of a segment goes.
    fn place(&self, segment: u32, part: WeightPart) -> Address {
        self.buffer.address() + self.base(part) + u64::from(segment) * self.part_bytes(part)
    }

    /// Makes every segment on the device, for a source that is noise.
    fn make(&self, source: &dyn WeightSource) -> Result<()> {
        for segment in 0..self.spec.segments() {
            for part in [WeightPart::Codes, WeightPart::Scales] {
                let bytes = self.part_bytes(part);
                let Some(noise) = source.noise(segment, part).filter(|_| bytes > 0) else {
                    continue;
                };
                let base = self.base(part) + u64::from(segment) * bytes;
                self.buffer.make(&self.spec.name, base, bytes, noise)?;
            }
        }
        self.buffer.settle(&self.spec.name)
    }

    /// Where a part begins.
    fn base(&self, part: WeightPart) -> u64 {
        match part {
            WeightPart::Codes => 0,
            WeightPart::Scales => self.scales_offset,
        }
    }

    /// Sends every segment, and waits for the last however that ends: the memory may be freed after it.
    fn send(&self, source: &mut dyn WeightSource) -> Result<()> {
        let transfer = &mut *lock(&self.machine.transfer);
        let sent = match source.lend() {
            Some(lent) => self.send_lent(&lent, transfer),
            None => self.send_read(source, transfer),
        };
        let settled = self.machine.survive(transfer.settle(), || self.label());
        sent.and(settled)
    }

    fn send_lent(&self, lent: &[WeightSegment], transfer: &mut Transfer) -> Result<()> {
        for (segment, lent) in (0..).zip(lent) {
            self.send_part(segment, WeightPart::Codes, lent.codes.bytes(), transfer)?;
            if let Some(scales) = &lent.scales {
                self.send_part(segment, WeightPart::Scales, scales.bytes(), transfer)?;
            }
        }
        Ok(())
    }

    fn send_part(
        &self,
        segment: u32,
        part: WeightPart,
        bytes: &[u8],
        transfer: &mut Transfer,
    ) -> Result<()> {
        let (name, due) = (&self.spec.name, self.part_bytes(part));
        if bytes.len() as u64 != due || segment >= self.spec.segments() {
            return Err(Error::invalid(format!(
                "weight {name}: {part:?} of segment {segment} have {} bytes, {due} are due",
                bytes.len()
            )));
        }
        // SAFETY: inside the buffer, which nobody uses yet and which `send` keeps until it has settled.
        let sent = unsafe { transfer.send(self.place(segment, part), bytes) };
        self.machine.survive(sent, || self.label())
    }

    fn send_read(&self, source: &mut dyn WeightSource, transfer: &mut Transfer) -> Result<()> {
        for segment in 0..self.spec.segments() {
            for part in [WeightPart::Codes, WeightPart::Scales] {
                let bytes = self.part_bytes(part) as usize;
                if bytes == 0 {
                    continue;
                }
                let room = transfer.room(bytes);
                source.read(segment, part, self.machine.survive(room, || self.label())?)?;
                // SAFETY: as in `send_part`.
                let posted = unsafe { transfer.post(self.place(segment, part), bytes) };
                self.machine.survive(posted, || self.label())?;
            }
        }
        Ok(())
    }

    fn label(&self) -> String {
        format!("weight {}", self.spec.name)
    }
}

/// This device's object behind a weight.
///
/// # Errors
/// `InvalidProgram` if another device loaded it.
pub(crate) fn raw_of<'a>(weight: &'a Weight, machine: &Arc<Machine>) -> Result<&'a CudaWeight> {
    let own = any_of(weight).filter(|own| Arc::ptr_eq(&own.machine, machine));
    let name = &weight.spec().name;
    own.ok_or_else(|| Error::invalid(format!("weight {name} lies on another device")))
}

/// The object behind a weight of any device of this backend.
pub(crate) fn any_of(weight: &Weight) -> Option<&CudaWeight> {
    weight.raw().as_any().downcast_ref()
}
