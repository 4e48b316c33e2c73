//! `bitnet logits`: the model's raw output for given token ids, for comparing engines number by number.

use std::io::Write;
use std::path::{Path, PathBuf};

use bitnet_inference::{Engine, LogitRows};
use bitnet_models::safetensors::{DeclaredTensor, StoredType, file_head};
use clap::Args;
use serde::Serialize;

use crate::args::{EngineArgs, ModelArgs};
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::{self, LoadExtras};
use crate::output::{Format, Out};
use crate::pending::{Pending, sync};
use crate::prompt::TextSource;
use crate::token_ids;

/// Options of `bitnet logits`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet tokenize --bos \"Once upon a time\" | bitnet logits --tokens - --out next.safetensors\n  \
    bitnet logits --model model.gguf --tokens ids.json --all --trace --out all.safetensors\n\n\
    OUT holds the f32 tensor `logits` [n, vocab]: one row, or with --all a row for each id. --trace adds\n\
    `layer.N` [ids, hidden], the residual stream after each layer, `embedding` before the first and\n\
    `final_norm` after the last.")]
pub struct LogitsArgs {
    /// Token ids: a JSON array or numbers; - is standard input
    #[arg(long, value_name = "FILE")]
    pub tokens: PathBuf,

    /// The safetensors file to write
    #[arg(short, long, value_name = "OUT.safetensors")]
    pub out: PathBuf,

    /// Logits of every position, not only the last
    #[arg(long)]
    pub all: bool,

    /// Also the hidden states after each layer
    #[arg(long)]
    pub trace: bool,

    /// text or json (what was written)
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How to run it.
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Serialize)]
struct Written {
    model: String,
    out: String,
    tokens: usize,
    tensors: Vec<WrittenTensor>,
}

#[derive(Serialize)]
struct WrittenTensor {
    name: String,
    shape: Vec<usize>,
}

/// Runs the ids and writes the file.
///
/// # Errors
/// Ids that are none or outside the vocabulary, more than the context holds, a file that cannot be written.
pub fn run(args: &LogitsArgs, env: &Environment) -> Result<Exit, CliError> {
    let source = TextSource::choose(None, Some(&args.tokens), "--tokens FILE")?;
    let ids = token_ids::parse(&source.read()?, &source.name())?;
    if ids.is_empty() {
        return Err(CliError::usage(
            format!("{} holds no token ids", source.name()),
            "give at least one id, as `bitnet tokenize` prints them",
        ));
    }
    let pending = Pending::new(&args.out)?;
    let model = args.model.model.as_deref().map(Path::new);
    pending.is_none_of(model.into_iter().chain([args.tokens.as_path()]))?;
    let extras = LoadExtras {
        quick_start: true,
        ..LoadExtras::default()
    };
    let loaded = model_source::load(&args.model, &args.engine, env, extras)?;
    let tensors = tensors(&loaded.engine, &ids, args)?;

    let mut writer = pending.create_file()?;
    let wrap = |e: &std::io::Error| CliError::file("write", &args.out, e);
    let head = file_head(tensors.iter().map(|(declared, _)| declared));
    writer.write_all(&head).map_err(|e| wrap(&e))?;
    for value in tensors.iter().flat_map(|(_, values)| values) {
        writer
            .write_all(&value.to_le_bytes())
            .map_err(|e| wrap(&e))?;
    }
    sync(writer, &args.out)?;
    pending.finish()?;
    report(args, &loaded.name, ids.len(), tensors)
}

fn tensors(
    engine: &Engine,
    ids: &[u32],
    args: &LogitsArgs,
) -> Result<Vec<(DeclaredTensor, Vec<f32>)>, CliError> {
    let rows = if args.all {
        LogitRows::All
    } else {
        LogitRows::Last
    };
    let logits = engine.logits(ids, rows)?;
    let vocab_size = engine.config().vocab_size;
    let tensor = |name: String, width: usize, values: Vec<f32>| {
        (
            DeclaredTensor {
                name,
                stored_type: StoredType::F32,
                shape: vec![values.len() / width, width],
            },
            values,
        )
    };
    let mut tensors = vec![tensor("logits".into(), vocab_size, logits)];
    if args.trace {
        let trace = engine.trace(ids)?;
        tensors.push(tensor(
            "embedding".into(),
            trace.hidden_size,
            trace.embedding,
        ));
        for (layer, values) in trace.layers.into_iter().enumerate() {
            tensors.push(tensor(format!("layer.{layer}"), trace.hidden_size, values));
        }
        tensors.push(tensor(
            "final_norm".into(),
            trace.hidden_size,
            trace.final_norm,
        ));
    }
    Ok(tensors)
}

fn report(
    args: &LogitsArgs,
    model: &str,
    n_tokens: usize,
    tensors: Vec<(DeclaredTensor, Vec<f32>)>,
) -> Result<Exit, CliError> {
    let mut out = Out::stdout();
    match args.format {
        Format::Json => out.json(&Written {
            model: model.to_string(),
            out: args.out.display().to_string(),
            tokens: n_tokens,
            tensors: tensors
                .into_iter()
                .map(|(d, _)| WrittenTensor {
                    name: d.name,
                    shape: d.shape,
                })
                .collect(),
        })?,
        Format::Text => {
            for (declared, _) in &tensors {
                out.line(&format!("{} {:?}", declared.name, declared.shape))?;
            }
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}
