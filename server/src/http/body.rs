//! Bodies of requests: JSON, bounded in bytes, in values, in time, and in how many are in memory at once.
//!
//! Room is taken as bytes arrive, not as they are promised: who promises much and sends little keeps
//! nobody out.

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
use tokio::time::{Instant, timeout};

use crate::fault::{Fault, Kind};
use crate::limits::{
    BODIES_BYTES_MAX, BODY_BYTES_MAX, BODY_PAUSE, BODY_TIME, BODY_VALUES_MAX, ROOM_TIME,
};

/// Bytes a permit stands for.
const PERMIT_BYTES: usize = 1 << 10;
/// How long a body that is refused is read on, so that its sender comes to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Seconds until room should be free again.
const RETRY_AFTER_S: u32 = 5;

/// Room for bodies.
#[derive(Clone, Debug)]
pub struct Room {
    permits: Arc<Semaphore>,
    bytes_max: usize,
    pause: Duration,
    time: Duration,
    wait: Duration,
}

/// A body and its room.
#[derive(Debug, Default)]
pub struct Taken {
    /// Its bytes.
    pub bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

impl Taken {
    /// Bytes it has room for.
    fn room_bytes(&self) -> usize {
        self.room.as_ref().map_or(0, |room| room.num_permits() * PERMIT_BYTES)
    }
}

impl Room {
    /// Room for bodies of at most `bytes_max` bytes each.
    pub fn new(bytes_max: usize) -> Self {
        Room {
            permits: Arc::new(Semaphore::new(BODIES_BYTES_MAX / PERMIT_BYTES)),
            bytes_max: bytes_max.min(BODY_BYTES_MAX),
            pause: BODY_PAUSE,
            time: BODY_TIME,
            wait: ROOM_TIME,
        }
    }

    /// With less patience: between two pieces, for a whole body, and for room.
    #[must_use]
    pub fn hurried(self, pause: Duration, time: Duration, wait: Duration) -> Self {
        Room { pause, time, wait, ..self }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// `MediaType` if its headers say that it is no JSON, `TooLarge`, `Slow`, `Invalid` if it breaks off,
    /// `Busy` if there is no room for it.
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
        let end = Instant::now() + self.time;
        let mut taken = Taken::default();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(next) = timeout(self.pause.min(left), body.frame()).await else {
                return Err(Fault::new(Kind::Slow, "The request body did not arrive in time."));
            };
            let Some(frame) = next else { return Ok(taken) };
            let frame =
                frame.map_err(|_| Fault::invalid("The request body broke off before its end."))?;
            let Ok(data) = frame.into_data() else { continue };
            if taken.bytes.len() + data.len() > self.bytes_max {
                linger(&mut body).await;
                return Err(self.too_large());
            }
            self.widen(&mut taken, data.len()).await?;
            taken.bytes.extend_from_slice(&data);
        }
    }

    /// Gets room for `more` bytes of a body.
    async fn widen(&self, taken: &mut Taken, more: usize) -> Result<(), Fault> {
        let lacking = (taken.bytes.len() + more).saturating_sub(taken.room_bytes());
        let permits = u32::try_from(lacking.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        if permits == 0 {
            return Ok(());
        }
        let room = timeout(self.wait, self.permits.clone().acquire_many_owned(permits)).await;
        let Ok(Ok(room)) = room else {
            let message = "The server is reading too many large requests. Please try again later.";
            return Err(Fault::new(Kind::Busy(RETRY_AFTER_S), message));
        };
        match &mut taken.room {
            Some(there) => there.merge(room),
            none => *none = Some(room),
        }
        Ok(())
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
    if values(bytes) > BODY_VALUES_MAX {
        return Err(Fault::invalid(format!(
            "The request body has more than {BODY_VALUES_MAX} keys and values."
        )));
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

/// At least half as many as there are keys and values in a text of JSON: what opens and separates them
/// outside strings. What is no JSON gives some number.
fn values(bytes: &[u8]) -> usize {
    let mut count = 0;
    let mut quoted = false;
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => drop(bytes.next()),
            b'{' | b'[' | b',' | b':' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use http_body_util::Full;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(30);

    /// So many bytes, and then nothing for ever.
    struct Stuck(usize);

    impl Body for Stuck {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match std::mem::take(&mut self.0) {
                0 => Poll::Pending,
                count => Poll::Ready(Some(Ok(Frame::data(vec![b' '; count].into())))),
            }
        }
    }

    fn promising(length: usize) -> HeaderMap {
        [(CONTENT_LENGTH, length.into())].into_iter().collect()
    }

    async fn small(room: &Room) -> Result<Taken, Fault> {
        room.read(&promising(2), Full::new(Bytes::from_static(b"{}"))).await
    }

    #[tokio::test]
    async fn promises_take_no_room() {
        let room = Room::new(BODY_BYTES_MAX).hurried(LONG, LONG, SHORT);
        let slow = (0..64).map(|_| {
            let room = room.clone();
            tokio::spawn(async move { room.read(&promising(BODY_BYTES_MAX), Stuck(1)).await })
        });
        let slow: Vec<_> = slow.collect();
        tokio::task::yield_now().await;
        assert_eq!(small(&room).await.expect("there is room").bytes, b"{}");
        slow.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn who_finds_no_room_is_told_and_room_comes_back() {
        let room = Room::new(BODY_BYTES_MAX).hurried(LONG, LONG, SHORT);
        let full = (0..BODIES_BYTES_MAX / BODY_BYTES_MAX).map(|_| {
            let room = room.clone();
            tokio::spawn(async move {
                room.read(&promising(BODY_BYTES_MAX), Stuck(BODY_BYTES_MAX)).await
            })
        });
        let full: Vec<_> = full.collect();
        tokio::time::sleep(SHORT).await;
        let fault = small(&room).await.expect_err("the room is full");
        assert_eq!(fault.kind, Kind::Busy(RETRY_AFTER_S));
        full.iter().for_each(tokio::task::JoinHandle::abort);
        for task in full {
            assert!(task.await.is_err(), "it was ended");
        }
        small(&room).await.expect("there is room again");
    }

    #[tokio::test]
    async fn a_body_that_stops_or_takes_too_long_is_slow() {
        let stops = Room::new(BODY_BYTES_MAX).hurried(SHORT, LONG, LONG);
        let fault = stops.read(&promising(9), Stuck(1)).await.expect_err("it stops");
        assert_eq!(fault.kind, Kind::Slow);
        let long = Room::new(BODY_BYTES_MAX).hurried(LONG, SHORT, LONG);
        let fault = long.read(&promising(9), Stuck(1)).await.expect_err("it takes too long");
        assert_eq!(fault.kind, Kind::Slow);
    }

    #[test]
    fn many_values_are_refused_and_long_texts_are_not() {
        let wide = format!("[{}0]", "{},".repeat(BODY_VALUES_MAX / 2));
        let error = json(wide.as_bytes()).expect_err("it is too wide");
        assert!(error.message.contains("keys and values"), "{}", error.message);
        let text = format!("{{\"a\": \"{}\"}}", "[{,:\\\"\\\\".repeat(BODY_VALUES_MAX));
        json(text.as_bytes()).expect("one string");
        for (text, want) in [("{}", 1), ("[1, 2]", 2), ("{\"a,\": \"\\\",\"}", 2), ("\"\\", 0)] {
            assert_eq!(values(text.as_bytes()), want, "{text}");
        }
    }
}
