//! What each endpoint does with a request.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::record::Record;
use super::reply::{Reply, Stream};
use super::route::Endpoint;
use super::{
    App, OPENAPI, body, experts, health, json_response, page, status, stream as stream_response,
    text,
};
use crate::answer::{Frames, Reader, Whole};
use crate::anthropic;
use crate::fault::{Fault, Kind};
use crate::ids;
use crate::job::{Namespace, Ticket};
use crate::model::{Model, Prepared};
use crate::names::Dialect;
use crate::openai::{self, answer::Head, chat, completions};
use engine::text::dsml::Begin;

/// Answers a request to `endpoint` by a method it takes.
///
/// # Errors
/// Whatever is wrong with it.
pub async fn answer<B>(
    app: &Arc<App>,
    endpoint: Endpoint,
    dialect: Dialect,
    request: Request<B>,
) -> Result<Response<Reply>, Fault>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (parts, body) = request.into_parts();
    let key = if endpoint.is_open() { None } else { app.keys.admit(&parts.headers)? };
    let key = key.map(str::to_owned);
    match endpoint {
        Endpoint::Page => Ok(page()),
        Endpoint::Health => Ok(health(app)),
        Endpoint::OpenApi => Ok(text(OPENAPI, "application/json")),
        Endpoint::Balance => Ok(json_response(StatusCode::OK, &openai::balance())),
        Endpoint::Status => Ok(json_response(StatusCode::OK, &status(app))),
        Endpoint::Experts => Ok(json_response(StatusCode::OK, &experts(app))),
        Endpoint::Metrics => {
            let numbers = app.counts.prometheus(&(app.stats)(), app.experts.as_deref());
            Ok(text(numbers, "text/plain; version=0.0.4; charset=utf-8"))
        }
        Endpoint::Models => Ok(json_response(StatusCode::OK, &models(&app.model, dialect))),
        Endpoint::Model(name) => one_model(&app.model, &name, dialect),
        Endpoint::Chat => {
            let body = app.room.read(&parts.headers, body).await?;
            beside(app, move |app| begin_chat(app, &body.bytes, key.as_deref()))
                .await?
                .end(app)
                .await
        }
        Endpoint::Completions => {
            let body = app.room.read(&parts.headers, body).await?;
            beside(app, move |app| begin_completion(app, &body.bytes, key.as_deref()))
                .await?
                .end(app)
                .await
        }
        Endpoint::Messages => {
            let body = app.room.read(&parts.headers, body).await?;
            beside(app, move |app| begin_message(app, &body.bytes, key.as_deref()))
                .await?
                .end(app)
                .await
        }
        Endpoint::CountTokens => {
            let body = app.room.read(&parts.headers, body).await?;
            let count = beside(app, move |app| count(app, &body.bytes)).await?;
            Ok(json_response(StatusCode::OK, &json!({"input_tokens": count})))
        }
    }
}

/// Runs what takes time beside the threads that serve connections.
async fn beside<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let app = app.clone();
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a request could not be read");
        Err(Fault::internal())
    })
}

fn models(model: &Model, dialect: Dialect) -> Value {
    match dialect {
        Dialect::OpenAi => openai::models(model),
        Dialect::Anthropic => anthropic::models(model),
    }
}

fn one_model(model: &Model, name: &str, dialect: Dialect) -> Result<Response<Reply>, Fault> {
    model.names.resolve(name, dialect).map_err(|fault| Fault { kind: Kind::NotFound, ..fault })?;
    let one = match dialect {
        Dialect::OpenAi => openai::one_model(model, name),
        Dialect::Anthropic => anthropic::one_model(model, name),
    };
    Ok(json_response(StatusCode::OK, &one))
}

/// A job that was submitted, and how its answer is written.
struct Begun {
    ticket: Ticket,
    record: Record,
    reader: Reader,
    tripped: Option<crate::grammar::Tripped>,
    stream: bool,
    shape: Shape,
}

/// How an answer is written.
enum Shape {
    Chat(Head),
    Completion(Head, String),
    Message(anthropic::answer::Head),
}

impl Begun {
    fn new(
        app: &App,
        endpoint: &'static str,
        name: &str,
        prepared: Prepared,
        stream: bool,
        shape: Shape,
    ) -> Result<Self, Fault> {
        let prefix = match shape {
            Shape::Message(_) => "toolu_",
            _ => "call_",
        };
        let reader = Reader::new(&app.model, prefix, prepared.prompt_tokens);
        let ticket = app.worker.submit(prepared.job)?;
        let record = Record::new(app.counts.clone(), endpoint, name);
        Ok(Begun { ticket, record, reader, tripped: prepared.tripped, stream, shape })
    }

    /// Streams the answer, or waits for it.
    async fn end(mut self, app: &App) -> Result<Response<Reply>, Fault> {
        if self.stream {
            let frames: Box<dyn Frames> = match self.shape {
                Shape::Chat(head) => Box::new(openai::answer::Chunks::new(head, self.reader)),
                Shape::Completion(head, echo) => {
                    Box::new(completions::Chunks::new(head, self.reader, echo))
                }
                Shape::Message(head) => Box::new(anthropic::answer::Events::new(head, self.reader)),
            };
            return Ok(stream_response(Stream::new(self.ticket, frames, self.record, app.silence)));
        }
        let record = &mut self.record;
        let whole = Whole::of(self.ticket, &mut self.reader, |update| record.update(update)).await;
        let whole = whole.map_err(|fault| {
            let gave_up = self.tripped.is_some_and(|tripped| tripped.get().is_some());
            if gave_up && fault.kind == Kind::Internal {
                return Fault::invalid("A schema of this request is too complex to be enforced.");
            }
            fault
        })?;
        let value = match &self.shape {
            Shape::Chat(head) => openai::answer::whole(head, &whole),
            Shape::Completion(head, echo) => completions::whole(head, echo, &whole),
            Shape::Message(head) => anthropic::answer::whole(head, &whole),
        };
        Ok(json_response(StatusCode::OK, &value))
    }
}

fn namespace(app: &App, key: Option<&str>, user: Option<&str>) -> Namespace {
    let key = key.filter(|_| !app.keys.is_empty());
    app.model.secret.namespace(key, user)
}

fn begin_chat(app: &App, bytes: &[u8], key: Option<&str>) -> Result<Begun, Fault> {
    let request = chat::read(&body::json(bytes)?, &app.model)?;
    let namespace = namespace(app, key, request.user.as_deref());
    let prepared = app.model.prepare(request.ask, namespace)?;
    let head = Head {
        id: format!("chatcmpl-{}", ids::random(24)),
        created: ids::now_s(),
        model: request.name.clone(),
        fingerprint: app.model.fingerprint.clone(),
        thinks: prepared.job.begin == Begin::Reasoning,
        logprobs: prepared.job.params.logprobs.is_some(),
        include_usage: request.include_usage,
    };
    Begun::new(app, "chat", &request.name, prepared, request.stream, Shape::Chat(head))
}

fn begin_completion(app: &App, bytes: &[u8], key: Option<&str>) -> Result<Begun, Fault> {
    let request = completions::read(&body::json(bytes)?, &app.model)?;
    let namespace = namespace(app, key, request.user.as_deref());
    let logprobs = request.params.logprobs.is_some();
    let prepared = app.model.complete(
        &request.prompt,
        request.suffix.as_deref(),
        request.params,
        request.tokens_max,
        namespace,
    )?;
    let head = Head {
        id: format!("cmpl-{}", ids::random(24)),
        created: ids::now_s(),
        model: request.name.clone(),
        fingerprint: app.model.fingerprint.clone(),
        thinks: false,
        logprobs,
        include_usage: request.include_usage,
    };
    let echo = if request.echo { request.prompt } else { String::new() };
    let shape = Shape::Completion(head, echo);
    Begun::new(app, "completions", &request.name, prepared, request.stream, shape)
}

fn begin_message(app: &App, bytes: &[u8], key: Option<&str>) -> Result<Begun, Fault> {
    use anthropic::request::{Purpose, read};
    let request = read(&body::json(bytes)?, &app.model, Purpose::Answer)?;
    let namespace = namespace(app, key, request.user.as_deref());
    let stops = request.ask.params.stop.clone();
    let prepared = app.model.prepare(request.ask, namespace)?;
    let head = anthropic::answer::Head {
        id: format!("msg_{}", ids::random(24)),
        model: request.name.clone(),
        prompt_tokens: prepared.prompt_tokens,
        stops,
    };
    Begun::new(app, "messages", &request.name, prepared, request.stream, Shape::Message(head))
}

fn count(app: &App, bytes: &[u8]) -> Result<usize, Fault> {
    use anthropic::request::{Purpose, read};
    let request = read(&body::json(bytes)?, &app.model, Purpose::Count)?;
    Ok(app.model.prompt(&request.ask)?.0.len())
}
