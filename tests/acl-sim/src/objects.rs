//! Exports of the object library: descriptors, scalars, arrays, lists, executors.
//!
//! Bad arguments give a null object, as the vendor's do; destroying twice, or something else, is a
//! violation.

use std::ffi::c_void;
use std::ptr;
use std::slice;
use std::sync::atomic::Ordering;

use backend_ascend::sys::acl::{aclDataType, aclFormat};
use backend_ascend::sys::nnopbase::*;

use crate::executor::INVALID;
use crate::machine::{Object, Scalar, Tensor, machine};
use crate::mutation::Mutation;
use crate::runtime::{fail, refuse};

/// Most dimensions of a tensor.
const RANK_MAX: u64 = 8;

fn insert<T>(object: Object) -> *mut T {
    let mut machine = machine();
    let handle = machine.handle();
    machine.objects.insert(handle, object);
    ptr::without_provenance_mut(handle)
}

/// `count` numbers at `start`.
///
/// # Safety
/// They are there.
unsafe fn copied(start: *const i64, count: u64) -> Vec<i64> {
    match count {
        0 => Vec::new(),
        // SAFETY: the caller's promise.
        _ => unsafe { slice::from_raw_parts(start, count as usize) }.to_vec(),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateTensor(
    dims: *const i64,
    rank: u64,
    dtype: aclDataType,
    strides: *const i64,
    offset: i64,
    format: aclFormat,
    storage: *const i64,
    storage_rank: u64,
    data: *mut c_void,
) -> *mut aclTensor {
    if rank > RANK_MAX || storage_rank > RANK_MAX || offset < 0 {
        refuse(&mut machine(), INVALID, format!("a tensor of rank {rank} at {offset}"));
        return ptr::null_mut();
    }
    // SAFETY: the ABI: `rank` dimensions, as many strides, `storage_rank` storage dimensions.
    let (dims, strides, storage) =
        unsafe { (copied(dims, rank), copied(strides, rank), copied(storage, storage_rank)) };
    if dims.iter().chain(&strides).chain(&storage).any(|&x| x < 0) {
        refuse(&mut machine(), INVALID, format!("dims {dims:?}, strides {strides:?}"));
        return ptr::null_mut();
    }
    let data = data.addr() as u64;
    let mut tensor = Tensor { dims, strides, offset, dtype, format, storage, data };
    mistaken(&mut tensor);
    insert(Object::Tensor(tensor))
}

/// Makes the mistake that a test ordered.
fn mistaken(tensor: &mut Tensor) {
    let order = &mut machine().order;
    if order.strikes(Mutation::WrongType) {
        tensor.dtype = aclDataType(tensor.dtype.0 + 1);
    }
    if order.strikes(Mutation::WrongFormat) {
        tensor.format = aclFormat::ACL_FORMAT_NCHW;
    }
    if order.strikes(Mutation::ShiftedTensor) {
        tensor.offset += 1;
    }
    if order.strikes(Mutation::MisalignedTensor) {
        tensor.data += 4;
    }
    if order.strikes(Mutation::HostPointer) {
        tensor.data = 0x7fff_0000_0000;
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateScalar(value: *mut c_void, dtype: aclDataType) -> *mut aclScalar {
    let value = match dtype {
        // SAFETY: the ABI: a value of this type.
        aclDataType::ACL_FLOAT => f64::from(unsafe { value.cast::<f32>().read_unaligned() }),
        // SAFETY: as above.
        aclDataType::ACL_INT32 => f64::from(unsafe { value.cast::<i32>().read_unaligned() }),
        _ => {
            refuse(&mut machine(), INVALID, format!("a scalar of type {}", dtype.0));
            return ptr::null_mut();
        }
    };
    insert(Object::Scalar(Scalar { dtype, value }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateIntArray(values: *const i64, count: u64) -> *mut aclIntArray {
    // SAFETY: the ABI: `count` numbers.
    insert(Object::Ints(unsafe { copied(values, count) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateTensorList(
    tensors: *const *const aclTensor,
    count: u64,
) -> *mut aclTensorList {
    // SAFETY: the ABI: `count` tensors.
    let tensors = unsafe { slice::from_raw_parts(tensors, count as usize) };
    insert(Object::List(tensors.iter().map(|tensor| tensor.addr()).collect()))
}

fn destroy(handle: usize, kind: &str, fits: fn(&Object) -> bool) -> aclnnStatus {
    let mut machine = machine();
    match machine.objects.get(&handle).map(fits) {
        Some(true) => {}
        _ => return refuse(&mut machine, INVALID, format!("{kind} destroyed twice, or none")),
    }
    // A list owns its tensors.
    if let Some(Object::List(tensors)) = machine.objects.remove(&handle) {
        for tensor in tensors {
            if machine.objects.remove(&tensor).is_none() {
                machine.violation("a tensor of a list was destroyed before the list");
            }
        }
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDestroyTensor(tensor: *const aclTensor) -> aclnnStatus {
    let (leaks, again) = {
        let order = &mut machine().order;
        (order.strikes(Mutation::LeakedTensor), order.strikes(Mutation::DestroyedTwice))
    };
    let once = || destroy(tensor.addr(), "tensor", |object| matches!(object, Object::Tensor(_)));
    match (leaks, again) {
        (true, _) => 0,
        (_, true) => once() | once(),
        _ => once(),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDestroyScalar(scalar: *const aclScalar) -> aclnnStatus {
    destroy(scalar.addr(), "scalar", |object| matches!(object, Object::Scalar(_)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDestroyIntArray(array: *const aclIntArray) -> aclnnStatus {
    destroy(array.addr(), "array", |object| matches!(object, Object::Ints(_)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDestroyTensorList(list: *const aclTensorList) -> aclnnStatus {
    destroy(list.addr(), "list", |object| matches!(object, Object::List(_)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclSetAclOpExecutorRepeatable(
    executor: *mut aclOpExecutor,
) -> aclnnStatus {
    let mut machine = machine();
    match machine.objects.get(&executor.addr()) {
        Some(Object::Executor(executor)) if executor.repeats() => {
            executor.repeatable.store(true, Ordering::Relaxed);
            0
        }
        Some(Object::Executor(_)) => fail(INVALID, "the operator copies its operands"),
        _ => refuse(&mut machine, INVALID, "no such executor".into()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDestroyAclOpExecutor(executor: *mut aclOpExecutor) -> aclnnStatus {
    destroy(executor.addr(), "executor", |object| matches!(object, Object::Executor(_)))
}
