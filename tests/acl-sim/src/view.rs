//! Elements of a tensor in simulated memory, as f64 and back.

use std::sync::Arc;

use backend_ascend::sys::acl::aclDataType;
use half::{bf16, f16};
use kernels::quant::formats::{E2M1, E4M3, encode_e4m3};

use crate::machine::{Block, Machine, Span, Tensor, lock};

/// Bits of an element.
pub fn bits(dtype: aclDataType) -> Option<u64> {
    Some(match dtype {
        aclDataType::ACL_INT64 => 64,
        aclDataType::ACL_FLOAT | aclDataType::ACL_INT32 => 32,
        aclDataType::ACL_FLOAT16 | aclDataType::ACL_BF16 => 16,
        aclDataType::ACL_INT8 | aclDataType::ACL_UINT8 | aclDataType::ACL_BOOL => 8,
        aclDataType::ACL_FLOAT8_E4M3FN => 8,
        aclDataType::ACL_FLOAT4_E2M1 => 4,
        _ => return None,
    })
}

/// A tensor where it lies.
#[derive(Clone)]
pub struct View {
    pub dims: Vec<usize>,
    pub dtype: aclDataType,
    strides: Vec<usize>,
    block: Arc<Block>,
    /// First element, in elements from the block's begin.
    first: usize,
}

impl View {
    pub fn new(machine: &Machine, tensor: &Tensor, device: i32) -> Result<View, String> {
        let span = machine.device_span(tensor.data, 0, device)?;
        let size = bits(tensor.dtype).expect("checked in phase one");
        let begin = span.range.0 * 8 / size;
        Ok(View {
            dims: tensor.dims.iter().map(|&dim| dim as usize).collect(),
            dtype: tensor.dtype,
            strides: tensor.strides.iter().map(|&stride| stride as usize).collect(),
            block: span.block,
            first: (begin as i64 + tensor.offset) as usize,
        })
    }

    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    fn bits(&self) -> usize {
        bits(self.dtype).expect("checked in phase one") as usize
    }

    /// All bytes from the first element to the last; none if it is empty.
    pub fn span(&self) -> Option<Span> {
        if self.count() == 0 {
            return None;
        }
        let pairs = self.dims.iter().zip(&self.strides);
        let last = self.first + pairs.map(|(dim, stride)| (dim - 1) * stride).sum::<usize>();
        let range =
            ((self.first * self.bits() / 8) as u64, ((last + 1) * self.bits()).div_ceil(8) as u64);
        Some(Span { block: Arc::clone(&self.block), range })
    }

    /// Calls `visit` with the first element and length of each run of neighbours, in order.
    fn runs(&self, mut visit: impl FnMut(usize, usize)) {
        let rank = self.dims.len();
        if self.count() == 0 {
            return;
        }
        // Inner dimensions without gaps are one run.
        let (mut inner, mut run) = (rank, 1);
        while inner > 0 && (self.strides[inner - 1] == run || self.dims[inner - 1] == 1) {
            run *= self.dims[inner - 1];
            inner -= 1;
        }
        let mut place = vec![0; inner];
        loop {
            let at: usize = place.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
            visit(self.first + at, run);
            let mut dim = inner;
            loop {
                if dim == 0 {
                    return;
                }
                dim -= 1;
                place[dim] += 1;
                if place[dim] < self.dims[dim] {
                    break;
                }
                place[dim] = 0;
            }
        }
    }

    /// The elements' bytes, one after the other. Types of less than a byte have no such form.
    pub fn raw(&self) -> Vec<u8> {
        let size = self.bits() / 8;
        let cells = lock(&self.block.cells);
        let mut out = Vec::with_capacity(self.count() * size);
        self.runs(|at, run| out.extend_from_slice(cells.read(at * size..(at + run) * size)));
        out
    }

    pub fn put_raw(&self, from: &[u8]) {
        let size = self.bits() / 8;
        let mut cells = lock(&self.block.cells);
        let mut done = 0;
        self.runs(|at, run| {
            cells.write(at * size, &from[done..done + run * size]);
            done += run * size;
        });
    }

    /// The numbers.
    pub fn read(&self) -> Vec<f64> {
        if self.dtype == aclDataType::ACL_FLOAT4_E2M1 {
            let cells = lock(&self.block.cells);
            let mut out = Vec::with_capacity(self.count());
            self.runs(|at, run| {
                let first = at / 2;
                let bytes = cells.read(first..(at + run).div_ceil(2));
                out.extend((at..at + run).map(|at| {
                    let byte = bytes[at / 2 - first];
                    let nibble = if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
                    f64::from(E2M1[usize::from(nibble)])
                }));
            });
            return out;
        }
        let raw = self.raw();
        let eight = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight bytes"));
        let four = |b: &[u8]| <[u8; 4]>::try_from(b).expect("four bytes");
        let two = |b: &[u8]| <[u8; 2]>::try_from(b).expect("two bytes");
        let chunks = raw.chunks(self.bits() / 8);
        match self.dtype {
            aclDataType::ACL_FLOAT => {
                chunks.map(|b| f64::from(f32::from_le_bytes(four(b)))).collect()
            }
            aclDataType::ACL_INT32 => {
                chunks.map(|b| f64::from(i32::from_le_bytes(four(b)))).collect()
            }
            aclDataType::ACL_INT64 => chunks.map(|b| eight(b) as f64).collect(),
            aclDataType::ACL_FLOAT16 => {
                chunks.map(|b| f16::from_le_bytes(two(b)).to_f64()).collect()
            }
            aclDataType::ACL_BF16 => chunks.map(|b| bf16::from_le_bytes(two(b)).to_f64()).collect(),
            aclDataType::ACL_INT8 => chunks.map(|b| f64::from(b[0] as i8)).collect(),
            aclDataType::ACL_FLOAT8_E4M3FN => {
                chunks.map(|b| f64::from(E4M3[usize::from(b[0])])).collect()
            }
            _ => chunks.map(|b| f64::from(b[0])).collect(),
        }
    }

    /// Writes numbers, rounded to the type.
    pub fn write(&self, values: &[f64]) {
        debug_assert_eq!(values.len(), self.count());
        let mut raw = Vec::with_capacity(values.len() * self.bits() / 8);
        let values = values.iter().copied();
        match self.dtype {
            aclDataType::ACL_FLOAT => values.for_each(|x| raw.extend((x as f32).to_le_bytes())),
            aclDataType::ACL_INT32 => {
                values.for_each(|x| raw.extend((x as i64 as i32).to_le_bytes()));
            }
            aclDataType::ACL_INT64 => values.for_each(|x| raw.extend((x as i64).to_le_bytes())),
            aclDataType::ACL_FLOAT16 => {
                values.for_each(|x| raw.extend(f16::from_f64(x).to_le_bytes()));
            }
            aclDataType::ACL_BF16 => {
                values.for_each(|x| raw.extend(bf16::from_f64(x).to_le_bytes()))
            }
            aclDataType::ACL_FLOAT8_E4M3FN => {
                values.for_each(|x| raw.push(encode_e4m3(x as f32)));
            }
            aclDataType::ACL_INT8 => values.for_each(|x| raw.push(x as i64 as u8)),
            aclDataType::ACL_BOOL => values.for_each(|x| raw.push(u8::from(x != 0.0))),
            _ => values.for_each(|x| raw.push(x as i64 as u8)),
        }
        self.put_raw(&raw);
    }
}
