//! Where a connection stands: what its socket, its requests and the crowd of all connections tell each
//! other. Counts only; who waits how long is decided where the waiting is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::reply::Reply;

/// One connection's requests.
#[derive(Debug, Default)]
pub struct Pace {
    begun: AtomicU64,
    ended: AtomicU64,
    /// The number of its last turn to idleness among those of all connections.
    idle_since: AtomicU64,
    /// Counts such turns.
    turns: Arc<AtomicU64>,
    leave: Notify,
}

impl Pace {
    /// A connection that comes, and is idle; `turns` is shared by all.
    pub fn new(turns: &Arc<AtomicU64>) -> Self {
        let pace = Pace { turns: Arc::clone(turns), ..Pace::default() };
        pace.turn();
        pace
    }

    fn turn(&self) {
        let number = self.turns.fetch_add(1, Ordering::Relaxed);
        self.idle_since.store(number, Ordering::Relaxed);
    }

    /// Requests whose header block was read.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether no request is being answered.
    pub fn is_idle(&self) -> bool {
        // In this order: a request that begins in between is seen.
        let ended = self.ended.load(Ordering::Acquire);
        ended == self.begun()
    }

    /// Less for who has been idle longer; `None` for who is not.
    pub fn idle_since(&self) -> Option<u64> {
        self.is_idle().then(|| self.idle_since.load(Ordering::Relaxed))
    }

    /// A request was read; it is being answered until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Answering {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Answering(Arc::clone(self))
    }

    /// Asks the connection to give way, if it is still idle when it hears of it.
    pub fn ask_to_leave(&self) {
        self.leave.notify_one();
    }

    /// Ends once the connection is asked to leave and idle.
    pub async fn must_leave(&self) {
        loop {
            self.leave.notified().await;
            if self.is_idle() {
                return;
            }
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Answering(Arc<Pace>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.turn();
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// The body of an answer; while it is there, its connection is not idle.
#[derive(Debug)]
pub struct Paced {
    reply: Reply,
    _answering: Answering,
}

impl Paced {
    /// `reply`, which ends `answering`.
    pub fn new(reply: Reply, answering: Answering) -> Self {
        Paced { reply, _answering: answering }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = <Reply as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().reply).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_idle_between_its_requests() {
        let pace = Arc::new(Pace::new(&Arc::default()));
        assert!(pace.is_idle());
        let first = pace.begin();
        let second = Paced::new(Reply::Whole(None), pace.begin());
        drop(first);
        assert_eq!(pace.idle_since(), None, "the second is being answered");
        drop(second);
        assert!(pace.is_idle());
        assert_eq!(pace.begun(), 2);
    }
}
