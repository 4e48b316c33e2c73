//! A Hugging Face tokenizer as the tokenizer section of a GGUF file.
//!
//! GGUF has tokens, types, merges or scores, and of the splitting rule only a name, so not every `tokenizer.json` has a
//! counterpart. What is made here is read again and must give the same ids for a text that has something of everything;
//! a tokenizer that cannot be expressed is refused, never approximated. Source of the keys' meanings: llama.cpp's
//! `src/llama-vocab.cpp` and gguf-py's `vocab.py`.

use std::collections::HashMap;

use super::files::{
    BehaviorFile, ConfigFile, NormalizerFile, PatternFile, PreTokenizerFile, TokenizerFile,
};
use crate::error::{TokenizerError, shorten};
use crate::gguf_bpe::{GPT2, rule_name};
use crate::token_table::{Spelling, TokenKind};
use crate::tokenizer::{EncodeOptions, Tokenizer, TokenizerOptions};
use crate::vocabulary::{GgufTokenType, GgufVocabulary};

/// A vocabulary made from other files, and what it could not take over.
#[derive(Debug, Clone)]
pub struct ConvertedVocabulary {
    /// The tokenizer section.
    pub vocabulary: GgufVocabulary,
    /// What the files say and the section cannot, in sentences.
    pub losses: Vec<String>,
}

/// Something of everything that splitting rules treat apart.
pub(crate) const PROBE: &str = "Hello, world! It's the year's 1st test: we'LL see 1234567 items at $3.14 (50%).\n\
    \tfn main() {\n        println!(\"{}\", x_1 != y && 2 <= 0xFF);\n    }\r\n\r\n\n  three  spaces   here    \n\
    \u{dc}bergr\u{f6}\u{df}e na\u{ef}ve \u{e9}t\u{e9} \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{4f60}\u{597d}\u{4e16}\
    \u{754c} \u{3053}\u{3093}\u{306b}\u{3061}\u{306f} \u{645}\u{631}\u{62d}\u{628}\u{627} \u{1f600}\u{1f469}\u{200d}\
    \u{1f4bb} \u{221e}\u{2260} a\u{a0}b \u{663}\u{664}\u{665} e.g. http://example.org/?q=a+b&c=d#e \
    CamelCase ALLCAPS ...---... \u{2014} \u{201c}quoted\u{201d} end ";

/// Makes the tokenizer section of a directory's files. `ends` are the ids that end a generation, from
/// `generation_config.json`, and `bos` its first id where the tokenizer names none.
///
/// # Errors
/// As [`Tokenizer::from_hf`], and [`TokenizerError::NotConvertible`].
pub(crate) fn convert(
    tokenizer_json: &[u8],
    tokenizer_config: Option<&[u8]>,
    special_tokens_map: Option<&[u8]>,
    ends: &[u32],
    bos: Option<u32>,
) -> Result<ConvertedVocabulary, TokenizerError> {
    let options = TokenizerOptions::default();
    let tokenizer = super::build(
        tokenizer_json,
        tokenizer_config,
        special_tokens_map,
        &options,
    )?;
    let file = TokenizerFile::parse(tokenizer_json)?;
    let config = ConfigFile::parse(tokenizer_config, "tokenizer_config.json")?;
    let special = ConfigFile::parse(special_tokens_map, "special_tokens_map.json")?;
    let mut losses = Vec::new();
    let mut vocabulary = tokens(&tokenizer, &file, &config, &special, &mut losses);
    match tokenizer.table.spelling() {
        Spelling::ByteLevel => {
            vocabulary.model = "gpt2".into();
            vocabulary.pre = Some(splitting_rule(&file, &mut losses)?.into());
            let merges = file.model.merges.0.iter();
            vocabulary.merges = merges
                .map(|(left, right)| format!("{left} {right}"))
                .collect();
        }
        Spelling::SentencePiece { .. } => {
            vocabulary.model = "llama".into();
            vocabulary.scores = scores(&tokenizer, &file.model.merges.0);
            vocabulary.add_space_prefix = Some(adds_space(&file));
        }
    }
    special_ids(&tokenizer, &mut vocabulary, ends, bos, &mut losses)?;
    vocabulary
        .chat_template
        .clone_from(&tokenizer.chat_template);
    check(&tokenizer, vocabulary.clone())?;
    Ok(ConvertedVocabulary { vocabulary, losses })
}

/// Texts and types of all ids, and the ids of the unknown and the padding token.
fn tokens(
    tokenizer: &Tokenizer,
    file: &TokenizerFile,
    config: &ConfigFile,
    special: &ConfigFile,
    losses: &mut Vec<String>,
) -> GgufVocabulary {
    let table = &tokenizer.table;
    let mut vocabulary = GgufVocabulary::default();
    let unknown = file.model.unk_token.as_deref();
    let unknown = unknown.or(config
        .unk_token()
        .or(special.unk_token())
        .map(String::as_str));
    let padding = config.pad_token().or(special.pad_token());
    let spells_pieces = table.spelling() != Spelling::ByteLevel;
    for id in 0..table.len() as u32 {
        let text = table.text(id).unwrap_or_default();
        let ty = match table.kind(id).unwrap_or(TokenKind::Absent) {
            TokenKind::Absent => GgufTokenType::Unused,
            _ if spells_pieces && unknown == Some(text) => GgufTokenType::Unknown,
            TokenKind::Control => GgufTokenType::Control,
            TokenKind::Added => GgufTokenType::UserDefined,
            TokenKind::Byte(_) => GgufTokenType::Byte,
            TokenKind::Piece => GgufTokenType::Normal,
        };
        if unknown == Some(text) {
            vocabulary.unknown = Some(id);
        }
        if padding.is_some_and(|padding| padding == text) {
            vocabulary.padding = Some(id);
        }
        vocabulary.tokens.push(match ty {
            GgufTokenType::Unused => padding_text(id),
            _ => text.to_owned(),
        });
        vocabulary.token_types.push(ty.number());
    }
    let strip =
        |token: &&super::files::AddedTokenFile| token.lstrip || token.rstrip || token.single_word;
    if let Some(token) = file.added_tokens.iter().find(strip) {
        losses.push(format!(
            "the added token {} takes white space beside it with it, or stands for whole words only",
            shorten(&token.content)
        ));
    }
    vocabulary
}

/// What gguf-py calls an id without a token.
pub(crate) fn padding_text(id: u32) -> String {
    format!("[PAD{id}]")
}

/// The name of the splitting rule.
fn splitting_rule(
    file: &TokenizerFile,
    losses: &mut Vec<String>,
) -> Result<&'static str, TokenizerError> {
    let refuse = |why: String| TokenizerError::NotConvertible {
        what: "the pre_tokenizer",
        why,
    };
    let mut composes = false;
    if let Some(normalizer) = &file.normalizer {
        match normalizer {
            NormalizerFile::Nfc => composes = true,
            NormalizerFile::Sequence { normalizers } if normalizers.is_empty() => {}
            other => {
                let why = format!("the normalizer {other:?} has no key");
                return Err(TokenizerError::NotConvertible {
                    what: "the normalizer",
                    why: shorten(&why),
                });
            }
        }
    }
    let mut patterns = Vec::new();
    if let Some(pre_tokenizer) = &file.pre_tokenizer {
        collect_patterns(pre_tokenizer, &mut patterns).map_err(refuse)?;
    }
    let (name, rule_composes) = rule_name(&patterns, file.model.ignore_merges, composes)
        .ok_or_else(|| refuse("no name of tokenizer.ggml.pre stands for this rule".into()))?;
    if rule_composes != composes {
        losses.push(format!(
            "the tokenizer composes characters (NFC) first: {composes}; its rule {name}: {rule_composes}"
        ));
    }
    Ok(name)
}

/// The patterns by which text is cut, one inside the pieces of the other.
fn collect_patterns(pre_tokenizer: &PreTokenizerFile, out: &mut Vec<String>) -> Result<(), String> {
    match pre_tokenizer {
        PreTokenizerFile::Sequence { pretokenizers } => pretokenizers
            .iter()
            .try_for_each(|inner| collect_patterns(inner, out)),
        PreTokenizerFile::ByteLevel {
            add_prefix_space: false,
            use_regex,
        } => {
            out.extend(use_regex.then(|| GPT2.to_owned()));
            Ok(())
        }
        PreTokenizerFile::Split {
            pattern: PatternFile::Regex(source),
            behavior: BehaviorFile::Isolated,
            invert: false,
        } => {
            out.push(source.clone());
            Ok(())
        }
        PreTokenizerFile::Digits {
            individual_digits: true,
        } => {
            out.push(r"\p{N}".into());
            Ok(())
        }
        other => Err(shorten(&format!("{other:?} is in no rule that has a name"))),
    }
}

/// SentencePiece merges by score; the first merge that makes a piece tells how early it is made.
fn scores(tokenizer: &Tokenizer, merges: &[(String, String)]) -> Vec<f32> {
    let mut rank_of: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        rank_of.entry(format!("{left}{right}")).or_insert(rank);
    }
    let table = &tokenizer.table;
    let score = |id: u32| match table.kind(id) {
        Some(TokenKind::Piece) => {
            let rank = rank_of.get(table.text(id).unwrap_or_default());
            -(*rank.unwrap_or(&merges.len()) as f32) - 1.0
        }
        _ => 0.0,
    };
    (0..table.len() as u32).map(score).collect()
}

/// Whether text gets a space in front that is not its own.
fn adds_space(file: &TokenizerFile) -> bool {
    fn prepends(normalizer: &NormalizerFile) -> bool {
        match normalizer {
            NormalizerFile::Sequence { normalizers } => normalizers.iter().any(prepends),
            NormalizerFile::Prepend { .. } => true,
            _ => false,
        }
    }
    fn splits_off(pre_tokenizer: &PreTokenizerFile) -> bool {
        match pre_tokenizer {
            PreTokenizerFile::Sequence { pretokenizers } => pretokenizers.iter().any(splits_off),
            PreTokenizerFile::Metaspace(metaspace) => {
                super::translate::prepend(metaspace) != crate::split::Prepend::Never
            }
            _ => false,
        }
    }
    file.normalizer.as_ref().is_some_and(prepends)
        || file.pre_tokenizer.as_ref().is_some_and(splits_off)
}

/// BOS, EOS and the other ends, and which of them stand around every text.
fn special_ids(
    tokenizer: &Tokenizer,
    vocabulary: &mut GgufVocabulary,
    ends: &[u32],
    bos: Option<u32>,
    losses: &mut Vec<String>,
) -> Result<(), TokenizerError> {
    let one = |ids: &[u32], what| match *ids {
        [] => Ok(None),
        [id] => Ok(Some(id)),
        _ => Err(TokenizerError::NotConvertible {
            what,
            why: format!("{} tokens stand there, GGUF has one", ids.len()),
        }),
    };
    let known = |id: &u32| (*id as usize) < vocabulary.tokens.len();
    let before = one(&tokenizer.prefix, "what is put before every text")?;
    let behind = one(&tokenizer.suffix, "what is put behind every text")?;
    vocabulary.bos = before.or(tokenizer.bos).or(bos.filter(known));
    let mut ends = ends.iter().copied().filter(known);
    vocabulary.eos = behind.or(tokenizer.eos).or_else(|| ends.next());
    vocabulary.add_bos = Some(before.is_some());
    vocabulary.add_eos = Some(behind.is_some());
    let eos = vocabulary.eos;
    let mut further: Vec<u32> = Vec::new();
    for id in ends.chain(tokenizer.eos) {
        if Some(id) != eos && !further.contains(&id) {
            further.push(id);
        }
    }
    vocabulary.eot = further.first().copied();
    vocabulary.eom = further.get(1).copied();
    if further.len() > 2 {
        losses.push(format!(
            "{} tokens end a generation, GGUF names three of them",
            further.len() + 1
        ));
    }
    Ok(())
}

/// Makes sure that the section gives the ids that the files give.
fn check(tokenizer: &Tokenizer, vocabulary: GgufVocabulary) -> Result<(), TokenizerError> {
    let converted = Tokenizer::from_gguf(vocabulary, &TokenizerOptions::default())?;
    for text in ["", "a", " a", PROBE] {
        let options = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        let (expected, found) = match (
            tokenizer.encode(text, options),
            converted.encode(text, options),
        ) {
            (Ok(expected), Ok(found)) => (expected, found),
            // A small vocabulary need not have tokens for everything, in either container.
            (Err(_), Err(_)) => continue,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        if expected != found {
            let same = expected.iter().zip(&found).take_while(|(a, b)| a == b);
            let at = tokenizer.decode(&expected[..same.count()], false)?;
            let tail: String = at.chars().rev().take(20).collect();
            let tail: String = tail.chars().rev().collect();
            return Err(TokenizerError::NotConvertible {
                what: "the tokenizer",
                why: format!("read as GGUF it gives other ids behind {tail:?}"),
            });
        }
    }
    Ok(())
}
