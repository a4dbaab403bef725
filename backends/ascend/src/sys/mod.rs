//! What the vendor's libraries export: bindings generated from their headers (`acl`, `nnopbase`, `hccl`)
//! and the one table of operators (`operators`), from which the backend's calls, the simulator's exports
//! and the symbol check are all made.
//!
//! Nothing here is linked: every symbol is looked up when the libraries are opened.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated code, names as the vendor spells them"
)]

#[rustfmt::skip]
pub mod acl;
#[rustfmt::skip]
pub mod hccl;
#[rustfmt::skip]
pub mod nnopbase;
pub mod operators;
