//! Pinned packages in a folder of their own. An environment that holds exactly what is asked for is used again.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// What a client needs, with versions.
pub enum Packages {
    /// Of the Python Package Index.
    Python(&'static [&'static str]),
    /// Of npm's registry.
    Node(&'static [&'static str]),
    /// A program of the system, and the package that has it.
    Installed(&'static str, &'static str),
}

/// An environment in which a client runs.
pub struct ClientEnvironment {
    interpreter: PathBuf,
    /// Where Node looks for packages.
    modules: Option<PathBuf>,
}

/// Holds the list of what was installed, written last.
const MARKER: &str = "installed.txt";

impl ClientEnvironment {
    /// Installs `packages` below `folder`, unless they are there.
    ///
    /// # Errors
    /// A missing interpreter, and whatever the installer says.
    pub fn install(folder: &Path, packages: &Packages) -> Result<ClientEnvironment> {
        match packages {
            Packages::Python(names) => {
                let bin = folder.join("venv/bin");
                once(folder, names, || {
                    run(Command::new("python3")
                        .args(["-m", "venv", "--clear"])
                        .arg(folder.join("venv")))?;
                    let mut pip = Command::new(bin.join("python"));
                    pip.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
                    run(pip.args(*names))
                })?;
                Ok(ClientEnvironment {
                    interpreter: bin.join("python"),
                    modules: None,
                })
            }
            Packages::Node(names) => {
                once(folder, names, || {
                    fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
                    let mut npm = Command::new("npm");
                    npm.current_dir(folder).args([
                        "install",
                        "--no-audit",
                        "--no-fund",
                        "--save-exact",
                    ]);
                    run(npm.args(*names))
                })?;
                Ok(ClientEnvironment {
                    interpreter: "node".into(),
                    modules: Some(folder.join("node_modules")),
                })
            }
            Packages::Installed(program, package) => {
                super::need(program, package)?;
                Ok(ClientEnvironment {
                    interpreter: program.into(),
                    modules: None,
                })
            }
        }
    }

    /// The command that runs a script here. Node resolves imports from where a script lies: it gets a copy beside its
    /// packages.
    pub fn interpreter(&self, script: &Path) -> Result<Command> {
        let mut command = Command::new(&self.interpreter);
        match &self.modules {
            None => command.arg(script),
            Some(modules) => {
                let name = script.file_name().context("a script is a file")?;
                let copy = modules.with_file_name(name);
                fs::copy(script, &copy)?;
                command.arg(copy)
            }
        };
        Ok(command)
    }
}

/// Runs `install` unless the marker in `folder` says that it was done for these names.
fn once(folder: &Path, names: &[&str], install: impl FnOnce() -> Result<()>) -> Result<()> {
    let marker = folder.join(MARKER);
    let wanted = names.join("\n");
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    install()?;
    fs::write(&marker, wanted).with_context(|| format!("could not write {}", marker.display()))
}
