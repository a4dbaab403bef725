//! Queues: transfers happen in the call, in order; plans pass at once. A real backend queues here and
//! lets a thread or a driver work; the contract is the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hal::{Error, ErrorKind, HostSlot, Plan, Point, Queue, Result, Tensor, check_transfer};

use crate::memory::{buffer_of, lock, range_of};
use crate::plan::NullPlan;

/// A queue. What was submitted has already happened, so waiting for other queues is nothing.
pub(crate) struct NullQueue {
    number: u32,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    /// Newest point.
    done: u64,
    /// Slots that wait to be reclaimed, by point.
    slots: HashMap<u64, HostSlot>,
}

impl NullQueue {
    pub(crate) fn new(number: u32) -> NullQueue {
        NullQueue { number, line: Mutex::default() }
    }

    fn push(&self, slot: Option<HostSlot>) -> Point {
        let mut line = lock(&self.line);
        line.done += 1;
        let value = line.done;
        line.slots.extend(slot.map(|slot| (value, slot)));
        Point { queue: self.number, value }
    }
}

impl Queue for NullQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, _after: &[Point]) -> Result<Point> {
        let plan = plan.as_any().downcast_ref::<NullPlan>();
        let plan = plan.ok_or_else(|| Error::invalid("the plan is of another device"))?;
        plan.run();
        Ok(self.push(None))
    }

    fn upload(&self, target: &Tensor, source: HostSlot, _after: &[Point]) -> Result<Point> {
        check_transfer(target, &source)?;
        buffer_of(target)?.write(range_of(target), source.bytes());
        Ok(self.push(Some(source)))
    }

    fn download(&self, source: &Tensor, mut target: HostSlot, _after: &[Point]) -> Result<Point> {
        check_transfer(source, &target)?;
        buffer_of(source)?.read(range_of(source), target.bytes_mut());
        Ok(self.push(Some(target)))
    }

    fn poll(&self, point: &Point) -> Result<bool> {
        Ok(point.passed(lock(&self.line).done))
    }

    fn wait(&self, point: &Point, _timeout: Duration) -> Result<()> {
        match self.poll(point)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Timeout, format!("{point:?} was never submitted"))),
        }
    }

    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        let slot = lock(&self.line).slots.remove(&point.value);
        slot.ok_or_else(|| Error::invalid(format!("{point:?} has no slot to give back")))
    }
}
