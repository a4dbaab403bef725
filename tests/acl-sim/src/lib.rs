//! A strict simulator of the Ascend ABI: exports the symbols of `libascendcl`, `libnnopbase`, `libopapi` and
//! `libhccl` that our backend uses, executes them on the CPU, and refuses what the vendor's documents
//! forbid. It is opened as one library that stands for all of them.
//!
//! Real asynchrony: a worker per stream, operands read when a task runs. Operators compute in f64, from
//! the families' definitions, not from the backend. It tests our reading of the documents, no more: it
//! knows nothing of the hardware's arithmetic, tiling, memory limits or speed.
//!
//! `ACL_SIM_SOC` (`910b`, `910c`, `950`) and `ACL_SIM_MEMORY_BYTES` choose the hardware for a program that
//! knows nothing of it, and `ACL_SIM_REPORT` a file for what it does wrong; tests call functions.
//!
//! Bytes know whether they were written: a task that reads others fails. Pinned blocks end in guard bytes,
//! device blocks in a gap of addresses.
//!
//! Not simulated: processes (ranks are devices of one process), formats other than ND, fused operators
//! other than the two the backend uses. What is not simulated is refused, never imitated.
//!
//! Functions of another signature than the vendor's do not compile against the bindings; this is how
//! `tests/types.rs` compares all of them:
//!
//! ```
//! # use backend_ascend::sys::acl::Acl;
//! fn pair(library: &Acl) -> usize {
//!     [library.aclrtFree.as_ref().ok().copied(), Some(acl_sim::runtime::aclrtFree as _)].len()
//! }
//! ```
//!
//! ```compile_fail
//! # use backend_ascend::sys::acl::Acl;
//! fn pair(library: &Acl) -> usize {
//!     [library.aclrtFree.as_ref().ok().copied(), Some(acl_sim::runtime::aclrtMalloc as _)].len()
//! }
//! ```
#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    missing_docs,
    reason = "exports have the vendor's names and contracts; the crate is a test tool"
)]

pub mod capture;
pub mod executor;
pub mod hccl;
pub mod machine;
pub mod mutation;
mod numerics;
pub mod objects;
pub mod operators;
mod rules;
pub mod runtime;
pub mod stream;
mod view;

use std::ffi::c_char;

use backend_ascend::sys::operators::Operator;
use machine::{Soc, machine};

/// Chooses the hardware: 0 910B, 1 910C, 2 950; how many devices, how much memory each. Before `aclInit`.
#[unsafe(no_mangle)]
pub extern "C" fn acl_sim_configure(soc: u32, devices: u32, memory_bytes: u64) {
    let mut machine = machine();
    machine.soc = [Soc::A2, Soc::A3, Soc::A5][soc.min(2) as usize];
    machine.device_count = devices;
    machine.memory_bytes = memory_bytes;
}

/// The call after `calls` more calls fails as a device does.
#[unsafe(no_mangle)]
pub extern "C" fn acl_sim_fail_in(calls: u64) {
    machine().fail_in = Some(calls);
}

/// The call after `calls` calls of its kind is made with mistake `number` of [`mutation::ALL`].
#[unsafe(no_mangle)]
pub extern "C" fn acl_sim_mutate(number: u32, calls: u64) {
    let mutation = mutation::ALL.get(number as usize).copied();
    machine().order = mutation::Order(mutation.map(|mutation| (mutation, calls)));
}

/// Phase one of operator `number` of the table answers as where its kernels are not installed; of none if
/// there is no such number.
#[unsafe(no_mangle)]
pub extern "C" fn acl_sim_remove(number: u32) {
    machine().absent = Operator::ALL.get(number as usize).copied();
}

/// 1 while an ordered mistake was not made yet.
#[unsafe(no_mangle)]
pub extern "C" fn acl_sim_is_pending() -> u32 {
    u32::from(machine().order.0.is_some())
}

/// Writes what was wrong since the last call, a line each, into `room` bytes; gives the bytes it would take.
///
/// # Safety
/// `text` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn acl_sim_violations(text: *mut c_char, room: usize) -> usize {
    let mut machine = machine();
    let lines = machine.violations.join("\n");
    if lines.len() <= room {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(lines.as_ptr(), text.cast(), lines.len()) };
        machine.violations.clear();
    }
    lines.len()
}
