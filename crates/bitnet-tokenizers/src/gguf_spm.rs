//! GGUF vocabularies of the kind `llama`: SentencePiece BPE by scores.
//!
//! SentencePiece merges, again and again, the neighbouring pair whose concatenation has the highest score, the leftmost
//! one on ties; ranked merges (as the `tokenizers` crate has them) cannot say "leftmost on ties" across different pairs
//! with the same result, so the loop is written out here. What no piece covers falls back to byte tokens, or to the
//! unknown token. Source: sentencepiece `src/bpe_model.cc`; its ids are the golden data of the tests.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::error::{TokenizerError, shorten};
use crate::gguf_tokens::{GgufParts, finish, read_tokens};
use crate::split::with_space_symbols;
use crate::token_table::{SPACE_SYMBOL, Spelling, TokenKind};
use crate::tokenizer::{Encoder, SegmentStart, Tokenizer, TokenizerOptions};
use crate::vocabulary::{GgufTokenType, GgufVocabulary};

/// Builds the tokenizer of a `llama` vocabulary.
///
/// # Errors
/// Any inconsistency of the vocabulary; in strict mode, the need of a repair.
pub(crate) fn build(
    vocabulary: GgufVocabulary,
    options: &TokenizerOptions,
) -> Result<Tokenizer, TokenizerError> {
    // SentencePiece's own default, and llama.cpp's.
    let space_prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let mut repairs = Vec::new();
    let spelling = Spelling::SentencePiece {
        strip_first_space: space_prefix,
    };
    let (table, added) = read_tokens(&vocabulary, spelling, options, &mut repairs)?;
    if vocabulary.scores.is_empty() {
        return Err(TokenizerError::Missing {
            field: "tokenizer.ggml.scores",
        });
    }

    let mut pieces = HashMap::with_capacity(table.len());
    let mut bytes = [None; 256];
    let mut longest = 0;
    for (id, text, kind) in table.iter() {
        let score = vocabulary.scores[id as usize];
        if !score.is_finite() {
            return Err(TokenizerError::BadScore { id, found: score });
        }
        match kind {
            TokenKind::Piece if !text.is_empty() => {
                let unused = vocabulary
                    .token_types
                    .get(id as usize)
                    .copied()
                    .and_then(GgufTokenType::from_number)
                    == Some(GgufTokenType::Unused);
                longest = longest.max(text.len());
                pieces.insert(text.to_owned(), Piece { id, score, unused });
            }
            TokenKind::Byte(byte) => bytes[usize::from(byte)] = Some(id),
            _ => {}
        }
    }
    let encoder = ScoreEncoder {
        pieces,
        longest,
        bytes,
        unknown: vocabulary.unknown,
        space_prefix,
    };
    let parts = GgufParts {
        kind: "GGUF llama (SentencePiece BPE)",
        table,
        added,
        repairs,
    };
    finish(
        vocabulary,
        options,
        parts,
        true,
        Encoder::Scores(Box::new(encoder)),
    )
}

/// Text to ids by scored merges.
#[derive(Debug)]
pub(crate) struct ScoreEncoder {
    pieces: HashMap<String, Piece>,
    /// The longest piece in bytes: longer concatenations need no look-up.
    longest: usize,
    /// `[256]`: the token of each byte.
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    /// Whether text begins with a space that is not its own.
    space_prefix: bool,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
    /// May be passed through while merging, but not be the result.
    unused: bool,
}

/// A run of text that is one piece so far; a doubly linked list inside a vector.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    /// In bytes; 0 once merged into its left neighbour.
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// A merge that was possible when it was noted.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both sides: they have changed since if this is not their sum any more.
    len: usize,
}

impl ScoreEncoder {
    /// Whether every byte has a token, so that nothing is unknown.
    pub(crate) fn has_all_bytes(&self) -> bool {
        self.bytes.iter().all(Option::is_some)
    }

    /// Appends the ids of a segment of text.
    ///
    /// # Errors
    /// A character without tokens in a vocabulary without an unknown token.
    pub(crate) fn encode(
        &self,
        text: &str,
        start: SegmentStart,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut spelled = String::with_capacity(text.len() + SPACE_SYMBOL.len_utf8());
        if self.space_prefix && start != SegmentStart::Middle {
            spelled.push(SPACE_SYMBOL);
        }
        spelled.push_str(&with_space_symbols(text));

        let merged = self.merge(&spelled);
        let mut after_unknown = false;
        let mut at = Some(0).filter(|_| !merged.symbols.is_empty());
        while let Some(index) = at {
            let symbol = merged.symbols[index];
            after_unknown = self.emit(&merged, symbol, after_unknown, ids)?;
            at = symbol.next;
        }
        Ok(())
    }

    /// Merges `text` as far as it goes.
    fn merge<'t>(&self, text: &'t str) -> Merged<'t> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(n, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                previous: n.checked_sub(1),
                next: Some(n + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut merged = Merged {
            text,
            symbols,
            halves: HashMap::new(),
        };
        let mut queue = BinaryHeap::new();
        for right in 1..merged.symbols.len() {
            self.note(&mut merged, right - 1, right, &mut queue);
        }
        while let Some(Candidate {
            left, right, len, ..
        }) = queue.pop()
        {
            let (a, b) = (merged.symbols[left], merged.symbols[right]);
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            merged.symbols[left].len = len;
            merged.symbols[left].next = b.next;
            merged.symbols[right].len = 0;
            if let Some(next) = b.next {
                merged.symbols[next].previous = Some(left);
                self.note(&mut merged, left, next, &mut queue);
            }
            if let Some(previous) = a.previous {
                self.note(&mut merged, previous, left, &mut queue);
            }
        }
        merged
    }

    /// Queues the merge of two neighbours if there is a piece for it.
    fn note(
        &self,
        merged: &mut Merged<'_>,
        left: usize,
        right: usize,
        queue: &mut BinaryHeap<Candidate>,
    ) {
        let (a, b) = (merged.symbols[left], merged.symbols[right]);
        let len = a.len + b.len;
        if len > self.longest {
            return;
        }
        let text = &merged.text[a.start..a.start + len];
        if let Some(piece) = self.pieces.get(text) {
            queue.push(Candidate {
                score: piece.score,
                left,
                right,
                len,
            });
            if piece.unused {
                merged.halves.insert(text, a.len);
            }
        }
    }

    /// Appends the ids of one merged symbol; returns whether it ended in the unknown token. `after_unknown`: the ids do
    /// already, and a run of unknown characters is one token.
    fn emit(
        &self,
        merged: &Merged<'_>,
        symbol: Symbol,
        mut after_unknown: bool,
        ids: &mut Vec<u32>,
    ) -> Result<bool, TokenizerError> {
        // Unused pieces fall apart into what they were merged from; a stack, because that can go deep.
        let mut stack = Vec::new();
        let mut next = Some(symbol.start..symbol.start + symbol.len);
        while let Some(range) = next.take().or_else(|| stack.pop()) {
            let text = &merged.text[range.clone()];
            match self.pieces.get(text) {
                Some(piece) if !piece.unused => {
                    ids.push(piece.id);
                    after_unknown = false;
                }
                Some(_) if merged.halves.contains_key(text) => {
                    let middle = range.start + merged.halves[text];
                    stack.push(middle..range.end);
                    next = Some(range.start..middle);
                }
                _ => {
                    let bytes = text.bytes().map(|byte| self.bytes[usize::from(byte)]);
                    if let Some(bytes) = bytes.collect::<Option<Vec<u32>>>() {
                        ids.extend(bytes);
                        after_unknown = false;
                    } else if let Some(unknown) = self.unknown {
                        if !after_unknown {
                            ids.push(unknown);
                        }
                        after_unknown = true;
                    } else {
                        return Err(TokenizerError::Unencodable {
                            text: shorten(text),
                        });
                    }
                }
            }
        }
        Ok(after_unknown)
    }
}

/// Text with the symbols it was merged into.
struct Merged<'t> {
    text: &'t str,
    symbols: Vec<Symbol>,
    /// For unused pieces that came up: the length of the left half they were made from.
    halves: HashMap<&'t str, usize>,
}

impl Ord for Candidate {
    /// The highest score first, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        // Scores are finite; adding 0 makes -0 equal to 0 for `total_cmp`.
        (self.score + 0.0)
            .total_cmp(&(other.score + 0.0))
            .then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}
