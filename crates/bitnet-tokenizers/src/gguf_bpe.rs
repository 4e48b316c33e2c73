//! GGUF vocabularies of the kind `gpt2`: byte-level BPE.
//!
//! GGUF stores tokens and merges but, of the splitting rule, only a name (`tokenizer.ggml.pre`); the rules behind the
//! names are llama.cpp's (`src/llama-vocab.cpp`), which took them from the models' `tokenizer.json`. Known here are
//! those that ternary models use.

use std::collections::HashMap;

use crate::bpe::{BpeConfig, BpeEncoder, Normalizer};
use crate::error::{TokenizerError, shorten};
use crate::gguf_tokens::{GgufParts, finish, read_tokens};
use crate::repair;
use crate::split::{Behavior, Pattern, Step};
use crate::token_table::{Spelling, TokenKind};
use crate::tokenizer::{Encoder, Tokenizer, TokenizerOptions};
use crate::vocabulary::GgufVocabulary;

/// LLaMA-3's rule. `tokenizer.json` of Llama-3, and of BitNet b1.58 2B-4T.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen2's rule: LLaMA-3's with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-2's rule, also what Hugging Face's `ByteLevel` applies by itself.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A named splitting rule.
struct SplittingRule {
    /// Names in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Applied in order, each inside the pieces of the one before.
    patterns: &'static [&'static str],
    /// Whether whole pieces are looked up before merging.
    ignore_merges: bool,
    /// Whether BOS is added when `tokenizer.ggml.add_bos_token` is silent.
    adds_bos: bool,
    /// Whether the models' tokenizers compose characters (NFC) first.
    composes: bool,
}

const RULES: [SplittingRule; 7] = [
    SplittingRule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        adds_bos: true,
        composes: false,
    },
    // Falcon3 publishes BOS ids that its tokenizer does not use: none is added unless the file says so.
    SplittingRule {
        names: &["falcon3", "falcon-h1", "falcon_e"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        adds_bos: false,
        composes: false,
    },
    SplittingRule {
        names: &["smaug-bpe", "dbrx"],
        patterns: &[LLAMA3],
        ignore_merges: false,
        adds_bos: false,
        composes: false,
    },
    SplittingRule {
        names: &["qwen2", "deepseek-r1-qwen"],
        patterns: &[QWEN2],
        ignore_merges: false,
        adds_bos: false,
        composes: true,
    },
    SplittingRule {
        names: &[
            "gpt-2", "gpt2", "mpt", "olmo", "phi-2", "jina-es", "jina-de",
        ],
        patterns: &[GPT2],
        ignore_merges: false,
        adds_bos: false,
        composes: false,
    },
    SplittingRule {
        names: &["starcoder", "smollm", "refact", "command-r"],
        patterns: &[r"\p{N}", GPT2],
        ignore_merges: false,
        adds_bos: false,
        composes: false,
    },
    SplittingRule {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        adds_bos: false,
        composes: false,
    },
];

/// `falcon_e` is a name that only one fork's converter writes; that its rule is Falcon3's is not documented.
const UNDOCUMENTED_RULE: &str = "falcon_e";

impl SplittingRule {
    fn find(name: &str) -> Result<&'static Self, TokenizerError> {
        RULES
            .iter()
            .find(|rule| rule.names.contains(&name))
            .ok_or_else(|| {
                let known: Vec<&str> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
                TokenizerError::UnknownPreTokenizer {
                    name: shorten(name),
                    known: known.join(", "),
                }
            })
    }

    fn steps(&self) -> Result<Vec<Step>, TokenizerError> {
        let split = |source: &&str| {
            let pattern = Pattern::regex(source)?;
            Ok(Step::Split {
                pattern,
                behavior: Behavior::Isolated,
                invert: false,
            })
        };
        let mut steps: Vec<Step> = self
            .patterns
            .iter()
            .map(split)
            .collect::<Result<_, TokenizerError>>()?;
        steps.push(Step::SpellBytes);
        Ok(steps)
    }
}

/// The name of the rule with these patterns, and whether it composes characters; one that composes them or not as
/// wanted where there is a choice.
pub(crate) fn rule_name(
    patterns: &[String],
    ignore_merges: bool,
    composes: bool,
) -> Option<(&'static str, bool)> {
    let same = |rule: &&SplittingRule| {
        rule.ignore_merges == ignore_merges && rule.patterns.iter().copied().eq(patterns)
    };
    let rule = RULES
        .iter()
        .filter(same)
        .max_by_key(|rule| (rule.composes == composes, rule.adds_bos))?;
    Some((rule.names[0], rule.composes))
}

/// The patterns of a named rule, whether whole pieces are looked up before merging, and whether it composes characters.
///
/// # Errors
/// A name that is not known.
pub(crate) fn named_rule(
    name: &str,
) -> Result<(&'static [&'static str], bool, bool), TokenizerError> {
    let rule = SplittingRule::find(name)?;
    Ok((rule.patterns, rule.ignore_merges, rule.composes))
}

/// Builds the tokenizer of a `gpt2` vocabulary.
///
/// # Errors
/// Any inconsistency of the vocabulary; in strict mode, the need of a repair.
pub(crate) fn build(
    vocabulary: GgufVocabulary,
    options: &TokenizerOptions,
) -> Result<Tokenizer, TokenizerError> {
    let mut repairs = Vec::new();
    let (table, added) = read_tokens(&vocabulary, Spelling::ByteLevel, options, &mut repairs)?;

    let name = repair::splitting_rule(
        vocabulary.pre.as_deref(),
        &vocabulary.architecture,
        table.len(),
        options,
        &mut repairs,
    )?;
    let rule = SplittingRule::find(&name)?;
    if name == UNDOCUMENTED_RULE {
        let why =
            "tokenizer.ggml.pre is `falcon_e`, whose rule is only in the model's tokenizer.json";
        repair::assume(
            &mut repairs,
            options,
            repair::PRE,
            "split text as Falcon3 (LLaMA-3's rule)",
            why,
        )?;
    }

    let mut config = BpeConfig {
        ignore_merges: rule.ignore_merges,
        ..BpeConfig::default()
    };
    let mut by_text = HashMap::with_capacity(table.len());
    for (id, text, kind) in table.iter() {
        // Special tokens are no pieces of text: neither merging nor whole-piece look-up may produce one.
        if kind != TokenKind::Control && !text.is_empty() {
            by_text.insert(text.to_owned(), id);
        }
    }
    config.vocab = by_text;
    config.merges = read_merges(&vocabulary.merges)?;
    let encoder = BpeEncoder {
        normalizers: if rule.composes {
            vec![Normalizer::Nfc]
        } else {
            Vec::new()
        },
        steps: rule.steps()?,
        bpe: config.build()?,
    };
    let parts = GgufParts {
        kind: "GGUF gpt2 (byte-level BPE)",
        table,
        added,
        repairs,
    };
    finish(
        vocabulary,
        options,
        parts,
        rule.adds_bos,
        Encoder::Bpe(Box::new(encoder)),
    )
}

/// Splits rules `left right` at their one space.
fn read_merges(merges: &[String]) -> Result<Vec<(String, String)>, TokenizerError> {
    let split = |(index, rule): (usize, &String)| match rule.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(TokenizerError::BadMerge {
            index,
            text: shorten(rule),
            reason: "is not two texts with a space between",
        }),
    };
    merges.iter().enumerate().map(split).collect()
}
