//! `bitnet run`: continue a text, streaming.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use bitnet_inference::{FinishReason, Generation, Prompt};
use clap::Args;
use serde::Serialize;

use crate::args::{EngineArgs, ModelArgs, NAMED_MODEL, SamplingArgs, TemplateArgs};
use crate::chat_prompt::message;
use crate::embedded;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::interrupt::Cooperative;
use crate::model_source::{self, LoadExtras, ModelSource};
use crate::output::{Format, Out, notice};
use crate::prompt::TextSource;
use crate::run_metrics::RunMetrics;
use crate::sanitize::Sanitizer;
use crate::units;

/// Options of `bitnet run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet run --prompt \"Once upon a time\"\n  \
    echo \"One day a little fox\" | bitnet run --temperature 0.7 --seed 1 --metrics\n  \
    bitnet run model.gguf \"The capital of France is\" --greedy\n  \
    bitnet run --model model.gguf --file prompt.txt --max-tokens 200 --stop \"User:\" --format json\n  \
    bitnet run --model model.gguf --system \"Answer in one word.\" --prompt \"The capital of France?\"\n\n\
    With --system or --template the prompt is one message of a chat; otherwise it is continued as it is.")]
pub struct RunArgs {
    /// The model, as --model takes it
    #[arg(id = NAMED_MODEL, value_name = "MODEL", conflicts_with = "model")]
    pub named: Option<String>,

    /// The text to continue, as --prompt takes it
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "file"])]
    pub text: Option<OsString>,

    /// The text to continue
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<OsString>,

    /// Read the text from a file; - is standard input (which is also read when neither option is given)
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,

    /// Recognise special tokens in the text (otherwise their names are ordinary text)
    #[arg(long)]
    pub special: bool,

    /// Print the text itself before its continuation
    #[arg(long)]
    pub echo: bool,

    /// Print times, tokens per second, bytes per token, bandwidth and memory to standard error
    #[arg(long)]
    pub metrics: bool,

    /// Print terminal escape sequences of the model as they are
    #[arg(long)]
    pub raw: bool,

    /// text (streamed) or json (one document at the end)
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How to run it.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// How a prompt becomes a chat.
    #[command(flatten)]
    pub template: TemplateArgs,
}

/// How many tokens a run draws when nobody says: a page, and not the whole context of a model that never ends.
const DEFAULT_MAX_TOKENS: usize = 256;

/// The JSON document of `--format json`.
#[derive(Serialize)]
struct RunResult<'a> {
    model: &'a str,
    prompt: &'a str,
    /// The continuation; control characters are escaped by JSON, nothing is stripped.
    text: String,
    token_ids: Vec<u32>,
    /// `end_of_text`, `stop_string`, `length`, `context_full` or `interrupted`.
    finish_reason: &'a str,
    seed: u64,
    metrics: RunMetrics,
}

/// What was generated before the end or Ctrl-C.
struct Answer {
    text: String,
    ids: Vec<u32>,
    /// `None` after Ctrl-C.
    finish: Option<FinishReason>,
}

/// Generates and prints.
///
/// # Errors
/// Bad input and models, as the module `exit` classes them; Ctrl-C, after the partial answer and its metrics.
pub fn run(args: &RunArgs, env: &Environment) -> Result<Exit, CliError> {
    let prompt = args.prompt.as_deref().or(args.text.as_deref());
    let bare = prompt.is_none() && args.file.is_none() && std::io::stdin().is_terminal();
    let model = args.model.or_named(args.named.as_deref());
    if let Some(name) = &args.named {
        check_named(name)?;
    }
    let source = match ModelSource::choose(model.model.as_deref(), env)? {
        // The first thing that anybody tries: `bitnet run` alone tells a story.
        ModelSource::Embedded if bare => {
            notice(&format!(
                "no --prompt was given, so this begins with \"{}\"",
                embedded::PROMPT
            ));
            TextSource::Argument(embedded::PROMPT.into())
        }
        _ => TextSource::choose(prompt, args.file.as_deref(), "--prompt TEXT")?,
    };
    let text = source.read()?;
    if text.is_empty() {
        return Err(CliError::usage(
            format!("the prompt is empty ({} holds no text)", source.name()),
            "give at least one character with --prompt, --file or standard input",
        ));
    }
    let extras = LoadExtras {
        chat_template: args.template.file_text()?,
        quick_start: true,
        ..LoadExtras::default()
    };
    let loaded = model_source::load(&model, &args.engine, env, extras)?;
    let engine = &loaded.engine;
    let prompt = match args.template.format_of_run(engine)? {
        Some(format) => {
            let system = args
                .template
                .system
                .iter()
                .map(|text| message("system", text));
            let messages: Vec<_> = system.chain([message("user", &text)]).collect();
            format.prompt(engine, &messages)?
        }
        None if args.special => Prompt::Markup(text.clone()),
        None => Prompt::Text(text.clone()),
    };
    let mut options = args.sampling.options(env);
    options.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);

    let cooperative = Cooperative::begin();
    let before = engine.traffic();
    let mut generation = engine.generate(prompt, &options)?;
    if args.format == Format::Text {
        loaded.note_repairs();
    }
    let mut out = Out::stdout();
    if args.echo && args.format == Format::Text {
        out.text(&text)?;
        out.flush()?;
    }
    let answer = stream(&mut generation, args, &cooperative, &mut out)?;
    let metrics = RunMetrics::of(&loaded, &generation, &before);
    let seed = generation.seed();
    match args.format {
        Format::Json => out.json(&RunResult {
            model: &loaded.name,
            prompt: &text,
            text: answer.text,
            token_ids: answer.ids,
            finish_reason: answer.finish.map_or("interrupted", finish_name),
            seed,
            metrics: metrics.clone(),
        })?,
        Format::Text => {
            out.text("\n")?;
            out.flush()?;
            if args.metrics {
                notice(&metrics.table(seed, answer.finish));
            } else if answer.finish == Some(FinishReason::ContextFull) {
                notice(&format!(
                    "the context is full ({} positions): the text ends here",
                    engine.context()
                ));
            }
        }
    }
    out.flush()?;
    match answer.finish {
        Some(_) => Ok(Exit::Ok),
        None => Err(cooperative.error(&format!(
            "the text ends after {} tokens ({} tok/s)",
            metrics.generated_tokens,
            units::three_digits(metrics.decode_tok_s)
        ))),
    }
}

/// Who writes `bitnet run "Once upon a time"` means a text, not a model.
fn check_named(name: &str) -> Result<(), CliError> {
    let is_place = name.contains(['/', '\\', '.', ':']) && !name.contains(char::is_whitespace);
    if is_place || Path::new(name).exists() {
        return Ok(());
    }
    Err(CliError::usage(
        format!("there is no model '{name}'"),
        "a model is a file, a directory, or OWNER/NAME of the Hub; a text alone goes behind --prompt",
    ))
}

fn stream(
    generation: &mut Generation<'_>,
    args: &RunArgs,
    cooperative: &Cooperative,
    out: &mut Out,
) -> Result<Answer, CliError> {
    let mut sanitizer = Sanitizer::default();
    let mut answer = Answer {
        text: String::new(),
        ids: Vec::new(),
        finish: None,
    };
    while !cooperative.requested() {
        let Some(token) = generation.next() else {
            answer.finish = generation.finish_reason();
            break;
        };
        let token = token?;
        answer.ids.push(token.id);
        if args.format == Format::Text && !token.text.is_empty() {
            let printed = if args.raw {
                token.text.clone()
            } else {
                sanitizer.push(&token.text)
            };
            out.text(&printed)?;
            out.flush()?;
        }
        answer.text.push_str(&token.text);
    }
    Ok(answer)
}

/// The name of a reason in JSON.
pub fn finish_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfText => "end_of_text",
        FinishReason::StopString => "stop_string",
        FinishReason::Length => "length",
        FinishReason::ContextFull => "context_full",
    }
}
