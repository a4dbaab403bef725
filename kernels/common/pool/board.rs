//! The job board of a pool: how a job is posted, how its parts are claimed and finished, how who finds
//! none sleeps. All that threads race for is here, so that `model.rs` can try every interleaving.
//!
//! Not here: threads, spinning, panics, and what a part does.

use super::sync::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering,
    PoisonError, fence,
};

/// Parts one job may have: what fits beside the epoch in `Board::ticket`.
pub(super) const PARTS_MAX: usize = (1 << PART_BITS) - 1;

const PART_BITS: u32 = 24;

/// A line of its own for each word that several threads write.
#[repr(align(128))]
struct Line<T>(T);

/// One job at a time, by whoever has the turn; any number of workers.
pub(super) struct Board {
    /// Epoch of the current job (upper 40 bits) and its next unclaimed part (lower 24). A claim is a
    /// compare-and-swap on both, so a late worker cannot take a part of a job it does not know.
    ticket: Line<AtomicU64>,
    /// Parts finished in the current job.
    done: Line<AtomicUsize>,
    parts: AtomicUsize,
    /// What the poster of the current job gave along.
    task: AtomicPtr<()>,
    sleepers: Line<AtomicUsize>,
    closing: AtomicBool,
    bed: Mutex<()>,
    wake: Condvar,
}

/// Our mutexes guard no invariant that a panic could break.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// No job: epoch 0.
    pub(super) fn new() -> Board {
        Board {
            ticket: Line(AtomicU64::new(0)),
            done: Line(AtomicUsize::new(0)),
            parts: AtomicUsize::new(0),
            task: AtomicPtr::new(std::ptr::null_mut()),
            sleepers: Line(AtomicUsize::new(0)),
            closing: AtomicBool::new(false),
            bed: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Makes a job visible to the workers and returns its epoch. The caller has the turn: the job
    /// before is done.
    pub(super) fn post(&self, parts: usize, task: *mut ()) -> u64 {
        let last = self.ticket.0.load(Ordering::Relaxed) >> PART_BITS;
        let epoch = last + 1;
        // Close the last job first: a worker late for it may still hold its ticket, and with the new,
        // larger number of parts that ticket would look like a claim. Who sees the new number or the
        // new task (acquire) sees the closed ticket too, so the claim fails.
        self.ticket.0.store((last << PART_BITS) | PARTS_MAX as u64, Ordering::Relaxed);
        self.done.0.store(0, Ordering::Relaxed);
        self.parts.store(parts, Ordering::Release);
        self.task.store(task, Ordering::Release);
        self.ticket.0.store(epoch << PART_BITS, Ordering::Release);
        // Pairs with the fence in `sleep`: either we see the sleeper or it sees the new epoch.
        fence(Ordering::SeqCst);
        if self.sleepers.0.load(Ordering::Relaxed) > 0 {
            let _bed = lock(&self.bed);
            self.wake.notify_all();
        }
        epoch
    }

    /// Epoch of the last job posted.
    pub(super) fn epoch(&self) -> u64 {
        self.ticket.0.load(Ordering::Acquire) >> PART_BITS
    }

    /// Takes a part of job `epoch`, if one is left: its number, and the job's task, which is good
    /// until the part is finished.
    pub(super) fn claim(&self, epoch: u64) -> Option<(usize, *mut ())> {
        loop {
            let ticket = self.ticket.0.load(Ordering::Acquire);
            let part = (ticket & PARTS_MAX as u64) as usize;
            // Read before the claim: if another job has replaced this one the claim fails.
            let parts = self.parts.load(Ordering::Acquire);
            let task = self.task.load(Ordering::Acquire);
            if ticket >> PART_BITS != epoch || part >= parts {
                return None;
            }
            let claim = self.ticket.0.compare_exchange_weak(
                ticket,
                ticket + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if claim.is_ok() {
                return Some((part, task));
            }
        }
    }

    /// Ends a claimed part: what it wrote is visible to the poster.
    pub(super) fn finish(&self) {
        self.done.0.fetch_add(1, Ordering::Release);
    }

    /// Whether all `parts` of the current job are finished. For its poster.
    pub(super) fn is_done(&self, parts: usize) -> bool {
        self.done.0.load(Ordering::Acquire) >= parts
    }

    /// Whether there is reason to wake: a job after `seen`, or the end.
    pub(super) fn is_new(&self, seen: u64) -> bool {
        self.epoch() != seen || self.is_closing()
    }

    /// Sleeps until [`Board::is_new`].
    pub(super) fn sleep(&self, seen: u64) {
        let mut bed = lock(&self.bed);
        self.sleepers.0.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while !self.is_new(seen) {
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// No more jobs will come: everybody wakes.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let _bed = lock(&self.bed);
        self.wake.notify_all();
    }

    /// Whether [`Board::close`] was called.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}
