//! A whole step of a small model with every kind of layer, random weights, two sequences.
//!
//! Plain numerics (f32, no rounding) must meet the f64 definition closely; served numerics (bf16,
//! FP8 keys and activations, FP4 index keys and experts) roughly, because one flipped rounding moves
//! everything behind it. All other laws are bitwise in both: eager = replay, padded = exact, chunks =
//! whole, any order in the batch.

mod block;
mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use hal::Mode;
use kernels::case::{Array, encode, run_program};

use self::block::Run;
use self::model::{Model, Numerics};
use super::Item;
use crate::bed::{Bed, options, values};
use crate::report::{Check, Trouble, ensure};

/// Logits of each (sequence, position).
type Logits = BTreeMap<(u32, u32), Vec<f64>>;

/// Runs of one step.
type Batch = Vec<Run>;

fn run(sequence: u32, start: u32, count: u32) -> Run {
    Run { sequence, start, count }
}

/// 9 and 5 tokens, then one more of each, then 4 and 2.
fn history() -> Vec<Batch> {
    vec![
        vec![run(0, 0, 9), run(1, 0, 5)],
        vec![run(0, 9, 1), run(1, 5, 1)],
        vec![run(0, 10, 4), run(1, 6, 2)],
    ]
}

/// The same tokens in small pieces, the sequences in another order.
fn pieces() -> Vec<Batch> {
    vec![
        vec![run(1, 0, 1), run(0, 0, 4)],
        vec![run(1, 1, 6)],
        vec![run(0, 4, 7), run(1, 7, 1)],
        vec![run(0, 11, 3)],
    ]
}

const ROWS: u32 = 14;

pub(super) fn checks<'a>(bed: &Arc<Bed>) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    for (numerics, name) in [(Numerics::Plain, "plain"), (Numerics::Served, "served")] {
        let mut law = |what: &str, law: fn(&Bed, Numerics) -> Check| {
            let bed = Arc::clone(bed);
            items.push(Item::new(format!("{name} {what}"), move || law(&bed, numerics)));
        };
        law("logits are those of the definition", defined);
        law("replay equals eager", replayed);
        law("a second run equals the first", again);
        law("padded equals exact", padded);
        law("chunks equal the whole", chunked);
    }
    items
}

/// Runs the batches on the device, one plan for all.
fn on_device(bed: &Bed, model: &Model, mode: Mode, batches: &[Batch]) -> Result<Logits, Trouble> {
    let tensors = bed.tensors(&model.arrays)?;
    let weights = bed.weights(&model.weights)?;
    let program = model.program(&tensors, &weights)?;
    let plan = hal::compile(&*bed.device, &program, None, &options("whole step", mode))?;
    let mut logits = Logits::new();
    for batch in batches {
        for (place, field) in model.fields(batch) {
            let array = Array { values: field, ..model.arrays[place].clone() };
            bed.upload(&tensors[place], &array.bytes())?;
        }
        bed.submit(&plan)?;
        let bytes = bed.download(&tensors[model.logits])?;
        collect(model, batch, &values(&model.arrays[model.logits], &bytes), &mut logits);
    }
    Ok(logits)
}

/// Runs the batches by definition.
fn by_definition(model: &Model, batches: &[Batch]) -> Result<Logits, Trouble> {
    let mut arrays = model.arrays.clone();
    let mut logits = Logits::new();
    for batch in batches {
        for (place, field) in model.fields(batch) {
            // Angles are rounded to f32 like the ones a device is given.
            let array = &mut arrays[place];
            let bytes = encode(array.dtype, array.codec, array.width(), &field);
            array.values = kernels::case::decode(array.dtype, array.codec, array.width(), &bytes);
        }
        arrays = run_program(&arrays, &model.weights, &|t, w| model.program(t, w))?;
        collect(model, batch, &arrays[model.logits].values, &mut logits);
    }
    Ok(logits)
}

fn collect(model: &Model, batch: &Batch, values: &[f64], into: &mut Logits) {
    let width = model.arrays[model.logits].width();
    let mut row = 0;
    for run in batch {
        for position in run.start..run.start + run.count {
            into.insert((run.sequence, position), values[row * width..][..width].to_vec());
            row += 1;
        }
    }
}

fn defined(bed: &Bed, numerics: Numerics) -> Check {
    let model = Model::new(numerics, ROWS);
    let got = on_device(bed, &model, Mode::Eager, &history())?;
    let want = by_definition(&model, &history())?;
    let tolerance = match numerics {
        Numerics::Plain => 2e-4,
        Numerics::Served => 0.25,
    };
    let most = want.values().flatten().fold(0f64, |most, x| most.max(x.abs()));
    ensure(most > 0.1 && most.is_finite(), || format!("the definition's logits reach {most}"))?;
    for (place, want) in &want {
        for (column, (got, want)) in got[place].iter().zip(want).enumerate() {
            ensure((got - want).abs() <= tolerance * most, || {
                format!(
                    "sequence {} position {}: logit {column} is {got:e}, the definition says \
                     {want:e} (largest {most:e})",
                    place.0, place.1
                )
            })?;
        }
    }
    Ok(())
}

fn same_bits(what: &str, a: &Logits, b: &Logits) -> Check {
    for ((sequence, position), a) in a {
        let b = &b[&(*sequence, *position)];
        for (column, (a, b)) in a.iter().zip(b).enumerate() {
            ensure(a.to_bits() == b.to_bits() && a.is_finite(), || {
                format!(
                    "{what}: sequence {sequence} position {position}: logit {column} is {a:e} and \
                     {b:e}"
                )
            })?;
        }
    }
    Ok(())
}

fn replayed(bed: &Bed, numerics: Numerics) -> Check {
    let model = Model::new(numerics, ROWS);
    let eager = on_device(bed, &model, Mode::Eager, &history())?;
    let replay = on_device(bed, &model, Mode::Replay, &history())?;
    same_bits("eager and replay", &eager, &replay)
}

fn again(bed: &Bed, numerics: Numerics) -> Check {
    let model = Model::new(numerics, ROWS);
    let first = on_device(bed, &model, Mode::Replay, &history())?;
    let second = on_device(bed, &model, Mode::Replay, &history())?;
    same_bits("two runs", &first, &second)
}

fn padded(bed: &Bed, numerics: Numerics) -> Check {
    let exact = on_device(bed, &Model::new(numerics, ROWS), Mode::Eager, &history())?;
    for rows in [ROWS + 1, ROWS + 19] {
        let padded = on_device(bed, &Model::new(numerics, rows), Mode::Eager, &history())?;
        same_bits(&format!("{ROWS} rows and {rows}"), &exact, &padded)?;
    }
    Ok(())
}

fn chunked(bed: &Bed, numerics: Numerics) -> Check {
    let model = Model::new(numerics, ROWS);
    let whole = on_device(bed, &model, Mode::Eager, &history())?;
    let chunks = on_device(bed, &model, Mode::Eager, &pieces())?;
    same_bits("whole and chunks", &whole, &chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_itself_is_independent_of_chunks_and_padding() {
        let whole = by_definition(&Model::new(Numerics::Plain, ROWS), &history()).unwrap();
        let chunks = by_definition(&Model::new(Numerics::Plain, ROWS + 2), &pieces()).unwrap();
        same_bits("whole and chunks", &whole, &chunks).unwrap();
    }

    #[test]
    fn every_layer_kind_reads_its_past() {
        // One other token at position 0 must reach the last logits through every cache.
        let model = Model::new(Numerics::Plain, ROWS);
        let whole = by_definition(&model, &history()).unwrap();
        let cut = by_definition(&model, &[vec![run(0, 9, 1)], vec![run(0, 10, 4)]]).unwrap();
        assert_ne!(whole[&(0, 13)], cut[&(0, 13)]);
    }
}
