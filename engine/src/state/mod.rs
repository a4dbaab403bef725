//! Sequence state: one object that is fed, cut, copied, saved and rolled back as a whole (law 8).
//!
//! [`geometry`] sizes it, [`sequence`] owns slots and pages, [`block`] turns positions into the lists
//! of a step, [`snapshot`] is its one portable format.

pub mod block;
pub mod geometry;
pub mod sequence;
pub mod snapshot;

pub use block::{RunView, StepBlock, StepLayout, StepShape};
pub use geometry::Capacity;
pub use sequence::{Pool, Sequence};
pub use snapshot::Snapshot;
