//! Queues: one thread each, which runs its submissions in order.
//!
//! A queue's state is one number, the last finished point. Jobs own (by `Arc`) what they touch, so
//! handles may be dropped in flight; dropping the queue waits for what was submitted. A panic in a
//! kernel loses the device for good: every later call returns the same error, with the plan's label.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hal::{Error, ErrorKind, HostSlot, Plan, Point, Queue, Result, Tensor, check_transfer};

use crate::memory::{base_of, buffer_of};
use crate::plan::CpuPlan;

/// Jobs that may wait on one queue; a further submission waits until there is room.
const JOBS_MAX: usize = 1024;

/// How long an idle queue polls for the next job before it sleeps: a step is three jobs in a row.
const SPIN: Duration = Duration::from_micros(50);

/// What the queues of a device share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    lost: OnceLock<String>,
    timelines: Mutex<Vec<Arc<Timeline>>>,
}

impl Shared {
    /// # Errors
    /// `DeviceLost`, with what lost it, once a kernel has panicked.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.lost.get() {
            Some(reason) => Err(Error::device_lost(reason.clone())),
            None => Ok(()),
        }
    }

    fn lose(&self, reason: String) {
        // The first fault is the one to report.
        let _ = self.lost.set(reason);
        for timeline in lock(&self.timelines).iter() {
            timeline.announce();
        }
    }

    fn timeline(&self, point: &Point) -> Result<Arc<Timeline>> {
        let timelines = lock(&self.timelines);
        let timeline = timelines.get(point.queue as usize).cloned();
        timeline.ok_or_else(|| Error::invalid(format!("{point:?} is of no queue of this device")))
    }

    /// Waits until `point` has passed.
    fn wait(&self, point: &Point, timeout: Option<Duration>) -> Result<()> {
        let timeline = self.timeline(point)?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut guard = lock(&timeline.moved_lock);
        loop {
            self.alive()?;
            if point.passed(timeline.done.load(Ordering::Acquire)) {
                return Ok(());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            guard = match left {
                Some(Duration::ZERO) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("{point:?} has not passed after {timeout:?}"),
                    ));
                }
                Some(left) => {
                    let woken = timeline.moved.wait_timeout(guard, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => timeline.moved.wait(guard).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// How far a queue is.
#[derive(Debug, Default)]
struct Timeline {
    done: AtomicU64,
    moved_lock: Mutex<()>,
    moved: Condvar,
}

impl Timeline {
    fn announce(&self) {
        let _guard = lock(&self.moved_lock);
        self.moved.notify_all();
    }
}

enum Work {
    Run(Arc<dyn Plan>),
    Upload(Tensor, HostSlot),
    Download(Tensor, HostSlot),
}

struct Job {
    value: u64,
    after: Vec<Point>,
    work: Work,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// Value of the last submission.
    last: u64,
    closing: bool,
}

struct Inner {
    number: u32,
    shared: Arc<Shared>,
    timeline: Arc<Timeline>,
    jobs: Mutex<Jobs>,
    changed: Condvar,
    /// Set with `jobs` locked; lets the idle thread poll without the lock.
    pending: AtomicBool,
    /// Slots whose transfers are done, by point.
    slots: Mutex<Vec<(u64, HostSlot)>>,
}

/// A queue with its thread.
pub(crate) struct CpuQueue {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

/// Our mutexes guard no invariant that a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CpuQueue {
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<CpuQueue> {
        shared.alive()?;
        let timeline = Arc::new(Timeline::default());
        let mut timelines = lock(&shared.timelines);
        let inner = Arc::new(Inner {
            number: timelines.len() as u32,
            shared: Arc::clone(shared),
            timeline: Arc::clone(&timeline),
            jobs: Mutex::new(Jobs {
                waiting: VecDeque::with_capacity(JOBS_MAX),
                ..Jobs::default()
            }),
            changed: Condvar::new(),
            pending: AtomicBool::new(false),
            slots: Mutex::new(Vec::with_capacity(JOBS_MAX)),
        });
        let worker = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name(format!("hadal-cpu-queue-{}", inner.number))
            .spawn(move || worker.work())
            .map_err(|error| Error::from(error).context("starting the thread of a queue"))?;
        timelines.push(timeline);
        Ok(CpuQueue { inner, thread: Some(thread) })
    }

    fn push(&self, work: Work, after: &[Point]) -> Result<Point> {
        let inner = &self.inner;
        inner.shared.alive()?;
        let mut jobs = lock(&inner.jobs);
        while jobs.waiting.len() >= JOBS_MAX {
            jobs = inner.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            inner.shared.alive()?;
        }
        jobs.last += 1;
        let value = jobs.last;
        jobs.waiting.push_back(Job { value, after: after.to_vec(), work });
        inner.pending.store(true, Ordering::Release);
        drop(jobs);
        inner.changed.notify_all();
        Ok(Point { queue: inner.number, value })
    }
}

impl Queue for CpuQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point> {
        if !plan.as_any().is::<CpuPlan>() {
            return Err(Error::invalid("the plan was compiled for another device"));
        }
        self.push(Work::Run(Arc::clone(plan)), after)
    }

    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point> {
        check_transfer(target, &source)?;
        if !buffer_of(target)?.is_writable() {
            return Err(Error::invalid("upload to a constant"));
        }
        self.push(Work::Upload(target.clone(), source), after)
    }

    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point> {
        check_transfer(source, &target)?;
        buffer_of(source)?;
        self.push(Work::Download(source.clone(), target), after)
    }

    fn poll(&self, point: &Point) -> Result<bool> {
        self.inner.shared.alive()?;
        let timeline = self.inner.shared.timeline(point)?;
        Ok(point.passed(timeline.done.load(Ordering::Acquire)))
    }

    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        self.inner.shared.wait(point, Some(timeout))
    }

    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        let mut slots = lock(&self.inner.slots);
        let own = point.queue == self.inner.number;
        match slots.iter().position(|(value, _)| own && *value == point.value) {
            Some(place) => Ok(slots.swap_remove(place).1),
            None => Err(Error::invalid(format!(
                "{point:?} has not passed on this queue, or carried no slot, or gave it back already"
            ))),
        }
    }
}

impl Drop for CpuQueue {
    fn drop(&mut self) {
        lock(&self.inner.jobs).closing = true;
        self.inner.pending.store(true, Ordering::Release);
        self.inner.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread catches the panics of its jobs; its own loop has none.
            let _ = thread.join();
        }
    }
}

impl Inner {
    /// The thread's life.
    fn work(&self) {
        kernels::common::scratch::warm();
        while let Some(job) = self.next() {
            self.run(job);
        }
    }

    /// The next job; `None` when the queue closes and nothing is left.
    fn next(&self) -> Option<Job> {
        let begin = Instant::now();
        while !self.pending.load(Ordering::Acquire) && begin.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                if jobs.waiting.len() + 1 == JOBS_MAX {
                    self.changed.notify_all();
                }
                return Some(job);
            }
            if jobs.closing {
                return None;
            }
            self.pending.store(false, Ordering::Release);
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, job: Job) {
        let Job { value, after, work } = job;
        let ready = after.iter().try_for_each(|point| self.shared.wait(point, None));
        // A lost device runs nothing more, but slots still come back.
        let alive = ready.is_ok() && self.shared.alive().is_ok();
        match work {
            Work::Run(plan) => {
                if alive {
                    self.run_plan(&plan);
                }
            }
            Work::Upload(target, slot) => {
                if alive {
                    // SAFETY: sizes were checked at submission; the queue's order excludes other uses.
                    unsafe { copy(slot.bytes().as_ptr(), base_of(&target), slot.bytes().len()) };
                }
                lock(&self.slots).push((value, slot));
            }
            Work::Download(source, mut slot) => {
                if alive {
                    let bytes = slot.bytes_mut();
                    // SAFETY: as above.
                    unsafe { copy(base_of(&source), bytes.as_mut_ptr(), bytes.len()) };
                }
                lock(&self.slots).push((value, slot));
            }
        }
        self.timeline.done.store(value, Ordering::Release);
        self.timeline.announce();
    }

    fn run_plan(&self, plan: &Arc<dyn Plan>) {
        let plan: &CpuPlan = plan.as_any().downcast_ref().expect("submit looked at the type");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| plan.run())) {
            self.shared.lose(format!("{}: {}", plan.place(), message(&*panic)));
        }
    }
}

/// Copies `bytes` bytes.
///
/// # Safety
/// Both ranges are valid for the access and used by nobody else.
unsafe fn copy(source: *const u8, target: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; a slot and device memory never overlap.
    unsafe { std::ptr::copy_nonoverlapping(source, target, bytes) };
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a kernel failed without a message",
    }
}
