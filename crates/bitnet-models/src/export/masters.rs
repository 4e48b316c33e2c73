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

    /// How far the ternary weights are from the dense ones. A weight goes to the nearer of 0 and the scale, so its
    /// distance follows from its magnitude (on the border both are as far).
    pub fn error(&self) -> Result<ValueError, QuantError> {
        let cols = self.trits.cols();
        let ScaleLayout::PerTensor(scale) = self.trits.scale() else {
            unreachable!("absmean has one scale")
        };
        let mut values = vec![0.0f32; cols];
        let (mut max, mut squared_error, mut squared) = (0f32, 0f64, 0f64);
        for bytes in self.bytes.chunks_exact(cols * self.ty.block_bytes()) {
            dequantize(self.ty, bytes, &mut values)?;
            for run in values.chunks(RUN) {
                let mut lanes = [[0f32; LANES]; 3];
                for values in run.chunks(LANES) {
                    let [error, square, most] = &mut lanes;
                    for (lane, value) in values.iter().enumerate() {
                        let magnitude = value.abs();
                        let nearest = if magnitude > 0.5 * scale { scale } else { 0.0 };
                        let off = (magnitude - nearest).abs();
                        error[lane] += off * off;
                        square[lane] += magnitude * magnitude;
                        most[lane] = most[lane].max(off);
                    }
                }
                let sum = |lanes: [f32; LANES]| f64::from(lanes.iter().sum::<f32>());
                squared_error += sum(lanes[0]);
                squared += sum(lanes[1]);
                max = lanes[2].iter().fold(max, |max, off| max.max(*off));
            }
        }
        Ok(ValueError::new(max, squared_error, squared))
    }
}

/// Independent partial sums, so that the loop vectorises.
const LANES: usize = 16;
/// Squares summed in f32 before they go into an f64: few enough to lose nothing that a report shows.
const RUN: usize = 64 * LANES;
