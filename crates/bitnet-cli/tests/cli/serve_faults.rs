//! What a server process survives: no descriptors, no log, ten thousand who say nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::bitnet::run;
use crate::served::{LIVE, Served, ask, command, completion, in_shell, serve, until};

#[test]
fn without_descriptors_clients_wait_and_the_server_goes_on() {
    let shell = in_shell("ulimit -n 48; exec \"$@\"", &command(&[]));
    let served = Served::start(shell);
    let port = served.port();
    served.until_line("more than the process may have open");
    let crowd: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    served.until_line("connections cannot be accepted");
    drop(crowd);
    assert!(
        ask(port, &completion(2))
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    let told = served.text().matches("cannot be accepted").count();
    // Once, and again only after an accept that worked: not for each of the crowd.
    assert!(told < 50, "{told} times");
}

#[test]
fn a_log_that_nobody_reads_is_lost_and_not_the_server() {
    let mut child = Unread(
        command(&["--log-level", "debug"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let (_, rest) = line.split_once("://127.0.0.1:").unwrap();
    let port: u16 = rest.split(':').next().unwrap().parse().unwrap();
    drop(stderr); // every line that it writes fails from now on
    for _ in 0..3 {
        assert!(
            ask(port, &completion(2))
                .unwrap()
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            ask(port, "GARBAGE\r\n\r\n")
                .unwrap()
                .starts_with("HTTP/1.1 400")
        );
    }
    assert_eq!(
        run(&["healthcheck", "--port", &port.to_string()]).code,
        Some(0)
    );
    let id = child.0.id().to_string();
    std::process::Command::new("kill")
        .args(["-TERM", &id])
        .status()
        .unwrap();
    let ended = || child.0.try_wait().unwrap();
    let ended = until("the end of the process", String::new, ended);
    assert_eq!(ended.code(), Some(0));
}

/// A server whose standard error nobody reads. It ends with the test.
struct Unread(std::process::Child);

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connections that say nothing, or as many as this machine allows.
const IDLE: u64 = 10_000;

/// Fewer say nothing about what each takes: the process's own buffers grow by as much.
const ENOUGH: u64 = 1000;

/// `server.max_connections`, as it is by itself.
const PLACES: u64 = 4096;

#[test]
fn ten_thousand_who_say_nothing_disturb_nobody() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit
        .maximum
        .map_or(Some(IDLE + 500), |hard| Some(hard.min(IDLE + 500)));
    setrlimit(Resource::Nofile, limit).unwrap();
    let n = limit.current.unwrap_or(IDLE).saturating_sub(500).min(IDLE);
    if n < ENOUGH {
        eprintln!("this machine allows {n} connections of a process: too few to tell anything");
        return;
    }
    // Its own settings: fewer places than come.
    let served = serve(&[]);
    let port = served.port();
    let resident = || {
        let path = format!("/proc/{}/statm", served.child.id());
        let pages = std::fs::read_to_string(path).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    assert!(
        ask(port, &completion(2))
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    let before = resident();
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..n {
        crowd.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
    }
    let started = Instant::now();
    assert!(ask(port, LIVE).unwrap().starts_with("HTTP/1.1 200"));
    // It is accepted after all of them, and connecting may take some tries while the system's queue is full.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(
        ask(port, &completion(2))
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    let each = resident().saturating_sub(before) / n.min(PLACES);
    assert!(each < 32 << 10, "{each} bytes for each connection");
    println!("{n} connections, {each} bytes each, health in {took:?}");
    // They are connections like any other.
    let last = crowd.last_mut().unwrap();
    last.write_all(LIVE.as_bytes()).unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    if n > PLACES {
        // Who came first has made room.
        let first = &mut crowd[0];
        first
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
    }
}
