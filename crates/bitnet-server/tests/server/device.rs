//! A device that fails in the middle of answers: the CPU takes over, and nobody notices.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use bitnet_inference::{
    Batch, Engine, Error, GenerateOptions, HeadWork, LoadOptions, Observer, Runner, RunnerShape,
    Traffic, logits::Row,
};
use bitnet_server::ServerLimits;
use serde_json::{Value, json};

use crate::fixture::{MODEL, TestServer, load_options};

/// Runs on a device of the test's, which fails for good after so many passes.
struct Failing {
    device: Box<dyn Runner>,
    cpu: Option<Box<dyn Runner>>,
    passes_left: usize,
}

impl Runner for Failing {
    fn shape(&self) -> RunnerShape {
        self.device.shape()
    }

    fn run(&mut self, batch: &Batch, observer: Option<&mut dyn Observer>) -> Result<(), Error> {
        if self.passes_left == 0 {
            return Err(Error::Device {
                device: "test".into(),
                reason: "the bus fell off".into(),
            });
        }
        self.passes_left -= 1;
        self.device.run(batch, observer)
    }

    fn logits(&self) -> &[f32] {
        self.device.logits()
    }

    fn row(&self, row: usize) -> Row<'_> {
        self.device.row(row)
    }

    fn head_work(&self) -> HeadWork {
        self.device.head_work()
    }

    fn read_hidden(&self, row: usize, out: &mut [f32]) {
        self.device.read_hidden(row, out);
    }

    fn traffic(&self) -> Traffic {
        self.device.traffic()
    }

    fn device(&self) -> &'static str {
        "test"
    }

    fn fallback(&mut self) -> Option<Box<dyn Runner>> {
        self.cpu.take()
    }
}

/// An engine on a device that fails for good after so many passes, and has nothing to fall back on.
pub fn engine_failing_after(passes: usize, path: &Path, options: &LoadOptions) -> Arc<Engine> {
    let engine = Engine::load_with_runner(path, options, |device| {
        Box::new(Failing {
            device,
            cpu: None,
            passes_left: passes,
        })
    });
    Arc::new(engine.unwrap())
}

/// An engine whose device runs this many passes; a second load of the model is what the CPU has.
fn failing_engine(passes: usize, with_fallback: bool) -> Arc<Engine> {
    let options = load_options();
    let mut spare = None;
    Engine::load_with_runner(MODEL, &options, |runner| {
        let shape = runner.shape();
        spare = Some(runner);
        Box::new(Nothing(shape))
    })
    .unwrap();
    let engine = Engine::load_with_runner(MODEL, &options, |device| {
        Box::new(Failing {
            device,
            cpu: spare.filter(|_| with_fallback),
            passes_left: passes,
        })
    });
    Arc::new(engine.unwrap())
}

/// A server of such an engine.
fn server(passes: usize, with_fallback: bool) -> TestServer {
    let engine = failing_engine(passes, with_fallback);
    TestServer::with_turns(engine.clone(), engine, ServerLimits::default())
}

/// Stands where a runner was taken out of an engine that is thrown away.
struct Nothing(RunnerShape);

impl Runner for Nothing {
    fn shape(&self) -> RunnerShape {
        self.0
    }

    fn run(&mut self, _: &Batch, _: Option<&mut dyn Observer>) -> Result<(), Error> {
        unreachable!("nobody asks this engine")
    }

    fn logits(&self) -> &[f32] {
        &[]
    }

    fn row(&self, _: usize) -> Row<'_> {
        unreachable!("nothing was run")
    }

    fn head_work(&self) -> HeadWork {
        HeadWork::default()
    }

    fn read_hidden(&self, _: usize, _: &mut [f32]) {
        unreachable!("nothing was run")
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

fn request(seed: usize) -> Value {
    json!({"prompt": "Once upon a time there was a fox who", "max_tokens": 40, "seed": seed,
        "temperature": 1.1, "ignore_eos": true})
}

#[test]
fn the_cpu_replays_the_pass_in_which_a_device_failed_and_the_bytes_are_the_same() {
    let usual = TestServer::start();
    let text = |server: &TestServer, seed| {
        let answer = server.post("/v1/inference", &request(seed));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["text"].as_str().unwrap().to_owned()
    };
    let expected: Vec<String> = (0..6).map(|seed| text(&usual, seed)).collect();

    // It fails in a prompt, in the first draws, in the middle of six answers.
    for passes in [0, 3, 25] {
        let server = server(passes, true);
        let (server, text) = (&server, &text);
        let device = || server.get("/v1/devices").json()["models"][0]["device"].clone();
        assert_eq!(device(), "test");
        let found: Vec<String> = thread::scope(|scope| {
            let asked: Vec<_> = (0..6)
                .map(|seed| scope.spawn(move || text(server, seed)))
                .collect();
            asked
                .into_iter()
                .map(|asked| asked.join().unwrap())
                .collect()
        });
        assert_eq!(found, expected, "after {passes} passes");
        let answer = server.post("/v1/inference", &request(0)).json();
        assert_eq!(answer["device_used"], "cpu");
        assert_eq!(device(), "cpu");
        let metrics = server.get("/metrics").body;
        let count = "bitnet_device_failures_total{model=\"stories\"} 1";
        assert!(metrics.contains(count), "{metrics}");
        assert_eq!(server.get("/health/ready").status, 200);
    }
}

#[test]
fn counters_go_on_where_a_device_that_failed_had_left_them() {
    let engine = failing_engine(25, true);
    let options = GenerateOptions {
        max_tokens: Some(40),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut passes = 0;
    let tokens = engine.generate("Once upon a time", &options).unwrap();
    for token in tokens {
        token.unwrap();
        let counted = engine.traffic().passes;
        assert!(counted >= passes, "{counted} after {passes}");
        passes = counted;
    }
    assert_eq!(engine.current_load().device_failures, 1);
    // A token each, but for the first one and the one for which the CPU ran all of the text before it.
    assert_eq!(passes, 38);
}

#[test]
fn a_device_without_a_fallback_ends_its_requests_with_an_error() {
    let server = server(3, false);
    let failed = server.post("/v1/inference", &request(0));
    assert_eq!(failed.status, 500);
    assert_eq!(failed.json()["error"]["code"], "internal_error");
    assert_eq!(server.get("/health/live").status, 200);
}
