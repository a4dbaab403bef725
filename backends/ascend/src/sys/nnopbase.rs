//! Generated from the vendor's headers by build.rs; do not edit. See docs/ascend.md.
use super::acl::{aclDataType, aclFormat};

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclTensor {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclScalar {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclIntArray {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclTensorList {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclOpExecutor {
    _unused: [u8; 0],
}
pub type aclnnStatus = i32;
pub struct Nnopbase {
    __library: ::libloading::Library,
    pub aclCreateTensor: Result<
        unsafe extern "C" fn(
            arg1: *const i64,
            arg2: u64,
            arg3: aclDataType,
            arg4: *const i64,
            arg5: i64,
            arg6: aclFormat,
            arg7: *const i64,
            arg8: u64,
            arg9: *mut ::std::os::raw::c_void,
        ) -> *mut aclTensor,
        ::libloading::Error,
    >,
    pub aclCreateScalar: Result<
        unsafe extern "C" fn(
            arg1: *mut ::std::os::raw::c_void,
            arg2: aclDataType,
        ) -> *mut aclScalar,
        ::libloading::Error,
    >,
    pub aclCreateIntArray: Result<
        unsafe extern "C" fn(arg1: *const i64, arg2: u64) -> *mut aclIntArray,
        ::libloading::Error,
    >,
    pub aclCreateTensorList: Result<
        unsafe extern "C" fn(arg1: *const *const aclTensor, arg2: u64) -> *mut aclTensorList,
        ::libloading::Error,
    >,
    pub aclDestroyTensor:
        Result<unsafe extern "C" fn(arg1: *const aclTensor) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyScalar:
        Result<unsafe extern "C" fn(arg1: *const aclScalar) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyIntArray:
        Result<unsafe extern "C" fn(arg1: *const aclIntArray) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyTensorList: Result<
        unsafe extern "C" fn(arg1: *const aclTensorList) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclSetAclOpExecutorRepeatable:
        Result<unsafe extern "C" fn(arg1: *mut aclOpExecutor) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyAclOpExecutor:
        Result<unsafe extern "C" fn(arg1: *mut aclOpExecutor) -> aclnnStatus, ::libloading::Error>,
}
impl Nnopbase {
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
        let aclCreateTensor = __library.get(b"aclCreateTensor\0").map(|sym| *sym);
        let aclCreateScalar = __library.get(b"aclCreateScalar\0").map(|sym| *sym);
        let aclCreateIntArray = __library.get(b"aclCreateIntArray\0").map(|sym| *sym);
        let aclCreateTensorList = __library.get(b"aclCreateTensorList\0").map(|sym| *sym);
        let aclDestroyTensor = __library.get(b"aclDestroyTensor\0").map(|sym| *sym);
        let aclDestroyScalar = __library.get(b"aclDestroyScalar\0").map(|sym| *sym);
        let aclDestroyIntArray = __library.get(b"aclDestroyIntArray\0").map(|sym| *sym);
        let aclDestroyTensorList = __library.get(b"aclDestroyTensorList\0").map(|sym| *sym);
        let aclSetAclOpExecutorRepeatable =
            __library.get(b"aclSetAclOpExecutorRepeatable\0").map(|sym| *sym);
        let aclDestroyAclOpExecutor = __library.get(b"aclDestroyAclOpExecutor\0").map(|sym| *sym);
        Ok(Nnopbase {
            __library,
            aclCreateTensor,
            aclCreateScalar,
            aclCreateIntArray,
            aclCreateTensorList,
            aclDestroyTensor,
            aclDestroyScalar,
            aclDestroyIntArray,
            aclDestroyTensorList,
            aclSetAclOpExecutorRepeatable,
            aclDestroyAclOpExecutor,
        })
    }
    pub unsafe fn aclCreateTensor(
        &self,
        arg1: *const i64,
        arg2: u64,
        arg3: aclDataType,
        arg4: *const i64,
        arg5: i64,
        arg6: aclFormat,
        arg7: *const i64,
        arg8: u64,
        arg9: *mut ::std::os::raw::c_void,
    ) -> *mut aclTensor {
        (self.aclCreateTensor.as_ref().expect("Expected function, got error."))(
            arg1, arg2, arg3, arg4, arg5, arg6, arg7, arg8, arg9,
        )
    }
    pub unsafe fn aclCreateScalar(
        &self,
        arg1: *mut ::std::os::raw::c_void,
        arg2: aclDataType,
    ) -> *mut aclScalar {
        (self.aclCreateScalar.as_ref().expect("Expected function, got error."))(arg1, arg2)
    }
    pub unsafe fn aclCreateIntArray(&self, arg1: *const i64, arg2: u64) -> *mut aclIntArray {
        (self.aclCreateIntArray.as_ref().expect("Expected function, got error."))(arg1, arg2)
    }
    pub unsafe fn aclCreateTensorList(
        &self,
        arg1: *const *const aclTensor,
        arg2: u64,
    ) -> *mut aclTensorList {
        (self.aclCreateTensorList.as_ref().expect("Expected function, got error."))(arg1, arg2)
    }
    pub unsafe fn aclDestroyTensor(&self, arg1: *const aclTensor) -> aclnnStatus {
        (self.aclDestroyTensor.as_ref().expect("Expected function, got error."))(arg1)
    }
    pub unsafe fn aclDestroyScalar(&self, arg1: *const aclScalar) -> aclnnStatus {
        (self.aclDestroyScalar.as_ref().expect("Expected function, got error."))(arg1)
    }
    pub unsafe fn aclDestroyIntArray(&self, arg1: *const aclIntArray) -> aclnnStatus {
        (self.aclDestroyIntArray.as_ref().expect("Expected function, got error."))(arg1)
    }
    pub unsafe fn aclDestroyTensorList(&self, arg1: *const aclTensorList) -> aclnnStatus {
        (self.aclDestroyTensorList.as_ref().expect("Expected function, got error."))(arg1)
    }
    pub unsafe fn aclSetAclOpExecutorRepeatable(&self, arg1: *mut aclOpExecutor) -> aclnnStatus {
        (self.aclSetAclOpExecutorRepeatable.as_ref().expect("Expected function, got error."))(arg1)
    }
    pub unsafe fn aclDestroyAclOpExecutor(&self, arg1: *mut aclOpExecutor) -> aclnnStatus {
        (self.aclDestroyAclOpExecutor.as_ref().expect("Expected function, got error."))(arg1)
    }
}
