//! Byte pair encoding by rank: normalise, split, merge.
//!
//! The merging itself is the `tokenizers` crate's; what is put around it is what that crate does silently or not at
//! all: a character without a token is an error instead of nothing, and no rule can reach its panics (an over-long
//! merge result, a merge of unknown tokens), because [`checked_merges`] has looked at every rule.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::BPE;
use tokenizers::{Model, NormalizedString};

use crate::error::{TokenizerError, shorten};
use crate::split::{Pieces, Step};
use crate::tokenizer::SegmentStart;

/// Text to ids by ranked merges.
#[derive(Debug)]
pub(crate) struct BpeEncoder {
    pub(crate) normalizers: Vec<Normalizer>,
    pub(crate) steps: Vec<Step>,
    pub(crate) bpe: BPE,
}

/// A change of the text before it is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Normalizer {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    /// Puts a text in front, unless there is nothing to put it in front of.
    Prepend(String),
    Replace {
        from: String,
        to: String,
    },
}

/// Everything about merging that is not a default.
#[derive(Debug, Default)]
pub(crate) struct BpeConfig {
    pub(crate) vocab: HashMap<String, u32>,
    pub(crate) merges: Vec<(String, String)>,
    pub(crate) unknown: Option<String>,
    pub(crate) fuse_unknown: bool,
    pub(crate) byte_fallback: bool,
    /// A piece that is a token as it stands is not merged from its characters.
    pub(crate) ignore_merges: bool,
}

impl BpeConfig {
    /// # Errors
    /// A merge of tokens that do not exist, or an unknown token that does not.
    pub(crate) fn build(self) -> Result<BPE, TokenizerError> {
        checked_merges(&self.vocab, &self.merges)?;
        if let Some(unknown) = &self.unknown
            && !self.vocab.contains_key(unknown)
        {
            return Err(TokenizerError::UnknownToken {
                field: "model.unk_token",
                text: shorten(unknown),
            });
        }
        let vocab: tokenizers::models::bpe::Vocab = self.vocab.into_iter().collect();
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, self.merges)
            .fuse_unk(self.fuse_unknown)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unknown) = self.unknown {
            builder = builder.unk_token(unknown);
        }
        builder
            .build()
            .map_err(|error| TokenizerError::Unsupported {
                place: "model",
                found: error.to_string(),
            })
    }
}

/// Looks at every merge: both sides and their concatenation must be tokens, and no rule may occur twice.
fn checked_merges(
    vocab: &HashMap<String, u32>,
    merges: &[(String, String)],
) -> Result<(), TokenizerError> {
    let mut seen = HashSet::with_capacity(merges.len());
    let mut joined = String::new();
    for (index, (left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let reason = match (vocab.get(left), vocab.get(right)) {
            (None, _) => "starts with a text that is no token",
            (_, None) => "ends with a text that is no token",
            (Some(_), Some(_)) if !vocab.contains_key(&joined) => "makes a text that is no token",
            (Some(_), Some(_)) if left.is_empty() || right.is_empty() => "has an empty side",
            (Some(left), Some(right)) if !seen.insert((*left, *right)) => "occurs a second time",
            _ => continue,
        };
        return Err(TokenizerError::BadMerge {
            index,
            text: shorten(&format!("{left} {right}")),
            reason,
        });
    }
    Ok(())
}

impl BpeEncoder {
    /// Appends the ids of `text`; it ends early once there are more than `most`.
    ///
    /// # Errors
    /// A pattern that gives up, or a character that has no token.
    pub(crate) fn encode(
        &self,
        text: &str,
        start: SegmentStart,
        most: usize,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let limit = text
            .len()
            .saturating_mul(MAX_GROWTH)
            .saturating_add(FREE_GROWTH);
        let mut text = Cow::Borrowed(text);
        for normalizer in &self.normalizers {
            normalizer.apply(&mut text, limit)?;
        }
        let mut pieces = Pieces::new(text);
        for step in &self.steps {
            // No step makes it more than five times as long, so what it makes may be looked at afterwards.
            pieces.apply(step, start == SegmentStart::Text)?;
            check_growth(pieces.text_len(), limit)?;
        }
        for piece in pieces.iter() {
            if ids.len() > most {
                break;
            }
            let unencodable = || TokenizerError::Unencodable {
                text: shorten(piece),
            };
            let tokens = self.bpe.tokenize(piece).map_err(|_| unencodable())?;
            // The crate drops characters without a token when there is no unknown token.
            if tokens.last().map_or(0, |token| token.offsets.1) != piece.len() {
                return Err(unencodable());
            }
            ids.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// How many times longer a text may become before it is merged. Compatibility forms (NFKD) reach 11, the spelling of
/// bytes and spaces 3; a hostile list of replacements grows without end.
const MAX_GROWTH: usize = 64;

/// Bytes that a text may grow by however short it is: a prefix can be longer than what follows.
const FREE_GROWTH: usize = 64 << 10;

fn check_growth(found: usize, limit: usize) -> Result<(), TokenizerError> {
    let field = "bytes of the normalised text";
    if found <= limit {
        return Ok(());
    }
    Err(TokenizerError::TooLarge {
        field,
        found,
        limit,
    })
}

impl Normalizer {
    fn apply(&self, text: &mut Cow<'_, str>, limit: usize) -> Result<(), TokenizerError> {
        let unicode = |normalize: fn(&mut NormalizedString) -> &mut NormalizedString| {
            let mut normalized = NormalizedString::from(text.as_ref());
            Cow::Owned(normalize(&mut normalized).get().to_owned())
        };
        match self {
            Self::Nfc | Self::Nfd | Self::Nfkc | Self::Nfkd if text.is_ascii() => {}
            Self::Nfc => *text = unicode(NormalizedString::nfc),
            Self::Nfd => *text = unicode(NormalizedString::nfd),
            Self::Nfkc => *text = unicode(NormalizedString::nfkc),
            Self::Nfkd => *text = unicode(NormalizedString::nfkd),
            Self::Lowercase => *text = unicode(NormalizedString::lowercase),
            Self::Prepend(prefix) if !text.is_empty() => {
                *text = Cow::Owned(format!("{prefix}{text}"))
            }
            Self::Prepend(_) => {}
            Self::Replace { from, to } => {
                let n = text.matches(from.as_str()).count();
                let kept = text.len() - n * from.len();
                check_growth(kept.saturating_add(n.saturating_mul(to.len())), limit)?;
                *text = Cow::Owned(text.replace(from.as_str(), to));
            }
        }
        check_growth(text.len(), limit)
    }
}
