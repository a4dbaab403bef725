//! Bodies of answers: bytes, or a stream that draws its updates when the reader takes them. So a slow
//! reader holds up its own job only, and a job whose reader is gone is dropped with the body.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::record::Record;
use crate::answer::Frames;
use crate::job::{Failure, Ticket, Update};
use crate::limits::FRAME_BYTES;

/// The body of an answer.
#[derive(Debug)]
pub enum Reply {
    /// All of it.
    Whole(Option<Bytes>),
    /// As it comes.
    Stream(Box<Stream>),
}

/// A streamed answer.
pub struct Stream {
    ticket: Ticket,
    frames: Box<dyn Frames>,
    opened: bool,
    done: bool,
    buffer: String,
    /// Longest silence before something is said.
    bound: Duration,
    silence: Pin<Box<Sleep>>,
    record: Record,
}

impl fmt::Debug for Stream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Stream").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Stream {
    /// The answer of `ticket` in a dialect's frames, never silent for longer than `bound`.
    pub fn new(ticket: Ticket, frames: Box<dyn Frames>, record: Record, bound: Duration) -> Self {
        Stream {
            ticket,
            frames,
            opened: false,
            done: false,
            buffer: String::new(),
            bound,
            silence: Box::pin(sleep(bound)),
            record,
        }
    }

    /// Takes what there is, up to a bound.
    fn gather(&mut self, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.opened, true) {
            self.frames.open(&mut self.buffer);
        }
        while !self.done && self.buffer.len() < FRAME_BYTES {
            let update = match self.ticket.updates.poll_recv(context) {
                Poll::Ready(Some(update)) => update,
                Poll::Ready(None) => Update::Failed(Failure::Stopping),
                Poll::Pending => return,
            };
            self.record.update(&update);
            if matches!(update, Update::Finished { .. } | Update::Failed(_)) {
                self.done = true;
                self.frames.close(update, &mut self.buffer);
            } else {
                self.frames.update(update, &mut self.buffer);
            }
        }
    }

    fn poll_text(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.gather(context);
        if self.buffer.is_empty() {
            if self.done {
                return Poll::Ready(None);
            }
            if self.silence.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.buffer.push_str(self.frames.ping());
        }
        self.silence.as_mut().reset(Instant::now() + self.bound);
        Poll::Ready(Some(Bytes::from(std::mem::take(&mut self.buffer))))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = match self.get_mut() {
            Reply::Whole(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty())),
            Reply::Stream(stream) => stream.poll_text(context),
        };
        text.map(|text| text.map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Reply::Stream(stream) => stream.done && stream.buffer.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Reply::Stream(_) => SizeHint::default(),
        }
    }
}
