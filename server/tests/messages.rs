//! The Anthropic dialect: section 8 of the contract.

mod common;

use common::{Script, Server, Setup, message, pretty, snapshot};
use engine::text::dsml::Begin;
use serde_json::{Value, json};
use server::job::Failure;

const CALL: &str = "Let me see.</think>I will add.\n\n<｜DSML｜tool_calls>\n\
    <｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n\
    </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

fn tools() -> Value {
    json!([{"name": "add", "description": "Adds.", "input_schema": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
    }}])
}

#[tokio::test]
async fn wrong_fields_are_refused() {
    let server = Server::new();
    let turn = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (fields, status, words) in [
        (json!({"model": "absent"}), 400, "model"),
        (json!({"model": "gpt-4"}), 404, "The supported API model names"),
        (json!({"max_tokens": "absent"}), 400, "max_tokens"),
        (json!({"max_tokens": 0}), 400, "max_tokens"),
        (json!({"messages": []}), 400, "messages"),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), 400, "role"),
        (json!({"messages": [{"role": "user"}]}), 400, "content"),
        (json!({"system": 5}), 400, "system"),
        (json!({"system": [{"type": "image"}]}), 400, "image"),
        (json!({"temperature": 3}), 400, "temperature"),
        (json!({"temperature": "1"}), 400, "temperature"),
        (json!({"top_p": 2}), 400, "top_p"),
        (json!({"max_tokens": 1.5}), 400, "max_tokens"),
        (json!({"max_tokens": -1}), 400, "max_tokens"),
        (json!({"stream": "yes"}), 400, "stream"),
        (json!({"thinking": "on"}), 400, "thinking"),
        (json!({"output_config": {"effort": 3}}), 400, "effort"),
        (json!({"tool_choice": {"type": "auto2"}}), 400, "tool_choice.type"),
        (json!({"thinking": {"type": "sometimes"}}), 400, "thinking.type"),
        (json!({"output_config": {"effort": "extreme"}}), 400, "effort"),
        (json!({"stop_sequences": "a".repeat(5000)}), 400, "stop"),
        (json!({"tools": [{"name": "a"}]}), 400, "input_schema"),
        (json!({"tools": [{"name": "a b", "input_schema": {}}]}), 400, "name"),
        (json!({"tool_choice": {"type": "any"}}), 400, "tools"),
        (json!({"tools": tools(), "tool_choice": {"type": "tool", "name": "b"}}), 400, "\"b\""),
        (turn(json!([{"type": "image", "source": {}}])), 400, "image"),
        (turn(json!([{"type": "document", "source": {}}])), 400, "document"),
        (turn(json!([{"type": "tool_result", "tool_use_id": "x"}])), 400, "tool_use"),
    ] {
        let answer = server.message(fields.clone()).await;
        assert_eq!(answer.status(), status, "{fields}: {}", answer.text);
        let body = answer.json();
        assert_eq!(body["type"], "error");
        let kind = if status == 404 { "not_found_error" } else { "invalid_request_error" };
        assert_eq!(body["error"]["type"], kind, "{fields}");
        assert_eq!(body["request_id"].as_str(), answer.header("request-id"));
        assert!(answer.message().contains(words), "{fields}: {}", answer.message());
    }
    assert!(server.worker.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn fields_of_the_hosted_service_are_ignored() {
    let server = Server::new();
    let answer = server
        .message(json!({
            "model": "claude-sonnet-4-5", "top_k": 5, "container": "c", "mcp_servers": [],
            "service_tier": "auto", "context_management": {"edits": [{"type": "x"}]},
            "metadata": {"user_id": "{\"device\":\"a\\\"b\"}", "other": 1},
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"scope": "x"}}],
            "thinking": {"type": "adaptive", "display": "omitted", "budget_tokens": 5},
            "tools": [
                {"type": "custom", "name": "add", "input_schema": {"$schema": "s"},
                 "defer_loading": true, "strict": true, "eager_input_streaming": true},
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
            ],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
        }))
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text);
    assert_eq!(answer.json()["model"], "claude-sonnet-4-5", "the name is echoed as asked");
    let prompt = server.worker.last_prompt();
    assert!(prompt.contains("\"add\"") && !prompt.contains("web_search"), "{prompt}");
}

#[tokio::test]
async fn a_whole_answer_has_the_contracts_shape() {
    let server = Server::new();
    server.script(Script::SayCached(CALL.into(), 4));
    let answer = server.message(json!({"tools": tools()})).await;
    snapshot("message_whole.json", &pretty(&answer.json()));
    let answer = answer.json();
    assert!(!answer["content"][0]["signature"].as_str().unwrap().is_empty());
    let id = answer["content"][2]["id"].as_str().and_then(|id| id.strip_prefix("toolu_")).unwrap();
    assert!(id.len() == 24 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
    assert_eq!(answer["usage"]["cache_read_input_tokens"], 4);
}

#[tokio::test]
async fn a_stream_has_the_contracts_shape() {
    let server = Server::new();
    server.script(Script::SayCached(CALL.into(), 4));
    let answer = server.message(json!({"tools": tools(), "stream": true})).await;
    snapshot("message_stream.txt", &answer.text);
    check_stream(&answer.text, &answer.frames());
}

#[tokio::test]
async fn inputs_are_streamed_while_they_are_written() {
    let server = Server::new();
    let calls = CALL.replace(">1<", ">1234567890<");
    server.say(&calls);
    let answer = server.message(json!({"tools": tools(), "stream": true})).await;
    let pieces: Vec<String> = answer
        .frames()
        .iter()
        .filter(|frame| frame["delta"]["type"] == "input_json_delta")
        .map(|frame| frame["delta"]["partial_json"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(pieces.concat(), "{\"a\": 1234567890}");
    assert!(pieces.len() > 3 && pieces.iter().all(|piece| !piece.is_empty()), "{pieces:?}");
}

/// A stream and a whole answer tell the same of a call that was cut off, each in its form.
#[tokio::test]
async fn a_call_cut_by_length_keeps_what_was_read() {
    let server = Server::new();
    let mut longest = 0;
    for limit in 8..60 {
        let mut whole_input = json!({});
        let mut streamed = String::new();
        for stream in [false, true] {
            server.say(&CALL.replace("</｜DSML｜parameter>\n</", concat!(
                "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"note\" string=\"true\">b and c",
                "</｜DSML｜parameter>\n</"
            )));
            let mut tools = tools();
            tools[0]["input_schema"]["properties"]["note"] = json!({"type": "string"});
            let fields = json!({"tools": tools, "max_tokens": limit, "stream": stream});
            let answer = server.message(fields).await;
            if !stream {
                let answer = answer.json();
                assert_eq!(answer["stop_reason"], "max_tokens", "{limit}");
                let last = answer["content"].as_array().unwrap().last().unwrap();
                whole_input = last.get("input").cloned().unwrap_or(json!({}));
                continue;
            }
            check_stream(&answer.text, &answer.frames());
            for frame in answer.frames() {
                streamed += frame["delta"]["partial_json"].as_str().unwrap_or_default();
            }
        }
        let all = "{\"a\": 1, \"note\": \"b and c\"}";
        assert!(all.starts_with(&streamed), "{limit}: {streamed}");
        let got_a = whole_input == json!({"a": 1});
        assert_eq!(got_a, streamed.starts_with("{\"a\": 1,"), "{limit}: {whole_input} {streamed}");
        longest = longest.max(streamed.len());
    }
    assert!(longest > 20, "the call was never cut in its last member: {longest}");
}

/// What holds of every stream.
fn check_stream(text: &str, frames: &[Value]) {
    assert!(!text.contains("[DONE]"));
    let kinds: Vec<&str> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["message_start", "ping"]);
    assert_eq!(kinds[kinds.len() - 2..], ["message_delta", "message_stop"]);
    let (mut open, mut next) = (None, 0);
    for frame in frames {
        let index = frame["index"].as_u64();
        match frame["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open, None, "one block is open at a time");
                assert_eq!(index, Some(next), "indexes have no gaps");
                open = index;
            }
            "content_block_delta" => assert_eq!(index, open, "{frame}"),
            "content_block_stop" => {
                assert_eq!(index, open);
                open = None;
                next += 1;
            }
            _ => assert_eq!(open, None, "{frame}"),
        }
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("event: ")) {
        assert!(kinds.contains(&line));
    }
}

#[tokio::test]
async fn streamed_and_whole_answers_are_the_same() {
    let server = Server::new();
    for text in ["a</think>b", "</think>b", CALL, "a</think>", &CALL.replace("I will add.", "")] {
        server.say(text);
        let whole = server.message(json!({"tools": tools()})).await.json();
        server.say(text);
        let answer = server.message(json!({"tools": tools(), "stream": true})).await;
        let frames = answer.frames();
        check_stream(&answer.text, &frames);
        let mut blocks: Vec<Value> = Vec::new();
        let mut inputs = String::new();
        for frame in &frames {
            let delta = &frame["delta"];
            match frame["type"].as_str().unwrap() {
                "content_block_start" => blocks.push(frame["content_block"].clone()),
                "content_block_delta" => {
                    let block = blocks.last_mut().unwrap();
                    for key in ["thinking", "text", "signature"] {
                        if let Some(text) = delta[key].as_str() {
                            let before = block[key].as_str().unwrap().to_owned();
                            block[key] = (before + text).into();
                        }
                    }
                    inputs += delta["partial_json"].as_str().unwrap_or_default();
                }
                "content_block_stop" if !inputs.is_empty() => {
                    let input = serde_json::from_str(&std::mem::take(&mut inputs)).unwrap();
                    blocks.last_mut().unwrap()["input"] = input;
                }
                _ => {}
            }
        }
        assert_eq!(pretty(&json!(blocks)), pretty(&whole["content"]), "{text}");
        let delta = &frames[frames.len() - 2];
        assert_eq!(delta["delta"]["stop_reason"], whole["stop_reason"]);
        assert_eq!(delta["usage"], whole["usage"]);
    }
}

#[tokio::test]
async fn answers_end_for_the_reason_they_say() {
    let server = Server::new();
    for (text, fields, reason, stop) in [
        ("r</think>abc", json!({}), "end_turn", Value::Null),
        ("r</think>a STOP", json!({"stop_sequences": [" STOP"]}), "stop_sequence", json!(" STOP")),
        ("r</think>abc abc abc", json!({"max_tokens": 3}), "max_tokens", Value::Null),
        (CALL, json!({"tools": tools()}), "tool_use", Value::Null),
    ] {
        for stream in [false, true] {
            server.say(text);
            let mut fields = fields.clone();
            fields["stream"] = stream.into();
            let answer = server.message(fields.clone()).await;
            let ended = if stream {
                let frames = answer.frames();
                frames[frames.len() - 2]["delta"].clone()
            } else {
                answer.json()
            };
            assert_eq!(ended["stop_reason"], reason, "{fields}");
            assert_eq!(ended["stop_sequence"], stop, "{fields}");
        }
    }
}

async fn prompt(server: &Server, fields: Value) -> String {
    let answer = server.message(fields.clone()).await;
    assert_eq!(answer.status(), 200, "{fields}: {}", answer.text);
    server.worker.last_prompt()
}

#[tokio::test]
async fn thinking_is_on_unless_it_is_off() {
    let server = Server::new();
    for (fields, want) in [
        (json!({}), true),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1}}), true),
        (json!({"thinking": {"type": "adaptive"}}), true),
        (json!({"thinking": {"type": "disabled"}}), false),
        (json!({"output_config": {"effort": "low"}}), true),
        (json!({"output_config": {"effort": "none"}}), false),
        (json!({"model": "deepseek-chat"}), false),
        (json!({"tools": tools(), "tool_choice": {"type": "any"}}), false),
        (json!({"tools": tools(), "tool_choice": {"type": "tool", "name": "add"}}), false),
    ] {
        if fields["tool_choice"].is_object() {
            server.say(CALL.split("I will add.").nth(1).unwrap());
        }
        prompt(&server, fields.clone()).await;
        let begin = server.worker.seen.lock().unwrap().last().unwrap().begin;
        assert_eq!(begin == Begin::Reasoning, want, "{fields}");
    }
}

#[tokio::test]
async fn sampling_has_no_effect_in_thinking_mode() {
    let server = Server::new();
    for (thinking, want) in [("enabled", (1.0, 1.0)), ("disabled", (0.0, 0.5))] {
        let fields = json!({"temperature": 0, "top_p": 0.5, "thinking": {"type": thinking}});
        prompt(&server, fields).await;
        let params = server.worker.seen.lock().unwrap().pop().unwrap().params;
        assert_eq!((params.temperature, params.top_p), want, "{thinking}");
    }
}

#[tokio::test]
async fn efforts_are_those_of_chat_completions() {
    for release_0731 in [false, true] {
        let server = Server::with(&Setup { release_0731, ..Setup::default() });
        for effort in ["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"] {
            let here = prompt(&server, json!({"output_config": {"effort": effort}})).await;
            let answer = server.chat(json!({"reasoning_effort": effort})).await;
            assert_eq!(answer.status(), 200, "{}", answer.text);
            assert_eq!(here, server.worker.last_prompt(), "{effort}");
        }
    }
}

#[tokio::test]
async fn a_limit_beyond_every_context_is_taken() {
    let server = Server::new();
    for (asked, want) in [(128_000u64, 128_000), (u64::MAX, u32::MAX)] {
        prompt(&server, json!({"max_tokens": asked})).await;
        assert_eq!(server.worker.seen.lock().unwrap().pop().unwrap().tokens_max, want);
    }
}

/// A new session begins with the same instructions and tools: they are found in the cache.
#[tokio::test]
async fn sessions_of_a_user_share_prefixes_and_users_share_none() {
    let server = Server::new();
    let mut names = Vec::new();
    for user in [
        "{\"device_id\":\"d\",\"account_uuid\":\"\",\"session_id\":\"1\"}",
        "{\"device_id\":\"d\",\"account_uuid\":\"\",\"session_id\":\"2\"}",
        "{\"device_id\":\"e\",\"account_uuid\":\"\",\"session_id\":\"1\"}",
        "user_a_account_b_session_1",
        "user_a_account_b_session_2",
        "user_b_account_b_session_1",
    ] {
        prompt(&server, json!({"metadata": {"user_id": user}})).await;
        names.push(server.worker.seen.lock().unwrap().pop().unwrap().namespace);
    }
    assert_eq!((names[0], names[3]), (names[1], names[4]), "sessions");
    let users: std::collections::HashSet<u64> = names.iter().copied().collect();
    assert_eq!(users.len(), 4, "users");
}

#[tokio::test]
async fn system_messages_stay_where_they_stand() {
    let server = Server::new();
    let off = json!({"type": "disabled"});
    for (messages, want) in [
        (
            json!([{"role": "user", "content": "a"}, {"role": "system", "content": "late"}]),
            "top<｜User｜>alate<｜Assistant｜></think>",
        ),
        (
            json!([{"role": "user", "content": "a"}, {"role": "system", "content": "late"},
                {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]),
            "top<｜User｜>alate<｜Assistant｜></think>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜></think>",
        ),
        (
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                {"role": "system", "content": "last"}]),
            "top<｜User｜>a<｜Assistant｜></think>b<｜end▁of▁sentence｜>last<｜User｜><｜Assistant｜></think>",
        ),
    ] {
        let fields = json!({"system": "top", "messages": messages, "thinking": off});
        let got = prompt(&server, fields).await;
        assert_eq!(got, format!("<｜begin▁of▁sentence｜>{want}"), "{messages}");
    }
}

#[tokio::test]
async fn the_billing_block_does_not_reach_the_prompt() {
    let server = Server::new();
    let with = |cch: &str| {
        json!({"system": [
            {"type": "text", "text": format!("x-anthropic-billing-header: cc_version=2; cch={cch};")},
            {"type": "text", "text": "You are helpful."},
        ]})
    };
    let first = prompt(&server, with("a1b2c")).await;
    assert_eq!(first, prompt(&server, with("fffff")).await);
    assert!(first.contains("You are helpful.") && !first.contains("billing"));
    let text = "x-anthropic-billing-header: cch=1;\nYou are helpful.";
    assert_eq!(prompt(&server, json!({"system": text})).await, first, "as one string");
    let alone = prompt(&server, json!({"system": "x-anthropic-billing-header: cch=1;"})).await;
    assert_eq!(alone, prompt(&server, json!({})).await, "nothing else");
}

#[tokio::test]
async fn blocks_become_what_the_encoder_knows() {
    let server = Server::new();
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "any"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "c"},
            {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [
                {"type": "text", "text": "r"}, {"type": "image", "source": {}},
                {"type": "tool_reference", "tool_name": "other"}]},
            {"type": "search_result", "title": "T", "source": "s",
             "content": [{"type": "text", "text": "found"}]}]},
        {"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [
                {"type": "web_search_result", "title": "Page", "url": "u", "encrypted_content": "e"}]},
            {"type": "thinking", "thinking": "so"},
            {"type": "text", "text": "d"}]},
        {"role": "user", "content": []},
    ]);
    let got = prompt(&server, json!({"messages": messages, "tools": tools()})).await;
    let got = got.split("<｜User｜>").collect::<Vec<_>>();
    assert_eq!(
        got[1],
        "a\n\nb<｜Assistant｜><think>hm</think>c\n\n<｜DSML｜tool_calls>\n\
        <｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>"
    );
    assert_eq!(
        got[2],
        "<tool_result>r\n[image omitted]\nother</tool_result>\n\nT\ns\nfound\
        <｜Assistant｜><think>so</think>Page\nud<｜end▁of▁sentence｜>"
    );
    assert_eq!(got[3], "<｜Assistant｜><think>");
}

/// Clients write numbers in their own way; what is not the same number is theirs.
#[tokio::test]
async fn a_call_that_comes_back_is_rendered_as_it_was_written() {
    let server = Server::new();
    let mut tools = tools();
    tools[0]["input_schema"]["properties"]["a"] = json!({"type": "number"});
    for stream in [false, true] {
        server.say(&CALL.replace(">1<", ">1.50e1<"));
        let answer = server.message(json!({"tools": tools, "stream": stream})).await;
        let id = match stream {
            false => answer.json()["content"][2]["id"].clone(),
            true => answer
                .frames()
                .iter()
                .find_map(|frame| frame["content_block"].get("id").cloned())
                .expect("a call"),
        };
        for (input, want) in [
            (json!({"a": 15}), ">1.50e1<"),
            (json!({"a": 15.0}), ">1.50e1<"),
            (json!({"a": 16}), ">16<"),
        ] {
            let call = json!({"type": "tool_use", "id": id, "name": "add", "input": input});
            let result = json!({"type": "tool_result", "tool_use_id": id, "content": "r"});
            let messages = json!([{"role": "user", "content": "a"},
                {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]);
            let got = prompt(&server, json!({"messages": messages, "tools": tools})).await;
            assert!(got.contains(want), "{input}: {got}");
            let calls = got.matches("<｜DSML｜invoke name=\"add\">").count();
            assert_eq!(calls, 1, "{got}");
        }
    }
}

#[tokio::test]
async fn turns_of_the_same_role_are_merged() {
    let server = Server::new();
    let messages = json!([
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e"},
    ]);
    let fields = json!({"messages": messages, "thinking": {"type": "disabled"}});
    let got = prompt(&server, fields).await;
    assert!(got.contains("a\n\nb<｜Assistant｜></think>cd<｜end▁of▁sentence｜>"), "{got}");
}

#[tokio::test]
async fn counted_tokens_are_those_of_the_call() {
    let server = Server::with(&Setup { lax: true, ..Setup::default() });
    for fields in [
        json!({}),
        json!({"tools": tools(), "system": "Be brief."}),
        json!({"thinking": {"type": "disabled"}, "messages": [
            {"role": "user", "content": "<think> 漢字"}, {"role": "system", "content": "x"}]}),
        json!({"tools": tools(), "tool_choice": {"type": "any"},
            "output_config": {"effort": "max"}}),
        json!({"output_config": {"effort": "max"}}),
    ] {
        let mut without = message(fields.clone());
        without.as_object_mut().unwrap().remove("max_tokens");
        let counted = server.post("/v1/messages/count_tokens?beta=true", &without).await;
        assert_eq!(counted.status(), 200, "{}", counted.text);
        let call = CALL.split("I will add.").nth(1).unwrap();
        let text = if fields["tool_choice"].is_object() { call } else { "a</think>b" };
        server.script(Script::SayCached(text.into(), 2));
        let usage = server.message(fields.clone()).await.json()["usage"].clone();
        let number = |name: &str| usage[name].as_u64().unwrap();
        let whole = number("input_tokens") + number("cache_read_input_tokens");
        assert_eq!(counted.json(), json!({"input_tokens": whole}), "{fields}");
    }
}

#[tokio::test]
async fn lost_reasoning_is_accepted_unless_strict() {
    for strict_reasoning in [false, true] {
        let server = Server::with(&Setup { strict_reasoning, ..Setup::default() });
        let call = json!({"type": "tool_use", "id": "t1", "name": "add", "input": {}});
        let answer = server
            .message(json!({"messages": [
                {"role": "user", "content": "a"}, {"role": "assistant", "content": [call]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]},
            ]}))
            .await;
        assert_eq!(answer.status(), if strict_reasoning { 400 } else { 200 }, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_failure_in_mid_stream_is_an_error_event() {
    let server = Server::new();
    for (failure, kind) in
        [(Failure::Stopping, "overloaded_error"), (Failure::Fault("s".into()), "api_error")]
    {
        server.script(Script::SayThenFail("a</think>b".into(), failure));
        let answer = server.message(json!({"stream": true})).await;
        let last = answer.frames().pop().unwrap();
        assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!(kind)));
        assert!(answer.text.contains("event: error\n"));
    }
}
