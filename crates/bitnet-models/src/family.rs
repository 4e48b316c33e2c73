//! Model families as descriptions: what differs between them is data, the forward pass is one.
//!
//! A family says where the norms stand, which activation gates the feed-forward part and in which order a file
//! keeps the rotary dimensions. Adding one is a row of [`FAMILIES`]; a family that needs a new operation is a
//! change to [`crate::bitnet`], visible as such.
//!
//! Sources: `transformers`' `modeling_bitnet.py`, `modeling_llama.py`, `modeling_qwen3.py`; llama.cpp's graphs for
//! the GGUF architectures of the same names.

use crate::config::ConfigError;
use crate::tensor_role::NormPlace;
use bitnet_kernels::{Activation, RopeStyle};

/// What sets one kind of model apart from the others.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The family's name, which is also what its GGUF files give as `general.architecture`.
    pub name: &'static str,
    /// Every `general.architecture` that means this family.
    pub gguf_architectures: &'static [&'static str],
    /// The class in `config.json`'s `architectures` that means this family, together with [`Family::activation`].
    pub hf_architecture: &'static str,
    /// What gates the feed-forward part; in `config.json` it is `hidden_act`.
    pub activation: Activation,
    /// Whether RMS norms stand before the attention's output projection and before the down projection.
    pub sub_norms: bool,
    /// Whether every query and key head is normed before its rotation.
    pub qk_norms: bool,
    /// The order of the rotary dimensions in a GGUF file; Hugging Face files always have [`RopeStyle::Neox`].
    pub gguf_rope: RopeStyle,
}

/// Every family that the engine runs.
pub static FAMILIES: [Family; 4] = [
    // Microsoft's 2B-4T. `bitnet-25` is what its converter wrote before the release.
    Family {
        name: "bitnet-b1.58",
        gguf_architectures: &["bitnet-b1.58", "bitnet-25"],
        hf_architecture: "BitNetForCausalLM",
        activation: Activation::Relu2,
        sub_norms: true,
        qk_norms: false,
        gguf_rope: RopeStyle::Neox,
    },
    // The 1bitLLM models, which llama.cpp knows as `bitnet`: its graph has SiLU, not ReLU^2.
    Family {
        name: "bitnet",
        gguf_architectures: &["bitnet"],
        hf_architecture: "BitNetForCausalLM",
        activation: Activation::Silu,
        sub_norms: true,
        qk_norms: false,
        gguf_rope: RopeStyle::Neox,
    },
    // Falcon3-1.58bit, Falcon-E, Llama3-8B-1.58. GGUF converters permute the rows of Q and K into pairs.
    Family {
        name: "llama",
        gguf_architectures: &["llama"],
        hf_architecture: "LlamaForCausalLM",
        activation: Activation::Silu,
        sub_norms: false,
        qk_norms: false,
        gguf_rope: RopeStyle::Norm,
    },
    // Ternary-Bonsai 1.7B, 4B, 8B.
    Family {
        name: "qwen3",
        gguf_architectures: &["qwen3"],
        hf_architecture: "Qwen3ForCausalLM",
        activation: Activation::Silu,
        sub_norms: false,
        qk_norms: true,
        gguf_rope: RopeStyle::Neox,
    },
];

impl Family {
    /// The family of a GGUF file's `general.architecture`.
    ///
    /// # Errors
    /// [`ConfigError::Architecture`], listing what is supported.
    pub fn from_gguf(architecture: &str) -> Result<&'static Family, ConfigError> {
        FAMILIES
            .iter()
            .find(|family| family.gguf_architectures.contains(&architecture))
            .ok_or_else(|| ConfigError::Architecture {
                found: architecture.into(),
                supported: supported(|family| family.gguf_architectures.iter().copied()),
            })
    }

    /// The family of a Hugging Face directory: the class in `architectures` and `hidden_act` of its `config.json`.
    ///
    /// # Errors
    /// [`ConfigError::Architecture`] for a class that no family has, [`ConfigError::Activation`] for a class that
    /// is known with another activation only.
    pub fn from_hf(architecture: &str, hidden_act: &str) -> Result<&'static Family, ConfigError> {
        let mut same_class = FAMILIES
            .iter()
            .filter(|family| family.hf_architecture == architecture)
            .peekable();
        if same_class.peek().is_none() {
            return Err(ConfigError::Architecture {
                found: architecture.into(),
                supported: supported(|family| [family.hf_architecture].into_iter()),
            });
        }
        same_class
            .find(|family| family.hf_activation() == hidden_act)
            .ok_or_else(|| ConfigError::Activation {
                architecture: architecture.into(),
                found: hidden_act.into(),
            })
    }

    /// The `hidden_act` of `config.json` that goes with this family.
    pub fn hf_activation(&self) -> &'static str {
        match self.activation {
            Activation::Silu => "silu",
            Activation::Relu2 => "relu2",
        }
    }

    /// Where this family's layers have norms, in the order the forward pass applies them.
    pub fn norms(&self) -> impl Iterator<Item = NormPlace> + use<> {
        let (sub_norms, qk_norms) = (self.sub_norms, self.qk_norms);
        NormPlace::ALL.into_iter().filter(move |place| match place {
            NormPlace::Attention | NormPlace::FeedForward => true,
            NormPlace::QueryHead | NormPlace::KeyHead => qk_norms,
            NormPlace::AttentionSub | NormPlace::FeedForwardSub => sub_norms,
        })
    }
}

/// The distinct names that `names` gives over all families, for an error message.
fn supported<I: Iterator<Item = &'static str>>(names: impl Fn(&'static Family) -> I) -> String {
    let mut list: Vec<&str> = FAMILIES.iter().flat_map(names).collect();
    list.dedup();
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gguf_architecture_has_one_family() {
        for (architecture, family) in [
            ("bitnet-b1.58", "bitnet-b1.58"),
            ("bitnet-25", "bitnet-b1.58"),
            ("bitnet", "bitnet"),
            ("llama", "llama"),
            ("qwen3", "qwen3"),
        ] {
            assert_eq!(Family::from_gguf(architecture).unwrap().name, family);
        }
        let error = Family::from_gguf("mamba").unwrap_err().to_string();
        assert!(
            error.contains("`mamba`")
                && error.contains("bitnet-b1.58, bitnet-25, bitnet, llama, qwen3"),
            "{error}"
        );
    }

    #[test]
    fn hidden_act_decides_between_the_two_bitnet_families() {
        assert_eq!(
            Family::from_hf("BitNetForCausalLM", "relu2").unwrap().name,
            "bitnet-b1.58"
        );
        assert_eq!(
            Family::from_hf("BitNetForCausalLM", "silu").unwrap().name,
            "bitnet"
        );
        let error = Family::from_hf("LlamaForCausalLM", "gelu")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("LlamaForCausalLM") && error.contains("gelu"),
            "{error}"
        );
        let error = Family::from_hf("GemmaForCausalLM", "silu")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("BitNetForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM"),
            "{error}"
        );
    }

    #[test]
    fn norm_places_follow_the_description() {
        let count = |name: &str| Family::from_gguf(name).unwrap().norms().count();
        assert_eq!((count("bitnet"), count("llama"), count("qwen3")), (4, 2, 4));
    }
}
