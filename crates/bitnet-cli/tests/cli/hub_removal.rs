//! `list` and `rm`: what is pulled is listed, and goes again.

#[cfg(target_os = "linux")]
use std::fs;

use crate::hub_fixture::Fixture;
#[cfg(target_os = "linux")]
use crate::served::until;
#[cfg(target_os = "linux")]
use crate::signals::interrupt;

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
