//! What a tensor is for, and what the two file worlds call it.
//!
//! The forward pass asks a checkpoint for roles ("the query projection of layer 3"), never for names, so the one
//! table of names is here. Sources: llama.cpp's `gguf-py` constants for GGUF, `transformers`' module names for
//! Hugging Face directories.

use crate::config::ModelConfig;
use std::fmt;

/// One of the seven ternary matrices of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Hidden state to queries: `[n_heads * head_dim, hidden_size]`.
    Query,
    /// Hidden state to keys: `[n_kv_heads * head_dim, hidden_size]`.
    Key,
    /// Hidden state to values: `[n_kv_heads * head_dim, hidden_size]`.
    Value,
    /// Attention output back to the hidden state: `[hidden_size, n_heads * head_dim]`.
    Output,
    /// Hidden state to the gate of the feed-forward part: `[intermediate_size, hidden_size]`.
    Gate,
    /// Hidden state to what the gate scales: `[intermediate_size, hidden_size]`.
    Up,
    /// Feed-forward output back to the hidden state: `[hidden_size, intermediate_size]`.
    Down,
}

impl Projection {
    /// All seven, in the order the forward pass uses them.
    pub const ALL: [Projection; 7] = [
        Projection::Query,
        Projection::Key,
        Projection::Value,
        Projection::Output,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];

    /// The tensor's name inside `blk.N.`, without `.weight`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Projection::Query => "attn_q",
            Projection::Key => "attn_k",
            Projection::Value => "attn_v",
            Projection::Output => "attn_output",
            Projection::Gate => "ffn_gate",
            Projection::Up => "ffn_up",
            Projection::Down => "ffn_down",
        }
    }

    /// The module's name inside `model.layers.N.`, as in `self_attn.q_proj`.
    pub fn hf_name(self) -> &'static str {
        match self {
            Projection::Query => "self_attn.q_proj",
            Projection::Key => "self_attn.k_proj",
            Projection::Value => "self_attn.v_proj",
            Projection::Output => "self_attn.o_proj",
            Projection::Gate => "mlp.gate_proj",
            Projection::Up => "mlp.up_proj",
            Projection::Down => "mlp.down_proj",
        }
    }
}

/// Where in a layer an RMS norm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormPlace {
    /// Before the attention part, on the hidden state: `[hidden_size]`.
    Attention,
    /// On every query head (Qwen3): `[head_dim]`.
    QueryHead,
    /// On every key head (Qwen3): `[head_dim]`.
    KeyHead,
    /// Between the attention and its output projection (BitNet): `[n_heads * head_dim]`.
    AttentionSub,
    /// Before the feed-forward part, on the hidden state: `[hidden_size]`.
    FeedForward,
    /// Between the gate and the down projection (BitNet): `[intermediate_size]`.
    FeedForwardSub,
    /// On what the attention adds to the hidden state (Gemma): `[hidden_size]`.
    AttentionPost,
    /// On what the feed-forward part adds to the hidden state (Gemma): `[hidden_size]`.
    FeedForwardPost,
    /// Inside a linear layer, on its input: `[in_features]`.
    Input(Projection),
}

impl NormPlace {
    /// All that a family can have, see [`crate::family::Family::norms`]; norms inside the linear layers are a model's
    /// own ([`ModelConfig::input_norm_eps`]).
    pub const ALL: [NormPlace; 8] = [
        NormPlace::Attention,
        NormPlace::QueryHead,
        NormPlace::KeyHead,
        NormPlace::AttentionSub,
        NormPlace::AttentionPost,
        NormPlace::FeedForward,
        NormPlace::FeedForwardSub,
        NormPlace::FeedForwardPost,
    ];

    fn gguf_name(self) -> &'static str {
        match self {
            NormPlace::Attention => "attn_norm",
            NormPlace::QueryHead => "attn_q_norm",
            NormPlace::KeyHead => "attn_k_norm",
            NormPlace::AttentionSub => "attn_sub_norm",
            NormPlace::FeedForward => "ffn_norm",
            NormPlace::FeedForwardSub => "ffn_sub_norm",
            NormPlace::AttentionPost => "post_attention_norm",
            NormPlace::FeedForwardPost => "post_ffw_norm",
            NormPlace::Input(projection) => match projection {
                Projection::Query => "attn_q_norm_in",
                Projection::Key => "attn_k_norm_in",
                Projection::Value => "attn_v_norm_in",
                Projection::Output => "attn_output_norm_in",
                Projection::Gate => "ffn_gate_norm_in",
                Projection::Up => "ffn_up_norm_in",
                Projection::Down => "ffn_down_norm_in",
            },
        }
    }

    /// The module's name inside `model.layers.N.`, as in `self_attn.attn_sub_norm`. A family with norms behind its
    /// parts calls the one before the feed-forward part `pre_feedforward_layernorm` instead.
    pub fn hf_name(self) -> &'static str {
        match self {
            NormPlace::Attention => "input_layernorm",
            NormPlace::QueryHead => "self_attn.q_norm",
            NormPlace::KeyHead => "self_attn.k_norm",
            NormPlace::AttentionSub => "self_attn.attn_sub_norm",
            NormPlace::FeedForward => "post_attention_layernorm",
            NormPlace::FeedForwardSub => "mlp.ffn_sub_norm",
            NormPlace::AttentionPost => "post_attention_layernorm",
            NormPlace::FeedForwardPost => "post_feedforward_layernorm",
            NormPlace::Input(projection) => match projection {
                Projection::Query => "self_attn.q_proj.norm",
                Projection::Key => "self_attn.k_proj.norm",
                Projection::Value => "self_attn.v_proj.norm",
                Projection::Output => "self_attn.o_proj.norm",
                Projection::Gate => "mlp.gate_proj.norm",
                Projection::Up => "mlp.up_proj.norm",
                Projection::Down => "mlp.down_proj.norm",
            },
        }
    }
}

/// What a tensor is for. The number is the layer's, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// One row per token id: `[vocab_size, hidden_size]`.
    Embedding,
    /// Hidden state to logits: `[vocab_size, hidden_size]`; absent when the embedding is used for it (tied).
    Head,
    /// The norm before the head: `[hidden_size]`.
    FinalNorm,
    /// Divisors of the rotary frequencies (LLaMA 3.1 and later, GGUF only): `[n_rot / 2]`.
    RopeFactors,
    /// A norm of a layer.
    Norm(usize, NormPlace),
    /// A ternary matrix of a layer.
    Projection(usize, Projection),
}

impl TensorRole {
    /// The tensor's name in a GGUF file.
    pub fn gguf_name(self) -> String {
        match self {
            TensorRole::Embedding => "token_embd.weight".into(),
            TensorRole::Head => "output.weight".into(),
            TensorRole::FinalNorm => "output_norm.weight".into(),
            TensorRole::RopeFactors => "rope_freqs.weight".into(),
            TensorRole::Norm(layer, place) => format!("blk.{layer}.{}.weight", place.gguf_name()),
            TensorRole::Projection(layer, projection) => {
                format!("blk.{layer}.{}.weight", projection.gguf_name())
            }
        }
    }

    /// The tensor's usual name in a Hugging Face checkpoint; `None` for what such checkpoints do not store.
    pub fn hf_name(self) -> Option<String> {
        Some(match self {
            TensorRole::Embedding => "model.embed_tokens.weight".into(),
            TensorRole::Head => "lm_head.weight".into(),
            TensorRole::FinalNorm => "model.norm.weight".into(),
            // config.json describes them, see `config::RopeScaling::Llama3`.
            TensorRole::RopeFactors => return None,
            TensorRole::Norm(layer, place) => {
                format!("model.layers.{layer}.{}.weight", place.hf_name())
            }
            TensorRole::Projection(layer, projection) => {
                format!("model.layers.{layer}.{}.weight", projection.hf_name())
            }
        })
    }

    /// `(rows, cols)` that the tensor must have; a vector is one row.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let hidden = config.hidden_size;
        let queries = config.query_size();
        match self {
            TensorRole::Embedding | TensorRole::Head => (config.vocab_size, hidden),
            TensorRole::FinalNorm => (1, hidden),
            TensorRole::RopeFactors => (1, config.rope.n_rot / 2),
            TensorRole::Norm(_, place) => match place {
                NormPlace::Attention
                | NormPlace::FeedForward
                | NormPlace::AttentionPost
                | NormPlace::FeedForwardPost => (1, hidden),
                NormPlace::QueryHead | NormPlace::KeyHead => (1, config.head_dim),
                NormPlace::AttentionSub => (1, queries),
                NormPlace::FeedForwardSub => (1, config.intermediate_size),
                NormPlace::Input(projection) => {
                    let (_, cols) = TensorRole::Projection(0, projection).shape(config);
                    (1, cols)
                }
            },
            TensorRole::Projection(_, projection) => match projection {
                Projection::Query => (queries, hidden),
                Projection::Key | Projection::Value => (config.kv_size(), hidden),
                Projection::Output => (hidden, queries),
                Projection::Gate | Projection::Up => (config.intermediate_size, hidden),
                Projection::Down => (hidden, config.intermediate_size),
            },
        }
    }

    /// Every tensor that a checkpoint of `config` must hold, in the order the forward pass uses them.
    ///
    /// The head is in it when the model's is not tied; the rotary factors, which a file may omit, never are.
    pub fn required(config: &ModelConfig) -> Vec<TensorRole> {
        let mut roles = vec![TensorRole::Embedding];
        for layer in 0..config.n_layers {
            roles.extend(
                config
                    .family
                    .norms()
                    .map(|place| TensorRole::Norm(layer, place)),
            );
            if config.input_norm_eps.is_some() {
                let places = Projection::ALL.map(NormPlace::Input);
                roles.extend(places.map(|place| TensorRole::Norm(layer, place)));
            }
            roles.extend(
                Projection::ALL.map(|projection| TensorRole::Projection(layer, projection)),
            );
        }
        roles.push(TensorRole::FinalNorm);
        if !config.tied_head {
            roles.push(TensorRole::Head);
        }
        roles
    }
}

impl fmt::Display for TensorRole {
    /// What a person reads in an error: `query projection of layer 3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorRole::Embedding => f.write_str("token embedding"),
            TensorRole::Head => f.write_str("output head"),
            TensorRole::FinalNorm => f.write_str("final norm"),
            TensorRole::RopeFactors => f.write_str("rotary frequency factors"),
            TensorRole::Norm(layer, place) => {
                let place = match place {
                    NormPlace::Attention => "attention norm",
                    NormPlace::QueryHead => "query head norm",
                    NormPlace::KeyHead => "key head norm",
                    NormPlace::AttentionSub => "attention sub-norm",
                    NormPlace::FeedForward => "feed-forward norm",
                    NormPlace::FeedForwardSub => "feed-forward sub-norm",
                    NormPlace::AttentionPost => "attention post-norm",
                    NormPlace::FeedForwardPost => "feed-forward post-norm",
                    NormPlace::Input(projection) => {
                        let of = TensorRole::Projection(*layer, *projection);
                        return write!(f, "input norm of the {of}");
                    }
                };
                write!(f, "{place} of layer {layer}")
            }
            TensorRole::Projection(layer, projection) => {
                let projection = match projection {
                    Projection::Query => "query",
                    Projection::Key => "key",
                    Projection::Value => "value",
                    Projection::Output => "attention output",
                    Projection::Gate => "gate",
                    Projection::Up => "up",
                    Projection::Down => "down",
                };
                write!(f, "{projection} projection of layer {layer}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{FAMILIES, Family};

    #[test]
    fn names_are_those_of_the_two_worlds() {
        let query = TensorRole::Projection(3, Projection::Query);
        assert_eq!(query.gguf_name(), "blk.3.attn_q.weight");
        assert_eq!(
            query.hf_name().as_deref(),
            Some("model.layers.3.self_attn.q_proj.weight")
        );
        let sub_norm = TensorRole::Norm(0, NormPlace::FeedForwardSub);
        assert_eq!(sub_norm.gguf_name(), "blk.0.ffn_sub_norm.weight");
        assert_eq!(
            sub_norm.hf_name().as_deref(),
            Some("model.layers.0.mlp.ffn_sub_norm.weight")
        );
        assert_eq!(TensorRole::RopeFactors.hf_name(), None);
    }

    #[test]
    fn no_two_roles_of_a_family_share_a_name() {
        for family in &FAMILIES {
            check_names(family);
        }
    }

    fn check_names(family: &Family) {
        let mut roles = vec![
            TensorRole::Embedding,
            TensorRole::Head,
            TensorRole::FinalNorm,
            TensorRole::RopeFactors,
        ];
        for layer in 0..2 {
            let places = family.norms().chain(Projection::ALL.map(NormPlace::Input));
            roles.extend(places.map(|place| TensorRole::Norm(layer, place)));
            roles.extend(
                Projection::ALL.map(|projection| TensorRole::Projection(layer, projection)),
            );
        }
        let count = roles.len();
        let gguf: std::collections::HashSet<_> =
            roles.iter().map(|role| role.gguf_name()).collect();
        let hf: std::collections::HashSet<_> =
            roles.iter().filter_map(|role| role.hf_name()).collect();
        assert_eq!(gguf.len(), count, "{}", family.name);
        // Two layers of Gemma's norm before the feed-forward part, see `HfNames`.
        let renamed = if family.post_norms { 2 } else { 0 };
        assert_eq!(hf.len(), count - 1 - renamed, "{}", family.name);
    }
}
