//! The dialects of tensor names in Hugging Face directories.
//!
//! A checkpoint saved from the bare model (`Qwen3Model`, as embedding models are) lacks the prefix `model.`; Gemma
//! calls the norm before the feed-forward part otherwise, because the usual name is taken by the norm behind the
//! attention; norms inside the linear layers are `norm` in Microsoft's embedding models and `rms_norm` in transformers;
//! 1bitLLM's own checkpoints have other names for the sub-norms than the class that transformers took from Microsoft.

use crate::family::Family;
use crate::tensor_files::TensorFiles;
use crate::tensor_role::{NormPlace, Projection, TensorRole};

/// What `TensorRole::hf_name` begins with, except for the head's.
const PREFIX: &str = "model.";

/// How a directory names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HfNames {
    prefixed: bool,
    post_norms: bool,
    /// Whether the sub-norms are called as in 1bitLLM's checkpoints.
    inner_sub_norms: bool,
    input_norm: Option<&'static str>,
}

impl HfNames {
    /// The names in use in `weights`.
    pub fn find(weights: &TensorFiles, family: &Family) -> Self {
        let embedding = TensorRole::Embedding.hf_name().unwrap_or_default();
        let bare = embedding.strip_prefix(PREFIX).unwrap_or(&embedding);
        let mut names = Self {
            prefixed: weights.tensor(&embedding).is_some() || weights.tensor(bare).is_none(),
            post_norms: family.post_norms,
            inner_sub_norms: true,
            input_norm: None,
        };
        let first = TensorRole::Norm(0, NormPlace::AttentionSub);
        names.inner_sub_norms = names
            .of(first)
            .is_some_and(|name| weights.tensor(&name).is_some());
        let first = TensorRole::Norm(0, NormPlace::Input(Projection::Query));
        names.input_norm = ["norm", "rms_norm"].into_iter().find(|own| {
            let names = Self {
                input_norm: Some(own),
                ..names
            };
            names
                .of(first)
                .is_some_and(|name| weights.tensor(&name).is_some())
        });
        names
    }

    /// What norms inside the linear layers are called, where there are some.
    pub fn input_norm(&self) -> Option<&'static str> {
        self.input_norm
    }

    /// Sets it, for a directory whose `config.json` promises such norms.
    pub fn expect_input_norm(&mut self, name: &'static str) {
        self.input_norm.get_or_insert(name);
    }

    /// The tensor's name; `None` for what such checkpoints do not store.
    pub fn of(&self, role: TensorRole) -> Option<String> {
        let name = match role {
            TensorRole::Norm(layer, NormPlace::FeedForward) if self.post_norms => {
                format!("{PREFIX}layers.{layer}.pre_feedforward_layernorm.weight")
            }
            TensorRole::Norm(layer, NormPlace::AttentionSub) if self.inner_sub_norms => {
                format!("{PREFIX}layers.{layer}.self_attn.inner_attn_ln.weight")
            }
            TensorRole::Norm(layer, NormPlace::FeedForwardSub) if self.inner_sub_norms => {
                format!("{PREFIX}layers.{layer}.mlp.ffn_layernorm.weight")
            }
            TensorRole::Norm(layer, NormPlace::Input(projection)) => {
                let own = self.input_norm.unwrap_or("norm");
                format!(
                    "{PREFIX}layers.{layer}.{}.{own}.weight",
                    projection.hf_name()
                )
            }
            role => role.hf_name()?,
        };
        Some(match name.strip_prefix(PREFIX) {
            Some(bare) if !self.prefixed => bare.to_owned(),
            _ => name,
        })
    }
}
