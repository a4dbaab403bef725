//! Descriptors of operands (tensors, scalars, arrays, lists) and executors, freed by drop.
//!
//! Scalars and arrays are read during phase one; tensors are kept as long as an executor may read them.

use std::ptr;
use std::sync::Arc;

use hal::{Error, Result};

use crate::runtime::{Driver, Runtime};
use crate::sys::acl::{aclFormat, aclrtStream};
use crate::sys::nnopbase::{aclIntArray, aclOpExecutor, aclScalar, aclTensor, aclTensorList};
use crate::sys::operators::{Operator, Raw};
use crate::tape::{Arg, Call};
use crate::view::{Element, Place, View};

/// Addresses are multiples of this; what lies elsewhere is reached through an offset.
const TENSOR_ALIGN_BYTES: u64 = 32;

/// One object of the operator library.
enum Object {
    Tensor(*const aclTensor),
    Scalar(*const aclScalar),
    Ints(*const aclIntArray),
    List(*const aclTensorList),
}

/// The objects of one call.
struct Objects {
    driver: Arc<Driver>,
    made: Vec<Object>,
}

impl Drop for Objects {
    fn drop(&mut self) {
        let base = &self.driver.libraries.base;
        for object in &self.made {
            match *object {
                // SAFETY: made by this library and destroyed once; a list owns its tensors.
                Object::Tensor(tensor) => unsafe { base.aclDestroyTensor(tensor) },
                // SAFETY: as above.
                Object::Scalar(scalar) => unsafe { base.aclDestroyScalar(scalar) },
                // SAFETY: as above.
                Object::Ints(ints) => unsafe { base.aclDestroyIntArray(ints) },
                // SAFETY: as above.
                Object::List(list) => unsafe { base.aclDestroyTensorList(list) },
            };
        }
    }
}

/// The bits of a scalar operand.
#[repr(C)]
union ScalarBits {
    f32: f32,
    i32: i32,
}

impl Objects {
    fn made<T>(&mut self, pointer: *mut T, object: fn(*const T) -> Object) -> Result<*const T> {
        if pointer.is_null() {
            let message = self.driver.message();
            return Err(Error::driver(0, format!("an operand could not be described{message}")));
        }
        self.made.push(object(pointer));
        Ok(pointer)
    }

    fn tensor(&self, view: &View, temp: u64) -> *mut aclTensor {
        let (address, bytes) = match view.place {
            Place::Memory { address, bytes } => (address, bytes),
            Place::Temp { offset, bytes } => (temp + offset, bytes),
        };
        let first = view.offset as u64 * view.element.bits() / 8;
        // Where it can be, the descriptor is the plainest there is: base, no offset, its own storage.
        let plain = view.is_dense() && (address + first).is_multiple_of(TENSOR_ALIGN_BYTES);
        let storage = (bytes * 8 / view.element.bits()) as i64;
        let (data, offset, storage) = match plain {
            true => (address + first, 0, view.dims.clone()),
            false => (address, view.offset, vec![storage]),
        };
        // SAFETY: the arrays have the lengths given and are copied; the address is not followed here.
        unsafe {
            self.driver.libraries.base.aclCreateTensor(
                view.dims.as_ptr(),
                view.dims.len() as u64,
                view.element.code(),
                view.strides.as_ptr(),
                offset,
                aclFormat::ACL_FORMAT_ND,
                storage.as_ptr(),
                storage.len() as u64,
                ptr::without_provenance_mut(data as usize),
            )
        }
    }

    fn raw(&mut self, arg: &Arg, temp: u64) -> Result<Raw> {
        let driver = Arc::clone(&self.driver);
        let base = &driver.libraries.base;
        Ok(match arg {
            Arg::View(view) => {
                let tensor = self.tensor(view, temp);
                Raw::T(self.made(tensor, Object::Tensor)?)
            }
            Arg::NoView => Raw::T(ptr::null()),
            Arg::Views(views) => {
                let tensors: Vec<*const aclTensor> =
                    views.iter().map(|view| self.tensor(view, temp).cast_const()).collect();
                // SAFETY: the array has this length; the list takes the tensors over.
                let list =
                    unsafe { base.aclCreateTensorList(tensors.as_ptr(), tensors.len() as u64) };
                Raw::L(self.made(list, Object::List)?)
            }
            Arg::NoViews => Raw::L(ptr::null()),
            Arg::Scalar(element, value) => {
                let mut bits = match element {
                    Element::I32 => ScalarBits { i32: *value as i32 },
                    _ => ScalarBits { f32: *value as f32 },
                };
                let element = if *element == Element::I32 { Element::I32 } else { Element::F32 };
                // SAFETY: the value is read during the call.
                let scalar = unsafe {
                    base.aclCreateScalar(ptr::from_mut(&mut bits).cast(), element.code())
                };
                Raw::S(self.made(scalar, Object::Scalar)?)
            }
            Arg::Ints(ints) => {
                // SAFETY: the array has this length and is copied.
                let ints = unsafe { base.aclCreateIntArray(ints.as_ptr(), ints.len() as u64) };
                Raw::A(self.made(ints, Object::Ints)?)
            }
            Arg::NoInts => Raw::A(ptr::null()),
            Arg::I64(value) => Raw::I(*value),
            Arg::I8(value) => Raw::B(*value),
            Arg::F64(value) => Raw::F(*value),
            Arg::Bool(value) => Raw::Y(*value),
            Arg::Element(element) => Raw::D(element.code()),
        })
    }
}

/// A call with its operands described and, where it has one, its executor.
pub(crate) struct Prepared {
    operator: Operator,
    raw: Vec<Raw>,
    objects: Objects,
    executor: *mut aclOpExecutor,
    /// One executor serves every run; otherwise phase one precedes each.
    repeatable: bool,
    pub(crate) workspace_bytes: u64,
}

// SAFETY: handles of the library, used under the lock of the plan that owns them.
unsafe impl Send for Prepared {}

impl Prepared {
    /// Describes the operands and runs phase one. The context is bound.
    pub(crate) fn new(call: &Call, temp: u64, runtime: &Runtime) -> Result<Prepared> {
        let mut objects = Objects { driver: Arc::clone(&runtime.driver), made: Vec::new() };
        let raw = call.args.iter().map(|arg| objects.raw(arg, temp)).collect::<Result<_>>()?;
        let executor = ptr::null_mut();
        let mut prepared = Prepared {
            operator: call.operator,
            raw,
            objects,
            executor,
            repeatable: false,
            workspace_bytes: 0,
        };
        prepared.plan(runtime)?;
        let base = &prepared.objects.driver.libraries.base;
        // SAFETY: the executor comes straight from phase one.
        let code = unsafe { base.aclSetAclOpExecutorRepeatable(prepared.executor) };
        prepared.repeatable = code == 0;
        Ok(prepared)
    }

    /// Phase one.
    fn plan(&mut self, runtime: &Runtime) -> Result<()> {
        let operators = &self.objects.driver.libraries.operators;
        let (mut bytes, mut executor) = (0, ptr::null_mut());
        // SAFETY: all operators of the table were found; the objects live in `self`.
        let code = unsafe { operators.plan(self.operator, &self.raw, &mut bytes, &mut executor) };
        runtime.check(code, self.operator.symbols().0)?;
        self.workspace_bytes = self.workspace_bytes.max(bytes);
        self.executor = executor;
        Ok(())
    }

    /// Phase two, preceded by phase one where the executor serves once. `workspace` has the bytes
    /// that phase one wanted.
    pub(crate) fn run(
        &mut self,
        workspace: u64,
        stream: aclrtStream,
        runtime: &Runtime,
    ) -> Result<()> {
        if self.executor.is_null() {
            self.plan(runtime)?;
        }
        let run = self.objects.driver.libraries.operators.run(self.operator);
        let pointer = match self.workspace_bytes {
            0 => ptr::null_mut(),
            _ => ptr::without_provenance_mut(workspace as usize),
        };
        // SAFETY: the executor is of this operator; workspace and operands outlive the work, the
        // plan holds them.
        let code = unsafe { run(pointer, self.workspace_bytes, self.executor, stream) };
        if !self.repeatable {
            self.executor = ptr::null_mut();
        }
        runtime.check(code, self.operator.symbols().1)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.executor.is_null() {
            let base = &self.objects.driver.libraries.base;
            // SAFETY: nothing of it is queued: a queue holds the plan until its work is done.
            unsafe { base.aclDestroyAclOpExecutor(self.executor) };
        }
    }
}
