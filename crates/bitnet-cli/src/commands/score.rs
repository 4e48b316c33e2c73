//! `bitnet score`: perplexity of a text by llama-perplexity's method, to compare models and engines.

use std::path::PathBuf;
use std::time::Instant;

use bitnet_inference::{Prompt, Score, ScoreOptions};
use clap::Args;
use serde::Serialize;

use crate::args::{EngineArgs, ModelArgs};
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::{self, LoadExtras};
use crate::output::{Format, Out};
use crate::progress::Progress;
use crate::prompt::TextSource;
use crate::table::{Align, Table};
use crate::token_ids;
use crate::units;

/// Options of `bitnet score`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet score --model model.gguf --file wiki.test.raw\n  \
    bitnet score --file story.txt --ctx 128 --format json\n\n\
    The text is cut into chunks of --ctx tokens; the second half of each is predicted from all before it\n\
    (llama-perplexity's method: figures of strided or sliding windows differ). A line end at the end of the\n\
    text is not part of it, as there.")]
pub struct ScoreArgs {
    /// The text; - is standard input (which is also read when the option is not given)
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The file holds token ids (a JSON array or numbers), not text
    #[arg(long)]
    pub ids: bool,

    /// text or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How to run it; --ctx is the length of a chunk [default: 512, or the model's context where that is less].
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Serialize)]
struct ScoreResult<'a> {
    model: &'a str,
    file: String,
    #[serde(flatten)]
    score: Score,
    seconds: f64,
    tok_s: f64,
}

/// Scores the text.
///
/// # Errors
/// Unreadable input, a text shorter than two chunks, an unusable model.
pub fn run(args: &ScoreArgs, env: &Environment) -> Result<Exit, CliError> {
    let source = TextSource::choose(None, args.file.as_deref(), "--file FILE")?;
    let mut text = source.read()?;
    let prompt = if args.ids {
        Prompt::Ids(token_ids::parse(&text, &source.name())?)
    } else {
        // llama.cpp's option -f takes a file without the line end at its end, and a token more or less can be a chunk
        // more or less.
        if text.ends_with('\n') {
            text.pop();
        }
        Prompt::Text(text)
    };
    let extras = LoadExtras {
        quick_start: true,
        ..LoadExtras::default()
    };
    let loaded = model_source::load(&args.model, &args.engine, env, extras)?;
    let mut options = ScoreOptions::default();
    options.ctx = args
        .engine
        .ctx
        .unwrap_or(options.ctx.min(loaded.engine.context()));
    let started = Instant::now();
    let score = {
        let bar = Progress::new("scoring", 1);
        loaded.engine.score(prompt, &options, &mut |p| {
            bar.set(p.done as u64, p.total as u64)
        })?
    };
    let elapsed = started.elapsed();
    let result = ScoreResult {
        model: &loaded.name,
        file: source.name(),
        score,
        seconds: elapsed.as_secs_f64(),
        tok_s: units::rate((score.n_chunks * score.ctx) as f64, elapsed),
    };
    let mut out = Out::stdout();
    match args.format {
        Format::Json => out.json(&result)?,
        Format::Text => out.text(&table(&result))?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn table(result: &ScoreResult<'_>) -> String {
    let score = &result.score;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let rows = [
        ("model", result.model.to_string()),
        ("file", result.file.clone()),
        (
            "perplexity",
            format!("{:.4} +/- {:.4}", score.perplexity, score.error),
        ),
        ("nats a token", format!("{:.5}", score.nll)),
        ("predictions", score.n_predictions.to_string()),
        (
            "chunks",
            format!("{} of {} tokens", score.n_chunks, score.ctx),
        ),
        ("tokens", score.n_tokens.to_string()),
        (
            "speed",
            format!("{} tok/s", units::three_digits(result.tok_s)),
        ),
    ];
    for (name, value) in rows {
        table.row(vec![name.into(), value]);
    }
    table.text()
}
