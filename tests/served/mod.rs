//! `hadal serve` as a process of a test: started on a free port, asked over plain sockets, killed at the end.
#![allow(dead_code, reason = "every test binary uses its own part of this module")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest any test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// `hadal serve` with nothing of the environment.
pub fn hadal(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.arg("serve").args(arguments).stdin(Stdio::null());
    for name in ["HADAL_API_KEY", "HADAL_CONFIG", "HADAL_HOST", "HADAL_PORT", "HADAL_MODEL"] {
        command.env_remove(name);
    }
    command
}

/// A server that is running; it is killed when the test ends.
pub struct Served {
    pub child: Child,
    pub address: SocketAddr,
    pub log: BufReader<std::process::ChildStderr>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    pub fn start(arguments: &[&str]) -> Self {
        Self::of(hadal(&[&["--port", "0", "--log", "error"], arguments].concat()))
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("is served on http://") {
            line.clear();
            let read = log.read_line(&mut line).expect("lines of text");
            assert!(read > 0, "the server ended before it served");
        }
        let address = line.trim().rsplit("http://").next().expect("an address");
        let address = address.parse().expect("an address");
        Served { child, address, log }
    }

    pub fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address).expect("it listens");
        connection.set_read_timeout(Some(PATIENCE)).expect("a socket");
        connection
    }

    /// Sends bytes and reads until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut connection = self.connect();
        connection.write_all(bytes).expect("it reads");
        let mut text = Vec::new();
        let _ = connection.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let text = self.raw(&request(path, body));
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        (status, if chunked { unchunked(body) } else { body.to_owned() })
    }

    pub fn chat(&self, fields: Value) -> Value {
        let (status, text) = self.post("/v1/chat/completions", &chat(fields));
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub fn status(&self) -> Value {
        let text = self.raw(b"GET /status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        serde_json::from_str(text.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON")
    }

    /// Waits until a number of the worker's is as wanted.
    pub fn until(&self, name: &str, want: impl Fn(u64) -> bool) {
        let begun = Instant::now();
        while !want(self.status()["worker"][name].as_u64().expect("a number")) {
            assert!(begun.elapsed() < PATIENCE, "{name} is still {}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
    }
}

/// Asks a server that may go away; `None` if it did before all of the answer was there.
pub fn try_post(address: SocketAddr, path: &str, body: &Value) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).ok()?;
    connection.write_all(&request(path, body)).ok()?;
    let mut text = Vec::new();
    connection.read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let head = head.to_lowercase();
    let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    (body.len() == length).then(|| (status, body.to_owned()))
}

/// A request whose connection ends with its answer.
pub fn request(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A chat of one question, with further fields.
pub fn chat(fields: Value) -> Value {
    let mut body = json!({
        "model": "deepseek-v4-flash",
        "messages": [{"role": "user", "content": "What is 17 + 25?"}],
    });
    for (key, value) in fields.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}
