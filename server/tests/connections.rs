//! Connections: slow and idle ones are let go within their bounds, and never keep another out.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Script, Server, chat};
use serde_json::json;
use server::http::{Bounds, listen};
use tokio::net::TcpListener;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);
/// Longest a test waits.
const PATIENCE: Duration = Duration::from_secs(60);

fn bounds() -> Bounds {
    Bounds { connections: 100, header: LONG, idle: LONG, stall: LONG }
}

/// Runs `client` against a server within `bounds`, then ends the server.
fn with(bounds: Bounds, server: &Server, client: impl FnOnce(SocketAddr) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = tokio::task::spawn_blocking(move || client(address));
        let ended = async { client.await.expect("the client is content") };
        listen(server.app.clone(), listener, bounds, ended, Duration::ZERO).await;
    });
}

fn connect(address: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(address).expect("it listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("a socket");
    connection
}

/// Asks for the health over a connection that stays; false if it was closed.
fn healthy(connection: &mut TcpStream) -> bool {
    let asked = connection.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut bytes = [0; 4096];
    let read = asked.and_then(|()| connection.read(&mut bytes)).unwrap_or(0);
    bytes[..read].starts_with(b"HTTP/1.1 200 ")
}

/// Whether the server ends the connection within the patience of tests.
fn closed(connection: &mut TcpStream) -> bool {
    let begun = Instant::now();
    let mut bytes = [0; 4096];
    loop {
        match connection.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            // A reset.
            Err(_) => return begun.elapsed() < PATIENCE,
        }
    }
}

#[test]
fn a_header_block_has_its_time_and_silence_between_requests_has_more() {
    let bounds = Bounds { header: SHORT, ..bounds() };
    with(bounds, &Server::new(), |address| {
        let (mut slow, mut quiet) = (connect(address), connect(address));
        let mut never = connect(address);
        assert!(healthy(&mut quiet));
        let mut drip = slow.try_clone().expect("a socket");
        let writer = std::thread::spawn(move || {
            for byte in b"POST /v1/messages HTTP/1.1\r\n".iter().chain(&[b'x'; 1000]) {
                if drip.write_all(&[*byte]).is_err() {
                    return true;
                }
                std::thread::sleep(SHORT / 10);
            }
            false
        });
        assert!(closed(&mut slow), "it drips");
        assert!(writer.join().expect("it ends"), "it is closed for writing");
        assert!(healthy(&mut quiet) && healthy(&mut never), "they were only silent");
    });
}

#[test]
fn a_silent_connection_is_let_go_in_time() {
    let bounds = Bounds { idle: SHORT, ..bounds() };
    with(bounds, &Server::new(), |address| {
        let (mut never, mut once) = (connect(address), connect(address));
        assert!(healthy(&mut once));
        assert!(closed(&mut never) && closed(&mut once));
    });
}

#[test]
fn one_connection_more_than_there_may_be_is_served() {
    let bounds = Bounds { connections: 3, ..bounds() };
    let server = Server::new();
    server.script(Script::Silent);
    with(bounds, &server, |address| {
        let mut asking = connect(address);
        let body = chat(json!({"stream": true})).to_string();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n";
        write!(asking, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("it reads");
        let mut byte = [0];
        asking.read_exact(&mut byte).expect("it is being answered");
        let (mut first, mut second) = (connect(address), connect(address));
        assert!(healthy(&mut first) && healthy(&mut second));
        let mut third = connect(address);
        assert!(healthy(&mut third), "it has a place");
        assert!(closed(&mut first), "it was idle longest");
        assert!(healthy(&mut second), "it was not");
        asking.read_exact(&mut byte).expect("who is answered keeps its place");
    });
}
