//! Decoding while generating: whole characters only, as early as possible.
//!
//! A character can take several tokens. Bytes that may still become one are held back; bytes that no continuation can
//! complete become U+FFFD at once, one for each maximal invalid sequence, exactly as `String::from_utf8_lossy` would
//! replace them in the whole text.

use crate::error::TokenizerError;
use crate::tokenizer::Tokenizer;

/// An incremental decoder that borrows its tokenizer. See [`Tokenizer::decode_stream`].
#[derive(Debug, Clone)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    state: DecodeState,
}

impl<'t> DecodeStream<'t> {
    pub(crate) fn new(
        tokenizer: &'t Tokenizer,
        prompt_ids: &[u32],
        skip_special: bool,
    ) -> Result<Self, TokenizerError> {
        Ok(Self {
            tokenizer,
            state: DecodeState::new(tokenizer, prompt_ids, skip_special)?,
        })
    }

    /// Takes the next id; returns the text that is complete by now, if any.
    ///
    /// # Errors
    /// An id outside the vocabulary; the stream is as before.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        self.state.push(self.tokenizer, id)
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn finish(self) -> Option<String> {
        self.state.finish()
    }
}

/// The state of an incremental decoder without its tokenizer, for those who keep both side by side.
///
/// The same tokenizer must be given to every call.
#[derive(Debug, Clone)]
pub struct DecodeState {
    skip_special: bool,
    /// Whether the next token with text begins the text, and its first space is the encoder's.
    space_to_strip: bool,
    /// The beginning of an unfinished character, at most 3 bytes between calls.
    held: Vec<u8>,
}

impl DecodeState {
    /// Starts behind the text of `prompt_ids`.
    ///
    /// # Errors
    /// A prompt id outside the vocabulary.
    pub fn new(
        tokenizer: &Tokenizer,
        prompt_ids: &[u32],
        skip_special: bool,
    ) -> Result<Self, TokenizerError> {
        let mut state = Self {
            skip_special,
            space_to_strip: tokenizer.strips_first_space(),
            held: Vec::new(),
        };
        for &id in prompt_ids {
            state.push(tokenizer, id)?;
        }
        Ok(state)
    }

    /// Takes the next id; returns the text that is complete by now, if any.
    ///
    /// # Errors
    /// An id outside the vocabulary; the state is as before.
    pub fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
    ) -> Result<Option<String>, TokenizerError> {
        tokenizer.append_token(
            id,
            self.skip_special,
            &mut self.space_to_strip,
            &mut self.held,
        )?;
        Ok(self.take_complete())
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn finish(self) -> Option<String> {
        (!self.held.is_empty()).then(|| String::from_utf8_lossy(&self.held).into_owned())
    }

    fn take_complete(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut done = 0;
        loop {
            let rest = &self.held[done..];
            let (valid, invalid) = match std::str::from_utf8(rest) {
                Ok(_) => (rest.len(), Some(0)),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            text.push_str(&String::from_utf8_lossy(&rest[..valid]));
            done += valid;
            match invalid {
                Some(0) | None => break,
                Some(length) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += length;
                }
            }
        }
        self.held.drain(..done);
        (!text.is_empty()).then_some(text)
    }
}
