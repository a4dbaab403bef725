//! Bodies of requests: JSON, bounded in bytes, in pauses, and in how many are in memory at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use serde_json::Value;
use serde_json::error::Category;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::fault::{Fault, Kind};
use crate::limits::{BODIES_BYTES_MAX, BODY_BYTES_MAX, BODY_PAUSE};

/// Bytes a permit stands for.
const PERMIT_BYTES: usize = 1 << 10;
/// How long a body that is refused is read on, so that its sender comes to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Room for bodies.
#[derive(Clone, Debug)]
pub struct Room {
    permits: Arc<Semaphore>,
    bytes_max: usize,
}

/// A body and its room.
#[derive(Debug)]
pub struct Taken {
    /// Its bytes.
    pub bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Room {
    /// Room for bodies of at most `bytes_max` bytes each.
    pub fn new(bytes_max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(BODIES_BYTES_MAX / PERMIT_BYTES));
        Room { permits, bytes_max: bytes_max.min(BODY_BYTES_MAX) }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// `MediaType` if its headers say that it is no JSON, `TooLarge`, `Slow`, `Invalid` if it breaks off.
    pub async fn read<B>(&self, headers: &HeaderMap, mut body: B) -> Result<Taken, Fault>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        check_type(headers)?;
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.bytes_max as u64) {
            if !headers.contains_key(EXPECT) {
                linger(&mut body).await;
            }
            return Err(self.too_large());
        }
        let expected = length.map_or(self.bytes_max, |length| length as usize);
        let permits = u32::try_from(expected.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let room = self.permits.clone().acquire_many_owned(permits).await;
        let room = room.map_err(|_| Fault::stopping())?;
        let mut bytes = Vec::new();
        loop {
            let Ok(next) = timeout(BODY_PAUSE, body.frame()).await else {
                return Err(Fault::new(Kind::Slow, "The request body did not arrive in time."));
            };
            let Some(frame) = next else { break };
            let frame =
                frame.map_err(|_| Fault::invalid("The request body broke off before its end."))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > self.bytes_max {
                linger(&mut body).await;
                return Err(self.too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Taken { bytes, _room: room })
    }

    fn too_large(&self) -> Fault {
        let message =
            format!("The request body is larger than the limit of {} bytes.", self.bytes_max);
        Fault::new(Kind::TooLarge, message)
    }
}

/// Reads on for a moment and forgets it.
async fn linger<B: Body + Unpin>(body: &mut B) {
    let drained = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(LINGER, drained).await;
}

/// Bodies are JSON and not compressed; a body of no type is taken for JSON.
fn check_type(headers: &HeaderMap) -> Result<(), Fault> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && encoding.as_bytes() != b"identity"
    {
        let message = "Compressed request bodies are not supported; send them as they are.";
        return Err(Fault::new(Kind::MediaType, message));
    }
    let Some(kind) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    let message = "The request must have the header Content-Type: application/json.";
    Err(Fault::new(Kind::MediaType, message))
}

/// The JSON of a body.
///
/// # Errors
/// `Invalid`, saying where it goes wrong and never what stands there.
pub fn json(bytes: &[u8]) -> Result<Value, Fault> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(Fault::invalid("The request body is not valid UTF-8."));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            Category::Eof => "it ends too early",
            _ if error.to_string().starts_with("recursion limit") => "it is nested too deeply",
            _ => "syntax error",
        };
        let (line, column) = (error.line(), error.column());
        Fault::invalid(format!(
            "The request body is not valid JSON: {what} at line {line}, column {column}."
        ))
    })
}
