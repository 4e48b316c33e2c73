//! From a file to a model that may be given requests: hash, weights, validation, a first token.
//!
//! It runs on a thread of its own, one model at a time: two loads would take each other's memory and processors.
//! Whoever waits for it waits on its [`LoadJob`]; when nobody wants it any more it ends at its next look, and what it
//! had is dropped.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bitnet_inference::{
    Engine, GenerateOptions, LoadOptions, LoadProgress, ModelConfig, ModelFiles, Reference,
    give_back_free_memory,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::incompatible::{load_error, other_model, without_folder};
use super::job::{LoadJob, LoadStage};
use super::policy::{self, ModelOrigin, OriginSource};
use super::room::{make_room, tell_if_too_large};
use super::validate::{self, ValidationPlan};
use super::version;
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::machine;
use crate::metrics::process::private_bytes;
use crate::model::LoadedModel;

/// What is to be loaded.
pub(super) struct LoadOrder {
    /// What clients will call it.
    pub id: String,
    /// Its files, and how.
    pub origin: ModelOrigin,
    /// How it is compared with the reference; `None`: not at all.
    pub plan: Option<ValidationPlan>,
    /// What it has to be like, as it takes the place of another one.
    pub like: Option<Likeness>,
    /// The version that it has to be.
    pub version: Option<String>,
    /// Whether the version that it takes the place of stays in memory.
    pub keeps_old: bool,
}

/// What clients rely on when the model behind a name changes.
pub(super) struct Likeness {
    pub family: &'static str,
    pub vocab_size: usize,
    pub has_tokenizer: bool,
    pub has_template: bool,
}

impl Likeness {
    pub fn of(model: &LoadedModel) -> Likeness {
        let config = model.engine.config();
        Likeness {
            family: config.family.name,
            vocab_size: config.vocab_size,
            has_tokenizer: model.engine.tokenizer().is_ok(),
            has_template: model.engine.chat_template().is_some(),
        }
    }

    fn check(&self, config: &ModelConfig) -> Result<(), ApiError> {
        if config.family.name != self.family {
            return Err(other_model("family", self.family, config.family.name));
        }
        if config.vocab_size != self.vocab_size {
            return Err(other_model(
                "size of the vocabulary",
                self.vocab_size,
                config.vocab_size,
            ));
        }
        Ok(())
    }

    /// Texts and chats that the old one has answered must not be refused, or laid out by nothing, from one request to
    /// the next.
    fn check_texts(&self, engine: &Engine) -> Result<(), ApiError> {
        let has_tokenizer = engine.tokenizer().is_ok();
        let has_template = engine.chat_template().is_some();
        for (what, before, now) in [
            ("tokenizer", self.has_tokenizer, has_tokenizer),
            ("chat template", self.has_template, has_template),
        ] {
            if before && !now {
                return Err(other_model(what, "one, as the old version has", "none"));
            }
        }
        Ok(())
    }
}

/// Memory of the process around a load: what only it has (`Private_Dirty` and anonymous pages), in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct LoadMemory {
    /// Before the first byte was read.
    pub before_bytes: Option<u64>,
    /// The most that was seen.
    pub peak_bytes: Option<u64>,
    /// When the model was ready.
    pub after_bytes: Option<u64>,
}

/// Time between two looks at the process's memory.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);

/// A look at it takes a millisecond for each hundred megabytes that are mapped, and longer where processors are scarce:
/// at most one part in so many of the time is spent on it.
const MEMORY_SHARE: u32 = 20;

/// Time for the first token of a model: a model of that size answers nobody.
const FIRST_TOKEN_PATIENCE: Duration = Duration::from_secs(120);

/// Loads on a thread and waits for it; a validation that takes too long is given up.
pub(super) async fn load(
    app: &Arc<App>,
    job: &Arc<LoadJob>,
    order: LoadOrder,
    turn: OwnedSemaphorePermit,
) -> Result<(LoadedModel, LoadMemory), ApiError> {
    let (sender, receiver) = oneshot::channel();
    let timeout = order.plan.map(|plan| plan.timeout);
    let (on_thread, app) = (job.clone(), app.clone());
    let started = thread::Builder::new().name("load".into()).spawn(move || {
        // Its files are looked at for their sizes, which may take as long as a network likes.
        let made = make_room(&app, &order).and_then(|room| {
            let (model, memory) = make(&app, &on_thread, &order)?;
            Ok((model.in_room(room), memory))
        });
        drop(turn); // before anybody is told: whoever comes next finds its turn free
        let _ = sender.send(made); // nobody waits any more
    });
    if let Err(error) = started {
        return Err(ApiError::new(
            ErrorCode::InternalError,
            format!("no thread can be started to load a model: {error}"),
        ));
    }
    let past_timeout = async {
        match timeout {
            None => std::future::pending().await,
            Some(timeout) => {
                validated_for(job, timeout).await;
                timeout
            }
        }
    };
    tokio::select! {
        made = receiver => made.unwrap_or_else(|_| {
            tracing::error!(job = job.id, "loading a model panicked");
            Err(ApiError::new(ErrorCode::InternalError, "loading the model failed"))
        }),
        timeout = past_timeout => {
            job.cancel();
            Err(too_slow(timeout))
        }
    }
}

/// Resolves when validating has taken `time`, from which that is left out which it waits for: files that are read and
/// packed between its two paths.
async fn validated_for(job: &LoadJob, time: Duration) {
    let mut left = time;
    loop {
        job.comes_to(LoadStage::Validating).await;
        let began = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(left) => return,
            () = job.leaves(LoadStage::Validating) => left = left.saturating_sub(began.elapsed()),
        }
    }
}

fn too_slow(timeout: Duration) -> ApiError {
    let seconds = timeout.as_secs_f64();
    let message = format!("the validation took longer than {seconds} s");
    ApiError::new(ErrorCode::ValidationTimeout, message)
}

fn make(
    app: &App,
    job: &LoadJob,
    order: &LoadOrder,
) -> Result<(LoadedModel, LoadMemory), ApiError> {
    job.check()?;
    let mut memory = LoadMemory {
        before_bytes: private_bytes(),
        ..LoadMemory::default()
    };
    let (watching, stop) = std::sync::mpsc::channel::<()>();
    let mut made = thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let mut peak = None;
            loop {
                let began = Instant::now();
                peak = peak.max(private_bytes());
                if stop.recv_timeout(MEMORY_INTERVAL.max(began.elapsed() * MEMORY_SHARE))
                    != Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                {
                    return peak;
                }
            }
        });
        let made = thread::scope(|scope| {
            let source = &order.origin.source;
            let before = version::files_of_source(source);
            // Beside the load: reading from the system's cache and hashing take about as long as repacking.
            let hashed = scope.spawn(move || version::of_source(source));
            let built = build(app, job, order);
            let hashed = hashed
                .join()
                .map_err(|_| ApiError::new(ErrorCode::InternalError, "hashing the model failed"))?;
            let built = built?;
            let version = hashed.and_then(|hashed| version::of_loaded(before, hashed));
            finish(
                app,
                job,
                order,
                built,
                version.map_err(|e| unversioned(source, &e))?,
            )
        });
        drop(watching);
        memory.peak_bytes = watcher.join().unwrap_or_default();
        made
    })?;
    give_back_free_memory(); // of headers, vocabularies and buffers that the load alone had
    memory.after_bytes = private_bytes();
    let seen = [memory.before_bytes, memory.after_bytes];
    memory.peak_bytes = seen.into_iter().fold(memory.peak_bytes, Option::max);
    made.load_memory = Some(memory);
    Ok((made, memory))
}

/// A loaded engine and what its validation found.
struct Built {
    engine: Engine,
    validation: Option<validate::Validation>,
}

fn build(app: &App, job: &LoadJob, order: &LoadOrder) -> Result<Built, ApiError> {
    let ModelOrigin { source, options } = &order.origin;
    let check = |config: &ModelConfig| match &order.like {
        Some(like) => like.check(config),
        None => Ok(()),
    };
    room_for(source)?;
    let kv_cache_bytes = app.manager.policy.kv_cache_bytes;
    let options = &policy::sized(options, kv_cache_bytes, promised(app, &order.id));
    job.enter(LoadStage::Loading);
    if let Some(plan) = &order.plan {
        let mut took = Duration::ZERO;
        let reference = open_reference(source, options)?;
        // Shapes first: they are wrong in a moment, the reference takes its time.
        check(reference.config())?;
        let run_reference = |reference: &Reference, longest: usize| {
            let prompts = validate::prompts(reference, plan.samples, longest);
            let rows = validate::run_reference(reference, &prompts, job)?;
            Ok::<_, ApiError>((prompts, rows))
        };
        let longest = options.context.unwrap_or(usize::MAX);
        let (mut prompts, mut expected) =
            validating(job, &mut took, || run_reference(&reference, longest))?;
        let tokenizer = reference.into_tokenizer();
        let engine = open(source, options, job)?;
        drop(tokenizer);
        // Memory had no room for a context of as many positions.
        if prompts.iter().any(|prompt| prompt.len() > engine.context()) {
            let (reference, longest) = (open_reference(source, options)?, engine.context());
            (prompts, expected) =
                validating(job, &mut took, || run_reference(&reference, longest))?;
        }
        let found = validating(job, &mut took, || validate::run(&engine, &prompts, job))?;
        let validation = validate::compare(&expected, &found, took);
        // Who waits on a clock may be late where processors are scarce.
        if took >= plan.timeout {
            return Err(too_slow(plan.timeout));
        }
        validation.judge(plan)?;
        return Ok(Built {
            engine,
            validation: Some(validation),
        });
    }
    let engine = open(source, options, job)?;
    check(engine.config())?;
    Ok(Built {
        engine,
        validation: None,
    })
}

/// Does a part of the validation, and adds up how long that takes.
fn validating<T>(job: &LoadJob, took: &mut Duration, work: impl FnOnce() -> T) -> T {
    job.enter(LoadStage::Validating);
    let began = Instant::now();
    let done = work();
    *took += began.elapsed();
    job.enter(LoadStage::Loading);
    done
}

fn open_reference(source: &OriginSource, options: &LoadOptions) -> Result<Reference, ApiError> {
    let opened = match source {
        OriginSource::Path(path) => Reference::open(path, options),
        OriginSource::Bytes { name, bytes } => Reference::from_bytes(name, bytes.clone(), options),
    };
    opened.map_err(|error| load_error(source, &error))
}

fn open(source: &OriginSource, options: &LoadOptions, job: &LoadJob) -> Result<Engine, ApiError> {
    job.check()?;
    let mut progress = |progress: LoadProgress| job.progress(progress);
    let opened = match source {
        OriginSource::Path(path) => Engine::load_with_progress(path, options, &mut progress),
        OriginSource::Bytes { name, bytes } => {
            Engine::from_bytes_with_progress(name, bytes.clone(), options, &mut progress)
        }
    };
    opened.map_err(|error| load_error(source, &error))
}

/// Starts the engine's thread and lets it draw a token.
fn finish(
    app: &App,
    job: &LoadJob,
    order: &LoadOrder,
    built: Built,
    version: String,
) -> Result<LoadedModel, ApiError> {
    job.enter(LoadStage::Starting);
    job.check()?;
    if let Some(expected) = &order.version
        && *expected != version
    {
        return Err(other_model("version", expected, version));
    }
    if let Some(like) = &order.like {
        like.check_texts(&built.engine)?;
    }
    for warning in &built.engine.info().warnings {
        tracing::warn!(
            model = order.id,
            "{}",
            without_folder(&order.origin.source, warning)
        );
    }
    let engine = Arc::new(built.engine);
    let mut model =
        LoadedModel::start(&*order.id, engine, Some(&version), app).map_err(|error| {
            ApiError::new(
                ErrorCode::InternalError,
                format!("no thread can be started for the engine: {error}"),
            )
        })?;
    model.validation = built.validation;
    let model = model.loaded_from(&order.origin);
    draw_one(&model)?;
    tell_if_too_large(app, &model);
    // What the prompts of the validation have left in its cache.
    model.engine.forget_idle();
    Ok(model)
}

/// A token by the way that all requests go.
fn draw_one(model: &LoadedModel) -> Result<(), ApiError> {
    let options = GenerateOptions {
        max_tokens: Some(1),
        ..GenerateOptions::default()
    };
    let request = model.engine.check(&[0u32][..], &options)?;
    let (sender, mut updates) = mpsc::channel(4);
    let _ticket = model.handle.submit(request, 0, sender);
    let started = Instant::now();
    loop {
        match updates.try_recv() {
            Ok(update) => return update.outcome.map(|_| ()).map_err(ApiError::from),
            Err(mpsc::error::TryRecvError::Empty) if started.elapsed() < FIRST_TOKEN_PATIENCE => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => {
                let message = "the engine of the new model draws no token";
                return Err(ApiError::new(ErrorCode::ValidationFailed, message));
            }
        }
    }
}

/// Bytes that the KV caches of models other than `id` have not taken from the system yet and may any time.
fn promised(app: &App, id: &str) -> u64 {
    let models = app.models.all();
    let others = models.iter().filter(|model| &*model.id != id);
    let free = others.map(|model| {
        let load = model.handle.load();
        let block = model.engine.info().kv_cache_bytes / load.kv_blocks.max(1);
        let taken = load.kv_blocks_used + load.kv_blocks_cached;
        (load.kv_blocks.saturating_sub(taken) * block) as u64
    });
    free.sum()
}

/// Refuses a model that the machine has no memory for, before it is read. Where the system does not tell, nothing is
/// refused.
fn room_for(source: &OriginSource) -> Result<(), ApiError> {
    let OriginSource::Path(path) = source else {
        return Ok(());
    };
    let (needed, available) = (bytes_of(path), machine::available_memory());
    match available {
        Some(available) if needed > available => Err(other_model(
            "size of the files in bytes",
            format!("at most the {available} that memory has room for"),
            needed,
        )),
        _ => Ok(()),
    }
}

/// Bytes of a model's files; 0 for what is not there, which opening it tells.
pub(super) fn bytes_of(path: &Path) -> u64 {
    ModelFiles::of(path).map_or(0, |files| files.bytes())
}

fn unversioned(source: &OriginSource, error: &io::Error) -> ApiError {
    let message = without_folder(source, &format!("{}: {error}", source.name()));
    ApiError::new(ErrorCode::ModelIncompatible, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_the_parts_of_a_validation_is_none_of_it() {
        let job = LoadJob::new("job-1".into(), true);
        let mut took = Duration::ZERO;
        for n in 1..3 {
            let part = Duration::from_millis(5);
            let stage = validating(&job, &mut took, || {
                thread::sleep(part);
                job.stage()
            });
            assert_eq!(stage, LoadStage::Validating);
            assert_eq!(job.stage(), LoadStage::Loading);
            assert!(took >= part * n, "{took:?}");
        }
    }
}
