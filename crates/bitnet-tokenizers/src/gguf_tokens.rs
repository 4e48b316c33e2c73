//! What both kinds of GGUF vocabularies share: the tokens with their types, and the special ids.
//!
//! Every check of hostile metadata that does not depend on the merging is here. Source: formats of the GGUF
//! specification; the treatment of token types is llama.cpp's (`src/llama-vocab.cpp`): control tokens are recognised
//! only when asked for, user-defined ones always.

use std::collections::HashMap;

use crate::added_tokens::{AddedToken, AddedTokens};
use crate::error::{TokenizerError, shorten};
use crate::repair::{self, Repair};
use crate::token_table::{MAX_TOKENS, Spelling, TokenKind, TokenTable, byte_token, duplicate};
use crate::tokenizer::{Encoder, Tokenizer, TokenizerOptions};
use crate::vocabulary::{GgufTokenType, GgufVocabulary};

/// What both kinds of GGUF vocabularies have in common once the tokens are read.
pub(crate) struct GgufParts {
    pub(crate) kind: &'static str,
    pub(crate) table: TokenTable,
    pub(crate) added: AddedTokens,
    pub(crate) repairs: Vec<Repair>,
}

/// Reads and checks the tokens, their types and the special ids.
///
/// # Errors
/// Any inconsistency between them.
pub(crate) fn read_tokens(
    vocabulary: &GgufVocabulary,
    spelling: Spelling,
    options: &TokenizerOptions,
    repairs: &mut Vec<Repair>,
) -> Result<(TokenTable, AddedTokens), TokenizerError> {
    let n_tokens = vocabulary.tokens.len();
    if n_tokens == 0 {
        return Err(TokenizerError::Missing {
            field: "tokenizer.ggml.tokens",
        });
    }
    if n_tokens > MAX_TOKENS {
        let field = "tokenizer.ggml.tokens";
        return Err(TokenizerError::TooLarge {
            field,
            found: n_tokens,
            limit: MAX_TOKENS,
        });
    }
    let check_length = |field, found| match found {
        0 => Ok(()),
        _ if found == n_tokens => Ok(()),
        _ => Err(TokenizerError::LengthMismatch {
            field,
            expected: n_tokens,
            found,
        }),
    };
    check_length("tokenizer.ggml.token_type", vocabulary.token_types.len())?;
    check_length("tokenizer.ggml.scores", vocabulary.scores.len())?;
    check_special_ids(vocabulary)?;

    let mut table = TokenTable::new(spelling);
    let mut first_with = HashMap::with_capacity(n_tokens);
    for (id, text) in vocabulary.tokens.iter().enumerate() {
        let id = id as u32;
        if !text.is_empty()
            && let Some(first) = first_with.insert(text.as_str(), id)
        {
            return Err(duplicate(text, first, id));
        }
        table.push(text, kind_of(vocabulary, id, text)?)?;
    }
    if vocabulary.token_types.is_empty() {
        assume_types(vocabulary, &mut table, options, repairs)?;
    }

    let added = table.iter().filter_map(|(id, text, kind)| match kind {
        TokenKind::Control | TokenKind::Added => {
            let control = kind == TokenKind::Control;
            Some(AddedToken {
                id,
                text: text.to_owned(),
                control,
                ..AddedToken::default()
            })
        }
        _ => None,
    });
    let added = AddedTokens::new(added.collect())?;
    Ok((table, added))
}

fn kind_of(vocabulary: &GgufVocabulary, id: u32, text: &str) -> Result<TokenKind, TokenizerError> {
    let Some(&number) = vocabulary.token_types.get(id as usize) else {
        return Ok(TokenKind::Piece);
    };
    let kind = GgufTokenType::from_number(number)
        .ok_or(TokenizerError::BadTokenType { id, found: number })?;
    Ok(match kind {
        GgufTokenType::Normal | GgufTokenType::Unused => TokenKind::Piece,
        GgufTokenType::Unknown | GgufTokenType::Control => TokenKind::Control,
        GgufTokenType::UserDefined => TokenKind::Added,
        GgufTokenType::Byte => match byte_token(text) {
            Some(byte) => TokenKind::Byte(byte),
            None => {
                return Err(TokenizerError::BadByteToken {
                    id,
                    text: shorten(text),
                });
            }
        },
    })
}

/// Without types: the declared special ids and the usual end names are control tokens, and `<0xHH>` are bytes if the
/// vocabulary spells text that way.
fn assume_types(
    vocabulary: &GgufVocabulary,
    table: &mut TokenTable,
    options: &TokenizerOptions,
    repairs: &mut Vec<Repair>,
) -> Result<(), TokenizerError> {
    let what = "tell special tokens by the declared ids and their usual names";
    repair::assume(
        repairs,
        options,
        repair::TOKEN_TYPE,
        what,
        "tokenizer.ggml.token_type is missing",
    )?;
    let bytes = matches!(table.spelling(), Spelling::SentencePiece { .. });
    let declared = [
        vocabulary.bos,
        vocabulary.eos,
        vocabulary.eot,
        vocabulary.eom,
        vocabulary.unknown,
    ];
    let kinds: Vec<(u32, TokenKind)> = table
        .iter()
        .filter_map(|(id, text, _)| match byte_token(text) {
            _ if declared.contains(&Some(id)) || repair::END_NAMES.contains(&text) => {
                Some((id, TokenKind::Control))
            }
            Some(byte) if bytes => Some((id, TokenKind::Byte(byte))),
            _ => None,
        })
        .collect();
    for (id, kind) in kinds {
        table.set_kind(id, kind);
    }
    Ok(())
}

fn check_special_ids(vocabulary: &GgufVocabulary) -> Result<(), TokenizerError> {
    let vocab_size = vocabulary.tokens.len();
    for (field, id) in [
        ("tokenizer.ggml.bos_token_id", vocabulary.bos),
        ("tokenizer.ggml.eos_token_id", vocabulary.eos),
        ("tokenizer.ggml.eot_token_id", vocabulary.eot),
        ("tokenizer.ggml.eom_token_id", vocabulary.eom),
        ("tokenizer.ggml.unknown_token_id", vocabulary.unknown),
        ("tokenizer.ggml.padding_token_id", vocabulary.padding),
    ] {
        if let Some(id) = id
            && id as usize >= vocab_size
        {
            return Err(TokenizerError::IdOutOfRange {
                field,
                id: id.into(),
                vocab_size,
            });
        }
    }
    Ok(())
}

/// Puts a tokenizer together from its checked parts.
///
/// # Errors
/// A BOS or EOS that is to be added but not declared; in strict mode, a chat template that needs a repair.
pub(crate) fn finish(
    vocabulary: GgufVocabulary,
    options: &TokenizerOptions,
    parts: GgufParts,
    adds_bos: bool,
    encoder: Encoder,
) -> Result<Tokenizer, TokenizerError> {
    let GgufParts {
        kind,
        table,
        added,
        mut repairs,
    } = parts;
    let chat_template = repair::chat_template(vocabulary.chat_template, options, &mut repairs)?;
    let GgufVocabulary { bos, eos, .. } = vocabulary;
    let prefix = around(
        vocabulary.add_bos,
        adds_bos,
        bos,
        "tokenizer.ggml.bos_token_id",
    )?;
    let suffix = around(
        vocabulary.add_eos,
        false,
        eos,
        "tokenizer.ggml.eos_token_id",
    )?;
    let end_of_generation =
        repair::end_of_generation(&table, &[eos, vocabulary.eot, vocabulary.eom]);
    Ok(Tokenizer {
        kind,
        table,
        added,
        encoder,
        prefix,
        suffix,
        bos,
        eos,
        end_of_generation,
        chat_template,
        repairs,
        reach: Default::default(),
    })
}

/// The ids to put at one end of every text: none, or the declared one if it is `wanted` (or, where the file is silent,
/// usual).
fn around(
    wanted: Option<bool>,
    usual: bool,
    id: Option<u32>,
    field: &'static str,
) -> Result<Vec<u32>, TokenizerError> {
    match (wanted, id) {
        (Some(true), None) => Err(TokenizerError::Missing { field }),
        (Some(true), Some(id)) => Ok(vec![id]),
        (None, Some(id)) if usual => Ok(vec![id]),
        _ => Ok(Vec::new()),
    }
}
