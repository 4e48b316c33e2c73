//! What a GGUF type number means, also the numbers that this build does not read.
//!
//! Numbers were given out by several projects at once: some were removed and taken again, some mean different
//! things in different forks. A loader must therefore name what it found and say why it stops; and for the numbers
//! that it does read, it must know who else writes them ([`candidates`]), because only the size tells them apart.
//! Source: ggml, bitnet.cpp, ik_llama.cpp and PrismML's forks.

use crate::foreign::ForeignType;
use crate::qtype::TensorType;

/// The meaning of a GGUF tensor type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeId {
    /// A type that this build reads.
    Supported(TensorType),
    /// A format that this build imports: its trits are read, nothing is written in it.
    Foreign(ForeignType),
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

/// One format that a number may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeCandidate {
    /// A type that this build reads.
    Tensor(TensorType),
    /// A format that this build imports.
    Foreign(ForeignType),
    /// One that it does not read.
    Other {
        /// Its name and writer.
        name: &'static str,
        /// Values per block.
        block_len: u64,
        /// Bytes per block.
        block_bytes: u64,
    },
}

impl TypeCandidate {
    /// Bytes that a tensor `[rows, cols]` may take in this format, `None` where it cannot be stored in it. The second
    /// is that of TL1 and TL2 with their scale behind the codes.
    pub fn tensor_bytes(&self, rows: u64, cols: u64) -> [Option<u64>; 2] {
        match *self {
            TypeCandidate::Tensor(ty) => {
                let whole = ty == TensorType::I2S || cols.is_multiple_of(ty.block_len() as u64);
                let n = rows.checked_mul(cols).filter(|_| whole);
                [n.and_then(|n| ty.storage_bytes(n)), None]
            }
            TypeCandidate::Foreign(ty) => {
                let bytes = ty.tensor_bytes(rows, cols);
                let tiles = matches!(ty, ForeignType::Tl1 | ForeignType::Tl2);
                let longer = bytes.filter(|_| tiles).and_then(|n| n.checked_add(32));
                [bytes, longer]
            }
            TypeCandidate::Other {
                block_len,
                block_bytes,
                ..
            } => {
                let whole = cols.is_multiple_of(block_len);
                let blocks = rows.checked_mul(cols / block_len).filter(|_| whole);
                [blocks.and_then(|n| n.checked_mul(block_bytes)), None]
            }
        }
    }

    /// What the number means where this is the one.
    pub const fn type_id(self) -> TypeId {
        match self {
            TypeCandidate::Tensor(ty) => TypeId::Supported(ty),
            TypeCandidate::Foreign(ty) => TypeId::Foreign(ty),
            TypeCandidate::Other { name, .. } => TypeId::Unsupported {
                name,
                why: NOT_TERNARY,
            },
        }
    }
}

/// The formats that share a number which its tensors' sizes decide; empty for a number of one meaning.
pub const fn candidates(id: u32) -> &'static [TypeCandidate] {
    match id {
        22 => &[TypeCandidate::Foreign(ForeignType::Iq2S)],
        36 => &[
            TypeCandidate::Tensor(TensorType::I2S),
            TypeCandidate::Other {
                name: "IQ4_NL_4_4 (removed from ggml)",
                block_len: 32,
                block_bytes: 18,
            },
        ],
        38 => &[
            TypeCandidate::Foreign(ForeignType::Tl1),
            TypeCandidate::Other {
                name: "IQ4_NL_8_8 (removed from ggml)",
                block_len: 32,
                block_bytes: 18,
            },
        ],
        39 => &[
            TypeCandidate::Foreign(ForeignType::Tl2),
            TypeCandidate::Other {
                name: "MXFP4 (llama.cpp)",
                block_len: 32,
                block_bytes: 17,
            },
        ],
        42 => &[
            TypeCandidate::Tensor(TensorType::Q2_0),
            TypeCandidate::Tensor(TensorType::Pq2_0),
            TypeCandidate::Foreign(ForeignType::Stq1_0),
        ],
        43 => &[
            TypeCandidate::Foreign(ForeignType::Stq1_0),
            TypeCandidate::Other {
                name: "Q1_0 in groups of 128 (PrismML's forks)",
                block_len: 128,
                block_bytes: 18,
            },
        ],
        134 => &[TypeCandidate::Foreign(ForeignType::Iq1Bn)],
        135 => &[TypeCandidate::Foreign(ForeignType::Iq2Bn)],
        142 => &[TypeCandidate::Tensor(TensorType::Pq2_0)],
        143 => &[TypeCandidate::Tensor(TensorType::Ptq1_0)],
        _ => &[],
    }
}

const K_QUANT: &str =
    "this build reads Q4_K, Q5_K and Q6_K of the K types; requantise the tensor to one of them";
const I_QUANT: &str = "codebook types are not read; requantise the tensor to Q4_K, Q6_K or Q8_0";
const ACTIVATIONS: &str = "it holds intermediate activations and never belongs in a file";
const NO_WEIGHTS: &str = "models store no weights in it";
const NOT_TERNARY: &str = "it is not ternary";
const OTHER_SIZE: &str =
    "its tensors have the size of none of these; export the model as I2_S, TQ2_0 or Q2_0";

/// What the type number `id` of a GGUF tensor means as far as the number alone tells; [`candidates`] has the formats
/// that sizes decide between.
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
        22 => ("IQ2_S", OTHER_SIZE),
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
            OTHER_SIZE,
        ),
        39 => ("TL2 (bitnet.cpp) or MXFP4 (llama.cpp)", OTHER_SIZE),
        40 => ("NVFP4 (llama.cpp) or an early Q1_0 (PrismML)", NOT_TERNARY),
        41 => ("Q1_0 (llama.cpp) or TQ3_0 (other forks)", NOT_TERNARY),
        43 => (
            "STQ1_0 (Tencent) or Q1_0 in groups of 128 (PrismML's forks)",
            OTHER_SIZE,
        ),
        134 => ("IQ1_BN (ik_llama.cpp)", OTHER_SIZE),
        135 => ("IQ2_BN (ik_llama.cpp)", OTHER_SIZE),
        335 => ("IQ2_BN_R4 (ik_llama.cpp)", OTHER_SIZE),
        _ => return TypeId::Unknown(id),
    };
    TypeId::Unsupported { name, why }
}

impl std::fmt::Display for TypeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TypeId::Supported(ty) => write!(f, "{ty}"),
            TypeId::Foreign(ty) => write!(f, "{ty}"),
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
        let sizes = candidates(42).iter().map(|c| c.tensor_bytes(1, 256)[0]);
        assert_eq!(sizes.collect::<Vec<_>>(), [Some(72), Some(68), Some(42)]);
        assert_eq!(candidates(42)[1].tensor_bytes(1, 64), [None, None]);
        assert_eq!(candidates(1), []);
    }

    #[test]
    fn the_first_candidate_is_what_the_number_alone_means() {
        for id in 0..400 {
            if let (Some(TypeCandidate::Tensor(ty)), known) =
                (candidates(id).first(), type_from_ggml_id(id))
            {
                assert_eq!(known, TypeId::Supported(*ty));
            }
        }
    }

    #[test]
    fn huge_shapes_have_no_size() {
        for id in [22, 36, 38, 39, 42, 43, 134, 135, 142, 143] {
            for candidate in candidates(id) {
                assert_eq!(candidate.tensor_bytes(u64::MAX, 1 << 40)[0], None, "{id}");
            }
        }
    }
}
