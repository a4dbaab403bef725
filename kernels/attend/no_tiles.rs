//! What `tiles.rs` is on processors that have none: nothing is taken, so nothing is asked for.

use super::keys::KeyRows;
use super::score::Heads;
use crate::common::isa::Isa;
use crate::common::rows::RealRows;

pub(super) fn takes(_: Isa, _: &RealRows, _: &KeyRows, _: &KeyRows) -> bool {
    false
}

pub(super) const fn word_floats(_: usize) -> usize {
    0
}

pub(super) unsafe fn load_heads(_: &RealRows, _: &Heads, _: &mut [f32]) {
    unreachable!("nothing is taken");
}

pub(super) unsafe fn scores(
    _: &[f32],
    _: &[f32],
    _: &mut [f32],
    _: &mut [f32],
    _: usize,
    _: usize,
) {
    unreachable!("nothing is taken");
}
