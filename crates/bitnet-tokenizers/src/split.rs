//! Splitting text into the pieces inside which merging happens.
//!
//! A vocabulary's splitting rule is a list of steps: regular expressions that cut the text, and the change into byte
//! characters. Each step works on the pieces of the one before, as Hugging Face's `Sequence` and llama.cpp's lists of
//! patterns do.
//!
//! Nearly every rule in use ends in `|\s+(?!\S)|\s+`, whose look-ahead would need a backtracking engine: slow, and with
//! a limit that a megabyte of spaces exceeds. What it means is simple: a run of white space gives its last character
//! back unless the text ends there. So that tail runs as a second pattern of a linear-time automaton and the character
//! is given back in code; only patterns with other look-arounds use the backtracking engine.

use std::borrow::Cow;
use std::ops::Range;

use regex_automata::meta;
use regex_automata::{Input, PatternID};

use crate::byte_level;
use crate::error::{TokenizerError, shorten};
use crate::token_table::SPACE_SYMBOL;

/// One step of a splitting rule.
#[derive(Debug)]
pub(crate) enum Step {
    /// Cuts at the matches of a pattern.
    Split {
        pattern: Pattern,
        behavior: Behavior,
        invert: bool,
    },
    /// Puts a space before each piece that has none.
    PrefixSpace,
    /// Spells the pieces in byte characters.
    SpellBytes,
    /// Spells spaces as `▁`, perhaps with one in front; `split` cuts before each.
    Metaspace {
        replacement: char,
        prepend: Prepend,
        split: bool,
    },
}

/// What becomes of the matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    Isolated,
    Removed,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// Where [`Step::Metaspace`] puts a space that the text lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepend {
    Always,
    /// Only at the beginning of the text.
    First,
    Never,
}

/// Text and the pieces it is cut into.
#[derive(Debug)]
pub(crate) struct Pieces<'t> {
    text: Cow<'t, str>,
    ranges: Vec<Range<usize>>,
}

impl<'t> Pieces<'t> {
    /// `text` as one piece.
    pub(crate) fn new(text: Cow<'t, str>) -> Self {
        let whole = 0..text.len();
        Self {
            text,
            ranges: vec![whole],
        }
    }

    /// Applies one step. `at_start`: the text is the beginning of what is encoded.
    ///
    /// # Errors
    /// A pattern that gives up.
    pub(crate) fn apply(&mut self, step: &Step, at_start: bool) -> Result<(), TokenizerError> {
        match step {
            Step::Split {
                pattern,
                behavior,
                invert,
            } => self.split(pattern, *behavior, *invert)?,
            Step::PrefixSpace => self.rewrite(|piece, _, out| {
                if !piece.starts_with(' ') {
                    out.push(' ');
                }
                out.push_str(piece);
            }),
            Step::SpellBytes => self.rewrite(|piece, _, out| byte_level::spell(piece, out)),
            Step::Metaspace {
                replacement,
                prepend,
                split,
            } => {
                self.rewrite(|piece, first, out| {
                    let wanted = match prepend {
                        Prepend::Always => true,
                        Prepend::First => first && at_start,
                        Prepend::Never => false,
                    };
                    if wanted && !piece.starts_with([' ', *replacement]) {
                        out.push(*replacement);
                    }
                    out.extend(
                        piece
                            .chars()
                            .map(|c| if c == ' ' { *replacement } else { c }),
                    );
                });
                if *split {
                    let pattern = Pattern::literal(replacement.encode_utf8(&mut [0; 4]));
                    self.split(&pattern, Behavior::MergedWithNext, false)?;
                }
            }
        }
        Ok(())
    }

    /// Bytes of the text by now.
    pub(crate) fn text_len(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.ranges.iter().map(|range| &self.text[range.clone()])
    }

    fn split(
        &mut self,
        pattern: &Pattern,
        behavior: Behavior,
        invert: bool,
    ) -> Result<(), TokenizerError> {
        let mut ranges = Vec::with_capacity(self.ranges.len());
        let mut cuts = Vec::new();
        for piece in &self.ranges {
            cuts.clear();
            pattern.cut(&self.text[piece.clone()], &mut cuts)?;
            for (_, is_match) in &mut cuts {
                *is_match ^= invert;
            }
            let first = ranges.len();
            behavior.collect(&cuts, &mut ranges);
            for range in &mut ranges[first..] {
                *range = range.start + piece.start..range.end + piece.start;
            }
        }
        self.ranges = ranges;
        Ok(())
    }

    /// Replaces the text of each (non-empty) piece by what `write(piece, is_first, out)` appends.
    fn rewrite(&mut self, write: impl Fn(&str, bool, &mut String)) {
        let mut text = String::with_capacity(self.text.len() + self.text.len() / 4);
        for (n, range) in self.ranges.iter_mut().enumerate() {
            let start = text.len();
            if range.start < range.end {
                write(&self.text[range.clone()], n == 0, &mut text);
            }
            *range = start..text.len();
        }
        self.text = Cow::Owned(text);
    }
}

impl Behavior {
    /// Turns alternating matches and gaps into pieces, appended to `out`; empty ones are dropped.
    fn collect(self, cuts: &[(Range<usize>, bool)], out: &mut Vec<Range<usize>>) {
        let first = out.len();
        let mut previous: Option<bool> = None;
        let reversed = self == Self::MergedWithNext;
        let ordered: &mut dyn Iterator<Item = &(Range<usize>, bool)> = if reversed {
            &mut cuts.iter().rev()
        } else {
            &mut cuts.iter()
        };
        for (range, is_match) in ordered {
            let joins = match self {
                Self::Isolated => false,
                Self::Removed => {
                    if *is_match {
                        continue;
                    }
                    false
                }
                Self::MergedWithPrevious | Self::MergedWithNext => {
                    *is_match && previous == Some(false)
                }
                Self::Contiguous => previous == Some(*is_match),
            };
            match out.last_mut() {
                Some(last) if joins && reversed => last.start = range.start,
                Some(last) if joins => last.end = range.end,
                _ => out.push(range.clone()),
            }
            previous = Some(*is_match);
        }
        if reversed {
            out[first..].reverse();
        }
        let mut n = 0;
        out.retain(|range| {
            n += 1;
            n <= first || !range.is_empty()
        });
    }
}

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern(Engine);

#[derive(Debug)]
enum Engine {
    Literal(String),
    /// Linear time. Matches of [`WHITE_SPACE_TAIL`] give their last character back.
    Linear(Box<meta::Regex>),
    Backtracking(Box<fancy_regex::Regex>),
}

/// The alternatives by which nearly all rules end.
const TAIL: &str = r"|\s+(?!\S)|\s+";

/// The second pattern of a linear engine.
const WHITE_SPACE_TAIL: PatternID = PatternID::new_unchecked(1);

/// Most memory a compiled pattern may take, in bytes: the `regex` crate's own default.
const PATTERN_SIZE_LIMIT: usize = 10 << 20;

impl Pattern {
    /// # Errors
    /// A pattern that does not compile.
    pub(crate) fn regex(source: &str) -> Result<Self, TokenizerError> {
        // Oniguruma reads `?+` and its like as possessive quantifiers; the linear engine would read a repeated
        // repetition.
        let possessive = ["?+", "*+", "++"]
            .iter()
            .any(|quantifier| source.contains(quantifier));
        if !possessive {
            let linear = match source.strip_suffix(TAIL) {
                Some(head) => compile_linear(&[head, r"\s+"]),
                None => compile_linear(&[source]),
            };
            if let Some(regex) = linear {
                return Ok(Self(Engine::Linear(Box::new(regex))));
            }
        }
        match fancy_regex::Regex::new(source) {
            Ok(regex) => Ok(Self(Engine::Backtracking(Box::new(regex)))),
            Err(error) => Err(TokenizerError::BadPattern {
                pattern: shorten(source),
                message: error.to_string(),
            }),
        }
    }

    pub(crate) fn literal(text: &str) -> Self {
        Self(Engine::Literal(text.to_owned()))
    }

    /// Appends the matches in `text` and the gaps between them, in order.
    fn cut(&self, text: &str, cuts: &mut Vec<(Range<usize>, bool)>) -> Result<(), TokenizerError> {
        let (mut done, mut from) = (0, 0);
        while from <= text.len() {
            let Some(found) = self.find(text, from)? else {
                break;
            };
            if found.start > done {
                cuts.push((done..found.start, false));
            }
            done = found.end;
            from = if found.is_empty() {
                found.end + text[found.end..].chars().next().map_or(1, char::len_utf8)
            } else {
                found.end
            };
            cuts.push((found, true));
        }
        if done < text.len() {
            cuts.push((done..text.len(), false));
        }
        Ok(())
    }

    fn find(&self, text: &str, from: usize) -> Result<Option<Range<usize>>, TokenizerError> {
        Ok(match &self.0 {
            Engine::Literal(literal) if literal.is_empty() => None,
            Engine::Literal(literal) => text[from..].find(literal.as_str()).map(|at| {
                let start = from + at;
                start..start + literal.len()
            }),
            Engine::Linear(regex) => regex.search(&Input::new(text).range(from..)).map(|found| {
                let mut range = found.range();
                if found.pattern() == WHITE_SPACE_TAIL && range.end < text.len() {
                    let last = text[range.clone()]
                        .chars()
                        .next_back()
                        .map_or(0, char::len_utf8);
                    if range.len() > last {
                        range.end -= last;
                    }
                }
                range
            }),
            Engine::Backtracking(regex) => match regex.find_from_pos(text, from) {
                Ok(found) => found.map(|found| found.start()..found.end()),
                Err(error) => {
                    return Err(TokenizerError::SplitFailed {
                        offset: from,
                        message: error.to_string(),
                    });
                }
            },
        })
    }
}

fn compile_linear(patterns: &[&str]) -> Option<meta::Regex> {
    let config = meta::Config::new().nfa_size_limit(Some(PATTERN_SIZE_LIMIT));
    meta::Builder::new()
        .configure(config)
        .build_many(patterns)
        .ok()
}

/// The pieces of punctuation as Hugging Face's `Punctuation` knows them: Unicode's and all of ASCII's.
pub(crate) const PUNCTUATION: &str = r"[\p{P}!-/:-@\[-`{-~]";

/// Spaces as SentencePiece spells them.
pub(crate) fn with_space_symbols(text: &str) -> String {
    text.replace(' ', SPACE_SYMBOL.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests;
