//! The tensor types that this build reads: their names, GGUF ids and block geometry.
//!
//! The ids are those of ggml; 36 is the one that Microsoft's bitnet.cpp put in the place of a removed type.
//! Source: ggml's `ggml.h` and gguf-py's `constants.py`; bitnet.cpp's `ggml.h` for I2_S.

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper 16 bits of 32-bit IEEE floats.
    BF16,
    /// Blocks of 32: f16 scale, 4-bit codes; `d * (q - 8)`.
    Q4_0,
    /// Blocks of 32: f16 scale and minimum, 4-bit codes; `d * q + m`.
    Q4_1,
    /// Blocks of 32: f16 scale, 5-bit codes; `d * (q - 16)`.
    Q5_0,
    /// Blocks of 32: f16 scale, int8 values.
    Q8_0,
    /// Super-blocks of 256: eight sub-blocks with 6-bit scales and minima, 4-bit codes.
    Q4K,
    /// Super-blocks of 256: eight sub-blocks with 6-bit scales and minima, 5-bit codes.
    Q5K,
    /// Super-blocks of 256: sixteen sub-blocks with 8-bit scales, 6-bit codes.
    Q6K,
    /// Trits as 2-bit codes with one f32 scale for the whole tensor, behind the codes.
    I2S,
    /// Trits in base 3 (five a byte), blocks of 256 with an f16 scale.
    Tq1_0,
    /// Trits as 2-bit codes, blocks of 256 with an f16 scale.
    Tq2_0,
    /// Trits as 2-bit codes, blocks of 64 with an f16 scale.
    Q2_0,
    /// Trits as 2-bit codes, blocks of 128 with an f16 scale; PrismML's, first written under Q2_0's number.
    Pq2_0,
    /// Trits in base 3 (five a byte), blocks of 128 with an f16 scale; PrismML's.
    Ptq1_0,
}

/// Bytes that follow the codes of every I2_S tensor: the f32 scale and 28 bytes of padding.
pub const I2S_TRAILER_BYTES: usize = 32;

impl TensorType {
    /// Every type, in the order of the GGUF ids.
    pub const ALL: &'static [TensorType] = &[
        TensorType::F32,
        TensorType::F16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q8_0,
        TensorType::Q4K,
        TensorType::Q5K,
        TensorType::Q6K,
        TensorType::BF16,
        TensorType::Tq1_0,
        TensorType::Tq2_0,
        TensorType::I2S,
        TensorType::Q2_0,
        TensorType::Pq2_0,
        TensorType::Ptq1_0,
    ];

    /// The name that ggml's tools print, e.g. `Q6_K`.
    pub const fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::BF16 => "BF16",
            TensorType::Q4_0 => "Q4_0",
            TensorType::Q4_1 => "Q4_1",
            TensorType::Q5_0 => "Q5_0",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q4K => "Q4_K",
            TensorType::Q5K => "Q5_K",
            TensorType::Q6K => "Q6_K",
            TensorType::I2S => "I2_S",
            TensorType::Tq1_0 => "TQ1_0",
            TensorType::Tq2_0 => "TQ2_0",
            TensorType::Q2_0 => "Q2_0",
            TensorType::Pq2_0 => "PQ2_0",
            TensorType::Ptq1_0 => "PTQ1_0",
        }
    }

    /// The type of this name, upper or lower case.
    ///
    /// ```
    /// use bitnet_quantization::TensorType;
    /// assert_eq!(TensorType::from_name("q6_k"), Some(TensorType::Q6K));
    /// ```
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// The number that stands for this type in a GGUF file.
    pub const fn ggml_id(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q4_1 => 3,
            TensorType::Q5_0 => 6,
            TensorType::Q8_0 => 8,
            TensorType::Q4K => 12,
            TensorType::Q5K => 13,
            TensorType::Q6K => 14,
            TensorType::BF16 => 30,
            TensorType::Tq1_0 => 34,
            TensorType::Tq2_0 => 35,
            TensorType::I2S => 36,
            TensorType::Q2_0 => 42,
            TensorType::Pq2_0 => 142,
            TensorType::Ptq1_0 => 143,
        }
    }

    /// Values per block; a row must be a multiple of it.
    ///
    /// For I2_S it is the four codes of one byte: its layouts group values over the flattened tensor, not by row
    /// (see [`I2sDialect`](crate::i2s::I2sDialect)).
    pub const fn block_len(self) -> usize {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 1,
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q5_0 | TensorType::Q8_0 => 32,
            TensorType::I2S => 4,
            TensorType::Q2_0 => 64,
            TensorType::Pq2_0 | TensorType::Ptq1_0 => 128,
            TensorType::Q4K
            | TensorType::Q5K
            | TensorType::Q6K
            | TensorType::Tq1_0
            | TensorType::Tq2_0 => 256,
        }
    }

    /// Bytes per block. An I2_S tensor has [`I2S_TRAILER_BYTES`] more at its end.
    pub const fn block_bytes(self) -> usize {
        match self {
            TensorType::F32 => 4,
            TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q4_0 | TensorType::Q2_0 => 18,
            TensorType::Q4_1 => 20,
            TensorType::Ptq1_0 => 28,
            TensorType::Q5_0 => 22,
            TensorType::Q8_0 | TensorType::Pq2_0 => 34,
            TensorType::Q4K => 144,
            TensorType::Q5K => 176,
            TensorType::Q6K => 210,
            TensorType::I2S => 1,
            TensorType::Tq1_0 => 54,
            TensorType::Tq2_0 => 66,
        }
    }

    /// Whether the type stores trits and nothing else.
    pub const fn is_ternary(self) -> bool {
        matches!(self, TensorType::I2S) || self.is_block_ternary()
    }

    /// Whether the type stores trits in blocks with an f16 scale each.
    pub const fn is_block_ternary(self) -> bool {
        matches!(
            self,
            TensorType::Tq1_0
                | TensorType::Tq2_0
                | TensorType::Q2_0
                | TensorType::Pq2_0
                | TensorType::Ptq1_0
        )
    }

    /// Whether the type stores plain floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, TensorType::F32 | TensorType::F16 | TensorType::BF16)
    }

    /// Bytes that `n_elements` values take, `None` when they are not whole blocks or the count does not fit in 64
    /// bits. For I2_S the trailer is included.
    pub const fn storage_bytes(self, n_elements: u64) -> Option<u64> {
        let block_len = self.block_len() as u64;
        if !n_elements.is_multiple_of(block_len) {
            return None;
        }
        let blocks = n_elements / block_len;
        match (blocks.checked_mul(self.block_bytes() as u64), self) {
            (Some(bytes), TensorType::I2S) => bytes.checked_add(I2S_TRAILER_BYTES as u64),
            (bytes, _) => bytes,
        }
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_lead_back_to_their_type() {
        for &ty in TensorType::ALL {
            assert_eq!(TensorType::from_name(ty.name()), Some(ty));
            assert_eq!(TensorType::from_name(&ty.name().to_lowercase()), Some(ty));
            assert_eq!(
                TensorType::ALL
                    .iter()
                    .filter(|other| other.ggml_id() == ty.ggml_id())
                    .count(),
                1
            );
        }
        assert_eq!(TensorType::from_name("Q2_K"), None);
        assert_eq!(TensorType::from_name(""), None);
    }

    #[test]
    fn storage_bytes_follow_the_block_geometry() {
        let table = [
            (TensorType::F32, 3, Some(12)),
            (TensorType::F16, 0, Some(0)),
            (TensorType::BF16, 5, Some(10)),
            (TensorType::Q4_0, 64, Some(36)),
            (TensorType::Q4_1, 64, Some(40)),
            (TensorType::Q5_0, 64, Some(44)),
            (TensorType::Q8_0, 64, Some(68)),
            (TensorType::Q8_0, 63, None),
            (TensorType::Q4K, 256, Some(144)),
            (TensorType::Q5K, 256, Some(176)),
            (TensorType::Q6K, 512, Some(420)),
            (TensorType::Q6K, 511, None),
            (TensorType::I2S, 128, Some(64)),
            (TensorType::I2S, 0, Some(32)),
            (TensorType::I2S, 127, None),
            (TensorType::Tq1_0, 256, Some(54)),
            (TensorType::Tq2_0, 256, Some(66)),
            (TensorType::Q2_0, 256, Some(72)),
            (TensorType::Q2_0, 32, None),
        ];
        for (ty, n, expected) in table {
            assert_eq!(ty.storage_bytes(n), expected, "{ty} of {n}");
        }
    }

    #[test]
    fn storage_bytes_refuse_what_overflows() {
        assert_eq!(TensorType::F32.storage_bytes(u64::MAX), None);
        assert_eq!(TensorType::F32.storage_bytes(1 << 62), None);
        assert_eq!(
            TensorType::F32.storage_bytes((1 << 62) - 1),
            Some(u64::MAX - 3)
        );
        assert_eq!(TensorType::Q8_0.storage_bytes(u64::MAX - 31), None);
        assert_eq!(
            TensorType::I2S.storage_bytes(u64::MAX - 3),
            Some((u64::MAX - 3) / 4 + 32)
        );
    }
}
