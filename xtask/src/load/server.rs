//! Servers to measure: built in release, started on a free port, ended with the measurement.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use super::options::{LoadPlan, Target};
use crate::process::{cargo, run, target_folder};

/// The model inside the program, as a file.
const EMBEDDED: &str = "crates/bitnet-cli/assets/stories-5m.I2_S.gguf";

/// A server, and its process if it was started here.
pub struct LoadSubject {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, if it is known.
    pub pid: Option<u32>,
    child: Option<Child>,
}

impl LoadSubject {
    /// The running server that `plan` names, or one of its own.
    ///
    /// # Errors
    /// When it cannot be built or does not start.
    pub fn start(root: &Path, plan: &LoadPlan) -> Result<LoadSubject> {
        let mut command = match &plan.server {
            Target::Running { address, pid } => {
                return Ok(LoadSubject {
                    address: *address,
                    pid: *pid,
                    child: None,
                });
            }
            Target::Serve(model) => {
                let args = ["build", "--release", "--locked", "-p", "bitnet-cli"];
                run(cargo().current_dir(root).args(args))?;
                let mut command = Command::new(release_folder(root)?.join("bitnet"));
                command.arg("serve");
                command.args(
                    model
                        .iter()
                        .flat_map(|model| ["--model".as_ref(), model.as_os_str()]),
                );
                command
            }
            Target::NoForwardPass => {
                let args = ["build", "--release", "--locked", "-p", "bitnet-server"];
                let example = ["--example", "no_forward_pass"];
                run(cargo().current_dir(root).args(args).args(example))?;
                let folder = release_folder(root)?.join("examples");
                let mut command = Command::new(folder.join("no_forward_pass"));
                command.arg(root.join(EMBEDDED));
                command
            }
        };
        command.args(["--port", "0"]);
        for (name, value) in &plan.settings {
            command.args([&format!("--{name}"), value]);
        }
        LoadSubject::spawn(command)
    }

    /// Starts a server by `command` and waits until it says where it listens.
    ///
    /// # Errors
    /// When it ends before that, with what it said.
    pub fn spawn(mut command: Command) -> Result<LoadSubject> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {:?}", command.get_program()))?;
        let mut lines = BufReader::new(child.stderr.take().context("it has a stderr")?).lines();
        let mut said = Vec::new();
        for line in lines.by_ref() {
            let line = line?;
            if let Some(address) = address_in(&line) {
                let pid = Some(child.id());
                // Somebody has to read what it says further, or it would wait for that.
                std::thread::spawn(move || {
                    lines
                        .map_while(Result::ok)
                        .for_each(|line| eprintln!("{line}"))
                });
                return Ok(LoadSubject {
                    address,
                    pid,
                    child: Some(child),
                });
            }
            said.push(line);
        }
        let status = child.wait()?;
        bail!("the server ended ({status}): {}", said.join("\n"));
    }
}

impl LoadSubject {
    /// Tells it to answer what it has and to end (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// When its process is not ours, or cannot be told.
    pub fn drain(&mut self) -> Result<ExitStatus> {
        let child = self
            .child
            .as_mut()
            .context("the server is somebody else's")?;
        run(Command::new("kill").args(["-TERM", &child.id().to_string()]))?;
        Ok(child.wait()?)
    }
}

impl Drop for LoadSubject {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The address in `serving NAME on http://127.0.0.1:40000: ...`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    rest[..end].trim_end_matches(':').parse().ok()
}

fn release_folder(root: &Path) -> Result<PathBuf> {
    Ok(target_folder(root)?.join("release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_what_a_server_says() {
        let line = "note: serving stories on http://127.0.0.1:40123: weights 3 MiB";
        assert_eq!(address_in(line), Some(([127, 0, 0, 1], 40123).into()));
        assert_eq!(
            address_in("serving x on http://[::1]:8"),
            "[::1]:8".parse().ok()
        );
        assert_eq!(address_in("loading"), None);
    }
}
