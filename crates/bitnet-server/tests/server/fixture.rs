//! A server for a test: its own engine, thread and port.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bitnet_inference::{Engine, EngineLoad, Error, Event, LoadOptions, RequestId, ValidRequest};
use bitnet_server::auth::Guard;
use bitnet_server::config::ServerConfig;
use bitnet_server::engine_thread::Turns;
use bitnet_server::listener::Listener;
use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::model_manager::version;
use bitnet_server::request_log::RequestLog;
use bitnet_server::routes;
#[cfg(feature = "opentelemetry")]
use bitnet_server::telemetry::Telemetry;
use bitnet_server::tls::TlsIdentity;
use bitnet_server::{App, Ending, LoadedModel, Server, ServerLimits, Stopped};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::client::{self, Answer};

pub const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bitnet-cli/assets/stories-5m.I2_S.gguf"
);

/// A template with everything that a conversation has.
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

pub struct TestServer {
    pub address: SocketAddr,
    pub admin_address: Option<SocketAddr>, // where the configuration has an admin port
    pub app: Arc<App>,
    pub tls: Option<Arc<TlsIdentity>>,
    pub runtime: Handle,
    stop: Arc<Notify>,
    hurry: Arc<Notify>,
    thread: Option<JoinHandle<Stopped>>,
}

pub fn load_options() -> LoadOptions {
    LoadOptions {
        threads: Some(1),
        max_sequences: 4,
        prefill_chunk: 64, // so that prompts of a test take several passes
        chat_template: Some(TEMPLATE.into()),
        ..LoadOptions::default()
    }
}

pub fn engine() -> Arc<Engine> {
    Arc::new(Engine::load(MODEL, &load_options()).unwrap())
}

/// An engine with a prefix cache.
pub fn engine_that_remembers() -> Arc<Engine> {
    let options = LoadOptions {
        prefix_cache: true,
        ..load_options()
    };
    Arc::new(Engine::load(MODEL, &options).unwrap())
}

impl TestServer {
    pub fn start() -> TestServer {
        TestServer::with_limits(ServerLimits::default())
    }

    pub fn with_limits(limits: ServerLimits) -> TestServer {
        let app = App::new(limits);
        let model = LoadedModel::start("stories", engine(), Some("test"), &app);
        TestServer::of(app, model.unwrap(), ServerConfig::default())
    }

    /// A server that asks for the keys of a file.
    pub fn with_config(config: ServerConfig) -> TestServer {
        let limits = ServerLimits::from(&config);
        TestServer::with_config_and_limits(config, limits)
    }

    pub fn with_config_and_limits(config: ServerConfig, limits: ServerLimits) -> TestServer {
        let app = App::new(limits);
        let model = LoadedModel::start("stories", engine(), Some("test"), &app);
        TestServer::of(app, model.unwrap(), config)
    }

    /// A server of this configuration, which writes about its requests.
    pub fn with_log(config: ServerConfig, log: RequestLog) -> TestServer {
        let app = App::new(ServerLimits::from(&config)).with_log(log);
        let model = LoadedModel::start("stories", engine(), Some("test"), &app);
        TestServer::of(app, model.unwrap(), config)
    }

    /// A server that remembers prompts.
    pub fn with_prefix_cache(config: ServerConfig) -> TestServer {
        let app = App::new(ServerLimits::from(&config));
        let engine = engine_that_remembers();
        let model = LoadedModel::start("stories", engine, Some("test"), &app);
        TestServer::of(app, model.unwrap(), config)
    }

    /// A server of this configuration that takes the turns of `turns` and writes about its requests.
    pub fn with_turns_and_log(
        engine: Arc<Engine>,
        turns: Arc<impl Turns>,
        config: ServerConfig,
        log: RequestLog,
    ) -> TestServer {
        let app = App::new(ServerLimits::from(&config)).with_log(log);
        let model = LoadedModel::start_with("stories", engine, turns, Some("test"), &app);
        TestServer::of(app, model.unwrap(), config)
    }

    /// A server that exports traces.
    #[cfg(feature = "opentelemetry")]
    pub fn with_telemetry(telemetry: Telemetry) -> TestServer {
        let mut app = App::new(ServerLimits::default());
        app.telemetry = Some(telemetry);
        let model = LoadedModel::start("stories", engine(), Some("test"), &app);
        TestServer::of(app, model.unwrap(), ServerConfig::default())
    }

    pub fn without_model(app: App) -> TestServer {
        TestServer::run(Arc::new(app), ServerConfig::default())
    }

    /// A server that loads models itself and writes to `log`, with the one at `path` to begin with, whose engine takes
    /// the turns that `turns` makes of it.
    pub fn with_models<T: Turns>(
        config: ServerConfig,
        policy: ModelPolicy,
        log: RequestLog,
        path: &Path,
        turns: impl FnOnce(Arc<Engine>) -> Arc<T>,
    ) -> TestServer {
        let origin = policy.origin(path.to_owned());
        let app = App::new(ServerLimits::from(&config))
            .with_policy(policy)
            .with_log(log);
        let engine = Arc::new(Engine::load(path, &origin.options).unwrap());
        let version = version::of_path(path).unwrap().0;
        let turns = turns(engine.clone());
        let model = LoadedModel::start_with("stories", engine, turns, Some(&version), &app);
        let server = TestServer::of(app, model.unwrap(), config);
        server.app.models.set_origin("stories", origin);
        server.app.know_configured();
        server
    }

    pub fn with_turns(
        engine: Arc<Engine>,
        turns: Arc<impl Turns>,
        limits: ServerLimits,
    ) -> TestServer {
        TestServer::with_turns_and_config(engine, turns, limits, ServerConfig::default())
    }

    pub fn with_turns_and_config(
        engine: Arc<Engine>,
        turns: Arc<impl Turns>,
        limits: ServerLimits,
        config: ServerConfig,
    ) -> TestServer {
        let app = App::new(limits);
        let model = LoadedModel::start_with("stories", engine, turns, Some("test"), &app);
        TestServer::of(app, model.unwrap(), config)
    }

    fn of(app: App, model: LoadedModel, config: ServerConfig) -> TestServer {
        app.models.insert(model);
        TestServer::run(Arc::new(app), config)
    }

    fn run(app: Arc<App>, config: ServerConfig) -> TestServer {
        let (stop, hurry) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let tls = TlsIdentity::open(&config.server).unwrap().map(Arc::new);
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (app, stop, hurry) = (app.clone(), stop.clone(), hurry.clone());
            let tls = tls.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .max_blocking_threads(CHECKERS)
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let guard = Guard::new(&config, routes::access()).unwrap();
                    let address = "127.0.0.1:0".parse().unwrap();
                    let listener = Listener::bind(address).await.unwrap();
                    let admin = match config.server.admin_port {
                        Some(_) => Some(Listener::bind(address).await.unwrap()),
                        None => None,
                    };
                    let admin_address = admin.as_ref().map(|a| a.socket.local_addr().unwrap());
                    let server = Server::on(app, Arc::new(guard), listener, admin, tls);
                    let known = (server.address().unwrap(), admin_address, Handle::current());
                    sender.send(known).unwrap();
                    let stop = async {
                        stop.notified().await;
                        Ending::Told
                    };
                    server.run(stop, hurry.notified()).await
                })
            }
        });
        let (address, admin_address, runtime) = receiver.recv().unwrap();
        TestServer {
            address,
            admin_address,
            app,
            tls,
            runtime,
            stop,
            hurry,
            thread: Some(thread),
        }
    }

    pub fn model(&self) -> Arc<LoadedModel> {
        self.app.models.get(None).unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        client::request(self.address, "POST", path, &body.to_string())
    }

    pub fn get(&self, path: &str) -> Answer {
        client::request(self.address, "GET", path, "")
    }

    /// Keeps every thread busy that tokenises, until this is dropped.
    pub fn hold_checkers(&self) -> HeldCheckers {
        let held = Arc::<(Mutex<bool>, Condvar)>::default();
        for _ in 0..CHECKERS {
            let held = held.clone();
            self.runtime.spawn_blocking(move || {
                let mut over = held.0.lock().unwrap();
                while !*over {
                    over = held.1.wait(over).unwrap();
                }
            });
        }
        HeldCheckers(held)
    }

    pub fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    pub fn ask_to_hurry(&self) {
        self.hurry.notify_one();
    }

    pub fn join(mut self) -> Stopped {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.notify_one();
        self.hurry.notify_one();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

/// Threads that tokenise, as many as the program has.
const CHECKERS: usize = 4;

/// [`TestServer::hold_checkers`].
pub struct HeldCheckers(Arc<(Mutex<bool>, Condvar)>);

impl Drop for HeldCheckers {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Waits for what another thread is about to do; what is never done fails the test.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An engine that takes turns only when it is told to.
pub struct Gated {
    engine: Arc<Engine>,
    allowed: Mutex<usize>,
    changed: Condvar,
    waits: Option<WaitingIn>,
}

/// Where the thread of a [`Gated`] engine stands until it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitingIn {
    Turn,
    Command,
}

impl Gated {
    /// One whose thread stands in a turn until it may take it, as in a long step.
    pub fn new(engine: Arc<Engine>) -> Arc<Gated> {
        Gated::that_waits(engine, Some(WaitingIn::Turn))
    }

    /// One whose thread obeys commands until it may take a turn: all that was asked is in its queue by then.
    pub fn idle(engine: Arc<Engine>) -> Arc<Gated> {
        Gated::that_waits(engine, None)
    }

    /// One whose thread stands in the first command that it obeys.
    pub fn before_commands(engine: Arc<Engine>) -> Arc<Gated> {
        Gated::that_waits(engine, Some(WaitingIn::Command))
    }

    fn that_waits(engine: Arc<Engine>, waits: Option<WaitingIn>) -> Arc<Gated> {
        Arc::new(Gated {
            engine,
            allowed: Mutex::new(0),
            changed: Condvar::new(),
            waits,
        })
    }

    /// Allows this many turns from now on, whatever was allowed before.
    pub fn allow_only(&self, turns: usize) {
        *self.allowed.lock().unwrap() = turns;
        self.changed.notify_all();
    }

    pub fn allow(&self, turns: usize) {
        *self.allowed.lock().unwrap() += turns;
        self.changed.notify_all();
    }

    /// Opens the gate for good.
    pub fn open(&self) {
        *self.allowed.lock().unwrap() = usize::MAX / 2;
        self.changed.notify_all();
    }
}

impl Turns for Gated {
    fn enqueue(&self, request: ValidRequest) -> Result<RequestId, Error> {
        let mut allowed = self.allowed.lock().unwrap();
        while *allowed == 0 && self.waits == Some(WaitingIn::Command) {
            allowed = self.changed.wait(allowed).unwrap();
        }
        drop(allowed);
        self.engine.enqueue(request)
    }

    fn turn(&self, events: &mut Vec<Event>) -> bool {
        let mut allowed = self.allowed.lock().unwrap();
        while *allowed == 0 {
            if self.waits != Some(WaitingIn::Turn) {
                return false;
            }
            allowed = self.changed.wait(allowed).unwrap();
        }
        *allowed -= 1;
        drop(allowed);
        self.engine.turn(events)
    }

    fn cancel(&self, request: RequestId) {
        self.engine.cancel(request);
    }

    fn has_run(&self, request: RequestId) -> bool {
        self.engine.has_run(request)
    }

    fn current_load(&self) -> EngineLoad {
        self.engine.current_load()
    }
}
