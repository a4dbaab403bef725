//! Huawei Ascend NPUs through CANN: the vendor's runtime, operators and collectives, loaded when asked for.
//!
//! Nobody has run this on an NPU. It is verified against `tests/acl-sim`, our own strict simulator of the
//! ABI, and against the vendor's headers; `docs/ascend.md` says what that proves and what it does not.
//!
//! Every op is a composition of ordinary operators, here and there of one of the vendor's fused ones
//! (`record/`), recorded once per plan as calls with addresses that never move, so that a plan can be
//! captured. It refuses what it cannot do by name when a model opens: `table.rs` is the one list of what
//! it can.

mod communicator;
mod device;
mod event;
mod field;
mod load;
mod memory;
mod objects;
mod plan;
mod queue;
mod record;
mod runtime;
pub mod sys;
mod table;
mod tape;
mod timing;
mod view;
mod weight;

pub use communicator::AscendCommunicator;
pub use device::{AscendBackend, WEIGHT_FORMS};
pub use load::Search;
