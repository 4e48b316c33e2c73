//! `bitnet serve` as a process: its first line, its health, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use crate::bitnet::{bitnet, run};

/// A server, and the lines that it writes to standard error.
struct Served {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    line: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(args: &[&str]) -> Served {
    let mut child = bitnet()
        .args(["serve", "--port", "0", "--threads", "1"])
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("serving ") {
        line.clear();
        assert!(
            stderr.read_line(&mut line).unwrap() > 0,
            "it ended without serving"
        );
    }
    Served {
        child,
        stderr,
        line,
    }
}

impl Served {
    fn port(&self) -> &str {
        let (_, rest) = self.line.split_once("http://127.0.0.1:").unwrap();
        rest.split(':').next().unwrap()
    }

    #[cfg(unix)]
    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = std::process::Command::new("kill")
            .args([name, &id])
            .status();
        assert!(status.unwrap().success());
    }
}

#[test]
fn the_first_line_tells_the_address_and_the_memory() {
    let served = serve(&[]);
    for word in ["stories-5m", "weights", "KV cache", "8 x", "1 threads"] {
        assert!(served.line.contains(word), "{word}: {}", served.line);
    }
    assert_eq!(run(&["healthcheck", "--port", served.port()]).code, Some(0));
    let mut stream = TcpStream::connect(format!("127.0.0.1:{}", served.port())).unwrap();
    let body =
        r#"{"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 3}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"model\":\"stories-5m\""), "{answer}");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_in_good_order() {
    for name in ["-TERM", "-INT"] {
        let mut served = serve(&["--served-model-name", "story"]);
        assert!(served.line.contains("serving story on "), "{}", served.line);
        served.signal(name);
        assert_eq!(served.child.wait().unwrap().code(), Some(0), "{name}");
        let mut rest = String::new();
        served.stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}

#[test]
fn a_public_address_needs_leave() {
    let refused = run(&["serve", "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("--insecure-no-auth"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_port_that_is_taken_or_empty_is_told() {
    let served = serve(&[]);
    let taken = run(&["serve", "--port", served.port()]);
    assert_eq!(taken.code, Some(1));
    assert!(taken.stderr.contains("cannot serve on"), "{}", taken.stderr);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let nobody = run(&["healthcheck", "--port", &port]);
    assert_eq!(nobody.code, Some(1));
    assert!(
        nobody.stderr.contains("does not answer"),
        "{}",
        nobody.stderr
    );
}
