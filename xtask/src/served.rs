//! A `bitnet serve` of this tree, for checks from outside.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run};

/// A process that ends with its owner.
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server on the embedded model.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Owned,
}

impl Served {
    /// Builds the command and serves with these flags, on a port that the system chooses.
    ///
    /// # Errors
    /// When it does not build or does not start.
    pub fn start(root: &Path, flags: &[&str]) -> Result<Served> {
        let mut child = Command::new(binary(root)?)
            .args(["serve", "--port", "0"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start bitnet serve")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let process = Owned(child);
        let mut lines = BufReader::new(stderr).lines();
        let mut said = String::new();
        for line in lines.by_ref() {
            let line = line?;
            let address = line
                .split("http://")
                .nth(1)
                .and_then(|rest| rest.split(": ").next()?.parse().ok());
            if let Some(address) = address {
                // What it says later must not fill the pipe.
                thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                return Ok(Served {
                    address,
                    _process: process,
                });
            }
            said.push_str(&line);
            said.push('\n');
        }
        bail!("bitnet serve ended without telling an address:\n{said}")
    }
}

/// The command, freshly built.
///
/// # Errors
/// When it does not build.
pub fn binary(root: &Path) -> Result<PathBuf> {
    run(cargo()
        .current_dir(root)
        .args(["build", "-q", "--locked", "-p", "bitnet-cli"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Ok(target.join("debug/bitnet"))
}
