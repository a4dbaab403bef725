//! The worker's loop: takes events, drops what nobody wants, admits, runs one step, hands out what came
//! of it. The only place that owns the engine and the jobs.
//!
//! Refuses to guess about time: what runs next is [`engine::schedule`]'s, and clocks are only read to
//! count. An error of the engine or a panic ends the loop; [`Core::run`] then tells everyone.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc as events;
use std::time::{Duration, Instant};

use engine::limits::PAGE_TOKENS;
use engine::refusal::RefusalKind;
use engine::schedule::{self, Need, Rows};
use engine::text::{Control, Tokenizer};
use engine::{Engine, Error, Run, Sequence, Snapshot, Want};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::answer::{Answer, Drawn, Tools};
use super::{Entry, Event, Shared, WorkerOptions};
use crate::cache::cuts::{CUT_TOKENS_MIN, cuts};
use crate::cache::disk::Done;
use crate::cache::{Cache, Place};
use crate::job::{Failure, Namespace, Update};

/// How often readers are looked at while every live job waits for its own.
const POLL: Duration = Duration::from_millis(5);

/// Logits, a hundred microseconds' work, from which on drawing is shared among threads.
const LOGITS_SHARED_MIN: usize = 1 << 14;

thread_local! {
    /// What the thread draws with.
    static TOOLS: RefCell<Tools> = RefCell::default();
}

/// A job that has a sequence.
#[derive(Debug)]
struct Live {
    answer: Answer,
    sequence: Sequence,
    /// The prompt and what was drawn behind it; the sequence holds a prefix of it.
    tokens: Vec<u32>,
    /// Positions of the prompt at which its state is to be saved, the next last.
    cuts: Vec<u32>,
    /// Pages promised to it.
    pages: u32,
    namespace: Namespace,
    submitted: Instant,
    /// It has no more to say.
    ended: bool,
    /// Its state is worth saving now.
    ripe: bool,
}

impl Live {
    /// Tokens the sequence does not hold yet; at least one.
    fn left(&self) -> u32 {
        self.tokens.len() as u32 - self.sequence.position()
    }

    fn need(&self) -> Need {
        match self.left() {
            _ if !self.answer.ready() => Need::Rest,
            1 => Need::Decode,
            left => Need::Prefill(left.min(self.to_cut())),
        }
    }

    /// Tokens to the next position at which the state is to be saved.
    fn to_cut(&self) -> u32 {
        self.cuts.last().map_or(u32::MAX, |cut| cut - self.sequence.position())
    }

    /// Its part in a step of `rows` of its tokens.
    fn run(&mut self, rows: u32) -> Run<'_> {
        let want = if rows == self.left() { Want::Last } else { Want::None };
        let first = self.sequence.position() as usize;
        let tokens = &self.tokens[first..first + rows as usize];
        Run { sequence: &mut self.sequence, tokens, want }
    }
}

/// A job whose prefix is being read from disk.
#[derive(Debug)]
struct Loading {
    ticket: u64,
    entry: Entry,
    pages: u32,
}

/// The worker's thread.
#[derive(Debug)]
pub(super) struct Core {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    shared: Arc<Shared>,
    events: events::Receiver<Event>,
    queue: VecDeque<Entry>,
    loading: Vec<Loading>,
    live: Vec<Live>,
    cache: Cache,
    cut_tokens: u32,
    /// The token that opens a turn of the user.
    user: Option<u32>,
    /// Loads so far.
    tickets: u64,
    bounds: Rows,
    /// Pages promised to all live and loading jobs.
    promised: u32,
    last_owner: u64,
    /// Steps so far.
    turn: u64,
    needs: Vec<Need>,
    rows: Vec<u32>,
    draining: bool,
    halted: bool,
}

impl Core {
    pub(super) fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        options: &WorkerOptions,
        cache: Cache,
        shared: Arc<Shared>,
        events: events::Receiver<Event>,
    ) -> Self {
        let capacity = *engine.capacity();
        shared.counters.slots.set(capacity.slots.into());
        shared.counters.pages.set(capacity.pages.into());
        shared.counters.pages_free.set(capacity.pages.into());
        Core {
            ends: engine.config().eos.clone(),
            bounds: Rows { all: capacity.rows, beside: options.rows_beside },
            user: tokenizer.control(Control::User),
            engine,
            tokenizer,
            shared,
            events,
            queue: VecDeque::new(),
            loading: Vec::new(),
            live: Vec::new(),
            cache,
            cut_tokens: options.cut_tokens,
            tickets: 0,
            promised: 0,
            last_owner: 0,
            turn: 0,
            needs: Vec::new(),
            rows: Vec::new(),
            draining: false,
            halted: false,
        }
    }

    /// Serves until told to stop or until something breaks, then tells everyone who waits.
    pub(super) fn run(mut self) {
        let served = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let failure = match served {
            Ok(Ok(())) => Failure::Stopping,
            Ok(Err(error)) => Failure::Fault(error.to_string()),
            Err(panic) => Failure::Fault(format!("the worker panicked: {}", words(&*panic))),
        };
        self.close(&failure);
    }

    /// Fails everything that is left and everything to come.
    fn close(&mut self, failure: &Failure) {
        let shared = Arc::clone(&self.shared);
        let mut gate = shared.gate();
        gate.closed = Some(failure.clone());
        while let Ok(event) = self.events.try_recv() {
            if let Event::Submit(entry) = event {
                self.queue.push_back(*entry);
            }
        }
        for Loading { entry, pages, .. } in self.loading.drain(..) {
            self.promised -= pages;
            self.queue.push_back(entry);
        }
        self.refuse_queue(failure);
        for mut live in self.live.drain(..) {
            shared.counters.failed.add(1);
            live.answer.fail(failure.clone());
            self.promised -= live.pages;
        }
        self.gauge();
    }

    fn serve(&mut self) -> engine::Result<()> {
        let mut busy = false;
        loop {
            self.receive(busy)?;
            if self.halted {
                return Ok(());
            }
            self.sweep();
            self.admit()?;
            busy = self.step()?;
            self.gauge();
            if self.draining && self.live.is_empty() && self.loading.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes the events there are; waits for one if there is nothing to do.
    fn receive(&mut self, busy: bool) -> engine::Result<()> {
        let idle = self.live.is_empty() && self.queue.is_empty();
        let first = match (busy, idle) {
            (true, _) => self.events.try_recv().ok(),
            (false, false) => self.events.recv_timeout(POLL).ok(),
            (false, true) => Some(self.events.recv().unwrap_or(Event::Halt)),
        };
        let mut next = first;
        while let Some(event) = next {
            self.handle(event)?;
            next = self.events.try_recv().ok();
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> engine::Result<()> {
        match event {
            Event::Submit(entry) => self.queue.push_back(*entry),
            Event::Disk(Done::Unwritten(id)) => self.cache.unwritten(id),
            Event::Disk(Done::Loaded { ticket, read }) => {
                self.shared.counters.cache_loaded.add(read.len() as u64);
                self.cache.loaded(read);
                let place = self.loading.iter().position(|loading| loading.ticket == ticket);
                if let Some(Loading { entry, pages, .. }) = place.map(|at| self.loading.remove(at))
                {
                    self.start(entry, pages)?;
                }
                self.cache.trim();
            }
            Event::Drain => {
                self.draining = true;
                self.refuse_queue(&Failure::Stopping);
            }
            Event::Halt => self.halted = true,
        }
        Ok(())
    }

    fn refuse_queue(&mut self, failure: &Failure) {
        for entry in self.queue.drain(..) {
            self.shared.counters.queued.subtract(1);
            self.shared.counters.failed.add(1);
            // Whoever has gone needs no reason.
            let _ = entry.updates.try_send(Update::Failed(failure.clone()));
        }
    }

    /// Drops jobs whose readers are gone.
    fn sweep(&mut self) {
        let counters = &self.shared.counters;
        self.queue.retain(|entry| {
            let wanted = !entry.updates.is_closed();
            if !wanted {
                counters.queued.subtract(1);
                counters.cancelled.add(1);
            }
            wanted
        });
        for live in &mut self.live {
            if live.answer.abandoned() {
                live.ended = true;
                self.shared.counters.cancelled.add(1);
            }
        }
        self.bury();
    }

    /// Lets ended jobs go, with their slots, pages and promises.
    fn bury(&mut self) {
        let promised = &mut self.promised;
        self.live.retain(|live| {
            if live.ended {
                *promised -= live.pages;
            }
            !live.ended
        });
    }

    /// Gives sequences to waiting jobs while the next in turn fits. One that does not fit keeps its
    /// turn: what is free grows until it does, because live jobs end.
    fn admit(&mut self) -> engine::Result<()> {
        let capacity = *self.engine.capacity();
        while ((self.live.len() + self.loading.len()) as u32) < capacity.slots {
            let owners = self.queue.iter().map(|entry| entry.job.namespace.0);
            let alive = |owner| self.alive(Namespace(owner));
            let Some(owner) = schedule::next_owner(owners, alive, self.last_owner) else { break };
            let place = self.queue.iter().position(|entry| entry.job.namespace.0 == owner);
            let place = place.expect("the owner is one of the queue's");
            let pages = self.pages_of(&self.queue[place]);
            if self.promised + pages > capacity.pages {
                break;
            }
            let entry = self.queue.remove(place).expect("it is there");
            self.last_owner = owner;
            self.promised += pages;
            self.begin(entry, pages)?;
        }
        Ok(())
    }

    /// Jobs of a namespace that have a sequence or are about to.
    fn alive(&self, namespace: Namespace) -> usize {
        let live = self.live.iter().filter(|live| live.namespace == namespace).count();
        let of = |loading: &&Loading| loading.entry.job.namespace == namespace;
        live + self.loading.iter().filter(of).count()
    }

    /// Tokens that fit behind a prompt.
    fn room(&self, entry: &Entry) -> u32 {
        self.shared.context - entry.job.prompt.len() as u32
    }

    /// Pages the longest answer to a job may need, prompt included.
    fn pages_of(&self, entry: &Entry) -> u32 {
        let answer = entry.job.tokens_max.min(self.room(entry));
        (entry.job.prompt.len() as u32 + answer).div_ceil(PAGE_TOKENS)
    }

    /// Starts an admitted job, or has its prefix read from disk first.
    fn begin(&mut self, entry: Entry, pages: u32) -> engine::Result<()> {
        let prompt = &entry.job.prompt;
        if let Some(hit) = self.cache.find(entry.job.namespace, &prompt[..prompt.len() - 1])
            && self.cache.snapshots(&hit).is_none()
        {
            self.tickets += 1;
            self.cache.load(&hit, self.tickets);
            self.loading.push(Loading { ticket: self.tickets, entry, pages });
            return Ok(());
        }
        self.start(entry, pages)
    }

    fn start(&mut self, entry: Entry, pages: u32) -> engine::Result<()> {
        let (namespace, submitted) = (entry.job.namespace, entry.submitted);
        let room = self.room(&entry);
        let counters = &self.shared.counters;
        counters.queued.subtract(1);
        counters.queue_ns.add_time(submitted.elapsed());
        let (mut answer, tokens) = match Answer::new(entry, &self.tokenizer, room) {
            Ok(made) => made,
            Err((updates, failure)) => {
                counters.failed.add(1);
                self.promised -= pages;
                let _ = updates.try_send(Update::Failed(failure));
                return Ok(());
            }
        };
        let sequence = match self.sequence(namespace, &tokens) {
            Ok(sequence) => sequence,
            Err(error) => {
                self.shared.counters.failed.add(1);
                self.promised -= pages;
                answer.fail(Failure::Fault(error.to_string()));
                return Err(error);
            }
        };
        let cached = sequence.position();
        answer.started(cached);
        let counters = &self.shared.counters;
        counters.cached_tokens.add(cached.into());
        let outcome = if cached > 0 { &counters.cache_hits } else { &counters.cache_misses };
        outcome.add(1);
        let mut cuts = match self.cache.is_off() {
            true => Vec::new(),
            false => cuts(&tokens, cached, self.cut_tokens, self.user),
        };
        cuts.reverse();
        self.live.push(Live {
            answer,
            sequence,
            tokens,
            cuts,
            pages,
            namespace,
            submitted,
            ended: false,
            ripe: false,
        });
        Ok(())
    }

    /// A sequence that holds as much of `prompt` as is cached; its last token is always left to feed,
    /// because an answer begins with that one's logits.
    fn sequence(&mut self, namespace: Namespace, prompt: &[u32]) -> engine::Result<Sequence> {
        let prefix = &prompt[..prompt.len() - 1];
        let Some(hit) = self.cache.find_in_memory(namespace, prefix) else {
            return self.engine.open_sequence();
        };
        self.cache.touch(&hit);
        let chain = self.cache.snapshots(&hit).expect("it was found in memory");
        let chain: Vec<&Snapshot> = chain.iter().map(|snapshot| &**snapshot).collect();
        let begun = Instant::now();
        let restored = self.engine.restore_chain(&chain);
        self.shared.counters.restore_ns.add_time(begun.elapsed());
        match restored {
            Err(Error::Refused(refusal)) if refusal.kind() == RefusalKind::Snapshot => {
                self.cache.forget(&hit);
                self.engine.open_sequence()
            }
            restored => restored,
        }
    }

    /// Saves the states that are worth it.
    fn save(&mut self) -> engine::Result<()> {
        for live in self.live.iter_mut().filter(|live| live.ripe) {
            live.ripe = false;
            if self.cache.is_off() {
                continue;
            }
            let position = live.sequence.position();
            let tokens = &live.tokens[..position as usize];
            let Place::Behind(base) = self.cache.place(live.namespace, tokens) else { continue };
            if position - base < CUT_TOKENS_MIN {
                continue;
            }
            let begun = Instant::now();
            let snapshot = self.engine.save_from(&live.sequence, base)?;
            self.cache.insert(live.namespace, tokens, snapshot);
            self.shared.counters.save_ns.add_time(begun.elapsed());
            self.shared.counters.cache_saved.add(1);
        }
        Ok(())
    }

    /// Runs one step and hands out what came of it; false if there was nothing to run.
    fn step(&mut self) -> engine::Result<bool> {
        self.needs.clear();
        self.needs.extend(self.live.iter().map(Live::need));
        let sum = schedule::batch(&self.needs, self.bounds, self.turn, &mut self.rows);
        if sum == 0 {
            return Ok(false);
        }
        self.turn += 1;
        let begun = Instant::now();
        let mut runs = Vec::with_capacity(self.live.len());
        for (live, &rows) in self.live.iter_mut().zip(&self.rows).filter(|(_, rows)| **rows > 0) {
            runs.push(live.run(rows));
        }
        let sequences = runs.len() as u64;
        let logits = self.engine.step(&mut runs)?;
        let ran = begun.elapsed();
        let mut prompt_rows = 0;
        let mut drawing = Vec::new();
        for (live, &rows) in self.live.iter_mut().zip(&self.rows).filter(|(_, rows)| **rows > 0) {
            let before = live.sequence.position() - rows;
            prompt_rows += rows.min(live.answer.usage().prompt.saturating_sub(before));
            if live.left() > 0 {
                live.answer.progress(live.sequence.position());
                live.ripe = live.to_cut() == 0;
                if live.ripe {
                    live.cuts.pop();
                }
                continue;
            }
            drawing.push((live, logits.row(drawing.len())));
        }
        settle_all(drawing, &self.ends, &self.shared);
        let counters = &self.shared.counters;
        counters.sample_ns.add_time(begun.elapsed() - ran);
        let clock = if prompt_rows > 0 { &counters.prefill_ns } else { &counters.decode_ns };
        clock.add_time(ran);
        counters.prompt_tokens.add(prompt_rows.into());
        counters.steps.add(1);
        counters.rows.add(sum.into());
        counters.batch_rows.set(sum.into());
        counters.batch_sequences.set(sequences);
        self.save()?;
        self.bury();
        Ok(true)
    }

    /// Says how it is now.
    fn gauge(&self) {
        let counters = &self.shared.counters;
        let paused = self.live.iter().filter(|live| !live.answer.ready()).count();
        counters.live.set(self.live.len() as u64);
        counters.paused.set(paused as u64);
        counters.pages_free.set(self.engine.available().1.into());
        counters.pages_promised.set(self.promised.into());
        let cache = self.cache.figures();
        counters.cache_prefixes.set(cache.nodes);
        counters.cache_bytes.set(cache.memory_bytes);
        counters.cache_disk_bytes.set(cache.file_bytes);
        counters.cache_evicted.set(cache.evicted);
        counters.cache_broken.set(cache.broken);
        if self.live.is_empty() {
            counters.batch_rows.set(0);
            counters.batch_sequences.set(0);
        }
    }
}

/// Draws the next token of every job from its logits, on all cores where that pays: an answer depends on no
/// other.
fn settle_all(drawing: Vec<(&mut Live, &[f32])>, ends: &[u32], shared: &Shared) {
    let settle = |(live, logits): (&mut Live, &[f32])| {
        TOOLS.with_borrow_mut(|tools| settle(live, logits, ends, tools, shared));
    };
    let logits: usize = drawing.iter().map(|(_, logits)| logits.len()).sum();
    if drawing.len() > 1 && logits >= LOGITS_SHARED_MIN {
        drawing.into_par_iter().for_each(settle);
    } else {
        drawing.into_iter().for_each(settle);
    }
}

/// Draws a live job's next token from `logits`.
fn settle(live: &mut Live, logits: &[f32], ends: &[u32], tools: &mut Tools, shared: &Shared) {
    let counters = &shared.counters;
    let drawn = live.answer.draw(logits, live.sequence.position(), ends, tools);
    counters.completion_tokens.add(1);
    if live.answer.usage().completion == 1 {
        counters.first_tokens.add(1);
        counters.first_token_ns.add_time(live.submitted.elapsed());
    }
    match drawn {
        Ok(Drawn::Token(id)) => live.tokens.push(id),
        Ok(Drawn::End) => {
            counters.finished.add(1);
            live.ended = true;
            live.ripe = true;
        }
        Err(message) => {
            counters.failed.add(1);
            live.answer.fail(Failure::Fault(message));
            live.ended = true;
        }
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
