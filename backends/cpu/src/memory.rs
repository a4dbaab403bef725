//! Memory: zeroed allocations that cost nothing until touched, constants that stay where the loader
//! mapped them, and the ledger that refuses what the machine cannot hold.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hal::{Buffer, Error, MemoryReport, RawBuffer, Result, SharedBytes, Tensor};

/// Every allocation begins at a multiple of this: a cache line, and the widest vector.
pub(crate) const ALIGN_BYTES: usize = 64;

/// A constant that begins at a multiple of this is used in place: f32 and i32 rows need no more.
const SHARED_ALIGN_BYTES: usize = 4;

/// Counts what a device owns and refuses what would not fit. Bytes lent by the loader are not
/// counted: they are pages of a file, which the system may drop and read again.
#[derive(Debug)]
pub(crate) struct Ledger {
    used: AtomicU64,
    peak: AtomicU64,
    /// 0: unknown.
    limit: u64,
}

impl Ledger {
    pub(crate) fn new(limit: u64) -> Ledger {
        Ledger { used: AtomicU64::new(0), peak: AtomicU64::new(0), limit }
    }

    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport {
            used_bytes: self.used.load(Ordering::Relaxed),
            peak_bytes: self.peak.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn take(&self, label: &str, bytes: u64) -> Result<()> {
        let add = |used: u64| {
            let sum = used.checked_add(bytes)?;
            (self.limit == 0 || sum <= self.limit).then_some(sum)
        };
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(used) => Err(refused(label, bytes, used, self.limit)),
        }
    }

    pub(crate) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn refused(label: &str, bytes: u64, used: u64, limit: u64) -> Error {
    Error::out_of_memory(format!(
        "{label}: {bytes} bytes wanted, {used} of {limit} bytes are in use; \
         a shorter context or fewer sequences need less"
    ))
}

/// Zeroed memory of the process.
struct Owned {
    start: NonNull<u8>,
    layout: Layout,
    ledger: Arc<Ledger>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.ledger.give(self.layout.size() as u64);
        // SAFETY: allocated with this layout in `CpuBuffer::zeroed`, freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// What keeps the bytes alive.
enum Owner {
    Owned { _memory: Owned },
    Shared { _bytes: SharedBytes },
}

/// Memory behind a [`Buffer`].
pub(crate) struct CpuBuffer {
    base: NonNull<u8>,
    size_bytes: u64,
    owner: Owner,
}

// SAFETY: the bytes are reached through raw views only, whose makers order reads and writes (queues
// run in order; the engine keeps writers of one buffer on one queue or behind a point).
unsafe impl Send for CpuBuffer {}
// SAFETY: as above.
unsafe impl Sync for CpuBuffer {}

impl CpuBuffer {
    /// Zeroed bytes. Large ones come from the system as untouched pages.
    pub(crate) fn zeroed(label: &str, size_bytes: u64, ledger: &Arc<Ledger>) -> Result<CpuBuffer> {
        // `alloc_zeroed` with a large alignment clears by hand and touches every page; with a small
        // one the system's zero pages are used as they come. So we align ourselves.
        let total =
            size_bytes.checked_add(ALIGN_BYTES as u64).and_then(|b| usize::try_from(b).ok());
        let layout = total.and_then(|bytes| Layout::from_size_align(bytes, 16).ok());
        let report = ledger.report();
        let none = || refused(label, size_bytes, report.used_bytes, ledger.limit);
        let layout = layout.ok_or_else(none)?;
        ledger.take(label, layout.size() as u64)?;
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            ledger.give(layout.size() as u64);
            return Err(none());
        };
        let skip = start.as_ptr().align_offset(ALIGN_BYTES);
        // SAFETY: the layout has room for the largest skip.
        let base = unsafe { start.add(skip) };
        let memory = Owned { start, layout, ledger: Arc::clone(ledger) };
        Ok(CpuBuffer { base, size_bytes, owner: Owner::Owned { _memory: memory } })
    }

    /// Bytes somebody lends, used in place; copied if they begin at an odd address.
    pub(crate) fn shared(
        label: &str,
        bytes: SharedBytes,
        ledger: &Arc<Ledger>,
    ) -> Result<CpuBuffer> {
        let slice = bytes.bytes();
        let size_bytes = slice.len() as u64;
        if !slice.as_ptr().addr().is_multiple_of(SHARED_ALIGN_BYTES) {
            let copy = CpuBuffer::zeroed(label, size_bytes, ledger)?;
            // SAFETY: the new memory has this size and is used by nobody else yet.
            unsafe {
                std::ptr::copy_nonoverlapping(slice.as_ptr(), copy.base.as_ptr(), slice.len());
            }
            return Ok(copy);
        }
        let base = NonNull::new(slice.as_ptr().cast_mut()).expect("slices are not null");
        Ok(CpuBuffer { base, size_bytes, owner: Owner::Shared { _bytes: bytes } })
    }

    /// True if plans may write to it.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.owner, Owner::Owned { .. })
    }

    /// First byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl RawBuffer for CpuBuffer {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_writable() { "owned" } else { "lent" };
        write!(f, "CpuBuffer({} bytes, {kind})", self.size_bytes)
    }
}

/// The memory a tensor lies in.
///
/// # Errors
/// `InvalidProgram` if it lies on another device or nowhere yet.
pub(crate) fn buffer_of(tensor: &Tensor) -> Result<&CpuBuffer> {
    let Buffer::Real(raw) = tensor.buffer() else {
        return Err(Error::invalid(format!("{tensor:?} has no memory yet")));
    };
    raw.as_any()
        .downcast_ref()
        .ok_or_else(|| Error::invalid(format!("{tensor:?} lies on another device")))
}

/// First byte of row 0.
///
/// # Panics
/// If the tensor is not in memory of this device: checked when its plan was compiled.
pub(crate) fn base_of(tensor: &Tensor) -> *mut u8 {
    let buffer = buffer_of(tensor).expect("compile checked every operand");
    debug_assert!(tensor.end_bytes() <= buffer.size_bytes);
    // SAFETY: hal checked that the tensor lies inside the buffer.
    unsafe { buffer.base().add(tensor.offset_bytes() as usize) }
}
