//! A forward pass that fails, or panics: who is told what, and who notices nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_inference::logits::Row;
use bitnet_inference::{Batch, Engine, Error, HeadWork, Observer, Runner, RunnerShape, Traffic};
use bitnet_server::ServerLimits;
use serde_json::json;

use crate::client::Connection;
use crate::fixture::{Gated, MODEL, TestServer, load_options, until};

/// What a pass does instead of running.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Fails,
    Panics,
    /// It computes what is no number.
    ComputesNaN,
}

/// A runner one pass of which goes wrong.
struct FaultyRunner {
    runner: Box<dyn Runner>,
    fault: Fault,
    passes_before: Arc<AtomicUsize>,
    nan: Option<Vec<f32>>, // [vocab_size], the logits of a bad pass
}

impl Runner for FaultyRunner {
    fn shape(&self) -> RunnerShape {
        self.runner.shape()
    }

    fn run(&mut self, batch: &Batch, observer: Option<&mut dyn Observer>) -> Result<(), Error> {
        // Wraps around after the one: it never comes back to it.
        self.nan = None;
        if self.passes_before.fetch_sub(1, Ordering::Relaxed) == 0 {
            match self.fault {
                Fault::Panics => panic!("injected by a test"),
                Fault::ComputesNaN => self.nan = Some(vec![f32::NAN; self.shape().vocab_size]),
                Fault::Fails => {
                    return Err(Error::TooFewTokens {
                        ctx: 0,
                        needed: 0,
                        found: 0,
                    });
                }
            }
        }
        self.runner.run(batch, observer)
    }

    fn logits(&self) -> &[f32] {
        self.runner.logits()
    }

    fn row(&self, row: usize) -> Row<'_> {
        match &self.nan {
            Some(nan) => Row::Full(nan),
            None => self.runner.row(row),
        }
    }

    fn head_work(&self) -> HeadWork {
        self.runner.head_work()
    }

    fn read_hidden(&self, row: usize, out: &mut [f32]) {
        self.runner.read_hidden(row, out);
    }

    fn traffic(&self) -> Traffic {
        self.runner.traffic()
    }
}

/// Three requests that run together: the statuses and bodies of their answers.
fn three_requests(server: &TestServer, gated: &Gated) -> Vec<(u16, String)> {
    let mut connections: Vec<Connection> = [true, true, false]
        .map(|stream| {
            let body =
                json!({"prompt": "Once", "max_tokens": 20, "ignore_eos": true, "stream": stream});
            let mut connection = Connection::open(server.address);
            let headers = "Content-Type: application/json\r\n";
            connection.send("POST", "/v1/completions", headers, &body.to_string());
            connection
        })
        .into();
    let model = server.model();
    // What is in the queue before the first pass is in all of them.
    until("all of them are queued", || {
        model.handle.load().waiting == 3
    });
    gated.open();
    let answers = connections.iter_mut().map(Connection::answer);
    answers.map(|answer| (answer.status, answer.body)).collect()
}

fn server(fault: Fault, passes: usize) -> (TestServer, Arc<Gated>, Arc<AtomicUsize>) {
    let passes_before = Arc::new(AtomicUsize::new(passes));
    let counter = passes_before.clone();
    let engine = Engine::load_with_runner(MODEL, &load_options(), move |runner| {
        Box::new(FaultyRunner {
            runner,
            fault,
            passes_before: counter,
            nan: None,
        })
    });
    let engine = Arc::new(engine.unwrap());
    let gated = Gated::idle(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    (server, gated, passes_before)
}

fn assert_internal_error((status, body): &(u16, String)) {
    assert!(body.contains("\"code\":\"internal_error\""), "{body}");
    assert!(!body.contains("[DONE]"), "{body}");
    // A stream has begun with 200 before its first pass.
    let streamed = body.starts_with("data: ");
    assert_eq!(*status, if streamed { 200 } else { 500 }, "{body}");
}

#[test]
fn a_pass_that_fails_ends_the_requests_in_it_and_no_later_one() {
    ends_the_requests_in_it(Fault::Fails);
}

/// A broken model is no fault of whoever asks it.
#[test]
fn logits_that_are_no_numbers_are_an_error_of_the_server() {
    ends_the_requests_in_it(Fault::ComputesNaN);
}

fn ends_the_requests_in_it(fault: Fault) {
    let (server, gated, passes) = server(fault, 8);
    for answer in &three_requests(&server, &gated) {
        assert_internal_error(answer);
    }
    assert!(passes.load(Ordering::Relaxed) > 8, "the pass was reached");
    let body = json!({"prompt": "Once", "max_tokens": 5, "ignore_eos": true});
    let later = server.post("/v1/completions", &body).json();
    assert_eq!(later["usage"]["completion_tokens"], 5);
    for probe in ["/health/live", "/health/ready", "/health"] {
        assert_eq!(server.get(probe).status, 200, "{probe}");
    }
    let load = server.model().handle.load();
    assert_eq!((load.waiting, load.running, load.kv_blocks_used), (0, 0, 0));
    assert_eq!(server.model().admission.waiting(), (0, 0));
}

#[test]
fn a_pass_that_panics_ends_all_requests_and_the_process_goes_on_telling() {
    let (server, gated, _) = server(Fault::Panics, 8);
    for answer in &three_requests(&server, &gated) {
        assert_internal_error(answer);
    }
    for probe in ["/health/live", "/health/ready", "/health"] {
        assert_eq!(server.get(probe).status, 503, "{probe}");
    }
    let body = json!({"prompt": "Once", "max_tokens": 5});
    let later = server.post("/v1/completions", &body);
    assert_eq!(later.status, 500);
    assert_eq!(later.json()["error"]["code"], "internal_error");
    // What needs no pass is answered as before.
    for route in ["/v1/models", "/metrics", "/version"] {
        assert_eq!(server.get(route).status, 200, "{route}");
    }
    let tokens = server.post("/tokenize", &json!({"content": "Once"}));
    assert_eq!(tokens.status, 200);
    assert_eq!(server.model().admission.waiting(), (0, 0));
}
