//! Generated from the vendor's headers by build.rs; do not edit. See docs/ascend.md.
use super::acl::aclrtStream;

impl HcclResult {
    pub const HCCL_SUCCESS: HcclResult = HcclResult(0);
    pub const HCCL_E_PARA: HcclResult = HcclResult(1);
    pub const HCCL_E_PTR: HcclResult = HcclResult(2);
    pub const HCCL_E_MEMORY: HcclResult = HcclResult(3);
    pub const HCCL_E_INTERNAL: HcclResult = HcclResult(4);
    pub const HCCL_E_NOT_SUPPORT: HcclResult = HcclResult(5);
    pub const HCCL_E_NOT_FOUND: HcclResult = HcclResult(6);
    pub const HCCL_E_UNAVAIL: HcclResult = HcclResult(7);
    pub const HCCL_E_SYSCALL: HcclResult = HcclResult(8);
    pub const HCCL_E_TIMEOUT: HcclResult = HcclResult(9);
    pub const HCCL_E_OPEN_FILE_FAILURE: HcclResult = HcclResult(10);
    pub const HCCL_E_TCP_CONNECT: HcclResult = HcclResult(11);
    pub const HCCL_E_ROCE_CONNECT: HcclResult = HcclResult(12);
    pub const HCCL_E_TCP_TRANSFER: HcclResult = HcclResult(13);
    pub const HCCL_E_ROCE_TRANSFER: HcclResult = HcclResult(14);
    pub const HCCL_E_RUNTIME: HcclResult = HcclResult(15);
    pub const HCCL_E_DRV: HcclResult = HcclResult(16);
    pub const HCCL_E_PROFILING: HcclResult = HcclResult(17);
    pub const HCCL_E_CCE: HcclResult = HcclResult(18);
    pub const HCCL_E_NETWORK: HcclResult = HcclResult(19);
    pub const HCCL_E_AGAIN: HcclResult = HcclResult(20);
    pub const HCCL_E_REMOTE: HcclResult = HcclResult(21);
    pub const HCCL_E_SUSPENDING: HcclResult = HcclResult(22);
    pub const HCCL_E_OPRETRY_FAIL: HcclResult = HcclResult(23);
    pub const HCCL_E_OOM: HcclResult = HcclResult(24);
    pub const HCCL_E_RESERVED: HcclResult = HcclResult(25);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct HcclResult(pub ::std::os::raw::c_uint);
pub type HcclComm = *mut ::std::os::raw::c_void;
impl HcclReduceOp {
    pub const HCCL_REDUCE_SUM: HcclReduceOp = HcclReduceOp(0);
    pub const HCCL_REDUCE_PROD: HcclReduceOp = HcclReduceOp(1);
    pub const HCCL_REDUCE_MAX: HcclReduceOp = HcclReduceOp(2);
    pub const HCCL_REDUCE_MIN: HcclReduceOp = HcclReduceOp(3);
    pub const HCCL_REDUCE_RESERVED: HcclReduceOp = HcclReduceOp(255);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct HcclReduceOp(pub ::std::os::raw::c_uint);
impl HcclDataType {
    pub const HCCL_DATA_TYPE_INT8: HcclDataType = HcclDataType(0);
    pub const HCCL_DATA_TYPE_INT16: HcclDataType = HcclDataType(1);
    pub const HCCL_DATA_TYPE_INT32: HcclDataType = HcclDataType(2);
    pub const HCCL_DATA_TYPE_FP16: HcclDataType = HcclDataType(3);
    pub const HCCL_DATA_TYPE_FP32: HcclDataType = HcclDataType(4);
    pub const HCCL_DATA_TYPE_INT64: HcclDataType = HcclDataType(5);
    pub const HCCL_DATA_TYPE_UINT64: HcclDataType = HcclDataType(6);
    pub const HCCL_DATA_TYPE_UINT8: HcclDataType = HcclDataType(7);
    pub const HCCL_DATA_TYPE_UINT16: HcclDataType = HcclDataType(8);
    pub const HCCL_DATA_TYPE_UINT32: HcclDataType = HcclDataType(9);
    pub const HCCL_DATA_TYPE_FP64: HcclDataType = HcclDataType(10);
    pub const HCCL_DATA_TYPE_BFP16: HcclDataType = HcclDataType(11);
    pub const HCCL_DATA_TYPE_INT128: HcclDataType = HcclDataType(12);
    pub const HCCL_DATA_TYPE_HIF8: HcclDataType = HcclDataType(14);
    pub const HCCL_DATA_TYPE_FP8E4M3: HcclDataType = HcclDataType(15);
    pub const HCCL_DATA_TYPE_FP8E5M2: HcclDataType = HcclDataType(16);
    pub const HCCL_DATA_TYPE_FP8E8M0: HcclDataType = HcclDataType(17);
    pub const HCCL_DATA_TYPE_RESERVED: HcclDataType = HcclDataType(255);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct HcclDataType(pub ::std::os::raw::c_uint);
pub struct Hccl {
    __library: ::libloading::Library,
    pub HcclAllReduce: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            recvBuf: *mut ::std::os::raw::c_void,
            count: u64,
            dataType: HcclDataType,
            op: HcclReduceOp,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclReduceScatter: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            recvBuf: *mut ::std::os::raw::c_void,
            recvCount: u64,
            dataType: HcclDataType,
            op: HcclReduceOp,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclAllGather: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            recvBuf: *mut ::std::os::raw::c_void,
            sendCount: u64,
            dataType: HcclDataType,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclAlltoAll: Result<
        unsafe extern "C" fn(
            sendBuf: *const ::std::os::raw::c_void,
            sendCount: u64,
            sendType: HcclDataType,
            recvBuf: *const ::std::os::raw::c_void,
            recvCount: u64,
            recvType: HcclDataType,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclCommDestroy:
        Result<unsafe extern "C" fn(comm: HcclComm) -> HcclResult, ::libloading::Error>,
    pub HcclCommInitAll: Result<
        unsafe extern "C" fn(ndev: u32, devices: *mut i32, comms: *mut HcclComm) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclGetErrorString: Result<
        unsafe extern "C" fn(code: HcclResult) -> *const ::std::os::raw::c_char,
        ::libloading::Error,
    >,
}
impl Hccl {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let library = ::libloading::Library::new(path)?;
        Self::from_library(library)
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let HcclAllReduce = __library.get(b"HcclAllReduce\0").map(|sym| *sym);
        let HcclReduceScatter = __library.get(b"HcclReduceScatter\0").map(|sym| *sym);
        let HcclAllGather = __library.get(b"HcclAllGather\0").map(|sym| *sym);
        let HcclAlltoAll = __library.get(b"HcclAlltoAll\0").map(|sym| *sym);
        let HcclCommDestroy = __library.get(b"HcclCommDestroy\0").map(|sym| *sym);
        let HcclCommInitAll = __library.get(b"HcclCommInitAll\0").map(|sym| *sym);
        let HcclGetErrorString = __library.get(b"HcclGetErrorString\0").map(|sym| *sym);
        Ok(Hccl {
            __library,
            HcclAllReduce,
            HcclReduceScatter,
            HcclAllGather,
            HcclAlltoAll,
            HcclCommDestroy,
            HcclCommInitAll,
            HcclGetErrorString,
        })
    }
    pub unsafe fn HcclAllReduce(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        recvBuf: *mut ::std::os::raw::c_void,
        count: u64,
        dataType: HcclDataType,
        op: HcclReduceOp,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        (self.HcclAllReduce.as_ref().expect("Expected function, got error."))(
            sendBuf, recvBuf, count, dataType, op, comm, stream,
        )
    }
    pub unsafe fn HcclReduceScatter(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        recvBuf: *mut ::std::os::raw::c_void,
        recvCount: u64,
        dataType: HcclDataType,
        op: HcclReduceOp,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        (self.HcclReduceScatter.as_ref().expect("Expected function, got error."))(
            sendBuf, recvBuf, recvCount, dataType, op, comm, stream,
        )
    }
    pub unsafe fn HcclAllGather(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        recvBuf: *mut ::std::os::raw::c_void,
        sendCount: u64,
        dataType: HcclDataType,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        (self.HcclAllGather.as_ref().expect("Expected function, got error."))(
            sendBuf, recvBuf, sendCount, dataType, comm, stream,
        )
    }
    pub unsafe fn HcclAlltoAll(
        &self,
        sendBuf: *const ::std::os::raw::c_void,
        sendCount: u64,
        sendType: HcclDataType,
        recvBuf: *const ::std::os::raw::c_void,
        recvCount: u64,
        recvType: HcclDataType,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        (self.HcclAlltoAll.as_ref().expect("Expected function, got error."))(
            sendBuf, sendCount, sendType, recvBuf, recvCount, recvType, comm, stream,
        )
    }
    pub unsafe fn HcclCommDestroy(&self, comm: HcclComm) -> HcclResult {
        (self.HcclCommDestroy.as_ref().expect("Expected function, got error."))(comm)
    }
    pub unsafe fn HcclCommInitAll(
        &self,
        ndev: u32,
        devices: *mut i32,
        comms: *mut HcclComm,
    ) -> HcclResult {
        (self.HcclCommInitAll.as_ref().expect("Expected function, got error."))(
            ndev, devices, comms,
        )
    }
    pub unsafe fn HcclGetErrorString(&self, code: HcclResult) -> *const ::std::os::raw::c_char {
        (self.HcclGetErrorString.as_ref().expect("Expected function, got error."))(code)
    }
}
