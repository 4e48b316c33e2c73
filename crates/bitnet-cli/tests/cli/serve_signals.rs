//! `bitnet serve` and signals: draining, reading its settings again, at any time and in any number.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::bitnet::run;
use crate::served::{LIVE, Served, ask, command, completion, serve, until};

#[test]
fn a_signal_ends_it_in_good_order_and_the_log_says_so() {
    for name in ["TERM", "INT"] {
        let mut served = serve(&["--served-model-name", "story"]);
        served.until_line("serving story on ");
        served.signal(name);
        assert_eq!(served.end(), Some(0), "{name}");
        served.until_line("draining: no request is taken any more");
        served.until_line("ended, every request answered");
    }
}

#[test]
fn streams_that_have_begun_end_whole_after_a_signal() {
    let mut served = serve(&["--shutdown-timeout", "600s"]);
    let port = served.port();
    let body = r#"{"prompt": "Once", "max_tokens": 40, "ignore_eos": true, "stream": true}"#;
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // More than run at once: some of them wait in the queue.
    let mut streams: Vec<TcpStream> = (0..12)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    for stream in &mut streams {
        // The head of the answer comes before the first token: it has begun.
        let mut first = [0; 8];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1");
    }
    served.signal("TERM");
    for mut stream in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.starts_with(" 200"), "{rest}");
        assert!(rest.contains("data: [DONE]"), "{rest}");
    }
    assert_eq!(served.end(), Some(0), "{}", served.text());
    served.until_line("ended, every request answered");
}

#[test]
fn an_end_that_cuts_requests_off_has_an_exit_code_of_its_own_and_tells_how_many() {
    for (time, hurries) in [("0", false), ("600s", true)] {
        let mut served = serve(&["--shutdown-timeout", time]);
        // Its body does not come; the answer to its head says that the server waits for it.
        let mut stream = TcpStream::connect(("127.0.0.1", served.port())).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 9\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 100");
        served.signal("TERM");
        served.until_line("draining: no request is taken any more");
        if hurries {
            served.signal("TERM");
        }
        assert_eq!(served.end(), Some(5), "{}", served.text());
        let told = served.until_line("ended, and cut off requests under way");
        assert!(told.contains("requests=1"), "{told}");
    }
}

#[test]
fn a_hangup_reads_settings_again_and_half_a_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("[limits]\nrequests_per_minute = 1000\n");
    let served = serve(&["--config", file.to_str().unwrap()]);

    write("[limits]\nrequests_per_mi");
    served.signal("HUP");
    let told = served.until_line("the configuration stays as it was");
    assert!(told.contains("server.toml"), "{told}");
    assert!(served.ask(LIVE).unwrap().starts_with("HTTP/1.1 200"));
    assert!(!served.text().contains("answered"), "{}", served.text());

    write(
        "[limits]\nrequests_per_minute = 1\n[server]\nport = 1\n[monitoring]\nlog_level = \"info\"\n",
    );
    served.signal("HUP");
    let told = served.until_line("read the configuration");
    for words in ["limits.requests_per_minute", "monitoring.log_level"] {
        let (_, changed) = told.split_once("changed=").unwrap();
        assert!(changed.contains(words), "{told}");
    }
    // The limit holds from now on, and each request is a line.
    let first = served.ask(&completion(1)).unwrap();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let second = served.ask(&completion(1)).unwrap();
    assert!(second.starts_with("HTTP/1.1 429"), "{second}");
    served.until_line("answered");
}

/// Waits until a process has its own handler for SIGHUP: bit 0 of the mask of caught signals.
fn until_hangups_are_caught(served: &Served) {
    let path = format!("/proc/{}/status", served.child.id());
    let caught = || {
        let status = std::fs::read_to_string(&path).ok()?;
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:\t"))?;
        (u64::from_str_radix(mask, 16).ok()? & 1 == 1).then_some(())
    };
    until("handler for SIGHUP", || served.text(), caught);
}

/// A server that cannot go on loading until somebody writes to a pipe.
fn loading(folder: &Path) -> (Served, std::path::PathBuf) {
    let pipe = folder.join("template");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let served = Served::start(command(&["--template", pipe.to_str().unwrap()]));
    until_hangups_are_caught(&served);
    (served, pipe)
}

#[test]
fn a_hangup_while_the_model_is_loaded_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (served, pipe) = loading(folder.path());
    served.signal("HUP");
    std::fs::write(pipe, "{{ messages[0].content }}").unwrap();
    served.until_line("serving ");
    served.until_line("read the configuration");
    assert!(served.ask(LIVE).unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn probes_are_answered_while_the_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("tokenizer.json");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let args = ["--health-port", "0", "--tokenizer", pipe.to_str().unwrap()];
    let mut served = Served::start(command(&args));
    let port = served.health_port();
    let probe = |name: &str| ask(port, &LIVE.replace("live", name)).unwrap();
    assert!(probe("live").starts_with("HTTP/1.1 200"));
    let startup = probe("startup");
    assert!(startup.starts_with("HTTP/1.1 503") && startup.contains("no model is loaded"));
    assert!(probe("ready").starts_with("HTTP/1.1 503"));
    served.signal("TERM");
    assert_eq!(served.end(), Some(143), "{}", served.text());
}

#[test]
fn a_signal_while_the_model_is_loaded_ends_it_at_once() {
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut served, _) = loading(folder.path());
        served.signal(name);
        assert_eq!(served.end(), Some(code), "{name}: {}", served.text());
    }
}

#[test]
fn storms_of_signals_end_in_the_one_answer_that_they_have() {
    let mut served = serve(&[]);
    for _ in 0..50 {
        served.signal("HUP");
        assert!(served.ask(LIVE).unwrap().starts_with("HTTP/1.1 200"));
    }
    let port = served.port().to_string();
    assert_eq!(run(&["healthcheck", "--port", &port]).code, Some(0));
    let id = served.child.id().to_string();
    for _ in 0..50 {
        // It may be gone already.
        let _ = Command::new("kill").args(["-TERM", &id]).output();
    }
    assert_eq!(served.end(), Some(0), "{}", served.text());
}
