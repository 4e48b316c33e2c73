//! Fields that clients send and this server does not honour: refused by name, or taken because they change nothing.
//!
//! A field of another server's interface that is left out here is ignored like any unknown one, so what would change an
//! answer has its row. Sources: OpenAI's API reference; the extra parameters of vLLM's and llama.cpp's servers.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::Fields;

/// A field that is refused, unless its value asks for nothing.
pub struct RefusedField {
    /// Its name.
    pub name: &'static str,
    /// Why it is refused.
    pub why: &'static str,
    /// Whether a value asks for nothing.
    pub is_harmless: fn(&Value) -> bool,
}

const fn row(
    name: &'static str,
    why: &'static str,
    is_harmless: fn(&Value) -> bool,
) -> RefusedField {
    RefusedField {
        name,
        why,
        is_harmless,
    }
}

const NOT_CONSTRAINED: &str = "this server does not constrain what a model writes";
const NO_TOOLS: &str = "this server does not call tools";
const TEXT_ONLY: &str = "this server reads and writes text only";
const OTHER_FILTER: &str = "there are temperature, top_k, top_p, min_p and penalties";
const SERVER_TEMPLATE: &str = "the server chooses the template";

/// Refused wherever text is generated.
pub const GENERATION: &[RefusedField] = &[
    row("response_format", NOT_CONSTRAINED, |v| v["type"] == "text"),
    row("structured_outputs", NOT_CONSTRAINED, never),
    row("guided_json", NOT_CONSTRAINED, never),
    row("guided_regex", NOT_CONSTRAINED, never),
    row("guided_choice", NOT_CONSTRAINED, never),
    row("guided_grammar", NOT_CONSTRAINED, never),
    row("grammar", NOT_CONSTRAINED, |v| v == ""),
    row("json_schema", NOT_CONSTRAINED, never),
    row("bad_words", "forbid tokens by logit_bias", is_empty_list),
    row("allowed_token_ids", "forbid tokens by logit_bias", never),
    row("min_tokens", "forbid the end by ignore_eos", |v| v == 0),
    row(
        "include_stop_str_in_output",
        "stop strings are never shown",
        is_false,
    ),
    row(
        "skip_special_tokens",
        "special tokens are never shown",
        is_true,
    ),
    row(
        "return_tokens_as_token_ids",
        "return_token_ids tells the ids",
        is_false,
    ),
    row("use_beam_search", "texts are sampled", is_false),
    row("length_penalty", "texts are sampled", is_one),
    row("typical_p", OTHER_FILTER, is_one),
    row("tfs_z", OTHER_FILTER, is_one),
    row("mirostat", OTHER_FILTER, is_zero),
    row("xtc_probability", OTHER_FILTER, is_zero),
    row("dry_multiplier", OTHER_FILTER, is_zero),
    row("dynatemp_range", OTHER_FILTER, is_zero),
    row("samplers", "filters have one order", never),
    row("n_probs", "ask for logprobs", is_zero),
    row("n_predict", "ask for max_tokens", never),
    row(
        "t_max_predict_ms",
        "the header X-Request-Timeout limits the time",
        is_zero,
    ),
    row("do_sample", "ask for temperature 0", is_true),
    row("logits_processors", OTHER_FILTER, is_empty_list),
    row(
        "cache_salt",
        "the server keeps the caches of its keys apart by salts of its own",
        never,
    ),
];

/// Refused in conversations.
pub const CHAT: &[RefusedField] = &[
    row("tools", NO_TOOLS, is_empty_list),
    row("functions", NO_TOOLS, is_empty_list),
    row("tool_choice", NO_TOOLS, |v| v == "none" || v == "auto"),
    row("function_call", NO_TOOLS, |v| v == "none" || v == "auto"),
    row("audio", TEXT_ONLY, never),
    row("modalities", TEXT_ONLY, |v| *v == json!(["text"])),
    row("prediction", "this server takes no predictions", never),
    row("web_search_options", "this server asks no other", never),
    row(
        "reasoning_effort",
        "these models do not reason apart from their answer",
        |v| v == "none",
    ),
    row("verbosity", "answers are as the model writes them", |v| {
        v == "medium"
    }),
    row("store", "this server keeps no answers", is_false),
    row(
        "prompt_cache_retention",
        "the prefix cache keeps what there is room for",
        |v| v == "in_memory" || v == "in-memory",
    ),
    row("echo", "only /v1/completions repeats its prompt", is_false),
    row("chat_template", SERVER_TEMPLATE, never),
    row(
        "chat_template_kwargs",
        "templates take no arguments",
        is_empty_object,
    ),
    row("add_generation_prompt", SERVER_TEMPLATE, is_true),
    row("continue_final_message", SERVER_TEMPLATE, is_false),
    row("documents", TEXT_ONLY, is_empty_list),
];

/// Refused by `/v1/completions`.
pub const COMPLETIONS: &[RefusedField] = &[
    row(
        "suffix",
        "these models only continue a text, they do not fill in",
        |v| v == "",
    ),
    row(
        "add_special_tokens",
        "send token ids to lay out the prompt to the last token",
        is_true,
    ),
    row(
        "prompt_embeds",
        "prompts are texts or token ids",
        is_empty_list,
    ),
];

/// Refused by `/v1/inference`, where a request has one answer.
pub const INFERENCE: &[RefusedField] = &[
    row(
        "n",
        "one text is written: /v1/completions writes several",
        is_one,
    ),
    row("logprobs", "/v1/completions tells probabilities", |v| {
        is_false(v)
    }),
    row(
        "prompt_logprobs",
        "/v1/completions tells probabilities",
        never,
    ),
    row("echo", "only /v1/completions repeats its prompt", is_false),
    row("return_token_ids", "/v1/completions tells ids", is_false),
    row(
        "stream_options",
        "the event `complete` always tells usage",
        is_empty_object,
    ),
];

/// Refused by `/v1/inference` alone.
pub const WHOLE_INFERENCE: &[RefusedField] =
    &[row("stream", "/v1/inference/stream streams", is_false)];

/// Refused by `/v1/inference/stream` alone.
pub const STREAMED_INFERENCE: &[RefusedField] =
    &[row("stream", "/v1/inference answers at once", is_true)];

/// Refused by `/v1/embeddings`.
pub const EMBEDDINGS: &[RefusedField] = &[
    row("truncate", "send texts that fit into the context", is_false),
    row(
        "truncate_prompt_tokens",
        "send texts that fit into the context",
        never,
    ),
    row("normalize", "vectors have length 1", is_true),
];

/// Refused by `/v1/rerank`.
pub const RERANK: &[RefusedField] = &[
    row("truncate", "send texts that fit into the context", is_false),
    row(
        "truncate_prompt_tokens",
        "send texts that fit into the context",
        never,
    ),
    row(
        "max_tokens_per_doc",
        "send texts that fit into the context",
        never,
    ),
    row("max_chunks_per_doc", "a document is ranked whole", is_one),
    row("rank_fields", "a document is its text", |v| {
        *v == json!(["text"])
    }),
];

/// Refused inside `stream_options`.
pub const STREAM_OPTIONS: &[RefusedField] = &[row(
    "include_obfuscation",
    "chunks are as long as their text makes them",
    is_false,
)];

/// Taken and without effect, each with the reason: none of them can change an answer of this server.
pub const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "user",
        "names the end user to OpenAI's monitoring; nothing is kept here",
    ),
    ("safety_identifier", "as `user`"),
    ("metadata", "labels of stored answers; none are stored"),
    (
        "prompt_cache_key",
        "chooses a cache; this one finds every common beginning of one key's prompts",
    ),
    (
        "parallel_tool_calls",
        "says how tools are called; `tools` is refused",
    ),
    (
        "spaces_between_special_tokens",
        "special tokens are never shown",
    ),
];

/// Refuses the fields of `rows` that ask for something.
///
/// # Errors
/// [`crate::error::ErrorCode::UnsupportedParameter`].
pub fn refuse(fields: &mut Fields, rows: &[RefusedField]) -> Result<(), ApiError> {
    rows.iter()
        .try_for_each(|row| fields.refuse(row.name, row.why, row.is_harmless))
}

fn never(_: &Value) -> bool {
    false
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_empty_list(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}
