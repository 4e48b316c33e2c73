//! `pull`, `list`, `rm`, and running what was pulled, against a Hub on this machine.

use std::fs;
use std::process::Command;

use crate::bitnet::{Ended, bitnet, data, end};
use crate::fake_hub::{COMMIT, FakeHub, Trouble};

/// A Hub with the smallest GGUF file of the test data as `o/n`, and an empty cache.
struct Fixture {
    hub: FakeHub,
    cache: tempfile::TempDir,
    model: Vec<u8>,
}

impl Fixture {
    fn new() -> Fixture {
        let model = fs::read(data("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf")).unwrap();
        let hub = FakeHub::start();
        hub.has(
            "o/n",
            &[("README.md", b"# Model"), ("tiny-I2_S.gguf", &model)],
        );
        Fixture {
            hub,
            cache: tempfile::tempdir().unwrap(),
            model,
        }
    }

    fn command(&self) -> Command {
        let mut command = bitnet();
        for name in [
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command
            .env("HF_HOME", self.cache.path())
            .env("HF_ENDPOINT", self.hub.url());
        command
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN_PATH");
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        end(self.command().args(args))
    }
}

#[test]
fn a_pulled_model_runs_by_its_name_without_the_network() {
    let f = Fixture::new();
    f.run(&["pull", "o/n", "--offline"])
        .fails(1, "nothing of it is there", "leave out --offline");
    let pulled = f.run(&["pull", "o/n"]);
    let path = pulled.ok().trim_end().to_owned();
    assert!(
        path.ends_with(&format!("snapshots/{COMMIT}/tiny-I2_S.gguf")),
        "{path}"
    );
    assert_eq!(fs::read(&path).unwrap(), f.model);
    for told in [
        "licence mit",
        "at main (0123456789ab)",
        "bitnet run --model o/n",
    ] {
        assert!(pulled.stderr.contains(told), "{told}: {}", pulled.stderr);
    }
    let asked = f.hub.seen().len();
    for model in ["o/n", "hf:o/n", "o/n:i2_s", "o/n@main"] {
        let run = f.run(&[
            "run", "--model", model, "--prompt", "a", "-n", "2", "--format", "json",
        ]);
        assert_eq!(run.json()["model"], path.as_str(), "{model}");
    }
    assert_eq!(f.run(&["pull", "o/n", "--offline"]).ok().trim_end(), path);
    let mut offline = f.command();
    let json = end(offline
        .env("HF_HUB_OFFLINE", "1")
        .args(["pull", "o/n", "--format", "json"]))
    .json();
    assert_eq!(
        (&json["path"], &json["commit"]),
        (&path.into(), &COMMIT.into())
    );
    assert_eq!(f.hub.seen().len(), asked);
}

#[test]
fn the_report_and_a_dry_run_have_the_files() {
    let f = Fixture::new();
    let dry = f
        .run(&["pull", "o/n", "--dry-run", "--format", "json"])
        .json();
    assert_eq!(
        (&dry["downloaded"], &dry["download_bytes"]),
        (&false.into(), &f.model.len().into())
    );
    assert!(!f.cache.path().join("hub").exists());
    let report = f.run(&["pull", "o/n", "--format", "json"]).json();
    assert_eq!(report["downloaded"], true);
    assert_eq!(report["licence"], "mit");
    assert_eq!(report["files"][0]["name"], "tiny-I2_S.gguf");
    assert_eq!(report["files"][1], serde_json::Value::Null);
    let again = f.run(&["pull", "o/n", "--format", "json"]).json();
    assert_eq!(
        (&again["downloaded"], &again["download_bytes"]),
        (&false.into(), &0.into())
    );
}

#[test]
fn failures_are_two_lines_with_what_to_do() {
    let f = Fixture::new();
    f.run(&["pull", "o/absent"])
        .fails(1, "there is no repository o/absent", "HF_TOKEN");
    f.run(&["pull", "absent"])
        .fails(2, "it is not of the form OWNER/NAME", "");
    f.hub
        .has("o/two", &[("a-Q2_0.gguf", b"1"), ("b-TQ1_0.gguf", b"22")]);
    let several = f.run(&["pull", "o/two"]);
    assert_eq!(several.code, Some(2));
    for told in [
        "a-Q2_0.gguf    1 B",
        "o/two has several models",
        "hint: name one, as o/two:a-Q2_0.gguf",
    ] {
        assert!(several.stderr.contains(told), "{told}: {}", several.stderr);
    }
    f.hub.has(
        "o/pickle",
        &[("config.json", b"{}"), ("pytorch_model.bin", b"1")],
    );
    let pickle = f.run(&["pull", "o/pickle"]);
    pickle.fails(3, "pickle files (pytorch_model.bin)", "--allow-pickle");
    f.hub.has_trouble(
        "o/n",
        "",
        [Trouble::Status(
            401,
            vec![("X-Error-Code", "GatedRepo".into())],
        )],
    );
    f.run(&["pull", "o/n"])
        .fails(1, "o/n is gated", "ask for access at http://127.0.0.1");
    let mut secret = f.command();
    let bad = end(secret.env("HF_TOKEN", "two words").args(["pull", "o/n"]));
    bad.fails(2, "HF_TOKEN cannot be used", "HF_TOKEN");
    assert!(!bad.stderr.contains("two words"));
}

#[test]
fn what_is_pulled_is_listed_and_removed() {
    let f = Fixture::new();
    f.run(&["pull", "o/n"]).ok();
    let text = f.run(&["list", "--files"]);
    assert!(
        text.ok().contains("o/n")
            && text.stdout.contains("main")
            && text.stdout.contains("tiny-I2_S.gguf")
    );
    let listed = f.run(&["list", "--format", "json"]).json();
    let model = &listed["models"][0];
    assert_eq!(
        (&model["model"], &model["bytes"]),
        (&"o/n".into(), &f.model.len().into())
    );
    assert_eq!(model["snapshots"][0]["revisions"][0], "main");
    assert_eq!(
        model["snapshots"][0]["downloaded"].as_str().unwrap().len(),
        "2026-01-31T00:00:00Z".len()
    );
    f.run(&["rm", "o/n"])
        .fails(2, "nobody can be asked", "--yes");
    let dry = f.run(&["rm", "o/n", "--dry-run"]);
    assert!(
        dry.ok().starts_with("would remove 1 file of o/n, freeing "),
        "{}",
        dry.stdout
    );
    let removed = f.run(&["rm", "o/n", "--yes", "--format", "json"]).json();
    assert_eq!(
        (&removed["files"], &removed["freed_bytes"]),
        (&1.into(), &f.model.len().into())
    );
    f.run(&["rm", "o/n", "--yes"])
        .fails(1, "o/n is not in the cache", "");
    assert_eq!(f.run(&["list"]).ok(), "");
    let run = f.run(&["run", "--model", "o/n", "--prompt", "a"]);
    run.fails(
        1,
        "there is no file or directory o/n, and o/n is not in the cache",
        "`bitnet pull o/n`",
    );
}

#[test]
fn a_directory_is_pulled_and_runs() {
    let f = Fixture::new();
    let folder = data("reference/tiny-bitnet");
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let there = names
        .iter()
        .filter_map(|name| Some((*name, fs::read(folder.join(name)).ok()?)));
    let files: Vec<(&str, Vec<u8>)> = there.collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (*name, &bytes[..]))
        .collect();
    f.hub.has("o/directory", &files);
    f.run(&["pull", "o/directory"]).ok();
    let args = [
        "run",
        "--prompt",
        "a b",
        "-n",
        "4",
        "--temperature",
        "0",
        "--format",
        "json",
        "--model",
    ];
    let pulled = f.run(&[&args[..], &["o/directory"]].concat()).json();
    let original = f
        .run(&[&args[..], &[folder.to_str().unwrap()]].concat())
        .json();
    assert_eq!(pulled["text"], original["text"]);
}
