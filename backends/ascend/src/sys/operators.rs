//! The operators the backend calls: one row each, with the kinds of the parameters of phase one as the
//! vendor's documentation gives them (the trailing `uint64_t *workspaceSize, aclOpExecutor **executor`
//! is left out). No header in a public package declares these, so the row is the prototype.
//!
//! Kinds: `T` const aclTensor read · `O` aclTensor written · `C` const aclTensor written · `L` const
//! aclTensorList read · `M` const aclTensorList written · `S` aclScalar · `A` aclIntArray · `I` int64 ·
//! `B` int8 · `F` double · `Y` bool · `D` aclDataType · `N` as `T`, may be null.

use std::ffi::c_void;

use super::acl::{aclDataType, aclrtStream};
use super::nnopbase::{aclIntArray, aclOpExecutor, aclScalar, aclTensor, aclTensorList};

/// Calls `$then!` with all rows.
#[macro_export]
macro_rules! for_each_operator {
    ($then:path) => {
        $then! {
            Abs aclnnAbsGetWorkspaceSize aclnnAbs (x T, out O);
            Add aclnnAddGetWorkspaceSize aclnnAdd (a T, b T, alpha S, out O);
            Adds aclnnAddsGetWorkspaceSize aclnnAdds (a T, b S, alpha S, out O);
            Amax aclnnAmaxGetWorkspaceSize aclnnAmax (x T, dims A, keep Y, out O);
            ArgMax aclnnArgMaxGetWorkspaceSize aclnnArgMax (x T, dim I, keep Y, out O);
            BatchMatMul aclnnBatchMatMulGetWorkspaceSize aclnnBatchMatMul
                (a T, b T, out O, cube_math B);
            BitwiseAndScalar aclnnBitwiseAndScalarGetWorkspaceSize aclnnBitwiseAndScalar
                (a T, b S, out O);
            Cast aclnnCastGetWorkspaceSize aclnnCast (x T, dtype D, out O);
            Clamp aclnnClampGetWorkspaceSize aclnnClamp (x T, low S, high S, out O);
            Div aclnnDivGetWorkspaceSize aclnnDiv (a T, b T, out O);
            Exp aclnnExpGetWorkspaceSize aclnnExp (x T, out O);
            FloorDivides aclnnFloorDividesGetWorkspaceSize aclnnFloorDivides (a T, b S, out O);
            Gather aclnnGatherGetWorkspaceSize aclnnGather (x T, dim I, index T, out O);
            GeScalar aclnnGeScalarGetWorkspaceSize aclnnGeScalar (a T, b S, out O);
            GroupedMatmulV5 aclnnGroupedMatmulV5GetWorkspaceSize aclnnGroupedMatmulV5
                (x L, weight L, bias L, scale L, offset L, antiquant_scale L, antiquant_offset L,
                 per_token_scale L, group_list T, activation_input L, activation_quant_scale L,
                 activation_quant_offset L, split_item I, group_type I, group_list_type I,
                 act_type I, tuning A, out M, activation_feature_out M, dyn_quant_scale_out M);
            IndexSelect aclnnIndexSelectGetWorkspaceSize aclnnIndexSelect
                (x T, dim I, index T, out O);
            InplaceCopy aclnnInplaceCopyGetWorkspaceSize aclnnInplaceCopy (out O, x T);
            InplaceFillScalar aclnnInplaceFillScalarGetWorkspaceSize aclnnInplaceFillScalar
                (out O, value S);
            Log1p aclnnLog1pGetWorkspaceSize aclnnLog1p (x T, out O);
            LtScalar aclnnLtScalarGetWorkspaceSize aclnnLtScalar (a T, b S, out O);
            LtTensor aclnnLtTensorGetWorkspaceSize aclnnLtTensor (a T, b T, out O);
            Matmul aclnnMatmulGetWorkspaceSize aclnnMatmul (a T, b T, out O, cube_math B);
            Maximum aclnnMaximumGetWorkspaceSize aclnnMaximum (a T, b T, out O);
            MhcPost aclnnMhcPostGetWorkspaceSize aclnnMhcPost
                (x T, residual T, y T, post T, out O);
            MoeGatingTopKV2 aclnnMoeGatingTopKV2GetWorkspaceSize aclnnMoeGatingTopKV2
                (x T, bias N, tokens N, token_experts N, k I, groups_chosen I, groups I, group_by I,
                 renorm I, norm I, with_norm Y, factor F, epsilon F, shares C, experts C, normed C);
            Mul aclnnMulGetWorkspaceSize aclnnMul (a T, b T, out O);
            Muls aclnnMulsGetWorkspaceSize aclnnMuls (a T, b S, out O);
            NeTensor aclnnNeTensorGetWorkspaceSize aclnnNeTensor (a T, b T, out O);
            Neg aclnnNegGetWorkspaceSize aclnnNeg (x T, out O);
            ReduceSum aclnnReduceSumGetWorkspaceSize aclnnReduceSum
                (x T, dims A, keep Y, dtype D, out O);
            Relu aclnnReluGetWorkspaceSize aclnnRelu (x T, out C);
            RemainderTensorScalar aclnnRemainderTensorScalarGetWorkspaceSize
                aclnnRemainderTensorScalar (a T, b S, out O);
            RmsNorm aclnnRmsNormGetWorkspaceSize aclnnRmsNorm
                (x T, gain T, epsilon F, out C, rstd C);
            Round aclnnRoundGetWorkspaceSize aclnnRound (x T, out O);
            SWhere aclnnSWhereGetWorkspaceSize aclnnSWhere (condition T, a T, b T, out O);
            ScatterNdUpdate aclnnScatterNdUpdateGetWorkspaceSize aclnnScatterNdUpdate
                (target O, index T, source T);
            Sigmoid aclnnSigmoidGetWorkspaceSize aclnnSigmoid (x T, out O);
            Softmax aclnnSoftmaxGetWorkspaceSize aclnnSoftmax (x T, dim I, out O);
            Sort aclnnSortGetWorkspaceSize aclnnSort
                (x T, stable Y, dim I, descending Y, values O, indices O);
            Sqrt aclnnSqrtGetWorkspaceSize aclnnSqrt (x T, out O);
            Sub aclnnSubGetWorkspaceSize aclnnSub (a T, b T, alpha S, out O);
        }
    };
}

/// Rust type of a kind.
#[macro_export]
macro_rules! operator_type {
    (T) => { *const $crate::sys::nnopbase::aclTensor };
    (N) => { *const $crate::sys::nnopbase::aclTensor };
    (C) => { *const $crate::sys::nnopbase::aclTensor };
    (O) => { *mut $crate::sys::nnopbase::aclTensor };
    (L) => { *const $crate::sys::nnopbase::aclTensorList };
    (M) => { *const $crate::sys::nnopbase::aclTensorList };
    (S) => { *const $crate::sys::nnopbase::aclScalar };
    (A) => { *const $crate::sys::nnopbase::aclIntArray };
    (I) => { i64 };
    (B) => { i8 };
    (F) => { f64 };
    (Y) => { bool };
    (D) => { $crate::sys::acl::aclDataType };
}

/// A parameter of phase one, whatever its kind.
#[derive(Clone, Copy)]
pub enum Raw {
    T(*const aclTensor),
    L(*const aclTensorList),
    S(*const aclScalar),
    A(*const aclIntArray),
    I(i64),
    B(i8),
    F(f64),
    Y(bool),
    D(aclDataType),
}

/// From a [`Raw`] to the parameter; a table that disagrees with its caller is a bug of ours.
macro_rules! parameter {
    (O, $raw:expr) => {
        parameter!(T, $raw).cast_mut()
    };
    (C, $raw:expr) => {
        parameter!(T, $raw)
    };
    (N, $raw:expr) => {
        parameter!(T, $raw)
    };
    (M, $raw:expr) => {
        parameter!(L, $raw)
    };
    ($kind:ident, $raw:expr) => {
        match $raw {
            Some(Raw::$kind(value)) => *value,
            _ => unreachable!("a call does not fit its row of the operator table"),
        }
    };
}

/// Phase two of every operator.
pub type Run = unsafe extern "C" fn(*mut c_void, u64, *mut aclOpExecutor, aclrtStream) -> i32;

macro_rules! table {
    ($($name:ident $plan:ident $run:ident ($($parameter:ident $kind:ident),*);)*) => {
        /// An operator of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operator { $($name),* }

        impl Operator {
            pub const ALL: &'static [Operator] = &[$(Operator::$name),*];

            /// The vendor's fused V4 operators: used where they are there, never needed.
            pub const FUSED: [Operator; 2] = [Operator::MhcPost, Operator::MoeGatingTopKV2];

            /// Symbols of the two phases.
            pub fn symbols(self) -> (&'static str, &'static str) {
                match self { $(Operator::$name => (stringify!($plan), stringify!($run)),)* }
            }

            /// Kinds of the parameters of phase one, a letter each.
            pub fn kinds(self) -> &'static str {
                match self { $(Operator::$name => concat!($(stringify!($kind)),*),)* }
            }
        }

        /// Both phases of every operator, where a library has them.
        #[derive(Default)]
        pub struct Operators {
            $($name: Option<(
                unsafe extern "C" fn(
                    $(operator_type!($kind),)* *mut u64, *mut *mut aclOpExecutor,
                ) -> i32,
                Run,
            )>,)*
        }

        impl Operators {
            /// Looks up, in `library`, what is not there yet.
            ///
            /// # Safety
            /// The library's functions have the table's signatures.
            pub unsafe fn load(&mut self, library: &libloading::Library) {
                $(if self.$name.is_none() {
                    let plan = library.get(concat!(stringify!($plan), "\0").as_bytes());
                    let run = library.get(concat!(stringify!($run), "\0").as_bytes());
                    if let (Ok(plan), Ok(run)) = (plan, run) {
                        self.$name = Some((*plan, *run));
                    }
                })*
            }

            pub fn has(&self, operator: Operator) -> bool {
                match operator { $(Operator::$name => self.$name.is_some(),)* }
            }

            /// Phase one.
            ///
            /// # Safety
            /// The operator was found, and the objects behind `raw` live.
            pub unsafe fn plan(
                &self,
                operator: Operator,
                raw: &[Raw],
                workspace: *mut u64,
                executor: *mut *mut aclOpExecutor,
            ) -> i32 {
                let mut raw = raw.iter();
                match operator {
                    $(Operator::$name => {
                        let (plan, _) = self.$name.as_ref().expect("checked when opening");
                        plan($(parameter!($kind, raw.next()),)* workspace, executor)
                    })*
                }
            }

            /// Phase two of an operator that was found.
            pub fn run(&self, operator: Operator) -> Run {
                match operator {
                    $(Operator::$name => self.$name.as_ref().expect("checked when opening").1,)*
                }
            }
        }
    };
}
for_each_operator!(table);
