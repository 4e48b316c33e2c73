//! The tokenizer: text to token ids and back.
//!
//! Encoding cuts the text at added and special tokens, gives each remaining segment to the encoder of the vocabulary's
//! kind, and puts BOS and EOS around the result if asked to. Decoding concatenates the bytes of the tokens; it never
//! depends on how the text was split, so any sequence of ids has a text.

use crate::added_tokens::{AddedTokens, Segment};
use crate::bpe::BpeEncoder;
use crate::decode_stream::DecodeStream;
use crate::error::TokenizerError;
use crate::gguf_spm::ScoreEncoder;
use crate::reach::Reach;
use crate::repair::{self, Repair};
use crate::token_table::{Spelling, TokenKind, TokenTable};
use crate::vocabulary::GgufVocabulary;

/// How a vocabulary is to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Refuse every vocabulary that could only be used with a guess ([`Repair`]).
    pub strict: bool,
}

/// How one text is to be encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put BOS (and EOS) around the ids if the tokenizer says so.
    pub add_special: bool,
    /// Recognise special tokens such as `<|eot_id|>` in the text; otherwise they are text like any other. Set it for
    /// rendered chat templates only: text of strangers must not end a turn.
    pub parse_special: bool,
}

/// A vocabulary ready for use. Cheap to share behind an `Arc`; every method takes `&self` and may run on many threads.
#[derive(Debug)]
pub struct Tokenizer {
    pub(crate) kind: &'static str,
    pub(crate) table: TokenTable,
    pub(crate) added: AddedTokens,
    pub(crate) encoder: Encoder,
    /// Ids put before every encoded text (BOS), and behind it (EOS).
    pub(crate) prefix: Vec<u32>,
    pub(crate) suffix: Vec<u32>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    /// Sorted.
    pub(crate) end_of_generation: Vec<u32>,
    pub(crate) chat_template: Option<String>,
    pub(crate) repairs: Vec<Repair>,
    pub(crate) reach: Reach,
}

/// What turns a segment of text into ids.
#[derive(Debug)]
pub(crate) enum Encoder {
    /// Merges by rank, on split text.
    Bpe(Box<BpeEncoder>),
    /// Merges by score, on the whole segment.
    Scores(Box<ScoreEncoder>),
}

/// Where a segment stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentStart {
    /// At the very beginning.
    Text,
    /// After a control token.
    Control,
    /// After other text, an added token being text too.
    Middle,
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// # Errors
    /// An unsupported or inconsistent vocabulary; in strict mode, one that needs a [`Repair`].
    pub fn from_gguf(
        vocabulary: GgufVocabulary,
        options: &TokenizerOptions,
    ) -> Result<Self, TokenizerError> {
        match vocabulary.model.as_str() {
            "gpt2" => crate::gguf_bpe::build(vocabulary, options),
            "llama" => crate::gguf_spm::build(vocabulary, options),
            _ => Err(TokenizerError::UnsupportedModel {
                found: vocabulary.model,
                supported: "gpt2, llama",
            }),
        }
    }

    /// Builds the tokenizer of a Hugging Face directory from the contents of `tokenizer.json` and, where they exist,
    /// `tokenizer_config.json` and `special_tokens_map.json`. A `chat_template.jinja` overrides the configuration's
    /// template: give it to [`Tokenizer::set_chat_template`].
    ///
    /// # Errors
    /// Malformed JSON, or a component that is not supported.
    pub fn from_hf(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&[u8]>,
        special_tokens_map: Option<&[u8]>,
        options: &TokenizerOptions,
    ) -> Result<Self, TokenizerError> {
        crate::hf::build(
            tokenizer_json,
            tokenizer_config,
            special_tokens_map,
            options,
        )
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// A character without tokens in a vocabulary without an unknown token, or a splitting pattern that gives up.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        self.encode_within(text, options, usize::MAX)
    }

    /// The ids of `text`, or of its beginning: what comes behind more than `most` ids is not looked at, as far as the
    /// vocabulary's rules can tell where it begins. Whoever gets more than `most` knows that there are too many.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_within(
        &self,
        text: &str,
        options: EncodeOptions,
        most: usize,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend_from_slice(&self.prefix);
        }
        let mut start = SegmentStart::Text;
        for segment in self.added.segments(text, options.parse_special) {
            if ids.len() > most {
                return Ok(ids);
            }
            match segment {
                Segment::Text(part) => {
                    match &self.encoder {
                        Encoder::Bpe(bpe) => bpe.encode(part, start, most, &mut ids)?,
                        Encoder::Scores(scores) => scores.encode(part, start, &mut ids)?,
                    }
                    start = SegmentStart::Middle;
                }
                Segment::Token { id, control } => {
                    let begins_text = !control && start != SegmentStart::Middle;
                    if let Encoder::Scores(scores) = &self.encoder
                        && begins_text
                    {
                        // The space before a text comes before its first token too.
                        scores.encode("", start, &mut ids)?;
                    }
                    ids.push(id);
                    start = if control {
                        SegmentStart::Control
                    } else {
                        SegmentStart::Middle
                    };
                }
            }
        }
        if options.add_special {
            ids.extend_from_slice(&self.suffix);
        }
        Ok(ids)
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD. With `skip_special`, control tokens have no text.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let bytes = self.bytes_of(ids, skip_special)?;
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// The bytes of `ids`, control tokens as their text. Unlike [`Tokenizer::decode`] nothing is replaced.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>, TokenizerError> {
        self.bytes_of(ids, false)
    }

    /// Decodes ids as they are generated, continuing the text of `prompt_ids`: what the stream yields, put behind the
    /// prompt's text, is the text of the whole.
    ///
    /// # Errors
    /// A prompt id outside the vocabulary.
    pub fn decode_stream(
        &self,
        prompt_ids: &[u32],
        skip_special: bool,
    ) -> Result<DecodeStream<'_>, TokenizerError> {
        DecodeStream::new(self, prompt_ids, skip_special)
    }

    /// Ids run from 0 to below this. Models may have more rows than that (padding): those ids have no text.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text. Generation ends on more than this one: [`Tokenizer::end_of_generation`].
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether [`EncodeOptions::add_special`] puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.bos.is_some_and(|bos| self.prefix.contains(&bos))
    }

    /// The tokens that [`EncodeOptions::add_special`] puts behind a text; empty for most models that generate.
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// The ids that end generation, sorted: EOS, end of turn, end of message, and the tokens with their usual names.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// Whether `id` is a control token: one that is never the text of a user.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.kind(id) == Some(TokenKind::Control)
    }

    /// The token as the vocabulary spells it (`Ġhello`, `▁hello`, `<0x0A>`); `None` outside the vocabulary and for ids
    /// without a token.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.table.text(id)
    }

    /// What had to be guessed to use this vocabulary; empty for a well-made one.
    pub fn repairs(&self) -> &[Repair] {
        &self.repairs
    }

    /// One line for `inspect`: where the vocabulary came from and how it merges.
    pub fn kind(&self) -> &str {
        self.kind
    }

    /// The chat template's source, for [`crate::ChatTemplate`].
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Replaces the chat template (by `chat_template.jinja` of a Hugging Face directory, or the user's).
    pub fn set_chat_template(&mut self, source: Option<String>) {
        self.chat_template = source;
        // Whatever was assumed about the former one is of no consequence now.
        self.repairs.retain(|r| r.field != repair::CHAT_TEMPLATE);
    }

    /// Whether a text starts with a space that the encoder put there.
    pub(crate) fn strips_first_space(&self) -> bool {
        self.table.spelling()
            == Spelling::SentencePiece {
                strip_first_space: true,
            }
    }

    fn bytes_of(&self, ids: &[u32], skip_special: bool) -> Result<Vec<u8>, TokenizerError> {
        let mut bytes = Vec::new();
        let mut space_to_strip = self.strips_first_space();
        for &id in ids {
            self.append_token(id, skip_special, &mut space_to_strip, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Appends the bytes of the next token of a text. `space_to_strip` holds until the first token with text.
    pub(crate) fn append_token(
        &self,
        id: u32,
        skip_special: bool,
        space_to_strip: &mut bool,
        out: &mut Vec<u8>,
    ) -> Result<(), TokenizerError> {
        let control = self.is_special(id);
        if control && skip_special {
            return Ok(());
        }
        let start = out.len();
        self.table.append_bytes(id, out)?;
        if *space_to_strip && !control && out.len() > start {
            *space_to_strip = false;
            if out[start] == b' ' {
                out.remove(start);
            }
        }
        Ok(())
    }
}
