//! Connections: accepted up to a bound, each served by its own task, ended gracefully.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::patient::Patient;
use super::{App, handle};
use crate::limits::{CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADERS_MAX, IDLE_TIME, STALL_TIME};

/// Pause after a connection could not be accepted (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `listener` until `stop` is ready; then takes no more connections and waits up to `grace` for
/// those that answer. True if all of them ended.
pub async fn listen(
    app: Arc<App>,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> bool {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (connection, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small frames must not wait for each other.
        let _ = connection.set_nodelay(true);
        let app = app.clone();
        let service = service_fn(move |request| {
            let app = app.clone();
            async move { Ok::<_, Infallible>(handle(app, request).await) }
        });
        let io = TokioIo::new(Patient::new(connection, STALL_TIME));
        let served = graceful.watch(builder().serve_connection(io, service));
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }
    drop(listener);
    timeout(grace, graceful.shutdown()).await.is_ok()
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIME)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
}

/// A connection and its place among those there may be.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await;
    let place = place.map_err(|error| io::Error::other(error.to_string()))?;
    Ok((listener.accept().await?.0, place))
}
