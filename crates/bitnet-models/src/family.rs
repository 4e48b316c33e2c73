//! Model families as descriptions: what differs between them is data, the forward pass is one.
//!
//! A family says where the norms stand, which activation gates the feed-forward part and in which order a file
//! keeps the rotary dimensions. Adding one is a row of [`FAMILIES`]; a family that needs a new operation is a
//! change to [`crate::bitnet`], visible as such.
//!
//! Sources: `transformers`' `modeling_bitnet.py`, `modeling_llama.py`, `modeling_qwen3.py`, `modeling_gemma3.py`,
//! `modeling_granite.py` (whose multipliers MiniCPM has under other names); llama.cpp's graphs for the GGUF
//! architectures of the same names.

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
    /// The classes in `config.json`'s `architectures` that mean this family, together with [`Family::activation`].
    pub hf_architectures: &'static [&'static str],
    /// What gates the feed-forward part; in `config.json` it is `hidden_act`.
    pub activation: Activation,
    /// Whether RMS norms stand before the attention's output projection and before the down projection.
    pub sub_norms: bool,
    /// Whether every query and key head is normed before its rotation.
    pub qk_norms: bool,
    /// Whether RMS norms stand behind the attention and behind the feed-forward part, before what they add is added.
    pub post_norms: bool,
    /// Whether a Hugging Face directory holds the weights of the family's own norms less 1.
    pub hf_norms_less_one: bool,
    /// Whether embedded tokens are multiplied with the square root of their length.
    pub scaled_embedding: bool,
    /// Whether a file says what embedded tokens, what each part adds and what the head takes are multiplied with.
    pub own_multipliers: bool,
    /// The order of the rotary dimensions in a GGUF file; Hugging Face files always have [`RopeStyle::Neox`].
    pub gguf_rope: RopeStyle,
}

/// The class of 1bitLLM's own checkpoints, whose floats are master weights though nothing in them says so.
pub(crate) const ONE_BIT_LLM: &str = "BitnetForCausalLM";

/// Every family that the engine runs.
pub static FAMILIES: [Family; 6] = [
    // Microsoft's 2B-4T. `bitnet-25` is what its converter wrote before the release.
    Family {
        name: "bitnet-b1.58",
        gguf_architectures: &["bitnet-b1.58", "bitnet-25"],
        hf_architectures: &["BitNetForCausalLM"],
        activation: Activation::Relu2,
        sub_norms: true,
        qk_norms: false,
        post_norms: false,
        hf_norms_less_one: false,
        scaled_embedding: false,
        own_multipliers: false,
        gguf_rope: RopeStyle::Neox,
    },
    // The 1bitLLM models, which llama.cpp knows as `bitnet`: its graph has SiLU, not ReLU^2. Their own checkpoints name
    // a class of their own, one letter smaller.
    Family {
        name: "bitnet",
        gguf_architectures: &["bitnet"],
        hf_architectures: &["BitNetForCausalLM", ONE_BIT_LLM],
        activation: Activation::Silu,
        sub_norms: true,
        qk_norms: false,
        post_norms: false,
        hf_norms_less_one: false,
        scaled_embedding: false,
        own_multipliers: false,
        gguf_rope: RopeStyle::Neox,
    },
    // Falcon3-1.58bit, Falcon-E, Llama3-8B-1.58. GGUF converters permute the rows of Q and K into pairs.
    Family {
        name: "llama",
        gguf_architectures: &["llama"],
        hf_architectures: &["LlamaForCausalLM"],
        activation: Activation::Silu,
        sub_norms: false,
        qk_norms: false,
        post_norms: false,
        hf_norms_less_one: false,
        scaled_embedding: false,
        own_multipliers: false,
        gguf_rope: RopeStyle::Norm,
    },
    // Ternary-Bonsai 1.7B, 4B, 8B; Microsoft's bitnet-embedding-0.6B.
    Family {
        name: "qwen3",
        gguf_architectures: &["qwen3"],
        hf_architectures: &["Qwen3ForCausalLM", "Qwen3Model"],
        activation: Activation::Silu,
        sub_norms: false,
        qk_norms: true,
        post_norms: false,
        hf_norms_less_one: false,
        scaled_embedding: false,
        own_multipliers: false,
        gguf_rope: RopeStyle::Neox,
    },
    // Microsoft's bitnet-embedding-270M. GGUF converters add the 1 to the norms.
    Family {
        name: "gemma3",
        gguf_architectures: &["gemma3"],
        hf_architectures: &["Gemma3ForCausalLM", "Gemma3TextModel"],
        activation: Activation::GeluTanh,
        sub_norms: false,
        qk_norms: true,
        post_norms: true,
        hf_norms_less_one: true,
        scaled_embedding: true,
        own_multipliers: false,
        gguf_rope: RopeStyle::Neox,
    },
    // MiniCPM4 and its ternary form BitCPM4: Llama with multipliers and rotations stretched by LongRoPE.
    Family {
        name: "minicpm",
        gguf_architectures: &["minicpm"],
        hf_architectures: &["MiniCPMForCausalLM"],
        activation: Activation::Silu,
        sub_norms: false,
        qk_norms: false,
        post_norms: false,
        hf_norms_less_one: false,
        scaled_embedding: false,
        own_multipliers: true,
        gguf_rope: RopeStyle::Norm,
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
            .filter(|family| family.hf_architectures.contains(&architecture))
            .peekable();
        if same_class.peek().is_none() {
            return Err(ConfigError::Architecture {
                found: architecture.into(),
                supported: supported(|family| family.hf_architectures.iter().copied()),
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
            Activation::GeluTanh => "gelu_pytorch_tanh",
        }
    }

    /// Where this family's layers have norms, in the order the forward pass applies them.
    pub fn norms(&self) -> impl Iterator<Item = NormPlace> + use<> {
        let (sub_norms, qk_norms, post_norms) = (self.sub_norms, self.qk_norms, self.post_norms);
        NormPlace::ALL.into_iter().filter(move |place| match place {
            NormPlace::Attention | NormPlace::FeedForward => true,
            NormPlace::QueryHead | NormPlace::KeyHead => qk_norms,
            NormPlace::AttentionSub | NormPlace::FeedForwardSub => sub_norms,
            NormPlace::AttentionPost | NormPlace::FeedForwardPost => post_norms,
            NormPlace::Input(_) => false,
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
            ("gemma3", "gemma3"),
            ("minicpm", "minicpm"),
        ] {
            assert_eq!(Family::from_gguf(architecture).unwrap().name, family);
        }
        let error = Family::from_gguf("mamba").unwrap_err().to_string();
        assert!(
            error.contains("`mamba`")
                && error.contains("bitnet-b1.58, bitnet-25, bitnet, llama, qwen3, gemma3, minicpm"),
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
            error.contains(
                "BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM, Qwen3Model, Gemma3"
            ),
            "{error}"
        );
    }

    #[test]
    fn norm_places_follow_the_description() {
        let count = |name: &str| Family::from_gguf(name).unwrap().norms().count();
        assert_eq!((count("bitnet"), count("llama"), count("qwen3")), (4, 2, 4));
        assert_eq!(count("gemma3"), 6);
    }
}
