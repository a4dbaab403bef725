//! Memory that ops need between their launches. Plans share one as far as they fit in it, so it is as large as the
//! largest of them needs if that was compiled first; they take turns.

use std::sync::{Arc, Mutex, MutexGuard};

use hal::{RawBuffer, Result};

use crate::device::Machine;
use crate::driver::{Address, Stream};
use crate::memory::{CudaBuffer, lock};
use crate::queue::Mark;

/// What several plans use, one at a time. A plan that needs no memory has one of its own: it, too, runs on one
/// queue at a time.
pub(crate) struct Workspace {
    buffer: Option<CudaBuffer>,
    /// Queue and end of the last run.
    last: Mutex<Option<(u32, Arc<Mark>)>>,
}

impl Workspace {
    /// The one that plans share now; where that is smaller, a new one that is shared from then on.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(crate) fn of(label: &str, bytes: u64, machine: &Arc<Machine>) -> Result<Arc<Workspace>> {
        let new = |buffer| Arc::new(Workspace { buffer, last: Mutex::default() });
        if bytes == 0 {
            return Ok(new(None));
        }
        let mut shared = lock(&machine.workspace);
        let size =
            |workspace: &Workspace| workspace.buffer.as_ref().map_or(0, RawBuffer::size_bytes);
        if let Some(workspace) = shared.upgrade().filter(|workspace| size(workspace) >= bytes) {
            return Ok(workspace);
        }
        let workspace = new(Some(CudaBuffer::zeroed(label, bytes, machine)?));
        *shared = Arc::downgrade(&workspace);
        Ok(workspace)
    }

    /// 0 if there is no memory.
    pub(crate) fn address(&self) -> Address {
        self.buffer.as_ref().map_or(0, CudaBuffer::address)
    }

    /// Makes `stream`, of the queue of this number, wait for the last run elsewhere. Nobody else's run begins while the
    /// turn is held.
    pub(crate) fn take(&self, queue: u32, stream: Stream, machine: &Machine) -> Result<Turn<'_>> {
        let last = lock(&self.last);
        if let Some((other, mark)) = &*last
            && *other != queue
        {
            machine.driver.wait_event(stream, mark.event())?;
        }
        Ok(Turn(last))
    }
}

/// The right to run.
pub(crate) struct Turn<'a>(MutexGuard<'a, Option<(u32, Arc<Mark>)>>);

impl Turn<'_> {
    /// The run ends at `mark`.
    pub(crate) fn ends(mut self, queue: u32, mark: &Arc<Mark>) {
        *self.0 = Some((queue, Arc::clone(mark)));
    }
}
