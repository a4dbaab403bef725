//! Memory that is real once written: a buffer keeps bytes up to the last one written, the rest are
//! zeros by definition. So a model of any size opens on a small host.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hal::{Buffer, Error, MemoryReport, RawBuffer, Result, Tensor};

/// Counts what is allocated and refuses what does not fit.
#[derive(Debug)]
pub(crate) struct Ledger {
    limit_bytes: u64,
    report: Mutex<MemoryReport>,
}

impl Ledger {
    pub(crate) fn new(limit_bytes: u64) -> Ledger {
        Ledger { limit_bytes, report: Mutex::default() }
    }

    pub(crate) fn report(&self) -> MemoryReport {
        *lock(&self.report)
    }

    fn take(&self, label: &str, bytes: u64) -> Result<()> {
        let mut report = lock(&self.report);
        let free = self.limit_bytes - report.used_bytes;
        if bytes > free {
            return Err(Error::out_of_memory(format!(
                "{label}: {bytes} bytes wanted, {free} of {} are free",
                self.limit_bytes
            )));
        }
        report.used_bytes += bytes;
        report.peak_bytes = report.peak_bytes.max(report.used_bytes);
        Ok(())
    }

    fn give(&self, bytes: u64) {
        lock(&self.report).used_bytes -= bytes;
    }
}

/// Bytes counted in the ledger until dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    bytes: u64,
    ledger: Arc<Ledger>,
}

impl Counted {
    pub(crate) fn new(label: &str, bytes: u64, ledger: &Arc<Ledger>) -> Result<Counted> {
        ledger.take(label, bytes)?;
        Ok(Counted { bytes, ledger: Arc::clone(ledger) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.ledger.give(self.bytes);
    }
}

/// Memory behind a [`Buffer`].
pub(crate) struct NullBuffer {
    counted: Counted,
    written: Mutex<Vec<u8>>,
}

impl NullBuffer {
    /// Zeros.
    pub(crate) fn zeroed(label: &str, size_bytes: u64, ledger: &Arc<Ledger>) -> Result<NullBuffer> {
        Ok(NullBuffer {
            counted: Counted::new(label, size_bytes, ledger)?,
            written: Mutex::default(),
        })
    }

    /// These bytes.
    pub(crate) fn filled(label: &str, bytes: &[u8], ledger: &Arc<Ledger>) -> Result<NullBuffer> {
        let buffer = NullBuffer::zeroed(label, bytes.len() as u64, ledger)?;
        *lock(&buffer.written) = bytes.to_vec();
        Ok(buffer)
    }

    pub(crate) fn write(&self, range: Range<usize>, bytes: &[u8]) {
        let mut written = lock(&self.written);
        if written.len() < range.end {
            written.resize(range.end, 0);
        }
        written[range].copy_from_slice(bytes);
    }

    pub(crate) fn read(&self, range: Range<usize>, bytes: &mut [u8]) {
        let written = lock(&self.written);
        let end = range.end.min(written.len());
        let known = end.saturating_sub(range.start);
        bytes[..known].copy_from_slice(&written[range.start.min(end)..end]);
        bytes[known..].fill(0);
    }
}

impl RawBuffer for NullBuffer {
    fn size_bytes(&self) -> u64 {
        self.counted.bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for NullBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NullBuffer({} bytes)", self.counted.bytes)
    }
}

/// The memory a tensor lies in.
///
/// # Errors
/// `InvalidProgram` if it lies on another device or nowhere yet.
pub(crate) fn buffer_of(tensor: &Tensor) -> Result<&NullBuffer> {
    let Buffer::Real(raw) = tensor.buffer() else {
        return Err(Error::invalid(format!("{tensor:?} has no memory yet")));
    };
    let own = raw.as_any().downcast_ref();
    own.ok_or_else(|| Error::invalid(format!("{tensor:?} lies on another device")))
}

/// The bytes of contiguous rows in their buffer.
pub(crate) fn range_of(tensor: &Tensor) -> Range<usize> {
    tensor.offset_bytes() as usize..tensor.end_bytes() as usize
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
