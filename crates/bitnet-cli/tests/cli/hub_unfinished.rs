//! Downloads that end before they are whole: what is kept of them is told, and so is what goes on with it.

#[cfg(unix)]
use std::fs;

use crate::bitnet::end;
use crate::fake_hub::Trouble;
use crate::hub_fixture::Fixture;
#[cfg(unix)]
use crate::served::until;
#[cfg(unix)]
use crate::signals::signal;

/// As messages have it; the test's model has some kilobytes.
fn bytes(n: usize) -> String {
    let kilobytes = n as f64 / 1000.0;
    match kilobytes {
        100.0.. => format!("{kilobytes:.0} kB"),
        10.0.. => format!("{kilobytes:.1} kB"),
        _ => format!("{kilobytes:.2} kB"),
    }
}

#[test]
fn what_is_there_of_a_model_that_is_not_whole_is_told() {
    let f = Fixture::new();
    let half = f.model.len() / 2;
    let gone = Trouble::Status(404, Vec::new());
    f.hub
        .has_trouble("o/n", "tiny-I2_S.gguf", [Trouble::Cut(half), gone]);
    let ended = f.run(&["pull", "o/n", "o/n:i2_s@main"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stderr.lines().rev().take(2).collect();
    let kept = format!("{} of {}", bytes(half), bytes(f.model.len()));
    let command = "`bitnet pull o/n o/n:i2_s@main` goes on from there";
    assert!(
        lines[0].ends_with(&format!("; {kept} are kept, and {command}")),
        "{}",
        ended.stderr
    );
    assert!(lines[1].contains("status 404"), "{}", ended.stderr);

    let there = format!(
        "no model of it is whole, and {} of an unfinished download are there",
        bytes(half)
    );
    let goes_on = "downloads it, and goes on with what there is of it";
    let offline = format!("`bitnet pull o/n` without --offline and HF_HUB_OFFLINE {goes_on}");
    f.run(&["pull", "o/n", "--offline"])
        .fails(1, &there, &offline);
    f.run(&["run", "--model", "o/n", "--prompt", "a"]).fails(
        1,
        &there,
        &format!("`bitnet pull o/n` {goes_on}"),
    );
    let mut command = f.command();
    command.env("HF_HUB_OFFLINE", "1").args(["inspect", "o/n"]);
    end(&mut command).fails(1, &there, &offline);
    f.run(&["pull", "o/n"]).ok();
    assert_eq!(
        f.hub.offsets("tiny-I2_S.gguf"),
        [0, half as u64, half as u64]
    );
}

#[test]
fn what_has_arrived_damaged_is_told_from_what_was_there() {
    let f = Fixture::new();
    f.hub.has_trouble("o/n", "tiny-I2_S.gguf", [Trouble::Wrong]);
    let pulled = f.run(&["pull", "o/n"]);
    pulled.ok();
    let told = "\ntiny-I2_S.gguf came over the network damaged: its checksum is ";
    assert!(pulled.stderr.contains(told), "{}", pulled.stderr);
    let told = " is what the Hub names; it is downloaded anew\n";
    assert!(pulled.stderr.contains(told), "{}", pulled.stderr);
}

#[cfg(unix)]
#[test]
fn a_signal_has_it_said_what_is_kept_and_how_to_go_on() {
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
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
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.starts_with("interrupted: the download is unfinished; ")
                && last.ends_with(" are kept, and `bitnet pull o/n` goes on from there"),
            "{stderr}"
        );
        f.run(&["pull", "o/n"]).ok();
        assert_eq!(f.hub.offsets("tiny-I2_S.gguf"), [0, half as u64]);
    }
}
