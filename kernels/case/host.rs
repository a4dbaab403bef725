//! Host tensors as bytes: every dtype, every row codec, both ways.

use hal::{DType, RowCodec};
use half::{bf16, f16};

use crate::common::isa::Isa;
use crate::quant::formats::{E4M3, encode_e4m3};
use crate::quant::{decode_row, encode_row};

/// Bytes of rows of `width` values; reals are rounded to nearest even, coded rows quantised.
///
/// # Panics
/// If the values are not whole rows.
pub fn encode(dtype: DType, codec: RowCodec, width: usize, values: &[f64]) -> Vec<u8> {
    if codec == RowCodec::Plain {
        return values.iter().flat_map(|&value| element(dtype, value)).collect();
    }
    assert!(values.len().is_multiple_of(width));
    let row_bytes = codec.row_bytes(dtype, width as u32) as usize;
    let mut bytes = vec![0; values.len() / width * row_bytes];
    for (row, values) in bytes.chunks_mut(row_bytes).zip(values.chunks(width)) {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        encode_row(Isa::SCALAR, codec, &values, row);
    }
    bytes
}

fn element(dtype: DType, value: f64) -> Vec<u8> {
    match dtype {
        DType::F32 => (value as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        DType::F8E4M3 => vec![encode_e4m3(value as f32)],
        DType::I32 => (value as i32).to_le_bytes().to_vec(),
        DType::U32 => (value as u32).to_le_bytes().to_vec(),
        DType::U8 => vec![value as u8],
    }
}

/// The values in the bytes of rows of `width`.
///
/// # Panics
/// If the bytes are not whole rows.
pub fn decode(dtype: DType, codec: RowCodec, width: usize, bytes: &[u8]) -> Vec<f64> {
    if codec == RowCodec::Plain {
        let size = dtype.size_bytes() as usize;
        assert!(bytes.len().is_multiple_of(size));
        return bytes.chunks(size).map(|bytes| value(dtype, bytes)).collect();
    }
    let row_bytes = codec.row_bytes(dtype, width as u32) as usize;
    assert!(bytes.len().is_multiple_of(row_bytes));
    let mut values = Vec::new();
    for row in bytes.chunks(row_bytes) {
        let mut room = vec![0f32; width];
        decode_row(Isa::SCALAR, codec, row, &mut room);
        values.extend(room.into_iter().map(f64::from));
    }
    values
}

fn value(dtype: DType, bytes: &[u8]) -> f64 {
    let four = || [bytes[0], bytes[1], bytes[2], bytes[3]];
    let two = || [bytes[0], bytes[1]];
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(four())),
        DType::I32 => f64::from(i32::from_le_bytes(four())),
        DType::U32 => f64::from(u32::from_le_bytes(four())),
        DType::F16 => f16::from_le_bytes(two()).to_f64(),
        DType::Bf16 => bf16::from_le_bytes(two()).to_f64(),
        DType::F8E4M3 => f64::from(E4M3[usize::from(bytes[0])]),
        DType::U8 => f64::from(bytes[0]),
    }
}
