//! A server with an administrator, and a directory of models: two versions of one, and what is none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitnet_inference::{Engine, LoadOptions};
use bitnet_server::auth::Role;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::{ServerConfig, Sources};
use bitnet_server::engine_thread::Turns;
use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::model_manager::version;
use bitnet_server::request_log::RequestLog;
use serde_json::{Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::{Gated, MODEL, TestServer, load_options, until};

/// A small model of another family.
const OTHER_FAMILY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bitnet-models/tests/data/qwen3-tiny/qwen3-tiny.qwen3.TQ2_0.gguf"
);

pub const SWAP: &str = "/v1/models/swap";

/// The order that puts a file of the directory in the place of the first model, validated in a moment.
pub fn swap_order(file: &str) -> Value {
    json!({"new_model_path": file, "target_model_id": "stories",
        "validation_config": {"validation_samples": 2}})
}

pub struct Managed {
    pub server: TestServer,
    pub models: PathBuf,
    admin: String,
    infer: String,
    _folder: tempfile::TempDir,
}

impl Managed {
    pub fn start() -> Managed {
        Managed::with(|policy| policy)
    }

    pub fn with(change: impl FnOnce(ModelPolicy) -> ModelPolicy) -> Managed {
        Managed::with_turns(RequestLog::default(), change, |engine| engine)
    }

    /// One that writes to `log`.
    pub fn with_log(log: RequestLog) -> Managed {
        Managed::with_turns(log, |policy| policy, |engine| engine)
    }

    /// One whose first model takes turns only when it is told to.
    pub fn gated() -> (Managed, Arc<Gated>) {
        let mut gate = None;
        let managed = Managed::with_turns(
            RequestLog::default(),
            |policy| policy,
            |engine| gate.insert(Gated::new(engine)).clone(),
        );
        (managed, gate.expect("it was made"))
    }

    fn with_turns<T: Turns>(
        log: RequestLog,
        change: impl FnOnce(ModelPolicy) -> ModelPolicy,
        turns: impl FnOnce(Arc<Engine>) -> Arc<T>,
    ) -> Managed {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let models = root.join("models");
        std::fs::create_dir(&models).unwrap();
        write_models(&models);
        let keys = root.join("keys.json");
        let key = |name, role| {
            let limits = RateLimits::default();
            let new = NewKey::new(name, role, limits);
            key_file::add(&keys, &new).unwrap().reveal().to_owned()
        };
        let (admin, infer) = (key("admin", Role::Admin), key("infer", Role::Infer));
        let sources = Sources {
            flags: vec![
                ("keys-file".into(), keys.display().to_string()),
                ("directories".into(), models.display().to_string()),
                ("max-concurrent-requests".into(), "4".into()),
            ],
            ..Sources::default()
        };
        let config = ServerConfig::load(&sources).unwrap();
        let options = LoadOptions {
            chat_template: None,
            ..load_options()
        };
        let policy = change(ModelPolicy {
            rolling_step: Duration::from_millis(50),
            min_residency: Duration::ZERO,
            unload_timeout: Duration::from_secs(55), // a client waits for a minute,
            ..ModelPolicy::new(&config, options).unwrap()
        });
        Managed {
            server: TestServer::with_models(config, policy, log, &models.join("v1.gguf"), turns),
            models,
            admin,
            infer,
            _folder: folder,
        }
    }

    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(&self.admin, method, path, body)
    }

    pub fn ask_as_user(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(&self.infer, method, path, body)
    }

    fn send(&self, key: &str, method: &str, path: &str, body: &Value) -> Answer {
        self.begin(key, method, path, body).answer()
    }

    /// Asks as the administrator and does not wait for the answer.
    pub fn begin_as_admin(&self, method: &str, path: &str, body: &Value) -> Connection {
        self.begin(&self.admin, method, path, body)
    }

    fn begin(&self, key: &str, method: &str, path: &str, body: &Value) -> Connection {
        let mut connection = Connection::open(self.server.address);
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        connection.send(method, path, &headers(key), &body);
        connection
    }

    pub fn admin_key(&self) -> &str {
        &self.admin
    }

    pub fn headers(&self) -> String {
        headers(&self.infer)
    }

    /// Puts a file of the directory in the place of the first model.
    pub fn swap_to(&self, file: &str) -> Answer {
        self.swap(&swap_order(file))
    }

    /// Swaps as `order` says.
    pub fn swap(&self, order: &Value) -> Answer {
        self.ask("POST", SWAP, order)
    }

    /// The status of a model.
    pub fn status(&self, id: &str) -> Value {
        let path = format!("/v1/models/{id}/status");
        self.ask("GET", &path, &Value::Null).json()
    }

    /// The metrics.
    pub fn metrics(&self) -> String {
        self.ask("GET", "/metrics", &Value::Null).body
    }

    /// Asks the first model for an answer of hundreds of passes that comes as a stream; it has begun.
    pub fn long_stream(&self) -> Connection {
        let long = json!({"prompt": "Once", "max_tokens": 200, "n": 16, "ignore_eos": true, "stream": true});
        let steps = || self.server.model().handle.load().steps;
        let before = steps();
        let stream = self.begin(&self.infer, "POST", "/v1/completions", &long);
        until("it runs", || steps() > before);
        stream
    }

    /// The version of a file of the directory.
    pub fn version(&self, file: &str) -> String {
        version::of_path(&self.models.join(file)).unwrap().0
    }
}

fn headers(key: &str) -> String {
    format!("Content-Type: application/json\r\nAuthorization: Bearer {key}\r\n")
}

/// Two versions, a file that is cut short, one with a number that is none, another family, and no model at all.
fn write_models(dir: &Path) {
    let v1 = std::fs::read(MODEL).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    write("v1.gguf", &v1);

    let key = b"rope.freq_base";
    let at = position(&v1, key) + key.len() + 4; // the type of the value comes first
    let mut v2 = v1.clone();
    v2[at..at + 4].copy_from_slice(&50f32.to_le_bytes());
    write("v2.gguf", &v2);

    write("cut.gguf", &v1[..v1.len() - 5000]);
    write("text.gguf", b"this is no model");

    // The embedding is the first tensor and F16; it is the head too.
    let mut nan = v1.clone();
    let row = data_start(&v1) + 300 * 256 * 2;
    nan[row..row + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    write("nan.gguf", &nan);
    std::fs::copy(OTHER_FAMILY, dir.join("family.gguf")).unwrap();
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    let found = bytes
        .windows(wanted.len())
        .rposition(|window| window == wanted);
    found.unwrap()
}

/// Where the tensors of a GGUF file start whose first one is the embedding.
fn data_start(bytes: &[u8]) -> usize {
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let mut at = position(bytes, b"token_embd.weight") - 8;
    for _ in 0..u64_at(8) {
        at += 8 + u64_at(at);
        let n_dims = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        at += 4 + 8 * n_dims + 4 + 8;
    }
    at.next_multiple_of(32)
}
