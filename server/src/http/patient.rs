//! A connection whose peer must send a header block, once it has begun one, and take what is written to
//! it, within bounds, or is let go: otherwise a reader that never reads would hold a sequence for ever,
//! and a writer of a byte a minute a place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::pace::Pace;

/// A connection with a bound on stalled writes and on header blocks.
#[derive(Debug)]
pub struct Patient<T> {
    inner: T,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    header: Duration,
    head: Option<Head>,
    pace: Arc<Pace>,
}

/// A header block that has begun.
#[derive(Debug)]
struct Head {
    /// Requests before it: once there is one more, it has ended.
    before: u64,
    until: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<T> Patient<T> {
    /// `inner`, given up where a write makes no progress for `stall`, or a header block takes longer
    /// than `header`.
    pub fn new(inner: T, stall: Duration, header: Duration, pace: Arc<Pace>) -> Self {
        Patient { inner, stall, stalled: None, header, head: None, pace }
    }

    /// Looks at the outcome of a write.
    fn watch<R>(
        &mut self,
        outcome: Poll<io::Result<R>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let bound = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(bound)));
        ready!(stalled.as_mut().poll(context));
        stalled.as_mut().reset(Instant::now() + bound);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader does not read")))
    }

    /// Looks at a read of `count` bytes; `None` for one that waits. Ready once the header block has
    /// taken too long.
    fn watch_head(&mut self, count: Option<usize>, context: &mut Context<'_>) -> Poll<()> {
        let begun = self.pace.begun();
        if self.head.as_ref().is_some_and(|head| head.before != begun) {
            self.head = None;
        }
        if self.head.is_none() && count.is_some_and(|count| count > 0) && self.pace.is_idle() {
            let until = Instant::now() + self.header;
            self.head = Some(Head { before: begun, until, sleep: None });
        }
        match &mut self.head {
            None => Poll::Pending,
            // Who sends a byte at a time is late too.
            Some(head) if count.is_some() && Instant::now() < head.until => Poll::Pending,
            Some(head) => {
                let until = head.until;
                let sleep = head.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
                sleep.as_mut().poll(context)
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(context, buffer);
        let count = outcome.is_ready().then(|| buffer.filled().len() - before);
        if self.watch_head(count, context).is_ready() {
            let what = "the header block takes too long";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
        }
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watch(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(40);

    /// Both ends of a connection; writing to the first blocks.
    async fn pair() -> (std::net::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let near = std::net::TcpStream::connect(address).expect("it listens");
        (near, listener.accept().await.expect("a connection").0)
    }

    async fn write(patient: &mut Patient<TcpStream>, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|context| Pin::new(&mut *patient).poll_write(context, bytes)).await
    }

    async fn read(patient: &mut Patient<TcpStream>) -> io::Result<usize> {
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|context| Pin::new(&mut *patient).poll_read(context, &mut buffer)).await?;
        Ok(buffer.filled().len())
    }

    #[tokio::test]
    async fn a_reader_that_never_reads_is_let_go() {
        let (reader, writer) = pair().await;
        let mut patient = Patient::new(writer, SHORT, LONG, Arc::default());
        let chunk = vec![0; 1 << 20];
        let error = loop {
            match write(&mut patient, &chunk).await {
                Ok(count) => assert!(count > 0),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(reader);
    }

    #[tokio::test]
    async fn a_header_block_that_does_not_end_is_let_go_and_a_quiet_connection_is_not() {
        let (mut writer, reader) = pair().await;
        let pace: Arc<Pace> = Arc::default();
        let mut patient = Patient::new(reader, LONG, SHORT, Arc::clone(&pace));
        let quiet = "it waits";
        // Nothing has begun.
        timeout(3 * SHORT, read(&mut patient)).await.expect_err(quiet);
        // A whole request, its answer, and silence after it.
        writer.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is open");
        assert!(read(&mut patient).await.expect("bytes") > 0);
        drop(pace.begin());
        timeout(3 * SHORT, read(&mut patient)).await.expect_err(quiet);
        // A body may take its time, while its request is being answered.
        let answering = pace.begin();
        writer.write_all(b"{").expect("it is open");
        assert_eq!(read(&mut patient).await.expect("a byte"), 1);
        timeout(3 * SHORT, read(&mut patient)).await.expect_err(quiet);
        drop(answering);
        // A header block, a byte at a time.
        let begun = Instant::now();
        let error = loop {
            writer.write_all(b"x").expect("it is open");
            match timeout(SHORT / 8, read(&mut patient)).await {
                Ok(Err(error)) => break error,
                Ok(Ok(_)) | Err(_) => assert!(begun.elapsed() < LONG),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
