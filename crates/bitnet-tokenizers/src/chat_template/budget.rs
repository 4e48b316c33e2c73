//! What a template may cost: steps, bytes and nesting.
//!
//! A template comes with a model file, so whoever made the file decides what it does. Everything that it makes is
//! charged before it is made, and nothing is given back: the sum bounds the memory at every moment and the time too,
//! and there is no order of operations to get around it. What is only looked at (compared, searched) is counted apart.

use super::failure::Failure;

/// Bytes that a template may make, whatever the conversation; published templates make some kilobytes beyond the texts.
const BYTES: usize = 32 << 20;

/// Further bytes for each byte of the conversation: a template may copy it whole this often.
const BYTES_PER_BYTE: usize = 16;

/// Steps (expressions and statements) whatever the conversation: published templates take some hundreds outside their
/// loop over the messages.
const STEPS: u64 = 50_000;

/// Further steps for each message; published templates take some dozens.
const STEPS_PER_MESSAGE: u64 = 2_000;

/// Bytes that a template may compare and search, whatever the conversation: some milliseconds.
const LOOKS: usize = 64 << 20;

/// How often a template may look at the whole conversation beyond that; published ones do so some ten times.
const LOOKS_PER_BYTE: usize = 64;

/// Nesting of expressions, blocks and macros while rendering: the stack must bear it in a thread with 2 MiB.
const DEPTH: u32 = 250;

/// The bytes that an entry of a list or map, or a variable, is charged: the largest that any takes, with its share of
/// the container.
pub(super) const ENTRY: usize = 64;

/// The budget of one rendering.
#[derive(Debug)]
pub(super) struct Budget {
    steps: u64,
    looks: usize,
    bytes: usize,
    limit: usize,
    depth: u32,
}

impl Budget {
    /// The budget for a conversation of `messages` messages with `said` bytes of text together.
    pub(super) fn new(messages: usize, said: usize) -> Self {
        let limit = BYTES.saturating_add(said.saturating_mul(BYTES_PER_BYTE));
        Self {
            steps: STEPS.saturating_add(STEPS_PER_MESSAGE.saturating_mul(messages as u64)),
            looks: LOOKS.saturating_add(said.saturating_mul(LOOKS_PER_BYTE)),
            bytes: limit,
            limit,
            depth: 0,
        }
    }

    /// Takes one step.
    pub(super) fn step(&mut self) -> Result<(), Failure> {
        let steps = self.steps.checked_sub(1);
        self.steps = steps.ok_or_else(|| {
            Failure::new("takes more steps than a conversation of this length can need")
        })?;
        Ok(())
    }

    /// Pays for looking at `bytes`.
    pub(super) fn look(&mut self, bytes: usize) -> Result<(), Failure> {
        let looks = self.looks.checked_sub(bytes);
        self.looks = looks.ok_or_else(|| {
            Failure::new("searches more text than a conversation of this length can need")
        })?;
        Ok(())
    }

    /// Pays for making `bytes`.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Failure> {
        self.bytes = (self.bytes.checked_sub(bytes)).ok_or(Failure::Memory(self.limit))?;
        Ok(())
    }

    /// Pays for a container of `entries`.
    pub(super) fn entries(&mut self, entries: usize) -> Result<(), Failure> {
        self.take(entries.saturating_add(1).saturating_mul(ENTRY))
    }

    /// Adds `piece` to `text`.
    pub(super) fn push(&mut self, text: &mut String, piece: &str) -> Result<(), Failure> {
        self.take(piece.len())?;
        text.push_str(piece);
        Ok(())
    }

    /// One level down; [`leave`](Self::leave) comes back up. After a failure nothing goes on, so nobody need.
    pub(super) fn enter(&mut self) -> Result<(), Failure> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Failure::new(format!(
                "nested deeper than {DEPTH} levels (recursion)"
            )));
        }
        Ok(())
    }

    /// One level up.
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }
}
