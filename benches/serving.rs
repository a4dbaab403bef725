//! What batching brings: tokens per second of the worker at 1 to 64 streams of the demo model, or of another, with
//! the time to the first token and from token to token.
//!
//!     cargo bench --bench serving [-- STREAMS TOKENS FOLDER]
//!
//! Every stream has a prompt of its own, which no cache knows, and draws until its length; none ends by
//! itself. The times are a reader's, between updates. On a shared machine the ratios mean more than the
//! rates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::load::Checkpoint;
use engine::sample::SamplingParams;
use engine::text::Tokenizer;
use engine::text::dsml::Begin;
use engine::{Engine, ModelOptions};
use hal::{Backend, OpenOptions};
use server::job::{Constraint, Job, Namespace, Ticket, Update, Worker};
use server::stats::Stats;
use server::worker::{Client, WorkerOptions, spawn};
use tokio::runtime::{self, Runtime};

const STREAMS_MAX: u32 = 64;
const PROMPT_TOKENS: u32 = 64;
const TOKENS: u32 = 128;
/// The end token of the demo model and of released ones.
const END: usize = 1;

/// Forbids the end.
#[derive(Debug)]
struct Endless;

impl Constraint for Endless {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<bool, String> {
        allowed[END] = false;
        Ok(true)
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }
}

/// What one reader saw.
struct Seen {
    first: Duration,
    between: Vec<Duration>,
}

async fn read(mut ticket: Ticket, begun: Instant) -> Seen {
    let mut seen = Seen { first: Duration::ZERO, between: Vec::new() };
    let mut last = begun;
    while let Some(update) = ticket.updates.recv().await {
        match update {
            Update::Token { .. } if seen.first.is_zero() => seen.first = last.elapsed(),
            Update::Token { .. } => seen.between.push(last.elapsed()),
            Update::Failed(failure) => panic!("{failure:?}"),
            Update::Started { .. } | Update::Prefill { .. } | Update::Finished { .. } => continue,
        }
        last = Instant::now();
    }
    seen
}

fn job(seed: u32, tokens: u32) -> Job {
    let ids = (0..PROMPT_TOKENS).map(|at| 3 + (seed.wrapping_mul(31) + at * (seed + 7)) % 2000);
    Job {
        prompt: ids.collect(),
        begin: Begin::Content,
        params: SamplingParams { seed: Some(seed.into()), ..SamplingParams::default() },
        tokens_max: tokens,
        namespace: Namespace::default(),
        constraint: Some(Box::new(Endless)),
        parse: true,
    }
}

/// Milliseconds below which this share of the times lies.
fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() as f64 * share) as usize).min(times.len() - 1);
    times[at].as_secs_f64() * 1e3
}

fn run(readers: &Runtime, client: &Client, streams: u32, tokens: u32, seed: &mut u32) -> f64 {
    let before = client.stats();
    let begun = Instant::now();
    let start = |_| {
        *seed += 1;
        let ticket = client.submit(job(*seed, tokens)).expect("the queue is long enough");
        readers.spawn(read(ticket, begun))
    };
    let tasks: Vec<_> = (0..streams).map(start).collect();
    let seen = tasks.into_iter().map(|task| readers.block_on(task).expect("it reads"));
    let seen: Vec<Seen> = seen.collect();
    let wall = begun.elapsed().as_secs_f64();
    let rate = f64::from(streams * tokens) / wall;
    let mut first: Vec<_> = seen.iter().map(|seen| seen.first).collect();
    let mut between: Vec<_> = seen.into_iter().flat_map(|seen| seen.between).collect();
    let firsts = [0.5, 0.95].map(|share| quantile(&mut first, share));
    let betweens = [0.5, 0.95].map(|share| quantile(&mut between, share));
    print!("{streams:>7} {rate:>9.0} ");
    print!("{:>9.1} {:>7.1} {:>9.2} {:>7.2}", firsts[0], firsts[1], betweens[0], betweens[1]);
    println!(" {}", shares(&before, &client.stats(), wall));
    rate
}

/// Where the wall's time went, in percent.
fn shares(before: &Stats, after: &Stats, wall: f64) -> String {
    let share = |of: fn(&Stats) -> u64| (of(after) - of(before)) as f64 / wall / 1e7;
    format!(
        "{:>8.0} {:>8.0} {:>7.0}",
        share(|stats| stats.prefill_ns),
        share(|stats| stats.decode_ns),
        share(|stats| stats.sample_ns)
    )
}

fn main() {
    let numbers: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let most = numbers.first().copied().unwrap_or(STREAMS_MAX).clamp(1, STREAMS_MAX);
    let tokens = numbers.get(1).copied().unwrap_or(TOKENS).max(2);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let folder = std::env::args().skip(1).map(PathBuf::from).find(|it| it.is_dir()).unwrap_or(demo);
    let checkpoint = Checkpoint::open(&folder).expect("it is a model");
    let tokenizer = Arc::new(Tokenizer::from_folder(&folder).expect("it has a tokenizer"));
    let device = backend_cpu::CpuBackend.open(0, &OpenOptions::default()).expect("there is a CPU");
    let context = PROMPT_TOKENS + tokens + 1;
    let options = ModelOptions { context, sequences: most, ..ModelOptions::default() };
    let engine = Engine::open(device, &checkpoint, &options, &mut |_, _| true).expect("it opens");
    let options = WorkerOptions { cache_bytes: 0, ..WorkerOptions::default() };
    engine.device().settle();
    let (client, _thread) = spawn(engine, tokenizer, &options).expect("the worker starts");
    println!("{}, prompts of {PROMPT_TOKENS} tokens, answers of {tokens}", folder.display());
    println!("                      first token, ms  next token, ms   share of the time, %");
    println!("streams  tokens/s       p50     p95       p50     p95  prefill   decode  sample");
    // Readers are tasks, as in the server.
    let readers = runtime::Builder::new_multi_thread().build().expect("threads start");
    let mut seed = 0;
    let mut streams = 1;
    let mut alone = None;
    while streams <= most {
        // The first run compiles what has no plan yet.
        run_quietly(&readers, &client, streams, &mut seed);
        let rate = run(&readers, &client, streams, tokens, &mut seed);
        let alone = *alone.get_or_insert(rate);
        println!("        x {:.1}", rate / alone);
        streams *= 2;
    }
}

fn run_quietly(readers: &Runtime, client: &Client, streams: u32, seed: &mut u32) {
    let submit = |_| {
        *seed += 1;
        client.submit(job(*seed, 4)).expect("the queue is long enough")
    };
    let tickets: Vec<_> = (0..streams).map(submit).collect();
    for ticket in tickets {
        readers.block_on(read(ticket, Instant::now()));
    }
}
