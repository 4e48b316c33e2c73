//! Running a tool: its command line is shown, and a failure names it.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cargo that runs this task, so that a pinned toolchain stays pinned.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` says of this package would count as changes of others, whose build scripts look at it: they, and
    // all that is above them, would be built again each time.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    cargo
}

/// Shows the command line, runs it with inherited output and no input.
///
/// # Errors
/// When the program cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", line(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start: {}", line(command)))?;
    if !status.success() {
        bail!("{status}: {}", line(command));
    }
    Ok(())
}

/// Runs a command quietly and returns what it printed.
///
/// # Errors
/// When the program cannot be started or does not exit with 0; carries its error output.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start: {}", line(command)))?;
    if !done.status.success() {
        bail!(
            "{}: {}\n{}",
            done.status,
            line(command),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Cargo's target folder of the workspace at `root`.
///
/// # Errors
/// When cargo does not tell.
pub fn target_folder(root: &Path) -> Result<PathBuf> {
    let args = ["metadata", "--format-version", "1", "--no-deps"];
    let metadata: Value = serde_json::from_str(&output(cargo().current_dir(root).args(args))?)?;
    let folder = metadata["target_directory"].as_str();
    Ok(folder
        .context("cargo metadata names no target folder")?
        .into())
}

/// Where `program` is found along `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The program `name` in a build of someone else's: `path` is the program itself, its folder, or the root of the build.
pub fn find_program(path: &Path, name: &str) -> Option<PathBuf> {
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let places = [
        path.to_owned(),
        path.join(&name),
        path.join("bin").join(&name),
        path.join("build/bin").join(&name),
    ];
    places.into_iter().find(|place| place.is_file())
}

/// The command as one line; of a script passed as an argument the first line that says something.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            word.trim().lines().next().unwrap_or_default().to_owned()
        })
        .collect::<Vec<_>>()
        .join(" ")
}
