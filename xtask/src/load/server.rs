//! Servers to measure: built in release, started on a free port, ended with the measurement.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::options::{LoadPlan, Target};
use crate::process::{cargo, run, target_folder};
use crate::served::{Served, release_program};

/// The model inside the program, as a file.
const EMBEDDED: &str = "crates/bitnet-cli/assets/stories-5m.I2_S.gguf";

/// A server, and its process if it was started here.
pub struct LoadSubject {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, if it is known.
    pub pid: Option<u32>,
    _served: Option<Served>, // which ends with this
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
                    _served: None,
                });
            }
            Target::Serve(model) => {
                let mut command = Command::new(release_program(root)?);
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
                let folder = target_folder(root)?.join("release/examples");
                let mut command = Command::new(folder.join("no_forward_pass"));
                command.arg(root.join(EMBEDDED));
                command
            }
        };
        command.args(["--port", "0"]);
        for (name, value) in &plan.settings {
            command.args([&format!("--{name}"), value]);
        }
        let served = Served::spawn(command, |line| eprintln!("{line}"))?;
        Ok(LoadSubject {
            address: served.address,
            pid: Some(served.pid()),
            _served: Some(served),
        })
    }
}
