//! HTTP: paths, keys, bodies in, answers out. Knows both dialects by their readers and writers and the
//! engine by [`Worker`] alone.
//!
//! A request is read whole and validated before anything is sent, so every fault of it has its status.
//! What takes time (reading JSON, encoding, compiling grammars) runs beside the threads that serve
//! connections.

mod answer;
mod body;
mod crowd;
mod keys;
mod listen;
mod pace;
mod patient;
mod record;
mod reply;
mod route;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::experts::ExpertCounts;
use http_body::Body;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::fault::{Fault, Kind, shown};
use crate::job::{Failure, Worker};
use crate::model::Model;
use crate::names::Dialect;
use crate::stats::Stats;
use crate::{anthropic, ids, openai};

pub use body::Room;
pub(crate) use body::json as body_json;
pub use keys::Keys;
pub use listen::{Bounds, listen};
pub use record::Counts;
pub use reply::{Reply, Stream};
pub use route::Endpoint;

/// The page at `/`.
const PAGE: &str = include_str!("page.html");
/// The description of this interface.
const OPENAPI: &str = include_str!("openapi.json");
/// What the page may do: nothing but talk to this server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src \
                           'unsafe-inline'; connect-src 'self'; img-src data:; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Everything a request meets.
pub struct App {
    /// The model.
    pub model: Arc<Model>,
    /// What answers.
    pub worker: Arc<dyn Worker>,
    /// How the worker is.
    pub stats: Box<dyn Fn() -> Stats + Send + Sync>,
    /// How often each expert was chosen, if that is counted.
    pub experts: Option<Arc<ExpertCounts>>,
    /// Who may ask.
    pub keys: Keys,
    /// The origin that browsers elsewhere may ask from, if any.
    pub cors: Option<HeaderValue>,
    /// Room for bodies.
    pub room: Room,
    /// Longest silence on a stream.
    pub silence: Duration,
    /// What is counted.
    pub counts: Arc<Counts>,
    /// What the model runs on, for the page.
    pub device: String,
    /// When the server began.
    pub started: Instant,
    /// The server takes no more jobs.
    pub stopping: AtomicBool,
}

impl std::fmt::Debug for App {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("App").field("model", &self.model).finish_non_exhaustive()
    }
}

/// Answers one request. Never fails: what is wrong is an answer too.
pub async fn handle<B>(app: Arc<App>, request: Request<B>) -> Response<Reply>
where
    B: Body<Data = Bytes> + Unpin,
{
    let path = request.uri().path().to_owned();
    let version = request.headers().contains_key("anthropic-version");
    let dialect = route::dialect(&path, version);
    let request_id = format!("req_{}", ids::random(24));
    let endpoint = Endpoint::of(&path);
    let label = endpoint.as_ref().map_or("unknown", Endpoint::label);
    let head = request.method() == Method::HEAD;
    let outcome = match endpoint {
        _ if request.method() == Method::OPTIONS => Ok(empty(StatusCode::NO_CONTENT)),
        None => {
            let message = format!("There is nothing at {}.", shown(&path));
            Err(Fault::new(Kind::NotFound, message))
        }
        Some(endpoint) if !endpoint.takes(request.method()) => {
            let message = format!("{} takes {} only.", shown(&path), endpoint.allow());
            Err(Fault::new(Kind::Method(endpoint.allow()), message))
        }
        Some(endpoint) => answer::answer(&app, endpoint, dialect, request).await,
    };
    let mut response = outcome.unwrap_or_else(|fault| refuse(&fault, dialect, &request_id));
    let status = response.status().as_u16();
    app.counts.request(label, status);
    tracing::debug!(endpoint = label, status, request_id, "request");
    if head {
        *response.body_mut() = Reply::Whole(None);
    }
    dress(&app, &mut response, dialect, &request_id);
    response
}

/// Headers that every answer has.
fn dress(app: &App, response: &mut Response<Reply>, dialect: Dialect, request_id: &str) {
    let name = match dialect {
        Dialect::OpenAi => "x-request-id",
        Dialect::Anthropic => "request-id",
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(HeaderName::from_static(name), value);
    }
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some(origin) = &app.cors {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, authorization"));
    }
}

/// A fault in its dialect.
fn refuse(fault: &Fault, dialect: Dialect, request_id: &str) -> Response<Reply> {
    let (status, body) = match dialect {
        Dialect::OpenAi => (fault.status(), openai::error(fault)),
        Dialect::Anthropic => (anthropic::status(fault), anthropic::error(fault, request_id)),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &body);
    if let Some(seconds) = fault.retry_after_s() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if let Kind::Method(allow) = fault.kind {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(None));
    *response.status_mut() = status;
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response<Reply> {
    let mut response = text(body.to_string(), "application/json");
    *response.status_mut() = status;
    response
}

fn text(body: impl Into<Bytes>, kind: &'static str) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(body.into())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn stream(stream: Stream) -> Response<Reply> {
    let mut response = Response::new(Reply::Stream(Box::new(stream)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that gather would hold a stream back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn page() -> Response<Reply> {
    let mut response = text(PAGE, "text/html; charset=utf-8");
    let headers = response.headers_mut();
    headers.insert("content-security-policy", HeaderValue::from_static(PAGE_POLICY));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

/// Whether the server can answer, for whoever watches over it.
fn health(app: &App) -> Response<Reply> {
    let word = match app.worker.closed() {
        Some(Failure::Fault(_)) => "broken",
        Some(_) => "stopping",
        None if app.stopping.load(Ordering::Relaxed) => "stopping",
        None => "ok",
    };
    let status = if word == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({"status": word, "model": app.model.names.canonical()}))
}

/// Numbers for the page.
fn status(app: &App) -> Value {
    json!({
        "model": app.model.names.canonical(),
        "context": app.model.context,
        "device": app.device,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": app.started.elapsed().as_secs(),
        "answers": app.counts.active(),
        "worker": (app.stats)(),
    })
}

/// How often each expert was chosen since the start, a list for each layer.
fn experts(app: &App) -> Value {
    let of = |counts: &[AtomicU64]| -> Vec<u64> {
        counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    };
    let layers: Vec<_> = app.experts.iter().flat_map(|table| table.layers().map(of)).collect();
    json!({"layers": layers})
}
