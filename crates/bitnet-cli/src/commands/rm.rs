//! `bitnet rm`: downloaded models out of the cache.

use std::io::{self, IsTerminal, Write};

use bitnet_hub::cache::removal::Removal;
use bitnet_hub::{Cache, HubError, HubModel};
use clap::Args;
use serde_json::json;

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::hub_cache;
use crate::output::{Format, Out};
use crate::units;

/// Options of `bitnet rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet rm OWNER/NAME\n  \
    bitnet rm OWNER/NAME OWNER/OTHER:TQ2_0\n  \
    bitnet rm OWNER/NAME:TQ2_0 --yes\n  \
    bitnet rm OWNER/NAME@v1.0 --dry-run\n\n\
    The cache is the one of the Hub's own tools: they lose the model too. Files that another revision has stay, \
    and so do those of a commit that another branch or tag names.")]
pub struct RmArgs {
    /// OWNER/NAME removes all of it; with :FILE that file, with @REVISION that revision; or the address of its page
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,

    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report; JSON has a document for each model
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// A name, and what it removes once those before it have gone.
struct Planned {
    model: HubModel,
    removed: Removed,
}

/// What goes with a name.
#[derive(Default)]
struct Removed {
    n_files: usize,
    freed: u64,
    /// Names that keep its files.
    same_commit: Vec<String>,
}

impl From<Removal> for Removed {
    fn from(removal: Removal) -> Removed {
        Removed {
            n_files: removal.n_files,
            freed: removal.freed,
            same_commit: removal.same_commit,
        }
    }
}

/// Removes, after asking: nothing where one of the names is of nothing.
///
/// # Errors
/// What is not there, or is being downloaded; nobody to ask.
pub fn run(args: &RmArgs, env: &Environment) -> Result<Exit, CliError> {
    let cache = hub_cache(env)?;
    let mut models: Vec<HubModel> = Vec::new();
    for text in &args.models {
        let model = env.hub.model(text)?;
        if !models.contains(&model) {
            models.push(model);
        }
    }
    let planned = plan(&cache, models)?;
    if !args.yes && !args.dry_run && !confirmed(&planned)? {
        return Ok(Exit::Runtime);
    }
    let mut out = Out::stdout();
    for planned in planned {
        let removed = match args.dry_run {
            true => planned.removed,
            false => match cache.remove(&planned.model) {
                Ok(removal) => removal.into(),
                // It went with another name, or somebody else has removed it since it was planned.
                Err(HubError::NotCached { .. }) => Removed::default(),
                Err(error) => return Err(error.into()),
            },
        };
        report(args, &mut out, &planned.model, &removed)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What all names together remove: the files that several of them mean, and what several share, go once.
fn plan(cache: &Cache, models: Vec<HubModel>) -> Result<Vec<Planned>, CliError> {
    let removals = cache.plan_removals(&models).map_err(|error| {
        let is_absent = matches!(error, HubError::NotCached { .. });
        let mut error = CliError::from(error);
        if is_absent {
            error.hint = "`bitnet list` tells what is there".into();
        }
        error
    })?;
    let planned = models.into_iter().zip(removals);
    let planned = planned.map(|(model, removal)| Planned {
        model,
        removed: removal.into(),
    });
    Ok(planned.collect())
}

fn report(
    args: &RmArgs,
    out: &mut Out,
    model: &HubModel,
    removed: &Removed,
) -> Result<(), CliError> {
    let (n_files, freed) = (removed.n_files, removed.freed);
    let verb = match args.dry_run {
        true => "would remove",
        false => "removed",
    };
    match (args.format, removed.same_commit.as_slice()) {
        (Format::Json, same_commit) => out.json(&json!({
            "model": model.to_string(),
            "removed": !args.dry_run,
            "files": n_files,
            "freed_bytes": freed,
            "same_commit": same_commit,
        })),
        (Format::Text, []) => {
            let freeing = if args.dry_run { "freeing" } else { "freed" };
            out.line(&format!(
                "{verb} {} of {model}, {freeing} {}",
                files(n_files),
                units::bytes(freed)
            ))
        }
        (Format::Text, others) => out.line(&format!(
            "{verb} the name {model}; its files stay, which are those of {} too",
            others.join(", ")
        )),
    }
}

fn files(n: usize) -> String {
    match n {
        1 => "1 file".into(),
        n => format!("{n} files"),
    }
}

fn confirmed(planned: &[Planned]) -> Result<bool, CliError> {
    let names: Vec<String> = planned.iter().map(|it| it.model.to_string()).collect();
    if !io::stdin().is_terminal() {
        let are = if names.len() == 1 { "is" } else { "are" };
        return Err(CliError::usage(
            format!(
                "nobody can be asked whether {} {are} to be removed",
                names.join(", ")
            ),
            "say --yes",
        ));
    }
    // Nobody is left to ask when standard error is closed, and nothing is removed then. It is not locked while the answer
    // is read: Ctrl-C writes there before it ends the command.
    let asked = write!(
        io::stderr(),
        "remove {} of {}, which frees {}? [y/N] ",
        files(planned.iter().map(|it| it.removed.n_files).sum()),
        names.join(", "),
        units::bytes(planned.iter().map(|it| it.removed.freed).sum())
    );
    let mut answer = String::new();
    let answered = asked
        .and_then(|()| io::stderr().flush())
        .and_then(|()| io::stdin().read_line(&mut answer));
    Ok(answered.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
