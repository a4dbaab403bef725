//! Cached rows: codes, an exact bf16 tail, and scales in one run of bytes (v4-program section 5).
//!
//! ```text
//! Fp8 { block, tail }   (width - tail) E4M3 codes · tail bf16 · one E8M0 per block · zeros to a multiple of 4
//! Fp4 { block }         width / 2 bytes of E2M1 pairs · one E8M0 per block · zeros to a multiple of 4
//! ```
//!
//! Encoding re-derives the codes from values that were already rounded ([`super::round_trip`], then
//! nothing that changes them), so it loses nothing; values that were not are rounded here.

use super::block::{Coded, Form, decode, quantise};
use crate::common::isa::Isa;
use crate::common::prefetch::prefetch;
use crate::common::real::narrow_bf16;
use crate::common::rows::Rows;
use hal::RowCodec;
use half::bf16;

/// Where the pieces of a coded row lie.
struct Layout {
    form: Form,
    block: usize,
    coded: usize,
    codes_end: usize,
    tail_end: usize,
    scales_end: usize,
}

impl Layout {
    fn new(codec: RowCodec, width: usize) -> Layout {
        let (form, block, tail) = match codec {
            RowCodec::Fp8 { block, tail } => (Form::E4m3, block, tail),
            RowCodec::Fp4 { block } => (Form::E2m1, block, 0),
            _ => panic!("{codec:?} rows have no codes"),
        };
        let (block, tail) = (usize::from(block), usize::from(tail));
        let coded = width - tail;
        let codes_end = form.code_bytes(coded);
        let tail_end = codes_end + 2 * tail;
        Layout {
            form,
            block,
            coded,
            codes_end,
            tail_end,
            scales_end: tail_end + coded.div_ceil(block),
        }
    }

    #[inline]
    fn decode(&self, isa: Isa, row: &[u8], values: &mut [f32]) {
        assert_eq!(row.len(), self.scales_end.next_multiple_of(4));
        let (coded, plain) = values.split_at_mut(self.coded);
        let scales = &row[self.tail_end..self.scales_end];
        let (codes, tail) = row[..self.tail_end].split_at(self.codes_end);
        let &Layout { form, block, .. } = self;
        decode(isa, &Coded { form, block, codes, scales, tail }, coded, plain);
    }
}

/// Writes a row of f32 values as the codec's bytes. Lossless for values the codec holds exactly.
///
/// # Panics
/// If the codec is plain, the tail is wider than the row, or `row` is not of the codec's row size.
pub fn encode_row(isa: Isa, codec: RowCodec, values: &[f32], row: &mut [u8]) {
    let layout = Layout::new(codec, values.len());
    assert_eq!(row.len(), layout.scales_end.next_multiple_of(4));
    let (codes, rest) = row.split_at_mut(layout.codes_end);
    let (tail, rest) = rest.split_at_mut(layout.tail_end - layout.codes_end);
    let (scales, pad) = rest.split_at_mut(layout.scales_end - layout.tail_end);
    let (coded, plain) = values.split_at(layout.coded);
    quantise(isa, layout.form, layout.block, coded, codes, scales);
    let mut buffer = [bf16::ZERO; PIECE];
    for (plain, tail) in plain.chunks(PIECE).zip(tail.chunks_mut(2 * PIECE)) {
        let buffer = &mut buffer[..plain.len()];
        narrow_bf16(isa, plain, buffer);
        for (bytes, value) in tail.chunks_exact_mut(2).zip(buffer) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    pad.fill(0);
}

/// Reads a coded row as f32 values.
///
/// # Panics
/// As for [`encode_row`].
pub fn decode_row(isa: Isa, codec: RowCodec, row: &[u8], values: &mut [f32]) {
    Layout::new(codec, values.len()).decode(isa, row, values);
}

/// Reads rows `which` of a table as f32 values, `width` a row, each to the start of the next `stride` floats
/// of `values`. Rows that lie anywhere in memory are asked for ahead.
///
/// # Panics
/// As for [`encode_row`], or if a row does not exist, `stride` is less than `width` or `values` too short.
pub fn decode_rows(
    isa: Isa,
    codec: RowCodec,
    table: &Rows<u8>,
    which: &[u32],
    width: usize,
    values: &mut [f32],
    stride: usize,
) {
    let layout = Layout::new(codec, width);
    assert!(values.len() >= which.len() * stride);
    for (place, values) in values.chunks_exact_mut(stride).enumerate().take(which.len()) {
        if let Some(&ahead) = which.get(place + AHEAD) {
            prefetch(table.row(ahead as usize));
        }
        layout.decode(isa, table.row(which[place] as usize), &mut values[..width]);
    }
}

/// Rows between the one that is decoded and the one that is asked for.
const AHEAD: usize = 4;

/// Values of the tail converted at a time.
const PIECE: usize = 64;
