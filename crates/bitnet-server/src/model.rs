//! A loaded model: its engine, its thread, who may wait for it, and what its answers are named by.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitnet_inference::{Engine, EngineLoad, Error, KV_BLOCK, Message, PackedWeights, Prompt};
use tokio::sync::Semaphore;

use crate::admission::Admission;
use crate::app::App;
use crate::engine_thread::{EngineHandle, Turns};
use crate::metrics::rolling::RollingFigures;
use crate::metrics::{EngineKey, LoadedInfo, Metrics, StepFigures};
use crate::model_manager::load::LoadMemory;
use crate::model_manager::policy::{ModelOrigin, OriginSource};
use crate::model_manager::room::WeightRoom;
use crate::model_manager::validate::Validation;

/// The name that always stands for the default model.
pub const DEFAULT_ALIAS: &str = "default";

/// A model that answers requests.
pub struct LoadedModel {
    /// What clients call it.
    pub id: String,
    /// For what needs no turn: checking, tokenising, figures.
    pub engine: Arc<Engine>,
    /// For what does.
    pub handle: EngineHandle,
    /// Who may wait for it.
    pub admission: Arc<Admission>,
    /// Turns to tokenise long texts, of all models together.
    pub(crate) long_checks: Arc<Semaphore>,
    /// Names what an answer depends on: the engine's version and the model's bytes; and the kernel, on which it does
    /// not.
    pub fingerprint: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// SHA-256 of its files, in hexadecimal digits.
    pub version: Option<String>,
    /// Where it was loaded from; for administrators only.
    pub path: Option<PathBuf>,
    /// What its validation found; `None` if there was none.
    pub validation: Option<Validation>,
    /// Why it runs where and as it does; `None` where nobody has said how it was loaded.
    pub choice: Option<String>,
    /// The process's memory around its load; `None` for the model of the start.
    pub load_memory: Option<LoadMemory>,
    metrics: Arc<Metrics>,
    load_counted: AtomicBool,
    started: Instant,
    room: Mutex<Option<WeightRoom>>,
}

/// Digits of a version in a fingerprint: enough to tell any two models apart, few enough to be read.
const FINGERPRINT_DIGITS: usize = 12;

impl LoadedModel {
    /// Starts the thread of an engine for a server, under its limits and in its metrics; `version` names the model's
    /// bytes.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(
        id: impl Into<String>,
        engine: Arc<Engine>,
        version: Option<&str>,
        app: &App,
    ) -> io::Result<LoadedModel> {
        LoadedModel::start_with(id, engine.clone(), engine, version, app)
    }

    /// The same, taking the turns of `turns`, which stands around `engine`.
    ///
    /// # Errors
    /// As [`LoadedModel::start`].
    pub fn start_with(
        id: impl Into<String>,
        engine: Arc<Engine>,
        turns: Arc<impl Turns>,
        version: Option<&str>,
        app: &App,
    ) -> io::Result<LoadedModel> {
        let id = id.into();
        let (limits, metrics) = (&app.limits, app.metrics.clone());
        let load = engine.current_load();
        let kernel = &engine.info().kernel;
        let left = metrics.clone();
        let series = EngineSeries {
            metrics: metrics.clone(),
            key: EngineKey::new(),
        };
        // What it drew before it had a name is nobody's.
        metrics.engine(&id, series.key, &load, &load);
        let (name, mut before) = (id.clone(), load);
        let (watched, mut read_before) = (engine.clone(), engine.traffic());
        let watch = move |load: &EngineLoad, step: Option<Duration>| {
            metrics.engine(&name, series.key, &before, load);
            if let Some(time) = step {
                // The thread that calls this is the one that takes the turns: it never waits for the engine here.
                let traffic = watched.traffic();
                let step = StepFigures {
                    before: &before,
                    after: load,
                    read: traffic.since(&read_before),
                    time,
                };
                metrics.step(&name, &step);
                read_before = traffic;
            }
            before = *load;
        };
        let fingerprint = [
            Some(concat!("bitnet-", env!("CARGO_PKG_VERSION"))),
            version.map(|version| version.get(..FINGERPRINT_DIGITS).unwrap_or(version)),
            Some(kernel.as_str()),
        ];
        Ok(LoadedModel {
            id,
            handle: EngineHandle::start(turns, watch, move |phase| {
                left.request_cancelled(phase);
            })?,
            admission: Arc::new(Admission::new(
                load.max_running,
                limits.max_queued_requests,
                limits.max_queued_tokens,
            )),
            long_checks: app.long_checks.clone(),
            fingerprint: fingerprint
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("-"),
            created: unix_seconds(),
            version: version.map(str::to_owned),
            path: None,
            validation: None,
            choice: None,
            load_memory: None,
            metrics: app.metrics.clone(),
            load_counted: AtomicBool::new(false),
            started: Instant::now(),
            room: Mutex::new(None),
            engine,
        })
    }

    /// The same, with where it was loaded from and why it runs as it does.
    #[must_use]
    pub fn loaded_from(self, origin: &ModelOrigin) -> LoadedModel {
        let info = self.engine.info();
        let why = match (&origin.options.kernel, &info.layouts) {
            (Some(_), _) => "as asked for".to_owned(),
            (None, Some(speeds)) => format!(
                "by a race on this machine: t5 {:.2} times as fast as i2s",
                speeds.gain
            ),
            (None, None) if info.packed_weights == PackedWeights::Kept => {
                "as the weights were packed before".to_owned()
            }
            (None, None) => "the widest instructions of this machine".to_owned(),
        };
        let choice = format!(
            "{}: this build runs models on the CPU alone; {} ({}): {why}",
            info.device,
            layout(&info.kernel),
            info.kernel
        );
        LoadedModel {
            choice: Some(choice),
            path: match &origin.source {
                OriginSource::Path(path) => Some(path.clone()),
                OriginSource::Bytes { .. } => None,
            },
            ..self
        }
    }

    /// The same, which has this room until it is published.
    #[must_use]
    pub(crate) fn in_room(self, room: WeightRoom) -> LoadedModel {
        LoadedModel {
            room: Mutex::new(Some(room)),
            ..self
        }
    }

    /// Time since it was loaded.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// What runs it now: the CPU, where it has taken over from a device that failed.
    pub fn device(&self) -> &'static str {
        match self.handle.load().device_failures {
            0 => self.engine.info().device,
            _ => "cpu",
        }
    }

    /// What was done under its name in the last five minutes, since it was loaded.
    pub fn rolling(&self) -> Option<RollingFigures> {
        self.metrics.rolling(&self.id, Instant::now())
    }

    /// Tells the metrics that this is what answers under its name now; from here on it takes room by being there.
    pub(crate) fn announce(&self) {
        let room = self
            .room
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(room);
        let (info, load) = (self.engine.info(), self.handle.load());
        self.metrics.model_loaded(&LoadedInfo {
            model: &self.id,
            hash: self.version.as_deref().unwrap_or_default(),
            quantization: layout(&info.kernel),
            kernel: &info.kernel,
            // A version that gets its place back was loaded once.
            load: (!self.load_counted.swap(true, Ordering::Relaxed)).then_some(info.load),
            kv_block_size: KV_BLOCK,
            kv_blocks: load.kv_blocks,
            weight_bytes: info.weight_bytes(),
            kv_cache_bytes: info.kv_cache_bytes,
        });
        match &self.validation {
            Some(found) => self.metrics.validated(&self.id, found.top1_agreement),
            None => self.metrics.not_validated(&self.id),
        }
    }

    /// The prompt of a conversation: by the chat template, or, for a model without one, the texts one after the other,
    /// as `bitnet chat` has it.
    ///
    /// # Errors
    /// What the template reports.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Prompt, Error> {
        match self.engine.chat_template() {
            Some(_) => self.engine.chat_prompt(messages),
            None => Ok(joined(messages)),
        }
    }

    /// The same of one that must fit the context: it is tokenised no further.
    ///
    /// # Errors
    /// As [`LoadedModel::chat_prompt`], and [`Error::PromptExceeds`].
    pub fn chat_prompt_fitting(&self, messages: &[Message]) -> Result<Prompt, Error> {
        match self.engine.chat_template() {
            Some(_) => self.engine.chat_prompt_fitting(messages),
            None => Ok(joined(messages)),
        }
    }
}

fn joined(messages: &[Message]) -> Prompt {
    let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
    Prompt::Text(texts.join("\n"))
}

/// What an engine's thread tells the metrics, for as long as the thread lives.
struct EngineSeries {
    metrics: Arc<Metrics>,
    key: EngineKey,
}

impl Drop for EngineSeries {
    fn drop(&mut self) {
        self.metrics.engine_ended(self.key);
    }
}

/// Now, in seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The layout of weights that a kernel multiplies: the middle of its name, `{arch}-{format}-{isa}`.
pub fn layout(kernel: &str) -> &str {
    kernel.split('-').nth(1).unwrap_or(kernel)
}
