//! `download-model`: a model from the Hugging Face Hub, and whether this tree can run it.
//!
//! The steps are those that a person would take: `bitnet pull`, `bitnet compat-check` on what came, and the first
//! tokens of an answer, which take the whole way from the file to the text.

use crate::process::{output, run};
use crate::served::{binary, release_program};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The command's lines of the help.
pub const USAGE: &str = "\
  download-model --id OWNER/NAME[:FILE][@REVISION] [--validate] [--offline] [--debug]
         pull a model from the Hugging Face Hub; with --validate check the file, and have it begin an\n         \
         answer; --debug takes the debug build";

/// Tokens that are generated: the first comes from the prompt's pass, the further ones from the cache.
const TOKENS: &str = "4";

/// What is asked for.
struct DownloadOptions<'a> {
    id: &'a str,
    validate: bool,
    offline: bool,
    debug: bool,
}

/// Downloads, and checks where that is asked for.
///
/// # Errors
/// Wrong arguments; whatever keeps the model from being downloaded, or from running.
pub fn download(root: &Path, args: &[&str]) -> Result<()> {
    let options = DownloadOptions::parse(args)?;
    let bitnet = program(root, options.debug)?;
    let mut pull = Command::new(&bitnet);
    pull.args(["pull", options.id, "--format", "json"]);
    if options.offline {
        pull.arg("--offline");
    }
    // Progress is on standard error, for whoever waits.
    let pulled = pull.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let pulled = pulled.with_context(|| format!("could not start {}", bitnet.display()))?;
    if !pulled.status.success() {
        bail!("{}: bitnet pull {}", pulled.status, options.id);
    }
    let report: Value = serde_json::from_slice(&pulled.stdout)?;
    let path = report["path"]
        .as_str()
        .context("bitnet pull names no path")?;
    println!("{path}");
    if options.validate {
        validate(&bitnet, path)?;
    }
    Ok(())
}

fn validate(bitnet: &Path, model: &str) -> Result<()> {
    run(Command::new(bitnet).args(["compat-check", model]))?;
    let mut first = Command::new(bitnet);
    first.args([
        "run",
        "--model",
        model,
        "--prompt",
        "Once upon a time",
        "-n",
        TOKENS,
    ]);
    first.args(["--temperature", "0", "--ignore-eos", "--format", "json"]);
    let answer: Value = serde_json::from_str(&output(&mut first)?)?;
    let text = answer["text"]
        .as_str()
        .context("bitnet run printed no text")?;
    println!("it runs: \"Once upon a time\" goes on {text:?}");
    Ok(())
}

/// The command of this tree, built for release unless `debug` says otherwise: a model of some size would take minutes
/// to begin an answer.
fn program(root: &Path, debug: bool) -> Result<PathBuf> {
    match debug {
        true => binary(root),
        false => release_program(root),
    }
}

impl DownloadOptions<'_> {
    fn parse<'a>(args: &[&'a str]) -> Result<DownloadOptions<'a>> {
        let mut id = None;
        let (mut validate, mut offline, mut debug) = (false, false, false);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match *arg {
                "--id" => id = Some(*args.next().context("--id needs OWNER/NAME")?),
                "--validate" => validate = true,
                "--offline" => offline = true,
                "--debug" => debug = true,
                other => bail!("{other}: not an option of download-model"),
            }
        }
        let id = id.context("which model? --id OWNER/NAME")?;
        if id.starts_with('-') {
            bail!("{id}: expected OWNER/NAME");
        }
        Ok(DownloadOptions {
            id,
            validate,
            offline,
            debug,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::DownloadOptions;

    #[test]
    fn arguments_name_a_model_and_nothing_unknown() {
        let parse = |args: &[&'static str]| DownloadOptions::parse(args);
        let all = parse(&["--validate", "--id", "o/n:Q2_0", "--offline"]).unwrap();
        assert_eq!(
            (all.id, all.validate, all.offline),
            ("o/n:Q2_0", true, true)
        );
        for bad in [
            &[][..],
            &["--id"],
            &["--id", "--validate"],
            &["o/n"],
            &["--id", "o/n", "--fast"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
