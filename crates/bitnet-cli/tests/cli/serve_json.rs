//! `bitnet serve --log-format json`: a program can read everything that is on standard error.

use std::net::TcpListener;

use serde_json::Value;

use crate::bitnet::run;
use crate::served::{ask, completion, serve};

fn lines(text: &str) -> Vec<Value> {
    let object = |line: &str| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    text.lines().map(object).collect()
}

#[test]
fn every_line_from_the_first_to_the_last_is_an_object() {
    let args = [
        "--log-format",
        "json",
        "--log-level",
        "debug",
        "--access-log",
        "on",
    ];
    let mut served = serve(&args);
    let port = served.port();
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
    served.signal("HUP");
    served.until_line("read the configuration");
    served.signal("TERM");
    assert_eq!(served.end(), Some(0), "{}", served.text());
    served.until_line("ended, every request answered");
    let lines = lines(&served.text());
    for line in &lines {
        assert!(
            line["time"].is_string() && line["log"].is_string(),
            "{line}"
        );
    }
    let said = |words: &str| {
        let found = lines.iter().find(|line| {
            let message = line["message"].as_str();
            message.is_some_and(|message| message.contains(words))
        });
        found.unwrap_or_else(|| panic!("nothing says {words:?}: {lines:?}"))
    };
    assert_eq!(said("serving ")["target"], "lifecycle");
    assert!(said("read the configuration")["fields"]["changed"].is_string());
    let answered = said("answered");
    assert_eq!(answered["fields"]["status"], 200);
    assert!(lines.iter().any(|line| line["log"] == "access"));
}

#[test]
fn what_keeps_it_from_starting_is_an_object_too() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = run(&[
        "serve",
        "--log-format",
        "json",
        "--port",
        &port,
        "--threads",
        "1",
    ]);
    assert_eq!(refused.code, Some(1));
    let lines = lines(&refused.stderr);
    let error = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("cannot serve on"),
        "{error}"
    );
    assert!(
        error["fields"]["hint"].as_str().unwrap().contains("--port"),
        "{error}"
    );
}
