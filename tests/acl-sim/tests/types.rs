//! Every export of the simulator has the type of the vendor's prototype: Rust compiles a cast of a function
//! to a function pointer only if the signatures are the same, so building this file is the proof. The
//! operators' exports and calls are made from one table and cannot differ.

use acl_sim::{capture, hccl, objects, runtime};
use backend_ascend::sys::acl::Acl;
use backend_ascend::sys::hccl::Hccl;
use backend_ascend::sys::nnopbase::Nnopbase;

/// Pairs the generated type of each function with the simulator's function.
macro_rules! agree {
    ($check:ident, $library:ty, $module:ident, $($function:ident)*) => {
        fn $check(library: &$library) -> usize {
            let mut count = 0;
            $({
                let pair = [library.$function.as_ref().ok().copied(), Some($module::$function as _)];
                count += pair.len() / 2;
            })*
            count
        }
    };
}

agree!(runtime_agrees, Acl, runtime,
    aclInit aclFinalize aclGetRecentErrMsg aclrtGetVersion aclrtGetSocName aclrtGetDeviceCount
    aclrtSetDevice aclrtResetDevice aclrtCreateContext aclrtDestroyContext aclrtSetCurrentContext
    aclrtCtxSetSysParamOpt aclrtGetMemInfo aclrtCreateStreamWithConfig aclrtDestroyStream
    aclrtSynchronizeStream aclrtSynchronizeStreamWithTimeout aclrtSetStreamFailureMode
    aclrtCreateEventExWithFlag aclrtDestroyEvent aclrtRecordEvent aclrtStreamWaitEvent
    aclrtQueryEventStatus aclrtSynchronizeEventWithTimeout aclrtEventElapsedTime aclrtMalloc
    aclrtFree aclrtMallocHost aclrtFreeHost aclrtMemcpy aclrtMemcpyAsync aclrtMemset);
agree!(capture_agrees, Acl, capture,
    aclmdlRICaptureBegin aclmdlRICaptureEnd aclmdlRIExecuteAsync aclmdlRIDestroy);
agree!(objects_agree, Nnopbase, objects,
    aclCreateTensor aclCreateScalar aclCreateIntArray aclCreateTensorList aclDestroyTensor
    aclDestroyScalar aclDestroyIntArray aclDestroyTensorList aclSetAclOpExecutorRepeatable
    aclDestroyAclOpExecutor);
agree!(collectives_agree, Hccl, hccl,
    HcclCommInitAll HcclAllReduce HcclAllGather HcclReduceScatter HcclAlltoAll HcclCommDestroy
    HcclGetErrorString);

#[test]
fn every_export_has_the_vendors_type() {
    // The functions above are never called: a library would be needed. Naming them compiles them.
    let runtime: [fn(&Acl) -> usize; 2] = [runtime_agrees, capture_agrees];
    let objects: fn(&Nnopbase) -> usize = objects_agree;
    let collectives: fn(&Hccl) -> usize = collectives_agree;
    assert_eq!(runtime.len(), 2);
    assert_ne!(objects as usize, collectives as usize);
}
