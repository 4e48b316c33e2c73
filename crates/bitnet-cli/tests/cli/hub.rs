//! `pull`, and running what was pulled, against a Hub on this machine.

use std::fs;

use crate::bitnet::{data, end};
use crate::fake_hub::{COMMIT, Trouble};
use crate::hub_fixture::Fixture;

#[test]
fn a_pulled_model_runs_by_its_name_without_the_network() {
    let f = Fixture::new();
    f.run(&["pull", "o/n", "--offline"])
        .fails(1, "nothing of it is there", "without --offline");
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
fn several_models_are_pulled_one_after_the_other() {
    let f = Fixture::new();
    f.hub.has("o/other", &[("m.gguf", &f.model)]);
    f.run(&["pull", "o/n", "no-owner"])
        .fails(2, "it is not of the form OWNER/NAME", "");
    assert!(f.hub.seen().is_empty());
    let pulled = f.run(&["pull", "o/n", "o/other"]);
    let ends: Vec<&str> = pulled
        .ok()
        .lines()
        .map(|path| path.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(ends, ["tiny-I2_S.gguf", "m.gguf"]);
    let json = f.run(&["pull", "o/n", "o/other", "--offline", "--format", "json"]);
    let documents = serde_json::Deserializer::from_str(json.ok()).into_iter();
    let models: Vec<String> = documents
        .map(|document| document.unwrap())
        .map(|document: serde_json::Value| document["model"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(models, ["o/n", "o/other"]);
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
        "error: o/two has several models, these\n",
        "hint: name one, as o/two:a-Q2_0.gguf\n",
    ] {
        assert!(several.stderr.contains(told), "{told}: {}", several.stderr);
    }
    let several = f.run(&["pull", "o/two@main"]);
    let told = "hint: name one, as o/two:a-Q2_0.gguf@main\n";
    assert!(several.stderr.contains(told), "{}", several.stderr);
    let long = format!("{}/m-Q2_0.gguf", "folder".repeat(20));
    f.hub.has(
        "o/long",
        &[
            ("a-Q2_0.gguf", b"1"),
            (&*long, b"22"),
            ("b-TQ1_0.gguf", b"1"),
        ],
    );
    for (pattern, message) in [
        ("Q2_0", "'Q2_0' means several files of o/long, these"),
        ("Q8_0", "'Q8_0' is no file of o/long, which has these"),
    ] {
        let told = f.run(&["pull", &format!("o/long:{pattern}")]);
        assert_eq!(told.code, Some(2));
        for part in [message, &long, "name one, as o/long:a-Q2_0.gguf"] {
            assert!(told.stderr.contains(part), "{part}: {}", told.stderr);
        }
        let has_other = told.stderr.contains("b-TQ1_0.gguf");
        assert_eq!(has_other, pattern == "Q8_0", "{}", told.stderr);
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
    f.hub
        .has_trouble("o/n", "", [Trouble::Status(403, Vec::new())]);
    f.run(&["pull", "o/n"])
        .fails(1, "forbids the list of files of o/n", "firewall");
    f.hub.has_trouble("o/n", "", [Trouble::WebPage]);
    f.run(&["pull", "o/n"])
        .fails(1, "with a web page", "a network that wants a login");
    let mut named = f.command();
    let absent = end(named
        .env("HF_TOKEN_PATH", "/no/token")
        .args(["pull", "o/n"]));
    absent.fails(2, "HF_TOKEN_PATH cannot be used: /no/token is no file", "");
    let folder = f.cache.path().to_str().unwrap();
    let mut named = f.command();
    let refused = end(named.env("HF_TOKEN_PATH", folder).args(["pull", "o/n"]));
    let told = format!("HF_TOKEN_PATH cannot be used: {folder} is a folder");
    refused.fails(2, &told, "unset it");
    let mut secret = f.command();
    let bad = end(secret.env("HF_TOKEN", "two words").args(["pull", "o/n"]));
    bad.fails(2, "HF_TOKEN cannot be used", "HF_TOKEN");
    assert!(!bad.stderr.contains("two words"));
}

#[test]
fn what_is_there_is_used_where_nobody_can_be_reached() {
    let f = Fixture::new();
    let path = f.run(&["pull", "o/n"]).ok().to_owned();
    let cut_off = |args: &[&str]| {
        // Nobody listens on the first port of all.
        let mut command = f.command();
        end(command.env("HF_ENDPOINT", "http://127.0.0.1:1").args(args))
    };
    let there = cut_off(&["pull", "o/n"]);
    assert_eq!(there.ok(), path);
    let why = "127.0.0.1:1 cannot be reached: the connection is refused";
    let told = format!("{why}; using the cached copy of revision main (0123456789ab)\n");
    assert!(there.stderr.starts_with(&told), "{}", there.stderr);
    let report = cut_off(&["pull", "o/n", "--format", "json"]).json();
    assert_eq!(
        (&report["unreachable"], &report["downloaded"]),
        (&why.into(), &false.into())
    );
    let [online, offline] = [["pull", "o/n"].as_slice(), &["pull", "o/n", "--offline"]]
        .map(|args| f.run(&[args, &["--format", "json"]].concat()).json());
    // What nobody knows who asks nobody is null.
    let mut known = online;
    known["licence"] = serde_json::Value::Null;
    known["files"][0]["checksum"] = serde_json::Value::Null;
    assert_eq!(offline, known);
    assert_eq!(known.get("unreachable"), Some(&serde_json::Value::Null));
    assert!(
        there.stderr.contains("next: bitnet run"),
        "{}",
        there.stderr
    );
    // What is not there, and what is to be compared, needs somebody. Both wait between their tries.
    let (absent, compared) = std::thread::scope(|threads| {
        let absent = threads.spawn(|| cut_off(&["pull", "o/absent"]));
        let compared = cut_off(&["pull", "o/n", "--verify"]);
        (absent.join().unwrap(), compared)
    });
    for ended in [absent, compared] {
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let tries = ended.stderr.matches("trying again in").count();
        assert!(
            tries == 2 && ended.stderr.contains("`bitnet list` tells what is there"),
            "{}",
            ended.stderr
        );
    }
    // A proxy that refuses stays so, and no copy hides it.
    let mut proxied = f.command();
    let refused = end(proxied
        .env("HF_ENDPOINT", "https://hub.invalid")
        .env("HTTPS_PROXY", f.hub.url())
        .args(["pull", "o/n"]));
    refused.fails(1, "refuses to connect (status 4", "HTTPS_PROXY");
    // Whoever answers with trouble is there, and is believed.
    f.hub
        .has_trouble("o/n", "", [Trouble::Status(404, Vec::new())]);
    f.run(&["pull", "o/n"])
        .fails(1, "there is no repository o/n", "");
}

#[test]
fn commands_to_copy_are_quoted_for_the_shell() {
    let f = Fixture::new();
    f.hub.has("o/spaces", &[("a model.gguf", &f.model)]);
    let page = format!("{}/o/spaces/blob/main/a%20model.gguf", f.hub.url());
    let absent = f.run(&["inspect", &page]);
    absent.fails(
        1,
        "",
        "`bitnet pull 'o/spaces:a model.gguf@main'` downloads",
    );
    let pulled = f.run(&["pull", &page, "--format", "json"]).json();
    assert_eq!(
        pulled["command"],
        "bitnet run --model 'o/spaces:a model.gguf@main' --prompt \"Once upon a time\""
    );
    let path = pulled["path"].as_str().unwrap();
    fs::write(path, vec![b'x'; f.model.len()]).unwrap();
    let damaged = f.run(&["inspect", &page]);
    damaged.fails(3, "", "`bitnet pull 'o/spaces:a model.gguf@main' --verify`");
}

#[test]
fn the_address_of_a_page_is_a_name() {
    let f = Fixture::new();
    let page = format!("{}/o/n/blob/main/tiny-I2_S.gguf?x=y", f.hub.url());
    let path = f.run(&["pull", &page]).ok().to_owned();
    let asked = f.hub.seen().len();
    for model in [&*page, "https://huggingface.co/o/n", "hf.co/o/n/tree/main"] {
        let found = f.run(&["inspect", model, "--format", "json"]).json();
        assert_eq!(found["file"], path.trim_end(), "{model}");
    }
    assert_eq!(f.hub.seen().len(), asked);
    for command in [
        ["pull"].as_slice(),
        &["rm", "--yes"],
        &["run", "--prompt", "a", "--model"],
    ] {
        let address = "https://elsewhere.example/o/n";
        f.run(&[command, &[address]].concat()).fails(
            2,
            "its host is neither the Hub's (huggingface.co, hf.co) nor the one of HF_ENDPOINT",
            "OWNER/NAME",
        );
    }
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
