//! `bitnet ps`: the models of a running server.

use bitnet_server::client::Method;
use clap::Args;
use serde_json::{Value, json};

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::output::{Format, Out};
use crate::remote::{Patience, Remote, RemoteArgs};
use crate::sanitize;
use crate::table::{Align, Table, wrapped};
use crate::units;

/// Options of `bitnet ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet ps\n  \
    bitnet ps --url http://127.0.0.1:8000 --key-file admin.key\n  \
    bitnet ps --format json\n\n\
    Below the table it says why a model failed; names whose first load failed are listed for administrators, ten minutes.")]
pub struct PsArgs {
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
    let listed = remote.ask(Patience::Short, &Method::GET, "/v1/models", None)?;
    let models = listed["models"].as_array().cloned().unwrap_or_default();
    let mut out = Out::stdout();
    match args.remote.format {
        Format::Json => out.json(&json!({ "models": models }))?,
        Format::Text => {
            let mut table = Table::new(&[
                ("model", Align::Left),
                ("status", Align::Left),
                ("version", Align::Left),
                ("weights", Align::Right),
                ("context", Align::Right),
                ("kernel", Align::Left),
            ]);
            for model in &models {
                table.row(row(model));
            }
            let failures: String = models.iter().filter_map(failure).collect();
            out.text(&(table.text() + &failures))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Why a model could not be loaded, below the table: a reason is longer than a column.
fn failure(model: &Value) -> Option<String> {
    let id = model["id"].as_str()?;
    let error = &model["error"];
    let reason = match (error["message"].as_str(), error["code"].as_str()) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        _ if model["status"] == "failed" => {
            "its engine has failed; the log of the server tells why".into()
        }
        _ => return None,
    };
    let lines = wrapped(&reason, "  ");
    Some(format!("\n{} failed:\n{lines}", sanitize::one_line(id)))
}

/// A model in a line; what is not known of it is a hyphen.
fn row(model: &Value) -> Vec<String> {
    let text = |name: &str| model[name].as_str().unwrap_or("-").to_owned();
    let number = |name: &str, shown: fn(u64) -> String| {
        let value = model[name].as_u64();
        value.map_or_else(|| "-".to_owned(), shown)
    };
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
        text("kernel"),
    ]
}
