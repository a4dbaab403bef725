//! What the server's tests share: a worker that plays a script, an app around it, a client without a
//! network, and snapshots.
//!
//! The scripted worker is a worker in everything but the model: it obeys the constraint, the stop strings
//! and the limit, and makes its events with the engine's own parser.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::experts::ExpertCounts;
use engine::generate::{Finish, Speaker, Token};
use engine::sample::SamplingParams;
use engine::text::chat::EffortTable;
use engine::text::dsml::{Begin, Malformed};
use engine::text::{Control, Controls, Detokeniser, Specials, Tokenizer};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use server::grammar::Grammars;
use server::http::{App, Counts, Keys, Room, handle};
use server::job::{Failure, Job, Ticket, Update, Usage, Worker};
use server::limits::BODY_BYTES_MAX;
use server::model::{Model, RELEASED_S, Secret};
use server::names::Names;
use tokio::sync::mpsc;

/// What the worker does with the next job.
#[derive(Clone, Debug)]
pub enum Script {
    /// Writes this text; control strings in it are control tokens.
    Say(String),
    /// As `Say`, with so many tokens of the prompt found in the cache.
    SayCached(String, u32),
    /// Refuses the job.
    Refuse(Failure),
    /// Writes the text, then fails.
    SayThenFail(String, Failure),
    /// Holds the job and says nothing.
    Silent,
}

/// What the worker saw of a job.
#[derive(Debug)]
pub struct Seen {
    pub prompt: Vec<u32>,
    pub begin: Begin,
    pub params: SamplingParams,
    pub tokens_max: u32,
    pub namespace: u64,
    pub parse: bool,
}

/// A worker that plays a script.
#[derive(Debug)]
pub struct Scripted {
    tokenizer: Arc<Tokenizer>,
    pub scripts: Mutex<VecDeque<Script>>,
    pub seen: Mutex<Vec<Seen>>,
    /// Senders of silent jobs, so that they stay open.
    silent: Mutex<Vec<mpsc::Sender<Update>>>,
    lax: bool,
    /// Why it takes no jobs any more.
    pub closed: Mutex<Option<Failure>>,
}

impl Scripted {
    /// The prompt of the last job as text.
    pub fn last_prompt(&self) -> String {
        let seen = self.seen.lock().unwrap();
        let ids = &seen.last().expect("a job was submitted").prompt;
        let mut text = String::new();
        let mut detokeniser = Detokeniser::new(self.tokenizer.clone(), Controls::Show);
        for &id in ids {
            text.push_str(detokeniser.push(id).unwrap());
        }
        text + detokeniser.finish()
    }

    /// Whether every silent job was let go.
    pub fn all_let_go(&self) -> bool {
        self.silent.lock().unwrap().iter().all(mpsc::Sender::is_closed)
    }
}

impl Worker for Scripted {
    fn submit(&self, job: Job) -> Result<Ticket, Failure> {
        self.seen.lock().unwrap().push(Seen {
            prompt: job.prompt.clone(),
            begin: job.begin,
            params: job.params.clone(),
            tokens_max: job.tokens_max,
            namespace: job.namespace.0,
            parse: job.parse,
        });
        let script = self.scripts.lock().unwrap().pop_front();
        let script = script.unwrap_or_else(|| Script::Say("fine</think>OK.".to_owned()));
        let (sender, updates) = mpsc::channel(4096);
        let (text, cached, failure) = match script {
            Script::Refuse(failure) => return Err(failure),
            Script::Silent => {
                self.silent.lock().unwrap().push(sender);
                return Ok(Ticket { updates });
            }
            Script::Say(text) => (text, 0, None),
            Script::SayCached(text, cached) => (text, cached, None),
            Script::SayThenFail(text, failure) => (text, 0, Some(failure)),
        };
        let mut play = Play::new(self.tokenizer.clone(), job, cached);
        if self.lax {
            play.job.constraint = None;
        }
        for update in play.updates(&text, failure) {
            sender.try_send(update).expect("scripts are short");
        }
        Ok(Ticket { updates })
    }

    fn closed(&self) -> Option<Failure> {
        self.closed.lock().unwrap().clone()
    }
}

struct Play {
    tokenizer: Arc<Tokenizer>,
    job: Job,
    malformed: Malformed,
    usage: Usage,
}

impl Play {
    fn new(tokenizer: Arc<Tokenizer>, job: Job, cached: u32) -> Self {
        let usage = Usage { prompt: job.prompt.len() as u32, cached, ..Usage::default() };
        let malformed = if job.constraint.is_some() { Malformed::Cut } else { Malformed::Recover };
        Play { tokenizer, job, malformed, usage }
    }

    fn updates(&mut self, text: &str, failure: Option<Failure>) -> Vec<Update> {
        let mut out = vec![Update::Started { cached: self.usage.cached }];
        out.push(Update::Prefill { done: self.usage.prompt });
        let text = match self.job.begin {
            Begin::Reasoning => text,
            Begin::Content => text.rsplit("</think>").next().unwrap(),
        };
        let mut ids = self.tokenizer.encode(text, Specials::Allow).unwrap();
        let end = self.tokenizer.control(Control::EndOfSentence).unwrap();
        let think_end = self.tokenizer.control(Control::ThinkEnd).unwrap();
        ids.push(end);
        let stops = self.job.params.stop.clone();
        let mut speaker =
            Speaker::new(self.tokenizer.clone(), self.job.begin, &stops, self.malformed).unwrap();
        let mut reasoning = self.job.begin == Begin::Reasoning;
        let mut finish = Finish::Stop;
        for id in ids {
            if self.usage.completion >= self.job.tokens_max {
                finish = Finish::Length;
                break;
            }
            self.obey(id);
            self.usage.completion += 1;
            if id == end {
                break;
            }
            self.usage.reasoning += u32::from(reasoning);
            let mut events = Vec::new();
            let stopped = speaker.push(id, &mut events).unwrap();
            let logprob = self.job.params.logprobs.map(|_| -0.5);
            let top = match self.job.params.logprobs {
                Some(count) if count > 0 => vec![(id, -0.5)],
                _ => Vec::new(),
            };
            out.push(Update::Token { token: Token { id, logprob, top }, reasoning, events });
            reasoning &= id != think_end;
            if stopped {
                finish = Finish::StopString;
                break;
            }
        }
        if let Some(failure) = failure {
            out.push(Update::Failed(failure));
            return out;
        }
        let mut events = Vec::new();
        speaker.finish(&mut events).unwrap();
        let stop = (finish == Finish::StopString).then_some(0);
        out.push(Update::Finished { finish, stop, events, usage: self.usage });
        out
    }

    /// The constraint must allow what the script says.
    fn obey(&mut self, id: u32) {
        let Some(constraint) = &mut self.job.constraint else { return };
        let mut allowed = vec![true; self.tokenizer.size() as usize];
        if constraint.mask(&mut allowed).expect("a grammar within its limits") {
            let bytes = self.tokenizer.token_bytes(id).unwrap();
            assert!(allowed[id as usize], "{} is forbidden here", String::from_utf8_lossy(bytes));
        }
        constraint.accept(id).expect("the grammar takes what it allowed");
    }
}

/// Two layers of three experts; one of the first layer's is idle.
fn chosen() -> ExpertCounts {
    let counts = ExpertCounts::new(2, 3);
    for (layer, id) in [(0, 0), (0, 2), (0, 2), (0, 2), (1, 0), (1, 1), (1, 2)] {
        counts.add(layer, &i32::to_le_bytes(id));
    }
    counts
}

pub fn tokenizer() -> Arc<Tokenizer> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    Arc::new(Tokenizer::from_folder(&path).unwrap())
}

/// The released tokenizer, with fewer merges.
fn released_tokenizer() -> Arc<Tokenizer> {
    let bytes = include_bytes!("../../../tests/vectors/tokenizer_reduced.json");
    Arc::new(Tokenizer::from_bytes(bytes).unwrap())
}

/// A server around a scripted worker.
pub struct Server {
    pub app: Arc<App>,
    pub worker: Arc<Scripted>,
}

/// What can differ between servers of tests.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub keys: Vec<&'static str>,
    pub cors: Option<&'static str>,
    pub strict_reasoning: bool,
    pub release_0731: bool,
    pub no_legacy_names: bool,
    pub body_bytes: Option<usize>,
    pub context: Option<u32>,
    /// The released tokenizer's tokens, which the demo model has not.
    pub released_tokens: bool,
    /// The worker says one thing whatever it is asked, also where the constraint forbids it.
    pub lax: bool,
}

impl Server {
    pub fn new() -> Self {
        Self::with(&Setup::default())
    }

    pub fn with(setup: &Setup) -> Self {
        let tokenizer = if setup.released_tokens { released_tokenizer() } else { tokenizer() };
        let worker = Arc::new(Scripted {
            tokenizer: tokenizer.clone(),
            scripts: Mutex::default(),
            seen: Mutex::default(),
            silent: Mutex::default(),
            lax: setup.lax,
            closed: Mutex::default(),
        });
        let efforts =
            if setup.release_0731 { EffortTable::RELEASE_0731 } else { EffortTable::PREVIEW };
        let model = Model {
            names: Names::new("deepseek-v4-flash", &[], !setup.no_legacy_names),
            grammars: Grammars::new(&tokenizer).unwrap(),
            replays: Arc::default(),
            tokenizer,
            efforts,
            context: setup.context.unwrap_or(8192),
            thinking_params: SamplingParams::default(),
            strict_reasoning: setup.strict_reasoning,
            created: RELEASED_S,
            fingerprint: "fp_test".to_owned(),
            secret: Secret::new([7; 32]),
        };
        let app = Arc::new(App {
            model: Arc::new(model),
            worker: worker.clone(),
            stats: Box::new(server::stats::Stats::default),
            experts: Some(Arc::new(chosen())),
            keys: Keys::new(setup.keys.iter().map(|&key| key.to_owned())),
            cors: setup.cors.map(|origin| origin.parse().unwrap()),
            room: Room::new(setup.body_bytes.unwrap_or(BODY_BYTES_MAX)),
            silence: Duration::from_millis(10),
            counts: Arc::new(Counts::default()),
            device: "test".to_owned(),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
        });
        Server { app, worker }
    }

    pub fn script(&self, script: Script) {
        self.worker.scripts.lock().unwrap().push_back(script);
    }

    pub fn say(&self, text: &str) {
        self.script(Script::Say(text.to_owned()));
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = handle(self.app.clone(), request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// A chat request with these fields besides model and messages.
    pub async fn chat(&self, fields: Value) -> Answer {
        self.post("/v1/chat/completions", &chat(fields)).await
    }

    /// A Messages request with these fields besides model, messages and `max_tokens`.
    pub async fn message(&self, fields: Value) -> Answer {
        self.post("/v1/messages", &message(fields)).await
    }
}

/// `fields` over the least that a chat request needs.
pub fn chat(fields: Value) -> Value {
    let mut body = json!({
        "model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "Hi."}],
    });
    merge(&mut body, fields);
    body
}

/// `fields` over the least that a Messages request needs.
pub fn message(fields: Value) -> Value {
    let mut body = json!({
        "model": "deepseek-v4-flash", "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi."}],
    });
    merge(&mut body, fields);
    body
}

fn merge(body: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    for (key, value) in fields {
        if value == "absent" {
            body.as_object_mut().unwrap().remove(&key);
        } else {
            body[key] = value;
        }
    }
}

/// An answer that was read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The message of an error in either dialect.
    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().expect("an error").to_owned()
    }

    /// The data of every frame but `[DONE]`.
    pub fn frames(&self) -> Vec<Value> {
        let data = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        let data = data.filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

/// A text with what differs from run to run replaced.
pub fn settled(text: &str) -> String {
    let mut out = text.to_owned();
    for prefix in ["chatcmpl-", "cmpl-", "msg_", "toolu_", "call_00_", "call_01_", "req_", "hadal-"]
    {
        let mut at = 0;
        while let Some(found) = out[at..].find(prefix) {
            let start = at + found + prefix.len();
            let tail = out[start..].find(|c: char| !c.is_ascii_alphanumeric());
            let end = tail.map_or(out.len(), |tail| start + tail);
            out.replace_range(start..end, "ID");
            at = start + 2;
        }
    }
    let mut at = 0;
    while let Some(found) = out[at..].find("\"created\":") {
        let start = at + found + "\"created\":".len();
        let start = start + usize::from(out[start..].starts_with(' '));
        let end = start + out[start..].find(|c: char| !c.is_ascii_digit()).unwrap();
        out.replace_range(start..end, "0");
        at = start;
    }
    out
}

/// Compares with the file of that name. `HADAL_BLESS=1` writes it instead.
pub fn snapshot(name: &str, text: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let path = folder.join(name);
    let text = settled(text);
    if std::env::var_os("HADAL_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(text, want, "{name}; HADAL_BLESS=1 renews it");
}

/// JSON as it stands in a snapshot: a field a line.
pub fn pretty(value: &Value) -> String {
    let settled: Value = serde_json::from_str(&settled(&value.to_string())).unwrap();
    serde_json::to_string_pretty(&settled).unwrap() + "\n"
}
