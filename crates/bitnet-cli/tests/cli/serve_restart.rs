//! Restarts that lose no request: the next process takes the socket of the one before it, or the service manager keeps
//! it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bitnet::run;
use crate::served::{LIVE, Served, ask, command, completion, in_shell, until};

/// Clients that ask one after the other, each on a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(port: u16) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let clients = (0..4)
            .map(|_| {
                let (stop, answered) = (stop.clone(), answered.clone());
                std::thread::spawn(move || {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        match ask(port, &completion(8)) {
                            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(answer) => failed.push(answer),
                            Err(error) => failed.push(error.to_string()),
                        }
                    }
                    failed
                })
            })
            .collect();
        Load {
            stop,
            answered,
            clients,
        }
    }

    /// Waits for `n` answers more.
    fn go_on(&self, n: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + n;
        let done = || (self.answered.load(Ordering::Relaxed) >= goal).then_some(());
        until("answers", String::new, done);
    }

    fn assert_none_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            assert_eq!(client.join().unwrap(), Vec::<String>::new());
        }
    }
}

#[test]
fn the_next_process_takes_the_socket_and_no_request_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let path = path.to_str().unwrap();
    let mut old = Served::start(command(&["--handover-socket", path]));
    let port = old.port();
    let load = Load::on(port);
    load.go_on(4);
    for _ in 0..2 {
        let mut next = crate::bitnet::bitnet();
        let port = port.to_string();
        next.args(["serve", "--threads", "1", "--port", &port])
            .args(["--handover-socket", path]);
        let next = Served::start(next);
        next.until_line("serving ");
        next.until_line("took the socket of the process before this one");
        assert_eq!(old.end(), Some(0), "{}", old.text());
        old.until_line("draining: another process serves");
        old.until_line("ended, every request answered");
        load.go_on(4);
        old = next;
    }
    load.assert_none_failed();
    old.signal("TERM");
    assert_eq!(old.end(), Some(0));
    assert!(!std::path::Path::new(path).exists(), "it was left behind");
}

#[test]
fn the_health_port_goes_to_the_next_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let path = path.to_str().unwrap();
    let args = ["--handover-socket", path, "--health-port"];
    let mut old = Served::start(command(&[&args[..], &["0"]].concat()));
    let (port, health) = (old.port().to_string(), old.health_port());
    let mut next = crate::bitnet::bitnet();
    next.args(["serve", "--threads", "1", "--port", &port]);
    next.args(args).arg(health.to_string());
    let mut next = Served::start(next);
    next.until_line("serving ");
    assert_eq!(next.health_port(), health);
    assert_eq!(old.end(), Some(0), "{}", old.text());
    let ready = LIVE.replace("live", "ready");
    assert!(ask(health, &ready).unwrap().starts_with("HTTP/1.1 200"));
    next.signal("TERM");
    assert_eq!(next.end(), Some(0), "{}", next.text());
    assert!(
        ask(health, &ready).is_err(),
        "it is closed with the process"
    );
}

/// The page of administrators, which nobody needs a key for.
const PAGE: &str = "GET /admin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn nobody_who_asks_the_port_of_administrators_is_lost_when_a_process_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let path = path.to_str().unwrap();
    let args = ["--handover-socket", path, "--admin-port"];
    let mut old = Served::start(command(&[&args[..], &["0"]].concat()));
    let (port, admin) = (old.port().to_string(), old.admin_port());
    assert!(old.ask(PAGE).unwrap().starts_with("HTTP/1.1 404"));
    let over = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut n_asked = 0;
                while !over.load(Ordering::Relaxed) {
                    let answer = ask(admin, PAGE).unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    n_asked += 1;
                }
                n_asked
            })
        })
        .collect();
    for _ in 0..3 {
        let mut next = crate::bitnet::bitnet();
        next.args(["serve", "--threads", "1", "--port", &port]);
        next.args(args).arg(admin.to_string());
        let next = Served::start(next);
        next.until_line("serving ");
        assert_eq!(next.admin_port(), admin);
        assert_eq!(old.end(), Some(0), "{}", old.text());
        old = next;
    }
    over.store(true, Ordering::Relaxed);
    for asking in asking {
        assert!(asking.join().unwrap() > 0);
    }
    old.signal("TERM");
    assert_eq!(old.end(), Some(0), "{}", old.text());
    assert!(ask(admin, PAGE).is_err(), "it is closed with the process");
}

#[test]
fn a_next_process_may_have_another_port_of_administrators_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let path = path.to_str().unwrap();
    let mut old = Served::start(command(&["--handover-socket", path]));
    let port = old.port().to_string();
    let next = |admin: &[&str]| {
        let mut next = crate::bitnet::bitnet();
        next.args(["serve", "--threads", "1", "--port", &port]);
        Served::start({
            next.args(["--handover-socket", path]).args(admin);
            next
        })
    };
    let mut with_admin = next(&["--admin-port", "0"]);
    with_admin.until_line("serving ");
    let admin = with_admin.admin_port();
    assert_eq!(old.end(), Some(0), "{}", old.text());
    assert!(ask(admin, PAGE).unwrap().starts_with("HTTP/1.1 200"));
    let mut without = next(&[]);
    without.until_line("serving ");
    assert_eq!(with_admin.end(), Some(0), "{}", with_admin.text());
    assert!(ask(admin, PAGE).is_err(), "it is closed with its process");
    assert!(without.ask(PAGE).unwrap().starts_with("HTTP/1.1 200"));
    without.signal("TERM");
    assert_eq!(without.end(), Some(0), "{}", without.text());
}

#[test]
fn a_port_that_is_taken_is_told_before_the_model_is_loaded() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--health-port", "--admin-port"] {
        let refused = run(&["serve", "--port", "0", flag, &port]);
        refused.fails(1, &format!("cannot serve on 127.0.0.1:{port}"), flag);
    }
}

#[test]
fn a_next_process_that_cannot_take_over_leaves_the_running_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let path = path.to_str().unwrap();
    let running = Served::start(command(&["--handover-socket", path]));
    let port = running.port();
    let other_port = if port == 9 { "10" } else { "9" };
    let args = ["--threads", "1", "--handover-socket", path];
    let elsewhere = run(&[&["serve", "--port", other_port][..], &args].concat());
    assert_eq!(elsewhere.code, Some(1));
    let told = "the running process listens on 127.0.0.1";
    assert!(elsewhere.stderr.contains(told), "{elsewhere:?}");
    // A port beside it that somebody else has, and an address that this machine has not.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let (same, keys) = (port.to_string(), folder.path().join("keys.json"));
    std::fs::write(&keys, r#"{"version": 1, "keys": []}"#).unwrap();
    let nowhere = [
        "--admin-host",
        "203.0.113.1",
        "--keys-file",
        keys.to_str().unwrap(),
    ];
    for (more, option) in [(&[][..], "--admin-port"), (&nowhere, "--admin-host")] {
        let admin = ["--admin-port", &taken];
        let refused = run(&[&["serve", "--port", &same][..], &args, &admin, more].concat());
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(option), "{refused:?}");
        assert!(ask(port, LIVE).unwrap().starts_with("HTTP/1.1 200"));
    }
    // Somebody who asks and leaves.
    drop(std::os::unix::net::UnixStream::connect(path).unwrap());
    running.until_line("did not take it");
    assert!(ask(port, LIVE).unwrap().starts_with("HTTP/1.1 200"));

    let file = folder.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    let refused = run(&[
        "serve",
        "--port",
        "0",
        "--handover-socket",
        file.to_str().unwrap(),
    ]);
    assert_eq!(refused.code, Some(1));
    let told = "something else than a socket";
    assert!(refused.stderr.contains(told), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[test]
fn a_next_process_that_cannot_wait_at_the_path_leaves_the_running_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let path = path.to_str().unwrap();
    let mut running = Served::start(command(&["--handover-socket", path]));
    let port = running.port();
    let mut next = crate::bitnet::bitnet();
    next.args(["serve", "--threads", "1", "--port", &port.to_string()])
        .args(["--handover-socket", path]);
    // Its own socket is made under its own number: something is there already that cannot be replaced.
    let script = format!("mkdir '{path}'.$$ && exec \"$@\"");
    let mut refused = Served::start(in_shell(&script, &next));
    assert_eq!(refused.end(), Some(1), "{}", refused.text());
    refused.until_line("handover_socket");
    assert!(ask(port, LIVE).unwrap().starts_with("HTTP/1.1 200"));

    // What a killed process of the same number has left behind is replaced.
    let left = folder.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let script = format!("mv '{}' '{path}'.$$ && exec \"$@\"", left.display());
    let next = Served::start(in_shell(&script, &next));
    next.until_line("took the socket of the process before this one");
    assert_eq!(running.end(), Some(0), "{}", running.text());
    assert!(ask(port, LIVE).unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn a_socket_left_behind_by_a_killed_process_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let path = path.to_str().unwrap();
    let mut killed = Served::start(command(&["--handover-socket", path]));
    killed.until_line("serving ");
    killed.signal("KILL");
    killed.end();
    let next = Served::start(command(&["--handover-socket", path]));
    assert!(next.ask(LIVE).unwrap().starts_with("HTTP/1.1 200"));
}

/// A server that is given `listener` as systemd gives it: as descriptor 3, named by variables.
fn activated(listener: &TcpListener) -> Served {
    Served::start(activation(listener, &[]))
}

fn activation(listener: &TcpListener, args: &[&str]) -> Command {
    let script =
        "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=http; exec \"$@\"";
    let mut shell = in_shell(script, &command(args));
    shell.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    shell
}

#[test]
fn the_address_of_a_given_socket_is_what_keys_are_asked_for() {
    // Bound and never connected to: no packet leaves this machine.
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    let refused = activation(&everywhere, &[]).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("would listen on 0.0.0.0"), "{stderr}");
    // A setting that names another address changes nothing, nor does it ask for keys where the socket needs none.
    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let served = Served::start(activation(&here, &["--host", "0.0.0.0"]));
    assert_eq!(served.port(), here.local_addr().unwrap().port());
}

#[test]
fn a_socket_of_the_service_manager_outlives_its_servers_and_no_request_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut served = activated(&listener);
    assert_eq!(served.port(), port);
    served.until_line("took the socket of the service manager");
    let load = Load::on(port);
    for _ in 0..2 {
        load.go_on(4);
        served.signal("TERM");
        assert_eq!(served.end(), Some(0), "{}", served.text());
        served = activated(&listener);
    }
    load.go_on(4);
    load.assert_none_failed();
}

#[test]
fn the_port_of_administrators_closes_while_the_service_manager_keeps_the_other_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut served = Served::start(activation(&listener, &["--admin-port", "0"]));
    let admin = served.admin_port();
    assert!(ask(admin, PAGE).unwrap().starts_with("HTTP/1.1 200"));
    served.signal("TERM");
    assert_eq!(served.end(), Some(0), "{}", served.text());
    assert!(ask(admin, PAGE).is_err());
    // The more open of the two asks for keys, whoever opened the first one.
    let mut public = activation(&listener, &["--admin-port", "0", "--admin-host", "0.0.0.0"]);
    let refused = public.output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("would listen on 0.0.0.0"), "{stderr}");
}

#[test]
fn the_service_manager_is_told_what_the_server_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let until_told = |words: &str| loop {
        let mut message = [0; 1024];
        let n = socket.recv(&mut message).unwrap();
        let text = std::str::from_utf8(&message[..n]).unwrap();
        if text.contains(words) {
            return text.to_owned();
        }
    };
    let mut command = command(&[]);
    command
        .env("NOTIFY_SOCKET", &path)
        // Seldom enough that the socket's queue of ten messages never fills while nobody reads, and at once for the
        // first.
        .env("WATCHDOG_USEC", "2000000");
    let mut served = Served::start(command);
    until_told("READY=1");
    until_told("WATCHDOG=1");
    served.signal("HUP");
    assert!(until_told("RELOADING=1").contains("MONOTONIC_USEC="));
    until_told("READY=1");
    served.signal("TERM");
    until_told("STOPPING=1");
    assert_eq!(served.end(), Some(0));
}

#[test]
fn a_service_manager_that_is_gone_or_does_not_read_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (gone, deaf) = (folder.path().join("gone"), folder.path().join("deaf"));
    let _unread = UnixDatagram::bind(&deaf).unwrap();
    let others = UnixDatagram::unbound().unwrap();
    others.connect(&deaf).unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send(b"STATUS=there is no room behind this").is_ok() {}
    for path in [gone, deaf] {
        let mut command = command(&[]);
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "20000");
        let mut served = Served::start(command);
        served.until_line("serving ");
        served.signal("HUP");
        let answer = served.ask(LIVE).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        served.signal("TERM");
        assert_eq!(served.end(), Some(0), "{}", served.text());
    }
}

#[test]
fn a_quota_is_held_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let (path, used) = (file.to_str().unwrap(), folder.path().join("used.json"));
    let added = run(&[
        "keys",
        "add",
        "--file",
        path,
        "--name",
        "a",
        "--tokens-per-month",
        "3",
    ]);
    let key = added.ok().trim().to_owned();
    let head = format!("Host: localhost\r\nAuthorization: Bearer {key}\r\n");
    let request = completion(8).replace("Host: localhost\r\n", &head);
    assert!(request.contains(&key), "{request}");
    let args = ["--keys-file", path, "--usage-file", used.to_str().unwrap()];
    let mut served = Served::start(command(&args));
    let answer = served.ask(&request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    served.signal("TERM");
    assert_eq!(served.end(), Some(0), "{}", served.text());
    let text = std::fs::read_to_string(&used).unwrap();
    assert!(text.contains("\"in_month\":"), "{text}");

    let mut served = Served::start(command(&args));
    let answer = served.ask(&request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("\"quota\""), "{answer}");
    served.signal("TERM");
    assert_eq!(served.end(), Some(0), "{}", served.text());
    // What nobody can read is nobody's end.
    std::fs::write(&used, &text[..text.len() / 2]).unwrap();
    let served = Served::start(command(&args));
    served.until_line("tokens are counted from 0");
    let answer = served.ask(&request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(folder.path().join("used.json.damaged").exists());
}
