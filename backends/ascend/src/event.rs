//! Events: places on a stream that others wait for, or that measure.

use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hal::{ErrorKind, Result};

use crate::runtime::Runtime;
use crate::sys::acl::{aclrtEvent, aclrtEventRecordedStatus, aclrtStream};

/// Longest single wait in the driver; longer ones are repeated.
const WAIT_MS_MAX: u128 = 60_000;

/// An event, shared between the timeline and whoever waits.
pub(crate) struct Event {
    runtime: Arc<Runtime>,
    raw: aclrtEvent,
}

// SAFETY: events may be waited for from any thread with the context bound.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// `flags`: `ACL_EVENT_SYNC` to be waited for, `ACL_EVENT_TIME_LINE` to measure.
    pub(crate) fn new(runtime: &Arc<Runtime>, flags: u32) -> Result<Event> {
        let mut raw = ptr::null_mut();
        // SAFETY: a place to write to.
        let code = unsafe { runtime.acl().aclrtCreateEventExWithFlag(&mut raw, flags) };
        runtime.check(code, "aclrtCreateEventExWithFlag")?;
        Ok(Event { runtime: Arc::clone(runtime), raw })
    }

    /// Moves it behind all that was enqueued on `stream`, which is alive.
    pub(crate) fn record(&self, stream: aclrtStream) -> Result<()> {
        // SAFETY: both are alive.
        let code = unsafe { self.runtime.acl().aclrtRecordEvent(self.raw, stream) };
        self.runtime.check(code, "aclrtRecordEvent")
    }

    /// What is enqueued on `stream` from now on waits for the event's last place.
    pub(crate) fn hold(&self, stream: aclrtStream) -> Result<()> {
        // SAFETY: both are alive.
        let code = unsafe { self.runtime.acl().aclrtStreamWaitEvent(stream, self.raw) };
        self.runtime.check(code, "aclrtStreamWaitEvent")
    }

    pub(crate) fn has_passed(&self) -> Result<bool> {
        let mut status = aclrtEventRecordedStatus::ACL_EVENT_RECORDED_STATUS_NOT_READY;
        // SAFETY: the event is alive; a place to write to.
        let code = unsafe { self.runtime.acl().aclrtQueryEventStatus(self.raw, &mut status) };
        self.runtime.check(code, "aclrtQueryEventStatus")?;
        Ok(status == aclrtEventRecordedStatus::ACL_EVENT_RECORDED_STATUS_COMPLETE)
    }

    pub(crate) fn wait(&self, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let left = timeout.saturating_sub(begin.elapsed()).as_millis().clamp(1, WAIT_MS_MAX);
            // SAFETY: the event is alive: we hold it.
            let code = unsafe {
                self.runtime.acl().aclrtSynchronizeEventWithTimeout(self.raw, left as i32)
            };
            match self.runtime.check(code, "waiting for the device") {
                Err(error) if error.kind() == ErrorKind::Timeout && begin.elapsed() < timeout => {}
                done => return done,
            }
        }
    }

    /// Nanoseconds from `self` to `later`; both measure, lie on one stream and have passed.
    pub(crate) fn until_ns(&self, later: &Event) -> Result<u64> {
        let mut ms = 0f32;
        // SAFETY: both are alive; a place to write to.
        let code =
            unsafe { self.runtime.acl().aclrtEventElapsedTime(&mut ms, self.raw, later.raw) };
        self.runtime.check(code, "aclrtEventElapsedTime")?;
        Ok((f64::from(ms) * 1e6) as u64)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.runtime.bind().is_ok() {
            // SAFETY: destroyed once, under its context.
            unsafe { self.runtime.acl().aclrtDestroyEvent(self.raw) };
        }
    }
}
