//! What a server takes in memory: under load no more than its first line tells and 300 MB (`docs/serving.md`), however
//! many requests have come and gone; and what a swap costs, a few dozen megabytes whatever the model's size
//! (`docs/models.md`).

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::bitnet::run;
use crate::served::{Served, command, serve, until};

/// Bytes of a model of this test at the least: most of it is the embedding, which is the head too.
const MODEL_BYTES: u64 = 100 << 20;

/// Bytes that a swap may take here: the buffers of a pass and what the allocator rounds up to, not half of the model.
const SWAP_BYTES: u64 = MODEL_BYTES / 2;

/// A random model, written in half a second.
fn synth(folder: &Path, name: &str, seed: &str) -> String {
    let path = folder.join(name).to_str().unwrap().to_owned();
    let shape = [
        "--shape",
        "125m",
        "--layers",
        "2",
        "--head-type",
        "f16",
        "--vocab",
        "70000",
    ];
    let mut args = vec!["synth"];
    args.extend(shape);
    args.extend(["--seed", seed, &path]);
    run(&args).ok();
    assert!(std::fs::metadata(&path).unwrap().len() > MODEL_BYTES);
    path
}

fn ask(served: &Served, key: &str, method: &str, path: &str, body: &str) -> Value {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = served.ask(&request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, json) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(json).unwrap()
}

/// Bytes that are the server's own.
fn private_bytes(served: &Served) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", served.id())).unwrap();
    let line = maps
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_swap_takes_less_than_half_of_the_model_and_gives_it_back() {
    // Not among the system's temporary files, which may lie in memory: there a file's pages are somebody's own.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let first = synth(folder.path(), "first.gguf", "1");
    synth(folder.path(), "second.gguf", "2");
    let keys = folder.path().join("keys.json");
    let keys = keys.to_str().unwrap();
    let added = run(&[
        "keys", "add", "--file", keys, "--name", "ops", "--role", "admin",
    ]);
    let key = added.ok().trim().to_owned();
    let mut serve = command(&["--model", &first, "--served-model-name", "m"]);
    serve.args(["--keys-file", keys, "--ctx", "256", "--directories"]);
    serve.arg(folder.path());
    serve.env("BITNET_CACHE", folder.path().join("cache"));
    let served = Served::start(serve);
    served.until_line("serving ");

    let mut after = Vec::new();
    for file in ["second.gguf", "first.gguf", "second.gguf"] {
        let order = json!({"new_model_path": file, "target_model_id": "m",
            "validation_config": {"validation_samples": 1}});
        let report = ask(&served, &key, "POST", "/v1/models/swap", &order.to_string());
        let taken = report["temporary_bytes"].as_u64().unwrap();
        println!("{file}: {taken} bytes, {}", report["memory"]);
        assert!(taken < SWAP_BYTES, "{report}");
        after.push(report["memory"]["after_bytes"].as_u64().unwrap());
        let status = ask(&served, &key, "GET", "/v1/models/m/status", "");
        assert_eq!(status["weights_in"], "cache");
        assert_eq!(status["load_memory"], report["memory"]);
    }
    // The version before gives its memory back when its engine has ended, which nobody who swaps waits for.
    let most = after[0] + SWAP_BYTES / 2;
    let shown = || format!("{} bytes now, at most {most}", private_bytes(&served));
    until("memory that returns", shown, || {
        (private_bytes(&served) < most).then_some(())
    });
}

/// Bytes beyond the sum of the first line that the documents promise at most: buffers of a pass, requests, the program.
const BUFFERS: u64 = 300_000_000;

/// Positions that the cache of the test has room for, at least: each round fills it.
const POSITIONS: u64 = 2500;

/// Clients at once, and what each asks for in a round, one thing after the other.
const CLIENTS: u64 = 8;
const REQUESTS: u64 = 4;

/// A line of the server's status, in bytes.
fn status_bytes(served: &Served, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.unwrap().trim().parse::<u64>().unwrap() << 10
}

/// What follows `word` in the first line: `KV cache 63.9 MB`.
fn told_bytes(line: &str, word: &str) -> u64 {
    let (_, rest) = line.split_once(&format!("{word} ")).unwrap();
    let mut words = rest.split([' ', ',', ':']);
    let number: f64 = words.next().unwrap().parse().unwrap();
    let unit = match words.next().unwrap() {
        "MB" => 1e6,
        "GB" => 1e9,
        other => panic!("{other}"),
    };
    (number * unit) as u64
}

/// Requests of all sizes, whole and streamed, with one choice and several, and some whose client leaves.
fn round(served: &Served, n_round: u64) {
    let port = served.port();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                for n in 0..REQUESTS {
                    let number = (n_round * CLIENTS + client) * REQUESTS + n;
                    // No two begin alike, so each takes room of its own in the cache.
                    let length = 40 + number * 37 % 150;
                    let rest = (1..length).map(|i| 300 + (number * 7 + i * 13) % 700);
                    let prompt: Vec<u64> = std::iter::once(300 + number).chain(rest).collect();
                    let body = json!({"prompt": prompt, "max_tokens": 1 + number % 40, "ignore_eos": true,
                        "n": 1 + number % 3, "logprobs": number % 4, "stream": number.is_multiple_of(2)});
                    let body = body.to_string();
                    let request = format!(
                        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if number.is_multiple_of(7) {
                        let mut left = TcpStream::connect(("127.0.0.1", port)).unwrap();
                        left.write_all(request.as_bytes()).unwrap();
                        continue;
                    }
                    let answer = crate::served::ask(port, &request).unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                }
            });
        }
    });
}

#[test]
fn a_server_takes_what_its_first_line_tells_and_requests_that_come_and_go_leave_nothing() {
    let served = serve(&[
        "--kv-cache-memory",
        "32MB",
        "--max-concurrent-requests",
        "16",
    ]);
    let line = served.until_line("serving ");
    let (sum, cache) = (told_bytes(&line, "memory"), told_bytes(&line, "KV cache"));
    let (_, positions) = line.split_once(" for ").unwrap();
    let positions: u64 = positions.split(' ').next().unwrap().parse().unwrap();
    assert!(
        (POSITIONS..CLIENTS * REQUESTS * 90).contains(&positions),
        "{line}"
    );

    // Every buffer is used and the cache is full once; what comes now finds all of it there. The system hands memory
    // out as it is touched, so a cache that were not filled would not be in the sum.
    let resident = || status_bytes(&served, "VmRSS:");
    let idle = resident();
    round(&served, 0);
    round(&served, 1);
    let live = resident();
    println!("{idle} bytes idle, {live} live, cache {cache}");
    assert!(
        live > idle + cache * 3 / 4,
        "the cache is not full: {live} bytes, {idle} before, {line}"
    );
    for n_round in 2..5 {
        round(&served, n_round);
    }
    let most = live * 100 / 95;
    let shown = || format!("{} bytes now, {live} before", resident());
    println!("{}, peak {}", shown(), status_bytes(&served, "VmHWM:"));
    until("memory that is whole", shown, || {
        (resident() < most).then_some(())
    });
    let peak = status_bytes(&served, "VmHWM:");
    assert!(peak <= sum + BUFFERS, "{peak} bytes: {line}");
}
