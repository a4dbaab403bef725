//! What `amx.rs` is on processors that have none: nothing is taken, so nothing is asked for.

use super::task::{Operands, Part};
use super::weight::WeightView;
use crate::common::rows::RealRows;

pub(super) const OUTPUTS_MAX: usize = 0;
pub(super) const OUTPUTS_MIN: usize = 0;
pub(super) const ROWS_MIN: usize = 0;

pub(super) fn takes(_: &RealRows, _: &WeightView<'_>) -> bool {
    false
}

pub(super) fn task_rows_max(_: usize) -> usize {
    unreachable!("nothing is taken")
}

pub(super) unsafe fn run(_: &Operands, _: &Part<'_>, _: &mut [f32]) {
    unreachable!("nothing is taken")
}
