//! `bitnet ps`: the models of a running server.

use std::path::Path;

use bitnet_server::client::Method;
use clap::Args;
use serde_json::{Value, json};

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::output::{Format, Out, notice};
use crate::remote::{Patience, Remote, RemoteArgs, hint};
use crate::sanitize;
use crate::table::{Align, Table, wrapped};
use crate::units;

/// Options of `bitnet ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet ps\n  \
    bitnet ps --url http://127.0.0.1:8000 --key-file admin.key\n  \
    bitnet ps --files\n  \
    bitnet ps --format json\n\n\
    Below the table it says why a model failed, and how to try again; names whose first load failed are listed for\n\
    administrators, ten minutes. Files are shown to administrators alone. Where it is no terminal, no column is cut.")]
pub struct PsArgs {
    /// List what `bitnet load` and `bitnet swap` may name instead: the models in the server's models.directories
    #[arg(long)]
    pub files: bool,

    /// Which server.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Lists the models, in memory or not, loading under way, and why what could not be loaded could not.
///
/// # Errors
/// When the server does not answer, or not this key.
pub fn run(args: &PsArgs, env: &Environment) -> Result<Exit, CliError> {
    let remote = Remote::of(&args.remote, env)?;
    if args.files {
        return files(&remote, args.remote.format);
    }
    let listed = remote.ask(Patience::Short, &Method::GET, "/v1/models", None)?;
    let models = listed["models"].as_array().cloned().unwrap_or_default();
    let mut out = Out::stdout();
    match args.remote.format {
        Format::Json => out.json(&json!({ "models": models, "draining": listed["draining"] }))?,
        Format::Text => {
            let mut table = Table::new(&[
                ("model", Align::Left),
                ("status", Align::Left),
                ("version", Align::Left),
                ("weights", Align::Right),
                ("context", Align::Right),
                ("file", Align::Left),
            ]);
            for model in &models {
                table.row(row(model));
            }
            let is_known = |id: &Value| {
                let mut known = listed["data"].as_array().into_iter().flatten();
                known.any(|model| model["id"] == *id)
            };
            let failures = models.iter();
            let server = args.remote.as_typed();
            let failures =
                failures.filter_map(|model| failure(model, is_known(&model["id"]), &server));
            out.text(&(table.shown() + &failures.collect::<String>()))?;
        }
    }
    out.flush()?;
    tell_if_draining(&listed);
    Ok(Exit::Ok)
}

/// Says so where an answer tells that the server ends.
fn tell_if_draining(listed: &Value) {
    if listed["draining"] == true {
        notice(
            "the server is shutting down: it ends what it has begun, and takes no request any more",
        );
    }
}

/// Lists what may be loaded.
fn files(remote: &Remote, format: Format) -> Result<Exit, CliError> {
    let listed = remote.ask(Patience::Short, &Method::GET, "/v1/model_files", None)?;
    let found = listed["data"].as_array().map_or(&[][..], Vec::as_slice);
    let mut out = Out::stdout();
    match format {
        Format::Json => out.json(&json!({
            "files": found,
            "truncated": listed["truncated"],
            "draining": listed["draining"],
        }))?,
        Format::Text => {
            let mut table = Table::new(&[
                ("path", Align::Left),
                ("size", Align::Right),
                ("models", Align::Left),
            ]);
            for file in found {
                let ids = file["model_ids"].as_array().into_iter().flatten();
                let ids: Vec<&str> = ids.filter_map(Value::as_str).collect();
                table.row(vec![
                    file["path"].as_str().unwrap_or("-").to_owned(),
                    units::bytes(file["bytes"].as_u64().unwrap_or(0)),
                    match ids.is_empty() {
                        true => "-".to_owned(),
                        false => ids.join(","),
                    },
                ]);
            }
            out.text(&table.shown())?;
        }
    }
    out.flush()?;
    match (found.is_empty(), listed["truncated"] == true) {
        (true, _) => notice("no model lies in the server's models.directories, or it has none"),
        (false, true) => notice("there are more, which are not listed"),
        (false, false) => {}
    }
    tell_if_draining(&listed);
    Ok(Exit::Ok)
}

/// Why a model could not be loaded and how to try again, below the table: a reason is longer than a column. One that is
/// not known yet has to be named with its file. The command is whole, `server` included, to be typed as it is.
fn failure(model: &Value, is_known: bool, server: &str) -> Option<String> {
    let id = model["id"].as_str()?;
    let error = &model["error"];
    let reason = match (error["message"].as_str(), error["code"].as_str()) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        _ if model["status"] == "failed" => {
            "its engine has failed; the log of the server tells why".into()
        }
        _ => return None,
    };
    let mut lines = wrapped(&reason, "  ");
    if error["hint"].is_string() {
        lines += &wrapped(&hint::in_commands(error), "  ");
    }
    let path = match (is_known, model["path"].as_str()) {
        (true, _) => None,
        (false, path) => Some(path.unwrap_or("PATH")),
    };
    let command = hint::load_command(path, id);
    let id = sanitize::one_line(id);
    Some(format!(
        "\n{id} failed:\n{lines}  try again: `{command}{server}`\n"
    ))
}

/// A model in a line; what is not known of it is a hyphen.
fn row(model: &Value) -> Vec<String> {
    let text = |name: &str| model[name].as_str().unwrap_or("-").to_owned();
    let number = |name: &str, shown: fn(u64) -> String| {
        let value = model[name].as_u64();
        value.map_or_else(|| "-".to_owned(), shown)
    };
    // The server tells administrators all of the path.
    let path = model["path"].as_str().map(Path::new);
    let file = path.and_then(Path::file_name);
    let stage = model["progress"]["stage"].as_str();
    vec![
        text("id"),
        match stage {
            Some(stage) => format!("{}, {stage}", text("status")),
            None => text("status"),
        },
        text("version").chars().take(12).collect(),
        number("weight_bytes", units::bytes),
        number("context", units::count),
        file.map_or_else(
            || "-".to_owned(),
            |file| file.to_string_lossy().into_owned(),
        ),
    ]
}
