//! One pool of threads: fork a closure over numbered parts, join when all are done.
//!
//! The caller works too, so `Pool::new(2)` starts one thread. Parts are handed out one at a time to
//! whoever is free; kernels must not let bits depend on who ran a part, and none does, because a part
//! owns its outputs. Nothing is allocated per call. A worker spins for `SPIN` after its last part,
//! so that the hundreds of small ops of a decode step start in well under a microsecond, then sleeps.
//!
//! Not here: priorities, stealing, nested parallelism (a `run` inside a part runs on that thread).

use crate::common::scratch;
use board::{Board, lock};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod board;
#[cfg(test)]
mod model;

mod sync {
    //! What the board is made of. The models have another one.
    pub(super) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

/// Threads a pool may have.
pub const THREADS_MAX: usize = 1024;

/// Parts one `run` may have.
pub const PARTS_MAX: usize = board::PARTS_MAX;

/// How long an idle worker polls before it sleeps. Longer than the serial stretches of a decode step
/// (tens of microseconds), shorter than anything a person's laptop would notice.
const SPIN: Duration = Duration::from_micros(200);

/// How long a poller keeps its core to itself. Behind that it lets others run between polls: on a small
/// machine the readers of what was computed need the same cores.
const ALONE: Duration = Duration::from_micros(20);

type Task<'a> = &'a (dyn Fn(usize) + Sync + 'a);

struct Shared {
    board: Board,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The threads that share the work of one device.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs: one job at a time.
    turn: Mutex<()>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` threads, the caller of `run` being one of them.
    ///
    /// # Panics
    /// If `threads` is 0 or above [`THREADS_MAX`], or the system refuses to start a thread.
    pub fn new(threads: usize) -> Pool {
        assert!(threads > 0);
        assert!(threads <= THREADS_MAX);
        let shared = Arc::new(Shared { board: Board::new(), panic: Mutex::new(None) });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("hadal-cpu-{index}"))
                .spawn(move || shared.work())
                .expect("the system can start a thread")
        };
        let workers = (1..threads).map(start).collect();
        scratch::warm();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// A pool of as many threads as the process may use at once.
    pub fn for_machine() -> Pool {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Pool::new(threads.min(THREADS_MAX))
    }

    /// Threads that take part in a `run`, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(part)` once for every part in `0..parts`, in any order, on any thread, and
    /// returns when all calls have returned.
    ///
    /// From inside a part the call runs serially on that thread. Calls from several threads take turns.
    ///
    /// # Panics
    /// If a part panics (after all others are done), or `parts` is above [`PARTS_MAX`].
    pub fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) {
        assert!(parts <= PARTS_MAX);
        if parts < 2 || self.workers.is_empty() || INSIDE.get() {
            (0..parts).for_each(task);
            return;
        }
        let turn = lock(&self.turn);
        // A fat reference behind a thin pointer. It lives on this stack until `join` has returned,
        // and no part can be claimed after that, so nobody follows the pointer when it is gone.
        let task: Task<'_> = task;
        let epoch = self.shared.board.post(parts, (&raw const task).cast_mut().cast());
        INSIDE.set(true);
        self.shared.claim_all(epoch);
        INSIDE.set(false);
        self.shared.join(parts);
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.board.close();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its parts; its own loop has none.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Shared {
    /// Claims and runs parts of job `epoch` until none is left.
    fn claim_all(&self, epoch: u64) {
        while let Some((part, task)) = self.board.claim(epoch) {
            // SAFETY: the part is claimed and unfinished: the job's caller waits in `join`, and
            // `task` points at the `Task` on that caller's stack.
            let task = unsafe { *task.cast::<Task<'_>>() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(part))) {
                lock(&self.panic).get_or_insert(panic);
            }
            self.board.finish();
        }
    }

    /// Waits until every part has returned. Short: the caller just ran out of parts itself.
    fn join(&self, parts: usize) {
        let mut polls = 0u32;
        while !self.board.is_done(parts) {
            std::hint::spin_loop();
            polls += 1;
            if polls.is_multiple_of(4096) {
                // On an oversubscribed machine the worker may need this very core.
                std::thread::yield_now();
            }
        }
    }

    /// A worker's life.
    fn work(&self) {
        scratch::warm();
        INSIDE.set(true);
        let mut seen = 0;
        while !self.board.is_closing() {
            let epoch = self.board.epoch();
            if epoch == seen {
                self.idle(seen);
                continue;
            }
            seen = epoch;
            self.claim_all(epoch);
        }
    }

    /// Polls for a job after `seen` for a while, then sleeps until there is one.
    fn idle(&self, seen: u64) {
        let begin = Instant::now();
        loop {
            for _ in 0..32 {
                if self.board.epoch() != seen {
                    return;
                }
                std::hint::spin_loop();
            }
            match begin.elapsed() {
                waited if waited < ALONE => {}
                waited if waited < SPIN => std::thread::yield_now(),
                _ => break,
            }
        }
        self.board.sleep(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counts(pool: &Pool, parts: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
        pool.run(parts, &|part| {
            counts[part].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_part_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for parts in (0..70).chain([1000]) {
                assert_eq!(counts(&pool, parts), vec![1; parts], "{threads} threads");
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            std::thread::sleep(2 * SPIN);
            assert_eq!(counts(&pool, 9), vec![1; 9]);
        }
    }

    #[test]
    fn many_small_jobs_do_not_mix() {
        let pool = Pool::new(4);
        for job in 0..20_000 {
            let total = AtomicUsize::new(0);
            pool.run(5, &|part| {
                total.fetch_add(job + part, Ordering::Relaxed);
            });
            assert_eq!(total.into_inner(), 5 * job + 10);
        }
    }

    /// A worker that is late for a short job must not take a part of the long one that follows: it
    /// would run a closure that is gone. More threads than cores, so that some are late.
    #[test]
    fn jobs_of_different_lengths_do_not_mix() {
        let pool = Pool::new(8);
        for job in 0..3_000_000usize {
            let parts = [2, 40, 3, 17][job % 4];
            let ran: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            let beyond = AtomicUsize::new(0);
            pool.run(parts, &|part| {
                ran.get(part).unwrap_or(&beyond).fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(beyond.into_inner(), 0, "job {job} of {parts} parts ran others");
            assert!(ran.into_iter().all(|count| count.into_inner() == 1), "job {job}");
        }
    }

    #[test]
    fn run_inside_a_part_is_serial() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(4, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 16);
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(counts(&pool, 7), vec![1; 7]);
                    }
                });
            }
        });
    }

    #[test]
    fn panic_of_a_part_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|part| assert!(part != 5, "part five"));
        }));
        assert!(caught.is_err());
        assert_eq!(counts(&pool, 8), vec![1; 8]);
    }
}
