//! The engine's half of the server: one thread that owns the engine, takes jobs, batches them, and
//! sends what becomes of each.
//!
//! [`Client`] is what the async half holds: it submits, looks at [`Stats`], and says when to stop.
//! `core` is the thread's loop; what it runs next is decided in [`engine::schedule`]. `answer` draws the
//! tokens of one job and makes text of them.
//!
//! Bounds: the queue has a length, and a job is admitted only when a slot is free and the pages of its
//! longest possible answer are, so no step can run out of memory. A job whose reader does not read is
//! left out of steps until it does; one whose reader is gone ends at the next step. Whoever wants slow
//! readers to end drops their tickets.
//!
//! States of prompts and turns are kept in the prefix cache (`crate::cache`); a prompt that begins like
//! one that is there begins where that one stood, with the same bits.
//!
//! A panic or a failure of the device ends the worker for good: every job then fails with the same
//! [`Failure::Fault`], and so does every later one.

mod answer;
mod core;

use std::path::PathBuf;
use std::sync::mpsc as events;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use engine::experts::ExpertCounts;
use engine::text::Tokenizer;
use engine::{Engine, Error};
use tokio::sync::mpsc;

use crate::cache::Cache;
use crate::cache::cuts::CUT_TOKENS_MIN;
use crate::cache::disk::{Disk, Done};
use crate::job::{Failure, Job, Ticket, Update, Worker};
use crate::stats::{Counters, Stats};

/// Updates a reader may be behind before its job rests.
pub const UPDATES_MAX: usize = 256;
/// Longest `retry-after`, in seconds.
const RETRY_AFTER_MAX_S: u64 = 60;

/// How the worker shares the engine out. Sequences, tokens of state and rows of a step are the engine's
/// own: [`engine::ModelOptions`].
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Jobs that may wait for a sequence; one more is refused with [`Failure::Busy`].
    pub queue_max: u32,
    /// Rows that prompts may take of a step in which others decode: bounds how long a token waits.
    pub rows_beside: u32,
    /// Bytes of main memory for states of prefixes; 0 switches the cache off.
    pub cache_bytes: u64,
    /// Folder of the prefix cache on disk, which survives restarts; one server at a time.
    pub cache_folder: Option<PathBuf>,
    /// Bytes of that folder.
    pub cache_folder_bytes: u64,
    /// A prompt's state is saved at least every so many tokens, beside the cuts that its turns ask for.
    pub cut_tokens: u32,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            queue_max: 256,
            rows_beside: 128,
            cache_bytes: 1 << 30,
            cache_folder: None,
            cache_folder_bytes: 16 << 30,
            cut_tokens: 4096,
        }
    }
}

/// Everything that can happen to the worker.
#[derive(Debug)]
enum Event {
    /// A job for the queue.
    Submit(Box<Entry>),
    /// The prefix cache's thread has done something.
    Disk(Done),
    /// Take no more; what is queued is reported, what is live goes on.
    Drain,
    /// End now; what is live is reported.
    Halt,
}

/// A job on its way to a sequence.
#[derive(Debug)]
struct Entry {
    job: Job,
    updates: mpsc::Sender<Update>,
    submitted: Instant,
}

/// What the worker and its clients share.
#[derive(Debug)]
struct Shared {
    gate: Mutex<Gate>,
    counters: Counters,
    /// Tokens a sequence can hold.
    context: u32,
    /// Token ids there are.
    vocab: u32,
    queue_max: u32,
    experts: Option<Arc<ExpertCounts>>,
}

/// Whether jobs are taken. Under one lock with the queue's end, so that none slips in behind it.
#[derive(Debug)]
struct Gate {
    events: events::Sender<Event>,
    closed: Option<Failure>,
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hold on the worker. Clones are by `Arc`.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// How the worker is.
    pub fn stats(&self) -> Stats {
        self.shared.counters.read()
    }

    /// How often each expert was chosen, if the engine counts it.
    pub fn experts(&self) -> Option<Arc<ExpertCounts>> {
        self.shared.experts.clone()
    }

    /// Takes no more jobs, reports [`Failure::Stopping`] to those that wait, finishes those that are
    /// live, and ends. Never blocks.
    pub fn drain(&self) {
        self.close(Event::Drain);
    }

    /// As [`Client::drain`], but live jobs are reported too, at the next step.
    pub fn halt(&self) {
        self.close(Event::Halt);
    }

    fn close(&self, event: Event) {
        let mut gate = self.shared.gate();
        gate.closed.get_or_insert(Failure::Stopping);
        // A worker that has ended needs no event.
        let _ = gate.events.send(event);
    }

    /// Seconds until a place in the queue should be free, by how long jobs have taken so far.
    fn retry_after_s(&self) -> u32 {
        let stats = self.stats();
        let busy_ns = stats.decode_ns + stats.prefill_ns + stats.sample_ns;
        let each_ns = busy_ns / stats.finished.max(1);
        let wait_s = each_ns.saturating_mul(stats.queued) / 1_000_000_000;
        wait_s.clamp(1, RETRY_AFTER_MAX_S) as u32
    }

    fn check(&self, job: &Job) -> Result<(), Failure> {
        let prompt = u32::try_from(job.prompt.len()).unwrap_or(u32::MAX);
        if prompt >= self.shared.context {
            return Err(Failure::TooLong { prompt, context: self.shared.context });
        }
        let fault = |text: String| Err(Failure::Fault(text));
        if prompt == 0 || job.tokens_max == 0 {
            return fault("a job of no prompt or no tokens".into());
        }
        if let Some(id) = job.prompt.iter().find(|&&id| id >= self.shared.vocab) {
            return fault(format!("token {id} of a prompt does not exist"));
        }
        job.params.check().or_else(|error| fault(error.to_string()))
    }
}

impl Worker for Client {
    fn submit(&self, job: Job) -> Result<Ticket, Failure> {
        self.check(&job)?;
        let counters = &self.shared.counters;
        let gate = self.shared.gate();
        if let Some(failure) = &gate.closed {
            return Err(failure.clone());
        }
        if counters.queued.get() >= self.shared.queue_max.into() {
            counters.busy.add(1);
            drop(gate);
            return Err(Failure::Busy { retry_after_s: self.retry_after_s() });
        }
        let (updates, receiver) = mpsc::channel(UPDATES_MAX);
        let entry = Entry { job, updates, submitted: Instant::now() };
        counters.queued.add(1);
        if gate.events.send(Event::Submit(Box::new(entry))).is_err() {
            counters.queued.subtract(1);
            return Err(Failure::Fault("the worker is gone".into()));
        }
        counters.submitted.add(1);
        Ok(Ticket { updates: receiver })
    }

    fn closed(&self) -> Option<Failure> {
        self.shared.gate().closed.clone()
    }
}

/// The worker's thread. Dropping it halts the worker and waits for its end.
#[derive(Debug)]
pub struct Thread {
    client: Arc<Client>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Waits until the worker has ended: after [`Client::drain`], [`Client::halt`] or a fault.
    pub fn join(mut self) {
        self.wait();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn wait(&mut self) {
        if let Some(handle) = self.handle.take() {
            // A panic of the worker's was caught and reported to its jobs.
            let _ = handle.join();
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.handle.is_some() {
            self.client.halt();
            self.wait();
        }
    }
}

/// Starts the worker.
///
/// # Errors
/// `Request` if the engine's steps have fewer rows than sequences, the tokenizer is another model's, an
/// option is out of its range, or the cache's folder or a thread cannot be had; `Device` if a plan
/// cannot be compiled.
pub fn spawn(
    mut engine: Engine,
    tokenizer: Arc<Tokenizer>,
    options: &WorkerOptions,
) -> engine::Result<(Arc<Client>, Thread)> {
    check(&engine, &tokenizer, options)?;
    engine.prepare_all()?;
    let (sender, receiver) = events::channel();
    let cache = cache(&engine, options, &sender)?;
    let context = match engine.options().context {
        0 => engine.config().context,
        context => context,
    };
    let shared = Arc::new(Shared {
        gate: Mutex::new(Gate { events: sender, closed: None }),
        counters: Counters::default(),
        context,
        vocab: engine.config().vocab,
        queue_max: options.queue_max,
        experts: engine.expert_counts(),
    });
    let client = Arc::new(Client { shared: Arc::clone(&shared) });
    let core = core::Core::new(engine, tokenizer, options, cache, shared, receiver);
    let handle = std::thread::Builder::new()
        .name("hadal-worker".into())
        .spawn(move || core.run())
        .map_err(|error| Error::request(format!("the worker's thread: {error}")))?;
    let thread = Thread { client: Arc::clone(&client), handle: Some(handle) };
    Ok((client, thread))
}

/// The cache, with what its folder remembers.
fn cache(
    engine: &Engine,
    options: &WorkerOptions,
    events: &events::Sender<Event>,
) -> engine::Result<Cache> {
    let Some(folder) = options.cache_folder.as_ref().filter(|_| options.cache_bytes > 0) else {
        return Ok(Cache::new(options.cache_bytes, None));
    };
    let events = events.clone();
    // When the worker is gone, nobody needs to know.
    let done = move |done| drop(events.send(Event::Disk(done)));
    let disk = Disk::open(folder, engine.identity(), options.cache_folder_bytes, done);
    let disk = disk.map_err(Error::request)?;
    Ok(Cache::new(options.cache_bytes, Some(disk)))
}

fn check(engine: &Engine, tokenizer: &Tokenizer, options: &WorkerOptions) -> engine::Result<()> {
    let capacity = engine.capacity();
    if capacity.slots > capacity.rows {
        return Err(Error::request(format!(
            "{} sequences and steps of {} rows; every sequence needs a row: open the model with more \
             rows or fewer sequences",
            capacity.slots, capacity.rows
        )));
    }
    if options.queue_max == 0 {
        return Err(Error::request(
            "a queue of no jobs; every job goes through it: give it at least 1",
        ));
    }
    if options.cut_tokens < CUT_TOKENS_MIN {
        return Err(Error::request(format!(
            "a cut every {} tokens; it must be {CUT_TOKENS_MIN} at least",
            options.cut_tokens
        )));
    }
    tokenizer
        .expect_vocabulary(engine.config().vocab)
        .map_err(|error| Error::request(error.to_string()))
}
