//! `bitnet detokenize`: token ids to text.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::args::ModelArgs;
use crate::commands::tokenize::for_each_json_line;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source;
use crate::output::{Format, Out};
use crate::prompt::TextSource;
use crate::sanitize;
use crate::token_ids;

/// Options of `bitnet detokenize`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet detokenize \"448 670 259 534\"\n  \
    bitnet detokenize --model model.gguf --special --file ids.json\n  \
    bitnet detokenize --jsonl < ids.jsonl > strings.jsonl\n\n\
    Ids are a JSON array or numbers between spaces, commas or line ends.\n\
    --jsonl reads one JSON array of ids a line and writes one JSON string a line.")]
pub struct DetokenizeArgs {
    /// The ids [default: --file, else standard input]
    #[arg(value_name = "IDS")]
    pub ids: Option<OsString>,

    /// Read the ids from a file; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "ids")]
    pub file: Option<PathBuf>,

    /// Keep special tokens in the text (otherwise they are left out)
    #[arg(long)]
    pub special: bool,

    /// One JSON array of ids a line in, one JSON string a line out
    #[arg(long, conflicts_with_all = ["ids", "file", "format", "raw"])]
    pub jsonl: bool,

    /// text or json (a string)
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Print terminal escape sequences as they are
    #[arg(long)]
    pub raw: bool,

    /// Where the tokenizer comes from.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Decodes the ids or the lines.
///
/// # Errors
/// Unreadable or broken input, ids outside the vocabulary, an unusable tokenizer.
pub fn run(args: &DetokenizeArgs, env: &Environment) -> Result<Exit, CliError> {
    let mut out = Out::stdout();
    if args.jsonl {
        let tokenizer = model_source::load_tokenizer(&args.model, env)?;
        for_each_json_line(|ids: Vec<u32>| {
            let text = tokenizer.decode(&ids, !args.special)?;
            out.json_line(&text)
        })?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let source = TextSource::choose(args.ids.as_deref(), args.file.as_deref(), "an IDS argument")?;
    let ids = token_ids::parse(&source.read()?, &source.name())?;
    let tokenizer = model_source::load_tokenizer(&args.model, env)?;
    let text = tokenizer.decode(&ids, !args.special)?;
    match args.format {
        Format::Json => out.json(&text)?,
        Format::Text if args.raw => out.line(&text)?,
        Format::Text => out.line(&sanitize::text(&text))?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}
