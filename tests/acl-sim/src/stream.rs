//! Streams: a worker thread each, tasks in order, operands read when a task runs. Events are marks in the
//! sequence; capture collects tasks instead of running them.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::machine::{Clock, Machine, Span, lock};

/// What a task does. It may run more than once (a captured graph).
pub type Body = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Work with what it touches.
#[derive(Clone)]
pub struct Task {
    pub what: String,
    /// Bytes, and whether they are written.
    pub spans: Vec<(Span, bool)>,
    pub body: Body,
}

/// A place in a stream's sequence that others wait for.
#[derive(Default)]
pub struct Mark {
    state: Mutex<Option<(Instant, Result<(), String>)>>,
    reached: Condvar,
}

impl Mark {
    fn reach(&self, outcome: Result<(), String>) {
        *lock(&self.state) = Some((Instant::now(), outcome));
        self.reached.notify_all();
    }

    pub fn is_reached(&self) -> bool {
        lock(&self.state).is_some()
    }

    /// When it was reached.
    pub fn reached_at(&self) -> Option<Instant> {
        lock(&self.state).as_ref().map(|(when, _)| *when)
    }

    /// Waits; `None` if time runs out.
    pub fn wait(&self, timeout: Duration) -> Option<Result<(), String>> {
        let begin = Instant::now();
        let mut state = lock(&self.state);
        while state.is_none() {
            let left = timeout.checked_sub(begin.elapsed())?;
            let waited = self.reached.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        state.as_ref().map(|(_, outcome)| outcome.clone())
    }
}

enum Job {
    Run(Task),
    Wait(Arc<Mark>),
    Mark(Arc<Mark>),
}

/// A recording.
pub struct Recording {
    pub thread: std::thread::ThreadId,
    pub thread_local: bool,
    pub tasks: Vec<Task>,
    /// The first violation makes it worthless.
    pub broken: bool,
}

/// A stream.
pub struct StreamState {
    pub context: usize,
    pub device: i32,
    /// Place of the last task.
    pub sequence: u64,
    pub clock: Clock,
    pub recording: Option<Recording>,
    jobs: Option<Sender<Job>>,
    worker: Option<JoinHandle<()>>,
}

/// Waits longer than any test runs.
pub const FOREVER: Duration = Duration::from_secs(600);

impl StreamState {
    pub fn new(context: usize, device: i32, seed: u64) -> StreamState {
        let (jobs, queue) = channel::<Job>();
        let worker = std::thread::spawn(move || {
            let mut failed: Option<String> = None;
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for job in queue {
                // Now and then a stream is late, so that luck does not order it.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if random >> 57 == 0 {
                    std::thread::sleep(Duration::from_micros(random >> 32 & 255));
                }
                match job {
                    Job::Run(task) if failed.is_none() => {
                        failed = (task.body)().err().map(|why| format!("{}: {why}", task.what));
                    }
                    Job::Run(_) => {}
                    Job::Wait(mark) => {
                        mark.wait(FOREVER);
                    }
                    Job::Mark(mark) => mark.reach(failed.clone().map_or(Ok(()), Err)),
                }
            }
        });
        StreamState {
            context,
            device,
            sequence: 0,
            clock: Clock::default(),
            recording: None,
            jobs: Some(jobs),
            worker: Some(worker),
        }
    }

    fn push(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The worker lives until the sender is dropped.
            let _ = jobs.send(job);
        }
    }

    /// A mark behind everything enqueued so far.
    pub fn mark(&self) -> Arc<Mark> {
        let mark = Arc::new(Mark::default());
        self.push(Job::Mark(Arc::clone(&mark)));
        mark
    }

    /// Everything enqueued later waits for `mark`.
    pub fn wait_for(&self, mark: &Arc<Mark>) {
        self.push(Job::Wait(Arc::clone(mark)));
    }

    /// Ends the worker once it is done.
    pub fn join(mut self) {
        drop(self.jobs.take());
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// Enqueues a task, or records it.
pub fn launch(machine: &mut Machine, stream: usize, task: Task) -> Result<(), String> {
    let host = machine.host.clone();
    let state = machine.streams.get_mut(&stream).expect("the caller found it");
    if let Some(recording) = &mut state.recording {
        recording.tasks.push(task);
        return Ok(());
    }
    state.clock.join(&host);
    state.sequence += 1;
    let sequence = state.sequence;
    state.clock.set(stream, sequence);
    let clock = state.clock.clone();
    // A task that breaks a rule is not enqueued.
    machine.note((stream, sequence), &clock, &task.spans, &task.what)?;
    machine.streams[&stream].push(Job::Run(task));
    Ok(())
}
