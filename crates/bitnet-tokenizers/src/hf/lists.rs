//! The two long lists of `tokenizer.json`, read without an intermediate tree: the vocabulary and the merges.
//!
//! Repeated keys of the vocabulary survive the reading, so that they can be refused; merges come in two spellings.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::shorten;
use crate::token_table::MAX_TOKENS;

/// More merges than any published vocabulary has (the largest have fewer than 2^20).
const MAX_MERGES: usize = 1 << 23;

/// Tokens with their ids, in the order of the file.
#[derive(Debug)]
pub(super) struct Vocab(pub(super) Vec<(String, u32)>);

/// Merges, either `"left right"` or `["left", "right"]`.
#[derive(Debug, Default)]
pub(super) struct Merges(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;

        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token texts and ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = map.next_entry::<String, u32>()? {
                    if tokens.len() == MAX_TOKENS {
                        return Err(de::Error::custom(format_args!(
                            "more than {MAX_TOKENS} tokens"
                        )));
                    }
                    tokens.push(entry);
                }
                Ok(Vocab(tokens))
            }
        }

        deserializer.deserialize_map(VocabVisitor)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergesVisitor;

        impl<'de> Visitor<'de> for MergesVisitor {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut merges = Vec::new();
                while let Some(Merge(left, right)) = seq.next_element()? {
                    if merges.len() == MAX_MERGES {
                        return Err(de::Error::custom(format_args!(
                            "more than {MAX_MERGES} merges"
                        )));
                    }
                    merges.push((left, right));
                }
                Ok(Merges(merges))
            }
        }

        deserializer.deserialize_seq(MergesVisitor)
    }
}

struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two texts, in a list or with one space between")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(Merge(left.to_owned(), right.to_owned()))
                    }
                    _ => Err(E::invalid_value(de::Unexpected::Str(&shorten(text)), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let too_short = |n| de::Error::invalid_length(n, &"a merge of two texts");
                let left = seq.next_element()?.ok_or_else(|| too_short(0))?;
                let right = seq.next_element()?.ok_or_else(|| too_short(1))?;
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Merge(left, right)),
                    Some(_) => Err(too_short(3)),
                }
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}
