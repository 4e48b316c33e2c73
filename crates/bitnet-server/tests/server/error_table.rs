//! Every error of the table is answered by a running server: here, or in another file of these tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitnet_inference::{Engine, EngineLoad, Error, Event, RequestId, ValidRequest};
use bitnet_server::auth::RouteAccess;
use bitnet_server::engine_thread::{CHANNEL_CAPACITY, Turns};
use bitnet_server::error::code::{ERRORS, ErrorCode};
use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::{App, ServerLimits, routes};
use serde_json::{Value, json};

use crate::access::{send_with, server_with_key};
use crate::client::{Answer, Connection};
use crate::fixture::{Gated, TestServer, engine, until};
use crate::managed::{Managed, SWAP, swap_order};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const JSON: &str = "Content-Type: application/json\r\n";

/// Where an error is produced.
enum Produced {
    Here(Answer),
    /// By this test of another file, which holds the code to be what it is.
    By(&'static str),
}

/// A code that is new has no arm: this does not compile until it has a test.
fn produce(code: ErrorCode) -> Produced {
    let server = TestServer::start;
    Produced::Here(match code {
        ErrorCode::InvalidJson => send(&server(), CHAT, JSON, "{"),
        ErrorCode::MissingField => server().post(CHAT, &json!({})),
        ErrorCode::InvalidValue => server().post(COMPLETIONS, &json!({"prompt": "x", "top_p": 2})),
        ErrorCode::UnsupportedParameter => {
            server().post(COMPLETIONS, &json!({"prompt": "x", "guided_regex": "a*"}))
        }
        ErrorCode::ContextLengthExceeded => server().post(
            COMPLETIONS,
            &json!({"prompt": "x", "max_tokens": 1_000_000}),
        ),
        ErrorCode::QuantizationUnavailable => {
            let body = json!({"prompt": "x", "quantization_preference": "tl9"});
            server().post("/v1/inference", &body)
        }
        ErrorCode::MissingApiKey => {
            let (server, _key) = server_with_key(&[], 0);
            server.post(COMPLETIONS, &once())
        }
        ErrorCode::InvalidApiKey => {
            let (server, key) = server_with_key(&[], 0);
            send_with(&server, &key.replace("bk_", "bk_0"), COMPLETIONS, &once())
        }
        ErrorCode::InsufficientRole => {
            let (server, key) = server_with_key(&[], 0);
            let table = routes::access();
            let admin = table
                .routes()
                .find(|(method, _, access)| *method == "POST" && *access == RouteAccess::Admin);
            let (_, path, _) = admin.expect("administrators can do something");
            send_with(&server, &key, path, &json!({}))
        }
        ErrorCode::HostNotAllowed => {
            let server = server();
            let mut connection = Connection::open(server.address);
            connection.send_raw(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n");
            connection.answer()
        }
        ErrorCode::ModelNotFound => {
            server().post(COMPLETIONS, &json!({"model": "gpt", "prompt": "x"}))
        }
        ErrorCode::RequestNotFound => server().post("/v1/requests/mine/cancel", &json!({})),
        ErrorCode::NotFound => server().get("/nothing"),
        ErrorCode::MethodNotAllowed => server().get(CHAT),
        ErrorCode::ClientTimeout => {
            let server = TestServer::with_limits(ServerLimits {
                body_timeout: Duration::from_millis(20),
                ..ServerLimits::default()
            });
            let mut slow = Connection::open(server.address);
            let head = format!(
                "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: 9\r\n\r\n"
            );
            slow.send_raw(head.as_bytes());
            slow.answer()
        }
        ErrorCode::BodyTooLarge => {
            let server = TestServer::with_limits(ServerLimits {
                max_body: 100,
                ..ServerLimits::default()
            });
            server.post(COMPLETIONS, &json!({"prompt": "x".repeat(200)}))
        }
        ErrorCode::UnsupportedMediaType => {
            send(&server(), CHAT, "Content-Type: text/plain\r\n", "{}")
        }
        ErrorCode::RateLimitExceeded => {
            let (server, key) = server_with_key(&[], 1);
            assert_eq!(send_with(&server, &key, COMPLETIONS, &once()).status, 200);
            send_with(&server, &key, COMPLETIONS, &once())
        }
        ErrorCode::QueueFull => queue_full(),
        ErrorCode::NotReady => {
            let app = App::new(ServerLimits::default());
            TestServer::without_model(app).post(COMPLETIONS, &once())
        }
        ErrorCode::ShuttingDown => {
            let server = server();
            server.app.start_draining();
            server.post(COMPLETIONS, &once())
        }
        ErrorCode::Overloaded => {
            let server = TestServer::with_limits(ServerLimits {
                queue_timeout: Some(Duration::ZERO),
                ..ServerLimits::default()
            });
            server.post(COMPLETIONS, &once())
        }
        ErrorCode::DeadlineExceeded => {
            let headers = format!("{JSON}X-Request-Timeout: 1e-6\r\n");
            send(&server(), COMPLETIONS, &headers, &once().to_string())
        }
        ErrorCode::SlowReader => slow_reader(),
        ErrorCode::SwapInProgress => {
            let managed = Managed::with(|policy| ModelPolicy {
                rolling_step: Duration::from_secs(50),
                ..policy
            });
            let mut order = swap_order("v2.gguf");
            order["swap_strategy"] = "rolling".into();
            let _first = managed.begin_as_admin("POST", SWAP, &order);
            until("some requests go to the new version", || {
                managed.status("stories")["rolling_percent"] == 10
            });
            managed.swap(&order)
        }
        ErrorCode::ModelLoading => {
            let managed = Managed::start();
            let held = managed.server.model(); // as a request does until it ends
            let unload = "/v1/models/stories/unload";
            let _unload = managed.begin_as_admin("POST", unload, &Value::Null);
            until("it is leaving", || {
                managed.status("stories")["status"] == "unloading"
            });
            let refused = managed.ask("POST", COMPLETIONS, &once());
            drop(held);
            refused
        }
        ErrorCode::InternalError => {
            return Produced::By("a_panic_of_the_engine_ends_its_requests_and_not_the_process");
        }
        ErrorCode::RequestCancelled => {
            return Produced::By("requests_of_every_route_that_runs_a_model_can_be_cancelled");
        }
        ErrorCode::InvalidRequest | ErrorCode::UriTooLong | ErrorCode::HeadersTooLarge => {
            return Produced::By("heads_that_no_route_sees_are_answered_like_every_other_error");
        }
        ErrorCode::ModelBusy => {
            return Produced::By("an_unload_that_is_given_up_leaves_everything_as_it_was");
        }
        ErrorCode::ModelAlreadyLoaded => {
            let order = json!({"model_path": "v2.gguf", "model_id": "stories"});
            Managed::start().ask("POST", "/v1/models/load", &order)
        }
        ErrorCode::ModelIdTaken => {
            return Produced::By("a_name_is_given_to_no_other_file_without_a_word");
        }
        ErrorCode::NoPreviousVersion => {
            Managed::start().ask("POST", "/v1/models/stories/rollback", &Value::Null)
        }
        ErrorCode::NoRoomForModel => {
            return Produced::By(
                "who_asks_for_what_pinned_models_leave_no_room_for_is_not_told_to_try_again",
            );
        }
        ErrorCode::ModelNotAllowed
        | ErrorCode::ValidationFailed
        | ErrorCode::ModelIncompatible
        | ErrorCode::ValidationTimeout => {
            return Produced::By("what_is_no_model_is_told_in_figures_and_changes_nothing");
        }
    })
}

/// An engine that draws every token thousands of times before anybody can read one.
struct Flooding(Arc<Engine>);

impl Turns for Flooding {
    fn enqueue(&self, request: ValidRequest) -> Result<RequestId, Error> {
        self.0.enqueue(request)
    }

    fn turn(&self, events: &mut Vec<Event>) -> bool {
        let worked = self.0.turn(events);
        if let Some(event) = events.first().cloned() {
            let again = std::iter::repeat_n(event, 10 * CHANNEL_CAPACITY);
            events.splice(0..0, again);
        }
        worked
    }

    fn cancel(&self, request: RequestId) {
        self.0.cancel(request);
    }

    fn has_run(&self, request: RequestId) -> bool {
        self.0.has_run(request)
    }

    fn current_load(&self) -> EngineLoad {
        self.0.current_load()
    }
}

fn slow_reader() -> Answer {
    let engine = engine();
    let turns = Arc::new(Flooding(engine.clone()));
    let server = TestServer::with_turns(engine, turns, ServerLimits::default());
    let body = json!({"prompt": "Once", "max_tokens": 50, "ignore_eos": true});
    let answer = server.post(COMPLETIONS, &body);
    until("its place is free", || {
        server.model().admission.waiting() == (0, 0)
    });
    answer
}

fn once() -> Value {
    json!({"prompt": "Once", "max_tokens": 1})
}

fn send(server: &TestServer, path: &str, headers: &str, body: &str) -> Answer {
    let mut connection = Connection::open(server.address);
    connection.send("POST", path, headers, body);
    connection.answer()
}

fn queue_full() -> Answer {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits {
        max_queued_requests: 0,
        ..ServerLimits::default()
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let mut first = Connection::open(server.address);
    let four = json!({"prompt": "Once", "max_tokens": 1, "n": 4});
    first.send("POST", COMPLETIONS, JSON, &four.to_string());
    let model = server.model();
    until("all places are taken, their tokens counted", || {
        !model.admission.has_room() && model.admission.waiting().1 > 0
    });
    // One that could never run is refused all the same: a refusal looks at no text.
    let endless = json!({"prompt": "x ".repeat(100_000), "max_tokens": 1});
    let places = model.admission.waiting();
    let refused = server.post(COMPLETIONS, &endless);
    assert_eq!(model.admission.waiting(), places);
    gated.open();
    assert_eq!(first.answer().status, 200);
    refused
}

#[test]
fn every_error_of_the_table_is_answered() {
    let others = sources();
    for row in ERRORS {
        let (name, status) = (row.name, row.status.as_u16());
        let answer = match produce(row.code) {
            Produced::Here(answer) => answer,
            Produced::By(test) => {
                let begin = format!("#[test]\nfn {test}() {{\n");
                let (_, body) = others.split_once(&begin).expect(test);
                let (body, _) = body.split_once("\n}\n").expect("its end");
                assert!(body.contains(name), "{test} has no {name}");
                continue;
            }
        };
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, error["code"].as_str()),
            (status, Some(name)),
            "{error}"
        );
        assert_eq!(error["type"], row.kind, "{name}");
        let id = answer.header("x-request-id").expect("every answer has one");
        assert_eq!(error["request_id"], id, "{name}");
        for field in ["message", "hint"] {
            assert!(
                error[field].as_str().is_some_and(|text| !text.is_empty()),
                "{error}"
            );
        }
        let text = |field: &str| error[field].as_str().unwrap().to_owned();
        assert!(
            !text("message").contains(&text("hint")),
            "it is said twice: {error}"
        );
        let again = [408, 409, 429, 503, 504].contains(&status);
        assert_eq!(error["retryable"], again, "{name}");
        let after = answer.header("retry-after").map(str::parse::<u64>);
        assert!(
            after.is_none_or(|after| again && after.is_ok_and(|after| after >= 1)),
            "{name}"
        );
        assert!(
            status != 429 || answer.header("retry-after").is_some(),
            "{name}"
        );
    }
}

/// The other files of these tests, in one.
fn sources() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server");
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_stem().is_some_and(|stem| stem != "error_table") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    text
}
