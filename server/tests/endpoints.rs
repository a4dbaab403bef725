//! Paths, methods, keys, headers and bodies: sections 1, 7 and 11 of the contract.

mod common;

use common::{Script, Server, Setup, chat, message};
use serde_json::json;
use server::job::Failure;

#[tokio::test]
async fn every_path_answers() {
    let server = Server::new();
    for path in [
        "/chat/completions",
        "/v1/chat/completions",
        "/beta/chat/completions",
        "/beta/v1/chat/completions",
    ] {
        let answer = server.post(path, &chat(json!({}))).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text);
    }
    for path in ["/completions", "/v1/completions", "/beta/completions", "/beta/v1/completions"] {
        let body = json!({"model": "deepseek-v4-flash", "prompt": "a"});
        assert_eq!(server.post(path, &body).await.status(), 200, "{path}");
    }
    for path in
        ["/v1/messages", "/anthropic/v1/messages", "/anthropic/messages", "/v1/messages?beta=true"]
    {
        assert_eq!(server.post(path, &message(json!({}))).await.status(), 200, "{path}");
    }
    for path in [
        "/v1/messages/count_tokens",
        "/anthropic/v1/messages/count_tokens",
        "/anthropic/messages/count_tokens?beta=true",
    ] {
        assert_eq!(server.post(path, &message(json!({}))).await.status(), 200, "{path}");
    }
    for path in [
        "/models",
        "/v1/models",
        "/anthropic/v1/models",
        "/models/deepseek-v4-flash",
        "/v1/models/deepseek-chat",
        "/user/balance",
        "/",
        "/health",
        "/metrics",
        "/status",
        "/status/experts",
        "/openapi.json",
    ] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn faults_of_a_path_are_in_its_dialect() {
    let server = Server::new();
    for (method, path, status, kind) in [
        ("GET", "/nothing", 404, "invalid_request_error"),
        ("POST", "/v1/responses", 404, "invalid_request_error"),
        ("GET", "/anthropic/nothing", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/v1/chat/completions", 405, "invalid_request_error"),
        ("POST", "/health", 405, "invalid_request_error"),
        ("GET", "/v1/models/gpt-4", 404, "invalid_request_error"),
    ] {
        let answer = server.send(method, path, &[], "").await;
        assert_eq!(answer.status(), status, "{method} {path}");
        let error = &answer.json()["error"];
        assert_eq!(error["type"], kind, "{method} {path}");
        let anthropic = path.contains("anthropic") || path.contains("messages");
        assert_eq!(answer.json()["type"] == "error", anthropic, "{path}");
        assert_eq!(error.get("code").is_some(), !anthropic, "{path}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{path}");
    }
}

#[tokio::test]
async fn openai_errors_always_have_param_and_code() {
    let server = Server::new();
    for fields in [json!({"messages": []}), json!({"model": "absent"}), json!({"n": 2})] {
        let error = server.chat(fields).await.json()["error"].clone();
        let keys: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
    }
}

#[tokio::test]
async fn openai_errors_have_the_codes_of_the_hosted_api() {
    let server = Server::with(&Setup { keys: vec!["k"], context: Some(16), ..Setup::default() });
    let long = json!([{"role": "user", "content": "word ".repeat(50)}]);
    for (key, fields, status, kind, code) in [
        ("k", json!({"n": 2}), 400, "invalid_request_error", "invalid_request_error"),
        ("k", json!({"model": "gpt-4"}), 400, "invalid_request_error", "invalid_request_error"),
        ("k", json!({"messages": long}), 400, "invalid_request_error", "context_length_exceeded"),
        ("x", json!({}), 401, "authentication_error", "invalid_request_error"),
    ] {
        let headers = [("content-type", "application/json"), ("x-api-key", key)];
        let body = chat(fields.clone()).to_string();
        let answer = server.send("POST", "/v1/chat/completions", &headers, body).await;
        let error = &answer.json()["error"];
        assert_eq!(answer.status(), status, "{fields}");
        assert_eq!((&error["type"], &error["code"]), (&json!(kind), &json!(code)), "{fields}");
    }
}

#[tokio::test]
async fn without_keys_any_key_or_none_is_taken() {
    let server = Server::new();
    for headers in [
        &[][..],
        &[("authorization", "Bearer whatever")],
        &[("authorization", "Basic d2hhdDpldmVy")],
        &[("x-api-key", "")],
        &[("x-api-key", "sk-1"), ("authorization", "nonsense")],
    ] {
        assert_eq!(
            server.send("GET", "/v1/models", headers, "").await.status(),
            200,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own() {
    let server = Server::new();
    let mut seen = std::collections::HashSet::new();
    for (method, path, name) in [
        ("GET", "/v1/models", "x-request-id"),
        ("GET", "/nothing", "x-request-id"),
        ("POST", "/v1/chat/completions", "x-request-id"),
        ("GET", "/anthropic/v1/models", "request-id"),
        ("POST", "/v1/messages", "request-id"),
        ("HEAD", "/v1/messages", "request-id"),
    ] {
        let answer = server.send(method, path, &[], "{}").await;
        let id = answer.header(name).unwrap_or_else(|| panic!("{method} {path}: no {name}"));
        assert!(id.starts_with("req_") && id.len() == 28, "{id}");
        assert!(seen.insert(id.to_owned()), "{id} again");
    }
}

#[tokio::test]
async fn head_never_has_a_body() {
    let server = Server::new();
    for path in ["/", "/health", "/v1/models", "/api/hello"] {
        let answer = server.send("HEAD", path, &[], "").await;
        assert_eq!(answer.text, "", "{path}");
        assert_eq!(answer.status() == 404, path == "/api/hello", "{path}");
    }
}

#[tokio::test]
async fn options_is_204_and_names_an_origin_only_where_one_is_set() {
    for cors in [None, Some("https://example.org")] {
        let server = Server::with(&Setup { cors, keys: vec!["k"], ..Setup::default() });
        for path in ["/", "/v1/messages", "/nothing"] {
            let answer = server.send("OPTIONS", path, &[], "").await;
            assert_eq!(answer.status(), 204, "{path}");
            assert_eq!(answer.header("access-control-allow-origin"), cors, "{path}");
        }
    }
}

#[tokio::test]
async fn keys_are_taken_on_every_endpoint_and_authorization_wins() {
    let server = Server::with(&Setup { keys: vec!["sesame"], ..Setup::default() });
    for (path, kind) in [
        ("/v1/models", "authentication_error"),
        ("/anthropic/v1/models", "authentication_error"),
        ("/metrics", "authentication_error"),
        ("/status", "authentication_error"),
        ("/user/balance", "authentication_error"),
    ] {
        for (headers, status) in [
            (&[("authorization", "Bearer sesame")][..], 200),
            (&[("x-api-key", "sesame")], 200),
            (&[("authorization", "Bearer sesame"), ("x-api-key", "wrong")], 200),
            (&[("authorization", "Bearer wrong"), ("x-api-key", "sesame")], 401),
            (&[], 401),
        ] {
            let answer = server.send("GET", path, headers, "").await;
            assert_eq!(answer.status(), status, "{path} {headers:?}");
            if status == 401 {
                assert_eq!(answer.json()["error"]["type"], kind);
                assert!(answer.message().starts_with("Authentication Fails"));
                assert!(!answer.text.contains("sesame"));
            }
        }
    }
    assert_eq!(server.get("/health").await.status(), 200, "whoever watches has no key");
    assert_eq!(server.get("/").await.status(), 200, "the page asks for the key itself");
}

#[tokio::test]
async fn headers_of_clients_are_ignored() {
    let server = Server::new();
    let headers = [
        ("content-type", "application/json"),
        ("anthropic-version", "1999-01-01"),
        ("anthropic-beta", "no-such-beta-2099,other"),
        ("x-stainless-lang", "js"),
        ("x-app", "cli"),
        ("x-session-affinity", "a"),
        ("x-claude-code-session-id", "b"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("authorization", "Bearer any"),
    ];
    let body = message(json!({"stream": true})).to_string();
    let answer = server.send("POST", "/v1/messages?beta=true", &headers, body).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-encoding"), None, "streams are never compressed");
}

#[tokio::test]
async fn bodies_are_json_of_bounded_size() {
    let server = Server::with(&Setup { body_bytes: Some(2000), ..Setup::default() });
    let json = ("content-type", "application/json");
    let deep = format!("{{\"model\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    let long = format!("{{\"model\": \"{}\"}}", "x".repeat(3000));
    for (headers, body, status, word) in [
        (&[json][..], "{", 400, "valid JSON"),
        (&[json], "", 400, "valid JSON"),
        (&[json], "[]", 400, "JSON object"),
        (&[json], "{\"temperature\": NaN}", 400, "valid JSON"),
        (&[json], "{\"temperature\": 1e999}", 400, "valid JSON"),
        (&[json], &deep, 400, "too deeply"),
        (&[json], &long, 413, "2000 bytes"),
        (&[("content-type", "text/plain")], "{}", 415, "application/json"),
        (&[("content-type", "application/x-www-form-urlencoded")], "{}", 415, "Content-Type"),
        (&[json, ("content-encoding", "gzip")], "{}", 415, "Compressed"),
        (&[("content-type", "application/json; charset=utf-8")], "{}", 400, "model"),
        (&[], "{}", 400, "model"),
    ] {
        for path in ["/v1/chat/completions", "/v1/messages"] {
            let answer = server.send("POST", path, headers, body.to_owned()).await;
            assert_eq!(answer.status(), status, "{path} {}", &body[..body.len().min(40)]);
            assert!(answer.message().contains(word), "{path}: {}", answer.message());
        }
    }
    let invalid: &[u8] = b"{\"model\": \"\xff\xfe\"}";
    let answer = server.send("POST", "/v1/messages", &[json], invalid).await;
    assert_eq!(
        (answer.status(), answer.json()["error"]["type"].clone()),
        (400, json!("invalid_request_error"))
    );
    let answer = server.send("POST", "/v1/messages", &[json], long).await;
    assert_eq!(answer.json()["error"]["type"], "request_too_large");
}

#[tokio::test]
async fn json_is_read_up_to_a_depth_of_127() {
    let server = Server::new();
    let deep = |depth: usize| {
        let value = format!("{}1{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        let mut body = chat(json!({})).to_string();
        body.insert_str(1, &format!("\"surplus\":{value},"));
        body
    };
    for (depth, status) in [(126, 200), (127, 200), (129, 400), (100_000, 400)] {
        let headers = [("content-type", "application/json")];
        let answer = server.send("POST", "/v1/chat/completions", &headers, deep(depth)).await;
        assert_eq!(answer.status(), status, "{depth}: {}", answer.text);
    }
}

#[tokio::test]
async fn streams_are_event_streams_that_nobody_gathers() {
    let server = Server::new();
    for answer in [
        server.chat(json!({"stream": true})).await,
        server.message(json!({"stream": true})).await,
        server
            .post(
                "/v1/completions",
                &json!({"model": "deepseek-chat", "prompt": "a", "stream": true}),
            )
            .await,
    ] {
        assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("x-accel-buffering"), Some("no"));
        assert_eq!(answer.header("content-length"), None);
    }
}

#[tokio::test]
async fn failures_of_the_worker_have_their_status() {
    let too_long = Failure::TooLong { prompt: 9000, context: 8192 };
    for (failure, status, openai, anthropic) in [
        (Failure::Busy { retry_after_s: 7 }, 429, "rate_limit_error", "rate_limit_error"),
        (too_long, 400, "invalid_request_error", "invalid_request_error"),
        (Failure::Stopping, 503, "server_error", "overloaded_error"),
        (Failure::Fault("the device is on fire".into()), 500, "server_error", "api_error"),
    ] {
        let server = Server::new();
        for stream in [false, true] {
            server.script(Script::Refuse(failure.clone()));
            let answer = server.chat(json!({"stream": stream})).await;
            assert_eq!(answer.status(), status, "{failure:?}");
            assert_eq!(answer.json()["error"]["type"], openai);
            assert!(!answer.text.contains("fire"), "reasons are for the log");
            let waits = matches!(status, 429 | 503);
            assert_eq!(answer.header("retry-after").is_some(), waits, "{failure:?}");
            server.script(Script::Refuse(failure.clone()));
            let answer = server.message(json!({"stream": stream})).await;
            assert_eq!(answer.status(), status, "{failure:?}");
            assert_eq!(answer.json()["error"]["type"], anthropic);
        }
    }
    let server = Server::new();
    server.script(Script::Refuse(Failure::Busy { retry_after_s: 7 }));
    assert_eq!(server.chat(json!({})).await.header("retry-after"), Some("7"));
}

#[tokio::test]
async fn a_prompt_over_the_context_is_refused_in_the_words_clients_look_for() {
    let server = Server::with(&Setup { context: Some(16), ..Setup::default() });
    let long = "word ".repeat(50);
    let messages = json!([{"role": "user", "content": long}]);
    let answer = server.chat(json!({"messages": messages})).await;
    assert_eq!(answer.status(), 400);
    assert!(answer.message().contains("maximum context length is 16 tokens"));
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    let answer = server.message(json!({"messages": messages})).await;
    assert_eq!(answer.status(), 400);
    assert!(answer.message().starts_with("prompt is too long: "), "{}", answer.message());
    assert!(answer.message().ends_with(" tokens > 16 maximum"), "{}", answer.message());
}

#[tokio::test]
async fn lists_of_models_have_the_dialect_of_their_reader() {
    let server = Server::new();
    let openai = server.get("/v1/models").await.json();
    assert_eq!(openai["object"], "list");
    assert_eq!(
        openai["data"][0],
        json!({
            "id": "deepseek-v4-flash", "object": "model", "created": 1_776_988_800,
            "owned_by": "deepseek",
        })
    );
    for (path, headers) in
        [("/v1/models", &[("anthropic-version", "2023-06-01")][..]), ("/anthropic/v1/models", &[])]
    {
        let list = server.send("GET", path, headers, "").await.json();
        assert_eq!(
            list["data"][0],
            json!({
                "type": "model", "id": "deepseek-v4-flash", "display_name": "deepseek-v4-flash",
                "created_at": "2026-04-24T00:00:00Z",
            })
        );
        assert_eq!(list["has_more"], false);
        assert_eq!(list["first_id"], "deepseek-v4-flash");
        assert_eq!(list["last_id"], "deepseek-flash");
    }
    for (name, id) in [
        ("deepseek-flash", "deepseek-flash"),
        ("deepseek-v4-flash%5B1m%5D", "deepseek-v4-flash[1m]"),
    ] {
        let path = format!("/v1/models/{name}");
        let one = server.get(&path).await.json();
        assert_eq!((&one["object"], &one["id"]), (&json!("model"), &json!(id)));
        let headers = [("anthropic-version", "2023-06-01")];
        let one = server.send("GET", &path, &headers, "").await.json();
        assert_eq!((&one["type"], &one["id"]), (&json!("model"), &json!(id)));
    }
}

#[tokio::test]
async fn the_balance_is_strings() {
    let balance = Server::new().get("/user/balance").await.json();
    assert_eq!(
        balance,
        json!({"is_available": true, "balance_infos": [{
            "currency": "USD", "total_balance": "0.00", "granted_balance": "0.00",
            "topped_up_balance": "0.00",
        }]})
    );
}

#[tokio::test]
async fn health_is_503_while_stopping() {
    let server = Server::new();
    assert_eq!(server.get("/health").await.json()["status"], "ok");
    server.app.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(server.get("/health").await.status(), 503);
}

#[tokio::test]
async fn health_is_503_once_the_worker_is_gone() {
    for (failure, word) in
        [(Failure::Stopping, "stopping"), (Failure::Fault("lost device".into()), "broken")]
    {
        let server = Server::new();
        *server.worker.closed.lock().unwrap() = Some(failure);
        let answer = server.get("/health").await;
        assert_eq!((answer.status(), answer.json()["status"].as_str()), (503, Some(word)));
        assert!(!answer.text.contains("device"), "reasons are for the log");
    }
}

#[tokio::test]
async fn metrics_count_requests_and_show_the_worker() {
    let server = Server::new();
    server.chat(json!({})).await;
    server.chat(json!({"n": 2})).await;
    let text = server.get("/metrics").await.text;
    for line in [
        "hadal_requests_total{endpoint=\"chat\",status=\"200\"} 1",
        "hadal_requests_total{endpoint=\"chat\",status=\"400\"} 1",
        "hadal_answers_active 0",
        "hadal_first_token_seconds_count 1",
        "hadal_worker_queued 0",
        "hadal_worker_completion_tokens_total 0",
        "hadal_expert_imbalance_ratio{layer=\"0\"} 2.25",
        "hadal_expert_imbalance_ratio{layer=\"1\"} 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
}

/// What stands in Prometheus' text form: a type before its samples, each name once.
#[tokio::test]
async fn metrics_are_of_prometheus_form() {
    let server = Server::new();
    server.chat(json!({})).await;
    let text = server.get("/metrics").await.text;
    let mut known = std::collections::HashMap::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert!(known.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let base = name.split('{').next().expect("a name");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| base.strip_suffix(end));
        let kind = known.get(base).or_else(|| family.and_then(|family| known.get(family)));
        let kind = kind.unwrap_or_else(|| panic!("{line}: no type before it"));
        assert_eq!(kind == "counter", base.ends_with("_total"), "{line}");
    }
}

#[tokio::test]
async fn the_load_of_experts_is_a_list_for_each_layer() {
    let server = Server::new();
    let answer = server.get("/status/experts").await.json();
    assert_eq!(answer, json!({"layers": [[1, 0, 3], [1, 1, 1]]}));
}

#[tokio::test]
async fn the_description_names_every_path() {
    let description = Server::new().get("/openapi.json").await.json();
    let paths = description["paths"].as_object().expect("paths");
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{id}",
        "/user/balance",
        "/health",
        "/metrics",
        "/status",
        "/status/experts",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let answer = Server::new().get("/").await;
    assert!(answer.header("content-security-policy").unwrap().contains("default-src 'none'"));
    for word in ["http://", "https://", "<link", "@import", "src="] {
        assert!(!answer.text.contains(word), "the page has {word}");
    }
}
