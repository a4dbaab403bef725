//! Law 7: the bits of a row depend on its own inputs only. Every row alone, among others, in another
//! order, twice in a step, beside padding, in a second run, eager and replayed.

use std::sync::Arc;

use hal::{Mode, Weight};
use kernels::case::{Case, Expected, Role, all, expected};

use super::{Item, per_case};
use crate::bed::{Bed, values};
use crate::report::{Check, ensure};

/// Rows tried alone; more say nothing new.
const ALONE_MAX: u32 = 12;

pub(super) fn checks<'a>(bed: &Arc<Bed>) -> Vec<Item<'a>> {
    per_case(bed, all().into_iter().filter(|case| case.rows.is_some()), check)
}

/// Rows of the case in the order they are run, and how to call it.
fn arrangements(rows: u32) -> Vec<(&'static str, Mode, Vec<i32>)> {
    let rows = rows as i32;
    let all: Vec<i32> = (0..rows).collect();
    let padding = |count: i32| vec![-1; count as usize];
    let mut list = vec![
        ("again", Mode::Eager, all.clone()),
        ("replayed", Mode::Replay, all.clone()),
        ("in reverse", Mode::Eager, (0..rows).rev().collect()),
        ("twice over", Mode::Eager, [all.clone(), all.clone()].concat()),
        ("among many", Mode::Eager, all.iter().cycle().take(all.len() * 9 + 1).copied().collect()),
        ("before padding", Mode::Replay, [all.clone(), padding(3)].concat()),
        ("between padding", Mode::Eager, [padding(1), all.clone(), padding(13)].concat()),
    ];
    list.extend((0..rows.min(ALONE_MAX as i32)).map(|row| ("alone", Mode::Eager, vec![row])));
    list
}

fn check(bed: &Bed, case: &Case) -> Check {
    let rows = case.rows.expect("filtered");
    let weights = bed.weights(&case.weights)?;
    // Which elements are written at all.
    let mask = expected(&case.arrays, &case.weights, &case.build)?;
    let whole = bed.run_op(&case.arrays, &weights, Mode::Eager, &case.build)?;
    for (how, mode, order) in arrangements(rows) {
        compare(bed, case, &weights, (how, mode, &order), &whole, &mask)?;
    }
    Ok(())
}

fn compare(
    bed: &Bed,
    case: &Case,
    weights: &[Weight],
    (how, mode, order): (&str, Mode, &[i32]),
    whole: &[(usize, Vec<u8>)],
    mask: &[(usize, Vec<Option<Expected>>)],
) -> Check {
    let arrays = case.pick(order);
    let got = bed.run_op(&arrays, weights, mode, &case.build)?;
    for (((place, whole), (_, got)), (_, mask)) in whole.iter().zip(&got).zip(mask) {
        let array = &case.arrays[*place];
        let Role::Out { per: Some(per) } = array.role else { continue };
        let (whole, got) = (values(array, whole), values(array, got));
        let size = per as usize * array.width();
        for (at, &row) in order.iter().enumerate() {
            let Ok(row) = usize::try_from(row) else { continue };
            for element in 0..size {
                let (a, b) = (whole[row * size + element], got[at * size + element]);
                if mask[row * size + element].is_none() || a.to_bits() == b.to_bits() {
                    continue;
                }
                return ensure(a.is_nan() && b.is_nan(), || {
                    format!(
                        "row {row} {how} (rows {order:?}): element {element} is {b:e}, but {a:e} \
                         in the whole step (seed {})",
                        case.seed
                    )
                });
            }
        }
    }
    Ok(())
}
