//! `bitnet tokenize`: text to token ids, as the model would see it.

use std::ffi::OsString;
use std::io::BufRead;
use std::path::PathBuf;

use bitnet_tokenizers::{EncodeOptions, Tokenizer};
use clap::Args;
use serde::Serialize;

use crate::args::ModelArgs;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source;
use crate::output::{Format, Out};
use crate::prompt::{TextSource, check_utf8};
use crate::table::{Align, Table};

/// Options of `bitnet tokenize`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet tokenize \"Once upon a time\"\n  \
    bitnet tokenize --model model.gguf --special --bos --format json --file prompt.txt\n  \
    bitnet tokenize --tokenizer tokenizer.json --jsonl < strings.jsonl > ids.jsonl\n\n\
    --jsonl reads one JSON string a line from standard input and writes one JSON array of ids a line.")]
pub struct TokenizeArgs {
    /// The text [default: --file, else standard input]
    #[arg(value_name = "TEXT")]
    pub text: Option<OsString>,

    /// Read the text from a file; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,

    /// Recognise special tokens in the text (otherwise their names are ordinary text)
    #[arg(long)]
    pub special: bool,

    /// Put the beginning-of-text token in front, as the tokenizer's rules say
    #[arg(long)]
    pub bos: bool,

    /// One JSON string a line in, one JSON array of ids a line out
    #[arg(long, conflicts_with_all = ["text", "file", "format"])]
    pub jsonl: bool,

    /// text (one line of ids), table of ids and their texts on a terminal, or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Show each token's text beside its id
    #[arg(long, conflicts_with = "jsonl")]
    pub pieces: bool,

    /// Where the tokenizer comes from.
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Serialize)]
struct Tokenized {
    ids: Vec<u32>,
    pieces: Vec<String>,
}

/// Encodes the text or the lines.
///
/// # Errors
/// Unreadable or broken input (with its line), an unusable tokenizer.
pub fn run(args: &TokenizeArgs, env: &Environment) -> Result<Exit, CliError> {
    let options = EncodeOptions {
        add_special: args.bos,
        parse_special: args.special,
    };
    if args.jsonl {
        let tokenizer = model_source::load_tokenizer(&args.model, env)?;
        return lines(&tokenizer, options);
    }
    let source = TextSource::choose(
        args.text.as_deref(),
        args.file.as_deref(),
        "a TEXT argument",
    )?;
    let text = source.read()?;
    let tokenizer = model_source::load_tokenizer(&args.model, env)?;
    let ids = tokenizer.encode(&text, options)?;
    let mut out = Out::stdout();
    match args.format {
        Format::Json => {
            let pieces = ids
                .iter()
                .map(|id| piece(&tokenizer, *id))
                .collect::<Result<_, _>>()?;
            out.json(&Tokenized { ids, pieces })?;
        }
        Format::Text if args.pieces => {
            let mut table = Table::new(&[("id", Align::Right), ("text", Align::Left)]);
            for id in ids {
                table.row(vec![
                    id.to_string(),
                    format!("{:?}", piece(&tokenizer, id)?),
                ]);
            }
            out.text(&table.text())?;
        }
        Format::Text => {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            out.line(&ids.join(" "))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// The text of one token by itself; bytes that are no character alone show as U+FFFD.
fn piece(tokenizer: &Tokenizer, id: u32) -> Result<String, CliError> {
    Ok(tokenizer.decode(&[id], false)?)
}

fn lines(tokenizer: &Tokenizer, options: EncodeOptions) -> Result<Exit, CliError> {
    let mut out = Out::stdout();
    for_each_json_line(|text: String| {
        let ids = tokenizer.encode(&text, options)?;
        out.json_line(&ids)
    })?;
    out.flush()?;
    Ok(Exit::Ok)
}

/// Reads standard input line by line; empty lines are skipped.
///
/// # Errors
/// A usage error with the line's number when it is not the JSON asked for, and what `handle` returns.
pub fn for_each_json_line<T: serde::de::DeserializeOwned>(
    mut handle: impl FnMut(T) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut input = std::io::stdin().lock();
    let mut number = 0usize;
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line);
        let n = read.map_err(|e| {
            CliError::runtime(
                format!("cannot read standard input: {e}"),
                "check where the input comes from",
            )
        })?;
        if n == 0 {
            return Ok(());
        }
        number += 1;
        let line = check_utf8(line, &format!("line {number} of standard input"))?;
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(line.trim()).map_err(|e| {
            CliError::usage(
                format!("line {number} of standard input is not the JSON expected: {e}"),
                "each line is one JSON string for tokenize, one JSON array of ids for detokenize",
            )
        })?;
        handle(value)?;
    }
}
