//! The op vocabulary: plain data, one struct per op, named operands, no step-varying scalars.
//!
//! Exact meanings are those of the program specification (docs/program.md). Two conventions hold
//! everywhere. An index of -1 means "absent": an absent row reads as zeros from a real tensor and as
//! -1 from an integer tensor, and is dropped by writes. An op computes in f32 and rounds once, to
//! the dtype of its output.
//!
//! Tier 0 must exist in every backend. Tier 1 is optional; every such op lowers to Tier 0.

mod attend;
mod collective;
mod fused;
mod matmul;
mod rows;
mod select;

use std::fmt;
use std::sync::Arc;

pub use attend::{Attend, Far, IndexScore, Listed, Visible};
pub use collective::{
    AllGather, AllReduce, AllToAll, Communicator, ReduceScatter, SoloCommunicator,
};
pub use fused::{
    AttendProject, Compress, HcPre, HcSite, HcTurn, Head, IndexSelect, MoeExperts, NormQuant,
    QkFinish, Route, RouteTable, Sample, SwigluMlp,
};
pub use matmul::{Bucket, HcMix, Matmul, RowGroups};
pub use rows::{
    Convert, ConvertForm, Gather, GatherSource, Map, MapFn, Reduce, ReduceFn, RmsNorm, Rope,
    Scatter,
};
pub use select::{Order, TopK};

use crate::error::{Error, Result};
use crate::program::Builder;
use crate::tensor::{DType, RowCodec, Tensor};
use crate::weight::Weight;

/// How an op uses an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Fully written; what was there before is not read.
    Write,
    /// Partly written: rows the op does not name keep their values.
    ReadWrite,
}

/// What every op struct can do.
pub(crate) trait OpData {
    fn visit(&self, visit: &mut dyn FnMut(Access, &Tensor));
    fn visit_mut(&mut self, visit: &mut dyn FnMut(Access, &mut Tensor));
    fn weights(&self, visit: &mut dyn FnMut(&Weight));
    fn weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight));
    fn check(&self) -> Result<()>;
    /// Replaces the op by simpler ones on the same device. `Ok(false)`: it is a primitive.
    fn lower(&self, _into: &mut Builder) -> Result<bool> {
        Ok(false)
    }
}

/// Operand types the visitor knows how to walk.
pub(crate) trait Operand {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor));
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor));
}

impl Operand for Tensor {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        visit(access, self);
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        visit(access, self);
    }
}

impl<T: Operand> Operand for Option<T> {
    fn walk(&self, access: Access, visit: &mut dyn FnMut(Access, &Tensor)) {
        if let Some(operand) = self {
            operand.walk(access, visit);
        }
    }
    fn walk_mut(&mut self, access: Access, visit: &mut dyn FnMut(Access, &mut Tensor)) {
        if let Some(operand) = self {
            operand.walk_mut(access, visit);
        }
    }
}

/// Writes the two visitors of an op from one list of `Access field`, so that they cannot differ.
macro_rules! operands {
    ($($access:ident $field:ident),* $(,)?) => {
        fn visit(
            &self,
            visit: &mut dyn FnMut($crate::op::Access, &$crate::tensor::Tensor),
        ) {
            $($crate::op::Operand::walk(&self.$field, $crate::op::Access::$access, visit);)*
        }
        fn visit_mut(
            &mut self,
            visit: &mut dyn FnMut($crate::op::Access, &mut $crate::tensor::Tensor),
        ) {
            $($crate::op::Operand::walk_mut(&mut self.$field, $crate::op::Access::$access, visit);)*
        }
    };
}
pub(crate) use operands;

/// Names the weights of an op; the default is none.
macro_rules! weights {
    ($($field:ident),* $(,)?) => {
        #[allow(unused_variables, reason = "an op without weights visits nothing")]
        fn weights(&self, visit: &mut dyn FnMut(&$crate::weight::Weight)) {
            $(visit(&self.$field);)*
        }
        #[allow(unused_variables, reason = "an op without weights visits nothing")]
        fn weights_mut(&mut self, visit: &mut dyn FnMut(&mut $crate::weight::Weight)) {
            $(visit(&mut self.$field);)*
        }
    };
}
pub(crate) use weights;

macro_rules! op_enum {
    ($( $(#[$doc:meta])* $name:ident = $text:literal ),* $(,)?) => {
        /// One op of a program.
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub enum Op {
            $( $(#[$doc])* $name($name), )*
            /// Escape hatch: an op this crate has never heard of, which must lower.
            Custom(Arc<dyn CustomOp>),
        }

        impl Op {
            /// Names of all ops of the vocabulary, Tier 0 first.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// The op's name, as in traces, errors and coverage reports.
            pub fn name(&self) -> &'static str {
                match self {
                    $( Op::$name(_) => $text, )*
                    Op::Custom(op) => op.name(),
                }
            }

            /// Calls `visit` for every tensor operand.
            pub fn operands(&self, visit: &mut dyn FnMut(Access, &Tensor)) {
                match self {
                    $( Op::$name(op) => op.visit(visit), )*
                    Op::Custom(op) => op.operands(visit),
                }
            }

            /// Calls `visit` for every tensor operand, to give it other memory.
            pub(crate) fn operands_mut(&mut self, visit: &mut dyn FnMut(Access, &mut Tensor)) {
                match self {
                    $( Op::$name(op) => op.visit_mut(visit), )*
                    // Custom ops are lowered before anything is rebound.
                    Op::Custom(_) => {}
                }
            }

            /// Calls `visit` for every weight.
            pub fn weights(&self, visit: &mut dyn FnMut(&Weight)) {
                match self {
                    $( Op::$name(op) => op.weights(visit), )*
                    Op::Custom(_) => {}
                }
            }

            /// Calls `visit` for every weight, to give it another device's.
            pub(crate) fn weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight)) {
                match self {
                    $( Op::$name(op) => op.weights_mut(visit), )*
                    Op::Custom(_) => {}
                }
            }

            /// Shapes, dtypes and the absence of overlap between outputs and other operands.
            ///
            /// # Errors
            /// `InvalidProgram` naming the operand.
            pub fn check(&self) -> Result<()> {
                match self {
                    $( Op::$name(op) => op.check(), )*
                    Op::Custom(op) => op.check(),
                }?;
                disjoint(self)
            }

            /// Appends simpler ops that compute the same; `Ok(false)` for a primitive.
            ///
            /// # Errors
            /// `InvalidProgram` if what it lowers to is malformed.
            pub fn lower(&self, into: &mut Builder) -> Result<bool> {
                match self {
                    $( Op::$name(op) => op.lower(into), )*
                    Op::Custom(op) => op.lower(into).map(|()| true),
                }
            }
        }

        $( impl From<$name> for Op {
            fn from(op: $name) -> Op { Op::$name(op) }
        } )*
    };
}

op_enum! {
    /// Rows by index list, or elements along a row.
    Gather = "gather",
    /// Rows to places of an index list.
    Scatter = "scatter",
    /// One expression from a closed list.
    Map = "map",
    /// Sum, max, dot, mean square or a small matrix over an axis.
    Reduce = "reduce",
    /// Dtype change and block quantisation.
    Convert = "convert",
    /// Root-mean-square normalisation.
    RmsNorm = "rms_norm",
    /// Rotary embedding of the last columns.
    Rope = "rope",
    /// `x · Wᵀ`.
    Matmul = "matmul",
    /// Indices of the largest columns.
    TopK = "top_k",
    /// Stable counting sort of keys.
    Bucket = "bucket",
    /// Softmax attention over listed and visible cache rows.
    Attend = "attend",
    /// Scores of the indexer over visible entries.
    IndexScore = "index_score",
    /// Gates and Sinkhorn mixer of a hyper-connection site.
    HcMix = "hc_mix",
    /// Start of a hyper-connection site.
    HcPre = "hc_pre",
    /// End of one site and start of the next.
    HcTurn = "hc_turn",
    /// Norm, then quantisation round trip.
    NormQuant = "norm_quant",
    /// Norm, rope and rounding of a query or key.
    QkFinish = "qk_finish",
    /// Pools completed windows into cache entries.
    Compress = "compress",
    /// Cache rows of the best entries per query.
    IndexSelect = "index_select",
    /// Attention and its output projection.
    AttendProject = "attend_project",
    /// Router by score.
    Route = "route",
    /// Router by token table.
    RouteTable = "route_table",
    /// Routed experts.
    MoeExperts = "moe_experts",
    /// Shared expert.
    SwigluMlp = "swiglu_mlp",
    /// Final collapse, norm and vocabulary projection.
    Head = "head",
    /// Best candidates of the logits.
    Sample = "sample",
    /// Sum over ranks.
    AllReduce = "all_reduce",
    /// Rows of all ranks behind each other.
    AllGather = "all_gather",
    /// Sum over ranks, each keeping its rows.
    ReduceScatter = "reduce_scatter",
    /// Row blocks exchanged between ranks.
    AllToAll = "all_to_all",
}

impl Op {
    /// Number of Tier-0 ops at the front of [`Op::NAMES`].
    pub const PRIMITIVES: usize = 13;

    /// True for a Tier-0 op.
    pub fn is_primitive(&self) -> bool {
        Op::NAMES[..Op::PRIMITIVES].contains(&self.name())
    }
}

/// An op defined outside this crate. Devices never execute it: it lowers to ops they know.
pub trait CustomOp: Send + Sync + fmt::Debug {
    /// Name in errors and traces.
    fn name(&self) -> &'static str;
    /// Calls `visit` for every tensor operand.
    fn operands(&self, visit: &mut dyn FnMut(Access, &Tensor));
    /// Shapes and dtypes.
    ///
    /// # Errors
    /// `InvalidProgram` naming the operand.
    fn check(&self) -> Result<()>;
    /// Appends ops of the vocabulary that compute the same.
    ///
    /// # Errors
    /// `InvalidProgram` if what it lowers to is malformed.
    fn lower(&self, into: &mut Builder) -> Result<()>;
}

// ---- checks shared by the families

/// Written operands must not overlap any other operand.
fn disjoint(op: &Op) -> Result<()> {
    let mut all = Vec::new();
    op.operands(&mut |access, tensor| all.push((access, tensor.clone())));
    for (place, (access, written)) in all.iter().enumerate() {
        if *access == Access::Read {
            continue;
        }
        for (other_place, (_, other)) in all.iter().enumerate() {
            if place != other_place && written.overlaps(other) {
                return Err(Error::invalid(format!(
                    "{}: operand {place} is written and overlaps operand {other_place}",
                    op.name()
                )));
            }
        }
    }
    Ok(())
}

pub(crate) fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::invalid(message())) }
}

/// `tensor` has exactly these dimensions.
pub(crate) fn dims_of(name: &str, tensor: &Tensor, dims: &[u32]) -> Result<()> {
    ensure(tensor.dims() == dims, || format!("{name} is {} but must be {dims:?}", tensor.shape()))
}

/// `tensor` has this many rows and elements per row, however its inner dimensions are cut.
pub(crate) fn matrix_of(name: &str, tensor: &Tensor, rows: u32, width: u32) -> Result<()> {
    ensure(tensor.rows() == rows && tensor.width() == width, || {
        format!("{name} is {} but must have {rows} rows of {width}", tensor.shape())
    })
}

/// `tensor` is a vector of `count` values in any of the shapes `[count]`, `[count, 1]`, `[1, count]`.
pub(crate) fn vector_of(name: &str, tensor: &Tensor, count: u32) -> Result<()> {
    let flat = tensor.width() == 1 || tensor.rows() == 1;
    ensure(flat && tensor.shape().elements() == u64::from(count), || {
        format!("{name} is {} but must hold {count} values", tensor.shape())
    })
}

pub(crate) fn dtype_of(name: &str, tensor: &Tensor, dtype: DType) -> Result<()> {
    ensure(tensor.dtype() == dtype, || {
        format!("{name} is {:?} but must be {dtype:?}", tensor.dtype())
    })
}

pub(crate) fn real(name: &str, tensor: &Tensor) -> Result<()> {
    ensure(tensor.dtype().is_real(), || {
        format!("{name} is {:?} but must be F32, F16 or Bf16", tensor.dtype())
    })
}

pub(crate) fn plain(name: &str, tensor: &Tensor) -> Result<()> {
    ensure(tensor.codec() == RowCodec::Plain, || {
        format!("{name} is stored as {:?} but must be plain", tensor.codec())
    })
}

/// A plain tensor of a real dtype.
pub(crate) fn plain_real(name: &str, tensor: &Tensor) -> Result<()> {
    plain(name, tensor)?;
    real(name, tensor)
}

/// A plain i32 tensor.
pub(crate) fn indices(name: &str, tensor: &Tensor) -> Result<()> {
    plain(name, tensor)?;
    dtype_of(name, tensor, DType::I32)
}

/// A plain f32 vector of `count` values: gains, biases, bases.
pub(crate) fn parameters(name: &str, tensor: &Tensor, count: u32) -> Result<()> {
    plain(name, tensor)?;
    dtype_of(name, tensor, DType::F32)?;
    vector_of(name, tensor, count)
}

pub(crate) fn weight_of(
    name: &str,
    weight: &Weight,
    groups: Option<u32>,
    rows: u32,
    cols: u32,
) -> Result<()> {
    let spec = weight.spec();
    let ok = spec.rows == rows && spec.cols == cols && groups.is_none_or(|g| spec.groups == g);
    ensure(ok, || {
        format!(
            "{name}: weight {} is [{}, {}, {}] but {rows} outputs of {cols} inputs are wanted{}",
            spec.name,
            spec.groups,
            spec.rows,
            spec.cols,
            groups.map(|g| format!(" in {g} groups")).unwrap_or_default()
        )
    })
}
