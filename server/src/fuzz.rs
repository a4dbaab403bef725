//! Bodies of fuzz targets: each takes any bytes and must neither panic nor hang. They check laws, not
//! only survival: what a reader accepts the worker takes, and what a grammar allows is well-formed. (JSON's
//! numbers have no largest one, so what is drawn is not read into numbers here.)

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::sample::{SamplingParams, StopMatcher};
use engine::text::Tokenizer;
use engine::text::chat::EffortTable;
use engine::text::dsml::{Begin, parse};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::anthropic::request::{Purpose, read as read_messages};
use crate::fault::{Fault, Kind};
use crate::grammar::{Choice, Format, Grammars, Shape, Tool};
use crate::http::body_json;
use crate::job::{Constraint, Job, Namespace};
use crate::model::{Model, Prepared, RELEASED_S, Secret};
use crate::names::Names;
use crate::openai::{chat, completions};

/// Longest message a client may get, in bytes.
const MESSAGE_BYTES_MAX: usize = 4000;
/// Tokens that are drawn along a grammar.
const STEPS_MAX: usize = 400;

/// What requests are read with.
#[derive(Debug)]
pub struct Bench {
    model: Model,
}

impl Bench {
    /// With the tokenizer of a model's folder.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(folder: &Path) -> Self {
        let tokenizer = Arc::new(Tokenizer::from_folder(folder).expect("a tokenizer"));
        let model = Model {
            names: Names::new("deepseek-v4-flash", &[], true),
            grammars: Grammars::new(&tokenizer).expect("a tokenizer of DeepSeek's"),
            tokenizer,
            efforts: EffortTable::PREVIEW,
            context: 4096,
            thinking_params: SamplingParams::default(),
            strict_reasoning: false,
            created: RELEASED_S,
            fingerprint: "fp_fuzz".to_owned(),
            secret: Secret::new([7; 32]),
            replays: Arc::default(),
        };
        Bench { model }
    }

    /// A body of Chat Completions.
    pub fn chat(&self, data: &[u8]) {
        let read = body_json(data).and_then(|body| chat::read(&body, &self.model));
        let prepared = read.and_then(|read| self.model.prepare(read.ask, Namespace(1)));
        self.check(prepared);
    }

    /// A body of legacy completions.
    pub fn completion(&self, data: &[u8]) {
        let read = body_json(data).and_then(|body| completions::read(&body, &self.model));
        let prepared = read.and_then(|read| {
            let suffix = read.suffix.as_deref();
            self.model.complete(&read.prompt, suffix, read.params, read.tokens_max, Namespace(1))
        });
        self.check(prepared);
    }

    /// A body of Messages, answered and counted.
    ///
    /// # Panics
    /// If the count is not that of the answer.
    pub fn messages(&self, data: &[u8]) {
        let body = match body_json(data) {
            Ok(body) => body,
            Err(fault) => return self.check(Err(fault)),
        };
        let read = |purpose| read_messages(&body, &self.model, purpose);
        let count = read(Purpose::Count).and_then(|read| self.model.prompt(&read.ask));
        let prepared =
            read(Purpose::Answer).and_then(|read| self.model.prepare(read.ask, Namespace(1)));
        if let Ok(prepared) = &prepared {
            let (prompt, _) = count.expect("what is answered can be counted");
            assert_eq!(prompt, prepared.job.prompt, "the count is of another prompt");
        }
        self.check(prepared);
    }

    /// What is accepted the worker takes; what is refused is refused as the client's.
    fn check(&self, prepared: Result<Prepared, Fault>) {
        match prepared {
            Ok(Prepared { job, prompt_tokens, .. }) => {
                assert_eq!(job.prompt.len(), prompt_tokens as usize);
                assert!(!job.prompt.is_empty() && prompt_tokens < self.model.context);
                assert!(job.tokens_max > 0);
                let size = self.model.tokenizer.size();
                assert!(job.prompt.iter().all(|&id| id < size));
                job.params.check().expect("parameters were checked");
                StopMatcher::new(&job.params.stop).expect("stop strings were checked");
                self.begin(job);
            }
            Err(fault) => {
                assert!(fault.kind != Kind::Internal, "{}", fault.message);
                assert!(fault.message.len() <= MESSAGE_BYTES_MAX, "{}", fault.message);
                assert!(!fault.message.contains(char::is_control), "{:?}", fault.message);
            }
        }
    }

    /// A constraint has something to say about the first token.
    fn begin(&self, job: Job) {
        let Some(mut constraint) = job.constraint else { return };
        let mut allowed = vec![true; self.model.tokenizer.size() as usize];
        if let Ok(true) = constraint.mask(&mut allowed) {
            assert!(allowed.contains(&true), "nothing is allowed");
        }
    }

    /// A schema: of a tool that must be called or of a document, as the first byte says, strict or not.
    /// The next bytes choose what is drawn.
    ///
    /// # Panics
    /// If something ill-formed was allowed.
    pub fn schema(&self, data: &[u8]) {
        let (front, text) = data.split_at(data.len().min(5));
        let [flags, seed @ ..] = front else { return };
        let Ok(schema) = body_json(text) else { return };
        let document = flags & 1 == 1;
        let tool = Tool {
            name: "t".to_owned(),
            function: json!({"name": "t"}),
            parameters: Some(schema.clone()),
            strict: flags & 2 == 2,
        };
        let (tools, choice, format) = match document {
            true => (Vec::new(), Choice::Never, Format::Json(schema)),
            false => (vec![tool], Choice::Required, Format::Text),
        };
        let shape =
            Shape { tools: &tools, choice: &choice, format: &format, begin: Begin::Content };
        let mut constraint = match self.model.grammars.constrain(&shape) {
            Ok((constraint, _)) => constraint,
            Err(fault) => return self.check(Err(fault)),
        };
        let seed = seed.iter().fold(1, |seed, &byte| seed * 257 + u64::from(byte));
        let Some(text) = self.draw(&mut *constraint, seed) else { return };
        if document {
            let _: IgnoredAny =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            return;
        }
        let reply = parse(&(text.clone() + "<｜end▁of▁sentence｜>"), Begin::Content);
        let reply = reply.unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(!reply.calls.is_empty(), "no call: {text}");
        for call in &reply.calls {
            let _: BTreeMap<String, IgnoredAny> = serde_json::from_str(&call.arguments)
                .unwrap_or_else(|error| panic!("{error}: {}", call.arguments));
            assert_eq!(call.name, "t", "{text}");
        }
    }

    /// What is drawn at random along a constraint, if it comes to its end.
    fn draw(&self, constraint: &mut dyn Constraint, mut random: u64) -> Option<String> {
        let tokenizer = &self.model.tokenizer;
        let mut allowed = vec![true; tokenizer.size() as usize];
        let mut bytes = Vec::new();
        for _ in 0..STEPS_MAX {
            allowed.fill(true);
            // A limit may be met on the way.
            constraint.mask(&mut allowed).ok()?;
            let ids: Vec<u32> = (0..).zip(&allowed).filter(|(_, on)| **on).map(|it| it.0).collect();
            assert!(!ids.is_empty(), "nothing is allowed after {}", bytes.escape_ascii());
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let id = ids[(random % ids.len() as u64) as usize];
            constraint.accept(id).ok()?;
            if self.model.tokenizer.control(engine::text::Control::EndOfSentence) == Some(id) {
                return Some(String::from_utf8(bytes).expect("whole characters"));
            }
            bytes.extend_from_slice(tokenizer.token_bytes(id).unwrap_or_default());
        }
        None
    }
}
