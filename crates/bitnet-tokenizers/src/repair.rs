//! The rules by which incomplete vocabularies are made usable, and the set of tokens that end generation.
//!
//! Published files have known faults: the official BitNet b1.58 2B-4T GGUF names no splitting rule and carries its
//! converter's placeholder for a chat template. Each rule here names what it assumes and why; strict mode turns the
//! assumption into an error instead.

use crate::error::TokenizerError;
use crate::token_table::{TokenKind, TokenTable};
use crate::tokenizer::TokenizerOptions;
use crate::vocabulary::{GgufTokenType, GgufVocabulary};

/// Names the splitting rule.
pub(crate) const PRE: &str = "tokenizer.ggml.pre";
/// Tells special tokens and bytes from text.
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
/// The chat template; Hugging Face files keep theirs elsewhere, under the same rules.
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// One assumption that made a vocabulary usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The metadata key (as GGUF names it) that is missing, empty or wrong.
    pub field: &'static str,
    /// What was assumed.
    pub what: String,
    /// What in the file made it necessary.
    pub why: String,
}

/// Notes an assumption, or refuses it in strict mode.
///
/// # Errors
/// [`TokenizerError::Guess`] in strict mode.
pub(crate) fn assume(
    repairs: &mut Vec<Repair>,
    options: &TokenizerOptions,
    field: &'static str,
    what: impl Into<String>,
    why: impl Into<String>,
) -> Result<(), TokenizerError> {
    let (what, why) = (what.into(), why.into());
    if options.strict {
        return Err(TokenizerError::Guess { what, why });
    }
    repairs.push(Repair { field, what, why });
    Ok(())
}

/// The vocabulary size of LLaMA-3 and of the models that took its vocabulary over, special tokens included.
const LLAMA3_VOCAB_SIZE: usize = 128_256;

/// Microsoft's names for the architecture of BitNet b1.58 2B-4T, whose tokenizer is LLaMA-3's.
const BITNET_ARCHITECTURES: [&str; 2] = ["bitnet-b1.58", "bitnet-25"];

/// The splitting rule to use for a byte-level vocabulary: `pre` as written unless it says nothing.
///
/// # Errors
/// [`TokenizerError::Guess`] in strict mode if it says nothing.
pub(crate) fn splitting_rule(
    pre: Option<&str>,
    architecture: &str,
    vocab_size: usize,
    options: &TokenizerOptions,
    repairs: &mut Vec<Repair>,
) -> Result<String, TokenizerError> {
    let bitnet = BITNET_ARCHITECTURES.contains(&architecture);
    let said = match pre {
        Some(name) if name != "default" && !name.is_empty() => return Ok(name.to_owned()),
        Some(name) => format!("tokenizer.ggml.pre is `{name}`"),
        None => "tokenizer.ggml.pre is missing".to_owned(),
    };
    if bitnet || vocab_size == LLAMA3_VOCAB_SIZE {
        let sign = if bitnet {
            format!("the architecture {architecture} has LLaMA-3's tokenizer")
        } else {
            format!("a vocabulary of {LLAMA3_VOCAB_SIZE} tokens is LLaMA-3's")
        };
        assume(
            repairs,
            options,
            PRE,
            "split text as LLaMA-3 (`llama-bpe`)",
            format!("{said}; {sign}"),
        )?;
        return Ok("llama-bpe".to_owned());
    }
    if pre.is_none_or(str::is_empty) {
        assume(
            repairs,
            options,
            PRE,
            "split text by llama.cpp's `default` rule",
            said,
        )?;
    }
    Ok("default".to_owned())
}

/// The converter's placeholder is recognised by this word; no real template of a BitNet model has it.
const PLACEHOLDER_MARK: &str = "BITNETAssistant";

/// The documented chat format of BitNet b1.58 2B-4T: `Role: content<|eot_id|>`, ending in `Assistant: `.
pub(crate) const BITNET_CHAT_TEMPLATE: &str = "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}\
{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

/// The chat template to use: the file's own unless it is the placeholder.
///
/// # Errors
/// [`TokenizerError::Guess`] in strict mode for the placeholder.
pub(crate) fn chat_template(
    template: Option<String>,
    options: &TokenizerOptions,
    repairs: &mut Vec<Repair>,
) -> Result<Option<String>, TokenizerError> {
    match template {
        Some(source) if source.contains(PLACEHOLDER_MARK) => {
            assume(
                repairs,
                options,
                CHAT_TEMPLATE,
                "use the documented chat format of BitNet b1.58 2B-4T",
                "tokenizer.chat_template is the converter's placeholder (`BITNETAssistant`)",
            )?;
            Ok(Some(BITNET_CHAT_TEMPLATE.to_owned()))
        }
        other => Ok(other),
    }
}

/// What a repaired copy of a file says in its tokenizer section; `None`: what is there may stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairedKeys {
    /// `tokenizer.ggml.pre`.
    pub pre: Option<String>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
}

/// What is wrong with the section and known better. A splitting rule that nothing points to is not written: it would
/// look like knowledge.
pub(crate) fn repaired_keys(vocabulary: &GgufVocabulary) -> RepairedKeys {
    // Not strict, so that nothing that may be guessed is an error.
    let (options, mut repairs) = (TokenizerOptions { strict: false }, Vec::new());
    let mut keys = RepairedKeys::default();
    if vocabulary.model == "gpt2" {
        let rule = splitting_rule(
            vocabulary.pre.as_deref(),
            &vocabulary.architecture,
            vocabulary.tokens.len(),
            &options,
            &mut repairs,
        );
        let known = |rule: &String| rule != "default" && vocabulary.pre.as_ref() != Some(rule);
        keys.pre = rule.ok().filter(known);
    }
    let template = chat_template(vocabulary.chat_template.clone(), &options, &mut repairs);
    let changed = |template: &String| vocabulary.chat_template.as_ref() != Some(template);
    keys.chat_template = template.ok().flatten().filter(changed);
    let named = |name: &str| {
        let special =
            [GgufTokenType::Control, GgufTokenType::UserDefined].map(GgufTokenType::number);
        let is_special = |id: &usize| {
            vocabulary
                .token_types
                .get(*id)
                .is_some_and(|ty| special.contains(ty))
        };
        let mut ids = (0..vocabulary.tokens.len()).filter(|&id| vocabulary.tokens[id] == name);
        ids.find(is_special).map(|id| id as u32)
    };
    let valid = |id: &u32| (*id as usize) < vocabulary.tokens.len();
    let eos = vocabulary.eos.filter(valid);
    if eos.is_none() {
        keys.eos = END_NAMES.iter().find_map(|name| named(name));
    }
    let declared = [eos, keys.eos, vocabulary.eom];
    if vocabulary.eot.filter(valid).is_none() {
        let turn_end = TURN_END_NAMES.iter().find_map(|name| named(name));
        keys.eot = turn_end.filter(|id| !declared.contains(&Some(*id)));
    }
    keys
}

/// Those of [`END_NAMES`] that end a turn of a conversation and not a text.
const TURN_END_NAMES: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

/// The names under which tokens end a turn or a text, whatever a file's metadata says: instruction-tuned LLaMA-3
/// descendants stop at `<|eot_id|>` although their EOS is `<|end_of_text|>`.
pub(crate) const END_NAMES: [&str; 6] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
];

/// The ids that end generation: `declared` ones and the added or special tokens with one of [`END_NAMES`] (an ordinary
/// piece of text may be spelled `</s>`, in vocabularies that know HTML). Sorted.
pub(crate) fn end_of_generation(table: &TokenTable, declared: &[Option<u32>]) -> Vec<u32> {
    let named = table.iter().filter(|(_, text, kind)| {
        matches!(kind, TokenKind::Control | TokenKind::Added) && END_NAMES.contains(text)
    });
    let mut ids: Vec<u32> = named
        .map(|(id, ..)| id)
        .chain(declared.iter().flatten().copied())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> GgufVocabulary {
        GgufVocabulary {
            model: "gpt2".into(),
            architecture: "bitnet-b1.58".into(),
            tokens: ["a", "</s>", "<|end_of_text|>", "<|eot_id|>"]
                .map(String::from)
                .to_vec(),
            token_types: vec![1, 1, 3, 3],
            eos: Some(2),
            chat_template: Some("{{ 'BITNETAssistant: ' }}".into()),
            ..GgufVocabulary::default()
        }
    }

    #[test]
    fn the_faults_of_the_published_file_have_repairs() {
        let keys = repaired_keys(&vocabulary());
        assert_eq!(keys.pre.as_deref(), Some("llama-bpe"));
        assert_eq!(keys.chat_template.as_deref(), Some(BITNET_CHAT_TEMPLATE));
        assert_eq!((keys.eos, keys.eot), (None, Some(3)));
    }

    #[test]
    fn what_is_right_or_unknown_stays() {
        let right = GgufVocabulary {
            pre: Some("llama-bpe".into()),
            eot: Some(3),
            chat_template: Some("hello".into()),
            ..vocabulary()
        };
        assert_eq!(repaired_keys(&right), RepairedKeys::default());
        // Nothing points to a rule.
        let unknown = GgufVocabulary {
            pre: None,
            architecture: "llama".into(),
            ..right
        };
        assert_eq!(repaired_keys(&unknown).pre, None);
    }

    #[test]
    fn an_end_that_no_token_has_is_found_by_name() {
        // `</s>` is an ordinary piece here, so the turn's end it is, once.
        for eos in [None, Some(4)] {
            let keys = repaired_keys(&GgufVocabulary {
                eos,
                ..vocabulary()
            });
            assert_eq!((keys.eos, keys.eot), (Some(3), None));
        }
    }
}
