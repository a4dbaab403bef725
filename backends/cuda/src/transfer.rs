//! Weights on their way to the device: two lanes, each a stream and pinned memory, so that one is filled from
//! the checkpoint while the other is sent. What a disk or a page cache gives and what the bus takes overlap.
//!
//! Nothing is kept in order between lanes: bytes that go to the same place are a mistake of the caller.

use std::fmt;
use std::sync::Arc;
use std::thread;

use hal::{HostMemory, Result};

use crate::driver::{Address, Driver, Stream};
use crate::memory::Pinned;

/// What one lane sends at a time of bytes that lie in host memory.
const CHUNK_BYTES: usize = 4 << 20;
/// Threads that copy a chunk, each at least this much: pages of a mapped file are slow to touch.
const COPIERS: usize = 4;
const COPIER_BYTES: usize = 1 << 20;

struct Lane {
    stream: Stream,
    memory: Option<Pinned>,
}

/// Both lanes. Whoever sends must `settle` before the target may be used or freed.
pub(crate) struct Transfer {
    driver: Arc<dyn Driver>,
    lanes: [Lane; 2],
    next: usize,
}

impl Transfer {
    pub(crate) fn new(driver: &Arc<dyn Driver>) -> Result<Transfer> {
        let first = driver.stream_create()?;
        let second = driver.stream_create().inspect_err(|_| driver.stream_destroy(first))?;
        let lanes = [first, second].map(|stream| Lane { stream, memory: None });
        Ok(Transfer { driver: Arc::clone(driver), lanes, next: 0 })
    }

    /// Pinned memory for the next `post`.
    ///
    /// # Errors
    /// `OutOfMemory`; `Driver`.
    pub(crate) fn room(&mut self, bytes: usize) -> Result<&mut [u8]> {
        let lane = &mut self.lanes[self.next];
        // What the lane sent last has left its memory after this.
        self.driver.synchronize(lane.stream)?;
        let has = lane.memory.as_ref().map_or(0, |memory| memory.bytes().len());
        if has < bytes {
            lane.memory = None;
            lane.memory = Some(Pinned::new(bytes.max(CHUNK_BYTES), &self.driver)?);
        }
        Ok(&mut lane.memory.as_mut().expect("just made").bytes_mut()[..bytes])
    }

    /// Sends as many bytes of what `room` gave last.
    ///
    /// # Errors
    /// `Driver`.
    ///
    /// # Panics
    /// If `room` did not give as many.
    ///
    /// # Safety
    /// The target has as many bytes, and stays and is used by nobody else until `settle`.
    pub(crate) unsafe fn post(&mut self, target: Address, bytes: usize) -> Result<()> {
        let lane = &mut self.lanes[self.next];
        let from = &lane.memory.as_ref().expect("there was room").bytes()[..bytes];
        self.next = 1 - self.next;
        // SAFETY: the caller's promise for the target; the memory is this lane's until its stream is waited for.
        unsafe { self.driver.copy_in(lane.stream, target, from.as_ptr(), bytes) }
    }

    /// Sends bytes that lie in host memory, chunk by chunk.
    ///
    /// # Errors
    /// As for `room`.
    ///
    /// # Safety
    /// As for `post`.
    pub(crate) unsafe fn send(&mut self, target: Address, bytes: &[u8]) -> Result<()> {
        for (number, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            copy(self.room(chunk.len())?, chunk);
            // SAFETY: the caller's promise, for a part of it.
            unsafe { self.post(target + (number * CHUNK_BYTES) as u64, chunk.len())? };
        }
        Ok(())
    }

    /// Waits for everything that was sent.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let waits = self.lanes.each_ref().map(|lane| self.driver.synchronize(lane.stream));
        waits.into_iter().collect()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            self.driver.stream_destroy(lane.stream);
        }
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transfer(lane {} is next)", self.next)
    }
}

/// Copies with as many threads as pay.
fn copy(to: &mut [u8], from: &[u8]) {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(COPIERS);
    let part = from.len().div_ceil(threads).max(COPIER_BYTES);
    thread::scope(|scope| {
        let mut pairs = to.chunks_mut(part).zip(from.chunks(part));
        let own = pairs.next();
        for (to, from) in pairs {
            scope.spawn(|| to.copy_from_slice(from));
        }
        if let Some((to, from)) = own {
            to.copy_from_slice(from);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::copy;

    #[test]
    fn a_copy_in_parts_is_a_copy() {
        for bytes in [0, 1, 1 << 20, (1 << 20) + 1, (4 << 20) - 1, 4 << 20] {
            let from: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
            let mut to = vec![0; bytes];
            copy(&mut to, &from);
            assert_eq!(to, from, "{bytes} bytes");
        }
    }
}
