//! A ternary weight matrix, whatever it is stored as: rows of trits with their scales, decoded on demand.
//!
//! A weight is `trit * scale`; the scale always multiplies. Files that store the inverse are inverted by whoever
//! reads them, once. One row at a time is what a kernel needs to repack a tensor into its own layout without ever
//! holding it unpacked: the memory is one row of `i8`.

use crate::error::QuantError;

/// The most columns a ternary matrix may have: `i32::MAX / 128`, so that a row's dot product with int8
/// activations (each at most 128 in magnitude) can never overflow an `i32`.
pub const MAX_COLS: usize = (i32::MAX / 128) as usize;

/// How many scales a ternary matrix has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScaleLayout {
    /// One for the whole tensor.
    PerTensor(f32),
    /// One for every `block_len` weights along a row, read together with the row.
    PerBlock {
        /// Weights that share a scale; divides the number of columns.
        block_len: usize,
    },
}

impl ScaleLayout {
    /// Scales that [`TernaryRows::read_row`] writes for a row of `cols` weights: 0 for one scale per tensor.
    pub const fn scales_per_row(self, cols: usize) -> usize {
        match self {
            ScaleLayout::PerTensor(_) => 0,
            ScaleLayout::PerBlock { block_len } => cols / block_len,
        }
    }
}

/// Rows of trits with their scales: `[rows, cols]` = `[out_features, in_features]`.
pub trait TernaryRows: Sync {
    /// Output features.
    fn rows(&self) -> usize;

    /// Input features, at most [`MAX_COLS`].
    fn cols(&self) -> usize;

    /// Where the scales are. Never changes for one value.
    fn scale(&self) -> ScaleLayout;

    /// Decodes one row: `trits` `[cols]` becomes -1, 0, +1 and `scales` `[cols / block_len]` its finite block
    /// scales (`[0]` when there is one scale per tensor).
    ///
    /// # Errors
    /// [`QuantError::Row`] and [`QuantError::Buffer`] for a wrong call, [`QuantError::InvalidCode`] where the bytes
    /// hold no trit. The buffers' content is then unspecified.
    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError>;
}

/// A reader of one way of storing rows, whose shape and scales were checked when it was made: its [`TernaryRows`] but
/// for the decoding is the same for all.
pub(crate) trait StoredRows: Sync {
    /// The shape, and where the scales are. Never changes for one value.
    fn header(&self) -> (Shape, ScaleLayout);

    /// Decodes a row that is there into buffers of its lengths, as [`TernaryRows::read_row`] does.
    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), QuantError>;
}

impl<T: StoredRows> TernaryRows for T {
    fn rows(&self) -> usize {
        self.header().0.rows
    }

    fn cols(&self) -> usize {
        self.header().0.cols
    }

    fn scale(&self) -> ScaleLayout {
        self.header().1
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        let (shape, scale) = self.header();
        shape.check_read(row, trits, scales, scale)?;
        self.decode_row(row, trits, scales)
    }
}

/// A checked `[rows, cols]`: neither is zero, a row's dot product fits in an i32, the element count in a usize.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub rows: usize,
    pub cols: usize,
}

impl Shape {
    /// Checks the shape of a tensor stored as `format`, in whole blocks of `block_len` along a row.
    pub fn new(
        format: &'static str,
        rows: usize,
        cols: usize,
        block_len: usize,
    ) -> Result<Self, QuantError> {
        let refuse = |why| {
            Err(QuantError::Shape {
                format,
                rows,
                cols,
                why,
            })
        };
        if rows == 0 || cols == 0 {
            return refuse("a weight has at least one row and one column");
        }
        if cols > MAX_COLS {
            return refuse("more than 16777215 columns overflow the integer dot product");
        }
        // Four bytes an element, the widest type: no byte count overflows either.
        if rows
            .checked_mul(cols)
            .is_none_or(|n| n > isize::MAX as usize / 4)
        {
            return refuse("the element count does not fit in memory");
        }
        if !cols.is_multiple_of(block_len) {
            return refuse("the columns are not a multiple of the format's block length");
        }
        Ok(Shape { rows, cols })
    }

    pub fn elements(self) -> usize {
        self.rows * self.cols
    }

    /// Checks that the tensor's bytes are as many as they must be.
    pub fn check_bytes(
        self,
        format: &'static str,
        expected: usize,
        found: usize,
    ) -> Result<(), QuantError> {
        if expected == found {
            return Ok(());
        }
        Err(QuantError::ByteLength {
            format,
            rows: self.rows,
            cols: self.cols,
            expected,
            found,
        })
    }

    /// Checks the arguments of [`TernaryRows::read_row`].
    pub fn check_read(
        self,
        row: usize,
        trits: &[i8],
        scales: &[f32],
        layout: ScaleLayout,
    ) -> Result<(), QuantError> {
        if row >= self.rows {
            return Err(QuantError::Row {
                row,
                rows: self.rows,
            });
        }
        let n_scales = layout.scales_per_row(self.cols);
        for (what, expected, found) in [
            ("trits", self.cols, trits.len()),
            ("scales", n_scales, scales.len()),
        ] {
            if expected != found {
                return Err(QuantError::Buffer {
                    what,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// Checks a scale that a tensor has only one of.
pub(crate) fn finite_tensor_scale(format: &'static str, scale: f32) -> Result<f32, QuantError> {
    if scale.is_finite() {
        Ok(scale)
    } else {
        Err(QuantError::TensorScale { format, scale })
    }
}
