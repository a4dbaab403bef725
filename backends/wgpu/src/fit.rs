//! Holds a launch to what the adapter binds: tables and caches that are wider than a binding are laid in
//! windows, as many as there are bindings left; everything else that is wider is refused by name.
//!
//! Windows are powers of two, so that a shader finds a word's window by a shift. How an operand is cut
//! shows in no bit: a kernel reaches the same words.

use hal::{Error, Result};

use crate::launch::{BINDING_ALIGN_BYTES, Launch, Number, Operand, Place, element_bytes};

/// What an adapter binds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Most bytes of a binding.
    pub(crate) binding_bytes_max: u64,
    /// Bytes of a table or cache above which it is laid in windows; at most a binding.
    pub(crate) window_bytes_max: u64,
    /// Most operands' bindings of a launch.
    pub(crate) bindings_max: usize,
}

/// Gives every operand of a launch its bindings.
///
/// # Errors
/// `Unsupported` naming an operand that is wider than what can be bound.
pub(crate) fn fit(launch: &mut Launch, bounds: &Bounds) -> Result<()> {
    // A wide operand may have one more binding than is left: its own.
    let mut left = bounds.bindings_max.saturating_sub(launch.operands.len());
    let mut shifts = Vec::new();
    for operand in &mut launch.operands {
        let Some(bytes) = window_bytes(operand, bounds, left as u64 + 1)? else { continue };
        operand.window_bytes = Some(bytes);
        left -= operand.windows().len() - 1;
        shifts.push((format!("{}_shift", operand.name), Number::Whole((bytes / 4).ilog2())));
    }
    launch.numbers.extend(shifts);
    Ok(())
}

/// Bytes of an operand's windows; `None`: it fits one binding.
fn window_bytes(operand: &Operand, bounds: &Bounds, most: u64) -> Result<Option<u64>> {
    let Place::Tensor(tensor) = &operand.place else { return Ok(None) };
    let size = operand.windows().iter().map(|window| window.size).sum::<u64>();
    let wide = size > bounds.binding_bytes_max;
    let wished = operand.wide && size > bounds.window_bytes_max;
    if !wide && !wished {
        return Ok(None);
    }
    if !operand.wide {
        return Err(refusal(operand, size, bounds, "a shorter context or fewer rows a step fit"));
    }
    if size / element_bytes(operand.storage, tensor) > 1 << 32 {
        return Err(refusal(operand, size, bounds, "its elements are past counting in 32 bits"));
    }
    let mut bytes = floor(bounds.window_bytes_max).max(BINDING_ALIGN_BYTES);
    while size.div_ceil(bytes) > most {
        bytes *= 2;
        if bytes > bounds.binding_bytes_max {
            return match wide {
                true => Err(refusal(operand, size, bounds, "and has too few bindings for it")),
                false => Ok(None),
            };
        }
    }
    Ok((bytes < size).then_some(bytes))
}

/// The largest power of two that is not larger.
fn floor(bytes: u64) -> u64 {
    1 << bytes.max(1).ilog2()
}

fn refusal(operand: &Operand, size: u64, bounds: &Bounds, why: &str) -> Error {
    Error::unsupported(format!(
        "{} spans {size} bytes, this adapter binds at most {} at once: {why}",
        operand.name, bounds.binding_bytes_max
    ))
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::sync::Arc;

    use hal::{Buffer, DType, RawBuffer, RowCodec, Shape, Tensor};

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// Memory that is only named: any offset fits.
    #[derive(Debug)]
    struct Nowhere;

    impl RawBuffer for Nowhere {
        fn size_bytes(&self) -> u64 {
            u64::MAX
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn tensor(offset: u64, dims: &[u32], dtype: DType) -> Tensor {
        let buffer = Buffer::Real(Arc::new(Nowhere));
        Tensor::new(buffer, offset, Shape::new(dims), dtype, RowCodec::Plain).unwrap()
    }

    /// What WebGPU promises, with more bindings.
    fn bounds(bindings_max: usize) -> Bounds {
        Bounds { binding_bytes_max: 128 * MIB, window_bytes_max: 128 * MIB, bindings_max }
    }

    fn launch(table: &Tensor) -> Launch {
        Launch::new("rows", "gather_rows").read("source", table).wide("source")
    }

    fn number(launch: &Launch, name: &str) -> u64 {
        let found = launch.numbers.iter().find(|(known, _)| known == name);
        match found.expect("the launch has it").1 {
            Number::Whole(number) => u64::from(number),
            Number::Real(_) => unreachable!("places are whole"),
        }
    }

    /// The byte of the buffer that a shader reads for an element, by the formulas of `operand.wgsl`.
    fn byte_of(launch: &Launch, element: u64, row: u64, column: u64) -> u64 {
        let at = number(launch, "source_begin") + row * number(launch, "source_stride") + column;
        assert!(at < 1 << 32, "the shader counts in 32 bits");
        let (word, inner) = (at * element / 4, at * element % 4);
        let shift = number(launch, "source_shift");
        let window = launch.operands[0].windows()[(word >> shift) as usize];
        let place = (word & ((1 << shift) - 1)) * 4 + inner;
        assert!(place + element <= window.size, "the place is inside its window");
        assert_eq!(window.offset % BINDING_ALIGN_BYTES, 0);
        window.offset + place
    }

    #[test]
    fn places_past_2_31_elements_are_where_the_tensor_has_them() {
        // Nothing of it is allocated: 2^31 to 2^32 elements, in buffers that begin past 2^32 bytes.
        for (offset, dims, dtype) in [
            (0, [129_280, 4096], DType::Bf16),
            (9 * GIB + 12, [1 << 21, 2047], DType::F32),
            (5 * GIB + 2, [3 << 20, 1023], DType::Bf16),
            (7 * GIB + 255, [1_000_003, 4001], DType::U8),
        ] {
            let table = tensor(offset, &dims, dtype);
            let mut launch = launch(&table);
            fit(&mut launch, &bounds(256)).unwrap();
            let (rows, width) = (u64::from(dims[0]), u64::from(dims[1]));
            let element = dtype.size_bytes();
            for row in [0, 1, rows / 3, rows / 2 + 1, rows - 1] {
                for column in [0, 1, width - 1] {
                    let want = offset + (row * width + column) * element;
                    assert_eq!(byte_of(&launch, element, row, column), want, "{table:?} {row}");
                }
            }
            let windows = launch.operands[0].windows();
            assert!(windows.iter().all(|window| window.size <= 128 * MIB));
            assert!(windows.windows(2).all(|two| two[0].offset + two[0].size == two[1].offset));
        }
    }

    #[test]
    fn windows_are_as_many_as_bindings_are_left() {
        let table = tensor(0, &[1 << 20, 256], DType::F32);
        for (bindings, windows, want) in [
            (16, 128 * MIB, Some(128 * MIB)),
            (16, 64 * MIB, Some(64 * MIB)),
            (8, 64 * MIB, Some(128 * MIB)),
            (7, 128 * MIB, None),
        ] {
            let bounds = Bounds { window_bytes_max: windows, ..bounds(bindings) };
            let mut launch = launch(&table);
            let got = fit(&mut launch, &bounds).ok().and_then(|()| launch.operands[0].window_bytes);
            assert_eq!(got, want, "{bindings} bindings, windows of {windows}");
        }
    }

    #[test]
    fn small_windows_are_a_wish_and_wide_operands_of_no_table_are_refused() {
        // One binding and nothing left: it stays whole, since it can be bound.
        let small = tensor(0, &[1024, 256], DType::F32);
        let mut whole = launch(&small);
        fit(&mut whole, &Bounds { window_bytes_max: 256, ..bounds(1) }).unwrap();
        assert_eq!(whole.operands[0].windows().len(), 1);
        for (dims, wide, words) in [
            ([1 << 20, 256], false, "source spans 1073741824 bytes"),
            ([1 << 21, 4096], true, "past counting in 32 bits"),
        ] {
            let mut launch = launch(&tensor(0, &dims, DType::F32));
            launch.operands[0].wide = wide;
            let error = fit(&mut launch, &bounds(1024)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
