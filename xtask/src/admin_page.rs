//! The page `/admin` in a real browser: it lives, chats, asks for keys, fits screens, breaks no rule of its policy, and
//! loads, swaps, rolls back and unloads models that then answer, or do not, as it says.
//!
//! Chromium is driven by Playwright's Python package, which is installed into the target folder; `browser.py` is what
//! it does. Pictures of every view, light and dark, wide and narrow, are left in `target/xtask/admin-page` to be looked
//! at.

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
    let (admin, infer) = (
        add_key(root, &keys, "admin")?,
        add_key(root, &keys, "infer")?,
    );
    let models = folder.join("models");
    write_models(root, &models)?;
    let text = |path: &Path| path.to_str().map(str::to_owned);
    let strange = "the folder has a strange name";
    let (keys, first) = (text(&keys), text(&models.join("story.gguf")));
    let spare = text(&models.join("spare.gguf")).map(|path| format!("spare={path}"));
    let open = Served::start(root, &[])?;
    let keyed = Served::start(
        root,
        &[
            "--keys-file",
            &keys.context(strange)?,
            "--model",
            &first.context(strange)?,
            "--directories",
            &text(&models).context(strange)?,
            "--configured",
            &spare.context(strange)?,
        ],
    )?;
    run_tool(
        Command::new(python.join("bin/python"))
            .arg(&script)
            .arg(format!("http://{}", open.address))
            .arg(format!("http://{}", keyed.address))
            .args([admin, infer])
            .arg(chromium)
            .arg(&folder),
    )?;
    println!("admin-page: look at the pictures in {}", folder.display());
    Ok(())
}

/// Makes a key of a role; the key.
fn add_key(root: &Path, file: &Path, role: &str) -> Result<String> {
    let mut add = Command::new(binary(root)?);
    let arguments = ["keys", "add", "--name", role, "--role", role, "--file"];
    let printed = output(add.args(arguments).arg(file))?;
    let key = printed.lines().next().context("no key was printed")?;
    Ok(key.trim().to_owned())
}

/// The embedded model thrice, two versions of it: the second one turns positions by another base, and so answers
/// otherwise. And a file that is no model.
fn write_models(root: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut bytes = fs::read(root.join("crates/bitnet-cli/assets/stories-5m.I2_S.gguf"))?;
    fs::write(folder.join("story.gguf"), &bytes)?;
    fs::write(folder.join("spare.gguf"), &bytes)?;
    let name = b"rope.freq_base";
    let found = bytes.windows(name.len()).position(|it| it == name);
    // The type of the value comes before it, in four bytes.
    let at = found.context("the embedded model has no base of its positions")? + name.len() + 4;
    bytes[at..at + 4].copy_from_slice(&50f32.to_le_bytes());
    fs::write(folder.join("story-v2.gguf"), &bytes)?;
    fs::write(folder.join("broken.gguf"), &bytes[..bytes.len() / 2])?;
    Ok(())
}
