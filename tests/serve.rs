//! `hadal serve` as its users meet it: the program on a port, the demo model behind it, bytes on a wire.
//!
//! What the contract says of requests and answers is in `server/tests`; here it is what needs a model, a
//! network or a process.

mod served;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use served::{PATIENCE, Served, chat, hadal, request};

/// A request whose answer goes on until it is ended: it may not end before its list is long.
fn endless() -> Value {
    let list = json!({"type": "array", "items": {"type": "integer"}, "minItems": 5000});
    chat(json!({
        "thinking": {"type": "disabled"}, "stream": true, "max_tokens": 30_000,
        "response_format": {"type": "json_schema", "json_schema": {"name": "l", "schema": list}},
    }))
}

#[test]
fn the_demo_model_answers_in_both_dialects() {
    let served = Served::start(&[]);
    let answer = served.chat(json!({}));
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "17 + 25 = 42.");
    assert!(message["reasoning_content"].as_str().expect("it thought").contains("42"));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let (status, text) = served.post(
        "/v1/messages",
        &json!({"model": "claude-sonnet-4-5", "max_tokens": 500,
            "messages": [{"role": "user", "content": "What is 17 + 25?"}]}),
    );
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["content"][1]["text"], "17 + 25 = 42.");
    let (status, text) = served.post("/v1/chat/completions", &chat(json!({"stream": true})));
    assert_eq!(status, 200);
    assert!(text.starts_with("data: ") && text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[test]
fn a_forced_call_is_valid_whatever_the_model_would_say() {
    let served = Served::start(&[]);
    let tool = json!({"type": "function", "function": {"name": "set_light", "strict": true,
        "parameters": {"type": "object", "properties": {
            "level": {"type": "integer", "minimum": 0, "maximum": 100},
            "room": {"enum": ["kitchen", "bath"]}},
            "required": ["level", "room"], "additionalProperties": false}}});
    for temperature in [0, 2] {
        let answer = served.chat(json!({
            "tools": [tool], "tool_choice": "required", "temperature": temperature, "seed": 3,
            "max_tokens": 400,
        }));
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "set_light");
        let arguments = call["arguments"].as_str().expect("a text");
        let arguments: Value = serde_json::from_str(arguments).expect("JSON");
        assert!((0..=100).contains(&arguments["level"].as_i64().expect("an integer")));
        assert!(["kitchen", "bath"].contains(&arguments["room"].as_str().expect("a text")));
    }
}

#[test]
fn a_call_is_streamed_while_it_is_drawn_and_is_the_whole_call() {
    let served = Served::start(&[]);
    let tool = json!({"type": "function", "function": {"name": "note", "strict": true,
        "parameters": {"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 5}},
            "required": ["list"], "additionalProperties": false}}});
    let fields = json!({"tools": [tool], "tool_choice": "required", "temperature": 2, "seed": 5,
        "max_tokens": 400});
    let whole = served.chat(fields.clone());
    let whole = &whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];
    let mut fields = fields;
    fields["stream"] = true.into();
    let (status, text) = served.post("/v1/chat/completions", &chat(fields));
    assert_eq!(status, 200, "{text}");
    let frames = text.lines().filter_map(|line| line.strip_prefix("data: {"));
    let pieces: Vec<String> = frames
        .map(|frame| serde_json::from_str::<Value>(&format!("{{{frame}")).expect("JSON"))
        .filter_map(|frame| {
            let function = &frame["choices"][0]["delta"]["tool_calls"][0]["function"];
            function["arguments"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(Some(pieces.concat().as_str()), whole.as_str());
    assert!(pieces.len() > 4, "{pieces:?}");
}

#[test]
fn every_choice_of_an_expert_is_counted_once() {
    let served = Served::start(&[]);
    served.chat(json!({"max_tokens": 20}));
    served.until("live", |live| live == 0);
    let rows = served.status()["worker"]["rows"].as_u64().expect("a number");
    let get = b"GET /status/experts HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let text = served.raw(get);
    let body: Value =
        serde_json::from_str(text.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    let layers = body["layers"].as_array().expect("layers");
    assert!(!layers.is_empty());
    let sum = |counts: &Value| -> u64 {
        counts
            .as_array()
            .expect("counts")
            .iter()
            .map(|count| count.as_u64().expect("a count"))
            .sum()
    };
    let each = sum(&layers[0]);
    assert!(each >= rows && each.is_multiple_of(rows), "{each} choices of {rows} rows");
    assert!(layers.iter().all(|counts| sum(counts) == each), "{body}");
}

#[test]
fn a_limit_beyond_the_room_ends_with_the_room() {
    let served = Served::start(&["--context", "64"]);
    let body = json!({"model": "deepseek-v4-flash", "prompt": "Once upon a time",
        "max_tokens": 393_216, "temperature": 2, "seed": 1});
    let (status, text) = served.post("/v1/completions", &body);
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let total = answer["usage"]["total_tokens"].as_u64().expect("a number");
    let reason = &answer["choices"][0]["finish_reason"];
    assert!(total == 64 && reason == "length" || total < 64 && reason == "stop", "{answer}");
}

#[test]
fn documents_are_json_even_when_the_model_is_drunk() {
    let served = Served::start(&[]);
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}},
        "required": ["n"], "additionalProperties": false});
    let answer = served.chat(json!({
        "thinking": {"type": "disabled"}, "temperature": 2, "seed": 1, "max_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop", "{answer}");
    let content = choice["message"]["content"].as_str().expect("a text");
    let document: Value = serde_json::from_str(content).expect("JSON");
    assert!(document["n"].is_i64(), "{content}");
}

#[test]
fn greedy_answers_do_not_depend_on_company() {
    let served = Served::start(&[]);
    let questions: Vec<Value> = (0..8)
        .map(|at| {
            json!({"thinking": {"type": "disabled"}, "temperature": 0, "max_tokens": 40,
                "messages": [{"role": "user", "content": format!("What is {} + {at}?", 10 + at)}]})
        })
        .collect();
    let said = |answer: &Value| answer["choices"][0]["message"]["content"].clone();
    let alone: Vec<Value> = questions.iter().map(|q| said(&served.chat(q.clone()))).collect();
    std::thread::scope(|scope| {
        let served = &served;
        let asked: Vec<_> = questions
            .iter()
            .map(|question| scope.spawn(move || said(&served.chat(question.clone()))))
            .collect();
        for (asked, alone) in asked.into_iter().zip(&alone) {
            assert_eq!(&asked.join().expect("an answer"), alone);
        }
    });
}

#[test]
fn a_reader_that_leaves_ends_its_job() {
    let served = Served::start(&[]);
    let mut connection = served.connect();
    connection.write_all(&request("/v1/chat/completions", &endless())).expect("it reads");
    let mut byte = [0];
    connection.read_exact(&mut byte).expect("it streams");
    served.until("live", |live| live == 1);
    drop(connection);
    served.until("live", |live| live == 0);
    served.until("pages_promised", |pages| pages == 0);
    assert_eq!(served.status()["worker"]["cancelled"], 1);
}

#[test]
fn a_stopping_server_finishes_what_it_began() {
    let mut served = Served::start(&["--grace", "60"]);
    let mut connection = served.connect();
    let body = json!({"model": "deepseek-v4-flash", "prompt": "Once", "max_tokens": 200,
        "temperature": 2, "stream": true});
    connection.write_all(&request("/v1/completions", &body)).expect("it reads");
    let mut begun = [0; 16];
    connection.read_exact(&mut begun).expect("it streams");
    served.signal("TERM");
    let mut rest = String::new();
    connection.read_to_string(&mut rest).expect("it goes on");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    let status = served.child.wait().expect("it ends");
    assert!(status.success(), "{status}");
}

#[test]
fn a_stopping_server_reports_what_takes_too_long() {
    let mut served = Served::start(&["--grace", "0"]);
    let mut connection = served.connect();
    connection.write_all(&request("/v1/chat/completions", &endless())).expect("it reads");
    let mut begun = [0; 16];
    connection.read_exact(&mut begun).expect("it streams");
    served.signal("INT");
    let mut rest = String::new();
    connection.read_to_string(&mut rest).expect("it says why");
    assert!(rest.contains("insufficient_system_resource"), "{rest}");
    let status = served.child.wait().expect("it ends");
    assert!(status.success(), "{status}");
}

#[test]
fn a_full_queue_is_429() {
    let served = Served::start(&["--sequences", "1", "--queue", "1"]);
    let mut held = Vec::new();
    for (name, want) in [("live", 1), ("queued", 1)] {
        let mut connection = served.connect();
        connection.write_all(&request("/v1/chat/completions", &endless())).expect("it reads");
        held.push(connection);
        served.until(name, |count| count == want);
    }
    let (status, text) = served.post("/v1/chat/completions", &chat(json!({})));
    assert_eq!(status, 429, "{text}");
}

#[test]
fn heads_are_bounded_and_connections_are_kept() {
    let served = Served::start(&[]);
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    assert!(served.raw(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert!(served.raw(b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let twice = b"HEAD /api/hello HTTP/1.1\r\nhost: a\r\n\r\n\
                  GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let text = served.raw(twice);
    assert!(text.starts_with("HTTP/1.1 404 ") && text.contains("HTTP/1.1 200 "), "{text}");
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let served = Served::start(&[]);
    let head = "POST /v1/messages HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 40000000\r\n\r\n{";
    let begun = Instant::now();
    let text = served.raw(head.as_bytes());
    assert!(text.starts_with("HTTP/1.1 413 ") && text.contains("request_too_large"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// Idle connections that must not keep a request out.
const IDLE: usize = 10_000;

/// Files this process may open, after asking for enough.
#[cfg(unix)]
fn open_files(wanted: u64) -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).expect("up to the hard limit");
    }
    getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit").0
}

#[cfg(unix)]
#[test]
fn ten_thousand_idle_connections_do_not_starve_a_request() {
    let files = open_files(IDLE as u64 + 500);
    let count = IDLE.min(files.saturating_sub(500) as usize);
    if count < IDLE {
        eprintln!("NOTE: only {count} connections were opened: {files} files may be open");
    }
    let served = Served::start(&[]);
    // Some have asked once, some never said a word. The last have begun something and may be let go soon.
    let quiet = count / 10 * 9;
    let mut idle = Vec::with_capacity(count);
    for place in 0..count {
        let mut connection = served.connect();
        let said: &[u8] = match place % 2 {
            0 if place < quiet => b"HEAD /health HTTP/1.1\r\nhost: a\r\n\r\n",
            _ if place < quiet => b"",
            0 => b"POST /v1/messages HTTP/1.1\r\nhost: a\r\n",
            _ => b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 30000000\r\n\r\n{",
        };
        connection.write_all(said).expect("it reads");
        idle.push(connection);
    }
    let begun = Instant::now();
    assert_eq!(served.chat(json!({}))["choices"][0]["message"]["content"], "17 + 25 = 42.");
    let took = begun.elapsed();
    eprintln!("a request among {count} idle connections took {took:?}");
    if let Ok(files) = std::fs::read_dir(format!("/proc/{}/fd", served.child.id())) {
        let files = files.count();
        assert!(files > quiet, "only {files} files are open: connections were let go");
    }
    assert!(took < PATIENCE / 4, "{took:?}");
}

#[test]
fn what_cannot_be_served_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (arguments, says) in [
        (&["--host", "0.0.0.0"][..], "--insecure-no-key"),
        (&["--port", &port], "cannot listen"),
        (&["--host", "no.such.host.invalid"], "--host"),
        (&["--config", "nowhere.toml"], "nowhere.toml"),
        (&["--api-key-file", "nowhere.keys"], "nowhere.keys"),
        (&["--efforts", "1999"], "preview"),
        (&["--log", "loud"], "--log"),
        (&["--cors", "a\nb"], "--cors"),
        (&["--model", "no/such-model"], "no/such-model"),
        (&["--device", "quantum"], "quantum"),
    ] {
        let arguments = [&["--port", "0"], arguments].concat();
        let arguments = if says == "cannot listen" { arguments[2..].to_vec() } else { arguments };
        let output = hadal(&arguments).output().expect("the binary was built");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains(says), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn keys_of_a_file_and_the_environment_are_asked_for_and_never_logged() {
    let folder = std::env::temp_dir().join(format!("hadal-keys-{}", std::process::id()));
    std::fs::write(&folder, "# team\nfrom-file\n").expect("a temporary file");
    let file = folder.to_string_lossy().into_owned();
    let arguments = ["--host", "0.0.0.0", "--port", "0", "--log", "trace", "--api-key-file", &file];
    let mut command = hadal(&arguments);
    command.env("HADAL_API_KEY", "from-environment");
    let mut served = Served::of(command);
    served.address.set_ip("127.0.0.1".parse().expect("an address"));
    for (key, status) in
        [("from-file", 200), ("from-environment", 200), ("# team", 401), ("x", 401)]
    {
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-api-key: {key}\r\n\r\n"
        );
        let text = served.raw(head.as_bytes());
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{key}: {text}");
    }
    served.signal("INT");
    let mut log = String::new();
    served.log.read_to_string(&mut log).expect("lines of text");
    assert!(!log.contains("from-file") && !log.contains("from-environment"), "{log}");
    std::fs::remove_file(&folder).expect("it was there");
}
