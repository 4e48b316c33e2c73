//! Rows of values in the bytes of a tensor type, one row at a time.

use bitnet_quantization::{I2sEncoder, QuantError, TensorType, quantize};

use crate::exit::CliError;
use crate::synth::weights;

/// Weights that share a scale in files of the types that have a scale for each group (Q2_0): published ones have 128.
const GROUP_LEN: usize = 128;

/// One ternary tensor being encoded, row by row.
pub struct TernaryEncoder {
    kind: Kind,
    seed: u64,
    tensor: u64,
    scale: f32,
    trits: Vec<i8>,   // [cols]
    values: Vec<f32>, // [cols], for block types
}

enum Kind {
    I2s(I2sEncoder),
    Blocks(TensorType),
}

impl TernaryEncoder {
    /// An encoder of tensor `tensor` of the model of `seed`, with rows of `cols` weights, as `ty`.
    pub fn new(ty: TensorType, seed: u64, tensor: u64, cols: usize) -> TernaryEncoder {
        let kind = if ty == TensorType::I2S {
            Kind::I2s(I2sEncoder::new())
        } else {
            Kind::Blocks(ty)
        };
        let values = vec![0.0; if ty == TensorType::I2S { 0 } else { cols }];
        TernaryEncoder {
            kind,
            seed,
            tensor,
            scale: weights::ternary_scale(cols),
            trits: vec![0; cols],
            values,
        }
    }

    /// Appends row `row`.
    ///
    /// # Errors
    /// When the type cannot store a row of this length.
    pub fn push_row(&mut self, row: usize, out: &mut Vec<u8>) -> Result<(), CliError> {
        weights::trits(self.seed, self.tensor, row, &mut self.trits);
        match &mut self.kind {
            Kind::I2s(encoder) => encoder.push(&self.trits, out).map_err(internal),
            Kind::Blocks(ty) => {
                let grouped = *ty == TensorType::Q2_0;
                let groups = self
                    .trits
                    .chunks(GROUP_LEN)
                    .zip(self.values.chunks_mut(GROUP_LEN));
                for (group, (trits, values)) in groups.enumerate() {
                    let factor = if grouped {
                        weights::group_factor(self.seed, self.tensor, row, group)
                    } else {
                        1.0
                    };
                    let scale = self.scale * factor;
                    for (value, trit) in values.iter_mut().zip(trits) {
                        *value = f32::from(*trit) * scale;
                    }
                }
                quantize(*ty, &self.values, out).map_err(internal)
            }
        }
    }

    /// Appends what follows the last row.
    ///
    /// # Errors
    /// As [`TernaryEncoder::push_row`].
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), CliError> {
        match self.kind {
            Kind::I2s(encoder) => encoder.finish(self.scale, out).map_err(internal),
            Kind::Blocks(_) => Ok(()),
        }
    }
}

/// Appends row `row` of the dense tensor `tensor` (embedding or head) of the model of `seed` as `ty`.
///
/// # Errors
/// When the type cannot store a row of this length.
pub fn dense_row(
    ty: TensorType,
    (seed, tensor): (u64, u64),
    row: usize,
    values: &mut [f32],
    out: &mut Vec<u8>,
) -> Result<(), CliError> {
    weights::dense_row(seed, tensor, row, values);
    quantize(ty, values, out).map_err(internal)
}

/// Whether a matrix with rows of `cols` weights can be stored as `ty`.
pub fn fits(ty: TensorType, cols: usize) -> bool {
    let block = if ty == TensorType::I2S {
        I2S_GROUP
    } else {
        ty.block_len()
    };
    cols.is_multiple_of(block)
}

/// I2_S groups 128 weights over the flattened tensor; rows of whole groups are what every engine reads.
const I2S_GROUP: usize = 128;

fn internal(error: QuantError) -> CliError {
    CliError::runtime(
        format!("cannot encode the weights: {error}"),
        "choose another --type or --head-type",
    )
}
