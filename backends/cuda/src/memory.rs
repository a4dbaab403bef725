//! Memory of the device and of the host beside it, and the ledger that refuses what does not fit.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hal::{Buffer, Error, HostMemory, MemoryReport, Noise, RawBuffer, Result, Tensor};

use crate::device::Machine;
use crate::driver::{Address, Driver, Launch};
use crate::record::{Args, Scope};

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

    fn refused(&self, label: &str, bytes: u64) -> Error {
        let used = self.report().used_bytes;
        Error::out_of_memory(format!(
            "{label}: {bytes} bytes wanted, {used} of the GPU's {} are in use; \
             a shorter context or fewer sequences need less",
            self.limit_bytes
        ))
    }

    fn take(&self, label: &str, bytes: u64) -> Result<()> {
        let mut report = lock(&self.report);
        if bytes > self.limit_bytes - report.used_bytes {
            drop(report);
            return Err(self.refused(label, bytes));
        }
        report.used_bytes += bytes;
        report.peak_bytes = report.peak_bytes.max(report.used_bytes);
        Ok(())
    }

    fn give(&self, bytes: u64) {
        lock(&self.report).used_bytes -= bytes;
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory behind a [`Buffer`]. Whoever queues work on it holds it until the work is done.
pub(crate) struct CudaBuffer {
    address: Address,
    size_bytes: u64,
    writable: bool,
    machine: Arc<Machine>,
}

impl CudaBuffer {
    /// Uninitialised.
    fn new(label: &str, size_bytes: u64, machine: &Arc<Machine>) -> Result<CudaBuffer> {
        machine.ledger.take(label, size_bytes)?;
        match machine.driver.alloc(size_bytes.max(1)) {
            Ok(address) => {
                let machine = Arc::clone(machine);
                Ok(CudaBuffer { address, size_bytes, writable: true, machine })
            }
            Err(error) => {
                machine.ledger.give(size_bytes);
                // The driver keeps memory for itself and others may use the GPU, too.
                Err(match error.kind() {
                    hal::ErrorKind::OutOfMemory => {
                        error.context(machine.ledger.refused(label, size_bytes).to_string())
                    }
                    _ => machine.lose(format!("{label}: {error}")),
                })
            }
        }
    }

    /// Zeros.
    pub(crate) fn zeroed(label: &str, size_bytes: u64, machine: &Arc<Machine>) -> Result<Self> {
        let buffer = CudaBuffer::new(label, size_bytes, machine)?;
        let home = lock(&machine.home);
        // SAFETY: just allocated with this size, and waited for.
        let queued = unsafe { machine.driver.zero(*home, buffer.address, size_bytes) };
        let done = queued.and_then(|()| machine.driver.synchronize(*home));
        machine.survive(done, || label.to_owned())?;
        drop(home);
        Ok(buffer)
    }

    /// These bytes, which plans may only read.
    pub(crate) fn filled(label: &str, bytes: &[u8], machine: &Arc<Machine>) -> Result<Self> {
        let mut buffer = CudaBuffer::new(label, bytes.len() as u64, machine)?;
        buffer.write(label, 0, bytes)?;
        buffer.writable = false;
        Ok(buffer)
    }

    /// Memory that a weight fills.
    pub(crate) fn constant(label: &str, size_bytes: u64, machine: &Arc<Machine>) -> Result<Self> {
        let mut buffer = CudaBuffer::new(label, size_bytes, machine)?;
        buffer.writable = false;
        Ok(buffer)
    }

    /// Copies bytes in and waits: for what nobody uses yet.
    ///
    /// # Panics
    /// If they leave the buffer.
    pub(crate) fn write(&self, label: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.size_bytes);
        let machine = &self.machine;
        let home = lock(&machine.home);
        let target = self.address + offset;
        // SAFETY: inside the buffer; both sides live until the wait is over.
        let queued = unsafe { machine.driver.copy_in(*home, target, bytes.as_ptr(), bytes.len()) };
        let done = queued.and_then(|()| machine.driver.synchronize(*home));
        machine.survive(done, || label.to_owned())
    }

    /// Queues a launch that touches this buffer and weights alone; `read` waits for it.
    pub(crate) fn launch(&self, label: &str, launch: &Launch) -> Result<()> {
        let home = lock(&self.machine.home);
        // SAFETY: its addresses are the caller's buffer and weights, which live until `read` has waited.
        let queued = unsafe { self.machine.driver.launch(*home, launch) };
        self.machine.survive(queued, || label.to_owned())
    }

    /// Copies bytes out when everything queued before is done, and waits.
    ///
    /// # Panics
    /// If they leave the buffer.
    pub(crate) fn read(&self, label: &str, offset: u64, bytes: &mut [u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.size_bytes);
        let driver = &self.machine.driver;
        let home = lock(&self.machine.home);
        let source = self.address + offset;
        // SAFETY: inside the buffer; both sides live until the wait is over.
        let queued = unsafe { driver.copy_out(*home, bytes.as_mut_ptr(), source, bytes.len()) };
        let done = queued.and_then(|()| driver.synchronize(*home));
        self.machine.survive(done, || label.to_owned())
    }

    /// Queues noise for what nobody uses yet; `settle` waits for it.
    ///
    /// # Panics
    /// If it leaves the buffer.
    pub(crate) fn make(&self, label: &str, offset: u64, bytes: u64, noise: Noise) -> Result<()> {
        assert!(offset + bytes <= self.size_bytes);
        let machine = &self.machine;
        let args = Args::new()
            .address(self.address + offset)
            .long(bytes)
            .int(noise.seed)
            .int(noise.and)
            .int(noise.or)
            .int(0);
        let home = lock(&machine.home);
        let scope = Scope { machine, workspace: 0, joins: false, counters: 0, rounded: None };
        for launch in scope.elements("make_noise", bytes.div_ceil(4), args) {
            // SAFETY: inside the buffer, which its owner keeps until `settle`.
            let queued = unsafe { machine.driver.launch(*home, &launch) };
            machine.survive(queued, || label.to_owned())?;
        }
        Ok(())
    }

    /// Waits for what `make` queued.
    pub(crate) fn settle(&self, label: &str) -> Result<()> {
        let home = lock(&self.machine.home);
        self.machine.survive(self.machine.driver.synchronize(*home), || label.to_owned())
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        self.machine.ledger.give(self.size_bytes);
        // SAFETY: allocated once; plans and queues hold the buffer while work on it is under way.
        unsafe { self.machine.driver.free(self.address) };
    }
}

impl RawBuffer for CudaBuffer {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for CudaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBuffer({} bytes at {:#x})", self.size_bytes, self.address)
    }
}

/// The memory a tensor lies in, if it is of this device.
///
/// # Errors
/// `InvalidProgram` if it lies on another device or nowhere yet.
pub(crate) fn buffer_of<'a>(tensor: &'a Tensor, machine: &Arc<Machine>) -> Result<&'a CudaBuffer> {
    let Buffer::Real(raw) = tensor.buffer() else {
        return Err(Error::invalid(format!("{tensor:?} has no memory yet")));
    };
    let own = raw.as_any().downcast_ref::<CudaBuffer>();
    let own = own.filter(|buffer| Arc::ptr_eq(&buffer.machine, machine));
    own.ok_or_else(|| Error::invalid(format!("{tensor:?} lies on another device")))
}

/// Address of row 0.
///
/// # Panics
/// If the tensor lies in no memory of this backend: checked when its plan was compiled.
pub(crate) fn address_of(tensor: &Tensor) -> Address {
    let Buffer::Real(raw) = tensor.buffer() else { unreachable!("a bound program") };
    let buffer: &CudaBuffer = raw.as_any().downcast_ref().expect("compile checked every operand");
    buffer.address + tensor.offset_bytes()
}

/// Pinned host memory: what transfers are fastest from.
pub(crate) struct Pinned {
    memory: NonNull<u8>,
    bytes: usize,
    driver: Arc<dyn Driver>,
}

// SAFETY: owned memory like a vector's; the driver may be called from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(crate) fn new(bytes: usize, driver: &Arc<dyn Driver>) -> Result<Pinned> {
        let memory = driver
            .host_alloc(bytes.max(1))
            .map_err(|error| error.context(format!("{bytes} bytes of pinned host memory")))?;
        Ok(Pinned { memory, bytes, driver: Arc::clone(driver) })
    }
}

impl HostMemory for Pinned {
    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated zeroed with this size, owned.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.bytes) }
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated once with this size; a queue holds the slot while a transfer is under way.
        unsafe { self.driver.host_free(self.memory, self.bytes.max(1)) };
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} bytes)", self.bytes)
    }
}
