//! Exports of the operator libraries: both phases of every row of the backend's table.

use std::ffi::c_void;

use backend_ascend::sys::acl::aclrtStream;
use backend_ascend::sys::nnopbase::aclOpExecutor;
use backend_ascend::sys::operators::{Operator, Raw};
use backend_ascend::{for_each_operator, operator_type};

use crate::executor;

macro_rules! raw {
    (O, $value:expr) => {
        Raw::T($value)
    };
    (C, $value:expr) => {
        Raw::T($value)
    };
    (M, $value:expr) => {
        Raw::L($value)
    };
    (N, $value:expr) => {
        Raw::T($value)
    };
    ($kind:ident, $value:expr) => {
        Raw::$kind($value)
    };
}

macro_rules! exports {
    ($($name:ident $plan:ident $run:ident ($($parameter:ident $kind:ident),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $plan(
                $($parameter: operator_type!($kind),)*
                workspace_bytes: *mut u64,
                executor: *mut *mut aclOpExecutor,
            ) -> i32 {
                let raw = [$(raw!($kind, $parameter)),*];
                // SAFETY: the ABI: two places to write to.
                unsafe { executor::plan(Operator::$name, &raw, workspace_bytes, executor) }
            }

            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $run(
                workspace: *mut c_void,
                workspace_bytes: u64,
                executor: *mut aclOpExecutor,
                stream: aclrtStream,
            ) -> i32 {
                executor::run(Operator::$name, workspace, workspace_bytes, executor, stream)
            }
        )*
    };
}
for_each_operator!(exports);
