//! Runs the built binary in a clean environment, and knows where the test data is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run of the binary left behind.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output as text.
    pub stdout: String,
    /// Standard error as text.
    pub stderr: String,
}

/// The binary, with no variable of ours, nor of a service manager, inherited from the shell that runs the tests.
pub fn bitnet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["BITNET_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&*name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs `command` to its end.
pub fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs the binary with `args`.
pub fn run(args: &[&str]) -> Ended {
    end(bitnet().args(args))
}

/// Runs the binary with `args` and `input` on standard input.
pub fn run_with_input(args: &[&str], input: &[u8]) -> Ended {
    let mut command = bitnet();
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // On a thread of its own: the child may write more than a pipe holds before it has read everything.
    let writer = std::thread::spawn(move || {
        // A child that refuses its arguments closes the pipe early; its exit code tells.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Ended {
    /// Standard output of a run that must have succeeded.
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// Standard output of a run that must have succeeded, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Checks a failure: the exit code, exactly one line `error: ...` and one line `hint: ...`, nothing else.
    pub fn fails(&self, code: i32, message: &str, hint: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{self:?}");
        let found = lines[0]
            .strip_prefix("error: ")
            .unwrap_or_else(|| panic!("{self:?}"));
        assert!(found.contains(message), "expected {message:?} in {found:?}");
        let found = lines[1]
            .strip_prefix("hint: ")
            .unwrap_or_else(|| panic!("{self:?}"));
        assert!(found.contains(hint), "expected {hint:?} in {found:?}");
    }
}

/// What a model says after `prompt`, `n` tokens of it.
pub fn continued(model: &Path, prompt: &str, n: &str) -> String {
    let model = model.to_str().unwrap();
    let args = [
        "run", "--model", model, "--prompt", prompt, "--greedy", "-n", n,
    ];
    run(&[&args[..], &["--ignore-eos"]].concat())
        .ok()
        .to_string()
}

/// Holds the JSON report of a command against the one file that it has written, which must say the same as `original`;
/// the file's bytes.
pub fn check_written(report: &Value, out: &Path, original: &Path) -> Vec<u8> {
    let bytes = std::fs::read(out).unwrap();
    assert_eq!(report["written"], true, "{report}");
    assert_eq!(report["bytes_after"], bytes.len(), "{report}");
    let [found, expected] = [out, original].map(|model| continued(model, "Once upon a time", "16"));
    assert_eq!(found, expected, "{}", out.display());
    bytes
}

/// A file of the models' test data.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../bitnet-models/tests/data")
        .join(path)
}

/// [`data`] as an argument.
pub fn data_arg(path: &str) -> String {
    data(path).to_str().unwrap().to_string()
}

/// The golden stories of the embedded model.
pub fn stories() -> Value {
    serde_json::from_slice(&std::fs::read(data("stories-5m/golden.json")).unwrap()).unwrap()
}
