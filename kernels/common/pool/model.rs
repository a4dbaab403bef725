//! The job board under every interleaving of its threads that preempts at most twice (loom).
//!
//! The board is compiled a second time, with loom's atomics in place of the standard ones. What the
//! models cannot show is what they leave out: spinning before sleep, panics, threads by the dozen. The
//! stress tests in `pool.rs` have those.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use loom::model::Builder;
use loom::thread;

use board::Board;

mod sync {
    //! What the board is made of, as loom has it.
    pub(super) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[expect(clippy::duplicate_mod, reason = "compiled a second time, over another `sync`")]
#[path = "board.rs"]
mod board;

/// A job that knows how often each part ran and whether its poster still waits for it. Its atomics are
/// not loom's: counting is no step that another thread could come between.
struct Job {
    runs: Vec<AtomicUsize>,
    alive: AtomicBool,
}

impl Job {
    fn new(parts: usize) -> Job {
        let runs = (0..parts).map(|_| AtomicUsize::new(0)).collect();
        Job { runs, alive: AtomicBool::new(true) }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

/// Takes parts of job `epoch` until none is left.
fn help(board: &Board, epoch: u64) {
    while let Some((part, task)) = board.claim(epoch) {
        // SAFETY: the model keeps all jobs; `alive` says whether a pool would have.
        let job = unsafe { &*task.cast::<Job>() };
        assert!(job.alive.load(Ordering::Relaxed), "a part of a job that is over");
        job.runs[part].fetch_add(1, Ordering::Relaxed);
        board.finish();
    }
}

/// Posts a job, helps, waits for all of it.
fn post_and_join(board: &Board, job: &Job) {
    let parts = job.runs.len();
    let epoch = board.post(parts, (&raw const *job).cast_mut().cast());
    help(board, epoch);
    while !board.is_done(parts) {
        thread::yield_now();
    }
    job.alive.store(false, Ordering::Relaxed);
    for (part, runs) in job.runs.iter().enumerate() {
        assert_eq!(runs.load(Ordering::Relaxed), 1, "part {part} of job {epoch}");
    }
}

/// A short job, then a longer one, and workers that may come late for either: every part of each runs
/// once, while its poster waits.
#[test]
fn parts_run_once_and_in_their_job() {
    for lengths in [[1, 2], [2, 1]] {
        check(move || {
            let board = Arc::new(Board::new());
            let jobs = Arc::new(lengths.map(Job::new));
            let worker = {
                let (board, jobs) = (Arc::clone(&board), Arc::clone(&jobs));
                thread::spawn(move || {
                    for _ in 0..2 {
                        help(&board, board.epoch());
                    }
                    drop(jobs);
                })
            };
            for job in &*jobs {
                // A switch here is none of the two.
                thread::yield_now();
                post_and_join(&board, job);
            }
            worker.join().expect("the worker lives");
        });
    }
}

/// A worker that falls asleep while a job is posted wakes for it: the poster, who leaves all parts to
/// the worker, would wait for ever.
#[test]
fn no_job_is_slept_through() {
    check(|| {
        let board = Arc::new(Board::new());
        let job = Arc::new(Job::new(1));
        let worker = {
            let (board, job) = (Arc::clone(&board), Arc::clone(&job));
            thread::spawn(move || {
                board.sleep(0);
                help(&board, board.epoch());
                drop(job);
            })
        };
        board.post(1, Arc::as_ptr(&job).cast_mut().cast());
        worker.join().expect("the worker lives");
        assert!(board.is_done(1));
    });
}

/// A worker that falls asleep while the board closes wakes.
#[test]
fn the_end_is_not_slept_through() {
    check(|| {
        let board = Arc::new(Board::new());
        let worker = {
            let board = Arc::clone(&board);
            thread::spawn(move || {
                board.sleep(0);
                assert!(board.is_closing());
            })
        };
        board.close();
        worker.join().expect("the worker lives");
    });
}
