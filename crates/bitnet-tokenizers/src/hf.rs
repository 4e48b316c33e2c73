//! Hugging Face directories: `tokenizer.json` with its configuration files.
//!
//! `tokenizer.json` describes a pipeline of components; those that models of the supported families use are translated
//! into this crate's own parts, and any other is refused by name. The `tokenizers` crate's own loader is not used on
//! files: it panics on some malformed ones and lets failing patterns pass. The translation is held to its ids by the
//! golden tests.

pub(crate) mod files;
mod lists;
pub(crate) mod to_gguf;
mod translate;

use std::collections::HashMap;

use crate::added_tokens::{AddedToken, AddedTokens};
use crate::bpe::{BpeConfig, BpeEncoder};
use crate::error::{TokenizerError, shorten};
use crate::repair;
use crate::token_table::{MAX_TOKENS, Spelling, TokenKind, TokenTable, byte_token};
use crate::tokenizer::{Encoder, Tokenizer, TokenizerOptions};

use files::{AddedTokenFile, ConfigFile, TokenizerFile};

/// Builds the tokenizer; see [`Tokenizer::from_hf`].
///
/// # Errors
/// As [`Tokenizer::from_hf`].
pub(crate) fn build(
    tokenizer_json: &[u8],
    tokenizer_config: Option<&[u8]>,
    special_tokens_map: Option<&[u8]>,
    options: &TokenizerOptions,
) -> Result<Tokenizer, TokenizerError> {
    let file = TokenizerFile::parse(tokenizer_json)?;
    let config = ConfigFile::parse(tokenizer_config, "tokenizer_config.json")?;
    let special = ConfigFile::parse(special_tokens_map, "special_tokens_map.json")?;

    let (normalizers, steps, spelling) =
        translate::pipeline(&file).map_err(|error| files::name_component(tokenizer_json, error))?;
    let ids = Ids::collect(&file.model.vocab.0, &file.added_tokens)?;
    let table = ids.table(spelling, file.model.byte_fallback)?;
    let added = AddedTokens::new(file.added_tokens.iter().map(added_token).collect())?;

    // The configuration's tokens win over the map's, as in transformers.
    let find = |field, text: Option<&String>| ids.find(field, text);
    let bos = match find("tokenizer_config.json: bos_token", config.bos_token())? {
        None => find("special_tokens_map.json: bos_token", special.bos_token())?,
        id => id,
    };
    let eos = match find("tokenizer_config.json: eos_token", config.eos_token())? {
        None => find("special_tokens_map.json: eos_token", special.eos_token())?,
        id => id,
    };
    let (mut prefix, mut suffix) = translate::template_ids(&file, table.len())
        .map_err(|error| files::name_component(tokenizer_json, error))?;
    place(
        &mut prefix,
        config.add_bos_token,
        bos,
        "tokenizer_config.json: bos_token",
        false,
    )?;
    place(
        &mut suffix,
        config.add_eos_token,
        eos,
        "tokenizer_config.json: eos_token",
        true,
    )?;

    let mut repairs = Vec::new();
    let chat_template = repair::chat_template(config.chat_template(), options, &mut repairs)?;
    let end_of_generation = repair::end_of_generation(&table, &[eos]);
    let model = file.model;
    let bpe = BpeConfig {
        vocab: model.vocab.0.into_iter().collect(),
        merges: model.merges.0,
        unknown: model.unk_token,
        fuse_unknown: model.fuse_unk,
        byte_fallback: model.byte_fallback,
        ignore_merges: model.ignore_merges,
    };
    Ok(Tokenizer {
        kind: "tokenizer.json BPE",
        table,
        added,
        encoder: Encoder::Bpe(Box::new(BpeEncoder {
            normalizers,
            steps,
            bpe: bpe.build()?,
        })),
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

fn added_token(token: &AddedTokenFile) -> AddedToken {
    AddedToken {
        id: token.id,
        text: token.content.clone(),
        control: token.special,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        single_word: token.single_word,
    }
}

/// Makes `ids` hold the special token or not, as the configuration says (it wins over `tokenizer.json`'s template).
fn place(
    ids: &mut Vec<u32>,
    wanted: Option<bool>,
    id: Option<u32>,
    field: &'static str,
    at_end: bool,
) -> Result<(), TokenizerError> {
    match (wanted, id) {
        (Some(true), None) => return Err(TokenizerError::Missing { field }),
        (Some(true), Some(id)) if !ids.contains(&id) => {
            let at = if at_end { ids.len() } else { 0 };
            ids.insert(at, id);
        }
        (Some(false), Some(id)) => ids.retain(|&other| other != id),
        _ => {}
    }
    Ok(())
}

/// Text of each id, and id of each text, checked to be unique.
struct Ids<'f> {
    /// `[vocab_size]`: text, and for added tokens whether they are special.
    by_id: Vec<Option<(&'f str, Option<bool>)>>,
    by_text: HashMap<&'f str, u32>,
}

impl<'f> Ids<'f> {
    fn collect(
        vocab: &'f [(String, u32)],
        added: &'f [AddedTokenFile],
    ) -> Result<Self, TokenizerError> {
        if vocab.is_empty() {
            return Err(TokenizerError::Missing {
                field: "tokenizer.json: model.vocab",
            });
        }
        let highest = vocab
            .iter()
            .map(|(_, id)| *id)
            .chain(added.iter().map(|token| token.id))
            .max();
        let n_ids = highest.map_or(0, |id| id as usize + 1);
        // Ids may have holes, but a few tokens with huge ids are no vocabulary (and would cost memory).
        let n_tokens = vocab.len() + added.len();
        let limit = MAX_TOKENS.min(n_tokens.saturating_mul(MAX_HOLES_PER_TOKEN));
        if n_ids > limit {
            let (field, id) = (
                "tokenizer.json: a token id",
                u64::from(highest.unwrap_or(0)),
            );
            return Err(TokenizerError::IdOutOfRange {
                field,
                id,
                vocab_size: n_tokens,
            });
        }
        let mut ids = Self {
            by_id: vec![None; n_ids],
            by_text: HashMap::with_capacity(n_tokens),
        };
        for (text, id) in vocab {
            ids.insert(text, *id, None)?;
        }
        for token in added {
            ids.insert(&token.content, token.id, Some(token.special))?;
        }
        Ok(ids)
    }

    fn insert(
        &mut self,
        text: &'f str,
        id: u32,
        added: Option<bool>,
    ) -> Result<(), TokenizerError> {
        match self.by_text.insert(text, id) {
            Some(other) if other != id => {
                return Err(crate::token_table::duplicate(text, other, id));
            }
            Some(_) if added.is_none() => return Err(crate::token_table::duplicate(text, id, id)),
            _ => {}
        }
        match self.by_id[id as usize] {
            Some((other, _)) if other != text => {
                return Err(TokenizerError::DuplicateId {
                    id,
                    first: shorten(other),
                    second: shorten(text),
                });
            }
            _ => self.by_id[id as usize] = Some((text, added)),
        }
        Ok(())
    }

    fn find(
        &self,
        field: &'static str,
        text: Option<&String>,
    ) -> Result<Option<u32>, TokenizerError> {
        let Some(text) = text else { return Ok(None) };
        match self.by_text.get(text.as_str()) {
            Some(id) => Ok(Some(*id)),
            None => Err(TokenizerError::UnknownToken {
                field,
                text: shorten(text),
            }),
        }
    }

    fn table(&self, spelling: Spelling, byte_fallback: bool) -> Result<TokenTable, TokenizerError> {
        let mut table = TokenTable::new(spelling);
        for entry in &self.by_id {
            match *entry {
                None => table.push("", TokenKind::Absent)?,
                Some((text, Some(true))) => table.push(text, TokenKind::Control)?,
                Some((text, Some(false))) => table.push(text, TokenKind::Added)?,
                Some((text, None)) => {
                    let byte = if byte_fallback {
                        byte_token(text)
                    } else {
                        None
                    };
                    table.push(text, byte.map_or(TokenKind::Piece, TokenKind::Byte))?;
                }
            }
        }
        Ok(table)
    }
}

/// How many ids a vocabulary may span for each token it has.
const MAX_HOLES_PER_TOKEN: usize = 16;
