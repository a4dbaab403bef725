//! The engine: one model on one device. Feeds batches of sequences through step plans and hands out
//! logits; everything a sequence is lies in its state (law 8), so how tokens were cut into steps,
//! batched, saved or rolled back never shows in a bit of the result.
//!
//! Not here: sampling and text ([`crate::generate`]), and any choice of what to run next.

mod plans;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use hal::{Device, Mode, Profile, Queue, QueueKind};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::experts::ExpertCounts;
use crate::limits::{HEAD_ROWS_MAX, PAGE_TOKENS, ROWS_MAX, RUNGS, SEQUENCES_MAX};
use crate::load::Checkpoint;
use crate::model::Numerics;
use crate::model::cost::Cost;
use crate::model::params;
use crate::state::{Capacity, Pool, RunView, Sequence, StepShape};
use plans::Plans;

/// How a model is opened.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Which numbers are computed.
    pub numerics: Numerics,
    /// Longest context of a sequence, in tokens; 0 takes the model's own.
    pub context: u32,
    /// Live sequences.
    pub sequences: u32,
    /// Tokens all live sequences may hold together; 0 takes `context` for each.
    pub tokens: u64,
    /// Rows of the largest step: the size of a prefill chunk.
    pub rows_max: u32,
    /// How plans are run.
    pub mode: Mode,
    /// Whether ops are timed into the device's sink.
    pub profile: Profile,
    /// Compile every step size exactly instead of padding it to a rung.
    pub exact_rows: bool,
    /// Count how often each expert is chosen: one small transfer a step.
    pub count_experts: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            numerics: Numerics::Served,
            context: 0,
            sequences: 1,
            tokens: 0,
            rows_max: 512,
            mode: Mode::Replay,
            profile: Profile::Off,
            exact_rows: false,
            count_experts: false,
        }
    }
}

impl ModelOptions {
    /// The capacity these options ask of a model.
    ///
    /// # Errors
    /// `Request` if a number is out of its range.
    pub fn capacity(&self, config: &ModelConfig) -> Result<Capacity> {
        let context = if self.context == 0 { config.context } else { self.context };
        if context > config.context {
            return Err(Error::request(format!(
                "a context of {context} tokens; this model was made for {}: ask for at most that",
                config.context
            )));
        }
        for (name, value, most) in [
            ("sequences", self.sequences, SEQUENCES_MAX),
            ("rows per step", self.rows_max, ROWS_MAX),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::request(format!("{value} {name}; it must be 1 to {most}")));
            }
        }
        let sequence_pages = context.div_ceil(PAGE_TOKENS);
        let all = u64::from(sequence_pages) * u64::from(self.sequences);
        let asked = if self.tokens == 0 { all } else { self.tokens.div_ceil(PAGE_TOKENS.into()) };
        let pages = u32::try_from(asked.min(all).max(sequence_pages.into()))
            .map_err(|_| Error::request("more pages than can be numbered; lower the context"))?;
        Ok(Capacity { slots: self.sequences, pages, sequence_pages, rows: self.rows_max })
    }
}

/// Which rows of a run one wants logits of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: a prompt that goes on.
    None,
    /// The last.
    Last,
    /// Every one.
    All,
}

/// Some tokens of one sequence in a step.
#[derive(Debug)]
pub struct Run<'a> {
    /// Whose.
    pub sequence: &'a mut Sequence,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// Which logits.
    pub want: Want,
}

/// Logits of a step's wanted rows, in the order of runs and rows.
#[derive(Clone, Debug, Default)]
pub struct Logits {
    vocab: usize,
    values: Vec<f32>,
}

impl Logits {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.vocab).unwrap_or(0)
    }

    /// One row, `vocab` values.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocab..][..self.vocab]
    }

    /// All rows behind each other.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// One model on one device.
pub struct Engine {
    config: ModelConfig,
    options: ModelOptions,
    capacity: Capacity,
    device: Arc<dyn Device>,
    queue: Arc<dyn Queue>,
    pool: Arc<Pool>,
    plans: Plans,
    wanted: Vec<u32>,
    logits: Logits,
    identity: String,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} on {})", self.identity, self.device.info().name)
    }
}

impl Engine {
    /// Loads a model onto a device. `progress` is called with (layers done, layers) and stops the load
    /// by returning false.
    ///
    /// # Errors
    /// `Refused` for a checkpoint or options that cannot be, or too little memory (before anything is
    /// loaded); `Device`; `Stopped`.
    pub fn open(
        device: Arc<dyn Device>,
        checkpoint: &Checkpoint,
        options: &ModelOptions,
        progress: &mut dyn FnMut(u32, u32) -> bool,
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        if options.numerics == Numerics::Served {
            config.check_served()?;
        }
        let capacity = options.capacity(&config)?;
        plans::budget(&*device, checkpoint, options, &capacity)?;
        let params = params::load(&*device, checkpoint, options.numerics, progress)?;
        let identity =
            format!("{:016x}/{}/{}", params.fingerprint, options.numerics, device.arithmetic());
        let queue = device.queue(QueueKind::Compute)?;
        let plans = Plans::new(&device, &config, options, capacity, params)?;
        let logits = Logits { vocab: config.vocab as usize, values: Vec::new() };
        Ok(Engine {
            pool: Pool::new(&capacity),
            config,
            options: options.clone(),
            capacity,
            device,
            queue,
            plans,
            wanted: Vec::new(),
            logits,
            identity,
        })
    }

    /// Geometry and schedule.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How it was opened.
    pub fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// Size of its state.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The device it runs on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Model, numerics and arithmetic class: equal strings mean equal bits.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// How often each expert was chosen, if that is counted ([`ModelOptions::count_experts`]).
    pub fn expert_counts(&self) -> Option<Arc<ExpertCounts>> {
        self.plans.expert_counts().cloned()
    }

    /// Weights the device keeps in another encoding than the checkpoint.
    pub fn transcoded(&self) -> &[String] {
        self.plans.transcoded()
    }

    /// A new, empty sequence.
    ///
    /// # Errors
    /// `Request` if all slots are taken.
    pub fn open_sequence(&self) -> Result<Sequence> {
        self.pool.open(self.capacity.sequence_pages).ok_or_else(|| {
            Error::request(format!(
                "all {} sequences are in use; close one or open the model with more",
                self.capacity.slots
            ))
        })
    }

    /// Free slots and free pages.
    pub fn available(&self) -> (u32, u32) {
        self.pool.available()
    }

    /// Compiles the plans of a step of `rows` rows and `sequences` sequences, and of logits for one row and
    /// for one row of each, ahead of their first use.
    ///
    /// # Errors
    /// `Device`.
    pub fn prepare(&mut self, rows: u32, sequences: u32) -> Result<()> {
        let shape = self.shape(rows, sequences);
        self.plans.step(shape)?;
        self.plans.head(1)?;
        self.plans.head(sequences.next_power_of_two().min(HEAD_ROWS_MAX))
    }

    /// What a step of `rows` rows of `sequences` sequences and the logits of a row of each cost at a depth, by
    /// op: bytes and operations. Empty unless ops are timed ([`ModelOptions::profile`]) and such a step has run.
    pub fn costs(&self, rows: u32, sequences: u32, depth: u32) -> BTreeMap<&'static str, Cost> {
        let heads = sequences.next_power_of_two().min(HEAD_ROWS_MAX);
        self.plans.costs(self.shape(rows, sequences), heads, depth)
    }

    /// Compiles the plans of every padded shape a step can have, the largest first: afterwards no step waits
    /// for a compilation, and memory does not grow with the shapes that come. With
    /// [`ModelOptions::exact_rows`] shapes are as many as requests are, and nothing is compiled ahead.
    ///
    /// # Errors
    /// `Device`.
    pub fn prepare_all(&mut self) -> Result<()> {
        if self.options.exact_rows {
            return Ok(());
        }
        let Capacity { rows: most, slots, .. } = self.capacity;
        for rows in RUNGS.into_iter().rev().map(|rung| rung.min(most)) {
            for sequences in (0..=rows.min(slots).next_power_of_two().ilog2()).rev() {
                self.prepare(rows, 1 << sequences)?;
            }
        }
        Ok(())
    }

    /// Plans compiled so far.
    pub fn plan_count(&self) -> usize {
        self.plans.count()
    }

    /// Feeds every run's tokens to its sequence and returns the wanted logits.
    ///
    /// On an error no sequence has advanced.
    ///
    /// # Errors
    /// `Request`: no tokens, unknown token ids, more rows than a step takes, a context that is full, no
    /// free pages, a sequence of another engine. `Device`.
    pub fn step(&mut self, runs: &mut [Run<'_>]) -> Result<&Logits> {
        let rows = self.check(runs)?;
        for run in runs.iter_mut() {
            let end = run.sequence.position() + run.tokens.len() as u32;
            if !run.sequence.reserve(end) {
                let free = self.pool.available().1;
                return Err(Error::request(format!(
                    "no pages left for {end} tokens ({free} free); close a sequence or open the \
                     model with more tokens"
                )));
            }
        }
        let shape = self.shape(rows, runs.len() as u32);
        let views = runs.iter().map(|run| RunView { sequence: run.sequence, tokens: run.tokens });
        self.plans.run_step(&*self.queue, shape, rows, views)?;
        self.want(runs);
        self.logits.values.clear();
        self.plans.run_head(&*self.queue, &self.wanted, &mut self.logits.values)?;
        for run in runs.iter_mut() {
            run.sequence.advance(run.tokens.len() as u32);
        }
        Ok(&self.logits)
    }

    /// Padded shape of a step.
    fn shape(&self, rows: u32, sequences: u32) -> StepShape {
        match self.options.exact_rows {
            true => StepShape { rows, sequences },
            false => StepShape {
                rows: crate::limits::rung_for(rows).min(self.capacity.rows),
                sequences: sequences.next_power_of_two().min(self.capacity.slots),
            },
        }
    }

    /// Lists the wanted rows.
    fn want(&mut self, runs: &[Run<'_>]) {
        self.wanted.clear();
        let mut end = 0;
        for run in runs {
            let first = end;
            end += run.tokens.len() as u32;
            match run.want {
                Want::None => {}
                Want::Last => self.wanted.push(end - 1),
                Want::All => self.wanted.extend(first..end),
            }
        }
    }

    /// Refuses what a step cannot take; returns its rows.
    fn check(&self, runs: &[Run<'_>]) -> Result<u32> {
        if runs.is_empty() || runs.len() as u32 > self.capacity.slots {
            return Err(Error::request(format!(
                "a step of {} sequences; it takes 1 to {}",
                runs.len(),
                self.capacity.slots
            )));
        }
        let mut rows = 0u64;
        for run in runs {
            self.check_run(run)?;
            rows += run.tokens.len() as u64;
        }
        if rows > u64::from(self.capacity.rows) {
            return Err(Error::request(format!(
                "a step of {rows} rows; this model was opened for {}: feed the prompt in chunks",
                self.capacity.rows
            )));
        }
        Ok(rows as u32)
    }

    fn check_run(&self, run: &Run<'_>) -> Result<()> {
        if !run.sequence.belongs_to(&self.pool) {
            return Err(Error::request("a sequence of another engine"));
        }
        if run.tokens.is_empty() {
            return Err(Error::request("the prompt is empty; give it at least one token"));
        }
        let length = u64::from(run.sequence.position()) + run.tokens.len() as u64;
        if length > u64::from(run.sequence.capacity()) {
            return Err(Error::request(format!(
                "{length} tokens do not fit a context of {}; shorten the prompt or open the model \
                 with a larger context",
                run.sequence.capacity()
            )));
        }
        match run.tokens.iter().find(|&&token| token >= self.config.vocab) {
            Some(token) => Err(Error::request(format!(
                "token {token} does not exist; the vocabulary has {} tokens",
                self.config.vocab
            ))),
            None => Ok(()),
        }
    }
}
