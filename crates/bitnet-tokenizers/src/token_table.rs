//! What each token id means: its text, its kind, and the bytes it decodes to.
//!
//! All texts lie in one string: a vocabulary of 128256 tokens is then two allocations, and a hostile one cannot cost
//! more memory than the file that carried it.

use crate::byte_level;
use crate::error::{TokenizerError, shorten};

/// More tokens than any published vocabulary has (the largest have 2^18), and few enough for an `i32` anywhere.
pub(crate) const MAX_TOKENS: usize = 1 << 22;

/// The longest token text accepted, in bytes. Real ones stay below 1 KiB; readers elsewhere have narrowed the length to
/// 16 bits (CVE-2025-49847).
pub(crate) const MAX_TOKEN_BYTES: usize = u16::MAX as usize;

/// The character by which SentencePiece spells a space.
pub(crate) const SPACE_SYMBOL: char = '\u{2581}';

/// How the text of ordinary tokens spells bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// One character per byte ([`crate::byte_level`]).
    ByteLevel,
    /// UTF-8 with `▁` for a space. `strip_first_space`: the encoder put a space before the text, which is not the
    /// text's.
    SentencePiece { strip_first_space: bool },
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// An ordinary piece of text.
    Piece,
    /// A token added to the vocabulary whose text is literal: it is always recognised in text.
    Added,
    /// A special token (BOS, end of turn, unknown, ...): recognised only when the caller asks for it.
    Control,
    /// One byte (`<0x0A>`).
    Byte(u8),
    /// An id without a token: vocabularies padded to a round size have them.
    Absent,
}

/// Text and kind of every id.
#[derive(Debug, Clone)]
pub(crate) struct TokenTable {
    /// All texts, back to back.
    text: String,
    /// `[vocab_size]`: where in `text` each id's text ends.
    ends: Vec<u32>,
    /// `[vocab_size]`.
    kinds: Vec<TokenKind>,
    spelling: Spelling,
}

impl TokenTable {
    pub(crate) fn new(spelling: Spelling) -> Self {
        Self {
            text: String::new(),
            ends: Vec::new(),
            kinds: Vec::new(),
            spelling,
        }
    }

    /// Appends the token of the next id.
    ///
    /// # Errors
    /// An over-long text, or too many tokens.
    pub(crate) fn push(&mut self, text: &str, kind: TokenKind) -> Result<(), TokenizerError> {
        let id = self.kinds.len();
        if id >= MAX_TOKENS {
            return Err(TokenizerError::TooLarge {
                field: "tokens",
                found: id + 1,
                limit: MAX_TOKENS,
            });
        }
        if text.len() > MAX_TOKEN_BYTES {
            let (found, limit) = (text.len(), MAX_TOKEN_BYTES);
            return Err(TokenizerError::TokenTooLong {
                id: id as u32,
                found,
                limit,
            });
        }
        self.text.push_str(text);
        let end = u32::try_from(self.text.len()).map_err(|_| TokenizerError::TooLarge {
            field: "bytes of tokens",
            found: self.text.len(),
            limit: u32::MAX as usize,
        })?;
        self.ends.push(end);
        self.kinds.push(kind);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn spelling(&self) -> Spelling {
        self.spelling
    }

    pub(crate) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(crate) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// The text of `id` as the vocabulary spells it; `None` for an id without a token.
    pub(crate) fn text(&self, id: u32) -> Option<&str> {
        match self.kind(id)? {
            TokenKind::Absent => None,
            _ => {
                let id = id as usize;
                let start = if id == 0 {
                    0
                } else {
                    self.ends[id - 1] as usize
                };
                Some(&self.text[start..self.ends[id] as usize])
            }
        }
    }

    /// Every id that has a token, with its text and kind.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> {
        (0..self.kinds.len() as u32).filter_map(|id| Some((id, self.text(id)?, self.kind(id)?)))
    }

    /// Appends the bytes that `id` stands for. Control tokens are their own text.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub(crate) fn append_bytes(&self, id: u32, out: &mut Vec<u8>) -> Result<(), TokenizerError> {
        let Some(kind) = self.kind(id) else {
            return Err(TokenizerError::UnknownId {
                id,
                vocab_size: self.len(),
            });
        };
        let Some(text) = self.text(id) else {
            return Ok(());
        };
        match (kind, self.spelling) {
            (TokenKind::Byte(byte), _) => out.push(byte),
            (TokenKind::Control, _) | (TokenKind::Added, Spelling::ByteLevel) => {
                out.extend_from_slice(text.as_bytes())
            }
            (_, Spelling::ByteLevel) => {
                for c in text.chars() {
                    match byte_level::byte_of(c) {
                        Some(byte) => out.push(byte),
                        // Not spelled in byte characters: a literal, as Hugging Face decodes it.
                        None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
            (_, Spelling::SentencePiece { .. }) => {
                for (n, part) in text.split(SPACE_SYMBOL).enumerate() {
                    if n > 0 {
                        out.push(b' ');
                    }
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
        Ok(())
    }
}

/// The byte that a text like `<0x0A>` names. Exactly two hexadecimal digits: lenient readers take `<0x-1>` for a byte.
pub(crate) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if two {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// The error for two ids that share `text`.
pub(crate) fn duplicate(text: &str, a: u32, b: u32) -> TokenizerError {
    TokenizerError::DuplicateToken {
        text: shorten(text),
        first: a.min(b),
        second: a.max(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_have_exactly_two_hex_digits() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xff>"), Some(255));
        for text in [
            "<0x-1>", "<0x+1>", "<0x>", "<0x0>", "<0x123>", "<0x0A", "0x0A>", "<0xGG>", "",
        ] {
            assert_eq!(byte_token(text), None, "{text}");
        }
    }

    #[test]
    fn over_long_tokens_are_refused() {
        let mut table = TokenTable::new(Spelling::ByteLevel);
        table
            .push(&"a".repeat(MAX_TOKEN_BYTES), TokenKind::Piece)
            .unwrap();
        let error = table
            .push(&"a".repeat(MAX_TOKEN_BYTES + 1), TokenKind::Piece)
            .unwrap_err();
        assert!(
            matches!(error, TokenizerError::TokenTooLong { id: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn ids_without_a_token_decode_to_nothing_and_ids_outside_are_errors() {
        let mut table = TokenTable::new(Spelling::ByteLevel);
        table.push("", TokenKind::Absent).unwrap();
        table.push("Ġa", TokenKind::Piece).unwrap();
        let mut bytes = Vec::new();
        table.append_bytes(0, &mut bytes).unwrap();
        table.append_bytes(1, &mut bytes).unwrap();
        assert_eq!(bytes, b" a");
        assert!(table.append_bytes(2, &mut bytes).is_err());
        assert_eq!(table.text(0), None);
    }
}
