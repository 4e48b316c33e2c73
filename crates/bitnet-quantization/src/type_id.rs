//! What a GGUF type number means, also the numbers that this build does not read.
//!
//! Numbers were given out by several projects at once: some were removed and taken again, some mean different
//! things in different forks. A loader must therefore name what it found and say why it stops; and for the numbers
//! that it does read, it must know who else writes them ([`rivals`]), because only the size tells them apart.
//! Source: ggml, bitnet.cpp, ik_llama.cpp and PrismML's forks.

use crate::qtype::TensorType;

/// The meaning of a GGUF tensor type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeId {
    /// A type that this build reads.
    Supported(TensorType),
    /// A type that ggml itself has removed; the name is its last one.
    Removed(&'static str),
    /// A type that is in use and that this build does not read.
    Unsupported {
        /// Its name; several, when several projects use the number.
        name: &'static str,
        /// Why it is not read and what to do instead.
        why: &'static str,
    },
    /// A number that no known project uses.
    Unknown(u32),
}

/// Another format written under the same number as one that this build reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// Its name and writer.
    pub name: &'static str,
    /// Values per block.
    pub block_len: usize,
    /// Bytes per block.
    pub block_bytes: usize,
}

impl Rival {
    /// Bytes that `n_elements` values take in this format, `None` if they cannot be stored in it.
    pub const fn storage_bytes(&self, n_elements: u64) -> Option<u64> {
        if !n_elements.is_multiple_of(self.block_len as u64) {
            return None;
        }
        (n_elements / self.block_len as u64).checked_mul(self.block_bytes as u64)
    }
}

/// Formats that share the number of `ty`. A tensor whose size fits one of them and not `ty` is one of them.
pub const fn rivals(ty: TensorType) -> &'static [Rival] {
    match ty {
        TensorType::I2S => &[Rival {
            name: "IQ4_NL_4_4 (removed from ggml)",
            block_len: 32,
            block_bytes: 18,
        }],
        TensorType::Q2_0 => &[
            Rival {
                name: "Q2_0 in groups of 128 (PrismML, before it became PQ2_0)",
                block_len: 128,
                block_bytes: 34,
            },
            Rival {
                name: "STQ1_0 (Tencent, first files)",
                block_len: 256,
                block_bytes: 42,
            },
        ],
        _ => &[],
    }
}

const K_QUANT: &str =
    "this build reads Q4_K, Q5_K and Q6_K of the K types; requantise the tensor to one of them";
const I_QUANT: &str = "codebook types are not read; requantise the tensor to Q4_K, Q6_K or Q8_0";
const ACTIVATIONS: &str = "it holds intermediate activations and never belongs in a file";
const NO_WEIGHTS: &str = "models store no weights in it";
const TABLE_LOOKUP: &str =
    "its layout depends on tile sizes that the file does not tell; export the model as I2_S";
const ONE_PROJECT: &str = "only one project writes it; export the model as I2_S, TQ2_0 or Q2_0";

/// What the type number `id` of a GGUF tensor means.
pub fn type_from_ggml_id(id: u32) -> TypeId {
    if let Some(&ty) = TensorType::ALL.iter().find(|ty| ty.ggml_id() == id) {
        return TypeId::Supported(ty);
    }
    let (name, why) = match id {
        4 => return TypeId::Removed("Q4_2"),
        5 => return TypeId::Removed("Q4_3"),
        31 => return TypeId::Removed("Q4_0_4_4"),
        32 => return TypeId::Removed("Q4_0_4_8"),
        33 => return TypeId::Removed("Q4_0_8_8"),
        7 => ("Q5_1", "requantise the tensor to Q5_0 or Q8_0"),
        9 => ("Q8_1", ACTIVATIONS),
        10 => ("Q2_K", K_QUANT),
        11 => ("Q3_K", K_QUANT),
        15 => ("Q8_K", ACTIVATIONS),
        16 => ("IQ2_XXS", I_QUANT),
        17 => ("IQ2_XS", I_QUANT),
        18 => ("IQ3_XXS", I_QUANT),
        19 => ("IQ1_S", I_QUANT),
        20 => ("IQ4_NL", I_QUANT),
        21 => ("IQ3_S", I_QUANT),
        22 => ("IQ2_S", I_QUANT),
        23 => ("IQ4_XS", I_QUANT),
        29 => ("IQ1_M", I_QUANT),
        24 => ("I8", NO_WEIGHTS),
        25 => ("I16", NO_WEIGHTS),
        26 => ("I32", NO_WEIGHTS),
        27 => ("I64", NO_WEIGHTS),
        28 => ("F64", "convert the tensor to F32"),
        37 => (
            "I8_S (bitnet.cpp) or IQ4_NL_4_8 (removed from ggml)",
            ACTIVATIONS,
        ),
        38 => (
            "TL1 (bitnet.cpp) or IQ4_NL_8_8 (removed from ggml)",
            TABLE_LOOKUP,
        ),
        39 => ("TL2 (bitnet.cpp) or MXFP4 (llama.cpp)", TABLE_LOOKUP),
        40 => (
            "NVFP4 (llama.cpp) or an early Q1_0 (PrismML)",
            "it is not ternary",
        ),
        41 => (
            "Q1_0 (llama.cpp) or TQ3_0 (other forks)",
            "it is not ternary",
        ),
        43 => (
            "STQ1_0 (Tencent) or Q1_0 in groups of 128 (PrismML's forks)",
            ONE_PROJECT,
        ),
        134 => ("IQ1_BN (ik_llama.cpp)", ONE_PROJECT),
        135 => ("IQ2_BN (ik_llama.cpp)", ONE_PROJECT),
        142 => (
            "PQ2_0 (PrismML) or IQ2_TN (ik_llama.cpp)",
            "take the file of the same model in Q2_0 (groups of 64)",
        ),
        143 => (
            "PTQ1_0 (PrismML) or IQ1_TN (ik_llama.cpp)",
            "take the file of the same model in Q2_0 (groups of 64)",
        ),
        335 => ("IQ2_BN_R4 (ik_llama.cpp)", ONE_PROJECT),
        _ => return TypeId::Unknown(id),
    };
    TypeId::Unsupported { name, why }
}

impl std::fmt::Display for TypeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TypeId::Supported(ty) => write!(f, "{ty}"),
            TypeId::Removed(name) => {
                write!(f, "{name}, which ggml has removed: convert the model again")
            }
            TypeId::Unsupported { name, why } => {
                write!(f, "{name}, which this build does not read: {why}")
            }
            TypeId::Unknown(id) => write!(
                f,
                "the unknown type number {id}: the file is newer than this build, or damaged"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_numbers_lead_to_their_types() {
        for &ty in TensorType::ALL {
            assert_eq!(type_from_ggml_id(ty.ggml_id()), TypeId::Supported(ty));
        }
    }

    #[test]
    fn removed_numbers_are_named() {
        for (id, name) in [
            (4, "Q4_2"),
            (5, "Q4_3"),
            (31, "Q4_0_4_4"),
            (32, "Q4_0_4_8"),
            (33, "Q4_0_8_8"),
        ] {
            assert_eq!(type_from_ggml_id(id), TypeId::Removed(name));
        }
    }

    #[test]
    fn numbers_with_several_owners_name_all_of_them() {
        for (id, names) in [
            (37, ["I8_S", "IQ4_NL_4_8"]),
            (38, ["TL1", "IQ4_NL_8_8"]),
            (39, ["TL2", "MXFP4"]),
            (41, ["Q1_0", "TQ3_0"]),
            (43, ["STQ1_0", "Q1_0"]),
            (142, ["PQ2_0", "IQ2_TN"]),
            (143, ["PTQ1_0", "IQ1_TN"]),
        ] {
            let text = type_from_ggml_id(id).to_string();
            for name in names {
                assert!(text.contains(name), "{id}: {text}");
            }
        }
    }

    #[test]
    fn every_number_of_ggml_has_a_meaning_and_others_are_unknown() {
        for id in (0..=43).chain([134, 135, 142, 143, 335]) {
            assert!(!matches!(type_from_ggml_id(id), TypeId::Unknown(_)), "{id}");
        }
        for id in [44, 100, 136, 1000, u32::MAX] {
            assert_eq!(type_from_ggml_id(id), TypeId::Unknown(id));
        }
    }

    #[test]
    fn sizes_tell_the_three_formats_of_number_42_apart() {
        let mut sizes = vec![TensorType::Q2_0.storage_bytes(256)];
        sizes.extend(
            rivals(TensorType::Q2_0)
                .iter()
                .map(|rival| rival.storage_bytes(256)),
        );
        assert_eq!(sizes, [Some(72), Some(68), Some(42)]);
        assert_eq!(rivals(TensorType::Q2_0)[0].storage_bytes(64), None);
        assert_eq!(rivals(TensorType::F16), []);
    }
}
