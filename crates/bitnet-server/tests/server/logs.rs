//! What is written about requests, and what is not: prompts, answers, keys, and lines that strangers forge.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use bitnet_server::auth::Role;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::ServerConfig;
use bitnet_server::config::print::to_yaml;
use bitnet_server::config::value::LogFormat;
use bitnet_server::log::LogFilter;
use bitnet_server::request_log::RequestLog;
use serde_json::{Value, json};

use crate::access::{config_with_keys, send_with};
use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine, until};
use crate::managed::{Managed, SWAP, swap_order};

/// Where a log goes that a test reads.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lines(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// How the work ended that a request began, by the audit log.
    fn end_of(&self, request: &str) -> Value {
        let is_wanted = |line: &Value| line["request"] == request && line["event"] == "ended";
        let found = || self.lines().into_iter().find(is_wanted);
        until("the end", || found().is_some());
        found().unwrap()
    }

    /// The line of a request, which is written when its answer has gone.
    fn line_of(&self, request: &str) -> Value {
        let is_wanted = |line: &Value| line["request"] == request && line["event"] != "ended";
        let found = || self.lines().into_iter().find(is_wanted);
        until("the line", || found().is_some());
        found().unwrap()
    }
}

/// A server with a key whose logs are kept, and the key.
fn server() -> (TestServer, String, Shared, Shared) {
    let (access, audit) = (Shared::default(), Shared::default());
    let to = |log: &Shared| Box::new(log.clone());
    let log = RequestLog::to(Some(LogFormat::Json), to(&access), to(&audit)).unwrap();
    let (config, keys) = config_with_keys(&[], &[RateLimits::default()]);
    (
        TestServer::with_log(config, log),
        keys[0].clone(),
        access,
        audit,
    )
}

#[test]
fn a_line_tells_who_asked_what_and_what_came_of_it() {
    let (server, key, access, _) = server();
    let ask = |id: &str, headers: &str, body: &str| {
        let mut connection = Connection::open(server.address);
        let headers = format!("X-Request-Id: {id}\r\n{headers}");
        connection.send("POST", "/v1/completions", &headers, body);
        connection.answer()
    };
    let with_key = format!("Authorization: Bearer {key}\r\n");
    let answer = ask(
        "good",
        &with_key,
        r#"{"prompt": "Once", "max_tokens": 2, "stream": true}"#,
    );
    let line = access.line_of("good");
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["bytes"], answer.body.len(), "{line}");
    assert_eq!(line["complete"], true, "{line}");
    assert_eq!(line["route"], "/v1/completions", "{line}");
    let id = key.split('_').nth(1).unwrap();
    assert_eq!(line["who"], format!("key:{id}"), "{line}");
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    ask("bad", &with_key, "{}");
    assert_eq!(access.line_of("bad")["code"], "missing_field");
    ask("nobody", "", "{}");
    let line = access.line_of("nobody");
    let address = json!("address:127.0.0.1");
    assert_eq!((&line["status"], &line["who"]), (&json!(401), &address));
    ask("guessing", "Authorization: Bearer bk_guess\r\n", "{}");
    let line = access.line_of("guessing");
    assert_eq!((&line["status"], &line["who"]), (&json!(401), &address));
}

#[test]
fn a_client_that_leaves_is_logged_as_gone() {
    let access = Shared::default();
    let to = Box::new(access.clone());
    let log = RequestLog::to(Some(LogFormat::Json), to, Box::new(io::sink())).unwrap();
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let config = ServerConfig::default();
    let server = TestServer::with_turns_and_log(engine, gated.clone(), config, log);
    gated.allow(3); // the answer cannot end before its client leaves
    let mut connection = Connection::open(server.address);
    let body =
        r#"{"prompt": "Once", "max_tokens": 200, "n": 4, "stream": true, "ignore_eos": true}"#;
    connection.send("POST", "/v1/completions", "X-Request-Id: gone\r\n", body);
    while !connection.line().starts_with("data: ") {}
    drop(connection);
    let line = access.line_of("gone");
    gated.open();
    assert_eq!(
        (&line["status"], &line["complete"]),
        (&json!(200), &json!(false)),
        "{line}"
    );
}

#[test]
fn the_audit_log_tells_how_what_was_begun_has_ended() {
    let audit = Shared::default();
    let to = Box::new(audit.clone());
    let log = RequestLog::to(None, Box::new(io::sink()), to).unwrap();
    let managed = Managed::with_log(log);
    let begin = |name: &str, path: &str, body: &Value| {
        let mut connection = Connection::open(managed.server.address);
        let head = format!(
            "X-Request-Id: {name}\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n",
            managed.admin_key()
        );
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        connection.send("POST", path, &head, &body);
        connection
    };
    let load = json!({"model_path": "cut.gguf", "model_id": "new"});
    let answer = begin("damaged", "/v1/models/load", &load).answer();
    assert_eq!(answer.status, 202, "{}", answer.body);
    let begun = audit.line_of("damaged");
    assert_eq!(begun["outcome"], "begun", "{begun}");
    assert_eq!(begun["event"], "answered", "{begun}");
    let end = audit.end_of("damaged");
    assert_eq!(end["outcome"], "model_incompatible", "{end}");
    assert_eq!(end["status"], 422, "{end}");
    for field in ["who", "peer", "action", "target"] {
        assert_eq!(end[field], begun[field], "{field}");
    }
    assert_ne!(end["who"], Value::Null, "{end}");
    let reason = end["reason"].as_str().unwrap();
    let folder = managed.models.display().to_string();
    assert!(!reason.is_empty() && !reason.contains(&folder), "{reason}");

    // A client that leaves before its swap is done.
    let mut order = swap_order("v2.gguf");
    order["swap_strategy"] = "rolling".into();
    let client = begin("left", SWAP, &order);
    let has_ended = || audit.lines().iter().any(|line| line["request"] == "left");
    until("the swap is under way", || {
        managed.status("stories")["progress"] != Value::Null || has_ended()
    });
    drop(client);
    let end = audit.end_of("left");
    assert_eq!(
        (&end["outcome"], &end["reason"]),
        (&json!("done"), &Value::Null)
    );
    audit.line_of("left");

    for (name, path) in [("back", "rollback"), ("out", "unload")] {
        let path = format!("/v1/models/stories/{path}");
        assert_eq!(begin(name, &path, &Value::Null).answer().status, 200);
        assert_eq!(audit.end_of(name)["outcome"], "done", "{name}");
        assert_eq!(audit.line_of(name)["outcome"], "done", "{name}");
    }
    // What was refused before it began has no end.
    let refused = begin("refused", SWAP, &json!({"strategy": "rolling"})).answer();
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(audit.line_of("refused")["outcome"], "unsupported_parameter");
    begin("last", "/v1/models/new/unload", &Value::Null).answer();
    audit.end_of("last");
    let of = |name: &str| {
        audit
            .lines()
            .iter()
            .filter(|line| line["request"] == name)
            .count()
    };
    assert_eq!((of("refused"), of("damaged"), of("left")), (1, 2, 2));
}

#[test]
fn the_audit_log_tells_what_the_end_of_the_server_cut_short() {
    let audit = Shared::default();
    let to = Box::new(audit.clone());
    let log = RequestLog::to(None, Box::new(io::sink()), to).unwrap();
    let managed = Managed::with_log(log);
    let held = managed.server.model();
    let path = "/v1/models/stories/unload";
    let mut unload = managed.begin_as_admin("POST", path, &Value::Null);
    until("it waits for who holds the model", || {
        managed.status("stories")["status"] == "unloading"
    });
    managed.server.ask_to_stop();
    let told = unload.answer();
    assert!(told.is_error(503, "shutting_down"), "{}", told.body);
    managed.server.join();
    let line_of = |event: &str| {
        let lines = audit.lines().into_iter();
        let mut of_event = lines.filter(|line| line["event"] == event);
        of_event.find(|line| line["action"] == "POST /v1/models/{id}/unload")
    };
    until("its end", || line_of("ended").is_some());
    let end = line_of("ended").unwrap();
    assert_eq!(
        (&end["outcome"], &end["status"]),
        (&json!("shutting_down"), &json!(503)),
        "{end}"
    );
    drop(held);
}

#[test]
fn what_administrators_do_and_who_is_refused_is_audited() {
    let audit = Shared::default();
    let to = Box::new(audit.clone());
    let log = RequestLog::to(None, Box::new(io::sink()), to).unwrap();
    let (config, keys) = config_with_keys(&[], &[RateLimits::default()]);
    let new = NewKey::new("operator", Role::Admin, RateLimits::default());
    let file = config.auth.keys_file.clone().unwrap();
    let admin = key_file::add(&file, &new).unwrap().reveal().to_owned();
    let server = TestServer::with_log(config, log);
    let ask = |name: &str, key: Option<&str>, method: &str, path: &str, body: &str| {
        let mut connection = Connection::open(server.address);
        let key = key.map_or(String::new(), |key| {
            format!("Authorization: Bearer {key}\r\n")
        });
        connection.send(
            method,
            path,
            &format!("X-Request-Id: {name}\r\n{key}"),
            body,
        );
        connection.answer().status
    };
    let who = |key: &str| format!("key:{}", key.split('_').nth(1).unwrap());
    let load = r#"{"model_id": "new", "model_path": "/etc/passwd"}"#;
    assert_eq!(
        ask("load", Some(&admin), "POST", "/v1/models/load", load),
        403
    );
    let line = audit.line_of("load");
    assert_eq!(line["who"], who(&admin), "{line}");
    assert_eq!(line["action"], "POST /v1/models/load", "{line}");
    assert_eq!(
        line["target"], "/v1/models/load model_id=new model_path=/etc/passwd",
        "{line}"
    );
    assert_eq!(line["outcome"], "model_not_allowed", "{line}");

    assert_eq!(
        ask("theirs", Some(&keys[0]), "POST", "/v1/models/load", load),
        403
    );
    let line = audit.line_of("theirs");
    assert_eq!(
        (&line["who"], &line["outcome"]),
        (&json!(who(&keys[0])), &json!("insufficient_role"))
    );
    assert_eq!(ask("nobody", None, "DELETE", "/v1/models/stories", ""), 401);
    let line = audit.line_of("nobody");
    assert_eq!(
        (&line["who"], &line["outcome"]),
        (&json!("address:127.0.0.1"), &json!("missing_api_key"))
    );
    assert_eq!(line["peer"], "127.0.0.1", "{line}");

    assert_eq!(
        ask("delete", Some(&admin), "DELETE", "/v1/models/stories", ""),
        200
    );
    let line = audit.line_of("delete");
    assert_eq!(
        (&line["status"], &line["outcome"]),
        (&json!(200), &json!("done"))
    );
    assert_eq!(line["target"], "/v1/models/stories");
    // Whoever does not wait for the answer is told of all the same.
    let mut impatient = Connection::open(server.address);
    let head = format!(
        "X-Request-Id: impatient\r\nAuthorization: Bearer {admin}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n"
    );
    impatient.send_raw(
        format!("POST /v1/models/load HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{{").as_bytes(),
    );
    drop(impatient);
    let line = audit.line_of("impatient");
    assert_eq!(line["who"], who(&admin), "{line}");
    assert_eq!(line["peer"], "127.0.0.1", "{line}");
    assert_ne!(line["outcome"], "done", "{line}");
    // What anybody may do is no action of administrators.
    ask("list", Some(&admin), "GET", "/v1/models", "");
    ask("last", Some(&admin), "POST", "/v1/models/load", "{}");
    audit.line_of("last");
    assert!(audit.lines().iter().all(|line| line["request"] != "list"));
}

#[test]
fn orders_on_a_port_that_is_not_of_administrators_are_audited_too() {
    let audit = Shared::default();
    let to = Box::new(audit.clone());
    let log = RequestLog::to(None, Box::new(io::sink()), to).unwrap();
    let (config, keys) = config_with_keys(&[("admin-port", "0")], &[RateLimits::default()]);
    let server = TestServer::with_log(config, log);
    let headers = format!(
        "X-Request-Id: elsewhere\r\nAuthorization: Bearer {}\r\n",
        keys[0]
    );
    let mut connection = Connection::open(server.address);
    connection.send("POST", "/v1/models/load", &headers, "{}");
    assert_eq!(connection.answer().status, 404);
    let line = audit.line_of("elsewhere");
    assert_eq!(line["action"], "POST /v1/models/load", "{line}");
    assert_eq!(line["outcome"], "not_found", "{line}");
    let key = keys[0].split('_').nth(1).unwrap();
    assert_eq!(line["who"], format!("key:{key}"), "{line}");
}

#[test]
fn neither_logs_nor_errors_nor_metrics_show_keys_or_prompts() {
    let (server, key, access, audit) = server();
    let secret = key.rsplit('_').next().unwrap();
    let prompt = "Zanzibar the secret hippopotamus";
    let wrong = format!("bk_00000000_{}", "5ec4e7".repeat(11));
    let mut seen = String::new();
    for (key, path) in [
        (&key, "/v1/completions"),
        (&key, "/v1/inference"),
        (&key, "/tokenize"),
        (&key, "/nothing"),
        (&wrong, "/v1/completions"),
        (&key, "/v1/models/load"),
    ] {
        let answer = send_with(
            &server,
            key,
            path,
            &json!({"prompt": prompt, "max_tokens": 1}),
        );
        if path != "/tokenize" && answer.status != 200 {
            seen.push_str(&answer.body);
        }
        seen.push_str(&format!("{:?}", answer.headers));
    }
    let mut metrics = Connection::open(server.address);
    let last = format!("Authorization: Bearer {key}\r\nX-Request-Id: last\r\n");
    metrics.send("GET", "/metrics", &last, "");
    seen.push_str(&metrics.answer().body);
    access.line_of("last");
    for log in [&access, &audit] {
        seen.push_str(&String::from_utf8(log.0.lock().unwrap().clone()).unwrap());
    }
    for secret in [
        secret,
        &wrong[12..],
        "Zanzibar",
        "hippopotamus",
        "Bearer bk_",
    ] {
        assert!(!seen.contains(secret), "{secret} shows in\n{seen}");
    }
}

#[test]
fn the_printed_configuration_has_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "0123456789abcdef0123456789abcdef").unwrap();
    let path = path.to_str().unwrap();
    let flags = [
        ("jwt-algorithm", "HS256"),
        ("jwt-key-file", path),
        ("jwt-issuer", "issuer"),
        ("jwt-audience", "bitnet"),
    ];
    let (config, keys) = config_with_keys(&flags, &[RateLimits::default()]);
    let printed = to_yaml(&config);
    assert!(printed.contains(path), "{printed}");
    let secrets = [keys[0].as_str(), &keys[0][12..], "0123456789abcdef"];
    assert!(
        secrets.iter().all(|secret| !printed.contains(secret)),
        "{printed}"
    );
}

#[test]
fn strangers_forge_no_lines() {
    let (server, _, access, _) = server();
    for name in [
        "a\u{1b}[2Jb",
        "a\tb",
        "{\"request\":\"x\"} y",
        "a".repeat(200).as_str(),
    ] {
        let mut connection = Connection::open(server.address);
        connection.send_raw(
            format!(
                "GET /%0a%1b[31mforged HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {name}\r\n\r\n"
            )
            .as_bytes(),
        );
        let answer = connection.answer();
        // hyper refuses bytes that are no header by itself; what passes is not taken as a name.
        if let Some(id) = answer.header("x-request-id") {
            assert!(id.starts_with("req-"), "{id}");
            let line = access.line_of(id);
            assert_eq!(line["route"], Value::Null, "{line}");
        }
    }
    // Each is an object of one line, or `lines` fails.
    assert!(access.lines().iter().all(|line| line["log"] == "access"));
}

/// Set in the process that panics.
const PANICS: &str = "BITNET_TEST_JSON_LOG";

#[test]
fn as_json_a_panic_is_one_line_and_events_have_the_spans_around_them() {
    if std::env::var_os(PANICS).is_some() {
        let log = LogFilter::install("info", false).unwrap();
        log.set_format(LogFormat::Json);
        // The layer above has a span for each request.
        let server = TestServer::start();
        let body = json!({"prompt": "Once", "max_tokens": 1});
        assert_eq!(server.post("/v1/completions", &body).status, 200);
        let panicking = std::thread::Builder::new().name("victim".into());
        let ended = panicking.spawn(|| panic!("first\n{}", "second\u{1b}[2J"));
        assert!(ended.unwrap().join().is_err());
        return;
    }
    let this = "logs::as_json_a_panic_is_one_line_and_events_have_the_spans_around_them";
    let ended = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture", "--test-threads=1"])
        .env(PANICS, "1")
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{said}");
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let panic = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert_eq!(panic["message"], "panicked: first\nsecond\u{1b}[2J");
    assert_eq!(panic["fields"]["thread"], "victim");
    let place = panic["fields"]["place"].as_str().unwrap();
    assert!(place.contains("logs.rs:"), "{place}");
    let in_request = lines
        .iter()
        .find(|line| line["spans"]["request"].is_object())
        .unwrap();
    let id = in_request["spans"]["request"]["id"].as_str().unwrap();
    assert!(id.starts_with("req-"), "{in_request}");
}

#[test]
fn a_stream_that_fails_is_no_complete_success() {
    let access = Shared::default();
    let to = Box::new(access.clone());
    let log = RequestLog::to(Some(LogFormat::Json), to, Box::new(io::sink())).unwrap();
    let engine = engine();
    let gated = Gated::idle(engine.clone());
    let config = ServerConfig::default();
    let server = TestServer::with_turns_and_log(engine, gated.clone(), config, log);
    let mut connection = Connection::open(server.address);
    let body = r#"{"prompt": "Once", "max_tokens": 20, "stream": true, "ignore_eos": true}"#;
    connection.send("POST", "/v1/completions", "X-Request-Id: failing\r\n", body);
    let model = server.model();
    until("it is queued", || model.handle.load().waiting == 1);
    gated.allow(2);
    until("it draws", || model.handle.load().generated_tokens == 2);
    model.handle.end();
    assert_eq!(connection.answer().status, 200);
    let line = access.line_of("failing");
    assert_eq!(
        (&line["status"], &line["code"], &line["complete"]),
        (&json!(200), &json!("not_ready"), &json!(false)),
        "{line}"
    );
}
