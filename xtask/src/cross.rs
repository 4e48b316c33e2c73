//! A standard library for a target that the toolchain does not carry.
//!
//! With rustup the answer is `rustup target add`, and a target that is installed is used as it is. A machine that has
//! only a distribution's mirror builds the standard library from source instead: the `rust-src` package of the very
//! same release, found in Debian's trixie-backports suite, is unpacked below `target/xtask` (nothing is installed and
//! the system's package lists are not touched), and cargo is told to build `std` from there. That cargo option is
//! unstable, so `RUSTC_BOOTSTRAP=1` is set for that one child process and for nothing else.

use crate::process::{cargo, find, output, run, target_folder};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names a folder that already holds the unpacked `library` sources, instead of downloading them.
const SOURCE_VARIABLE: &str = "XTASK_RUST_LIBRARY";

const SUITE: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A `cargo SUBCOMMAND --target TARGET` that has a standard library to build against.
///
/// `parts` are the library crates needed (`std`, `test`, `panic_abort`).
///
/// # Errors
/// When the target is not installed and its sources can neither be found nor downloaded.
pub fn cargo_for(root: &Path, subcommand: &str, target: &str, parts: &str) -> Result<Command> {
    let mut command = cargo();
    command
        .current_dir(root)
        .args([subcommand, "--target", target, "--target-dir"])
        .arg(target_folder(root)?.join(FOLDER));
    if sysroot()?
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .is_dir()
    {
        return Ok(command);
    }
    let library = library_source(root, target)?;
    command.arg(format!("-Zbuild-std={parts}"));
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    Ok(command)
}

/// The folder of cross builds inside that of all builds, so that what build scripts learn from a bootstrapping compiler
/// never reaches an ordinary build.
pub const FOLDER: &str = "cross";

fn sysroot() -> Result<PathBuf> {
    Ok(output(Command::new("rustc").args(["--print", "sysroot"]))?
        .trim()
        .into())
}

/// The folder `library` of this compiler's sources.
fn library_source(root: &Path, target: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(SOURCE_VARIABLE) {
        let given = PathBuf::from(given);
        if !given.join("std/Cargo.toml").is_file() {
            bail!(
                "{SOURCE_VARIABLE}={}: this folder holds no std/Cargo.toml",
                given.display()
            );
        }
        return Ok(given);
    }
    let component = sysroot()?.join("lib/rustlib/src/rust/library");
    if component.join("std/Cargo.toml").is_file() {
        return Ok(component);
    }
    let version = output(Command::new("rustc").arg("--version"))?;
    let version = version
        .split_whitespace()
        .nth(1)
        .context("rustc --version printed no version")?
        .to_owned();
    let folder = target_folder(root)?.join("xtask/rust-src");
    let library = folder.join(format!("usr/src/rustc-{version}/library"));
    if !library.join("std/Cargo.toml").is_file() {
        download(&folder, &version).with_context(|| {
            format!("no standard library for {target}: run `rustup target add {target}`, or set {SOURCE_VARIABLE} to the `library` folder of rustc {version}'s sources")
        })?;
    }
    Ok(library)
}

/// Fetches and unpacks Debian's `rust-src` of this release with apt's own signature checks.
fn download(folder: &Path, version: &str) -> Result<()> {
    for tool in ["apt-get", "apt-cache", "dpkg"] {
        find(tool).with_context(|| format!("`{tool}` is not on this machine"))?;
    }
    let apt = folder.join("apt");
    fs::create_dir_all(apt.join("state/lists/partial"))?;
    fs::create_dir_all(apt.join("cache/archives/partial"))?;
    let sources = apt.join("sources.list");
    fs::write(
        &sources,
        format!("deb [signed-by={KEYRING}] {} {SUITE} main\n", mirror()?),
    )?;
    let private = |program: &str| {
        let mut command = Command::new(program);
        let option = |key: &str, value: &Path| format!("{key}={}", value.display());
        command
            .current_dir(&apt)
            .args(["-o", &option("Dir::Etc::sourcelist", &sources)]);
        command.args([
            "-o",
            "Dir::Etc::sourceparts=/dev/null",
            "-o",
            "APT::Sandbox::User=root",
        ]);
        command.args([
            "-o",
            &option("Dir::State", &apt.join("state")),
            "-o",
            &option("Dir::Cache", &apt.join("cache")),
        ]);
        command
    };
    run(private("apt-get").args(["-q", "update"]))?;
    run(private("apt-get").args(["-q", "download", &format!("rust-src={version}*")]))?;
    let package = fs::read_dir(&apt)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt offered no rust-src {version}"))?;
    run(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
    fs::remove_file(package)?;
    Ok(())
}

/// The mirror of Debian's packages that this machine's own apt sources name.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.filter_map(|part| Some(part.ok()?.path())));
    }
    files
        .iter()
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "list" || extension == "sources")
        })
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| debian_archive(&text))
        .context("the apt sources of this machine name no Debian archive")
}

/// The first archive of Debian's packages in a `sources.list` or `.sources` text: an address that ends in `/debian`.
fn debian_archive(sources: &str) -> Option<String> {
    sources
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::debian_archive;

    #[test]
    fn the_archive_is_found_in_both_styles_of_apt_sources() {
        let old =
            "# deb http://old.example/debian x main\ndeb https://a.example/debian/ bookworm main\n";
        assert_eq!(
            debian_archive(old).as_deref(),
            Some("https://a.example/debian/")
        );
        let new = "Types: deb\nURIs: http://b.example/debian-security http://b.example/debian\n";
        assert_eq!(
            debian_archive(new).as_deref(),
            Some("http://b.example/debian")
        );
        assert_eq!(
            debian_archive("deb http://c.example/ubuntu noble main"),
            None
        );
    }
}
