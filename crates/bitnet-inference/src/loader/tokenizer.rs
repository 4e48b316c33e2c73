//! From a checkpoint, or a file of its own, to a tokenizer with the chat template that counts.

use std::path::Path;
use std::sync::Arc;

use bitnet_models::mmap::Access;
use bitnet_models::{Checkpoint, ModelError, TokenizerSource};
use bitnet_tokenizers::{GgufVocabulary, SentencePieceFiles, Tokenizer, TokenizerOptions};

use super::LoadOptions;
use crate::error::Error;
use crate::shared_tokenizers;

/// The tokenizer that `options` want for a checkpoint; that of another model, if it is the same.
pub(crate) fn load_tokenizer(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
) -> Result<Option<Arc<Tokenizer>>, Error> {
    let strict = TokenizerOptions {
        strict: options.strict_tokenizers,
    };
    let with_template = |mut tokenizer: Tokenizer| {
        if let Some(template) = &options.chat_template {
            tokenizer.set_chat_template(Some(template.clone()));
        }
        tokenizer
    };
    if let Some(path) = &options.tokenizer {
        let opened = tokenizer_at(path, &strict, options.checkpoint.access)?;
        return Ok(Some(Arc::new(with_template(opened))));
    }
    let source = checkpoint.tokenizer_source()?;
    let own_template = own_template(checkpoint, &source)?;
    let parts = (
        &source,
        &own_template,
        strict.strict,
        &options.chat_template,
    );
    let digested = shared_tokenizers::digest(&parts);
    shared_tokenizers::find_or(digested, || {
        let made = with_own_template(source, own_template, &strict)?;
        Ok(made.map(with_template))
    })
}

/// The tokenizer that comes with a checkpoint, with the checkpoint's chat template; `None` when it has none.
///
/// # Errors
/// [`Error::Model`] when its files cannot be read, [`Error::Tokenizer`] when they make no tokenizer.
pub fn checkpoint_tokenizer(
    checkpoint: &Checkpoint,
    options: &TokenizerOptions,
) -> Result<Option<Tokenizer>, Error> {
    let source = checkpoint.tokenizer_source()?;
    let own_template = own_template(checkpoint, &source)?;
    with_own_template(source, own_template, options)
}

/// A directory may keep its template in a file of its own. That of a GGUF file is in its vocabulary, where the
/// tokenizer repairs known mistakes: it must not be replaced by the original.
fn own_template(
    checkpoint: &Checkpoint,
    source: &TokenizerSource,
) -> Result<Option<String>, ModelError> {
    match source {
        TokenizerSource::Hf { .. } | TokenizerSource::SentencePiece { .. } => {
            checkpoint.chat_template()
        }
        TokenizerSource::Gguf(_) | TokenizerSource::Missing => Ok(None),
    }
}

fn with_own_template(
    source: TokenizerSource,
    own_template: Option<String>,
    options: &TokenizerOptions,
) -> Result<Option<Tokenizer>, Error> {
    let mut tokenizer = from_source(source, options)?;
    if let (Some(tokenizer), Some(template)) = (&mut tokenizer, own_template) {
        tokenizer.set_chat_template(Some(template));
    }
    Ok(tokenizer)
}

/// Opens a tokenizer by itself: a `tokenizer.json` (its neighbours `tokenizer_config.json` and
/// `special_tokens_map.json` are read too), a folder that holds one, or the vocabulary of a GGUF file.
///
/// # Errors
/// [`Error::Model`] when the file cannot be read, [`Error::Tokenizer`] when it is of no use, [`Error::NoTokenizer`]
/// for a folder or a GGUF file without one.
pub fn open_tokenizer(path: &Path, options: &TokenizerOptions) -> Result<Tokenizer, Error> {
    tokenizer_at(path, options, Access::Map)
}

fn tokenizer_at(
    path: &Path,
    options: &TokenizerOptions,
    access: Access,
) -> Result<Tokenizer, Error> {
    let source = TokenizerSource::open(path, access)?;
    from_source(source, options)?.ok_or_else(|| Error::NoTokenizer {
        model: path.display().to_string(),
    })
}

fn from_source(
    source: TokenizerSource,
    options: &TokenizerOptions,
) -> Result<Option<Tokenizer>, Error> {
    Ok(match source {
        TokenizerSource::Gguf(vocabulary) => Some(Tokenizer::from_gguf(*vocabulary, options)?),
        TokenizerSource::Hf {
            tokenizer_json,
            tokenizer_config,
            special_tokens_map,
        } => Some(Tokenizer::from_hf(
            &tokenizer_json,
            tokenizer_config.as_deref(),
            special_tokens_map.as_deref(),
            options,
        )?),
        TokenizerSource::SentencePiece {
            model,
            tokenizer_config,
            special_tokens_map,
            added_tokens,
        } => {
            let vocabulary = GgufVocabulary::from_sentencepiece(&SentencePieceFiles {
                model: &model,
                tokenizer_config: tokenizer_config.as_deref(),
                special_tokens_map: special_tokens_map.as_deref(),
                added_tokens: added_tokens.as_deref(),
            })?;
            Some(Tokenizer::from_gguf(vocabulary, options)?)
        }
        TokenizerSource::Missing => None,
    })
}
