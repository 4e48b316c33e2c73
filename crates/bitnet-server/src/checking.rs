//! From prompts to requests that the engine takes: tokenising, shortening, and everything that can be refused before a
//! request waits. A long text takes a while, so it is done aside from the threads that serve connections.

use std::sync::Arc;

use bitnet_inference::{Engine, Error, GenerateOptions, Message, Prompt, ValidRequest};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::admission::Admitted;
use crate::error::{ApiError, ErrorCode};
use crate::metrics::{CancelPhase, Metrics};
use crate::model::LoadedModel;
use crate::vectors::VectorWish;

/// Prompts as a route has them.
pub enum Prompts {
    /// A conversation.
    Chat(Vec<Message>),
    /// Texts or ids.
    Plain(Vec<Prompt>),
}

impl Prompts {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Prompts::Chat(_) => 1,
            Prompts::Plain(prompts) => prompts.len(),
        }
    }

    /// Bytes that have to be tokenised.
    fn text_bytes(&self) -> usize {
        let of_prompt = |prompt: &Prompt| match prompt {
            Prompt::Ids(_) => 0,
            Prompt::Text(text) | Prompt::Markup(text) => text.len(),
        };
        match self {
            Prompts::Chat(messages) => messages.iter().map(|m| m.content.len()).sum(),
            Prompts::Plain(prompts) => prompts.iter().map(of_prompt).sum(),
        }
    }

    /// Tokens of all prompts, each as often as it is run, as far as can be said without tokenising: no more of each
    /// than the context holds, for longer ones are refused or shortened.
    pub(crate) fn estimate_tokens(&self, n: usize, context: usize) -> usize {
        let of_text = |text: &str| text.len() / BYTES_PER_TOKEN;
        let of_prompt = |prompt: &Prompt| match prompt {
            Prompt::Ids(ids) => ids.len(),
            Prompt::Text(text) | Prompt::Markup(text) => of_text(text),
        };
        let tokens: usize = match self {
            Prompts::Chat(messages) => {
                let said: usize = messages.iter().map(|m| of_text(&m.content)).sum();
                said.min(context)
            }
            Prompts::Plain(prompts) => {
                let each = prompts.iter().map(|prompt| of_prompt(prompt).min(context));
                each.sum()
            }
        };
        tokens.saturating_mul(n)
    }

    /// Refuses texts that cannot fit the context, however they are tokenised. What a template makes of a conversation
    /// is known later.
    ///
    /// # Errors
    /// [`ErrorCode::ContextLengthExceeded`].
    pub(crate) fn refuse_too_long(&self, engine: &Engine) -> Result<(), ApiError> {
        let Prompts::Plain(prompts) = self else {
            return Ok(());
        };
        let context = engine.context();
        for prompt in prompts {
            let at_least = engine.fewest_ids(prompt);
            if at_least > context && !matches!(prompt, Prompt::Ids(_)) {
                return Err(Error::PromptExceeds { at_least, context }.into());
            }
        }
        Ok(())
    }
}

/// What becomes of a prompt that is too long. It loses its beginning; the token that begins every text stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncate {
    /// The request is refused.
    #[default]
    No,
    /// It keeps at most this many tokens.
    To(usize),
    /// It keeps what leaves room for the tokens that are asked for, which are themselves cut to the context.
    ToFit,
}

/// Bytes of text from which on checking takes so long that it waits for one of [`LONG_CHECKS`] turns: some 10
/// milliseconds.
const LONG_TEXT: usize = 64 << 10;

/// Bytes of text that are counted as a token until it is known how many there are. Hardly any text has more, so hardly
/// any request is refused that would fit.
const BYTES_PER_TOKEN: usize = 8;

/// Turns for long texts: half of the threads that check, so that the other half is for everybody else.
pub(crate) const LONG_CHECKS: usize = CHECKING_THREADS / 2;

/// Threads that tokenise: few, for they take the engine's processors.
pub(crate) const CHECKING_THREADS: usize = 4;

/// A turn to check a text of `len` bytes: none is needed for a short one.
///
/// # Errors
/// [`ErrorCode::ShuttingDown`], when nobody has turns any more.
pub(crate) async fn turn(
    long: &Arc<Semaphore>,
    len: usize,
) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    if len < LONG_TEXT {
        return Ok(None);
    }
    let turn = long.clone().acquire_owned().await;
    turn.map(Some)
        .map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the server is shutting down"))
}

/// [`check`] on the blocking pool. `place` goes along: a client that leaves meanwhile takes up the checker until it is
/// done.
pub(crate) async fn check_aside(
    model: &Arc<LoadedModel>,
    metrics: &Arc<Metrics>,
    prompts: Prompts,
    wishes: Wishes,
    place: Admitted,
) -> Result<(Result<Checked, ApiError>, Admitted), ApiError> {
    let checker = model.clone();
    let attended = metrics.attended(CancelPhase::Check);
    let turn = turn(&model.long_checks, prompts.text_bytes()).await?;
    let checked = tokio::task::spawn_blocking(move || {
        let checked = check(&checker, prompts, wishes);
        drop(turn);
        (checked, place)
    })
    .await;
    attended.ended();
    checked.map_err(|_| ApiError::new(ErrorCode::InternalError, "checking the request failed"))
}

/// The ids of each prompt, and the requests of all choices.
pub(crate) type Checked = (Vec<Vec<u32>>, Vec<ValidRequest>);

/// Tokens of all prompts, each as often as it is run.
pub(crate) fn count_tokens(requests: &[ValidRequest]) -> usize {
    let tokens = requests.iter().map(|request| request.prompt_ids().len());
    tokens.sum()
}

/// Log probabilities of prompt tokens that one answer may have, alternatives included. Each is some 60 bytes of text:
/// 30 MB, or 24 prompts of 1,024 tokens with 20 alternatives each.
const MAX_PROMPT_LOGPROBS: usize = 1 << 19;

/// What is asked for each prompt.
pub(crate) struct Wishes {
    /// Choices.
    pub n: usize,
    /// How to continue it.
    pub options: GenerateOptions,
    /// Tokens when the client asks for no number of them.
    pub default_max_tokens: Option<usize>,
    /// What becomes of it when it is too long.
    pub truncate: Truncate,
    /// A vector is wanted, no tokens.
    pub embed: Option<VectorWish>,
}

/// Tokenises the prompts and checks `n` requests of each.
fn check(model: &LoadedModel, prompts: Prompts, wishes: Wishes) -> Result<Checked, ApiError> {
    match prompts {
        Prompts::Plain(prompts) => check_all(model, prompts, wishes),
        Prompts::Chat(messages) => match wishes.truncate {
            Truncate::No => model.chat_prompt_fitting(&messages),
            Truncate::To(_) | Truncate::ToFit => model.chat_prompt(&messages),
        }
        .map_err(ApiError::from)
        .and_then(|prompt| check_all(model, vec![prompt], wishes))
        // The prompt was made of them.
        .map_err(|error| match error.param.as_deref() {
            None | Some("prompt") => ApiError {
                param: Some("messages".into()),
                ..error
            },
            _ => error,
        }),
    }
}

fn check_all(
    model: &LoadedModel,
    prompts: Vec<Prompt>,
    mut wishes: Wishes,
) -> Result<Checked, ApiError> {
    let engine = &model.engine;
    if let Some(wish) = wishes.embed {
        let check = |(index, prompt)| {
            let checked = engine.check_embedding(&prompt, wish.pooling);
            checked.map_err(|error| wish.about(index, error.into()))
        };
        let requests: Vec<ValidRequest> = prompts
            .into_iter()
            .enumerate()
            .map(check)
            .collect::<Result<_, ApiError>>()?;
        let ids = requests.iter().map(|request| request.prompt_ids().to_vec());
        return Ok((ids.collect(), requests));
    }
    let n = wishes.n;
    let asked = wishes.cut_to(engine.context());
    let mut ids = Vec::with_capacity(prompts.len());
    let mut requests = Vec::with_capacity(prompts.len() * n);
    let mut n_logprobs = 0;
    for prompt in prompts {
        let mut encoded = match wishes.truncate {
            Truncate::No => engine.encode_fitting(&prompt)?,
            // Its end is what is kept.
            Truncate::To(_) | Truncate::ToFit => engine.encode_prompt(&prompt)?,
        };
        if let Some(keep) = wishes.prompt_room(engine.context()) {
            shorten(&mut encoded, keep, engine);
        }
        if wishes.options.prompt_logprobs {
            n_logprobs += encoded.len() * n * (wishes.options.top_logprobs + 1);
        }
        if n_logprobs > MAX_PROMPT_LOGPROBS {
            let message = format!(
                "the answer would have more than {MAX_PROMPT_LOGPROBS} log probabilities of prompt tokens: send fewer \
                 prompts in a request, or ask for fewer alternatives"
            );
            return Err(ApiError::about("prompt", ErrorCode::InvalidValue, message));
        }
        for choice in 0..n {
            let options = GenerateOptions {
                // Choices of one seed differ from each other and are the same again next time.
                seed: wishes
                    .options
                    .seed
                    .map(|seed| seed.wrapping_add(choice as u64)),
                ..wishes.options.clone()
            };
            let request = engine.check(encoded.as_slice(), &options)?;
            if let Some(asked) = asked
                && asked > request.max_tokens()
            {
                return Err(too_long(
                    request.prompt_ids().len(),
                    asked,
                    engine.context(),
                ));
            }
            if encoded.is_empty() {
                encoded = request.prompt_ids().to_vec(); // the engine begins with something
            }
            requests.push(request);
        }
        ids.push(encoded);
    }
    Ok((ids, requests))
}

impl Wishes {
    /// Settles how many tokens are drawn; returns the number that the client insists on.
    fn cut_to(&mut self, context: usize) -> Option<usize> {
        if self.truncate == Truncate::ToFit {
            // The last token that is drawn takes no place: a prompt of one leaves room for as many as the context has.
            let cut = |tokens: usize| tokens.min(context);
            self.options.max_tokens = self.options.max_tokens.map(cut);
        }
        let asked = self.options.max_tokens;
        self.options.max_tokens = asked.or(self.default_max_tokens);
        asked
    }

    /// Most tokens of a prompt that is to be shortened.
    fn prompt_room(&self, context: usize) -> Option<usize> {
        match self.truncate {
            Truncate::No => None,
            Truncate::To(keep) => Some(keep),
            Truncate::ToFit => {
                let drawn = self.options.max_tokens.unwrap_or(1);
                Some(context + 1 - drawn.clamp(1, context))
            }
        }
    }
}

/// Leaves the last `keep` tokens, and the one that begins every text.
fn shorten(ids: &mut Vec<u32>, keep: usize, engine: &Engine) {
    if ids.len() <= keep {
        return;
    }
    let bos = engine
        .tokenizer()
        .ok()
        .and_then(|tokenizer| tokenizer.bos());
    let first = usize::from(keep > 1 && bos.is_some() && ids.first().copied() == bos);
    ids.drain(first..ids.len() - (keep - first));
}

fn too_long(prompt: usize, asked: usize, context: usize) -> ApiError {
    let message = format!(
        "the prompt has {prompt} tokens and {asked} more are asked for; the context holds {context}"
    );
    ApiError::about("max_tokens", ErrorCode::ContextLengthExceeded, message)
}
