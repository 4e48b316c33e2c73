//! The health port: the answers of the other one, from a thread that nothing holds up.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bitnet_server::auth::Guard;
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::ServerConfig;
use bitnet_server::health_listener::{HealthListener, MAX_CONNECTIONS};
use bitnet_server::listener::Listener;
use bitnet_server::{App, Ending, LoadedModel, Server, ServerLimits, routes};
use serde_json::json;

use crate::access::config_with_keys;
use crate::client::{self, Connection};
use crate::fixture::{TestServer, engine, until};

/// A health port about `app`, as a process of this configuration has it.
fn health_port(app: &Arc<App>, config: &ServerConfig, takes_keys: bool) -> HealthListener {
    let guard = Arc::new(Guard::new(config, routes::access()).unwrap());
    let router = routes::health_router(app.clone(), guard, takes_keys);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    HealthListener::start(socket, app.clone(), router).unwrap()
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = client::request(address, "GET", path, "");
    assert_eq!(answer.header("connection"), Some("close"), "{path}");
    (answer.status, answer.body)
}

const PROBES: [&str; 6] = [
    "/health/live",
    "/health/ready",
    "/health/startup",
    "/livez",
    "/readyz",
    "/ping",
];

#[test]
fn it_gives_the_answers_of_the_other_port_and_nothing_else() {
    let server = TestServer::start();
    let health = health_port(&server.app, &ServerConfig::default(), true);
    let address = health.address();
    until("clients can connect", || server.app.is_accepting());
    for path in PROBES {
        let other = server.get(path);
        assert_eq!(get(address, path), (other.status, other.body), "{path}");
    }
    let detail = client::request(address, "GET", "/health", "").json();
    assert_eq!(detail["components"]["stories"]["status"], "healthy");
    let (status, metrics) = get(address, "/metrics");
    assert!(
        status == 200 && metrics.contains("bitnet_build_info"),
        "{metrics}"
    );
    for path in ["/v1/models", "/v1/stats", "/admin", "/version", "/nothing"] {
        assert_eq!(get(address, path).0, 404, "{path}");
    }
    let body = json!({"prompt": "Once"}).to_string();
    let posted = client::request(address, "POST", "/v1/completions", &body);
    assert_eq!(posted.status, 404);
    assert_eq!(
        client::request(address, "POST", "/health/live", "{}").status,
        405
    );

    server.app.start_draining();
    assert_eq!(get(address, "/health/ready").0, 503);
    assert_eq!(get(address, "/health/live").0, 200);
}

#[test]
fn what_needs_a_key_on_the_other_port_needs_it_here() {
    let (config, keys) = config_with_keys(&[], &[RateLimits::default()]);
    let server = TestServer::with_config(config.clone());
    let health = health_port(&server.app, &config, true);
    for path in PROBES {
        assert_eq!(get(health.address(), path).0, 200, "{path}");
    }
    for path in ["/health", "/metrics"] {
        assert_eq!(get(health.address(), path).0, 401, "{path}");
        let mut connection = Connection::open(health.address());
        let headers = format!("Authorization: Bearer {}\r\n", keys[0]);
        connection.send("GET", path, &headers, "");
        assert_eq!(connection.answer().status, 200, "{path}");
    }
    // Beside a port that is encrypted nobody is asked for a key in the clear.
    let beside_tls = health_port(&server.app, &config, false);
    assert_eq!(get(beside_tls.address(), "/health/live").0, 200);
    for path in ["/health", "/metrics"] {
        assert_eq!(get(beside_tls.address(), path).0, 404, "{path}");
    }
}

#[test]
fn it_tells_of_a_server_that_is_being_started() {
    let app = Arc::new(App::new(ServerLimits::default()));
    let health = health_port(&app, &ServerConfig::default(), true);
    let status = |path| get(health.address(), path).0;
    assert_eq!(status("/health/live"), 200);
    assert_eq!(status("/health/startup"), 503);
    let model = LoadedModel::start("stories", engine(), None, &app).unwrap();
    app.models.insert(model);
    assert_eq!(status("/health/startup"), 200);
    let (code, body) = get(health.address(), "/health/ready");
    assert!(
        code == 503 && body.contains("takes no connections yet"),
        "{body}"
    );
    app.start_accepting();
    assert_eq!(status("/health/ready"), 200);
}

/// A server whose every thread is kept busy by something that does not come back, on `n_threads` threads.
fn held_up(n_threads: usize, over: &Arc<AtomicBool>) -> (Arc<App>, SocketAddr) {
    let app = Arc::new(App::new(ServerLimits::default()));
    let model = LoadedModel::start("stories", engine(), None, &app).unwrap();
    app.models.insert(model);
    let (sender, address) = mpsc::channel();
    let (served, over) = (app.clone(), over.clone());
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(n_threads).enable_all().build();
        runtime.unwrap().block_on(async {
            let config = ServerConfig::default();
            let guard = Arc::new(Guard::new(&config, routes::access()).unwrap());
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await;
            let server = Server::on(served.clone(), guard, listener.unwrap(), None, None);
            let at = server.address().unwrap();
            let running =
                tokio::spawn(server.run(std::future::pending::<Ending>(), std::future::pending()));
            while !served.is_accepting() {
                tokio::task::yield_now().await;
            }
            let n_held_up = Arc::new(AtomicUsize::new(0));
            let blocked: Vec<_> = (0..n_threads)
                .map(|_| {
                    let (over, n_held_up) = (over.clone(), n_held_up.clone());
                    tokio::spawn(async move {
                        n_held_up.fetch_add(1, Ordering::Relaxed);
                        while !over.load(Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                    })
                })
                .collect();
            // This thread is none of the runtime's.
            until("all of them are held up", || {
                n_held_up.load(Ordering::Relaxed) == n_threads
            });
            sender.send(at).unwrap();
            for task in blocked {
                task.await.unwrap();
            }
            running.abort();
        });
    });
    (app, address.recv().unwrap())
}

/// Lets those go on who are held up, also when an assertion fails.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn it_answers_while_every_core_and_every_thread_of_the_server_is_busy() {
    let over = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    let release = Release(over.clone());
    let (app, address) = held_up(cores.max(2), &over);
    let health = health_port(&app, &ServerConfig::default(), true);
    // On the other port nobody answers any more.
    let mut unheard = TcpStream::connect(address).unwrap();
    let request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    std::io::Write::write_all(&mut unheard, request).unwrap();
    unheard
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let heard = std::io::Read::read(&mut unheard, &mut [0]);
    assert!(heard.is_err(), "the server's threads are held up");

    let mut times: Vec<Duration> = (0..41)
        .map(|index| {
            let start = Instant::now();
            let path = PROBES[index % PROBES.len()];
            assert_eq!(get(health.address(), path).0, 200, "{path}");
            start.elapsed()
        })
        .collect();
    drop(release);
    times.sort();
    println!("probes: median {:?}, slowest {:?}", times[20], times[40]);
    // 50 ms is promised; the machine of a test has other work too.
    assert!(times[20] < Duration::from_millis(400), "{times:?}");
}

#[test]
fn those_who_say_nothing_take_the_places_of_others_for_a_moment_only() {
    let app = Arc::new(App::new(ServerLimits::default()));
    let health = health_port(&app, &ServerConfig::default(), true);
    let silent: Vec<TcpStream> = (0..MAX_CONNECTIONS)
        .map(|_| TcpStream::connect(health.address()).unwrap())
        .collect();
    assert_eq!(
        get(health.address(), "/health/live").0,
        200,
        "within its patience"
    );
    drop(silent);
}

#[test]
fn it_ends_with_its_owner_and_leaves_its_port() {
    let app = Arc::new(App::new(ServerLimits::default()));
    let health = health_port(&app, &ServerConfig::default(), true);
    let address = health.address();
    assert_eq!(get(address, "/health/live").0, 200);
    drop(health);
    until("its port is free", || TcpListener::bind(address).is_ok());
}
