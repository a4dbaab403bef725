//! A hub on localhost with one model, `tests/demo`, and troubles to order: enough of the protocol for
//! `hadal pull`, over plain HTTP/1.1 with ranges.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ring::digest;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILES: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../models/demo/config.json")),
    ("tokenizer.json", include_bytes!("../../models/demo/tokenizer.json")),
    ("model.safetensors", include_bytes!("../../models/demo/model.safetensors")),
];

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Every transfer of weights ends after so many bytes.
    BreakOff {
        /// Bytes.
        after: usize,
    },
    /// The first transfer of weights ends after so many bytes; later ones bring nothing.
    Dead {
        /// Bytes.
        after: usize,
    },
    /// One bit of the weights is wrong.
    FlippedByte,
    /// The configuration is that of another architecture.
    OtherModel,
    /// Every request is answered with this status.
    Status(u16),
    /// The listing has names that point elsewhere.
    HostileNames,
}

struct State {
    trouble: Trouble,
    sent: HashMap<String, u64>,
    requests: HashMap<String, u64>,
}

/// A running hub.
pub struct Hub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Starts one on a free port.
    pub fn start(trouble: Trouble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = State { trouble, sent: HashMap::new(), requests: HashMap::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, trouble: Trouble) {
        self.state.lock().expect("no panic").trouble = trouble;
    }

    pub fn files(&self) -> impl Iterator<Item = &'static (&'static str, &'static [u8])> {
        FILES.iter()
    }

    pub fn file(&self, name: &str) -> &'static [u8] {
        FILES.iter().find(|file| file.0 == name).expect("a file of ours").1
    }

    pub fn sha256(&self, name: &str) -> String {
        hexadecimal(digest::digest(&digest::SHA256, self.file(name)).as_ref())
    }

    /// Bytes of this file that went out so far.
    pub fn bytes_sent(&self, name: &str) -> u64 {
        self.state.lock().expect("no panic").sent.get(name).copied().unwrap_or(0)
    }

    pub fn requests(&self, name: &str) -> u64 {
        self.state.lock().expect("no panic").requests.get(name).copied().unwrap_or(0)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file as it is sent under `trouble`.
fn content(name: &str, trouble: Trouble) -> Option<Vec<u8>> {
    let mut bytes = FILES.iter().find(|file| file.0 == name)?.1.to_vec();
    match trouble {
        Trouble::FlippedByte if name == "model.safetensors" => bytes[1_000_000] ^= 4,
        Trouble::OtherModel if name == "config.json" => {
            let text = String::from_utf8(bytes).expect("JSON").replace("deepseek_v4", "llama");
            bytes = text.into_bytes();
        }
        _ => {}
    }
    Some(bytes)
}

/// SHA-256 for weights, git's blob for the rest, of what the hub *says* it has.
fn checksum(name: &str, trouble: Trouble) -> String {
    let told = if matches!(trouble, Trouble::FlippedByte) { Trouble::None } else { trouble };
    let bytes = content(name, told).expect("a file of ours");
    if name.ends_with(".safetensors") {
        return hexadecimal(digest::digest(&digest::SHA256, &bytes).as_ref());
    }
    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
    blob.extend(bytes);
    hexadecimal(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn listing(trouble: Trouble) -> String {
    let mut files = Vec::new();
    for (name, _) in FILES {
        let (sum, size) = (checksum(name, trouble), content(name, trouble).expect("ours").len());
        files.push(match name.ends_with(".safetensors") {
            true => format!(
                r#"{{"rfilename":"{name}","size":{size},"lfs":{{"sha256":"{sum}","size":{size}}}}}"#
            ),
            false => format!(r#"{{"rfilename":"{name}","size":{size},"blobId":"{sum}"}}"#),
        });
    }
    if matches!(trouble, Trouble::HostileNames) {
        for name in
            ["../../../evil.json", "/tmp/evil.json", "a/b.json", ".evil.json", "..\\\\e.json"]
        {
            files.push(format!(r#"{{"rfilename":"{name}","size":1,"blobId":"{COMMIT}"}}"#));
        }
    }
    format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, files.join(","))
}

/// Answers the requests of one connection, one per connection.
fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut start = 0;
    let mut one_byte = false;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            let (from, to) = range.split_once('-').unwrap_or(("0", ""));
            start = from.parse().unwrap_or(0);
            one_byte = to == "0";
        }
    }
    // A client may go away in the middle; that is its business.
    let _ = answer(stream, state, &path, start, one_byte);
}

fn answer(
    mut stream: &TcpStream,
    state: &Mutex<State>,
    path: &str,
    start: usize,
    one_byte: bool,
) -> std::io::Result<()> {
    let trouble = state.lock().expect("no panic").trouble;
    if let Trouble::Status(code) = trouble {
        return write!(
            stream,
            "HTTP/1.1 {code} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if path.starts_with("/api/models/tests/demo/revision/main") {
        let body = listing(trouble);
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n");
        return write!(stream, "{head}\r\n{body}");
    }
    let name = path.strip_prefix(&format!("/tests/demo/resolve/{COMMIT}/")).unwrap_or_default();
    let Some(bytes) = content(name, trouble) else {
        return write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let (total, sum) = (bytes.len(), checksum(name, trouble));
    if start >= total {
        return write!(stream, "HTTP/1.1 416 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let end = if one_byte { 1 } else { total };
    let length = end - start;
    write!(
        stream,
        "HTTP/1.1 206 Partial\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Content-Range: bytes {start}-{}/{total}\r\nx-repo-commit: {COMMIT}\r\netag: \"{sum}\"\r\n\r\n",
        end - 1
    )?;
    let weights = name == "model.safetensors" && !one_byte;
    let cut = match trouble {
        Trouble::BreakOff { after } if weights => after.min(length),
        Trouble::Dead { after } if weights && start == 0 => after,
        Trouble::Dead { .. } if weights => 0,
        _ => length,
    };
    let mut state = state.lock().expect("no panic");
    *state.sent.entry(name.to_owned()).or_default() += cut as u64;
    *state.requests.entry(name.to_owned()).or_default() += 1;
    drop(state);
    stream.write_all(&bytes[start..start + cut])?;
    stream.flush()
}
