//! The two orders in which files keep the rows of query and key projections.
//!
//! A rotation turns pairs of dimensions of a head. Hugging Face checkpoints pair the first half with the second;
//! converters to GGUF's `llama` architecture move the rows of each head so that the pairs lie side by side:
//!
//! ```text
//! row 2 i + l of a head in pairs = row l head_dim/2 + i of the same head in halves        i < head_dim/2, l < 2
//! ```
//! Moving packed rows is exact. Source: `permute` of llama.cpp's converter.

use bitnet_kernels::RopeStyle;
use bitnet_quantization::{QuantError, ScaleLayout, TernaryRows};

/// The row, in the other order, that stands at `row` of a matrix in the order of `style`; `head_dim` is even.
pub(crate) fn other_row(row: usize, head_dim: usize, style: RopeStyle) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    let within = match style {
        RopeStyle::Norm => within % 2 * half + within / 2,
        RopeStyle::Neox => within % half * 2 + within / half,
    };
    head * head_dim + within
}

/// A query or key projection in the other order.
pub(crate) struct ReorderedRows<'a> {
    rows: Box<dyn TernaryRows + 'a>,
    head_dim: usize,
    style: RopeStyle,
}

impl<'a> ReorderedRows<'a> {
    /// `rows`, which are in the other order, in the order of `style`. The rows are whole heads of an even `head_dim`.
    pub fn new(rows: Box<dyn TernaryRows + 'a>, head_dim: usize, style: RopeStyle) -> Self {
        Self {
            rows,
            head_dim,
            style,
        }
    }
}

impl TernaryRows for ReorderedRows<'_> {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn cols(&self) -> usize {
        self.rows.cols()
    }

    fn scale(&self) -> ScaleLayout {
        self.rows.scale()
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        let row = other_row(row, self.head_dim, self.style);
        self.rows.read_row(row, trits, scales)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_undo_each_other_within_each_head() {
        let in_pairs: Vec<usize> = (0..8)
            .map(|row| other_row(row, 4, RopeStyle::Norm))
            .collect();
        assert_eq!(in_pairs, [0, 2, 1, 3, 4, 6, 5, 7]);
        for head_dim in [2, 6, 48, 128] {
            for row in 0..3 * head_dim {
                let there = other_row(row, head_dim, RopeStyle::Norm);
                assert_eq!(other_row(there, head_dim, RopeStyle::Neox), row);
                assert_eq!(there / head_dim, row / head_dim);
            }
        }
    }
}
