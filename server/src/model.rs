//! The model as the async half knows it: names, tokenizer, encoding, grammars. Turns what a dialect has
//! read ([`Ask`]) into a job.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use engine::sample::SamplingParams;
use engine::text::chat::{ChatOptions, EffortTable, Message, OldReasoning, Thinking, render};
use engine::text::dsml::Begin;
use engine::text::{Control, Specials, TextErrorKind, Tokenizer};
use serde_json::Value;

use crate::fault::Fault;
use crate::grammar::{Choice, Format, Grammars, Shape, Tool, Tripped};
use crate::job::{Job, Namespace};
use crate::names::Names;
use crate::replay::Replays;

/// When V4 was released, in seconds since 1970: what lists of models say.
pub const RELEASED_S: u64 = 1_776_988_800;

/// What answers say of the arithmetic that computed them: equal for equal `identity`.
pub fn fingerprint(identity: &str) -> String {
    let hash = blake3::hash(identity.as_bytes()).to_hex();
    format!("fp_{}", &hash[..16])
}

/// The key that makes namespaces of API keys and users.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A key that is known already.
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret(bytes)
    }

    /// A key that nobody knows and that ends with the process.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn fresh() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Secret(bytes))
    }

    /// The key that is kept in `folder`, where cached prefixes outlive the process; made if there is
    /// none. Only the owner may read it.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else.
    pub fn kept_in(folder: &Path) -> io::Result<Self> {
        let path = folder.join("namespace.key");
        match fs::read(&path) {
            Ok(bytes) => {
                let bytes = bytes.try_into().map_err(|_| {
                    let message = format!("{} holds no key; remove it", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, message)
                })?;
                Ok(Secret(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Self::fresh()?;
                fs::create_dir_all(folder)?;
                let mut options = fs::OpenOptions::new();
                options.write(true).create(true).truncate(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                // Put in its place whole: half a key, of a process that was killed, would be no key.
                let unfinished = path.with_extension("unfinished");
                options.open(&unfinished)?.write_all(&secret.0)?;
                fs::rename(&unfinished, &path)?;
                Ok(secret)
            }
            Err(error) => Err(error),
        }
    }

    /// Whose a request is: a keyed hash of its API key and its user.
    pub fn namespace(&self, key: Option<&str>, user: Option<&str>) -> Namespace {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in [key, user] {
            hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hasher.update(part.unwrap_or_default().as_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Namespace(u64::from_le_bytes(first))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// Everything about the loaded model that requests are read with.
pub struct Model {
    /// What clients call it.
    pub names: Names,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its tiers of thinking.
    pub efforts: EffortTable,
    /// Most tokens of prompt and answer.
    pub context: u32,
    /// How answers in thinking mode are sampled, whatever the request says.
    pub thinking_params: SamplingParams,
    /// Refuse a history that lost its reasoning, as the hosted API does.
    pub strict_reasoning: bool,
    /// Compiles what answers must look like.
    pub grammars: Grammars,
    /// Calls as they were written.
    pub replays: Arc<Replays>,
    /// When the model was opened, in seconds since 1970.
    pub created: u64,
    /// Says which arithmetic computed an answer.
    pub fingerprint: String,
    /// Key of the hash that makes namespaces of keys and users.
    pub secret: Secret,
}

impl fmt::Debug for Model {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Model").field("names", &self.names).finish_non_exhaustive()
    }
}

/// What both dialects ask for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The conversation, without tools.
    pub messages: Vec<Message>,
    /// Whether and how much it thinks.
    pub thinking: Thinking,
    /// How tokens are drawn.
    pub params: SamplingParams,
    /// Most tokens of the answer.
    pub tokens_max: Option<u32>,
    /// The tools that are offered.
    pub tools: Vec<Tool>,
    /// Which of them are called.
    pub choice: Choice,
    /// What the content is.
    pub format: Format,
    /// What the prompt says about the content's form.
    pub format_text: Option<Value>,
}

impl Ask {
    /// How it thinks. The hosted API refuses a forced call in thinking mode, and clients break on that:
    /// here it runs without.
    fn thinking(&self) -> Thinking {
        match self.choice {
            Choice::Required | Choice::Named(_) => Thinking::Off,
            Choice::Never | Choice::Auto => self.thinking,
        }
    }
}

/// A job that can be submitted, and what its answer needs to know.
#[derive(Debug)]
pub struct Prepared {
    /// The job.
    pub job: Job,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Holds a message once its grammar gave up.
    pub tripped: Option<Tripped>,
}

impl Model {
    /// The prompt of `ask` as tokens, and how its answer begins.
    ///
    /// # Errors
    /// `Invalid` for messages that cannot be rendered, `TooLong` for more than the context.
    pub fn prompt(&self, ask: &Ask) -> Result<(Vec<u32>, Begin), Fault> {
        let mut messages = ask.messages.clone();
        self.replays.restore(&mut messages);
        close(&mut messages);
        let open = matches!(messages.last(), Some(Message::Assistant { open: true, .. }));
        let called = messages.iter().any(
            |message| matches!(message, Message::Assistant { tool_calls, .. } if !tool_calls.is_empty()),
        );
        offer(&mut messages, &ask.tools, ask.format_text.as_ref());
        let old_reasoning = if called { OldReasoning::Keep } else { OldReasoning::DropUnlessTools };
        let thinking = ask.thinking();
        let options = ChatOptions { thinking, efforts: &self.efforts, old_reasoning };
        let prompt = render(&messages, &options)
            .and_then(|prompt| self.tokenizer.encode_prompt(&prompt))
            .map_err(text_fault)?;
        self.fits(prompt.len())?;
        let begin = match thinking {
            Thinking::On(_) if !open => Begin::Reasoning,
            _ => Begin::Content,
        };
        Ok((prompt, begin))
    }

    /// The job of `ask`.
    ///
    /// # Errors
    /// As [`Model::prompt`], and `Invalid` for schemas that cannot be enforced.
    pub fn prepare(&self, ask: Ask, namespace: Namespace) -> Result<Prepared, Fault> {
        let (prompt, begin) = self.prompt(&ask)?;
        let shape = Shape { tools: &ask.tools, choice: &ask.choice, format: &ask.format, begin };
        let (constraint, tripped) = self.grammars.constrain(&shape)?;
        let params = match ask.thinking() {
            Thinking::Off => ask.params,
            Thinking::On(_) => SamplingParams {
                stop: ask.params.stop,
                seed: ask.params.seed.or(self.thinking_params.seed),
                logprobs: ask.params.logprobs,
                ..self.thinking_params.clone()
            },
        };
        Ok(Prepared {
            prompt_tokens: prompt.len() as u32,
            job: Job {
                prompt,
                begin,
                params,
                tokens_max: ask.tokens_max.unwrap_or(u32::MAX),
                namespace,
                constraint: Some(constraint),
                parse: true,
            },
            tripped: Some(tripped),
        })
    }

    /// The job of a plain completion.
    ///
    /// # Errors
    /// `Invalid` for a suffix the tokenizer cannot mark, `TooLong`.
    pub fn complete(
        &self,
        text: &str,
        suffix: Option<&str>,
        params: SamplingParams,
        tokens_max: u32,
        namespace: Namespace,
    ) -> Result<Prepared, Fault> {
        let mut prompt = Vec::new();
        prompt.extend(self.tokenizer.control(Control::BeginOfSentence));
        let encode = |text: &str| self.tokenizer.encode(text, Specials::Forbid).map_err(text_fault);
        match suffix {
            None => prompt.extend(encode(text)?),
            Some(suffix) => {
                let marks = self.middle_marks().ok_or_else(|| {
                    let what = "suffix is not supported: this model's tokenizer has no tokens for \
                                filling in the middle";
                    Fault::field("suffix", what)
                })?;
                prompt.push(marks[0]);
                prompt.extend(encode(text)?);
                prompt.push(marks[1]);
                prompt.extend(encode(suffix)?);
                prompt.push(marks[2]);
            }
        }
        if prompt.is_empty() {
            return Err(Fault::field("prompt", "the prompt is empty; give it at least one token"));
        }
        self.fits(prompt.len())?;
        Ok(Prepared {
            prompt_tokens: prompt.len() as u32,
            job: Job {
                prompt,
                begin: Begin::Content,
                params,
                tokens_max,
                namespace,
                constraint: None,
                parse: false,
            },
            tripped: None,
        })
    }

    /// Ids of the marks before the text, between text and suffix, and before the middle.
    fn middle_marks(&self) -> Option<[u32; 3]> {
        let find = |text: &str| {
            let id = self.tokenizer.encode(text, Specials::Allow).ok()?;
            (id.len() == 1 && self.tokenizer.is_control(id[0])).then(|| id[0])
        };
        Some([find("<｜fim▁begin｜>")?, find("<｜fim▁hole｜>")?, find("<｜fim▁end｜>")?])
    }

    fn fits(&self, tokens: usize) -> Result<(), Fault> {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        if tokens >= self.context { Err(Fault::too_long(tokens, self.context)) } else { Ok(()) }
    }
}

/// A conversation that waits for no answer gets an empty question, so that the model's turn opens.
fn close(messages: &mut Vec<Message>) {
    let waits = messages.iter().rev().find_map(|message| match message {
        Message::User { .. } | Message::Tool { .. } | Message::Developer { .. } => Some(true),
        Message::Assistant { open, .. } => Some(*open),
        Message::System { .. } | Message::LatestReminder { .. } => None,
    });
    if waits != Some(true) {
        messages.push(Message::user(""));
    }
}

/// Hangs tools and format on the first system message; one is made where there is none.
fn offer(messages: &mut Vec<Message>, offered: &[Tool], format: Option<&Value>) {
    if offered.is_empty() && format.is_none() {
        return;
    }
    if !matches!(messages.first(), Some(Message::System { .. })) {
        messages.insert(0, Message::system(""));
    }
    if let Some(Message::System { tools, response_format, .. }) = messages.first_mut() {
        *tools = offered.iter().map(|tool| tool.function.clone()).collect();
        *response_format = format.cloned();
    }
}

fn text_fault(error: engine::text::TextError) -> Fault {
    match error.kind() {
        TextErrorKind::Request => Fault::invalid(error.to_string()),
        _ => {
            tracing::error!(%error, "the tokenizer failed");
            Fault::internal()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_secret_outlives_the_process_and_a_kill_in_the_middle_of_it() {
        let folder = std::env::temp_dir().join(format!("hadal-secret-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        fs::write(folder.join("namespace.unfinished"), [1; 7]).expect("half a key");
        let first = Secret::kept_in(&folder).expect("a new one");
        let again = Secret::kept_in(&folder).expect("the same");
        assert_eq!(first.namespace(Some("k"), None), again.namespace(Some("k"), None));
        assert_ne!(first.namespace(Some("k"), None), first.namespace(None, Some("k")));
        fs::remove_dir_all(&folder).expect("it was there");
    }
}
