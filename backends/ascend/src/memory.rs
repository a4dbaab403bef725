//! Memory: device blocks that free themselves, zeroed buffers, pinned host slots.
//!
//! A device address is a number here, never a pointer that could be followed.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::slice;
use std::sync::{Arc, Mutex, Weak};

use hal::{Buffer, Error, HostMemory, RawBuffer, Result, Tensor};

use crate::runtime::{Runtime, lock};
use crate::sys::acl::{aclrtMemMallocPolicy, aclrtMemcpyKind};

/// A block of device memory, counted. Whoever drops it knows that no queued work uses it.
pub(crate) struct DeviceMemory {
    runtime: Arc<Runtime>,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

impl DeviceMemory {
    /// Uninitialised memory; at least a byte.
    pub(crate) fn new(label: &str, bytes: u64, runtime: &Arc<Runtime>) -> Result<DeviceMemory> {
        runtime.alive()?;
        runtime.take(label, bytes)?;
        let mut pointer: *mut c_void = ptr::null_mut();
        let policy = aclrtMemMallocPolicy::ACL_MEM_MALLOC_HUGE_FIRST;
        let size = bytes.max(1) as usize;
        let made = runtime.bind().and_then(|()| {
            // SAFETY: a place to write to.
            let code = unsafe { runtime.acl().aclrtMalloc(&mut pointer, size, policy) };
            runtime.check(code, &format!("{label}: aclrtMalloc of {size} bytes"))
        });
        if let Err(error) = made {
            runtime.give(bytes);
            return Err(error);
        }
        Ok(DeviceMemory { runtime: Arc::clone(runtime), address: pointer.addr() as u64, bytes })
    }

    /// At least as many bytes as all plans share now; where that is too little, new ones that are shared from then on.
    /// Plans run one at a time, so what was compiled largest first has one block.
    pub(crate) fn shared(
        label: &str,
        bytes: u64,
        place: &Mutex<Weak<DeviceMemory>>,
        runtime: &Arc<Runtime>,
    ) -> Result<Arc<DeviceMemory>> {
        let mut place = lock(place);
        if let Some(memory) = place.upgrade().filter(|memory| memory.bytes >= bytes) {
            return Ok(memory);
        }
        let memory = Arc::new(DeviceMemory::new(label, bytes, runtime)?);
        *place = Arc::downgrade(&memory);
        Ok(memory)
    }

    /// Zeros.
    pub(crate) fn zeroed(label: &str, bytes: u64, runtime: &Arc<Runtime>) -> Result<DeviceMemory> {
        let memory = DeviceMemory::new(label, bytes, runtime)?;
        let size = bytes as usize;
        if size > 0 {
            // SAFETY: the block has this size; it is new, so no queued work touches it.
            let code = unsafe { runtime.acl().aclrtMemset(memory.pointer(), size, 0, size) };
            runtime.check(code, &format!("{label}: aclrtMemset"))?;
        }
        Ok(memory)
    }

    /// These bytes.
    pub(crate) fn filled(
        label: &str,
        bytes: &[u8],
        runtime: &Arc<Runtime>,
    ) -> Result<DeviceMemory> {
        let memory = DeviceMemory::new(label, bytes.len() as u64, runtime)?;
        memory.write(0, bytes)?;
        Ok(memory)
    }

    /// Writes at once. The caller knows that no queued work touches the range.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        assert!(offset + bytes.len() as u64 <= self.bytes);
        self.runtime.bind()?;
        let target = ptr::without_provenance_mut((self.address + offset) as usize);
        let kind = aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE;
        let (source, size) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: both ranges have this size.
        let code = unsafe { self.runtime.acl().aclrtMemcpy(target, size, source, size, kind) };
        self.runtime.check(code, "aclrtMemcpy to the device")
    }

    pub(crate) fn pointer(&self) -> *mut c_void {
        ptr::without_provenance_mut(self.address as usize)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        self.runtime.give(self.bytes);
        let freed = self.runtime.bind().and_then(|()| {
            // SAFETY: the block came from aclrtMalloc and is freed once; plans and queues hold what
            // they use until it is done.
            let code = unsafe { self.runtime.acl().aclrtFree(self.pointer()) };
            self.runtime.check(code, "aclrtFree")
        });
        if let Err(error) = freed {
            self.runtime.lose(error.to_string());
        }
    }
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceMemory({} bytes at {:#x})", self.bytes, self.address)
    }
}

/// Memory behind a [`Buffer`].
#[derive(Debug)]
pub(crate) struct AscendBuffer(pub(crate) DeviceMemory);

impl RawBuffer for AscendBuffer {
    fn size_bytes(&self) -> u64 {
        self.0.bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The memory a tensor lies in.
///
/// # Errors
/// `InvalidProgram` if it lies on another device or nowhere yet.
pub(crate) fn memory_of<'a>(
    tensor: &'a Tensor,
    runtime: &Arc<Runtime>,
) -> Result<&'a DeviceMemory> {
    let Buffer::Real(raw) = tensor.buffer() else {
        return Err(Error::invalid(format!("{tensor:?} has no memory yet")));
    };
    let own: Option<&AscendBuffer> = raw.as_any().downcast_ref();
    own.map(|own| &own.0)
        .filter(|memory| Arc::ptr_eq(&memory.runtime, runtime))
        .ok_or_else(|| Error::invalid(format!("{tensor:?} lies on another device")))
}

/// Pinned host memory: what asynchronous copies need.
pub(crate) struct Pinned {
    runtime: Arc<Runtime>,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(crate) fn new(bytes: u64, runtime: &Arc<Runtime>) -> Result<Pinned> {
        runtime.alive()?;
        runtime.bind()?;
        let mut pointer = ptr::null_mut();
        let size = bytes.max(1) as usize;
        // SAFETY: a place to write to.
        let code = unsafe { runtime.acl().aclrtMallocHost(&mut pointer, size) };
        runtime.check(code, &format!("aclrtMallocHost of {size} bytes"))?;
        let pointer: *mut u8 = pointer.cast();
        // SAFETY: the block has this size; it comes uninitialised.
        unsafe { ptr::write_bytes(pointer, 0, size) };
        Ok(Pinned { runtime: Arc::clone(runtime), pointer, bytes: bytes as usize })
    }
}

impl HostMemory for Pinned {
    fn bytes(&self) -> &[u8] {
        // SAFETY: initialised in `new`; a transfer owns the slot while the device uses it.
        unsafe { slice::from_raw_parts(self.pointer, self.bytes) }
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let freed = self.runtime.bind().and_then(|()| {
            // SAFETY: it came from aclrtMallocHost; no transfer is under way, it would own the slot.
            let code = unsafe { self.runtime.acl().aclrtFreeHost(self.pointer.cast()) };
            self.runtime.check(code, "aclrtFreeHost")
        });
        if let Err(error) = freed {
            self.runtime.lose(error.to_string());
        }
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} bytes)", self.bytes)
    }
}
