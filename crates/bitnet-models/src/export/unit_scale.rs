//! Scales that a block type cannot hold, kept beside it.
//!
//! llama.cpp multiplies the output of a projection by an optional tensor `blk.N.attn_q.scale` of one F32. A matrix
//! whose one scale is no f16 number is written with block scales of 1 and its scale in that tensor: nothing is rounded.

use bitnet_quantization::{QuantError, ScaleLayout, TernaryRows};

/// Rows with another scale for the whole tensor.
pub(super) struct RescaledRows<'a> {
    rows: Box<dyn TernaryRows + 'a>,
    scale: f32,
}

impl<'a> RescaledRows<'a> {
    /// `rows`, which have one scale, with `scale` in its place.
    pub fn new(rows: Box<dyn TernaryRows + 'a>, scale: f32) -> Self {
        Self { rows, scale }
    }
}

impl TernaryRows for RescaledRows<'_> {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn cols(&self) -> usize {
        self.rows.cols()
    }

    fn scale(&self) -> ScaleLayout {
        ScaleLayout::PerTensor(self.scale)
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        self.rows.read_row(row, trits, scales)
    }
}
