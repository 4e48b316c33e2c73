//! The watchdog: what it does not touch, and how it ends a process.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bitnet_server::{ServerLimits, watchdog};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine};

/// Set in the process that is to end.
const VICTIM: &str = "BITNET_TEST_WATCHDOG";

/// A server whose first step hangs, with a request in it.
fn hanging() -> (TestServer, Connection) {
    let engine = engine();
    let server =
        TestServer::with_turns(engine.clone(), Gated::new(engine), ServerLimits::default());
    let mut connection = Connection::open(server.address);
    let body = json!({"prompt": "Once", "max_tokens": 2}).to_string();
    connection.send("POST", "/v1/completions", "", &body);
    (server, connection)
}

#[test]
fn a_step_that_hangs_is_noticed_once_with_its_model() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let (sender, noticed) = mpsc::channel();
    watchdog::start(&server.app, Duration::from_millis(300), move |reason| {
        sender.send(reason.to_owned()).unwrap();
    })
    .unwrap();
    // Nothing to do, for longer than a step may take.
    let nothing = noticed.recv_timeout(Duration::from_millis(700));
    assert_eq!(nothing, Err(mpsc::RecvTimeoutError::Timeout));

    let mut connection = Connection::open(server.address);
    let body = json!({"prompt": "Once", "max_tokens": 2}).to_string();
    connection.send("POST", "/v1/completions", "", &body);
    let reason = noticed.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(
        reason.starts_with("a step of stories has taken 0."),
        "{reason}"
    );
    gated.open();
    assert_eq!(connection.answer().status, 200);
    // It has said it, and is gone.
    assert_eq!(noticed.recv(), Err(mpsc::RecvError));
}

#[test]
fn a_step_that_hangs_ends_the_process_with_its_last_words() {
    if std::env::var_os(VICTIM).is_some() {
        // No picture of this process's memory is wanted.
        let mut limit = getrlimit(Resource::Core);
        limit.current = Some(0);
        setrlimit(Resource::Core, limit).unwrap();
        bitnet_server::log::LogFilter::install("off", false).unwrap();
        let (server, mut connection) = hanging();
        let patience = Duration::from_millis(300);
        watchdog::start(&server.app, patience, |reason| watchdog::abort(reason)).unwrap();
        let answer = connection.answer();
        unreachable!("the process should have ended, and answered {answer:?}");
    }
    let this = "watchdog::a_step_that_hangs_ends_the_process_with_its_last_words";
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", this, "--nocapture", "--test-threads=1"]);
    let ended = again
        .env(VICTIM, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(
        ended.status.signal(),
        Some(6),
        "SIGABRT: {:?} {said}",
        ended.status
    );
    assert!(
        said.contains("a step of stories has taken") && said.contains("aborted by the watchdog"),
        "{said}"
    );
}
