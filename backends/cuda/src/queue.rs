//! Queues: a stream each, an event behind every submission, and what the submission holds until then.
//!
//! Nothing runs on a thread of ours. What has passed is noticed when somebody asks (`settle`): slots
//! then wait to be reclaimed, plans and buffers are let go. A failure that the driver reports, at once
//! or later, loses the device for good, with the label of the oldest plan that had not passed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hal::{Error, ErrorKind, HostSlot, Plan, Point, Queue, Result, Tensor, check_transfer};

use crate::device::Machine;
use crate::driver::{Driver, Event, EventKind, Stream};
use crate::memory::{address_of, buffer_of, lock};
use crate::plan::CudaPlan;

/// Submissions that may be under way on one queue; a further one waits until the oldest has passed.
const FLIGHTS_MAX: usize = 1024;
/// How long a wait asks again and again before it sleeps in between.
const SPIN: Duration = Duration::from_micros(100);
/// How long it then sleeps.
const NAP: Duration = Duration::from_micros(30);

/// An event of the driver.
#[derive(Debug)]
pub(crate) struct Mark {
    event: Event,
    driver: Arc<dyn Driver>,
}

impl Mark {
    pub(crate) fn new(kind: EventKind, driver: &Arc<dyn Driver>) -> Result<Mark> {
        Ok(Mark { event: driver.event_create(kind)?, driver: Arc::clone(driver) })
    }

    pub(crate) fn event(&self) -> Event {
        self.event
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.driver.event_destroy(self.event);
    }
}

/// What a submission holds until it has passed.
enum Held {
    Plan(Arc<dyn Plan>),
    Upload(#[allow(dead_code, reason = "held, not read")] Tensor, HostSlot),
    Download(#[allow(dead_code, reason = "held, not read")] Tensor, HostSlot),
}

struct Flight {
    value: u64,
    mark: Arc<Mark>,
    held: Held,
}

#[derive(Default)]
struct State {
    /// Value of the last submission.
    last: u64,
    /// Last value that has passed.
    done: u64,
    flights: VecDeque<Flight>,
    /// Slots whose transfers are done, by point.
    slots: Vec<(u64, HostSlot)>,
    /// Marks to use again.
    spare: Vec<Arc<Mark>>,
}

/// A timeline.
pub(crate) struct Line {
    stream: Stream,
    state: Mutex<State>,
}

impl Line {
    /// Notices what has passed.
    fn settle(&self, state: &mut State, machine: &Machine) -> Result<()> {
        while let Some(flight) = state.flights.front() {
            match machine.driver.query(flight.mark.event) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(error) => {
                    let what = state.flights.iter().find_map(|flight| match &flight.held {
                        Held::Plan(plan) => Some(own(plan).label().to_owned()),
                        _ => None,
                    });
                    let what = what.unwrap_or_else(|| "a transfer".into());
                    return Err(machine.lose(format!("{what}: {error}")));
                }
            }
            let Flight { value, mark, held } = state.flights.pop_front().expect("looked at");
            state.done = value;
            match held {
                Held::Plan(plan) => own(&plan).passed(),
                Held::Upload(_, slot) | Held::Download(_, slot) => state.slots.push((value, slot)),
            }
            // A mark that a plan or a waiter still looks at is not used again.
            if Arc::strong_count(&mark) == 1 {
                state.spare.push(mark);
            }
        }
        Ok(())
    }

    fn has_passed(&self, point: &Point, machine: &Machine) -> Result<bool> {
        let mut state = lock(&self.state);
        if !point.passed(state.done) {
            self.settle(&mut state, machine)?;
        }
        Ok(point.passed(state.done))
    }

    /// Lets `stream` wait for a point of this line.
    fn hold_up(&self, stream: Stream, point: &Point, machine: &Machine) -> Result<()> {
        let state = lock(&self.state);
        match state.flights.iter().find(|flight| flight.value >= point.value) {
            Some(flight) => machine.driver.wait_event(stream, flight.mark.event),
            None => Ok(()),
        }
    }
}

fn own(plan: &Arc<dyn Plan>) -> &CudaPlan {
    plan.as_any().downcast_ref().expect("submit looked at the type")
}

/// A queue.
pub(crate) struct CudaQueue {
    number: u32,
    line: Arc<Line>,
    machine: Arc<Machine>,
}

impl CudaQueue {
    pub(crate) fn start(machine: &Arc<Machine>) -> Result<CudaQueue> {
        machine.alive()?;
        let stream = machine.driver.stream_create()?;
        let state = State {
            flights: VecDeque::with_capacity(FLIGHTS_MAX),
            slots: Vec::with_capacity(FLIGHTS_MAX),
            spare: Vec::with_capacity(FLIGHTS_MAX),
            ..State::default()
        };
        let line = Arc::new(Line { stream, state: Mutex::new(state) });
        let mut lines = lock(&machine.lines);
        let number = lines.len() as u32;
        lines.push(Arc::clone(&line));
        Ok(CudaQueue { number, line, machine: Arc::clone(machine) })
    }

    fn line_of(&self, point: &Point) -> Result<Arc<Line>> {
        let line = lock(&self.machine.lines).get(point.queue as usize).cloned();
        line.ok_or_else(|| Error::invalid(format!("{point:?} is of no queue of this device")))
    }

    /// Queues `work` and a mark behind it; a plan's when it is its turn.
    fn run(
        &self,
        held: &Held,
        mark: &Arc<Mark>,
        work: impl FnOnce(Stream, &Held) -> Result<()>,
    ) -> Result<()> {
        let stream = self.line.stream;
        let turn = match held {
            Held::Plan(plan) => Some(own(plan).turn(self.number, stream)?),
            Held::Upload(..) | Held::Download(..) => None,
        };
        work(stream, held)?;
        self.machine.driver.record(mark.event, stream)?;
        if let Some(turn) = turn {
            turn.ends(self.number, mark);
        }
        Ok(())
    }

    /// Queues `work` behind everything here and behind `after`; `held` lives until it has passed.
    fn push(
        &self,
        after: &[Point],
        held: Held,
        work: impl FnOnce(Stream, &Held) -> Result<()>,
    ) -> Result<Point> {
        self.machine.alive()?;
        for point in after.iter().filter(|point| point.queue != self.number) {
            let held_up = self.line_of(point)?.hold_up(self.line.stream, point, &self.machine);
            self.machine.survive(held_up, || "waiting for another queue".into())?;
        }
        let mut state = lock(&self.line.state);
        self.line.settle(&mut state, &self.machine)?;
        while state.flights.len() >= FLIGHTS_MAX {
            std::thread::sleep(NAP);
            self.line.settle(&mut state, &self.machine)?;
        }
        let mark = match state.spare.pop() {
            Some(mark) => mark,
            None => Arc::new(Mark::new(EventKind::Order, &self.machine.driver)?),
        };
        let label = match &held {
            Held::Plan(plan) => own(plan).label(),
            Held::Upload(..) => "upload",
            Held::Download(..) => "download",
        };
        self.machine.survive(self.run(&held, &mark, work), || label.to_owned())?;
        state.last += 1;
        let value = state.last;
        state.flights.push_back(Flight { value, mark, held });
        Ok(Point { queue: self.number, value })
    }
}

impl Queue for CudaQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        let ours = plan.as_any().downcast_ref::<CudaPlan>();
        if !ours.is_some_and(|plan| plan.is_of(&self.machine)) {
            return Err(Error::invalid("the plan was compiled for another device"));
        }
        self.push(after, Held::Plan(Arc::clone(plan)), |stream, held| {
            let Held::Plan(plan) = held else { unreachable!("a plan was given") };
            own(plan).issue_on(stream)
        })
    }

    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        check_transfer(target, &source)?;
        if !buffer_of(target, &self.machine)?.is_writable() {
            return Err(Error::invalid("upload to a constant"));
        }
        let held = Held::Upload(target.clone(), source);
        self.push(after, held, |stream, held| {
            let Held::Upload(target, slot) = held else { unreachable!("an upload was given") };
            let (at, bytes) = (address_of(target), slot.bytes());
            // SAFETY: sizes are equal; the flight holds both sides until the copy has passed.
            unsafe { self.machine.driver.copy_in(stream, at, bytes.as_ptr(), bytes.len()) }
        })
    }

    fn download(&self, source: &Tensor, mut target: HostSlot, after: &[Point]) -> Result<Point> {
        check_transfer(source, &target)?;
        buffer_of(source, &self.machine)?;
        let (to, bytes) = (target.bytes_mut().as_mut_ptr(), target.bytes().len());
        let held = Held::Download(source.clone(), target);
        self.push(after, held, |stream, held| {
            let Held::Download(source, _) = held else { unreachable!("a download was given") };
            // SAFETY: as for uploads; a slot's bytes do not move with it.
            unsafe { self.machine.driver.copy_out(stream, to, address_of(source), bytes) }
        })
    }

    fn poll(&self, point: &Point) -> Result<bool> {
        self.machine.alive()?;
        self.line_of(point)?.has_passed(point, &self.machine)
    }

    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        let line = self.line_of(point)?;
        let begin = Instant::now();
        loop {
            self.machine.alive()?;
            if line.has_passed(point, &self.machine)? {
                return Ok(());
            }
            let waited = begin.elapsed();
            if waited >= timeout {
                let text = format!("{point:?} has not passed after {timeout:?}");
                return Err(Error::new(ErrorKind::Timeout, text));
            }
            match waited < SPIN {
                true => std::hint::spin_loop(),
                false => std::thread::sleep(NAP),
            }
        }
    }

    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        let mut state = lock(&self.line.state);
        // A lost device gives back what had passed before.
        let _ = self.line.settle(&mut state, &self.machine);
        let own = point.queue == self.number;
        match state.slots.iter().position(|(value, _)| own && *value == point.value) {
            Some(place) => Ok(state.slots.swap_remove(place).1),
            None => Err(Error::invalid(format!(
                "{point:?} has not passed on this queue, or carried no slot, or gave it back already"
            ))),
        }
    }
}

impl Drop for CudaQueue {
    fn drop(&mut self) {
        // Also where it fails, nothing is under way any more.
        let _ = self.machine.driver.synchronize(self.line.stream);
        let mut state = lock(&self.line.state);
        state.done = state.last;
        let flights = std::mem::take(&mut state.flights);
        state.slots.clear();
        state.spare.clear();
        drop(state);
        drop(flights);
        self.machine.driver.stream_destroy(self.line.stream);
    }
}
