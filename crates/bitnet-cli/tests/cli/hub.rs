//! `pull`, `list`, `rm`, and running what was pulled, against a Hub on this machine.

use std::fs;
use std::process::Command;

use crate::bitnet::{Ended, bitnet, data, end};
use crate::fake_hub::{COMMIT, FakeHub, Trouble};
#[cfg(unix)]
use crate::served::until;
#[cfg(unix)]
use crate::signals::interrupt;

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
        "error: o/two has several models, these\n",
        "hint: name one, as o/two:a-Q2_0.gguf",
    ] {
        assert!(several.stderr.contains(told), "{told}: {}", several.stderr);
    }
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
fn several_models_go_at_once_or_none() {
    let f = Fixture::new();
    f.hub
        .has("o/two", &[("a-Q2_0.gguf", b"1"), ("b-TQ1_0.gguf", b"22")]);
    for model in ["o/n", "o/two:q2_0", "o/two:tq1_0"] {
        f.run(&["pull", model]).ok();
    }
    let listed = || f.run(&["list", "--format", "json"]).json()["models"].clone();
    f.run(&["rm", "o/n", "o/absent", "--yes"]).fails(
        1,
        "o/absent is not in the cache",
        "bitnet list",
    );
    f.run(&["rm", "o/n", "o/two"])
        .fails(2, "whether o/n, o/two are to be removed", "--yes");
    assert_eq!(listed().as_array().unwrap().len(), 2);
    let page = format!("{}/o/two/blob/main/b-TQ1_0.gguf", f.hub.url());
    let rm = |option: &str| {
        let names = ["o/two:q2_0", &page, "o/two@main", "o/n", "hf:o/n", option];
        f.run(&[&["rm"][..], &names].concat()).ok().to_owned()
    };
    let (dry, removed) = (rm("--dry-run"), rm("--yes"));
    // What several names mean goes with the first of them, and is told so before.
    let as_done = dry.replace("would remove", "removed");
    assert_eq!(as_done.replace("freeing", "freed"), removed);
    let lines: Vec<&str> = removed.lines().collect();
    for (line, begin) in lines.iter().zip([
        "removed 1 file of o/two:q2_0, freed 1 B",
        "removed 1 file of o/two:b-TQ1_0.gguf@main, freed 2 B",
        "removed 0 files of o/two@main, freed 0 B",
        "removed 1 file of o/n, freed ",
    ]) {
        assert!(line.starts_with(begin), "{lines:?}");
    }
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(listed(), serde_json::json!([]));
    f.run(&["rm"]).fails(2, "required arguments", "");
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
    for args in [["pull", "o/n"].as_slice(), &["pull", "o/n", "--offline"]] {
        let report = f.run(&[args, &["--format", "json"]].concat()).json();
        assert_eq!(report.get("unreachable"), Some(&serde_json::Value::Null));
    }
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
            tries == 2 && ended.stderr.contains("--offline` says what is there"),
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
fn a_damaged_file_is_hinted_at_found_and_fetched_again() {
    let f = Fixture::new();
    let first = f.run(&["pull", "o/n", "--verify"]);
    let path = first.ok().trim_end().to_owned();
    let told = "nothing of it is in the cache that could be compared\n";
    assert!(first.stderr.contains(told), "{}", first.stderr);
    let sound = f.run(&["pull", "o/n", "--verify"]);
    sound.ok();
    assert!(
        sound
            .stderr
            .contains("1 file in the cache is what the Hub names"),
        "{}",
        sound.stderr
    );
    let mut damaged = f.model.clone();
    damaged[..4].fill(b'x');
    fs::write(&path, &damaged).unwrap();
    for command in ["inspect", "convert"] {
        let run = match command {
            "convert" => f.run(&[
                "convert",
                "o/n",
                f.cache.path().join("out").to_str().unwrap(),
            ]),
            _ => f.run(&[command, "o/n"]),
        };
        run.fails(3, "", "`bitnet pull o/n --verify` fetches it again");
    }
    let hint = "`bitnet pull o/n --verify` fetches it again";
    let check = ["serve", "--port", "0", "--model", "o/n", "--check-config"];
    f.run(&check).fails(2, "", hint);
    f.run(&check[..5]).fails(3, "", hint);
    let plainly = f.run(&["inspect", &path]);
    assert!(!plainly.stderr.contains("--verify"), "{}", plainly.stderr);
    f.run(&["pull", "o/n"]).ok();
    assert!(fs::read(&path).unwrap() == damaged);
    let dry = ["pull", "o/n", "--verify", "--dry-run", "--format", "json"];
    let dry = f.run(&dry).json();
    assert_eq!(
        (&dry["damaged"][0], &dry["download_bytes"]),
        (&"tiny-I2_S.gguf".into(), &f.model.len().into())
    );
    assert!(fs::read(&path).unwrap() == damaged);
    let healed = f.run(&["pull", "o/n", "--verify"]);
    assert_eq!(healed.ok().trim_end(), path);
    assert!(
        healed
            .stderr
            .contains("warning: tiny-I2_S.gguf is damaged and is fetched again"),
        "{}",
        healed.stderr
    );
    assert!(fs::read(&path).unwrap() == f.model);
    f.run(&["pull", "o/n", "--verify", "--offline"])
        .fails(2, "cannot be used with", "");
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

#[cfg(unix)]
#[test]
fn ctrl_c_says_what_is_kept_and_how_to_go_on() {
    let f = Fixture::new();
    let half = f.model.len() / 2;
    f.hub
        .has_trouble("o/n", "tiny-I2_S.gguf", [Trouble::Stall(half)]);
    let mut command = f.command();
    let child = command
        .args(["pull", "hf:o/n"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let blobs = f.cache.path().join("hub/models--o--n/blobs");
    until("half of the file", String::new, || {
        let blob = fs::read_dir(&blobs).ok()?.next()?.ok()?;
        (blob.metadata().ok()?.len() == half as u64).then_some(())
    });
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("interrupted: the download is unfinished; ")
            && last.ends_with(" are kept, and `bitnet pull o/n` goes on from there"),
        "{stderr}"
    );
    f.run(&["pull", "o/n"]).ok();
    assert_eq!(f.hub.offsets("tiny-I2_S.gguf"), [0, half as u64]);
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_at_the_question_whether_to_remove_removes_nothing() {
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    use std::io::Read;
    use std::process::Stdio;

    let f = Fixture::new();
    f.run(&["pull", "o/n"]).ok();
    // A terminal, because nobody else is asked.
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&keyboard).unwrap();
    let terminal = ptsname(&keyboard, Vec::new()).unwrap();
    let terminal = fs::File::open(terminal.to_str().unwrap()).unwrap();
    let mut command = f.command();
    let mut child = command
        .args(["rm", "o/n"])
        .stdin(terminal)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (mut asked, mut byte) = (Vec::new(), [0]);
    while !asked.ends_with(b"[y/N] ") {
        stderr.read_exact(&mut byte).unwrap();
        asked.push(byte[0]);
    }
    interrupt(&child);
    let ended = until("its end", String::new, || child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(130));
    f.run(&["pull", "o/n", "--offline"]).ok();
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
