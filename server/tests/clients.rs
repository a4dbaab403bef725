//! Requests as real agents send them (their shape; texts are ours and short), and what becomes of each:
//! the prompt, how the answer begins, how it is drawn. One file a request in `requests/`, one snapshot
//! each in `snapshots/`.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Server, snapshot};
use serde_json::Value;

/// Sends the request of that name; gives its snapshot.
async fn sent(server: &Server, name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/requests");
    let text = fs::read_to_string(folder.join(format!("{name}.json"))).expect("it is there");
    let request: Value = serde_json::from_str(&text).expect("it is JSON");
    let headers = request["headers"].as_object().expect("headers");
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().expect("a text")))
        .collect();
    let path = request["path"].as_str().expect("a path");
    let answer = server.send("POST", path, &headers, request["body"].to_string()).await;
    assert_eq!(answer.status(), 200, "{name}: {}", answer.text);
    assert!(answer.text.starts_with("data: ") || answer.text.starts_with(": "), "{name}: a stream");
    let prompt = server.worker.last_prompt();
    let seen = server.worker.seen.lock().unwrap().pop().expect("a job");
    format!(
        "begins in {:?}, at most {} tokens, temperature {}, top-p {}, stops {:?}\n\n{prompt}\n",
        seen.begin, seen.tokens_max, seen.params.temperature, seen.params.top_p, seen.params.stop,
    )
}

#[tokio::test]
async fn agents_are_understood_as_the_snapshots_say() {
    let server = Server::new();
    for name in [
        "claude_first",
        "claude_after_a_tool",
        "opencode_title",
        "opencode_after_a_tool",
        "pi",
        "openclaw",
    ] {
        snapshot(&format!("client_{name}.txt"), &sent(&server, name).await);
    }
}

/// The prefix cache lives on this: what was the prompt before is the beginning of the prompt now.
#[tokio::test]
async fn a_longer_conversation_begins_with_the_shorter_one() {
    let server = Server::new();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/requests");
    for (name, path) in [
        ("claude_after_a_tool", "/v1/messages"),
        ("opencode_after_a_tool", "/v1/chat/completions"),
        ("pi", "/v1/chat/completions"),
    ] {
        let text = fs::read_to_string(folder.join(format!("{name}.json"))).expect("it is there");
        let body = serde_json::from_str::<Value>(&text).expect("it is JSON")["body"].clone();
        let messages = body["messages"].as_array().expect("messages").clone();
        let question = messages.iter().position(|message| message["role"] == "assistant");
        let question = question.expect("an answer of the model");
        let mut prompts = Vec::new();
        for end in [question, messages.len()] {
            let mut body = body.clone();
            body["messages"] = messages[..end].into();
            let answer = server.post(path, &body).await;
            assert_eq!(answer.status(), 200, "{name}: {}", answer.text);
            prompts.push(server.worker.seen.lock().unwrap().pop().expect("a job").prompt);
        }
        assert!(prompts[1].starts_with(&prompts[0]), "{name}");
    }
}
