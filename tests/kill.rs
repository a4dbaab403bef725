//! A server that is killed at any moment, also while it writes its prefix cache, answers after its restart
//! as one that has no cache, to the last bit of its log-probabilities.
//!
//! A few rounds by default; `HADAL_ROUNDS=100 cargo test --release --test kill -- --nocapture` for more.
//! The seed is printed and read from `HADAL_SEED`.

mod served;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use served::{Served, try_post};

const ROUNDS: u64 = 5;
/// Clients that ask while the server is killed.
const CLIENTS: u64 = 3;
/// Longest time a round goes on if nothing kills it before.
const ROUND: Duration = Duration::from_millis(700);
/// Talks that come again in every round.
const TALKS: u64 = 4;
/// Turns of a talk.
const TURNS: u64 = 3;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A talk's request at one of its turns: what a client sends back is what it would have got.
fn ask(talk: u64, turn: u64) -> Value {
    let mut facts = String::new();
    for place in 0..20 {
        let value = (talk * 31 + place * 7) % 97;
        facts += &format!("The number of box {place} in room {talk} is {value}.\n");
    }
    let mut messages = vec![json!({"role": "user", "content": facts + "Remember that."})];
    for turn in 0..turn {
        messages.push(json!({"role": "assistant", "content": format!("Yes, {turn}.")}));
        let question = format!("What is the number of box {}?", (talk + 3 * turn) % 20);
        messages.push(json!({"role": "user", "content": question}));
    }
    json!({
        "model": "deepseek-v4-flash", "messages": messages, "thinking": {"type": "disabled"},
        "temperature": 0, "max_tokens": 12, "logprobs": true, "top_logprobs": 2,
    })
}

/// What must be the same to the bit.
fn said(text: &str) -> Value {
    let answer: Value = serde_json::from_str(text).expect("JSON");
    assert!(answer["choices"][0]["logprobs"]["content"][0]["logprob"].is_f64(), "{text}");
    answer["choices"][0].clone()
}

/// Talks and what is said in them, by a server without a cache.
struct Truth {
    server: Served,
    known: Vec<(u64, u64, Value)>,
}

impl Truth {
    fn new() -> Self {
        let mut truth = Truth { server: Served::start(&["--cache-mib", "0"]), known: Vec::new() };
        (0..TALKS).for_each(|talk| truth.learn(talk));
        truth
    }

    fn learn(&mut self, talk: u64) {
        for turn in 0..TURNS {
            let (status, text) = self.server.post("/v1/chat/completions", &ask(talk, turn));
            assert_eq!(status, 200, "{text}");
            self.known.push((talk, turn, said(&text)));
        }
    }
}

/// What the rounds came to.
#[derive(Debug, Default)]
struct Sum {
    answers: AtomicU64,
    cut_off: AtomicU64,
    cached_tokens: AtomicU64,
}

/// Asks one thing; false if the server went away.
fn check(server: SocketAddr, known: &(u64, u64, Value), sum: &Sum, place: &str) -> bool {
    let (talk, turn, want) = known;
    let answer = try_post(server, "/v1/chat/completions", &ask(*talk, *turn));
    let Some((status, text)) = answer else {
        sum.cut_off.fetch_add(1, Ordering::Relaxed);
        return false;
    };
    assert_eq!(status, 200, "{place}: {text}");
    assert_eq!(&said(&text), want, "{place}, talk {talk}, turn {turn}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let cached = answer["usage"]["prompt_cache_hit_tokens"].as_u64().expect("a number");
    sum.cached_tokens.fetch_add(cached, Ordering::Relaxed);
    sum.answers.fetch_add(1, Ordering::Relaxed);
    true
}

/// Files of the cache whose writing has begun and not ended.
fn unfinished(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder.join("prefixes")) else { return 0 };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".unfinished")).count()
}

/// Waits for the moment: any, or the first at which a file is being written.
fn wait(random: &mut Random, folder: &Path, round: u64) {
    let begun = Instant::now();
    if round.is_multiple_of(2) {
        std::thread::sleep(ROUND * random.below(1000) as u32 / 1000);
        return;
    }
    // Which file of the round's it is differs.
    let not_before = ROUND / 2 * random.below(1000) as u32 / 1000;
    while begun.elapsed() < ROUND {
        if begun.elapsed() > not_before && unfinished(folder) > 0 {
            return;
        }
        std::thread::yield_now();
    }
}

/// Small bounds, so that files come and go all the time and are read again.
fn started(folder: &str) -> Served {
    let bounds = ["--cache-mib", "2", "--cache-dir-mib", "3"];
    Served::start(&[&["--cache-dir", folder][..], &bounds].concat())
}

fn temporary() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hadal-kill-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

#[test]
fn a_killed_server_answers_to_the_bit_after_its_restart() {
    let (rounds, seed) = (number("HADAL_ROUNDS", ROUNDS), number("HADAL_SEED", 0x5eed));
    println!("{rounds} rounds, seed {seed}");
    let mut random = Random(seed);
    let mut truth = Truth::new();
    let folder = temporary();
    let place = folder.to_string_lossy().into_owned();
    let sum = Sum::default();
    let mut torn = 0;
    for round in 0..rounds {
        // New in every round, so that there is something to write.
        truth.learn(TALKS + round);
        let mut server = started(&place);
        assert_eq!(unfinished(&folder), 0, "what was not finished is removed");
        let what = format!("seed {seed}, round {round}");
        let known = &truth.known;
        let recent = known.len() as u64 - (2 * TURNS).min(known.len() as u64);
        let first = [random.below(TALKS * TURNS), recent];
        for at in first {
            let there = check(server.address, &known[at as usize], &sum, &what);
            assert!(there, "it was not killed yet");
        }
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let mut random = Random(seed ^ (round * CLIENTS + client + 1) << 20);
                let (address, sum, what) = (server.address, &sum, &what);
                scope.spawn(move || {
                    let mut at = known.len() as u64 - 1 - client % TURNS;
                    while check(address, &known[at as usize], sum, what) {
                        at = random.below(known.len() as u64);
                    }
                });
            }
            wait(&mut random, &folder, round);
            server.child.kill().expect("it runs");
        });
        let status = server.child.wait().expect("it ended");
        assert!(!status.success(), "it was killed");
        torn += usize::from(unfinished(&folder) > 0);
    }
    let server = started(&place);
    for known in &truth.known {
        assert!(check(server.address, known, &sum, "after all rounds"));
    }
    println!("{sum:?}; {torn} kills while a file was being written");
    assert!(sum.cached_tokens.into_inner() > 0, "nothing came from the cache");
    std::fs::remove_dir_all(&folder).expect("it was there");
}
