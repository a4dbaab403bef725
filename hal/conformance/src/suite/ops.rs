//! Every case of every op, against its definition.

use std::sync::Arc;

use hal::Mode;
use kernels::case::{Array, Bound, Case, Expected, all, bound, expected};

use super::{Item, per_case};
use crate::bed::{Bed, values};
use crate::report::{Check, ensure};

pub(super) fn checks<'a>(bed: &Arc<Bed>) -> Vec<Item<'a>> {
    per_case(bed, all().into_iter(), check)
}

fn check(bed: &Bed, case: &Case) -> Check {
    let want = expected(&case.arrays, &case.weights, &case.build)?;
    let weights = bed.weights(&case.weights)?;
    let got = bed.run_op(&case.arrays, &weights, Mode::Eager, &case.build)?;
    for ((place, want), (_, bytes)) in want.iter().zip(&got) {
        let array = &case.arrays[*place];
        let bound = bound(case.op, array.dtype, case.coded);
        compare(array, &values(array, bytes), want, &bound, case.seed)?;
    }
    Ok(())
}

/// Fails with the worst element.
pub(super) fn compare(
    array: &Array,
    got: &[f64],
    want: &[Option<Expected>],
    bound: &Bound,
    seed: u64,
) -> Check {
    let mut wrong = 0;
    let mut worst: Option<(usize, f64, Expected)> = None;
    for (place, (&got, want)) in got.iter().zip(want).enumerate() {
        let Some(want) = want else { continue };
        if bound.holds(got, want) {
            continue;
        }
        wrong += 1;
        let off = |got: f64, want: &Expected| {
            let off = (got - want.value).abs();
            if off.is_nan() { f64::INFINITY } else { off }
        };
        if worst.is_none_or(|(_, other, expected)| off(got, want) > off(other, &expected)) {
            worst = Some((place, got, *want));
        }
    }
    let Some((place, got, want)) = worst else { return Ok(()) };
    let (row, column) = (place / array.width().max(1), place % array.width().max(1));
    ensure(false, || {
        format!(
            "{} {:?}{:?}: {wrong} of {} elements are off; the worst, row {row} column {column}, is \
             {got:e}, the definition says {:e} (size {:e}, seed {seed})",
            array.name,
            array.dtype,
            array.dims,
            array.values.len(),
            want.value,
            want.size
        )
    })
}
