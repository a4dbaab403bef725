//! Fused ops against their lowering on the same device. Where the device fuses nothing of an op, both are
//! one program and must agree to the bit.

use std::sync::Arc;

use hal::op::Op;
use hal::{Mode, Tensor, Weight};
use kernels::case::{Case, Expected, all, bound, expected};

use super::{Item, ops, per_case};
use crate::bed::{Bed, single, values};
use crate::report::{Check, ensure};

pub(super) fn checks<'a>(bed: &Arc<Bed>) -> Vec<Item<'a>> {
    let primitives = &Op::NAMES[..Op::PRIMITIVES];
    per_case(bed, all().into_iter().filter(|case| !primitives.contains(&case.op)), check)
}

/// True if the device runs the case's op, or some op that it lowers to, without lowering it further.
fn fuses(bed: &Bed, case: &Case, weights: &[Weight]) -> hal::Result<bool> {
    let program = single((case.build)(&bed.tensors(&case.arrays)?, weights))?;
    let lowered = program.lower(&|op| bed.device.supports(op))?;
    Ok(lowered.program().nodes().iter().any(|node| !node.op.is_primitive()))
}

fn check(bed: &Bed, case: &Case) -> Check {
    let weights = bed.weights(&case.weights)?;
    let fused = bed.run_op(&case.arrays, &weights, Mode::Eager, &case.build)?;
    let lower = |tensors: &[Tensor], weights: &[Weight]| {
        let program = single((case.build)(tensors, weights))?;
        Ok(program.lower(&Op::is_primitive)?.program().clone())
    };
    let lowered = bed.run(&case.arrays, &weights, Mode::Eager, &lower)?;
    let fuses = fuses(bed, case, &weights)?;
    let mask = expected(&case.arrays, &case.weights, &case.build)?;
    for (((place, fused), (_, lowered)), (_, mask)) in fused.iter().zip(&lowered).zip(&mask) {
        let array = &case.arrays[*place];
        if !fuses {
            ensure(fused == lowered, || format!("{}: lowered twice, other bits", array.name))?;
            continue;
        }
        // What the lowering gives takes the definition's place, with the definition's sizes.
        let lowered = values(array, lowered);
        let want: Vec<Option<Expected>> = lowered
            .iter()
            .zip(mask)
            .map(|(&value, mask)| mask.map(|mask| Expected { value, size: mask.size }))
            .collect();
        let bound = bound(case.op, array.dtype, case.coded);
        ops::compare(array, &values(array, fused), &want, &bound, case.seed)?;
    }
    Ok(())
}
