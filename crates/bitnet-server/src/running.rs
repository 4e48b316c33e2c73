//! A request under way: its choices, what comes of them, and the places that are free again when it is dropped.
//!
//! Whoever holds a [`Running`] is the client's side of the request. Dropping it, because the client is gone or the
//! answer complete, cancels what still runs within a step of the engine.

mod ended;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bitnet_inference::{
    FinishReason, GenerateOptions, Prompt, Terms, Timings, Token, TokenLogprobs, ValidRequest,
};
use tokio::sync::mpsc;

use crate::admission::Admitted;
use crate::auth::Refusal;
use crate::auth::rate::{ANSWER_SHARE, Permit, TokenReservation};
use crate::cancellation::cancelled;
use crate::checking::{Prompts, Truncate, Wishes, check_aside, count_tokens};
use crate::engine_thread::{CHANNEL_CAPACITY, Ticket, Update};
use crate::error::{ApiError, ErrorCode};
use crate::metrics::recent::WaitingRequest;
use crate::metrics::{CancelPhase, Metrics};
use crate::model::LoadedModel;
use crate::request_id::{self, RequestContext};
use crate::usage::Usage;
use crate::vectors::VectorWish;

/// What a request asks the engine for.
pub struct Job {
    /// What to continue; each prompt has `n` choices.
    pub prompts: Prompts,
    /// Choices of each prompt.
    pub n: usize,
    /// How to continue them; `max_tokens` is what the client asks for.
    pub options: GenerateOptions,
    /// Tokens when the client asks for no number of them; `None` is what the context leaves.
    pub default_max_tokens: Option<usize>,
    /// What becomes of a prompt that is too long.
    pub truncate: Truncate,
    /// Vectors are wanted, no tokens (`max_tokens` is 0 then).
    pub embed: Option<VectorWish>,
    /// On which terms.
    pub terms: Terms,
    /// What its tokens are charged to.
    pub permit: Option<Arc<Permit>>,
}

/// A request under way.
pub struct Running {
    /// Its choices, `n` of each prompt, one prompt after the other.
    pub choices: Vec<Choice>,
    /// Ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// When it arrived.
    pub started: Instant,
    /// Time to its first token.
    pub first_token: Option<Duration>,
    /// The model that runs it.
    pub model: Arc<LoadedModel>,
    updates: mpsc::Receiver<Update>,
    n_open: usize,
    draws_nothing: bool,
    failure: Option<ErrorCode>,
    cancelled: bool,
    place: Option<Admitted>, // a check of more prompts has it meanwhile
    terms: Terms,
    queued: Option<Instant>, // when the scheduler got the first of its choices
    last_update: Option<Instant>,
    n_untold: usize, // tokens drawn that no metric has
    account: Account,
    waiting: Option<WaitingRequest>, // until the first token
}

/// Who is told what a request took.
struct Account {
    metrics: Arc<Metrics>,
    permit: Option<Arc<Permit>>,
    tokens: Option<TokenReservation>, // set aside of the permit's
    max_tokens: Option<usize>,
    n: usize,
    embeds: bool,
    context: Arc<RequestContext>,
    span: tracing::Span,
}

impl Account {
    /// Refuses a request that was cancelled before the engine had it.
    fn check_cancelled(&self) -> Result<(), ApiError> {
        if self.context.hold.is_cancelled() {
            self.metrics.request_cancelled(CancelPhase::Check);
            return Err(cancelled());
        }
        Ok(())
    }
}

/// What is known of a choice.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Which prompt it continues, from 0.
    pub prompt: usize,
    /// The seed of its random stream.
    pub seed: u64,
    /// Where its time went so far.
    pub timings: Timings,
    /// Tokens drawn and reported: none of a request for 0 tokens.
    pub n_tokens: usize,
    /// Set when it has ended.
    pub finish: Option<FinishReason>,
    last_piece: Option<Instant>, // None: it has not begun
}

/// What came of a choice in a step of the engine.
#[derive(Debug)]
pub struct Piece {
    /// Which choice, from 0.
    pub choice: usize,
    /// The token; `None` for a request for 0 tokens, which draws one that nobody wants.
    pub token: Option<Token>,
    /// Log probabilities of its prompt, with the first piece, where they are wanted.
    pub prompt: Option<Arc<[Option<TokenLogprobs>]>>,
    /// The vector of its prompt, where that is wanted.
    pub embedding: Option<Arc<[f32]>>,
    /// Set with the last piece.
    pub finish: Option<FinishReason>,
}

impl Running {
    /// Takes the request, checks it on the blocking pool and puts its choices in the engine's queue.
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`], [`ErrorCode::ContextLengthExceeded`], [`ErrorCode::NotReady`], and what
    /// [`bitnet_inference::Engine::check`] reports.
    pub async fn start(
        model: Arc<LoadedModel>,
        metrics: Arc<Metrics>,
        work: Job,
    ) -> Result<Running, ApiError> {
        if model.handle.health().failed {
            return Err(engine_failed());
        }
        let Job {
            prompts,
            n,
            options,
            default_max_tokens,
            truncate,
            embed,
            terms,
            permit,
        } = work;
        let context = request_id::current();
        let mut account = Account {
            metrics,
            permit,
            tokens: None,
            max_tokens: options.max_tokens.filter(|_| embed.is_none()),
            n,
            embeds: embed.is_some(),
            context,
            span: tracing::Span::current(),
        };
        account.check_cancelled()?;
        let draws_nothing = options.max_tokens == Some(0);
        let tokens = prompts.estimate_tokens(n, model.engine.context());
        let choices = prompts.len() * n;
        let place = model.admission.admit(terms.tenant, choices, tokens)?;
        if truncate == Truncate::No && embed.is_none() {
            prompts.refuse_too_long(&model.engine)?;
        }
        let started = account.context.arrived;
        let waiting = WaitingRequest::new(account.metrics.clone(), &model.id, started);
        let wishes = Wishes {
            n,
            options,
            default_max_tokens,
            truncate,
            embed,
        };
        let (checked, mut place) =
            check_aside(&model, &account.metrics, prompts, wishes, place).await?;
        let (prompts, requests) = checked?;
        let n_prompt: usize = prompts.iter().map(Vec::len).sum();
        account.set_aside(n_prompt, &requests, draws_nothing)?;
        place.add_tokens(count_tokens(&requests))?;
        let mut running = Running {
            choices: Vec::new(),
            prompts,
            started,
            first_token: None,
            updates: mpsc::channel(1).1,
            model,
            n_open: 0,
            draws_nothing,
            failure: None,
            cancelled: false,
            place: Some(place),
            terms,
            queued: None,
            last_update: None,
            n_untold: 0,
            account,
            waiting: Some(waiting),
        };
        running.submit(requests)?;
        Ok(running)
    }

    /// More texts of a request for vectors, all of whose choices have ended: they take the places of those, and the
    /// request is not refused in the middle.
    ///
    /// # Errors
    /// As [`Running::start`], but for a full queue.
    pub async fn embed_more(
        &mut self,
        prompts: Vec<Prompt>,
        wish: VectorWish,
    ) -> Result<(), ApiError> {
        let wishes = Wishes {
            n: 1,
            options: GenerateOptions::greedy(),
            default_max_tokens: None,
            truncate: Truncate::No,
            embed: Some(wish),
        };
        let place = self.place.take().expect("nobody else checks prompts of it");
        let prompts = Prompts::Plain(prompts);
        let (checked, mut place) =
            check_aside(&self.model, &self.account.metrics, prompts, wishes, place).await?;
        let (prompts, requests) = checked?;
        let n_tokens = count_tokens(&requests);
        self.account.set_aside(n_tokens, &requests, true)?;
        place.add_part(n_tokens);
        self.place = Some(place);
        self.prompts.extend(prompts);
        self.submit(requests)
    }

    /// Puts choices in the engine's queue, behind those that it has had.
    fn submit(&mut self, requests: Vec<ValidRequest>) -> Result<(), ApiError> {
        let n = self.account.n;
        let first = self.choices.len();
        let n_open = requests.len();
        let mut tickets: Vec<Ticket> = Vec::with_capacity(n_open);
        let (sender, updates) = mpsc::channel(CHANNEL_CAPACITY * requests.len());
        self.updates = updates;
        // What is left of it: the client has waited since its request came.
        let terms = Terms {
            deadline: (self.terms.deadline).map(|time| time.saturating_sub(self.started.elapsed())),
            ..self.terms
        };
        for (index, request) in (first..).zip(requests) {
            self.choices.push(Choice {
                prompt: index / n,
                seed: request.seed(),
                timings: request.timings(),
                n_tokens: 0,
                finish: None,
                last_piece: None,
            });
            let request = request.with_terms(terms);
            let ticket = self.model.handle.submit(request, index, sender.clone());
            tickets.push(ticket);
        }
        let kept = self.account.context.hold.keep(tickets);
        kept.inspect_err(|_| {
            // Cancelled while it was checked.
            self.cancelled = true;
            self.account.metrics.request_cancelled(CancelPhase::Check);
        })?;
        self.n_open = n_open;
        Ok(())
    }

    /// The next token of any choice; `None` when all have ended.
    ///
    /// # Errors
    /// What ended a choice before its time; the request is then over.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, ApiError>>> {
        if self.n_open == 0 {
            return Poll::Ready(None);
        }
        let Some(update) = std::task::ready!(self.updates.poll_recv(cx)) else {
            self.cancelled = self.account.context.hold.is_cancelled();
            let error = self.given_up();
            self.give_up(&error);
            return Poll::Ready(Some(Err(error)));
        };
        let choice = &mut self.choices[update.choice];
        choice.timings = update.timings;
        self.queued.get_or_insert(update.queued);
        Poll::Ready(Some(match update.outcome {
            Ok(drawn) => {
                // By the engine's clock: a client that reads late, or many tokens at once, changes no measurement.
                let at = update.at;
                self.last_update = Some(at);
                let metrics = &self.account.metrics;
                if let Some(last) = choice.last_piece.replace(at) {
                    metrics.token_gap(&self.model.id, at.saturating_duration_since(last));
                } else {
                    let n_prompt = self.prompts[choice.prompt].len();
                    if let Some(place) = &mut self.place {
                        place.tokens_ran(n_prompt);
                    }
                    if update.choice % self.account.n == 0 {
                        metrics.tokens_told(&self.model.id, n_prompt, 0);
                    }
                    self.waiting = None;
                    self.first_token
                        .get_or_insert(at.saturating_duration_since(self.started));
                }
                let n_drawn = usize::from(!self.draws_nothing);
                choice.n_tokens += n_drawn;
                self.n_untold += n_drawn;
                if self.n_untold >= TOLD_AT_ONCE {
                    metrics.tokens_told(&self.model.id, 0, std::mem::take(&mut self.n_untold));
                }
                if let Some(tokens) = &mut self.account.tokens {
                    tokens.tokens_used(n_drawn as u64);
                }
                choice.finish = if self.draws_nothing {
                    Some(FinishReason::Length)
                } else {
                    drawn.finish
                };
                self.n_open -= usize::from(choice.finish.is_some());
                // In the step in which it ended: whoever was told that it is cancelled is not contradicted.
                if self.n_open == 0 && self.account.context.hold.is_cancelled() {
                    let error = cancelled();
                    (self.failure, self.cancelled) = (Some(error.code), true);
                    return Poll::Ready(Some(Err(error)));
                }
                Ok(Piece {
                    choice: update.choice,
                    token: drawn.token.filter(|_| !self.draws_nothing),
                    prompt: drawn.prompt,
                    embedding: drawn.embedding,
                    finish: choice.finish,
                })
            }
            Err(error) => {
                let error = ApiError::from(error);
                self.give_up(&error);
                Err(match error.code {
                    ErrorCode::Overloaded => error.retry_after(self.model.admission.wait()),
                    _ => error,
                })
            }
        }))
    }

    /// [`Running::poll_piece`] as a future.
    ///
    /// # Errors
    /// As that.
    pub async fn piece(&mut self) -> Option<Result<Piece, ApiError>> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await
    }

    /// Ends it by an error that a stream tells after its headers, and counts that.
    pub fn fail(&mut self, error: &ApiError) {
        self.give_up(error);
        let code = error.code.name();
        self.account.metrics.request_failed(code);
        let _entered = self.account.span.enter();
        tracing::warn!(code, model = self.model.id, "a stream failed");
    }

    /// Ends it before its time by `error`: its client did not leave.
    pub fn give_up(&mut self, error: &ApiError) {
        (self.n_open, self.failure) = (0, Some(error.code));
    }

    /// Whether all of its choices have ended.
    pub fn is_over(&self) -> bool {
        self.n_open == 0
    }

    /// Tokens of all prompts.
    pub fn n_prompt(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }

    /// Tokens drawn for all choices.
    pub fn n_drawn(&self) -> usize {
        self.choices.iter().map(|choice| choice.n_tokens).sum()
    }

    fn given_up(&self) -> ApiError {
        if self.cancelled {
            return cancelled();
        }
        if self.model.handle.health().failed {
            return engine_failed();
        }
        if self.model.handle.is_shutting_down() {
            let message = "the server ended before the answer was complete";
            return ApiError {
                details: Some(Box::new(serde_json::json!({ "usage": Usage::of(self) }))),
                ..ApiError::new(ErrorCode::ShuttingDown, message)
                    .retry_after(Duration::from_secs(1))
            };
        }
        if self.model.handle.has_ended() {
            let message = format!("the model '{}' was unloaded", self.model.id);
            return ApiError::new(ErrorCode::NotReady, message);
        }
        let message = "the answer was not read for so long that it was given up";
        ApiError::new(ErrorCode::SlowReader, message)
    }
}

impl Account {
    /// Takes the prompts' tokens from the account, and those that the answers may become.
    fn set_aside(
        &mut self,
        n_prompt: usize,
        requests: &[ValidRequest],
        draws_nothing: bool,
    ) -> Result<(), ApiError> {
        let Some(permit) = &self.permit else {
            return Ok(());
        };
        let answer = |request: &ValidRequest| match self.max_tokens {
            _ if draws_nothing => 0,
            Some(_) => request.max_tokens() as u64,
            None => (request.max_tokens() as u64).min(ANSWER_SHARE),
        };
        let answers: u64 = requests.iter().map(answer).sum();
        let mut tokens = permit
            .reserve(n_prompt as u64 + answers, Instant::now())
            .map_err(|too_much| ApiError::from(&Refusal::TooMuch(too_much)))?;
        tokens.tokens_used(n_prompt as u64);
        self.tokens = Some(tokens);
        Ok(())
    }
}

/// The error of every request to a model whose engine has failed.
pub fn engine_failed() -> ApiError {
    ApiError::new(
        ErrorCode::InternalError,
        "the engine has failed and the server must be restarted",
    )
}

/// What logs and traces have in the place of an error's code for a client that left before its answer was complete.
pub const CLIENT_CLOSED: &str = "client_closed";

/// Drawn tokens of a request that are counted in one go: a counter is worth a tenth of what writing a token costs.
const TOLD_AT_ONCE: usize = 16;
