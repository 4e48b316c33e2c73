//! SentencePiece's own file: `tokenizer.model`, which directories from before `tokenizer.json` have alone.
//!
//! It is a protocol buffer: pieces with scores and types, whose numbers GGUF has taken over, then how the model was
//! trained and how text is normalised before it. Only BPE models with an identity normalisation are read, which is what
//! models of the LLaMA family have; others would give other ids and are refused by name. Tokens that transformers adds
//! behind the pieces are in the JSON files beside it. Source: sentencepiece `src/sentencepiece_model.proto`;
//! transformers' `tokenization_llama.py` for the neighbours.

mod wire;

use std::collections::BTreeMap;

use serde::Deserialize;

use self::wire::{Field, Fields};
use crate::error::{TokenizerError, shorten};
use crate::hf::files::ConfigFile;
use crate::token_table::{MAX_TOKEN_BYTES, MAX_TOKENS};
use crate::vocabulary::{GgufTokenType, GgufVocabulary};

/// The name of the file, for messages.
const FILE: &str = "tokenizer.model";
/// Score of tokens that are no pieces: below every piece's, as llama.cpp's converter has it.
const ADDED_SCORE: f32 = -1000.0;
/// `TrainerSpec.ModelType` of BPE.
const BPE: u64 = 2;

/// A `tokenizer.model` with the contents of the files beside it, where they exist.
#[derive(Debug, Clone, Copy, Default)]
pub struct SentencePieceFiles<'a> {
    /// `tokenizer.model`.
    pub model: &'a [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a [u8]>,
}

/// Reads the vocabulary; see [`GgufVocabulary::from_sentencepiece`].
pub(crate) fn read(files: &SentencePieceFiles<'_>) -> Result<GgufVocabulary, TokenizerError> {
    let model = Model::parse(files.model)?;
    let config = ConfigFile::parse(files.tokenizer_config, "tokenizer_config.json")?;
    let special = ConfigFile::parse(files.special_tokens_map, "special_tokens_map.json")?;
    let mut vocabulary = GgufVocabulary {
        model: "llama".into(),
        tokens: model.pieces,
        scores: model.scores,
        token_types: model.types,
        add_bos: config.add_bos_token,
        add_eos: config.add_eos_token,
        add_space_prefix: Some(model.add_dummy_prefix),
        chat_template: config.chat_template(),
        ..GgufVocabulary::default()
    };
    add_tokens(&mut vocabulary, &added_tokens(files)?)?;
    // The configuration's tokens win over the map's, as in transformers, and both over the model's ids.
    let find =
        |names: [Option<&String>; 2], [field, id]: [&'static str; 2], stored: i64| match names
            .into_iter()
            .flatten()
            .next()
        {
            Some(text) => {
                let position = vocabulary.tokens.iter().position(|token| token == text);
                let unknown = || TokenizerError::UnknownToken {
                    field,
                    text: shorten(text),
                };
                position.map(|id| Some(id as u32)).ok_or_else(unknown)
            }
            None if stored < 0 => Ok(None),
            None if (stored as usize) < vocabulary.tokens.len() => Ok(Some(stored as u32)),
            None => Err(TokenizerError::IdOutOfRange {
                field: id,
                id: stored as u64,
                vocab_size: vocabulary.tokens.len(),
            }),
        };
    let [unknown, bos, eos, padding] = model.special;
    let ids = [
        find(
            [config.unk_token(), special.unk_token()],
            ["unk_token", "tokenizer.model: unk_id"],
            unknown,
        )?,
        find(
            [config.bos_token(), special.bos_token()],
            ["bos_token", "tokenizer.model: bos_id"],
            bos,
        )?,
        find(
            [config.eos_token(), special.eos_token()],
            ["eos_token", "tokenizer.model: eos_id"],
            eos,
        )?,
        find(
            [config.pad_token(), special.pad_token()],
            ["pad_token", "tokenizer.model: pad_id"],
            padding,
        )?,
    ];
    [
        vocabulary.unknown,
        vocabulary.bos,
        vocabulary.eos,
        vocabulary.padding,
    ] = ids;
    Ok(vocabulary)
}

/// What is read of a `ModelProto`.
struct Model {
    pieces: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    /// Ids of the unknown, first, last and padding token; below 0: none.
    special: [i64; 4],
    add_dummy_prefix: bool,
}

impl Model {
    fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut model = Self {
            pieces: Vec::new(),
            scores: Vec::new(),
            types: Vec::new(),
            special: [0, 1, 2, -1], // the defaults of TrainerSpec
            add_dummy_prefix: true,
        };
        let mut kind = 1; // TrainerSpec's default, unigram
        for field in Fields::of(bytes, 0) {
            match field? {
                Field::Bytes(1, piece, at) => model.add_piece(piece, at)?,
                Field::Bytes(2, trainer, at) => {
                    for field in Fields::of(trainer, at) {
                        match field? {
                            Field::Varint(3, value) => kind = value,
                            // Negative numbers are written as 64 bits in two's complement.
                            Field::Varint(number @ 40..=43, value) => {
                                model.special[number as usize - 40] = value as i64;
                            }
                            _ => {}
                        }
                    }
                }
                Field::Bytes(3, normalizer, at) => model.read_normalizer(normalizer, at)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(TokenizerError::Missing {
                field: "tokenizer.model: pieces",
            });
        }
        if kind != BPE {
            let found = match kind {
                1 => "SentencePiece unigram".into(),
                3 => "SentencePiece word".into(),
                4 => "SentencePiece char".into(),
                other => format!("SentencePiece type {other}"),
            };
            return Err(TokenizerError::UnsupportedModel {
                found,
                supported: "SentencePiece BPE",
            });
        }
        Ok(model)
    }

    fn add_piece(&mut self, bytes: &[u8], at: usize) -> Result<(), TokenizerError> {
        let id = self.pieces.len() as u32;
        if self.pieces.len() == MAX_TOKENS {
            return Err(TokenizerError::TooLarge {
                field: "tokenizer.model: pieces",
                found: MAX_TOKENS + 1,
                limit: MAX_TOKENS,
            });
        }
        let (mut text, mut score, mut ty) = ("", 0.0, GgufTokenType::Normal.number());
        for field in Fields::of(bytes, at) {
            match field? {
                Field::Bytes(1, piece, at) => {
                    text = std::str::from_utf8(piece).map_err(|_| TokenizerError::Damaged {
                        file: FILE,
                        offset: at,
                        expected: "a piece in UTF-8",
                    })?;
                }
                Field::Fixed32(2, bytes) => score = f32::from_le_bytes(bytes),
                Field::Varint(3, value) => ty = i32::try_from(value).unwrap_or(i32::MAX),
                _ => {}
            }
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenizerError::TokenTooLong {
                id,
                found: text.len(),
                limit: MAX_TOKEN_BYTES,
            });
        }
        self.pieces.push(text.to_owned());
        self.scores.push(score);
        self.types.push(ty);
        Ok(())
    }

    /// Refuses what would change a text before it is taken apart.
    fn read_normalizer(&mut self, bytes: &[u8], at: usize) -> Result<(), TokenizerError> {
        let (mut name, mut rules) = (String::new(), 0);
        let (mut trims, mut escapes) = (true, true); // NormalizerSpec's defaults
        for field in Fields::of(bytes, at) {
            match field? {
                Field::Bytes(1, text, _) => name = String::from_utf8_lossy(text).into_owned(),
                Field::Bytes(2, map, _) => rules = map.len(),
                Field::Varint(3, value) => self.add_dummy_prefix = value != 0,
                Field::Varint(4, value) => trims = value != 0,
                Field::Varint(5, value) => escapes = value != 0,
                _ => {}
            }
        }
        let refuse = |found: String| {
            Err(TokenizerError::Unsupported {
                place: "tokenizer.model: normalizer_spec",
                found,
            })
        };
        if rules > 0 {
            return refuse(shorten(&name));
        }
        if trims {
            return refuse("remove_extra_whitespaces".into());
        }
        if !escapes {
            return refuse("spaces that are not escaped".into());
        }
        Ok(())
    }
}

/// A token that stands behind the pieces, or is one of them under a rule of its own.
struct Added {
    text: String,
    special: bool,
}

/// Added tokens by id, of `tokenizer_config.json` or, from before those were there, of `added_tokens.json`.
fn added_tokens(files: &SentencePieceFiles<'_>) -> Result<BTreeMap<u32, Added>, TokenizerError> {
    #[derive(Deserialize, Default)]
    struct Decoder {
        #[serde(default)]
        added_tokens_decoder: BTreeMap<u32, Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        content: String,
        #[serde(default)]
        special: bool,
    }
    let mut added = BTreeMap::new();
    if let Some(json) = files.added_tokens {
        let tokens: BTreeMap<String, u32> = json_of("added_tokens.json", json)?;
        for (text, id) in tokens {
            let special = false;
            if let Some(first) = added.insert(
                id,
                Added {
                    text: text.clone(),
                    special,
                },
            ) {
                return Err(TokenizerError::DuplicateId {
                    first: shorten(&first.text),
                    second: shorten(&text),
                    id,
                });
            }
        }
    }
    if let Some(json) = files.tokenizer_config {
        let decoder: Decoder = json_of("tokenizer_config.json", json)?;
        for (id, Entry { content, special }) in decoder.added_tokens_decoder {
            let text = content;
            added.insert(id, Added { text, special });
        }
    }
    Ok(added)
}

fn json_of<'a, T: Deserialize<'a>>(
    file: &'static str,
    json: &'a [u8],
) -> Result<T, TokenizerError> {
    serde_json::from_slice(json).map_err(|error| TokenizerError::Json {
        file,
        message: error.to_string(),
    })
}

/// Puts the added tokens into their places.
fn add_tokens(
    vocabulary: &mut GgufVocabulary,
    added: &BTreeMap<u32, Added>,
) -> Result<(), TokenizerError> {
    let n_pieces = vocabulary.tokens.len();
    for (&id, Added { text, special }) in added {
        let ty = match special {
            true => GgufTokenType::Control,
            false => GgufTokenType::UserDefined,
        };
        let at = id as usize;
        if at < n_pieces {
            // `<unk>`, `<s>` and `</s>` are pieces with types of their own; others are recognised as wholes.
            if vocabulary.tokens[at] != *text {
                return Err(TokenizerError::DuplicateId {
                    first: shorten(&vocabulary.tokens[at]),
                    second: shorten(text),
                    id,
                });
            }
            if vocabulary.token_types[at] == GgufTokenType::Normal.number() {
                vocabulary.token_types[at] = ty.number();
            }
            continue;
        }
        // Ids in between are rows of the embedding that no token has; a jump beyond them is damage.
        if at >= MAX_TOKENS || at - vocabulary.tokens.len() > MAX_GAP {
            return Err(TokenizerError::IdOutOfRange {
                field: "added token",
                id: id.into(),
                vocab_size: vocabulary.tokens.len(),
            });
        }
        vocabulary.pad_to(at);
        vocabulary.tokens.push(text.clone());
        vocabulary.scores.push(ADDED_SCORE);
        vocabulary.token_types.push(ty.number());
    }
    Ok(())
}

/// Most ids that may be left out before an added token.
const MAX_GAP: usize = 1 << 12;
