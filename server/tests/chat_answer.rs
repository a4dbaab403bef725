//! What Chat Completions answers: section 5 of the contract, whole and streamed, and legacy completions
//! (section 6).

mod common;

use common::{Script, Server, Setup, pretty, snapshot};
use serde_json::{Value, json};
use server::job::Failure;

const CALLS: &str = "Let me see.</think>I will add.\n\n<｜DSML｜tool_calls>\n\
    <｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n\
    <｜DSML｜parameter name=\"note\" string=\"true\">say \"hi\"</｜DSML｜parameter>\n</｜DSML｜invoke>\n\
    <｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" string=\"false\">2</｜DSML｜parameter>\n\
    </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "add", "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
        "required": ["a"],
    }}}])
}

#[tokio::test]
async fn a_whole_answer_has_the_contracts_shape() {
    let server = Server::new();
    server.script(Script::SayCached("Easy one.</think>Paris.".into(), 3));
    let answer = server.chat(json!({})).await.json();
    snapshot("chat_whole.json", &pretty(&answer));
    let usage = &answer["usage"];
    let number = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(
        number("prompt_cache_hit_tokens") + number("prompt_cache_miss_tokens"),
        number("prompt_tokens")
    );
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 3);
    assert_eq!(number("prompt_tokens") + number("completion_tokens"), number("total_tokens"));
}

#[tokio::test]
async fn the_name_is_echoed_as_it_was_asked_for() {
    let server = Server::new();
    for name in ["deepseek-v4-flash", "deepseek-flash", "deepseek-chat", "deepseek-v4-flash[1m]"] {
        let answer = server.chat(json!({"model": name})).await.json();
        assert_eq!(answer["model"], name);
        let frames = server.chat(json!({"model": name, "stream": true})).await.frames();
        assert!(frames.iter().all(|frame| frame["model"] == name), "{name}");
        let body = json!({"model": name, "prompt": "a"});
        assert_eq!(server.post("/v1/completions", &body).await.json()["model"], name);
    }
}

#[tokio::test]
async fn an_answer_without_thinking_has_no_reasoning_content() {
    let server = Server::new();
    server.say("Paris.");
    let answer = server.chat(json!({"thinking": {"type": "disabled"}})).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message, &json!({"role": "assistant", "content": "Paris."}));
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
}

#[tokio::test]
async fn a_whole_answer_with_calls_has_the_contracts_shape() {
    let server = Server::new();
    server.say(CALLS);
    let answer = server.chat(json!({"tools": tools()})).await.json();
    snapshot("chat_calls.json", &pretty(&answer));
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    let ids: Vec<&str> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
    assert!(ids[0].starts_with("call_00_") && ids[1].starts_with("call_01_"), "{ids:?}");
    assert!(ids.iter().all(|id| id.len() == "call_00_".len() + 24));
}

#[tokio::test]
async fn an_answer_of_calls_only_has_empty_content() {
    let server = Server::new();
    server.say(&CALLS.replace("I will add.", ""));
    let answer = server.chat(json!({"tools": tools()})).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "");
}

#[tokio::test]
async fn a_stream_has_the_contracts_shape() {
    let server = Server::new();
    server.say("Easy.</think>Paris.");
    let answer = server.chat(json!({"stream": true})).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    snapshot("chat_stream.txt", &answer.text);
    check_stream(&answer.text, &answer.frames());
}

#[tokio::test]
async fn a_stream_with_calls_has_the_contracts_shape() {
    let server = Server::new();
    server.say(CALLS);
    let fields =
        json!({"stream": true, "tools": tools(), "stream_options": {"include_usage": true}});
    let answer = server.chat(fields).await;
    snapshot("chat_stream_calls.txt", &answer.text);
    let frames = answer.frames();
    check_stream(&answer.text, &frames);
    let (last, others) = frames.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert!(others.iter().all(|frame| frame["usage"].is_null()));
    let arguments: String = deltas(others)
        .filter_map(|delta| delta["tool_calls"][0].as_object().cloned())
        .filter(|call| call["index"] == 0)
        .map(|call| call["function"]["arguments"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(arguments, "{\"a\": 1, \"note\": \"say \\\"hi\\\"\"}");
}

/// A long argument is there while it is written, not when the call has ended.
#[tokio::test]
async fn arguments_are_streamed_while_they_are_written() {
    let server = Server::new();
    let pattern = "one two three four five six seven eight";
    let text = CALLS.replace("say \"hi\"", pattern);
    server.say(&text);
    let frames = server.chat(json!({"stream": true, "tools": tools()})).await.frames();
    let calls: Vec<Value> = deltas(&frames)
        .filter_map(|delta| delta["tool_calls"].as_array().cloned())
        .inspect(|calls| assert_eq!(calls.len(), 1, "one call a chunk"))
        .flatten()
        .collect();
    let mut open = None;
    for call in &calls {
        let index = call["index"].as_u64().unwrap();
        match call.get("id") {
            Some(_) => {
                assert_eq!(call["type"], "function");
                assert_eq!(call["function"]["arguments"], "", "a header has no arguments");
                assert_eq!(index, open.map_or(0, |open: u64| open + 1));
                open = Some(index);
            }
            None => {
                assert_eq!(Some(index), open, "pieces are of the call that is open");
                assert!(call["function"].get("name").is_none() && call.get("type").is_none());
                assert_ne!(call["function"]["arguments"], "");
            }
        }
    }
    let pieces = calls.iter().filter(|call| call["index"] == 0).count();
    assert!(pieces > 8, "{pieces} pieces of {pattern:?}");
}

fn deltas(frames: &[Value]) -> impl Iterator<Item = Value> + '_ {
    frames.iter().map(|frame| frame["choices"][0]["delta"].clone())
}

/// What holds of every stream.
fn check_stream(text: &str, frames: &[Value]) {
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert!(!text.contains("event:"));
    let first = &frames[0];
    let mut content = false;
    for frame in frames {
        for key in ["id", "created", "model", "system_fingerprint", "object"] {
            assert_eq!(frame[key], first[key], "{key}");
        }
        assert_eq!(frame["object"], "chat.completion.chunk");
        let Some(choice) = frame["choices"].get(0) else { continue };
        let keys: Vec<&str> = choice.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["index", "delta", "logprobs", "finish_reason"]);
        let filled = |key: &str| choice["delta"][key].as_str().is_some_and(|text| !text.is_empty());
        assert!(!(filled("content") && filled("reasoning_content")), "{frame}");
        assert!(!(content && filled("reasoning_content")), "reasoning after content");
        content |= filled("content");
    }
    let ends = frames.iter().filter(|frame| !frame["choices"][0]["finish_reason"].is_null());
    assert_eq!(ends.count(), 1);
}

#[tokio::test]
async fn streamed_and_whole_answers_are_the_same() {
    let server = Server::new();
    let off = json!({"thinking": {"type": "disabled"}});
    let cut = json!({"max_tokens": 70});
    for (text, fields) in [
        ("a</think>b", &json!({})),
        ("</think>b", &json!({})),
        ("b", &off),
        (CALLS, &json!({})),
        (CALLS, &off),
        (CALLS, &cut),
        ("ünïcödé 漢字</think>👩‍👧 …", &json!({})),
        ("a</think>", &json!({})),
        ("a</think>b STOP c", &json!({"stop": "STOP"})),
    ] {
        let mut fields = fields.clone();
        fields["tools"] = tools();
        server.say(text);
        let whole = server.chat(fields.clone()).await.json();
        server.say(text);
        fields["stream"] = true.into();
        let frames = server.chat(fields).await.frames();
        for key in ["content", "reasoning_content"] {
            let streamed: String = deltas(&frames)
                .filter_map(|delta| delta[key].as_str().map(str::to_owned))
                .collect();
            let whole = whole["choices"][0]["message"][key].as_str().unwrap_or_default();
            assert_eq!(whole, streamed, "{text}: {key}");
        }
        assert_eq!(gathered(&frames), without_ids(&whole), "{text}");
        let last = frames.last().unwrap();
        assert_eq!(whole["choices"][0]["finish_reason"], last["choices"][0]["finish_reason"]);
        assert_eq!(whole["usage"], last["usage"], "usage sits on the last chunk");
    }
}

/// Names and arguments of a stream's calls.
fn gathered(frames: &[Value]) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in deltas(frames) {
        let function = &delta["tool_calls"][0]["function"];
        if let Some(name) = function["name"].as_str() {
            calls.push((name.to_owned(), String::new()));
        }
        if let Some(text) = function["arguments"].as_str() {
            calls.last_mut().expect("a header comes first").1.push_str(text);
        }
    }
    calls
}

/// Names and arguments of a whole answer's calls.
fn without_ids(answer: &Value) -> Vec<(String, String)> {
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let one =
        |call: &Value| (text(&call["function"]["name"]), text(&call["function"]["arguments"]));
    calls.into_iter().flatten().map(one).collect()
}

/// What may become a stop string is held back until it is decided.
#[tokio::test]
async fn a_stop_string_is_never_partly_streamed() {
    let server = Server::new();
    for (said, stop, want) in [
        ("one STOP two", json!("STOP"), "one "),
        ("one STO two", json!("STOP"), "one STO two"),
        ("one ST", json!("STOP"), "one ST"),
        ("aaab aaac", json!("aaac"), "aaab "),
        ("x y z", json!(["z", "y"]), "x "),
        ("x y z", json!(["", "q"]), "x y z"),
        ("漢字。終", json!("。"), "漢字"),
    ] {
        server.say(&format!("STOP aaac y。</think>{said}"));
        let fields = json!({"stream": true, "stop": stop});
        let frames = server.chat(fields.clone()).await.frames();
        let mut streamed = String::new();
        for delta in deltas(&frames) {
            streamed += delta["content"].as_str().unwrap_or_default();
            assert!(want.starts_with(&streamed), "{fields}: {streamed:?} was sent");
        }
        assert_eq!(streamed, want, "{fields}");
        let thought: String = deltas(&frames)
            .filter_map(|delta| delta["reasoning_content"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(thought, "STOP aaac y。", "stop strings are for content");
    }
}

#[tokio::test]
async fn answers_end_for_the_reason_they_say() {
    let server = Server::new();
    for (text, fields, reason, content) in [
        ("r</think>abc", json!({}), "stop", "abc"),
        ("r</think>ab STOP c", json!({"stop": " STOP"}), "stop", "ab"),
        ("r</think>abc abc abc", json!({"max_tokens": 3}), "length", ""),
        ("r STOP</think>abc", json!({"stop": " STOP"}), "stop", "abc"),
    ] {
        server.say(text);
        let answer = server.chat(fields.clone()).await.json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], reason, "{fields}");
        let got = choice["message"]["content"].as_str().unwrap();
        assert!(got == content || reason == "length", "{fields}: {got}");
    }
}

#[tokio::test]
async fn no_control_text_is_in_any_field() {
    let server = Server::new();
    let cut = CALLS.len() - "</｜DSML｜invoke>\n</｜DSML｜tool_calls>".len() - 40;
    let cut = (0..=cut).rev().find(|&at| CALLS.is_char_boundary(at)).unwrap();
    for (text, fields) in [
        ("a<think>b</think>c<｜User｜>d<think>e", json!({})),
        ("a</think>b｜DSML｜c<｜latest_reminder｜>d", json!({})),
        (&CALLS[..cut], json!({"tools": tools(), "max_tokens": 60})),
    ] {
        for stream in [false, true] {
            server.say(text);
            let mut fields = fields.clone();
            fields["stream"] = stream.into();
            let answer = server.chat(fields).await.text;
            for control in ["<think>", "</think>", "｜", "invoke name", "parameter name"] {
                assert!(!answer.contains(control), "{control} in {answer}");
            }
        }
    }
}

/// At every length: content, calls that ended, and the beginning of the last one's arguments.
#[tokio::test]
async fn a_block_of_calls_cut_by_length_gives_what_was_read() {
    let server = Server::new();
    server.say(CALLS);
    let whole = server.chat(json!({"tools": tools()})).await.json();
    let all = without_ids(&whole);
    let tokens = whole["usage"]["completion_tokens"].as_u64().unwrap();
    let mut most = Vec::new();
    for limit in 8..tokens {
        server.say(CALLS);
        let answer = server.chat(json!({"tools": tools(), "max_tokens": limit})).await.json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "length", "{limit}");
        let content = choice["message"]["content"].as_str().unwrap();
        assert!("I will add.\n\n<".starts_with(content), "{limit}: {content}");
        let calls = without_ids(&answer);
        assert!(calls.len() >= most.len(), "{limit}: a call was taken back");
        for (place, (name, arguments)) in calls.iter().enumerate() {
            assert_eq!(name, &all[place].0);
            assert!(all[place].1.starts_with(arguments), "{limit}: {arguments}");
            let last = place + 1 == calls.len();
            assert!(last || *arguments == all[place].1, "{limit}: only the last is cut");
        }
        most = calls;
    }
    assert_eq!(most, all, "nothing but the end of the block was missing");
}

#[tokio::test]
async fn logprobs_cover_reasoning_and_content() {
    let server = Server::new();
    server.say("Easy.</think>Paris.");
    let fields = json!({"logprobs": true, "top_logprobs": 1});
    let answer = server.chat(fields.clone()).await.json();
    let logprobs = &answer["choices"][0]["logprobs"];
    let text = |key: &str| -> String {
        let entries = logprobs[key].as_array().unwrap().iter();
        entries.map(|entry| entry["token"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((text("reasoning_content"), text("content")), ("Easy.".into(), "Paris.".into()));
    let entry = &logprobs["content"][0];
    assert_eq!(entry["logprob"], -0.5);
    assert_eq!(entry["top_logprobs"][0]["token"], entry["token"]);
    server.say("Easy.</think>Paris.");
    let mut streamed = fields;
    streamed["stream"] = true.into();
    let frames = server.chat(streamed).await.frames();
    for key in ["content", "reasoning_content"] {
        let lists = frames
            .iter()
            .filter_map(|frame| frame["choices"][0]["logprobs"][key].as_array().cloned());
        assert_eq!(Value::Array(lists.flatten().collect()), logprobs[key], "{key}");
    }
    server.say("Easy.</think>Paris.");
    assert!(server.chat(json!({})).await.json()["choices"][0]["logprobs"].is_null());
}

#[tokio::test]
async fn a_server_that_stops_in_mid_answer_says_so() {
    let server = Server::new();
    server.script(Script::SayThenFail("a</think>b".into(), Failure::Stopping));
    let answer = server.chat(json!({"stream": true})).await;
    let last = answer.frames().pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "insufficient_system_resource");
    assert!(answer.text.ends_with("[DONE]\n\n"));
    let usage = &last["usage"];
    let number = |name: &str| usage[name].as_u64().unwrap();
    assert!(number("prompt_tokens") > 0 && number("completion_tokens") > 1, "{usage}");
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 2, "a and its end");
    server.script(Script::SayThenFail("a</think>b".into(), Failure::Stopping));
    assert_eq!(server.chat(json!({})).await.status(), 503, "of a whole answer nothing was sent");
    server.script(Script::SayThenFail("a</think>b".into(), Failure::Fault("secret".into())));
    let answer = server.chat(json!({"stream": true})).await;
    assert_eq!(answer.frames().pop().unwrap()["error"]["type"], "server_error");
    assert!(!answer.text.contains("[DONE]") && !answer.text.contains("secret"));
}

#[tokio::test]
async fn a_job_whose_reader_is_gone_is_let_go() {
    let server = Server::new();
    for stream in [true, false] {
        server.script(Script::Silent);
        let request = server.chat(json!({"stream": stream}));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(200), request).await;
        assert!(waited.is_err(), "it waits for an answer");
        assert!(server.worker.all_let_go());
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() {
    use http_body_util::BodyExt;
    let server = Server::new();
    for (path, body, first, ping) in [
        (
            "/v1/chat/completions",
            common::chat(json!({"stream": true})),
            "data: {",
            ": keep-alive\n\n",
        ),
        ("/v1/messages", common::message(json!({"stream": true})), ": queued", ": queued\n\n"),
    ] {
        server.script(Script::Silent);
        let request = hyper::Request::post(path)
            .body(http_body_util::Full::new(bytes::Bytes::from(body.to_string())))
            .unwrap();
        let response = server::http::handle(server.app.clone(), request).await;
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut next = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(next().await.starts_with(first.as_bytes()));
        assert_eq!(next().await, ping);
        assert_eq!(next().await, ping);
    }
}

#[test]
fn the_longest_silence_is_within_the_contract() {
    assert!(server::limits::SILENCE <= std::time::Duration::from_secs(10));
}

#[tokio::test]
async fn completions_have_the_contracts_shape() {
    let server = Server::new();
    let body = json!({
        "model": "deepseek-chat", "prompt": "Once", "echo": true, "logprobs": 1, "stop": "END",
    });
    server.say(" upon <think>END");
    let answer = server.post("/v1/completions", &body).await.json();
    snapshot("completion_whole.json", &pretty(&answer));
    let seen = server.worker.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen.tokens_max, 16, "as in the legacy interface");
    assert!(!seen.parse);
    let mut streamed = body;
    streamed["stream"] = true.into();
    server.say(" upon a time END");
    let answer = server.post("/v1/completions", &streamed).await;
    let text: String = answer
        .frames()
        .iter()
        .filter_map(|frame| frame["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "Once upon a time ");
    assert!(answer.frames().iter().all(|frame| frame["object"] == "text_completion"));
    assert!(answer.text.ends_with("data: [DONE]\n\n"));
}

/// With a tokenizer that has the marks of the released one.
#[tokio::test]
async fn a_middle_is_filled_in_between_prefix_and_suffix() {
    let server = Server::with(&Setup { released_tokens: true, ..Setup::default() });
    server.say("return");
    let body = json!({"model": "deepseek-v4-flash", "prompt": "def f():\n    ", "suffix": " 1\n"});
    let answer = server.post("/beta/completions", &body).await;
    assert_eq!(answer.json()["choices"][0]["text"], "return", "{}", answer.text);
    assert_eq!(
        server.worker.last_prompt(),
        "<｜begin▁of▁sentence｜><｜fim▁begin｜>def f():\n    <｜fim▁hole｜> 1\n<｜fim▁end｜>"
    );
}

#[tokio::test]
async fn completions_refuse_what_they_cannot_do() {
    let server = Server::new();
    for (fields, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": [1, 2]}), "prompt"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs"),
        (json!({"prompt": "a", "logprobs": true}), "logprobs"),
        (json!({"prompt": "a", "n": 3}), "n"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
        (json!({"prompt": "a", "suffix": "b"}), "suffix"),
    ] {
        let mut body = fields.clone();
        body["model"] = "deepseek-v4-flash".into();
        let answer = server.post("/beta/completions", &body).await;
        assert_eq!(answer.status(), 400, "{fields}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"], param, "{fields}");
    }
}
