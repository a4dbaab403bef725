//! Connections: accepted up to a bound, each served by its own task, ended gracefully.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::crowd::{Crowd, Member};
use super::pace::Paced;
use super::patient::Patient;
use super::{App, handle};
use crate::limits::{
    CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_TIME, HEADERS_MAX, IDLE_TIME, STALL_TIME,
};

/// Pause after a connection could not be accepted (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most at once.
    pub connections: usize,
    /// From the first byte of a header block to its last.
    pub header: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Without taking what was written.
    pub stall: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: CONNECTIONS_MAX,
            header: HEADER_TIME,
            idle: IDLE_TIME,
            stall: STALL_TIME,
        }
    }
}

/// Serves `listener` until `stop` is ready; then takes no more connections and waits up to `grace` for
/// those that answer. True if all of them ended.
pub async fn listen(
    app: Arc<App>,
    listener: TcpListener,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> bool {
    let crowd = Crowd::new(bounds.connections);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let connection = match accepted {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let member = tokio::select! {
            () = &mut stop => break,
            member = crowd.join() => member,
        };
        tokio::spawn(serve(app.clone(), connection, member, bounds, graceful.watcher()));
    }
    drop(listener);
    timeout(grace, graceful.shutdown()).await.is_ok()
}

/// Serves one connection to its end.
async fn serve(
    app: Arc<App>,
    connection: TcpStream,
    member: Member,
    bounds: Bounds,
    watcher: Watcher,
) {
    // Small frames must not wait for each other.
    let _ = connection.set_nodelay(true);
    let pace = member.pace();
    let service = service_fn(|request| {
        let app = app.clone();
        let answering = pace.begin();
        async move {
            let response = handle(app, request).await;
            Ok::<_, Infallible>(response.map(|reply| Paced::new(reply, answering)))
        }
    });
    let io = TokioIo::new(Patient::new(connection, bounds.stall, bounds.header, pace.clone()));
    let served = watcher.watch(builder(bounds).serve_connection(io, service));
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "a connection broke");
        },
        () = pace.must_leave() => tracing::debug!("an idle connection gave way"),
    }
}

fn builder(bounds: Bounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The library's bound begins with the end of the request before, so it is that of idleness;
        // that of a header block which has begun is `Patient`'s.
        .header_read_timeout(bounds.idle)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
}
