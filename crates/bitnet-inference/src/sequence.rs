//! One request under way: its tokens, its place in the KV cache, and everything that turns logits into text.
//!
//! A sequence carries its own sampler, text decoder and stop matcher, so that nothing of it depends on the sequences
//! it shares a batch with.

use std::sync::Arc;
use std::time::Duration;

use bitnet_kernels::Keep;
use bitnet_tokenizers::{DecodeState, Tokenizer};

use crate::block_manager::BlockManager;
use crate::embedding::Pooler;
use crate::error::Error;
use crate::logits::Row;
use crate::logprobs::{LogprobWishes, TokenLogprobs};
use crate::metrics::Timings;
use crate::prefix_cache::Prefix;
use crate::request::{FinishReason, Token};
use crate::sampler::Sampler;
use crate::scheduler::Rank;
use crate::speculative::{Drafter, MAX_DRAFT};
use crate::step::Drawn;
use crate::stop::{StopMatcher, StopOutcome};
use crate::terms::Terms;

/// How urgent a request without a deadline is: as one with this.
const PATIENCE: Duration = Duration::from_secs(600);

mod kv_place;

/// Names a request for as long as its engine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Turns the tokens of one sequence into whole characters.
pub struct TextDecoder {
    tokenizer: Arc<Tokenizer>,
    state: DecodeState,
}

impl TextDecoder {
    /// Starts behind the text of `prompt`. Special tokens have no text.
    ///
    /// # Errors
    /// What the tokenizer reports.
    pub fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32]) -> Result<TextDecoder, Error> {
        let known: Vec<u32> = prompt
            .iter()
            .copied()
            .filter(|&id| has_text(&tokenizer, id))
            .collect();
        let state = DecodeState::new(&tokenizer, &known, true)?;
        Ok(TextDecoder { tokenizer, state })
    }

    fn push(&mut self, id: u32) -> Result<Option<String>, Error> {
        if !has_text(&self.tokenizer, id) {
            return Ok(None);
        }
        Ok(self.state.push(&self.tokenizer, id)?)
    }

    fn finish(self) -> Option<String> {
        self.state.finish()
    }
}

/// Models pad their vocabulary: ids past the tokenizer's have no text.
fn has_text(tokenizer: &Tokenizer, id: u32) -> bool {
    (id as usize) < tokenizer.vocab_size()
}

/// What a [`Sequence`] starts from; all of it checked.
pub struct SequenceParts {
    /// Its name.
    pub id: RequestId,
    /// The prompt, not empty, every id in the vocabulary.
    pub prompt: Vec<u32>,
    /// Most tokens to draw, at least 1.
    pub max_tokens: usize,
    /// Positions of the context, at least the prompt's length.
    pub context: usize,
    /// Draws its tokens.
    pub sampler: Sampler,
    /// Tokens that end the text; empty when they are ignored.
    pub end_of_generation: Arc<[u32]>,
    /// Texts that end it.
    pub stop: StopMatcher,
    /// Ids to text; `None` for a model without tokenizer, whose tokens have no text.
    pub decoder: Option<TextDecoder>,
    /// The log probabilities to report.
    pub logprobs: LogprobWishes,
    /// Collects the hidden states of a prompt that only they are wanted of.
    pub pooler: Option<Pooler>,
    /// When and beside whom it runs.
    pub terms: Terms,
    /// Guesses tokens ahead.
    pub drafter: Drafter,
    /// Times known so far: load and tokenize.
    pub timings: Timings,
}

/// What a pass did for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Prompt tokens that ran for the first time.
    pub n_prompt: usize,
    /// Tokens that had been in the cache before.
    pub n_recomputed: usize,
}

/// A request under way.
pub struct Sequence {
    parts: SequenceParts,
    tokens: Vec<u32>, // prompt, then generated
    rows: Vec<u32>,   // the last token and its draft, while they run
    n_prompt: usize,
    n_cached: usize,   // leading tokens whose keys and values are in the cache
    n_computed: usize, // the most that ever were
    block_table: Vec<u32>,
    n_kept: usize,      // leading blocks that others can find
    n_kept_most: usize, // the most that it ever put there itself, or had found before them
    prefix: Prefix,     // of those
    prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>, // [<= n_prompt], while they are collected
    arrived: Duration,
    waits_since: Duration,
    rank: Option<Rank>, // once it had a place
    finished: bool,
}

/// A time that a sequence was given and that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// For all of it.
    Deadline(Duration),
    /// For its waiting.
    Queue(Duration),
}

impl Sequence {
    /// A sequence of which nothing has run yet.
    pub fn new(mut parts: SequenceParts) -> Sequence {
        let tokens = std::mem::take(&mut parts.prompt);
        debug_assert!(!tokens.is_empty() && tokens.len() <= parts.context);
        Sequence {
            n_prompt: tokens.len(),
            tokens,
            rows: Vec::with_capacity(1 + MAX_DRAFT),
            n_cached: 0,
            n_computed: 0,
            block_table: Vec::new(),
            // Nothing comes before the first token.
            prompt_logprobs: parts.logprobs.prompt.then(|| vec![None]),
            n_kept: 0,
            n_kept_most: 0,
            prefix: Prefix::Start(parts.terms.cache_salt),
            arrived: Duration::ZERO,
            waits_since: Duration::ZERO,
            rank: None,
            finished: false,
            parts,
        }
    }

    /// Its name.
    pub fn id(&self) -> RequestId {
        self.parts.id
    }

    /// When and beside whom it runs.
    pub fn terms(&self) -> &Terms {
        &self.parts.terms
    }

    /// Notes that it was put in the queue at `now`.
    pub fn arrive(&mut self, now: Duration) {
        self.arrived = now;
        self.waits_since = now;
    }

    /// When it is to be done: by its deadline, or as if it had one of ten minutes, so that those with deadlines cannot
    /// go before it for ever.
    pub fn due(&self) -> Duration {
        let time = self.parts.terms.deadline.unwrap_or(PATIENCE);
        self.arrived.saturating_add(time)
    }

    /// Its rank among those that have or had a place.
    pub fn rank(&self) -> Option<Rank> {
        self.rank
    }

    /// Notes that it gets a place at `now`. From then on the table of its blocks grows without being moved.
    pub fn begin(&mut self, rank: Rank, now: Duration) {
        self.rank = Some(rank);
        self.parts.timings.queue += now.saturating_sub(self.waits_since);
        let most = BlockManager::blocks_for(self.positions_needed());
        self.block_table
            .reserve_exact(most.saturating_sub(self.block_table.len()));
    }

    /// Takes its place and its blocks away at `now`: all that was in the cache is to be run again.
    pub fn preempt(&mut self, blocks: &mut BlockManager, now: Duration) {
        self.leave_cache(blocks);
        self.waits_since = now;
        self.parts.timings.n_preempted += 1;
    }

    /// Which of the times that it was given is over.
    pub fn overdue(&self, now: Duration) -> Option<Overdue> {
        let age = now.saturating_sub(self.arrived);
        let terms = &self.parts.terms;
        if let Some(deadline) = terms.deadline.filter(|deadline| age >= *deadline) {
            return Some(Overdue::Deadline(deadline));
        }
        let patience = terms.queue_timeout.filter(|_| self.rank.is_none())?;
        (age >= patience).then_some(Overdue::Queue(patience))
    }

    /// Where its time went so far.
    pub fn timings(&self) -> Timings {
        self.parts.timings
    }

    /// Physical KV blocks by logical block.
    pub fn block_table(&self) -> &[u32] {
        &self.block_table
    }

    /// The same, for the block manager to fill and to take back.
    pub fn block_table_mut(&mut self) -> &mut Vec<u32> {
        &mut self.block_table
    }

    /// Cache positions it can ever use. The last drawn token is never run, so it needs none.
    pub fn positions_needed(&self) -> usize {
        self.n_prompt
            .saturating_add(self.parts.max_tokens - 1)
            .min(self.parts.context)
    }

    /// Tokens so far, prompt included.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of the prompt.
    pub fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    /// Position of its next token to run.
    pub fn start_position(&self) -> usize {
        self.n_cached
    }

    /// Tokens that are not in the cache yet, in order.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.n_cached..]
    }

    /// Guesses up to `room` tokens behind the last one, which must be the only one pending. Returns how many.
    pub fn draft(&mut self, room: usize) -> usize {
        // The last drawn token is never run, so the last position that may be is the one before.
        let room = room.min(self.positions_needed().saturating_sub(self.tokens.len()));
        let draft = self.parts.drafter.propose(&self.tokens, room);
        self.rows.clear();
        self.rows.extend(self.tokens.last());
        self.rows.extend_from_slice(draft);
        draft.len()
    }

    /// The tokens of its next `n_tokens` rows: pending ones, then drafted ones.
    pub fn rows(&self, n_tokens: usize) -> &[u32] {
        match self.parts.drafter.draft() {
            [] => &self.pending()[..n_tokens],
            _ => &self.rows[..n_tokens],
        }
    }

    /// Whether the logits of its prompt's rows are wanted.
    pub fn collects_prompt_logprobs(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// Takes note of the logits behind the token at `position`, if they are the next of the prompt's.
    pub fn collect_prompt_logprobs(&mut self, position: usize, row: Row<'_>) {
        let next = position + 1;
        if let Some(found) = &mut self.prompt_logprobs
            && let Row::Full(row) = row
            && found.len() == next
            && next < self.n_prompt
        {
            let (id, n_top) = (self.tokens[next], self.parts.logprobs.n_top);
            found.push(Some(TokenLogprobs::of(row, id, n_top)));
        }
    }

    /// What was collected of the prompt, once.
    pub fn take_prompt_logprobs(&mut self) -> Option<Arc<[Option<TokenLogprobs>]>> {
        self.prompt_logprobs.take().map(Arc::from)
    }

    /// Whether its hidden states are wanted and no token.
    pub fn is_embedding(&self) -> bool {
        self.parts.pooler.is_some()
    }

    /// Takes note of the hidden state behind the token at `position`, which `read` copies, if it is wanted.
    pub fn see_hidden(&mut self, position: usize, read: impl FnOnce(&mut [f32])) {
        if let Some(pooler) = &mut self.parts.pooler {
            pooler.see(position, self.n_prompt, read);
        }
    }

    /// The embedding, once the whole prompt has run, and an end to the sequence.
    ///
    /// # Errors
    /// [`Error::BadHiddenState`].
    pub fn finish_embedding(&mut self) -> Option<Result<Drawn, Error>> {
        let found = (self.parts.pooler.as_ref()?).result(self.n_cached, self.n_prompt)?;
        self.finished = true;
        Some(found.map(|vector| Drawn {
            token: None,
            finish: Some(FinishReason::Length), // as of any request for no token
            prompt: None,
            embedding: Some(vector),
        }))
    }

    /// Whether its next row is not that of the token drawn last: the prompt is still to be run, or all of the text
    /// again.
    pub fn is_prefilling(&self) -> bool {
        self.n_cached < self.n_prompt || self.pending().len() > 1
    }

    /// Whether it has ended and can be let go.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Ends it: nothing more is drawn.
    pub fn end(&mut self) {
        self.finished = true;
    }

    /// Notes that its first `n_tokens` pending tokens were run, in a pass that took `time`.
    pub fn advance(&mut self, n_tokens: usize, time: Duration) -> Advance {
        let (start, end) = (self.n_cached, self.n_cached + n_tokens);
        let known = self.n_computed.min(end);
        let timings = &mut self.parts.timings;
        let n_prompt = end.min(self.n_prompt).saturating_sub(start.max(known));
        timings.n_prompt += n_prompt;
        if start < known {
            timings.recompute += time;
        } else if start < self.n_prompt {
            timings.prefill += time;
        } else {
            timings.decode += time;
            timings.n_decode_steps += 1;
        }
        self.n_cached = end;
        self.n_computed = self.n_computed.max(end);
        Advance {
            n_prompt,
            n_recomputed: known.saturating_sub(start),
        }
    }

    /// Adds to the time spent on drawing.
    pub fn add_sample_time(&mut self, time: Duration) {
        self.parts.timings.sample += time;
    }

    /// What drawing needs of the logits that are not [`named`](Sequence::named); `None`: all of them.
    pub fn keep(&self) -> Option<Keep> {
        if self.parts.logprobs.drawn {
            return None; // they are shares of the whole vocabulary
        }
        self.parts.sampler.keep()
    }

    /// The tokens whose logits drawing may change, be it behind the last token or behind any part of its draft.
    pub fn named(&self) -> impl Iterator<Item = u32> + '_ {
        let parts = &self.parts;
        // A guess that is not in the text yet is named too early: that costs a row and changes nothing.
        let guesses = parts.drafter.draft().iter().copied();
        parts.sampler.named(&self.tokens).chain(guesses)
    }

    /// Tells that `drawn` came of a row, and whether the row behind it, that of a drafted token, belongs to this text.
    pub fn confirms(&mut self, drawn: &Token) -> bool {
        !self.finished && self.parts.drafter.accept(drawn.id)
    }

    /// Ends the check of a draft: what was drafted rightly is in the cache.
    pub fn finish_draft(&mut self) {
        let (drafted, accepted) = self.parts.drafter.finish();
        self.n_cached += accepted;
        self.n_computed = self.n_computed.max(self.n_cached);
        self.parts.timings.n_drafted += drafted;
        self.parts.timings.n_accepted += accepted;
    }

    /// Draws the next token from its row of logits, or from the candidates of what [`keep`](Sequence::keep) said,
    /// decides whether the text ends with it, and turns it into text.
    ///
    /// # Errors
    /// What [`Sampler::sample`] and the text decoder report; the sequence cannot go on then.
    pub fn draw<'a>(
        &mut self,
        row: impl Into<Row<'a>>,
    ) -> Result<(Token, Option<FinishReason>), Error> {
        let parts = &mut self.parts;
        let row = row.into();
        let id = parts.sampler.sample(row, &self.tokens)?;
        let logprobs = match row {
            Row::Full(row) if parts.logprobs.drawn => {
                Some(TokenLogprobs::of(row, id, parts.logprobs.n_top))
            }
            _ => None,
        };
        self.tokens.push(id);
        parts.timings.n_generated += 1;

        let ends_text = parts.end_of_generation.contains(&id);
        let mut text = String::new();
        let piece = match &mut parts.decoder {
            Some(decoder) if !ends_text => decoder.push(id)?,
            _ => None,
        };
        let stopped = feed(&mut parts.stop, piece, &mut text);
        let mut finish = if ends_text {
            Some(FinishReason::EndOfText)
        } else if stopped {
            Some(FinishReason::StopString)
        } else if parts.timings.n_generated >= parts.max_tokens {
            Some(FinishReason::Length)
        } else if self.tokens.len() > parts.context {
            Some(FinishReason::ContextFull)
        } else {
            None
        };
        // Nothing follows: bytes of an unfinished character and held-back text come out now.
        if finish.is_some() && !stopped {
            let rest = parts.decoder.take().and_then(TextDecoder::finish);
            if feed(&mut parts.stop, rest, &mut text) {
                finish = Some(FinishReason::StopString);
            } else {
                text += &parts.stop.finish();
            }
        }
        self.finished = finish.is_some();
        let token = Token {
            id,
            text,
            logprob: logprobs.as_ref().map(|found| found.logprob),
            top_logprobs: logprobs.map_or_else(Vec::new, |found| found.top),
        };
        Ok((token, finish))
    }
}

/// Sends a piece of text through the stop matcher; tells whether a stop string ended it.
fn feed(stop: &mut StopMatcher, piece: Option<String>, text: &mut String) -> bool {
    match piece.map(|piece| stop.push(&piece)) {
        None => false,
        Some(StopOutcome::Emit(safe)) => {
            *text += &safe;
            false
        }
        Some(StopOutcome::Stop(safe)) => {
            *text += &safe;
            true
        }
    }
}
