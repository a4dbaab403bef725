//! Device memory: buffers, the ledger that counts them, and what a binding may span.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hal::{Buffer, Error, MemoryReport, RawBuffer, Result, Tensor};

/// Counts what a device holds. How much a GPU has, wgpu does not say: what does not fit is refused by
/// the driver when it is asked for, and here where it is larger than any buffer may be.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    used: AtomicU64,
    peak: AtomicU64,
}

impl Ledger {
    pub(crate) fn report(&self) -> MemoryReport {
        MemoryReport {
            used_bytes: self.used.load(Ordering::Relaxed),
            peak_bytes: self.peak.load(Ordering::Relaxed),
        }
    }
}

/// Bytes counted in the ledger until dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    bytes: u64,
    ledger: Arc<Ledger>,
}

impl Counted {
    pub(crate) fn new(bytes: u64, ledger: &Arc<Ledger>) -> Counted {
        let used = ledger.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        ledger.peak.fetch_max(used, Ordering::Relaxed);
        Counted { bytes, ledger: Arc::clone(ledger) }
    }
}

impl Counted {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.ledger.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Memory behind a [`Buffer`]. wgpu's buffer is a whole number of words, at least one.
pub(crate) struct WgpuBuffer {
    raw: wgpu::Buffer,
    size_bytes: u64,
    _counted: Counted,
}

impl WgpuBuffer {
    pub(crate) fn new(raw: wgpu::Buffer, size_bytes: u64, ledger: &Arc<Ledger>) -> WgpuBuffer {
        let counted = Counted::new(raw.size(), ledger);
        WgpuBuffer { raw, size_bytes, _counted: counted }
    }

    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }
}

impl RawBuffer for WgpuBuffer {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for WgpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WgpuBuffer({} bytes)", self.size_bytes)
    }
}

/// Words that hold `bytes` bytes, in bytes; at least one.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(4)
}

/// The memory a tensor lies in.
///
/// # Errors
/// `InvalidProgram` if it lies on another kind of device or nowhere yet.
pub(crate) fn buffer_of(tensor: &Tensor) -> Result<&WgpuBuffer> {
    let Buffer::Real(raw) = tensor.buffer() else {
        return Err(Error::invalid(format!("{tensor:?} has no memory yet")));
    };
    let own = raw.as_any().downcast_ref();
    own.ok_or_else(|| Error::invalid(format!("{tensor:?} lies on another device")))
}

/// What a binding covers: a tensor's bytes, from an aligned place before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// The window of bytes `begin..end`.
pub(crate) fn window(begin: u64, end: u64, align: u64) -> Window {
    if end <= begin {
        // Nothing is read: any word will do.
        return Window { offset: 0, size: 4 };
    }
    let offset = begin - begin % align;
    Window { offset, size: end.next_multiple_of(4) - offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_their_bytes_from_an_aligned_place() {
        const GIB: u64 = 1 << 30;
        for (begin, end, offset, size) in [
            (0, 1, 0, 4),
            (255, 257, 0, 260),
            (256, 260, 256, 4),
            (1000, 1000, 0, 4),
            // Past 2^31 elements of f32, and of bytes: no 32-bit number is left over.
            (9 * GIB + 12, 9 * GIB + 20, 9 * GIB, 20),
            ((1 << 32) + 299, (1 << 32) + 300, (1 << 32) + 256, 44),
        ] {
            assert_eq!(window(begin, end, 256), Window { offset, size }, "{begin}..{end}");
        }
    }
}
