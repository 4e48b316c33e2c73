//! A GGUF file's tokenizer as the files of a Hugging Face directory.
//!
//! The splitting rule that GGUF names is written out, scores become ranked merges, and what is made is read again and
//! must give the same ids. The derivation of merges from scores is that of transformers' `SentencePieceExtractor`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::error::TokenizerError;
use crate::gguf_bpe::named_rule;
use crate::hf::to_gguf::{PROBE, padding_text};
use crate::repair;
use crate::token_table::{SPACE_SYMBOL, Spelling, TokenKind, TokenTable};
use crate::tokenizer::{EncodeOptions, Tokenizer, TokenizerOptions};
use crate::vocabulary::GgufVocabulary;

/// The tokenizer files of a Hugging Face directory, as JSON text.
#[derive(Debug, Clone)]
pub struct HfTokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer_json: String,
    /// `tokenizer_config.json`, with the chat template.
    pub tokenizer_config: String,
}

/// Writes the files.
///
/// # Errors
/// As [`Tokenizer::from_gguf`], and [`TokenizerError::NotConvertible`].
pub(crate) fn convert(vocabulary: &GgufVocabulary) -> Result<HfTokenizerFiles, TokenizerError> {
    let options = TokenizerOptions::default();
    let tokenizer = Tokenizer::from_gguf(vocabulary.clone(), &options)?;
    let table = &tokenizer.table;
    let unknown = vocabulary.unknown.and_then(|id| table.text(id));
    let byte_level = table.spelling() == Spelling::ByteLevel;
    let (normalizer, pre_tokenizer, decoder, model) = if byte_level {
        byte_level_parts(vocabulary, &tokenizer)?
    } else {
        score_parts(vocabulary, &tokenizer, unknown)
    };
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(table),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(&tokenizer),
        "decoder": decoder,
        "model": model,
    });
    let text = |id: Option<u32>| id.and_then(|id| table.text(id));
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    for (key, token) in [
        ("bos_token", text(tokenizer.bos)),
        ("eos_token", text(tokenizer.eos)),
        ("unk_token", unknown),
        ("pad_token", text(vocabulary.padding)),
    ] {
        config.extend(token.map(|token| (key.to_owned(), json!(token))));
    }
    if let Some(template) = &tokenizer.chat_template {
        config.insert("chat_template".into(), json!(template));
    }
    let files = HfTokenizerFiles {
        tokenizer_json: format!("{document:#}\n"),
        tokenizer_config: format!("{:#}\n", Value::Object(config)),
    };
    check(&tokenizer, &files)?;
    Ok(files)
}

/// Normalizer, pre-tokenizer, decoder and model of a byte-level vocabulary.
fn byte_level_parts(
    vocabulary: &GgufVocabulary,
    tokenizer: &Tokenizer,
) -> Result<(Value, Value, Value, Value), TokenizerError> {
    let table = &tokenizer.table;
    let name = repair::splitting_rule(
        vocabulary.pre.as_deref(),
        &vocabulary.architecture,
        table.len(),
        &TokenizerOptions::default(),
        &mut Vec::new(),
    )?;
    let (patterns, ignore_merges, composes) = named_rule(&name)?;
    let mut steps: Vec<Value> = patterns
        .iter()
        .map(|pattern| {
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
        })
        .collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    steps.push(bytes.clone());
    let merges = vocabulary.merges.iter();
    let merges: Vec<Value> = merges
        .filter_map(|merge| merge.split_once(' '))
        .map(|(left, right)| json!([left, right]))
        .collect();
    let normalizer = if composes {
        json!({ "type": "NFC" })
    } else {
        Value::Null
    };
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
        "vocab": pieces(table, |kind| kind == TokenKind::Piece), "merges": merges,
    });
    let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": steps });
    Ok((normalizer, pre_tokenizer, bytes, model))
}

/// The same of a SentencePiece vocabulary.
fn score_parts(
    vocabulary: &GgufVocabulary,
    tokenizer: &Tokenizer,
    unknown: Option<&str>,
) -> (Value, Value, Value, Value) {
    let table = &tokenizer.table;
    let space = SPACE_SYMBOL.to_string();
    let strip = matches!(
        table.spelling(),
        Spelling::SentencePiece {
            strip_first_space: true
        }
    );
    let mut normalizers = Vec::new();
    if strip {
        normalizers.push(json!({ "type": "Prepend", "prepend": space }));
    }
    normalizers.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": space }));
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": space }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if strip {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let mut vocab = pieces(table, |kind| {
        matches!(kind, TokenKind::Piece | TokenKind::Byte(_))
    });
    vocab.extend(
        unknown
            .zip(vocabulary.unknown)
            .map(|(text, id)| (text.to_owned(), json!(id))),
    );
    let byte_fallback = table
        .iter()
        .any(|(_, _, kind)| matches!(kind, TokenKind::Byte(_)));
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": false,
        "vocab": vocab, "merges": merges_of_scores(table, &vocabulary.scores),
    });
    (
        json!({ "type": "Sequence", "normalizers": normalizers }),
        Value::Null,
        json!({ "type": "Sequence", "decoders": decoders }),
        model,
    )
}

/// The vocabulary of `model`: texts and ids of the kinds that belong in it.
fn pieces(table: &TokenTable, belongs: impl Fn(TokenKind) -> bool) -> Map<String, Value> {
    table
        .iter()
        .filter(|(id, text, kind)| belongs(*kind) && *text != padding_text(*id))
        .map(|(id, text, _)| (text.to_owned(), json!(id)))
        .collect()
}

/// Every way to make a piece of two others, the pieces with the highest scores first.
fn merges_of_scores(table: &TokenTable, scores: &[f32]) -> Vec<Value> {
    let ids: HashMap<&str, u32> = table
        .iter()
        .filter(|(_, _, kind)| *kind == TokenKind::Piece)
        .map(|(id, text, _)| (text, id))
        .collect();
    let mut merges = Vec::new();
    for (id, text, kind) in table.iter() {
        if kind != TokenKind::Piece {
            continue;
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                let score = scores.get(id as usize).copied().unwrap_or_default();
                merges.push((score, (*l, *r), (left, right)));
            }
        }
    }
    let chars = |text: &str| text.chars().count();
    merges.sort_by(|(a, ids_a, (la, ra)), (b, ids_b, (lb, rb))| {
        b.total_cmp(a)
            .then_with(|| chars(lb).cmp(&chars(la)))
            .then_with(|| chars(rb).cmp(&chars(ra)))
            .then_with(|| ids_a.cmp(ids_b))
    });
    merges
        .into_iter()
        .map(|(_, _, (left, right))| json!([left, right]))
        .collect()
}

fn added_tokens(table: &TokenTable) -> Vec<Value> {
    table
        .iter()
        .filter(|(_, _, kind)| matches!(kind, TokenKind::Control | TokenKind::Added))
        .map(|(id, text, kind)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == TokenKind::Control,
            })
        })
        .collect()
}

/// BOS and EOS around every text, where they stand there.
fn post_processor(tokenizer: &Tokenizer) -> Value {
    if tokenizer.prefix.is_empty() && tokenizer.suffix.is_empty() {
        return Value::Null;
    }
    let mut special = Map::new();
    let mut side = |ids: &[u32], type_id: u32| -> Vec<Value> {
        ids.iter()
            .filter_map(|&id| {
                let text = tokenizer.table.text(id)?;
                special.insert(
                    text.to_owned(),
                    json!({ "id": text, "ids": [id], "tokens": [text] }),
                );
                Some(json!({ "SpecialToken": { "id": text, "type_id": type_id } }))
            })
            .collect()
    };
    let mut template = |type_id: u32, sequence: &str| {
        let mut pieces = side(&tokenizer.prefix, type_id);
        pieces.push(json!({ "Sequence": { "id": sequence, "type_id": type_id } }));
        pieces.extend(side(&tokenizer.suffix, type_id));
        pieces
    };
    let single = template(0, "A");
    let mut pair = single.clone();
    pair.extend(template(1, "B"));
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special })
}

/// Makes sure that the files give the ids that the section gives.
fn check(tokenizer: &Tokenizer, files: &HfTokenizerFiles) -> Result<(), TokenizerError> {
    let converted = Tokenizer::from_hf(
        files.tokenizer_json.as_bytes(),
        Some(files.tokenizer_config.as_bytes()),
        None,
        &TokenizerOptions::default(),
    )?;
    for text in ["", "a", " a", PROBE] {
        let options = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        // A small vocabulary need not have tokens for everything, in either container.
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, options).ok();
        if ids(tokenizer) != ids(&converted) {
            return Err(TokenizerError::NotConvertible {
                what: "the tokenizer",
                why: "as tokenizer.json it gives other ids".into(),
            });
        }
    }
    Ok(())
}
