//! Hadal's hardware abstraction layer.
//!
//! An engine describes a whole step as a [`Program`] of [`op::Op`]s over [`Tensor`]s and
//! [`Weight`]s. This crate checks it, lowers what a device lacks and plans its scratch memory
//! ([`compile`]); a backend turns it once into a [`Plan`], which is submitted every step.
//!
//! It refuses to know hardware (there is no backend here, and no `cfg` of one) and to know models
//! (ops are named by mathematics).
#![forbid(unsafe_code)]

pub mod arena;
pub mod capture;
pub mod device;
pub mod error;
pub mod layer;
pub mod op;
pub mod profile;
pub mod program;
pub mod registry;
pub mod tensor;
pub mod weight;

pub use device::{
    Backend, BufferDesc, CompileOptions, Device, DeviceInfo, HostMemory, HostSlot, Limits,
    MemoryKind, MemoryReport, Mode, OpenOptions, Plan, PlanStats, Point, Profile, Queue, QueueKind,
    check_transfer, compile,
};
pub use error::{Error, ErrorKind, Result};
pub use op::{Access, CustomOp, Op};
pub use profile::{OpEvent, Sink};
pub use program::{Builder, Lowered, Node, Program, Site};
pub use registry::{DeviceName, Registry};
pub use tensor::{Buffer, DType, RawBuffer, RowCodec, Shape, Tensor};
pub use weight::{
    ByteOwner, Encoding, Noise, RawWeight, SharedBytes, Weight, WeightPart, WeightSegment,
    WeightSource, WeightSpec, WeightSupport,
};
