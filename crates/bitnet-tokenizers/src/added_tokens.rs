//! Finding added and special tokens in text.
//!
//! Before any splitting or merging, the text is cut at the tokens that stand for themselves: always at user-defined
//! ones, and at control tokens only when the caller vouches for the text. At each position the longest token wins, as
//! in Hugging Face's `AddedVocabulary`.
//!
//! The tokens are kept sorted and narrowed byte by byte with binary searches. An automaton would be faster on texts
//! full of specials, but costs tens of bytes for each byte of a (possibly hostile) vocabulary; a table of first bytes
//! makes ordinary text cost one load per byte.

use std::ops::Range;

use crate::error::TokenizerError;

/// One token that is recognised as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Recognised only when special tokens are parsed.
    pub(crate) control: bool,
    /// Swallows white space before it.
    pub(crate) lstrip: bool,
    /// Swallows white space behind it.
    pub(crate) rstrip: bool,
    /// Only between characters that are not part of a word.
    pub(crate) single_word: bool,
}

/// A part of the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Segment<'t> {
    /// Text to encode, never empty.
    Text(&'t str),
    /// A token recognised as a whole.
    Token { id: u32, control: bool },
}

/// The longest text an added token may have, in bytes: it bounds the work at each position of a text.
const MAX_ADDED_BYTES: usize = 4096;

/// The tokens that are recognised as wholes.
#[derive(Debug, Clone)]
pub(crate) struct AddedTokens {
    /// Sorted by text, texts unique and not empty.
    sorted: Vec<AddedToken>,
    /// `[256]`: whether any token starts with this byte.
    first_bytes: Box<[bool; 256]>,
}

impl AddedTokens {
    /// # Errors
    /// A text that is over-long or occurs twice.
    pub(crate) fn new(mut tokens: Vec<AddedToken>) -> Result<Self, TokenizerError> {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        let mut first_bytes = Box::new([false; 256]);
        for token in &tokens {
            if token.text.len() > MAX_ADDED_BYTES {
                let (found, limit) = (token.text.len(), MAX_ADDED_BYTES);
                return Err(TokenizerError::TokenTooLong {
                    id: token.id,
                    found,
                    limit,
                });
            }
            first_bytes[usize::from(token.text.as_bytes()[0])] = true;
        }
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0].text == pair[1].text) {
            return Err(crate::token_table::duplicate(
                &pair[0].text,
                pair[0].id,
                pair[1].id,
            ));
        }
        Ok(Self {
            sorted: tokens,
            first_bytes,
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.sorted.iter()
    }

    /// Cuts `text` at the tokens it contains; control tokens count only with `parse_special`.
    pub(crate) fn segments<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Segment<'t>> {
        let mut segments = Vec::new();
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            let Some((token, cut)) = self.match_at(text, done, at, parse_special) else {
                at += 1;
                continue;
            };
            if cut.start > done {
                segments.push(Segment::Text(&text[done..cut.start]));
            }
            segments.push(Segment::Token {
                id: token.id,
                control: token.control,
            });
            done = cut.end;
            at = done;
        }
        if done < text.len() {
            segments.push(Segment::Text(&text[done..]));
        }
        segments
    }

    /// The longest token at byte `at`, and the bytes it takes (white space included); `done` is the end of the last
    /// one.
    fn match_at(
        &self,
        text: &str,
        done: usize,
        at: usize,
        parse_special: bool,
    ) -> Option<(&AddedToken, Range<usize>)> {
        let bytes = text.as_bytes();
        if !self.first_bytes[usize::from(bytes[at])] {
            return None;
        }
        // `low..high` are the tokens that agree with the text so far; a complete match is always `low`.
        let (mut low, mut high) = (0, self.sorted.len());
        let mut best = None;
        for (depth, &byte) in bytes[at..].iter().enumerate() {
            let range = &self.sorted[low..high];
            let byte_at = |token: &AddedToken| token.text.as_bytes().get(depth).copied();
            let start = range.partition_point(|token| byte_at(token) < Some(byte));
            let end = range.partition_point(|token| byte_at(token) <= Some(byte));
            (low, high) = (low + start, low + end);
            if low == high {
                break;
            }
            let token = &self.sorted[low];
            let end = at + depth + 1;
            if token.text.len() == depth + 1
                && (parse_special || !token.control)
                && (!token.single_word || is_single_word(text, at..end))
            {
                best = Some((token, at..end));
            }
        }
        let (token, Range { mut start, mut end }) = best?;
        if token.lstrip {
            start = done + text[done..start].trim_end().len();
        }
        if token.rstrip {
            end = text.len() - text[end..].trim_start().len();
        }
        Some((token, start..end))
    }
}

/// Whether no word character touches `range` from outside.
fn is_single_word(text: &str, range: Range<usize>) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..range.start].chars().next_back().is_some_and(in_word)
        && !text[range.end..].chars().next().is_some_and(in_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(texts: &[(&str, bool)]) -> AddedTokens {
        let added = |(id, &(text, control)): (usize, &(&str, bool))| AddedToken {
            id: id as u32,
            text: text.to_owned(),
            control,
            ..AddedToken::default()
        };
        AddedTokens::new(texts.iter().enumerate().map(added).collect()).unwrap()
    }

    fn token(id: u32, control: bool) -> Segment<'static> {
        Segment::Token { id, control }
    }

    #[test]
    fn the_longest_token_wins() {
        let added = tokens(&[("<a>", true), ("<a><b>", true), ("<", false)]);
        assert_eq!(
            added.segments("x<a><b><a><c", true),
            [
                Segment::Text("x"),
                token(1, true),
                token(0, true),
                token(2, false),
                Segment::Text("c")
            ]
        );
    }

    #[test]
    fn control_tokens_are_text_unless_parsed() {
        let added = tokens(&[("<s>", true), ("<u>", false)]);
        assert_eq!(
            added.segments("<s><u>", false),
            [Segment::Text("<s>"), token(1, false)]
        );
        assert_eq!(
            added.segments("<s><u>", true),
            [token(0, true), token(1, false)]
        );
        assert_eq!(added.segments("", true), []);
    }

    #[test]
    fn tokens_that_start_inside_a_character_never_match() {
        // The continuation bytes of U+1F600 are no token's first byte: tokens are UTF-8 too.
        let added = tokens(&[("\u{1F600}", false)]);
        assert_eq!(
            added.segments("\u{1F601}\u{1F600}", false),
            [Segment::Text("\u{1F601}"), token(0, false)]
        );
    }

    #[test]
    fn stripping_and_single_words_follow_the_flags() {
        let mask = AddedToken {
            text: "<m>".into(),
            lstrip: true,
            rstrip: true,
            ..AddedToken::default()
        };
        let word = AddedToken {
            id: 1,
            text: "cat".into(),
            single_word: true,
            ..AddedToken::default()
        };
        let added = AddedTokens::new(vec![mask, word]).unwrap();
        assert_eq!(
            added.segments("a <m> \nb", false),
            [Segment::Text("a"), token(0, false), Segment::Text("b")]
        );
        assert_eq!(
            added.segments("cat cats", false),
            [token(1, false), Segment::Text(" cats")]
        );
    }

    #[test]
    fn repeated_and_over_long_texts_are_refused() {
        let twice = |id| AddedToken {
            id,
            text: "x".into(),
            ..AddedToken::default()
        };
        assert!(matches!(
            AddedTokens::new(vec![twice(4), twice(2)]).unwrap_err(),
            TokenizerError::DuplicateToken {
                first: 2,
                second: 4,
                ..
            }
        ));
        let long = AddedToken {
            text: "x".repeat(MAX_ADDED_BYTES + 1),
            ..AddedToken::default()
        };
        assert!(matches!(
            AddedTokens::new(vec![long]).unwrap_err(),
            TokenizerError::TokenTooLong { .. }
        ));
    }
}
