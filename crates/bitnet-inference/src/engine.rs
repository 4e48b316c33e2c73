//! The engine: a loaded model behind a lock, and the ways to use it.
//!
//! Every method takes `&self`. Generations under way share forward passes: whoever asks for its next token runs a
//! step for all of them, and the others find their tokens in their mailbox. So one thread can hold many generations,
//! many threads can each drive their own, and the engine itself needs no thread.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitnet_kernels::{HeadWork, Traffic};
use bitnet_models::{Finding, GenerationDefaults, ModelConfig, PackedArrays, Profile};
use bitnet_tokenizers::{ChatTemplate, EncodeOptions, Message, Repair, Tokenizer};

use crate::engine_load::EngineLoad;
use crate::error::Error;
use crate::metrics::{Clock, SystemClock};
use crate::request::Prompt;
use crate::sequence::RequestId;
use crate::step::{Event, Step};
use crate::valid_request::ValidRequest;

mod info;
mod loading;

pub use info::{EngineInfo, LayoutSpeeds};

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
    /// Packed weights that are to be kept for the next start and are not written yet, once: for the caller to write
    /// when it likes, on a thread of its own for instance, while the model runs.
    pub fn take_unwritten(&self) -> Option<PackedArrays> {
        let mut unwritten = self
            .unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unwritten.take()
    }

    /// Gives back the memory of keys and values that no generation under way holds; what the prefix cache knew is
    /// forgotten. For models that answer no more, or not for a while. Like [`Engine::turn`] it waits for the step under
    /// way.
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

    /// The ids of a text that a chat template wrote; of one that has more than `most`, those of its beginning, more
    /// too.
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
