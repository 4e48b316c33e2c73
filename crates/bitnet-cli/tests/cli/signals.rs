//! Ctrl-C and closed pipes: every end is a clean one.

use std::io::{BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use crate::bitnet::{bitnet, run};

fn spawn(args: &[&str]) -> Child {
    bitnet()
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    for args in [
        &["run", "--prompt", "Once upon a time", "--ignore-eos"][..],
        &["inspect"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = spawn(args);
        let mut byte = [0];
        child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
        // The reading end is closed now, as `| head -c 1` does.
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

/// Presses Ctrl-C.
#[cfg(unix)]
pub fn interrupt(child: &Child) {
    signal(child, "-INT");
}

/// Sends a signal as `kill` names it.
#[cfg(unix)]
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_text_and_tells_what_there_is() {
    // Slow enough (one thread, the readable kernel) that the text is under way when the signal comes.
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("slow.gguf");
    let model = model.to_str().unwrap();
    run(&[
        "synth", "--shape", "125m", "--layers", "4", "--vocab", "2000", model,
    ])
    .ok();
    let args = [
        "run",
        "--model",
        model,
        "--prompt",
        "x",
        "--ignore-eos",
        "-n",
        "100000",
        "--ctx",
        "2048",
        "--kernel",
        "scalar-i2s",
        "--metrics",
    ];
    let mut child = spawn(&args);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0; 4];
    stdout.read_exact(&mut first).unwrap();
    interrupt(&child);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.last(), Some(&b'\n'));
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(
        stderr.contains("end: interrupted") && stderr.contains("decode"),
        "{stderr}"
    );
    assert!(
        stderr
            .lines()
            .last()
            .unwrap()
            .starts_with("error: interrupted: the text ends after"),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_half_written_model() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = dir.path().join("x.gguf");
    let mut child = spawn(&["synth", "--shape", "2b-4t", out.to_str().unwrap()]);
    // The temporary file appears when writing begins.
    while std::fs::read_dir(dir.path()).unwrap().count() == 0 && child.try_wait().unwrap().is_none()
    {
        std::thread::yield_now();
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the partial file is removed"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_in_chat_stops_the_answer_only() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("slow.gguf");
    let model = model.to_str().unwrap();
    run(&[
        "synth", "--shape", "125m", "--layers", "4", "--vocab", "2000", model,
    ])
    .ok();
    let args = [
        "chat",
        "--model",
        model,
        "--ignore-eos",
        "-n",
        "1000",
        "--ctx",
        "2048",
        "--kernel",
        "scalar-i2s",
    ];
    let mut child = bitnet()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0; 4];
    stdout.read_exact(&mut first).unwrap();
    interrupt(&child);
    stdin.write_all(b"/exit\n").unwrap();
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("(stopped)"), "{stderr}");
}
