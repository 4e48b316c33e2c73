//! The page `/admin` in a real browser: it lives, chats, asks for keys, fits screens, and breaks no rule of its policy.
//!
//! Chromium is driven by Playwright's Python package, which is installed into the target folder; `browser.py` is what it
//! does. Pictures of every view, light and dark, wide and narrow, are left in `target/xtask/admin-page` to be looked at.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{find, output, run as run_tool};
use crate::served::{Served, binary};

/// One line of the usage.
pub const USAGE: &str = "  \
  admin-page   open the page of bitnet serve in Chromium, use it, and take pictures of it
         (needs chromium, python3 and network for one package: apt-get install chromium)";

/// What drives the browser.
const SCRIPT: &str = include_str!("admin_page/browser.py");
/// Its one package.
const PACKAGE: &str = "playwright==1.65.2";

/// Runs everything.
///
/// # Errors
/// When a tool is missing, or the page does not do what it should.
pub fn run(root: &Path) -> Result<()> {
    let chromium =
        find("chromium").context("chromium is not installed: apt-get install chromium")?;
    let folder = root.join("target/xtask/admin-page");
    fs::create_dir_all(&folder)?;
    let python = folder.join("python");
    if !python.exists() {
        run_tool(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
    }
    run_tool(Command::new(python.join("bin/pip")).args(["install", "-q", PACKAGE]))?;
    let script = folder.join("browser.py");
    fs::write(&script, SCRIPT)?;

    let keys = folder.join("keys.json");
    if keys.exists() {
        fs::remove_file(&keys)?;
    }
    let mut add = Command::new(binary(root)?);
    let arguments = ["keys", "add", "--name", "page", "--role", "admin", "--file"];
    let printed = output(add.args(arguments).arg(&keys))?;
    let key = printed.lines().next().context("no key was printed")?.trim();
    let keys = keys.to_str().context("the folder has a strange name")?;
    let open = Served::start(root, &[])?;
    let keyed = Served::start(root, &["--keys-file", keys])?;
    run_tool(
        Command::new(python.join("bin/python"))
            .arg(&script)
            .arg(format!("http://{}", open.address))
            .arg(format!("http://{}", keyed.address))
            .arg(key)
            .arg(chromium)
            .arg(&folder),
    )?;
    println!("admin-page: look at the pictures in {}", folder.display());
    Ok(())
}
