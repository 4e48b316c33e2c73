//! From the components of `tokenizer.json` to this crate's parts.

use super::files::{
    BehaviorFile, DecoderFile, MetaspaceFile, NormalizerFile, OTHER, PatternFile,
    PostProcessorFile, PreTokenizerFile, PrependFile, TemplatePieceFile, TokenizerFile,
};
use crate::bpe::Normalizer;
use crate::error::{TokenizerError, shorten};
use crate::gguf_bpe::GPT2;
use crate::split::{Behavior, PUNCTUATION, Pattern, Prepend, Step};
use crate::token_table::{SPACE_SYMBOL, Spelling};

fn unsupported(place: &'static str, found: impl Into<String>) -> TokenizerError {
    TokenizerError::Unsupported {
        place,
        found: found.into(),
    }
}

/// Normalizers, splitting steps, and how the tokens spell text.
///
/// # Errors
/// A component that is not supported, or a pattern that does not compile.
pub(super) fn pipeline(
    file: &TokenizerFile,
) -> Result<(Vec<Normalizer>, Vec<Step>, Spelling), TokenizerError> {
    let mut normalizers = Vec::new();
    if let Some(normalizer) = &file.normalizer {
        add_normalizer(normalizer, &mut normalizers)?;
    }
    let mut steps = Vec::new();
    if let Some(pre_tokenizer) = &file.pre_tokenizer {
        add_steps(pre_tokenizer, &mut steps)?;
    }
    Ok((normalizers, steps, spelling(file)?))
}

/// The decoder says how the tokens spell text.
///
/// # Errors
/// A decoder that is neither byte-level nor SentencePiece's, or one that contradicts the pre-tokenizer.
fn spelling(file: &TokenizerFile) -> Result<Spelling, TokenizerError> {
    let mut decoders = Vec::new();
    if let Some(decoder) = &file.decoder {
        flatten_decoder(decoder, &mut decoders);
    }
    let spells_bytes = file.pre_tokenizer.as_ref().is_some_and(has_byte_level);
    match decoders.as_slice() {
        [DecoderFile::ByteLevel] if spells_bytes => return Ok(Spelling::ByteLevel),
        [DecoderFile::ByteLevel] => {
            return Err(unsupported(
                "pre_tokenizer",
                "none that is ByteLevel, though the decoder is",
            ));
        }
        _ if spells_bytes => {
            return Err(unsupported(
                "decoder",
                "none that is ByteLevel, though the pre_tokenizer is",
            ));
        }
        [] => return Err(unsupported("decoder", "null")),
        _ => {}
    }
    let (mut spaces, mut strip_first_space) = (false, false);
    for decoder in decoders {
        match decoder {
            DecoderFile::ByteFallback | DecoderFile::Fuse => {}
            DecoderFile::Replace {
                pattern: PatternFile::String(from),
                content,
            } if from.chars().eq([SPACE_SYMBOL]) && content == " " => {
                spaces = true;
            }
            DecoderFile::Strip {
                content,
                start: 1,
                stop: 0,
            } if content == " " => strip_first_space = true,
            DecoderFile::Metaspace(metaspace) if metaspace.replacement == SPACE_SYMBOL => {
                spaces = true;
                strip_first_space = prepend(metaspace) != Prepend::Never;
            }
            DecoderFile::Other => return Err(unsupported("decoder", OTHER)),
            other => return Err(unsupported("decoder", shorten(&format!("{other:?}")))),
        }
    }
    if !spaces {
        return Err(unsupported("decoder", "none that restores spaces"));
    }
    Ok(Spelling::SentencePiece { strip_first_space })
}

fn flatten_decoder<'f>(decoder: &'f DecoderFile, out: &mut Vec<&'f DecoderFile>) {
    match decoder {
        DecoderFile::Sequence { decoders } => decoders
            .iter()
            .for_each(|inner| flatten_decoder(inner, out)),
        other => out.push(other),
    }
}

fn has_byte_level(pre_tokenizer: &PreTokenizerFile) -> bool {
    match pre_tokenizer {
        PreTokenizerFile::Sequence { pretokenizers } => pretokenizers.iter().any(has_byte_level),
        PreTokenizerFile::ByteLevel { .. } => true,
        _ => false,
    }
}

fn add_normalizer(
    normalizer: &NormalizerFile,
    out: &mut Vec<Normalizer>,
) -> Result<(), TokenizerError> {
    out.push(match normalizer {
        NormalizerFile::Sequence { normalizers } => {
            return normalizers
                .iter()
                .try_for_each(|inner| add_normalizer(inner, out));
        }
        NormalizerFile::Nfc => Normalizer::Nfc,
        NormalizerFile::Nfd => Normalizer::Nfd,
        NormalizerFile::Nfkc => Normalizer::Nfkc,
        NormalizerFile::Nfkd => Normalizer::Nfkd,
        NormalizerFile::Lowercase => Normalizer::Lowercase,
        NormalizerFile::Prepend { prepend } => Normalizer::Prepend(prepend.clone()),
        NormalizerFile::Replace {
            pattern: PatternFile::String(from),
            content,
        } if !from.is_empty() => Normalizer::Replace {
            from: from.clone(),
            to: content.clone(),
        },
        NormalizerFile::Replace { pattern, .. } => {
            return Err(unsupported(
                "normalizer Replace",
                shorten(&format!("{pattern:?}")),
            ));
        }
        NormalizerFile::Other => return Err(unsupported("normalizer", OTHER)),
    });
    Ok(())
}

fn add_steps(pre_tokenizer: &PreTokenizerFile, out: &mut Vec<Step>) -> Result<(), TokenizerError> {
    let split = |pattern, behavior, invert| Step::Split {
        pattern,
        behavior,
        invert,
    };
    match pre_tokenizer {
        PreTokenizerFile::Sequence { pretokenizers } => {
            pretokenizers
                .iter()
                .try_for_each(|inner| add_steps(inner, out))?;
        }
        PreTokenizerFile::ByteLevel {
            add_prefix_space,
            use_regex,
        } => {
            if *add_prefix_space {
                out.push(Step::PrefixSpace);
            }
            if *use_regex {
                out.push(split(Pattern::regex(GPT2)?, Behavior::Isolated, false));
            }
            out.push(Step::SpellBytes);
        }
        PreTokenizerFile::Split {
            pattern,
            behavior,
            invert,
        } => {
            let pattern = match pattern {
                PatternFile::String(literal) => Pattern::literal(literal),
                PatternFile::Regex(source) => Pattern::regex(source)?,
            };
            out.push(split(pattern, (*behavior).into(), *invert));
        }
        PreTokenizerFile::Digits { individual_digits } => {
            let source = if *individual_digits {
                r"\p{N}"
            } else {
                r"\p{N}+"
            };
            out.push(split(Pattern::regex(source)?, Behavior::Isolated, false));
        }
        PreTokenizerFile::Punctuation { behavior } => {
            out.push(split(
                Pattern::regex(PUNCTUATION)?,
                (*behavior).into(),
                false,
            ));
        }
        PreTokenizerFile::Metaspace(metaspace) => out.push(Step::Metaspace {
            replacement: metaspace.replacement,
            prepend: prepend(metaspace),
            split: metaspace.split.unwrap_or(true),
        }),
        PreTokenizerFile::Other => return Err(unsupported("pre_tokenizer", OTHER)),
    }
    Ok(())
}

pub(super) fn prepend(metaspace: &MetaspaceFile) -> Prepend {
    match (metaspace.prepend_scheme, metaspace.add_prefix_space) {
        (Some(PrependFile::Always), _) | (None, None | Some(true)) => Prepend::Always,
        (Some(PrependFile::First), _) => Prepend::First,
        (Some(PrependFile::Never), _) | (None, Some(false)) => Prepend::Never,
    }
}

impl From<BehaviorFile> for Behavior {
    fn from(behavior: BehaviorFile) -> Self {
        match behavior {
            BehaviorFile::Isolated => Self::Isolated,
            BehaviorFile::Removed => Self::Removed,
            BehaviorFile::MergedWithPrevious => Self::MergedWithPrevious,
            BehaviorFile::MergedWithNext => Self::MergedWithNext,
            BehaviorFile::Contiguous => Self::Contiguous,
        }
    }
}

/// The ids that the post-processor puts before and behind a text.
///
/// # Errors
/// A post-processor that is not supported, or one that names tokens which do not exist.
pub(super) fn template_ids(
    file: &TokenizerFile,
    vocab_size: usize,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    if let Some(processor) = &file.post_processor {
        add_template_ids(processor, vocab_size, &mut prefix, &mut suffix)?;
    }
    Ok((prefix, suffix))
}

fn add_template_ids(
    processor: &PostProcessorFile,
    vocab_size: usize,
    prefix: &mut Vec<u32>,
    suffix: &mut Vec<u32>,
) -> Result<(), TokenizerError> {
    match processor {
        PostProcessorFile::Sequence { processors } => {
            for inner in processors {
                // A later processor wraps what the earlier ones made.
                let (mut before, mut after) = (Vec::new(), Vec::new());
                add_template_ids(inner, vocab_size, &mut before, &mut after)?;
                before.append(prefix);
                *prefix = before;
                suffix.append(&mut after);
            }
        }
        // It only moves offsets, which nobody here asks for.
        PostProcessorFile::ByteLevel => {}
        PostProcessorFile::TemplateProcessing {
            single,
            special_tokens,
        } => {
            let mut seen_text = false;
            for piece in single {
                match piece {
                    TemplatePieceFile::Sequence { id } if id == "A" && !seen_text => {
                        seen_text = true
                    }
                    TemplatePieceFile::Sequence { id } => {
                        return Err(unsupported("post_processor.single: sequence", shorten(id)));
                    }
                    TemplatePieceFile::SpecialToken { id } => {
                        let field = "tokenizer.json: post_processor.special_tokens";
                        let token =
                            special_tokens
                                .get(id)
                                .ok_or_else(|| TokenizerError::UnknownToken {
                                    field,
                                    text: shorten(id),
                                })?;
                        if let Some(&id) = token.ids.iter().find(|id| **id as usize >= vocab_size) {
                            return Err(TokenizerError::IdOutOfRange {
                                field,
                                id: id.into(),
                                vocab_size,
                            });
                        }
                        if seen_text {
                            &mut *suffix
                        } else {
                            &mut *prefix
                        }
                        .extend_from_slice(&token.ids);
                    }
                }
            }
            if !seen_text {
                return Err(unsupported(
                    "post_processor.single",
                    "a template without the text",
                ));
            }
        }
        PostProcessorFile::Other => return Err(unsupported("post_processor", OTHER)),
    }
    Ok(())
}
