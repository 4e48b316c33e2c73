//! Servers of this tree, for checks and measurements from outside.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run, target_folder};

/// A process that ends with its owner.
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that was started here.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    process: Owned,
}

impl Served {
    /// Builds the command and serves with these flags, on a port that the system chooses.
    ///
    /// # Errors
    /// When it does not build or does not start.
    pub fn start(root: &Path, flags: &[&str]) -> Result<Served> {
        let mut command = Command::new(binary(root)?);
        command.args(["serve", "--port", "0"]).args(flags);
        // What it says later is about the checks' own requests.
        Served::spawn(command, drop)
    }

    /// Starts a server by `command` and waits until it says where it listens. Every line that it says after that is
    /// given to `later`.
    ///
    /// # Errors
    /// When it ends before that, with what it said.
    pub fn spawn(mut command: Command, later: fn(String)) -> Result<Served> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {:?}", command.get_program()))?;
        let mut process = Owned(child);
        let stderr = process.0.stderr.take().context("it has a stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        for line in lines.by_ref() {
            let line = line?;
            if let Some(address) = address_in(&line) {
                // Somebody has to read what it says further, or it would wait for that.
                thread::spawn(move || lines.map_while(Result::ok).for_each(later));
                return Ok(Served { address, process });
            }
            said.push(line);
        }
        let status = process.0.wait()?;
        bail!("the server ended ({status}): {}", said.join("\n"));
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Tells it to answer what it has and to end (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn drain(&mut self) -> Result<ExitStatus> {
        run(Command::new("kill").args(["-TERM", &self.pid().to_string()]))?;
        Ok(self.process.0.wait()?)
    }
}

/// The address in `serving NAME on http://127.0.0.1:40000: ...`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    rest[..end].trim_end_matches(':').parse().ok()
}

/// The program `bitnet`, built for debugging.
///
/// # Errors
/// When it does not build.
pub fn binary(root: &Path) -> Result<PathBuf> {
    run(cargo()
        .current_dir(root)
        .args(["build", "-q", "--locked", "-p", "bitnet-cli"]))?;
    Ok(target_folder(root)?.join("debug").join(program_name()))
}

/// The program `bitnet`, built in release.
///
/// # Errors
/// When it cannot be built.
pub fn release_program(root: &Path) -> Result<PathBuf> {
    let args = ["build", "--release", "--locked", "-p", "bitnet-cli"];
    run(cargo().current_dir(root).args(args))?;
    Ok(target_folder(root)?.join("release").join(program_name()))
}

fn program_name() -> String {
    format!("bitnet{}", std::env::consts::EXE_SUFFIX)
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
