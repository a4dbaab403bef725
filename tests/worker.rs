//! Laws of the server's worker, on the demo model: concurrency shows in no bit of an answer, every job
//! ends exactly once, bounds hold, everything is given back.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Random, checkpoint, cpu, open_on, path};
use engine::generate::{Finish, Token};
use engine::sample::SamplingParams;
use engine::text::dsml::{Begin, Event};
use engine::text::{Specials, Tokenizer};
use engine::{Engine, ModelOptions, Run, Want};
use hal::Device;
use hal::layer::{Call, Failure as DeviceFailure, Fault, Then};
use server::job::{Constraint, Failure, Job, Namespace, Ticket, Update, Usage, Worker};
use server::worker::{Client, Thread, UPDATES_MAX, WorkerOptions, spawn};

/// Steps of few rows, so that prompts take several beside those who decode.
fn options(sequences: u32) -> ModelOptions {
    ModelOptions { context: 1024, sequences, rows_max: 64, ..ModelOptions::default() }
}

#[test]
fn after_prepare_all_no_mix_of_sequences_compiles_a_plan() {
    // Neither capacity is a step of its ladder.
    let options = ModelOptions { rows_max: 40, ..options(6) };
    let mut engine = open_on(cpu(), "demo", &options);
    engine.prepare_all().unwrap();
    let plans = engine.plan_count();
    let mut sequences: Vec<_> = (0..6).map(|_| engine.open_sequence().unwrap()).collect();
    let mut random = Random(5);
    for _ in 0..200 {
        let count = 1 + random.below(6) as usize;
        let lengths: Vec<usize> = (0..count).map(|_| 1 + random.below(6) as usize).collect();
        let mut runs: Vec<_> = sequences
            .iter_mut()
            .zip(&lengths)
            .map(|(sequence, &length)| Run {
                sequence,
                tokens: &[7; 6][..length],
                want: Want::Last,
            })
            .collect();
        engine.step(&mut runs).unwrap();
    }
    assert_eq!(engine.plan_count(), plans);
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_folder(&path("models/demo")).expect("the demo has a tokenizer"))
}

fn start_on(device: Arc<dyn Device>, sequences: u32, options_: WorkerOptions) -> Started {
    let engine: Engine = open_on(device, "demo", &options(sequences));
    let pages = engine.capacity().pages;
    let (client, thread) = spawn(engine, tokenizer(), &options_).expect("the worker starts");
    Started { client, thread, pages: pages.into() }
}

fn start(sequences: u32) -> Started {
    start_on(cpu(), sequences, worker_options())
}

fn worker_options() -> WorkerOptions {
    WorkerOptions { rows_beside: 24, cut_tokens: 100, ..WorkerOptions::default() }
}

struct Started {
    client: Arc<Client>,
    thread: Thread,
    pages: u64,
}

impl Started {
    fn submit(&self, job: Job) -> Ticket {
        self.client.submit(job).expect("there is room in the queue")
    }

    /// Ends it and checks that nothing was kept.
    fn end(self) {
        self.client.drain();
        self.thread.join();
        let stats = self.client.stats();
        let held = [stats.live, stats.queued, stats.pages_promised, stats.pages - stats.pages_free];
        assert_eq!(held, [0; 4], "live, queued, promised, held: {stats:?}");
        assert_eq!(stats.pages, self.pages);
        let ended = stats.finished + stats.failed + stats.cancelled;
        assert_eq!(stats.submitted, ended, "every job ends once: {stats:?}");
    }
}

/// Held-out questions of the demo model, rendered and tokenised.
fn prompts(set: &str) -> Vec<Vec<u32>> {
    let tokenizer = tokenizer();
    let file = path("models/demo/eval").join(format!("{set}.jsonl"));
    let text = std::fs::read_to_string(file).expect("the set is there");
    let lines = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        let prompt = line["prompt"].as_str().expect("a line has a prompt");
        tokenizer.encode(prompt, Specials::Allow).expect("a prompt has tokens")
    });
    lines.collect()
}

/// A greedy job with log-probabilities.
fn greedy(prompt: &[u32], tokens_max: u32) -> Job {
    Job {
        prompt: prompt.to_vec(),
        begin: Begin::Content,
        params: SamplingParams { logprobs: Some(3), ..SamplingParams::greedy() },
        tokens_max,
        namespace: Namespace(1),
        constraint: None,
        parse: true,
    }
}

/// A greedy job that does not end by itself.
fn endless(prompt: &[u32], tokens_max: u32) -> Job {
    Job { constraint: Some(Box::new(No(vec![END]))), ..greedy(prompt, tokens_max) }
}

/// The demo model's end token.
const END: u32 = 1;

/// Everything a job said.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    tokens: Vec<Token>,
    events: Vec<Event>,
    end: End,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Finished(Finish, Option<usize>, Usage),
    Failed(Failure),
}

impl Answer {
    fn text(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            if let Event::Content(piece) = event {
                text.push_str(piece);
            }
        }
        text
    }

    fn finish(&self) -> Finish {
        match &self.end {
            End::Finished(finish, ..) => *finish,
            End::Failed(failure) => panic!("it failed: {failure:?}"),
        }
    }
}

/// Reads a job to its end and checks the order of what it says.
fn listen(mut ticket: Ticket) -> Answer {
    let (mut tokens, mut events, mut end) = (Vec::new(), Vec::new(), None);
    let mut started = false;
    let mut fed = 0;
    while let Some(update) = ticket.updates.blocking_recv() {
        assert!(end.is_none(), "something came after the end: {update:?}");
        match update {
            Update::Started { .. } => {
                assert!(!started, "started twice");
                started = true;
            }
            Update::Prefill { done } => {
                assert!(started && tokens.is_empty() && done > fed, "prefill {done} after {fed}");
                fed = done;
            }
            Update::Token { token, events: decided, .. } => {
                assert!(started);
                tokens.push(token);
                events.extend(decided);
            }
            Update::Finished { finish, stop, events: last, usage } => {
                assert!(started);
                events.extend(last);
                end = Some(End::Finished(finish, stop, usage));
            }
            Update::Failed(failure) => end = Some(End::Failed(failure)),
        }
    }
    Answer { tokens, events, end: end.expect("every job ends") }
}

/// A job of any kind: sampled or greedy, short or long, of any owner.
fn any(random: &mut Random, prompts: &[Vec<u32>]) -> Job {
    let prompt = &prompts[random.below(prompts.len() as u64) as usize];
    let temperature = if random.chance(0.3) { 0.0 } else { 1.0 };
    Job {
        params: SamplingParams { temperature, ..SamplingParams::default() },
        namespace: Namespace(random.below(4)),
        parse: random.chance(0.7),
        ..greedy(prompt, 1 + random.below(40) as u32)
    }
}

#[test]
fn greedy_answers_are_the_same_alone_and_in_a_crowd() {
    let mut all = prompts("mixed");
    all.extend(prompts("recall_256").into_iter().take(20));
    let random = &mut Random(1);
    let chosen: Vec<_> =
        (0..8).map(|_| all[random.below(all.len() as u64) as usize].clone()).collect();
    let alone: Vec<Answer> = {
        let solo = start(1);
        let alone = chosen.iter().map(|prompt| listen(solo.submit(greedy(prompt, 32)))).collect();
        solo.end();
        alone
    };
    assert!(alone.iter().any(|answer| answer.finish() == Finish::Stop), "some end by themselves");
    let crowd = start(24);
    let mut others = Vec::new();
    let mut watched = Vec::new();
    for prompt in &chosen {
        others.extend((0..4).map(|_| crowd.submit(any(random, &all))));
        watched.push(crowd.submit(greedy(prompt, 32)));
    }
    // Some leave at once, some in the middle of their answer, the rest stay.
    for (place, mut ticket) in others.into_iter().enumerate() {
        match place % 3 {
            0 => drop(ticket),
            1 => drop(ticket.updates.blocking_recv()),
            _ => drop(std::thread::spawn(move || listen(ticket))),
        }
    }
    for (place, (ticket, alone)) in watched.into_iter().zip(&alone).enumerate() {
        assert_eq!(&listen(ticket), alone, "answer {place} (seed 1)");
    }
    crowd.end();
}

#[test]
fn every_job_ends_exactly_once_and_gives_everything_back() {
    let all = prompts("mixed");
    let worker = start(6);
    let random = &mut Random(2);
    let tickets: Vec<_> = (0..60).map(|_| worker.submit(any(random, &all))).collect();
    let readers: Vec<_> = tickets
        .into_iter()
        .enumerate()
        .filter_map(|(place, ticket)| {
            (place % 5 > 0).then(|| std::thread::spawn(|| listen(ticket)))
        })
        .collect();
    for reader in readers {
        let answer = reader.join().expect("what a job says is in order");
        let End::Finished(_, _, usage) = answer.end else { panic!("{:?}", answer.end) };
        let drawn = answer.tokens.len() as u32;
        assert!(usage.completion == drawn || usage.completion == drawn + 1, "{usage:?}");
    }
    worker.end();
}

#[test]
fn a_full_queue_is_busy_and_a_prompt_too_long_is_refused() {
    let options = WorkerOptions { queue_max: 2, ..worker_options() };
    let worker = start_on(cpu(), 1, options);
    let prompt = &prompts("story")[0];
    let mut first = worker.submit(endless(prompt, 900));
    assert!(matches!(first.updates.blocking_recv(), Some(Update::Started { .. })));
    let waiting = [worker.submit(greedy(prompt, 1)), worker.submit(greedy(prompt, 1))];
    let busy = worker.client.submit(greedy(prompt, 1)).unwrap_err();
    assert!(matches!(busy, Failure::Busy { retry_after_s: 1.. }), "{busy:?}");
    let long = worker.client.submit(greedy(&vec![5; 1024], 1)).unwrap_err();
    assert_eq!(long, Failure::TooLong { prompt: 1024, context: 1024 });
    let unknown = worker.client.submit(greedy(&[1 << 20], 1)).unwrap_err();
    assert!(matches!(unknown, Failure::Fault(_)), "{unknown:?}");
    drop(first);
    for ticket in waiting {
        assert_eq!(listen(ticket).finish(), Finish::Length);
    }
    worker.end();
}

#[test]
fn who_asks_for_much_does_not_keep_others_out() {
    let worker = start(1);
    let prompt = &prompts("story")[0];
    let job = |owner| Job { namespace: Namespace(owner), ..greedy(prompt, 2) };
    let (order, started) = std::sync::mpsc::channel();
    let jobs: Vec<_> = [7, 7, 7, 7, 7, 7, 3].map(|owner| (owner, worker.submit(job(owner)))).into();
    let watch = |(owner, ticket): (u64, Ticket)| {
        let order = order.clone();
        std::thread::spawn(move || {
            let answer = listen(ticket);
            order.send(owner).expect("somebody counts");
            answer
        })
    };
    let readers: Vec<_> = jobs.into_iter().map(watch).collect();
    let order: Vec<u64> = started.iter().take(7).collect();
    let place = order.iter().position(|&owner| owner == 3).expect("it ends");
    // One job of the crowd may have been admitted before, and one reader be late.
    assert!(place <= 2, "the modest one was number {place} of {order:?}");
    for reader in readers {
        reader.join().expect("what a job says is in order");
    }
    worker.end();
}

#[test]
fn a_reader_that_does_not_read_stops_its_own_job_only() {
    let worker = start(2);
    let prompt = &prompts("story")[0];
    // More updates than the channel holds.
    let tokens = UPDATES_MAX as u32 + 100;
    let sampled = SamplingParams { seed: Some(1), min_p: 1.0, ..SamplingParams::default() };
    let long = Job { params: sampled, ..endless(prompt, tokens) };
    let lazy = worker.submit(long);
    let rested = || worker.client.stats().paused == 1;
    let others = |count: u64| {
        for _ in 0..count {
            assert_eq!(listen(worker.submit(endless(prompt, 30))).finish(), Finish::Length);
        }
    };
    // The long one is at most a few answers of the others ahead of its reader.
    (0..100).take_while(|_| !rested()).for_each(|_| others(1));
    assert!(rested(), "{:?}", worker.client.stats());
    others(3);
    assert!(rested());
    let answer = listen(lazy);
    assert_eq!((answer.tokens.len() as u32, answer.finish()), (tokens, Finish::Length));
    worker.end();
}

#[test]
fn stopping_finishes_what_is_live_and_reports_what_waits() {
    let worker = start(1);
    let prompt = &prompts("story")[0];
    let mut live = worker.submit(endless(prompt, 20));
    assert!(matches!(live.updates.blocking_recv(), Some(Update::Started { .. })));
    let waiting = worker.submit(endless(prompt, 20));
    worker.client.drain();
    assert_eq!(worker.client.submit(greedy(prompt, 1)).unwrap_err(), Failure::Stopping);
    assert_eq!(listen(waiting).end, End::Failed(Failure::Stopping));
    let mut last = None;
    while let Some(update) = live.updates.blocking_recv() {
        last = Some(update);
    }
    assert!(matches!(last, Some(Update::Finished { finish: Finish::Length, .. })), "{last:?}");
    worker.end();
}

#[test]
fn halting_reports_what_is_live() {
    let worker = start(2);
    let prompt = &prompts("story")[0];
    let mut live = worker.submit(endless(prompt, 900));
    assert!(matches!(live.updates.blocking_recv(), Some(Update::Started { .. })));
    worker.client.halt();
    let mut last = None;
    while let Some(update) = live.updates.blocking_recv() {
        last = Some(update);
    }
    assert_eq!(last, Some(Update::Failed(Failure::Stopping)));
    worker.end();
}

/// Forbids tokens.
#[derive(Debug)]
struct No(Vec<u32>);

impl Constraint for No {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<bool, String> {
        assert!(allowed.iter().all(|&each| each), "everything is allowed at first");
        for &id in &self.0 {
            allowed[id as usize] = false;
        }
        Ok(true)
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        match self.0.contains(&token) {
            true => Err(format!("{token} was forbidden")),
            false => Ok(()),
        }
    }
}

#[test]
fn a_grammar_changes_what_is_drawn_and_not_what_is_reported() {
    let worker = start(2);
    let prompt = &prompts("add_sub_direct")[0];
    let free = listen(worker.submit(greedy(prompt, 1)));
    let first = &free.tokens[0];
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(No(vec![first.id])));
    let bound = listen(worker.submit(Job { constraint, ..greedy(prompt, 1) }));
    let second = &bound.tokens[0];
    // By the model's own distribution the forbidden token is still the likeliest.
    assert_eq!(second.top, first.top);
    assert_eq!((second.id, second.logprob), (first.top[1].0, Some(first.top[1].1)));
    worker.end();
}

/// Breaks in one of its two calls, or when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bad {
    Message,
    Panic,
    Drop,
}

impl Constraint for Bad {
    fn mask(&mut self, _: &mut [bool]) -> Result<bool, String> {
        match self {
            Bad::Message => Err("too deep".into()),
            Bad::Panic => panic!("a bug in a grammar"),
            Bad::Drop => Ok(false),
        }
    }

    fn accept(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Debug)]
struct Broken(Bad);

impl Constraint for Broken {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<bool, String> {
        self.0.mask(allowed)
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.accept(token)
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        assert!(self.0 != Bad::Drop || std::thread::panicking(), "a bug in the worker");
    }
}

#[test]
fn a_broken_grammar_fails_its_own_answer_only() {
    let worker = start(3);
    let prompt = &prompts("story")[0];
    let other = worker.submit(endless(prompt, 30));
    for bad in [Bad::Message, Bad::Panic] {
        let job = Job { constraint: Some(Box::new(Broken(bad))), ..greedy(prompt, 5) };
        let answer = listen(worker.submit(job));
        assert!(matches!(answer.end, End::Failed(Failure::Fault(_))), "{:?}", answer.end);
    }
    assert_eq!(listen(other).finish(), Finish::Length);
    worker.end();
}

/// Everyone hears of a fault, now and later; nobody waits for ever.
fn broken_for_good(worker: &Started, tickets: Vec<Ticket>) {
    let mut failed = 0;
    for ticket in tickets {
        if let End::Failed(failure) = listen(ticket).end {
            assert!(matches!(failure, Failure::Fault(_)), "{failure:?}");
            failed += 1;
        }
    }
    assert!(failed > 0, "somebody was told");
    while worker.client.closed().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let later = worker.client.submit(greedy(&[0, 3, 4], 1)).unwrap_err();
    assert!(matches!(later, Failure::Fault(_)), "{later:?}");
}

#[test]
fn a_panic_in_the_worker_is_everyones_fault_and_no_hang() {
    let worker = start(2);
    let prompt = &prompts("story")[0];
    let job = Job { constraint: Some(Box::new(Broken(Bad::Drop))), ..greedy(prompt, 3) };
    let mut tickets = vec![worker.submit(job)];
    tickets.extend((0..4).map(|_| worker.submit(endless(prompt, 900))));
    broken_for_good(&worker, tickets);
}

#[test]
fn a_lost_device_is_everyones_fault_and_no_hang() {
    let kind = hal::ErrorKind::DeviceLost;
    let loss = DeviceFailure { call: Call::Submit, nth: 20, kind, then: Then::Lost };
    let device = Fault::wrap(cpu(), &[loss]);
    let worker = start_on(device, 2, worker_options());
    let prompt = &prompts("story")[0];
    let tickets = (0..5).map(|_| worker.submit(endless(prompt, 100))).collect();
    broken_for_good(&worker, tickets);
}

#[test]
fn stop_strings_lengths_and_plain_text_end_as_they_say() {
    let worker = start(2);
    let prompt = &prompts("story")[0];
    let whole = listen(worker.submit(greedy(prompt, 40)));
    let text = whole.text();
    let middle = text.char_indices().nth(text.chars().count() / 2).expect("some text").0;
    let word = text[middle..].split_whitespace().nth(1).expect("words in the rest").to_owned();
    let want = &text[..text.find(&word).expect("it is there")];
    for parse in [true, false] {
        let job = || Job { parse, ..greedy(prompt, 40) };
        let stop = vec!["nowhere in it".to_owned(), word.clone()];
        let params = SamplingParams { stop, ..SamplingParams::greedy() };
        let stopped = listen(worker.submit(Job { params, ..job() }));
        assert_eq!(stopped.text(), want, "parse {parse}");
        let End::Finished(Finish::StopString, Some(1), usage) = stopped.end else {
            panic!("{:?}", stopped.end)
        };
        assert_eq!(usage.prompt as usize, prompt.len());
        let short = listen(worker.submit(Job { tokens_max: 7, ..job() }));
        assert_eq!((short.finish(), short.tokens.len()), (Finish::Length, 7));
        assert!(text.starts_with(&short.text()), "parse {parse}");
    }
    let near = vec![prompt[1]; 1020];
    let full = listen(worker.submit(endless(&near, 900)));
    assert_eq!((full.finish(), full.tokens.len()), (Finish::Context, 4));
    worker.end();
}

#[test]
fn reasoning_is_counted_and_told_apart() {
    let worker = start(2);
    let prompt = &prompts("add_sub_think")[0];
    let job = Job { begin: Begin::Reasoning, ..greedy(prompt, 200) };
    let mut ticket = worker.submit(job);
    let (mut inside, mut outside, mut thought, mut usage) = (0, 0, false, Usage::default());
    while let Some(update) = ticket.updates.blocking_recv() {
        match update {
            Update::Token { reasoning, events, .. } => {
                assert!(!reasoning || outside == 0, "reasoning comes first");
                *(if reasoning { &mut inside } else { &mut outside }) += 1;
                thought |= events.iter().any(|event| matches!(event, Event::Reasoning(_)));
            }
            Update::Finished { usage: all, .. } => usage = all,
            Update::Failed(failure) => panic!("{failure:?}"),
            Update::Started { .. } | Update::Prefill { .. } => {}
        }
    }
    assert!(thought && inside > 0 && outside > 0, "{inside} {outside}");
    assert_eq!((usage.reasoning, usage.completion), (inside, inside + outside + 1));
    worker.end();
}

/// The same but for where the prompt came from.
fn same(got: &Answer, want: &Answer, what: &str) {
    assert_eq!((&got.tokens, &got.events), (&want.tokens, &want.events), "{what}");
    assert_eq!(got.finish(), want.finish(), "{what}");
}

fn cached(answer: &Answer) -> usize {
    match &answer.end {
        End::Finished(_, _, usage) => usage.cached as usize,
        End::Failed(failure) => panic!("it failed: {failure:?}"),
    }
}

/// A prompt, and the same with its answer and another question behind it.
struct Talk {
    first: Asked,
    second: Asked,
}

/// A prompt and its answer without the cache.
struct Asked {
    prompt: Vec<u32>,
    cold: Answer,
}

fn talks() -> Vec<Talk> {
    let options = WorkerOptions { cache_bytes: 0, ..worker_options() };
    let worker = start_on(cpu(), 1, options);
    let cold = |prompt: Vec<u32>| {
        let cold = listen(worker.submit(greedy(&prompt, 40)));
        assert_eq!(cached(&cold), 0);
        Asked { prompt, cold }
    };
    let questions = prompts("add_sub_direct");
    let all = [&prompts("recall_512")[..2], &prompts("told_facts")[..2]].concat();
    let talks = all.into_iter().zip(questions).map(|(prompt, question)| {
        let first = cold(prompt);
        let mut more = first.prompt.clone();
        more.extend(first.cold.tokens.iter().map(|token| token.id));
        more.push(END);
        more.extend(&question[1..]);
        Talk { second: cold(more), first }
    });
    let talks: Vec<_> = talks.collect();
    assert_eq!(worker.client.stats().cache_saved, 0);
    worker.end();
    talks
}

/// How many tokens of a job were cached; its answer is the one without the cache.
fn answers(worker: &Started, job: &Asked, owner: u64, what: &str) -> usize {
    let namespace = Namespace(owner);
    let answer = listen(worker.submit(Job { namespace, ..greedy(&job.prompt, 40) }));
    same(&answer, &job.cold, what);
    cached(&answer)
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hadal-worker-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }

    fn options(&self) -> WorkerOptions {
        WorkerOptions { cache_folder: Some(self.0.clone()), ..worker_options() }
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let folder = std::fs::read_dir(self.0.join("prefixes")).expect("the folder is there");
        let paths = folder.map(|entry| entry.expect("it can be read").path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "prefix")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_hit_gives_the_bits_of_a_cold_run_in_memory_and_after_a_restart() {
    let folder = Folder::new("restart");
    let talks = talks();
    let worker = start_on(cpu(), 2, folder.options());
    for (number, Talk { first, second }) in talks.iter().enumerate() {
        let what = format!("talk {number}");
        let again = first.prompt.len() - 1;
        assert_eq!(answers(&worker, first, 1, &what), 0, "{what}");
        assert_eq!(answers(&worker, first, 1, &what), again, "{what} asked again");
        // What is too short for a cut of its own is fed again.
        let turn = first.prompt.len() + first.cold.tokens.len();
        let hit = answers(&worker, second, 1, &what);
        assert!((again..=turn).contains(&hit), "{what}: {hit} of {turn}");
        assert!(hit == turn || turn - again < 40, "{what}: {hit} of {turn}");
        assert_eq!(answers(&worker, second, 2, &what), 0, "{what}, another's");
    }
    let stats = worker.client.stats();
    assert!(stats.cache_hits == 8 && stats.cache_misses == 8, "{stats:?}");
    worker.end();
    // Nothing fits in memory: every prefix comes from disk.
    for (round, cache_bytes) in [1 << 30, 1].into_iter().enumerate() {
        let worker = start_on(cpu(), 2, WorkerOptions { cache_bytes, ..folder.options() });
        for (number, Talk { first, second }) in talks.iter().enumerate() {
            let what = format!("talk {number} after a restart, {cache_bytes} bytes");
            assert!(answers(&worker, second, 1, &what) > second.prompt.len() - 40, "{what}");
            assert_eq!(answers(&worker, first, 1, &what), first.prompt.len() - 1, "{what}");
            assert_eq!(answers(&worker, first, 10 + round as u64, &what), 0, "{what}, another's");
        }
        let stats = worker.client.stats();
        assert!(stats.cache_loaded > 0 && stats.cache_broken == 0, "{stats:?}");
        worker.end();
    }
}

#[test]
fn damaged_files_of_the_cache_cost_time_and_no_answer() {
    let folder = Folder::new("damage");
    let talks = talks();
    let random = &mut Random(3);
    for trial in 0..6 {
        let worker = start_on(cpu(), 2, folder.options());
        for (number, Talk { first, second }) in talks.iter().enumerate() {
            let what = format!("trial {trial}, talk {number}");
            answers(&worker, second, 1, &what);
            answers(&worker, first, 1, &what);
        }
        worker.end();
        for path in folder.files() {
            let mut bytes = std::fs::read(&path).expect("it can be read");
            let place = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes.truncate(place),
                1 => bytes[place] ^= 0x40,
                _ => {}
            }
            std::fs::write(&path, bytes).expect("it can be written");
        }
    }
}

#[test]
fn a_crowd_of_the_same_beginnings_gives_the_bits_of_cold_runs() {
    let talks = talks();
    // So little memory that prefixes come and go.
    let worker = start_on(cpu(), 8, WorkerOptions { cache_bytes: 3 << 20, ..worker_options() });
    let ask = |job: &Asked| worker.submit(greedy(&job.prompt, 40));
    for round in 0..3 {
        let tickets: Vec<_> = talks
            .iter()
            .flat_map(|talk| [&talk.first, &talk.second].map(|job| (job, ask(job))))
            .collect();
        for (job, ticket) in tickets {
            same(&listen(ticket), &job.cold, &format!("round {round}"));
        }
    }
    let stats = worker.client.stats();
    assert!(stats.cache_hits > 0 && stats.cache_bytes <= 3 << 20, "{stats:?}");
    worker.end();
}

#[test]
fn what_cannot_serve_is_refused_before_it_starts() {
    let open = |options: &ModelOptions| {
        Engine::open(cpu(), &checkpoint("demo"), options, &mut |_, _| true).expect("it opens")
    };
    let few = ModelOptions { rows_max: 4, ..options(8) };
    let refusal = spawn(open(&few), tokenizer(), &worker_options()).unwrap_err().to_string();
    assert!(refusal.contains("8 sequences and steps of 4 rows"), "{refusal}");
    let none = WorkerOptions { queue_max: 0, ..worker_options() };
    let refusal = spawn(open(&options(1)), tokenizer(), &none).unwrap_err().to_string();
    assert!(refusal.contains("queue"), "{refusal}");
}
