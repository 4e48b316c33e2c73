//! The ternary block types (TQ1_0, TQ2_0, Q2_0) as rows of trits.
//!
//! Files of these types usually come from checkpoints with one scale per tensor, and then every block repeats it.
//! Such a tensor reports one scale, so that it computes exactly what the checkpoint does: one integer sum over the
//! whole row. Only a tensor whose blocks really differ is summed block by block.

use crate::error::QuantError;
use crate::floats::f16_at;
use crate::qtype::TensorType;
use crate::ternary::{ScaleLayout, Shape, TernaryRows};
use crate::{q2_0, tq};

/// The trits of a TQ1_0, TQ2_0 or Q2_0 tensor in a file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct BlockTernaryRows<'a> {
    ty: TensorType,
    shape: Shape,
    bytes: &'a [u8],
    scale: ScaleLayout,
}

impl<'a> BlockTernaryRows<'a> {
    /// Takes the bytes of a whole tensor `[rows, cols]`.
    ///
    /// The scale is one for the tensor if all non-zero block scales are equal bit by bit (blocks of scale zero then
    /// decode to zero trits), else one per block.
    ///
    /// # Errors
    /// A type that is none of the three, a row that is not whole blocks, another byte count than the blocks have, a
    /// scale that is NaN or infinite. Codes are checked when their row is read.
    pub fn new(
        ty: TensorType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, QuantError> {
        if !matches!(ty, TensorType::Tq1_0 | TensorType::Tq2_0 | TensorType::Q2_0) {
            let why = "TQ1_0, TQ2_0 and Q2_0 are the ternary block types";
            return Err(QuantError::NotPossible {
                format: ty.name(),
                operation: "decoded to block trits",
                why,
            });
        }
        let shape = Shape::new(ty.name(), rows, cols, ty.block_len())?;
        let blocks_per_row = cols / ty.block_len();
        shape.check_bytes(
            ty.name(),
            rows * blocks_per_row * ty.block_bytes(),
            bytes.len(),
        )?;

        let mut common = 0.0f32;
        let mut all_equal = true;
        for (index, block) in bytes.chunks_exact(ty.block_bytes()).enumerate() {
            let scale = f16_at(block, scale_at(ty));
            if !scale.is_finite() {
                let (row, block) = (index / blocks_per_row, index % blocks_per_row);
                return Err(QuantError::BlockScale {
                    format: ty.name(),
                    row,
                    block,
                    scale,
                });
            }
            if common == 0.0 {
                common = scale;
            }
            all_equal &= scale == common || scale == 0.0;
        }
        let scale = match all_equal {
            true => ScaleLayout::PerTensor(common),
            false => ScaleLayout::PerBlock {
                block_len: ty.block_len(),
            },
        };
        Ok(BlockTernaryRows {
            ty,
            shape,
            bytes,
            scale,
        })
    }

    /// The type the tensor is stored as.
    pub fn tensor_type(&self) -> TensorType {
        self.ty
    }
}

impl TernaryRows for BlockTernaryRows<'_> {
    fn rows(&self) -> usize {
        self.shape.rows
    }

    fn cols(&self) -> usize {
        self.shape.cols
    }

    fn scale(&self) -> ScaleLayout {
        self.scale
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        self.shape.check_read(row, trits, scales, self.scale)?;
        let (block_len, block_bytes) = (self.ty.block_len(), self.ty.block_bytes());
        let row_bytes = self.shape.cols / block_len * block_bytes;
        let bytes = &self.bytes[row * row_bytes..][..row_bytes];
        match self.ty {
            TensorType::Tq1_0 => decode_row(bytes, trits, tq::decode_tq1_0),
            TensorType::Tq2_0 => decode_row(bytes, trits, tq::decode_tq2_0),
            _ => decode_row(bytes, trits, q2_0::decode_q2_0),
        }
        if trits.iter().fold(false, |bad, &trit| bad | (trit == 2)) {
            let col = trits.iter().position(|&trit| trit == 2).unwrap_or_default();
            return Err(QuantError::InvalidCode {
                format: self.ty.name(),
                row,
                col,
                code: 3,
            });
        }
        let blocks = bytes
            .chunks_exact(block_bytes)
            .map(|block| f16_at(block, scale_at(self.ty)));
        match self.scale {
            ScaleLayout::PerBlock { .. } => scales
                .iter_mut()
                .zip(blocks)
                .for_each(|(out, scale)| *out = scale),
            ScaleLayout::PerTensor(_) => {
                for (trits, scale) in trits.chunks_exact_mut(block_len).zip(blocks) {
                    if scale == 0.0 {
                        trits.fill(0);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where a block keeps its f16 scale: the TQ types behind the codes, Q2_0 before them.
fn scale_at(ty: TensorType) -> usize {
    if ty == TensorType::Q2_0 {
        0
    } else {
        ty.block_bytes() - 2
    }
}

fn decode_row<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    trits: &mut [i8],
    decode: fn(&[u8; BYTES], &mut [i8; LEN]) -> f32,
) {
    for (block, trits) in bytes
        .as_chunks::<BYTES>()
        .0
        .iter()
        .zip(trits.as_chunks_mut::<LEN>().0)
    {
        decode(block, trits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::quantize;

    const TYPES: [TensorType; 3] = [TensorType::Tq1_0, TensorType::Tq2_0, TensorType::Q2_0];

    fn encoded(ty: TensorType, values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        quantize(ty, values, &mut bytes).unwrap();
        bytes
    }

    /// Two rows of two 256-blocks, the trits cycling -1, 0, 1, with a scale for each 256.
    fn values(scales: [f32; 4]) -> Vec<f32> {
        (0..1024)
            .map(|i| (i % 3) as f32 - 1.0)
            .zip(0..)
            .map(|(trit, i)| trit * scales[i / 256])
            .collect()
    }

    #[test]
    fn equal_block_scales_are_one_scale_for_the_tensor() {
        for ty in TYPES {
            let bytes = encoded(ty, &values([0.5; 4]));
            let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
            assert_eq!(rows.scale(), ScaleLayout::PerTensor(0.5));
            let mut trits = [9; 512];
            rows.read_row(1, &mut trits, &mut []).unwrap();
            assert!(
                trits
                    .iter()
                    .enumerate()
                    .all(|(i, &trit)| trit == ((512 + i) % 3) as i8 - 1),
                "{ty}"
            );
        }
    }

    #[test]
    fn blocks_of_scale_zero_join_the_common_scale_with_zero_trits() {
        for ty in TYPES {
            let mut bytes = encoded(ty, &values([0.5; 4]));
            // The codes of the first block stay as they are; only its scale becomes zero.
            let at = scale_at(ty);
            bytes[at..at + 2].copy_from_slice(&[0, 0]);
            let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
            assert_eq!(rows.scale(), ScaleLayout::PerTensor(0.5), "{ty}");
            let mut trits = [9; 512];
            rows.read_row(0, &mut trits, &mut []).unwrap();
            let (zeroed, kept) = trits.split_at(ty.block_len());
            assert!(zeroed.iter().all(|&trit| trit == 0), "{ty}");
            assert!(kept.iter().any(|&trit| trit != 0), "{ty}");
        }
    }

    #[test]
    fn a_tensor_of_zeros_has_scale_zero() {
        for ty in TYPES {
            let bytes = encoded(ty, &[0.0; 256]);
            let rows = BlockTernaryRows::new(ty, 1, 256, &bytes).unwrap();
            assert_eq!(rows.scale(), ScaleLayout::PerTensor(0.0));
        }
    }

    #[test]
    fn different_block_scales_are_read_with_their_row() {
        for ty in TYPES {
            let bytes = encoded(ty, &values([0.5, 0.25, 2.0, 1.0]));
            let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
            let block_len = ty.block_len();
            assert_eq!(rows.scale(), ScaleLayout::PerBlock { block_len });
            let (mut trits, mut scales) = ([9; 512], vec![0.0; 512 / block_len]);
            rows.read_row(1, &mut trits, &mut scales).unwrap();
            assert!(
                scales[..scales.len() / 2].iter().all(|&scale| scale == 2.0),
                "{ty}"
            );
            assert!(
                scales[scales.len() / 2..].iter().all(|&scale| scale == 1.0),
                "{ty}"
            );
        }
    }

    #[test]
    fn a_scale_that_is_not_finite_is_refused_with_its_place() {
        for ty in TYPES {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut bytes = encoded(ty, &values([0.5; 4]));
                // The last block of row 1.
                let block = 1024 / ty.block_len() - 1;
                let at = block * ty.block_bytes() + scale_at(ty);
                bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(bad).to_le_bytes());
                let error = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap_err();
                let QuantError::BlockScale { row, block, .. } = error else {
                    panic!("{ty}: {error}")
                };
                assert_eq!((row, block), (1, 512 / ty.block_len() - 1));
            }
        }
    }

    #[test]
    fn code_three_is_refused_with_its_row_and_column() {
        for (ty, byte, shift, col) in [
            (TensorType::Tq2_0, 66 + 40, 4, 256 + 128 + 64 + 8),
            (TensorType::Q2_0, 18 + 2 + 3, 2, 64 + 13),
        ] {
            let mut bytes = encoded(ty, &values([0.5; 4]));
            let row_bytes = bytes.len() / 2;
            bytes[row_bytes + byte] |= 3 << shift;
            let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
            let mut trits = [0; 512];
            assert!(rows.read_row(0, &mut trits, &mut []).is_ok());
            let expected = QuantError::InvalidCode {
                format: ty.name(),
                row: 1,
                col,
                code: 3,
            };
            assert_eq!(rows.read_row(1, &mut trits, &mut []), Err(expected));
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        for ty in TYPES {
            let bytes = encoded(ty, &values([0.5; 4]));
            for len in [0, 1, bytes.len() - 1] {
                let error = BlockTernaryRows::new(ty, 2, 512, &bytes[..len]).unwrap_err();
                assert!(matches!(error, QuantError::ByteLength { found, .. } if found == len));
            }
            for (rows, cols) in [
                (0, 512),
                (2, 0),
                (2, 511),
                (1 << 40, 1 << 40),
                (2, usize::MAX),
            ] {
                let error = BlockTernaryRows::new(ty, rows, cols, &bytes).unwrap_err();
                assert!(
                    matches!(error, QuantError::Shape { .. }),
                    "[{rows}, {cols}]: {error}"
                );
            }
            let rows = BlockTernaryRows::new(ty, 2, 512, &bytes).unwrap();
            assert_eq!(
                rows.read_row(2, &mut [0; 512], &mut []),
                Err(QuantError::Row { row: 2, rows: 2 })
            );
            assert!(matches!(
                rows.read_row(0, &mut [0; 511], &mut []),
                Err(QuantError::Buffer { .. })
            ));
            assert!(matches!(
                rows.read_row(0, &mut [0; 512], &mut [0.0]),
                Err(QuantError::Buffer { .. })
            ));
        }
        assert!(BlockTernaryRows::new(TensorType::Q8_0, 1, 32, &[0; 34]).is_err());
    }
}
