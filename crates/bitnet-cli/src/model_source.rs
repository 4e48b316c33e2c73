//! Which model is meant, and loading it: `--model`, else `BITNET_GGUF`, else the one inside the program.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use bitnet_hub::{Cache, HubError, HubModel, HubSettings};
use bitnet_inference::{
    CheckpointOptions, Engine, Error, HeadMode, LoadOptions, PackedCache, Tokenizer,
    TokenizerOptions, open_tokenizer,
};
use bitnet_models::{Checkpoint, PackedFileError, TokenizerSource};
use bitnet_server::model_manager::policy::OriginSource;
use bytes::Bytes;

use crate::args::{EngineArgs, ModelArgs};
use crate::embedded;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::output::{notice, warning};
use crate::progress::Progress;
use crate::sanitize;
use crate::verification_hint;

/// A model by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The one inside the program.
    Embedded,
    /// A file or a directory.
    Path(PathBuf),
}

impl ModelSource {
    /// The model that flag, environment or default name. What is no path, and could be a model of the Hub, is looked
    /// for in the cache of `bitnet pull`; nothing is downloaded.
    ///
    /// # Errors
    /// A model of the Hub that is not in the cache, or of which several files are.
    pub fn choose(flag: Option<&str>, env: &Environment) -> Result<ModelSource, CliError> {
        match flag.or(env.model.as_deref()) {
            None => Ok(ModelSource::Embedded),
            Some(name) => ModelSource::path(name, env).map(ModelSource::Path),
        }
    }

    /// The path that a name means, as for [`ModelSource::choose`].
    ///
    /// # Errors
    /// As there.
    pub fn path(name: &str, env: &Environment) -> Result<PathBuf, CliError> {
        match of_hub(name, &env.hub)? {
            None => Ok(PathBuf::from(name)),
            Some(model) => in_cache(name, &model, env),
        }
    }

    /// The model that a server's setting `models.default_model` names. The variable is a source of the settings too, so
    /// nobody else is asked.
    ///
    /// # Errors
    /// As [`ModelSource::choose`].
    pub fn choose_for_server(
        default_model: Option<&str>,
        env: &Environment,
    ) -> Result<ModelSource, CliError> {
        let env = Environment {
            hub: env.hub.clone(),
            ..Environment::default()
        };
        ModelSource::choose(default_model, &env)
    }

    /// What messages and results call it.
    pub fn name(&self) -> String {
        match self {
            ModelSource::Embedded => embedded::NAME.into(),
            ModelSource::Path(path) => path.display().to_string(),
        }
    }

    /// The same as the server has it.
    pub fn origin(&self) -> OriginSource {
        match self {
            ModelSource::Embedded => OriginSource::Bytes {
                name: embedded::NAME,
                bytes: Bytes::from_static(embedded::BYTES),
            },
            ModelSource::Path(path) => OriginSource::Path(path.clone()),
        }
    }

    /// Opens it without loading weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, options: &CheckpointOptions) -> Result<Checkpoint, CliError> {
        Ok(match self {
            ModelSource::Embedded => Checkpoint::from_gguf_bytes(
                embedded::NAME,
                Bytes::from_static(embedded::BYTES),
                options,
            )?,
            ModelSource::Path(path) => Checkpoint::open(path, options)?,
        })
    }
}

/// The file or directory that `name` means: itself, or a model in the cache of `bitnet pull`.
///
/// # Errors
/// As [`ModelSource::choose`].
pub fn path_of(name: &Path, env: &Environment) -> Result<PathBuf, CliError> {
    let model = name.to_str().map(|name| (name, of_hub(name, &env.hub)));
    match model {
        Some((name, model)) => match model? {
            Some(model) => in_cache(name, &model, env),
            None => Ok(PathBuf::from(name)),
        },
        None => Ok(name.to_owned()), // no text, so no name of the Hub
    }
}

/// The model of the Hub that `name` means, as a name or as the address of its page; none if it means a path, and what
/// exists is a path.
///
/// # Errors
/// What says that it is of the Hub, and is no name there.
pub(crate) fn of_hub(name: &str, hub: &HubSettings) -> Result<Option<HubModel>, CliError> {
    if name.starts_with(HubModel::PREFIX) {
        return Ok(Some(name.parse()?));
    }
    if HubSettings::is_address(name) && !Path::new(name).exists() {
        return Ok(Some(hub.model(name)?));
    }
    let is_file = |ending: &str| name.ends_with(ending) && !name.contains(':');
    if [".gguf", ".safetensors"].into_iter().any(is_file) || Path::new(name).exists() {
        return Ok(None);
    }
    Ok(name.parse().ok())
}

/// Whether `name` might be a path too: nothing in it says that a model of the Hub is meant.
pub(crate) fn may_be_path(name: &str) -> bool {
    !name.starts_with(HubModel::PREFIX) && !HubSettings::is_address(name)
}

/// Where a model of the Hub lies that `name` means.
///
/// # Errors
/// One that is not in the cache, or of which several files are.
pub(crate) fn in_cache(
    name: &str,
    model: &HubModel,
    env: &Environment,
) -> Result<PathBuf, CliError> {
    match hub_cache(env)?.find(model, env.hub.offline) {
        Ok(found) => {
            verification_hint::found(model);
            Ok(found.path)
        }
        Err(error @ HubError::NotCached { .. }) if may_be_path(name) => {
            let mut error = CliError::from(error);
            error.message = format!(
                "there is no file or directory {name}, and {}",
                error.message
            );
            Err(error)
        }
        Err(error) => Err(error.into()),
    }
}

/// The cache of models from the Hub.
///
/// # Errors
/// Where no variable tells a folder.
pub fn hub_cache(env: &Environment) -> Result<Cache, CliError> {
    let folder = env.hub.cache.clone().ok_or_else(|| {
        CliError::usage(
            "there is no folder for downloaded models",
            "set HF_HOME, or HOME",
        )
    })?;
    Ok(Cache::at(folder))
}

/// A loaded model with its name.
pub struct Loaded {
    /// Ready to run.
    pub engine: Engine,
    /// What messages and results call it.
    pub name: String,
    /// What it runs on, as results report it.
    pub device: &'static str,
    source: ModelSource,
    _keeping: Option<Keeping>,
}

/// Packed weights that are being written for the next start, beside everything else. Dropping it waits for the end.
struct Keeping(Option<JoinHandle<Result<u64, PackedFileError>>>);

impl Keeping {
    /// Begins to write what the engine has to keep; `None` if that is nothing.
    fn begin(engine: &Engine) -> Option<Keeping> {
        let unwritten = engine.take_unwritten()?;
        let thread = thread::Builder::new().name("keep".into());
        match thread.spawn(move || unwritten.write()) {
            Ok(thread) => Some(Keeping(Some(thread))),
            Err(error) => {
                warning(&not_kept(&error));
                None
            }
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        match self.0.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(_))) => {}
            Some(Ok(Err(error))) => warning(&not_kept(&error)),
            Some(Err(_)) => warning(&not_kept(&"the thread that wrote them panicked")),
        }
    }
}

fn not_kept(error: &dyn std::fmt::Display) -> String {
    format!("the packed weights could not be kept: {error}")
}

impl Loaded {
    /// Tells what had to be assumed about the tokenizer of a file, a line for each assumption. Nobody can change the
    /// model inside the program, so nothing is said about that one.
    pub fn note_repairs(&self) {
        note_repairs(&self.source, &self.engine);
    }
}

/// What the engine warns of, and what had to be assumed about the tokenizer of a file.
pub fn tell_findings(source: &ModelSource, engine: &Engine) {
    tell_warnings(engine);
    note_repairs(source, engine);
}

fn tell_warnings(engine: &Engine) {
    for text in &engine.info().warnings {
        warning(text);
    }
}

fn note_repairs(source: &ModelSource, engine: &Engine) {
    if *source == ModelSource::Embedded {
        return;
    }
    for repair in engine.repairs() {
        let text = format!("note: {}; assumed: {}", repair.why, repair.what);
        notice(&sanitize::one_line(&text));
    }
}

/// What only some commands load with.
#[derive(Debug, Clone, Default)]
pub struct LoadExtras {
    /// Text of the chat template instead of the model's.
    pub chat_template: Option<String>,
    /// Sequences that run at once; 0 means one.
    pub max_sequences: usize,
    /// Keep packed weights for the next start, and use those that are kept: for commands that somebody waits for, and
    /// servers. Weights in a mapped file are read a little more slowly than in memory of huge pages, so what measures
    /// or computes for long packs anew.
    pub quick_start: bool,
}

/// The options that flags and environment give.
pub fn load_options(
    model: &ModelArgs,
    engine: &EngineArgs,
    env: &Environment,
    extras: LoadExtras,
) -> LoadOptions {
    LoadOptions {
        threads: engine.threads(env),
        kernel: engine.kernel(env),
        dense: engine.dense(env),
        context: engine.ctx,
        kv_type: engine.kv_type.unwrap_or_default(),
        max_sequences: extras.max_sequences.max(1),
        head: if engine.full_head || env.full_head {
            HeadMode::Full
        } else {
            HeadMode::Auto
        },
        checkpoint: checkpoint_options(model),
        strict_tokenizers: env.strict_tokenizers,
        tokenizer: model.tokenizer(env),
        packed_cache: (extras.quick_start && !engine.no_cache)
            .then(|| env.cache.clone().map(PackedCache::in_folder))
            .flatten(),
        chat_template: extras.chat_template,
        ..LoadOptions::default()
    }
}

/// How the file is read.
pub fn checkpoint_options(model: &ModelArgs) -> CheckpointOptions {
    CheckpointOptions {
        dialects: model.dialect.unwrap_or_default(),
        ..CheckpointOptions::default()
    }
}

/// Loads the model that `args` name, with a progress bar, and prints what the engine warns of.
///
/// # Errors
/// Whatever is wrong with the file, the tokenizer or the options.
pub fn load(
    model: &ModelArgs,
    args: &EngineArgs,
    env: &Environment,
    extras: LoadExtras,
) -> Result<Loaded, CliError> {
    let source = ModelSource::choose(model.model.as_deref(), env)?;
    let engine = load_source(&source, &load_options(model, args, env, extras))?;
    tell_warnings(&engine);
    Ok(Loaded {
        _keeping: Keeping::begin(&engine),
        engine,
        name: source.name(),
        device: args.device(env).used(),
        source,
    })
}

/// Loads `source`, with a progress bar.
///
/// # Errors
/// As [`load`].
pub fn load_source(source: &ModelSource, options: &LoadOptions) -> Result<Engine, Error> {
    let bar = Progress::new("loading", 1);
    let mut progress =
        |p: bitnet_inference::LoadProgress| bar.set(p.layers_done as u64, p.n_layers as u64);
    match source {
        ModelSource::Embedded => Engine::from_bytes_with_progress(
            embedded::NAME,
            Bytes::from_static(embedded::BYTES),
            options,
            &mut progress,
        ),
        ModelSource::Path(path) => Engine::load_with_progress(path, options, &mut progress),
    }
}

/// The tokenizer alone, without the model's weights: `--tokenizer`, `BITNET_TOKENIZER`, else the model's.
///
/// # Errors
/// An unreadable or unusable tokenizer, a model without one.
pub fn load_tokenizer(args: &ModelArgs, env: &Environment) -> Result<Tokenizer, CliError> {
    let options = TokenizerOptions {
        strict: env.strict_tokenizers,
    };
    if let Some(path) = args.tokenizer(env) {
        return Ok(open_tokenizer(&path, &options)?);
    }
    let source = ModelSource::choose(args.model.as_deref(), env)?;
    if let ModelSource::Path(path) = &source {
        return Ok(open_tokenizer(path, &options)?);
    }
    let checkpoint = source.open(&checkpoint_options(args))?;
    match checkpoint.tokenizer_source()? {
        TokenizerSource::Gguf(vocabulary) => Ok(Tokenizer::from_gguf(*vocabulary, &options)?),
        _ => Err(CliError::new(
            Exit::Unusable,
            format!("{} has no tokenizer", source.name()),
            "give one with --tokenizer",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_then_the_environment_then_the_embedded_model() {
        let mut env = Environment::default();
        assert_eq!(
            ModelSource::choose(None, &env).unwrap(),
            ModelSource::Embedded
        );
        env.model = Some("env.gguf".into());
        assert_eq!(
            ModelSource::choose(None, &env).unwrap(),
            ModelSource::Path("env.gguf".into())
        );
        assert_eq!(
            ModelSource::choose(Some("flag.gguf"), &env).unwrap(),
            ModelSource::Path("flag.gguf".into())
        );
    }

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let hub = HubSettings::default();
        let is_of_hub = |name: &str| of_hub(name, &hub).unwrap().is_some();
        for name in [
            "o/n",
            "o/n:Q2_0",
            "o/n@v1",
            "hf:o/n",
            "o/n:m.gguf",
            "https://huggingface.co/o/n",
            "hf.co/o/n/blob/main/m.gguf",
        ] {
            assert!(is_of_hub(name), "{name}");
        }
        for name in [
            "m.gguf",
            "o/m.gguf",
            "./o/n",
            "/o/n",
            "a/b/c",
            "src",
            "src/commands",
            "o",
        ] {
            assert!(!is_of_hub(name), "{name}");
        }
        for bad in ["hf:no-owner", "https://elsewhere.example/o/n/m.gguf"] {
            assert!(of_hub(bad, &hub).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_in_the_cache_is_to_be_pulled() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = Environment::default();
        env.hub.cache = Some(folder.path().into());
        for (name, message) in [
            ("o/n:Q2_0", "no file or directory o/n:Q2_0"),
            ("hf:o/n:Q2_0", "o/n:Q2_0 is not in"),
        ] {
            let error = ModelSource::choose(Some(name), &env).unwrap_err();
            assert!(error.message.contains(message), "{}", error.message);
            assert_eq!(error.hint, "`bitnet pull o/n:Q2_0` downloads it");
        }
        assert!(ModelSource::choose(Some("o/n"), &Environment::default()).is_err());
    }
}
