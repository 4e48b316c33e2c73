//! The engine: a loaded model behind a lock, and the ways to use it.
//!
//! Every method takes `&self`. Generations under way share forward passes: whoever asks for its next token runs a
//! step for all of them, and the others find their tokens in their mailbox. So one thread can hold many generations,
//! many threads can each drive their own, and the engine itself needs no thread.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitnet_kernels::{HeadWork, KV_BLOCK, LayoutProbe, Traffic};
use bitnet_models::{
    Checkpoint, Finding, GenerationDefaults, LoadProgress, ModelConfig, PackedArrays, Profile,
};
use bitnet_tokenizers::{ChatTemplate, EncodeOptions, Message, Repair, Tokenizer};
use bytes::Bytes;

use crate::engine_load::EngineLoad;
use crate::error::Error;
use crate::loader::{self, LoadOptions, Loaded, Origin, PackedWeights, WeightsPlace};
use crate::metrics::{Clock, SystemClock};
use crate::open::{Opened, open_checkpoint};
use crate::request::Prompt;
use crate::runner::Runner;
use crate::sequence::RequestId;
use crate::step::{Event, Step};
use crate::valid_request::ValidRequest;

mod loading;

/// A loaded model.
pub struct Engine {
    tokenizer: Option<Arc<Tokenizer>>,
    chat_template: Option<String>,
    config: ModelConfig,
    generation_defaults: GenerationDefaults,
    findings: Vec<Finding>,
    end_of_generation: Arc<[u32]>,
    info: EngineInfo,
    clock: SystemClock,
    unwritten: Mutex<Option<PackedArrays>>,
    shared: Mutex<Shared>,
}

/// What the engine runs on and with.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct EngineInfo {
    /// What it ran on when it was loaded: the CPU takes over from any other that fails ([`EngineLoad::device_failures`]).
    pub device: &'static str,
    /// Name of the kernel, `{arch}-{format}-{isa}`.
    pub kernel: String,
    /// The race of the two layouts of weights, where there was a choice.
    pub layouts: Option<LayoutSpeeds>,
    /// Worker threads.
    pub threads: usize,
    /// Positions of a context.
    pub context: usize,
    /// How keys and values are stored: the name of a [`KvType`](bitnet_kernels::KvType).
    pub kv_type: &'static str,
    /// Positions that the cache has room for, of all generations together.
    pub kv_positions: usize,
    /// Memory set aside for keys and values (the system hands it out as it fills).
    pub kv_cache_bytes: usize,
    /// Bytes of the ternary matrices of all layers, in the layout that they run in; 0 of a model whose layers are loaded later
    /// ([`Engine::load_lazy`]), and `bytes_per_token` is then without them.
    pub layer_bytes: usize,
    /// Bytes of second copies of some of them, which leave out zeros in passes of one row.
    pub layer_copy_bytes: usize,
    /// Bytes of the embedding; 0 where it is the head too.
    pub embedding_bytes: usize,
    /// Bytes of the matrix that turns hidden states into logits.
    pub head_bytes: usize,
    /// Bytes of the head's small copy, 0 without one.
    pub head_copy_bytes: usize,
    /// Weight bytes that one decoded token reads: layers and head. Where candidates are searched (any draw that does not
    /// need all logits) the head counts with the part of its small copy that every search reads; rows that are looked
    /// at singly come on top, see [`Engine::head_work`]; where channels are left out it is less, see [`Engine::traffic`].
    pub bytes_per_token: usize,
    /// Bytes of keys and values that each position before it adds to that.
    pub kv_position_bytes: usize,
    /// Where the packed weights came from.
    pub packed_weights: PackedWeights,
    /// Where they are.
    pub weights_in: WeightsPlace,
    /// How long loading took.
    pub load: Duration,
    /// What the user should know about this machine, such as a processor without fast kernels.
    pub warnings: Vec<String>,
}

impl EngineInfo {
    /// Bytes of all weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.layer_bytes
            + self.layer_copy_bytes
            + self.embedding_bytes
            + self.head_bytes
            + self.head_copy_bytes
    }
}

/// How fast this machine multiplies weights with one token from memory, in 10^9 weights a second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct LayoutSpeeds {
    /// Packed in 2 bits: kernels named `i2s`.
    pub i2s: f64,
    /// Packed in 1.6 bits: kernels named `t5`.
    pub t5: f64,
    /// How many times faster 1.6 bits are, measured in pairs of turns: what decides.
    pub gain: f64,
}

impl From<LayoutProbe> for LayoutSpeeds {
    fn from(LayoutProbe { i2s, t5, gain }: LayoutProbe) -> LayoutSpeeds {
        LayoutSpeeds { i2s, t5, gain }
    }
}

/// What generations under way share.
pub(crate) struct Shared {
    pub step: Step,
    last_id: u64,
    mailboxes: HashMap<RequestId, VecDeque<Event>>,
    unclaimed: Vec<Event>, // of requests without a mailbox
    events: Vec<Event>,    // scratch of `turn`
}

impl Shared {
    fn enqueue(&mut self, request: ValidRequest, clock: &dyn Clock) -> Result<RequestId, Error> {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        self.step.submit(request.into_sequence(id), clock.now())?;
        Ok(id)
    }

    /// Runs a step for everybody and puts what came of it into the mailboxes; `false` when there was nothing to do.
    pub(crate) fn turn(&mut self, clock: &dyn Clock) -> bool {
        let worked = self.step.step(clock, &mut self.events);
        for event in self.events.drain(..) {
            match self.mailboxes.get_mut(&event.request) {
                Some(mailbox) => mailbox.push_back(event),
                None => self.unclaimed.push(event),
            }
        }
        worked
    }
}

impl Engine {
    /// Loads a `.gguf` file (the first of a split) or a Hugging Face directory.
    ///
    /// # Errors
    /// Whatever is wrong with the file, the tokenizer or the options.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Engine, Error> {
        Engine::load_with_progress(path, options, &mut |_| {})
    }

    /// [`Engine::load`], telling `progress` how far it is.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_with_progress(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let Opened {
            checkpoint,
            entry,
            warning,
        } = open_checkpoint(path.as_ref(), options)?;
        let mut engine = Engine::build(
            &Origin::AtOnce(&checkpoint, entry.as_ref()),
            options,
            clock,
            progress,
            |r| r,
        )?;
        engine.info.warnings.extend(warning);
        Ok(engine)
    }

    /// [`Engine::load`] with a runner of the caller's: `replace` is given the model's own. For measuring what lies around
    /// the forward pass, and for tests of what happens when one fails.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_with_runner(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        replace: impl FnOnce(Box<dyn Runner>) -> Box<dyn Runner>,
    ) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let checkpoint = Checkpoint::open(path.as_ref(), &options.checkpoint)?;
        let origin = Origin::AtOnce(&checkpoint, None);
        Engine::build(&origin, options, clock, &mut |_| {}, replace)
    }

    /// Loads a GGUF file that is already in memory; `name` stands for it in messages. Tensors that need no repacking
    /// are used where they lie.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn from_bytes(name: &str, bytes: Bytes, options: &LoadOptions) -> Result<Engine, Error> {
        Engine::from_bytes_with_progress(name, bytes, options, &mut |_| {})
    }

    /// [`Engine::from_bytes`], telling `progress` how far it is.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn from_bytes_with_progress(
        name: &str,
        bytes: Bytes,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let checkpoint = Checkpoint::from_gguf_bytes(name, bytes, &options.checkpoint)?;
        let origin = Origin::AtOnce(&checkpoint, None);
        Engine::build(&origin, options, clock, progress, |runner| runner)
    }

    fn build(
        origin: &Origin<'_>,
        options: &LoadOptions,
        clock: SystemClock,
        progress: &mut dyn FnMut(LoadProgress),
        replace: impl FnOnce(Box<dyn Runner>) -> Box<dyn Runner>,
    ) -> Result<Engine, Error> {
        let loaded = loader::load(origin, options, progress)?;
        let end_of_generation = end_of_generation(&loaded);
        let runner = replace(loaded.runner);
        let info = EngineInfo {
            device: runner.device(),
            kernel: loaded.kernel,
            layouts: loaded.layouts.map(LayoutSpeeds::from),
            threads: loaded.threads,
            context: loaded.context,
            kv_type: options.kv_type.name(),
            kv_positions: loaded.n_kv_blocks * KV_BLOCK,
            kv_cache_bytes: loaded.kv_cache_bytes,
            layer_bytes: loaded.weight_bytes.layers,
            layer_copy_bytes: loaded.weight_bytes.layer_copies,
            embedding_bytes: loaded.weight_bytes.embedding,
            head_bytes: loaded.weight_bytes.head,
            head_copy_bytes: loaded.weight_bytes.head_copy,
            bytes_per_token: loaded.weight_bytes.per_token(),
            packed_weights: loaded.packed_weights,
            weights_in: loaded.weights_in,
            kv_position_bytes: loaded.kv_position_bytes,
            load: clock.now(),
            warnings: loaded.warnings,
        };
        tracing::info!(
            model = loaded.config.name,
            kernel = info.kernel,
            i2s_gweights_s = info.layouts.map(|speeds| speeds.i2s),
            t5_gweights_s = info.layouts.map(|speeds| speeds.t5),
            t5_gain = info.layouts.map(|speeds| speeds.gain),
            threads = info.threads,
            "model loaded"
        );
        Ok(Engine {
            tokenizer: loaded.tokenizer,
            chat_template: loaded.chat_template,
            config: loaded.config,
            generation_defaults: loaded.generation_defaults,
            findings: loaded.findings,
            end_of_generation,
            info,
            clock,
            unwritten: Mutex::new(loaded.unwritten),
            shared: Mutex::new(Shared {
                step: Step::new(runner, loaded.limits, options.prefix_cache),
                last_id: 0,
                mailboxes: HashMap::new(),
                unclaimed: Vec::new(),
                events: Vec::new(),
            }),
        })
    }

    /// Packed weights that are to be kept for the next start and are not written yet, once: for the caller to write when it
    /// likes, on a thread of its own for instance, while the model runs.
    pub fn take_unwritten(&self) -> Option<PackedArrays> {
        let mut unwritten = self
            .unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unwritten.take()
    }

    /// Gives back the memory of keys and values that no generation under way holds; what the prefix cache knew is forgotten.
    /// For models that answer no more, or not for a while. Like [`Engine::turn`] it waits for the step under way.
    pub fn forget_idle(&self) {
        self.lock().step.forget_idle();
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] when the checkpoint has none and none was given.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        self.tokenizer.as_deref().ok_or_else(|| Error::NoTokenizer {
            model: self.config.name.clone(),
        })
    }

    /// What had to be assumed to use the tokenizer; empty for a well-made one and without a tokenizer.
    pub fn repairs(&self) -> &[Repair] {
        self.tokenizer.as_deref().map_or(&[], Tokenizer::repairs)
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Positions of a context: prompt and generated tokens together.
    pub fn context(&self) -> usize {
        self.info.context
    }

    /// The source of the chat template: the caller's, else the model's.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The model's own sampling parameters.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation_defaults
    }

    /// What was noticed while reading the checkpoint.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Tokens that end a text: the tokenizer's and those of the model's `generation_config`.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// What the engine runs on and with.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Lays out a conversation by the chat template, ready for the model's answer.
    ///
    /// The whole text is tokenised at once with special tokens recognised, as Hugging Face does; the template writes
    /// BOS itself.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], [`Error::NoTokenizer`], and what the template reports.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Prompt, Error> {
        let ids = self.encode_chat(&self.chat_text(messages)?, usize::MAX)?;
        Ok(Prompt::Ids(ids))
    }

    /// The ids of a text that a chat template wrote; of one that has more than `most`, those of its beginning, more too.
    pub(crate) fn encode_chat(&self, text: &str, most: usize) -> Result<Vec<u32>, Error> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        Ok(self.tokenizer()?.encode_within(text, options, most)?)
    }

    /// What the chat template makes of a conversation.
    pub(crate) fn chat_text(&self, messages: &[Message]) -> Result<String, Error> {
        let tokenizer = self.tokenizer()?;
        let source = self
            .chat_template
            .as_deref()
            .ok_or_else(|| Error::NoChatTemplate {
                model: self.config.name.clone(),
            })?;
        let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or("");
        let template =
            ChatTemplate::new(source, text_of(tokenizer.bos()), text_of(tokenizer.eos()))?;
        Ok(template.render(messages, true)?)
    }

    pub(crate) fn tokenizer_handle(&self) -> Option<Arc<Tokenizer>> {
        self.tokenizer.clone()
    }

    pub(crate) fn end_of_generation_handle(&self) -> Arc<[u32]> {
        self.end_of_generation.clone()
    }

    pub(crate) fn clock(&self) -> &SystemClock {
        &self.clock
    }

    pub(crate) fn bos(&self) -> Option<u32> {
        let of_tokenizer = self.tokenizer.as_ref().and_then(|t| t.bos());
        of_tokenizer.or(self.generation_defaults.bos)
    }

    pub(crate) fn adds_bos(&self) -> bool {
        self.tokenizer.as_ref().is_some_and(|t| t.adds_bos())
    }

    /// Checks that `ids` can run: not empty, in the vocabulary, within the context.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<(), Error> {
        let vocab_size = self.config.vocab_size;
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(index) = ids.iter().position(|&id| id as usize >= vocab_size) {
            let id = ids[index];
            return Err(Error::TokenOutOfRange {
                index,
                id,
                vocab_size,
            });
        }
        let (prompt, context) = (ids.len(), self.context());
        if prompt > context {
            return Err(Error::PromptTooLong { prompt, context });
        }
        Ok(())
    }

    /// Puts a request in the queue under a name of its own, with a mailbox for what comes of it.
    pub(crate) fn submit(&self, request: ValidRequest) -> Result<RequestId, Error> {
        let mut shared = self.lock();
        let id = shared.enqueue(request, &self.clock)?;
        shared.mailboxes.insert(id, VecDeque::new());
        Ok(id)
    }

    /// Puts a request in the queue; what comes of it is among the events of [`Engine::turn`]. For whoever drives the
    /// engine from a loop of its own: like every method that waits for the step under way, it should be called by the
    /// thread that takes the turns.
    ///
    /// # Errors
    /// [`Error::NeverFits`].
    pub fn enqueue(&self, request: ValidRequest) -> Result<RequestId, Error> {
        self.lock().enqueue(request, &self.clock)
    }

    /// Runs one step for everybody under way and appends what came of requests of [`Engine::enqueue`] to `events`;
    /// `false` when there was nothing to do.
    pub fn turn(&self, events: &mut Vec<Event>) -> bool {
        let mut shared = self.lock();
        let worked = shared.turn(&self.clock);
        events.append(&mut shared.unclaimed);
        worked
    }

    /// Ends a request of [`Engine::enqueue`] wherever it is; its KV blocks are free afterwards. One that has ended is
    /// ignored.
    pub fn cancel(&self, request: RequestId) {
        self.lock().step.cancel(request);
    }

    /// Whether a request of [`Engine::enqueue`] has left the queue: forward passes over its prompt have begun, or are
    /// about to. One that has ended has not.
    pub fn has_run(&self, request: RequestId) -> bool {
        self.lock().step.has_run(request)
    }

    /// The next event of any of `requests`, in the order given; `None` when nothing more can come.
    pub(crate) fn next_event(&self, requests: &[RequestId]) -> Option<Event> {
        // Without requests there is nothing to wait for, and no reason to run the others' steps.
        while !requests.is_empty() {
            // Anew for each step: other threads submit, read and cancel in between.
            let mut shared = self.lock();
            let waiting = requests
                .iter()
                .find_map(|id| shared.mailboxes.get_mut(id)?.pop_front());
            if waiting.is_some() {
                return waiting;
            }
            if !shared.turn(&self.clock) {
                return None;
            }
        }
        None
    }

    /// Ends a request wherever it is; its KV blocks are free afterwards.
    pub(crate) fn forget(&self, request: RequestId) {
        // Generations are dropped while a panic unwinds too; a second panic would end the process.
        let Ok(mut shared) = self.shared.lock() else {
            return;
        };
        shared.mailboxes.remove(&request);
        shared.step.cancel(request);
    }

    /// Starts to add up where the time of forward passes goes, from zero.
    pub fn start_profile(&self) {
        self.lock().step.start_profile();
    }

    /// What was added up since [`Engine::start_profile`], and an end to it; `None` when nothing was started.
    pub fn take_profile(&self) -> Option<Profile> {
        self.lock().step.take_profile()
    }

    /// What finding candidates took since the model was loaded. For the figures of a phase take the difference of two.
    pub fn head_work(&self) -> HeadWork {
        self.lock().step.head_work()
    }

    /// What passes of one token have read of the ternary weights since the model was loaded: where channels that are
    /// exactly 0 are left out, less than all. For the figures of a phase take the difference of two, by
    /// [`Traffic::since`].
    pub fn traffic(&self) -> Traffic {
        self.lock().step.traffic()
    }

    /// What there is to do and what was done since the model was loaded. Cheap; like [`Engine::turn`] it waits for the
    /// step under way.
    pub fn current_load(&self) -> EngineLoad {
        self.lock().step.load()
    }

    /// Blocks of the KV cache that no generation owns.
    pub fn n_free_kv_blocks(&self) -> usize {
        self.lock().step.n_free_blocks()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic inside a step is a bug of ours that has left the cache half written: nobody may go on with it.
        self.shared
            .lock()
            .expect("an earlier forward pass panicked")
    }
}

/// The ids of a text that is to be continued; of one that has more than `most`, those of its beginning, more too.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    parse_special: bool,
    most: usize,
) -> Result<Vec<u32>, Error> {
    let options = EncodeOptions {
        add_special: false,
        parse_special,
    };
    let mut ids = tokenizer.encode_within(text, options, most)?;
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos())
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    Ok(ids)
}

/// The tokenizer's end tokens and those that the model's `generation_config` names.
fn end_of_generation(loaded: &Loaded) -> Arc<[u32]> {
    let mut ids = loaded.generation_defaults.eos.clone();
    if let Some(tokenizer) = &loaded.tokenizer {
        ids.extend_from_slice(tokenizer.end_of_generation());
    }
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}
