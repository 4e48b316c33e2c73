//! What a swap costs in memory of the server's own: `docs/models.md` promises a few dozen megabytes whatever the model's size.

use std::path::Path;

use serde_json::{Value, json};

use crate::bitnet::run;
use crate::served::{Served, command, until};

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
