//! Compositions: each op as calls of ordinary operators, one file per family.
//!
//! Arithmetic is f32 throughout and rounds once, when a result is stored. -1 is absent: reads clamp the
//! index and choose zeros afterwards, so no operator ever sees a place that does not exist.

pub(crate) mod attend;
pub(crate) mod codec;
pub(crate) mod matmul;
pub(crate) mod mix;
pub(crate) mod route;
pub(crate) mod rows;
pub(crate) mod select;

use hal::{Result, RowCodec, Tensor};

use crate::sys::operators::Operator;
use crate::tape::Tape;
use crate::view::{Element, View};

/// Values of any tensor as f32; rows of a block codec are decoded to `[rows, width]`.
fn values(tape: &mut Tape, tensor: &Tensor) -> Result<View> {
    if tensor.codec() == RowCodec::Plain {
        let view = tape.view(tensor)?;
        return Ok(tape.cast(&view, Element::F32));
    }
    let bytes = View::rows_of(tensor, tape.place(tensor)?, Element::U8);
    codec::decode(tape, &bytes, tensor.codec(), tensor.width().into())
}

/// `values` as `[rows, width]`.
fn matrix(tape: &mut Tape, tensor: &Tensor) -> Result<View> {
    if tensor.codec() != RowCodec::Plain {
        return values(tape, tensor);
    }
    let view = View::rows_of(tensor, tape.place(tensor)?, Element::of(tensor.dtype()));
    Ok(tape.cast(&view, Element::F32))
}

/// Rounds f32 values into a plain tensor of as many elements, seen with the dimensions of `x`.
fn put(tape: &mut Tape, x: &View, out: &Tensor) -> Result<()> {
    let target = View::rows_of(out, tape.place(out)?, Element::of(out.dtype()));
    let x = x.reshape(&target.dims);
    tape.store(&x, &target);
    Ok(())
}

/// An index list as a dense i32 vector.
fn list(tape: &mut Tape, index: &Tensor) -> Result<View> {
    let view = tape.view(index)?;
    let view = tape.dense(&view);
    let count = view.elements();
    Ok(view.reshape(&[count]))
}

/// Rows of a cache by a list: f32 `[n, width]`, zeros where the index is negative.
fn cached(tape: &mut Tape, cache: &Tensor, index: &View) -> Result<View> {
    let place = tape.place(cache)?;
    let (view, coded) = match cache.codec() {
        RowCodec::Plain => (View::rows_of(cache, place, Element::of(cache.dtype())), false),
        _ => (View::rows_of(cache, place, Element::U8), true),
    };
    let safe = tape.clamp(index, 0.0, f64::from(cache.rows()) - 1.0);
    let found = tape.rows(&view, &safe);
    let found = match coded {
        true => codec::decode(tape, &found, cache.codec(), cache.width().into())?,
        false => tape.cast(&found, Element::F32),
    };
    let absent = tape.scalar(Operator::LtScalar, index, 0.0).unsqueeze(1);
    let zero = tape.constant(Element::F32, 0.0)?;
    Ok(tape.choose(&absent, &zero, &found))
}
