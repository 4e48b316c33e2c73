//! How much text an id can stand for: fewer ids than that bound says a text cannot have, which is known without
//! encoding it.
//!
//! An id stands for no more bytes of spelled text than the longest token has, and spelling makes no text shorter. Where
//! something does without leave (a token that swallows white space, a run of unknown characters in one id, a pattern
//! whose matches are left out), there is no bound.

use std::sync::OnceLock;

use crate::added_tokens::AddedTokens;
use crate::bpe::Normalizer;
use crate::split::{Behavior, Step};
use crate::tokenizer::{Encoder, Tokenizer};

/// By how much the normal forms of Unicode, and lower case, make a text shorter at most: compatibility decomposition
/// turns 4 bytes into 1, and composition 3 into 1.
const UNICODE_SHRINKING: usize = 12;

/// Most bytes of a character, for which an unknown token may stand.
const LONGEST_CHARACTER: usize = 4;

/// The bounds of a tokenizer, found when they are first asked for.
#[derive(Debug, Default)]
pub(crate) struct Reach(OnceLock<Bounds>);

#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Bytes of normalised text that an id stands for, where control tokens are text.
    of_text: Option<usize>,
    /// The same where they are recognised.
    of_markup: Option<usize>,
    /// By how much normalising makes a text shorter: of ASCII, and of any.
    shrinking: Option<(usize, usize)>,
}

impl Tokenizer {
    /// Ids that `text` has at least, without those around it. 0 where nothing is known.
    pub fn fewest_ids(&self, text: &str, parse_special: bool) -> usize {
        let bounds = self.reach.0.get_or_init(|| self.bounds());
        let most = match parse_special {
            true => bounds.of_markup,
            false => bounds.of_text,
        };
        let (Some(most), Some((ascii, any))) = (most, bounds.shrinking) else {
            return 0;
        };
        let shrinking = if text.is_ascii() { ascii } else { any };
        text.len().div_ceil(most.saturating_mul(shrinking))
    }

    fn bounds(&self) -> Bounds {
        let longest = self.table.iter().map(|(_, text, _)| text.len()).max();
        let longest = longest.unwrap_or(0).max(self.added.longest());
        let most =
            Some(longest.max(LONGEST_CHARACTER)).filter(|_| self.encoder.leaves_nothing_out());
        let unless_swallowing =
            |parse_special| most.filter(|_| !self.added.swallows(parse_special));
        Bounds {
            of_text: unless_swallowing(false),
            of_markup: unless_swallowing(true),
            shrinking: self.encoder.shrinking(),
        }
    }
}

impl Encoder {
    /// Whether every character that is spelled is in the text of some id, and no id stands for any number of them.
    fn leaves_nothing_out(&self) -> bool {
        match self {
            Encoder::Scores(scores) => scores.has_all_bytes(),
            Encoder::Bpe(encoder) => {
                let bpe = &encoder.bpe;
                let fuses = bpe.unk_token.is_some() && bpe.fuse_unk;
                let drops = |step: &Step| {
                    matches!(
                        step,
                        Step::Split {
                            behavior: Behavior::Removed,
                            ..
                        }
                    )
                };
                !fuses && !encoder.steps.iter().any(drops)
            }
        }
    }

    /// By how much normalising makes a text of ASCII, and any text, shorter at most.
    fn shrinking(&self) -> Option<(usize, usize)> {
        let Encoder::Bpe(bpe) = self else {
            return Some((1, 1));
        };
        bpe.normalizers
            .iter()
            .try_fold(
                (1usize, 1usize),
                |(ascii, any), normalizer| match normalizer {
                    Normalizer::Prepend(_) => Some((ascii, any)),
                    Normalizer::Replace { from, to } => {
                        let by = from
                            .len()
                            .div_ceil(Some(to.len()).filter(|&len| len > 0)?)
                            .max(1);
                        // What it puts there need not be ASCII for the steps behind it.
                        Some((ascii.checked_mul(by)?, any.checked_mul(by)?))
                    }
                    Normalizer::Nfc
                    | Normalizer::Nfd
                    | Normalizer::Nfkc
                    | Normalizer::Nfkd
                    | Normalizer::Lowercase => Some((ascii, any.checked_mul(UNICODE_SHRINKING)?)),
                },
            )
    }
}

impl AddedTokens {
    fn swallows(&self, parse_special: bool) -> bool {
        let strips = |token: &crate::added_tokens::AddedToken| token.lstrip || token.rstrip;
        self.iter()
            .any(|token| strips(token) && (parse_special || !token.control))
    }

    fn longest(&self) -> usize {
        self.iter().map(|token| token.text.len()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::NormalizedString;

    use super::*;

    #[test]
    fn no_character_shrinks_by_more_than_is_said() {
        let normal = |c: char, form: fn(&mut NormalizedString) -> &mut NormalizedString| {
            let mut text = NormalizedString::from(c.to_string());
            form(&mut text).get().len()
        };
        let (mut apart, mut together) = (1, 1);
        for c in '\u{80}'..=char::MAX {
            let len = c.len_utf8();
            let fewest = normal(c, NormalizedString::nfd)
                .min(normal(c, NormalizedString::nfkd))
                .min(normal(c, NormalizedString::lowercase));
            apart = apart.max(len.div_ceil(fewest.max(1)));
            // What is composed again is what the canonical form takes apart.
            together = together.max(normal(c, NormalizedString::nfd).div_ceil(len));
        }
        assert!(apart * together <= UNICODE_SHRINKING, "{apart} {together}");
    }
}
