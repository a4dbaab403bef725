//! Queues: a stream each. Every submission records an event; its place on the timeline is that event's.
//!
//! What a submission uses (plan, tensor, slot) is kept until its event is known to have passed, so that
//! nothing is freed under queued work. All queues of a device share one lock while they enqueue.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use hal::{Error, ErrorKind, HostSlot, Plan, Point, Queue, Result, Tensor, check_transfer};

use crate::event::Event;
use crate::memory::memory_of;
use crate::plan::AscendPlan;
use crate::runtime::{Runtime, lock};
use crate::sys::acl::{self, aclrtMemcpyKind, aclrtStream};

/// What a submission uses: a plan, or a tensor with a slot.
#[derive(Default)]
struct Keep {
    plan: Option<Arc<dyn Plan>>,
    tensor: Option<Tensor>,
    slot: Option<HostSlot>,
}

/// Lets go of what has passed, without the lines' lock: times are delivered, memory is freed.
fn settle(kept: Vec<Keep>) {
    for keep in &kept {
        let plan = keep.plan.as_ref().and_then(|plan| plan.as_any().downcast_ref::<AscendPlan>());
        if let Some(plan) = plan {
            plan.passed();
        }
    }
}

/// A submission that may not have passed.
struct Flight {
    value: u64,
    event: Arc<Event>,
    keep: Keep,
}

/// The timeline of a queue.
#[derive(Default)]
pub(crate) struct Line {
    last: u64,
    done: u64,
    flights: VecDeque<Flight>,
    slots: Vec<(u64, HostSlot)>,
    spare: Vec<Arc<Event>>,
    /// What submissions that failed half-way use: some of their work may be queued.
    abandoned: Vec<Keep>,
}

impl Line {
    /// Takes what has passed off the front: what it kept is the caller's to drop without the lock.
    fn reap(&mut self) -> Result<Vec<Keep>> {
        let mut kept = Vec::new();
        while let Some(flight) = self.flights.front() {
            if flight.value > self.done && !flight.event.has_passed()? {
                break;
            }
            let mut flight = self.flights.pop_front().expect("looked at it");
            self.done = self.done.max(flight.value);
            let value = flight.value;
            self.slots.extend(flight.keep.slot.take().map(|slot| (value, slot)));
            kept.push(flight.keep);
            // An event somebody still waits for is not recorded anew.
            if Arc::strong_count(&flight.event) == 1 {
                self.spare.push(flight.event);
            }
        }
        Ok(kept)
    }

    /// The event that passes with or after `value`, unless it has passed.
    fn event_for(&self, value: u64) -> Option<&Flight> {
        self.flights.iter().find(|flight| flight.value >= value).filter(|_| value > self.done)
    }
}

/// A queue.
pub(crate) struct AscendQueue {
    number: u32,
    runtime: Arc<Runtime>,
    stream: aclrtStream,
}

// SAFETY: the stream is a handle; enqueuing is serialised by the lines' lock with the context bound.
unsafe impl Send for AscendQueue {}
// SAFETY: as above.
unsafe impl Sync for AscendQueue {}

impl AscendQueue {
    pub(crate) fn new(number: u32, runtime: &Arc<Runtime>) -> Result<AscendQueue> {
        runtime.alive()?;
        runtime.bind()?;
        let mut stream = ptr::null_mut();
        let flags = acl::ACL_STREAM_FAST_LAUNCH | acl::ACL_STREAM_FAST_SYNC;
        // SAFETY: a place to write to.
        let code = unsafe { runtime.acl().aclrtCreateStreamWithConfig(&mut stream, 0, flags) };
        runtime.check(code, "aclrtCreateStreamWithConfig")?;
        // SAFETY: the stream was just made; 1: stop at the first failure.
        let code = unsafe { runtime.acl().aclrtSetStreamFailureMode(stream, 1) };
        runtime.check(code, "aclrtSetStreamFailureMode")?;
        lock(&runtime.lines).insert(number, Line::default());
        Ok(AscendQueue { number, runtime: Arc::clone(runtime), stream })
    }

    /// Waits for `after`, lets `enqueue` enqueue, records the event.
    fn push(
        &self,
        after: &[Point],
        keep: Keep,
        enqueue: impl FnOnce(&Keep) -> Result<()>,
    ) -> Result<Point> {
        let runtime = &self.runtime;
        runtime.alive()?;
        runtime.bind()?;
        let mut lines = lock(&runtime.lines);
        for point in after.iter().filter(|point| point.queue != self.number) {
            let line = lines.get(&point.queue);
            if let Some(flight) = line.and_then(|line| line.event_for(point.value)) {
                flight.event.hold(self.stream)?;
            }
        }
        if keep.plan.is_some() {
            self.take_turn(&lines)?;
        }
        let line = lines.get_mut(&self.number).expect("inserted in `new`");
        let passed = line.reap()?;
        let event = match enqueue(&keep).and_then(|()| self.recorded(line)) {
            Ok(event) => event,
            Err(error) => {
                line.abandoned.push(keep);
                return Err(error);
            }
        };
        line.last += 1;
        let value = line.last;
        line.flights.push_back(Flight { value, event, keep });
        drop(lines);
        settle(passed);
        Ok(Point { queue: self.number, value })
    }

    /// Plans share scratch: one waits for those on other queues.
    fn take_turn(&self, lines: &HashMap<u32, Line>) -> Result<()> {
        for (_, line) in lines.iter().filter(|(number, _)| **number != self.number) {
            let is_plan = |flight: &&Flight| flight.keep.plan.is_some();
            if let Some(flight) = line.flights.iter().rev().find(is_plan) {
                flight.event.hold(self.stream)?;
            }
        }
        Ok(())
    }

    /// An event behind what was just enqueued.
    fn recorded(&self, line: &mut Line) -> Result<Arc<Event>> {
        let runtime = &self.runtime;
        let event = match line.spare.pop() {
            Some(event) => event,
            None => Arc::new(Event::new(runtime, acl::ACL_EVENT_SYNC)?),
        };
        event.record(self.stream)?;
        Ok(event)
    }

    /// As `push`; whatever goes wrong while enqueuing loses the device: the order is broken.
    fn submit_kept(
        &self,
        after: &[Point],
        keep: Keep,
        enqueue: impl FnOnce(&Keep) -> Result<()>,
    ) -> Result<Point> {
        self.push(after, keep, enqueue).map_err(|error| {
            self.runtime.lose(error.to_string());
            Error::device_lost(error.to_string())
        })
    }

    fn transfer(
        &self,
        tensor: &Tensor,
        slot: HostSlot,
        after: &[Point],
        kind: aclrtMemcpyKind,
    ) -> Result<Point> {
        check_transfer(tensor, &slot)?;
        memory_of(tensor, &self.runtime)?;
        let keep = Keep { tensor: Some(tensor.clone()), slot: Some(slot), ..Keep::default() };
        self.submit_kept(after, keep, |keep| match (&keep.tensor, &keep.slot) {
            (Some(tensor), Some(slot)) => self.copy(tensor, slot, kind),
            _ => unreachable!("given above"),
        })
    }

    fn copy(&self, tensor: &Tensor, slot: &HostSlot, kind: aclrtMemcpyKind) -> Result<()> {
        let bytes = slot.bytes().len();
        if bytes == 0 {
            return Ok(());
        }
        let address = memory_of(tensor, &self.runtime)?.address + tensor.offset_bytes();
        let device = ptr::without_provenance_mut(address as usize);
        let host = slot.bytes().as_ptr().cast_mut().cast();
        let (target, source) = match kind {
            aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE => (device, host),
            _ => (host, device),
        };
        // SAFETY: both ranges have this size and are kept until the copy's event has passed.
        let code = unsafe {
            self.runtime.acl().aclrtMemcpyAsync(target, bytes, source, bytes, kind, self.stream)
        };
        self.runtime.check(code, "aclrtMemcpyAsync")
    }
}

impl Queue for AscendQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        let own = plan.as_any().downcast_ref::<AscendPlan>();
        let own = own.filter(|own| Arc::ptr_eq(&own.runtime, &self.runtime));
        let own = own.ok_or_else(|| Error::invalid("the plan was compiled for another device"))?;
        let keep = Keep { plan: Some(Arc::clone(plan)), ..Keep::default() };
        self.submit_kept(after, keep, |_| {
            own.run(self.stream).map_err(|error| error.context(own.label.clone()))
        })
    }

    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        self.transfer(target, source, after, aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE)
    }

    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        self.transfer(source, target, after, aclrtMemcpyKind::ACL_MEMCPY_DEVICE_TO_HOST)
    }

    fn poll(&self, point: &Point) -> Result<bool> {
        self.runtime.alive()?;
        self.runtime.bind()?;
        let mut lines = lock(&self.runtime.lines);
        let Some(line) = lines.get_mut(&point.queue) else { return Ok(true) };
        let kept = line.reap()?;
        let passed = point.passed(line.done);
        drop(lines);
        settle(kept);
        Ok(passed)
    }

    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        if self.poll(point)? {
            return Ok(());
        }
        let late = || Error::new(ErrorKind::Timeout, format!("{point:?} has not passed"));
        let lines = lock(&self.runtime.lines);
        let flight = lines.get(&point.queue).and_then(|line| line.event_for(point.value));
        let Some(flight) = flight else {
            drop(lines);
            return if self.poll(point)? { Ok(()) } else { Err(late()) };
        };
        let event = Arc::clone(&flight.event);
        let plan = flight.keep.plan.as_ref().and_then(|plan| plan.as_any().downcast_ref());
        let label =
            plan.map_or_else(|| "a transfer".into(), |plan: &AscendPlan| plan.label.clone());
        drop(lines);
        event.wait(timeout).map_err(|error| error.context(label))?;
        drop(event);
        if self.poll(point)? { Ok(()) } else { Err(late()) }
    }

    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        self.poll(point)?;
        let mut lines = lock(&self.runtime.lines);
        let slots = lines.get_mut(&self.number).map(|line| &mut line.slots);
        let own = slots.filter(|_| point.queue == self.number);
        let taken = own.and_then(|slots| {
            let place = slots.iter().position(|(value, _)| *value == point.value)?;
            Some(slots.swap_remove(place).1)
        });
        taken.ok_or_else(|| {
            Error::invalid(format!(
                "{point:?} has not passed on this queue, or carried no slot, or gave it back already"
            ))
        })
    }
}

impl Drop for AscendQueue {
    fn drop(&mut self) {
        if self.runtime.bind().is_ok() {
            // SAFETY: the stream is alive. A failure was or will be seen by a wait.
            unsafe { self.runtime.acl().aclrtSynchronizeStream(self.stream) };
        }
        let line = lock(&self.runtime.lines).remove(&self.number);
        // Events, plans and memory go before the stream.
        let flights = mem::take(&mut line.unwrap_or_default().flights);
        settle(flights.into_iter().map(|flight| flight.keep).collect());
        if self.runtime.bind().is_ok() {
            // SAFETY: destroyed once, idle, under its context.
            unsafe { self.runtime.acl().aclrtDestroyStream(self.stream) };
        }
    }
}
