//! Dense weights made ternary: how far the trits are from what they were made of.

use bitnet_quantization::{
    AbsmeanRows, QuantError, ScaleLayout, TensorType, TernaryRows, dequantize,
};

use super::report::ValueError;

/// A matrix of master weights and the trits that absmean makes of them.
pub(super) struct MasterRows<'a> {
    ty: TensorType,
    bytes: &'a [u8],
    trits: AbsmeanRows<'a>,
}

impl<'a> MasterRows<'a> {
    /// Takes the bytes of a whole tensor `[rows, cols]` of floats.
    pub fn new(
        ty: TensorType,
        (rows, cols): (usize, usize),
        bytes: &'a [u8],
    ) -> Result<Self, QuantError> {
        let trits = AbsmeanRows::new(ty, rows, cols, bytes)?;
        Ok(Self { ty, bytes, trits })
    }

    /// The trits.
    pub fn trits(&self) -> AbsmeanRows<'a> {
        self.trits
    }

    /// How far the ternary weights are from the dense ones.
    pub fn error(&self) -> Result<ValueError, QuantError> {
        let cols = self.trits.cols();
        let row_bytes = cols * self.ty.block_bytes();
        let ScaleLayout::PerTensor(scale) = self.trits.scale() else {
            unreachable!("absmean has one scale")
        };
        let (mut values, mut trits) = (vec![0.0f32; cols], vec![0i8; cols]);
        let (mut max, mut squared_error, mut squared) = (0f32, 0f64, 0f64);
        for (row, bytes) in self.bytes.chunks_exact(row_bytes).enumerate() {
            dequantize(self.ty, bytes, &mut values)?;
            self.trits.read_row(row, &mut trits, &mut [])?;
            for (values, trits) in values.chunks(LANES).zip(trits.chunks(LANES)) {
                let (mut error, mut square) = (0f32, 0f32);
                for (value, trit) in values.iter().zip(trits) {
                    let off = (value - scale * f32::from(*trit)).abs();
                    max = max.max(off);
                    error += off * off;
                    square += value * value;
                }
                squared_error += f64::from(error);
                squared += f64::from(square);
            }
        }
        Ok(ValueError::new(max, squared_error, squared))
    }
}

/// Squares summed in f32 before they go into an f64: few enough to lose nothing that a report shows.
const LANES: usize = 64;
