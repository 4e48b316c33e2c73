//! The ternary block types (TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0) as rows of trits.
//!
//! Files of these types usually come from checkpoints with one scale per tensor, and then every block repeats it.
//! Such a tensor reports one scale, so that it computes exactly what the checkpoint does: one integer sum over the
//! whole row. Only a tensor whose blocks really differ is summed block by block, in the longest blocks whose scales
//! agree: the same weights give the same bytes whichever type they are stored in.

use crate::error::QuantError;
use crate::floats::f16_at;
use crate::qtype::TensorType;
use crate::ternary::{ScaleLayout, Shape, StoredRows};
use crate::{q2_0, tq};

/// The trits of a tensor of one of the ternary block types in a file's bytes.
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
    /// decode to zero trits), else one for each row, or for runs of blocks, where those agree, else one per block.
    ///
    /// # Errors
    /// A type that is none of them, a row that is not whole blocks, another byte count than the blocks have, a
    /// scale that is NaN or infinite. Codes are checked when their row is read.
    pub fn new(
        ty: TensorType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Self, QuantError> {
        if !ty.is_block_ternary() {
            let why = "TQ1_0, TQ2_0, Q2_0, PQ2_0 and PTQ1_0 are the ternary block types";
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

        let blocks = bytes.chunks_exact(ty.block_bytes());
        let scales = blocks.map(|block| f16_at(block, scale_at(ty)));
        let bad = scales
            .clone()
            .enumerate()
            .find(|(_, scale)| !scale.is_finite());
        if let Some((index, scale)) = bad {
            let (row, block) = (index / blocks_per_row, index % blocks_per_row);
            return Err(QuantError::BlockScale {
                format: ty.name(),
                row,
                block,
                scale,
            });
        }
        let scale = common_layout(cols, ty.block_len(), scales);
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

impl StoredRows for BlockTernaryRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, self.scale)
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let (block_len, block_bytes) = (self.ty.block_len(), self.ty.block_bytes());
        let row_bytes = self.shape.cols / block_len * block_bytes;
        let bytes = &self.bytes[row * row_bytes..][..row_bytes];
        match self.ty {
            TensorType::Tq1_0 => decode_row(bytes, trits, tq::decode_tq1_0),
            TensorType::Tq2_0 => decode_row(bytes, trits, tq::decode_tq2_0),
            TensorType::Ptq1_0 => decode_row(bytes, trits, tq::decode_ptq1_0),
            TensorType::Pq2_0 => decode_row(bytes, trits, q2_0::decode_pq2_0),
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
        let run = match self.scale {
            ScaleLayout::PerBlock { block_len } => block_len / self.ty.block_len(),
            ScaleLayout::PerTensor(_) => usize::MAX,
        };
        scales.fill(0.0);
        for (i, (trits, scale)) in trits.chunks_exact_mut(block_len).zip(blocks).enumerate() {
            match scales.get_mut(i / run) {
                _ if scale == 0.0 && run > 1 => trits.fill(0),
                Some(out) => *out = scale,
                None => {}
            }
        }
        Ok(())
    }
}

/// Lengths that blocks of a row of `cols` weights may have together, longest first: also those of dense tensors.
pub(crate) fn longest_blocks(cols: usize) -> impl Iterator<Item = usize> {
    // Below whole rows, the lengths of the block types that files come from. A block of one would hold anything.
    let lens = [cols, 256, 128, 64, 32].into_iter();
    lens.filter(move |&len| len > 1 && len <= cols && cols.is_multiple_of(len))
}

/// One scale for the tensor if all scales of its blocks agree, else one for the longest blocks whose scales agree. A
/// scale of zero agrees with any.
pub(crate) fn common_layout(
    cols: usize,
    block_len: usize,
    scales: impl Iterator<Item = f32> + Clone,
) -> ScaleLayout {
    let mut nonzero = scales.clone().filter(|scale| *scale != 0.0);
    let first = nonzero.next().unwrap_or(0.0);
    if nonzero.all(|scale| scale == first) {
        return ScaleLayout::PerTensor(first);
    }
    let agree_in_runs = |len: &usize| {
        let run = len / block_len;
        let mut common = 0.0;
        len.is_multiple_of(block_len)
            && scales.clone().enumerate().all(|(block, scale)| {
                if block % run == 0 || common == 0.0 {
                    common = scale;
                }
                scale == common || scale == 0.0
            })
    };
    ScaleLayout::PerBlock {
        block_len: longest_blocks(cols)
            .find(agree_in_runs)
            .unwrap_or(block_len),
    }
}

/// Appends one row `[cols]` of trits (already checked) as blocks of `ty`; `scale` gives the f16 bytes of each block.
/// The caller has made sure that the row is whole blocks.
pub(crate) fn encode_row(
    ty: TensorType,
    trits: &[i8],
    scales: impl Iterator<Item = [u8; 2]>,
    out: &mut Vec<u8>,
) {
    match ty {
        TensorType::Tq1_0 => encode_blocks(trits, scales, out, tq::encode_tq1_0),
        TensorType::Tq2_0 => encode_blocks(trits, scales, out, tq::encode_tq2_0),
        TensorType::Ptq1_0 => encode_blocks(trits, scales, out, tq::encode_ptq1_0),
        TensorType::Pq2_0 => encode_blocks(trits, scales, out, q2_0::encode_pq2_0),
        _ => encode_blocks(trits, scales, out, q2_0::encode_q2_0),
    }
}

fn encode_blocks<const BYTES: usize, const LEN: usize>(
    trits: &[i8],
    scales: impl Iterator<Item = [u8; 2]>,
    out: &mut Vec<u8>,
    encode: impl Fn(&[i8; LEN], [u8; 2]) -> [u8; BYTES],
) {
    for (trits, scale) in trits.as_chunks::<LEN>().0.iter().zip(scales) {
        out.extend_from_slice(&encode(trits, scale));
    }
}

/// Where a block keeps its f16 scale: the base-3 types and TQ2_0 behind the codes, Q2_0 and PQ2_0 before them.
fn scale_at(ty: TensorType) -> usize {
    if matches!(ty, TensorType::Q2_0 | TensorType::Pq2_0) {
        0
    } else {
        ty.block_bytes() - 2
    }
}

fn decode_row<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    trits: &mut [i8],
    decode: impl Fn(&[u8; BYTES], &mut [i8; LEN]) -> f32,
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
mod tests;
