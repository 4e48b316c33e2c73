//! The one error type of this crate: which tensor format, where in it, what was expected and what was found.
//!
//! Everything here can be caused by a file, so nothing here is ever a panic. The caller knows the tensor's name
//! and wraps these with it.

/// Why bytes are not the weights they claim to be, or why values cannot be written in a format.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// The shape cannot exist in this format.
    #[error("{format} weights [{rows}, {cols}]: {why}")]
    Shape {
        /// Name of the format, e.g. `I2_S`.
        format: &'static str,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// The rule that is broken.
        why: &'static str,
    },

    /// The byte count does not belong to the shape.
    #[error(
        "{format} weights [{rows}, {cols}] take {expected} bytes, found {found}: \
         the file is cut short, or the tensor is of another type"
    )]
    ByteLength {
        /// Name of the format.
        format: &'static str,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes that were handed over.
        found: usize,
    },

    /// A whole-block conversion was given a byte or value count that is not whole blocks, or two that disagree.
    #[error(
        "{format}: {n_bytes} bytes and {n_values} values do not match \
         (blocks of {block_bytes} bytes for {block_len} values)"
    )]
    Blocks {
        /// Name of the format.
        format: &'static str,
        /// Values per block.
        block_len: usize,
        /// Bytes per block.
        block_bytes: usize,
        /// Bytes at hand (0 when encoding).
        n_bytes: usize,
        /// Values at hand.
        n_values: usize,
    },

    /// A row was asked for that the matrix does not have.
    #[error("row {row} was asked of a matrix with {rows} rows")]
    Row {
        /// The row asked for.
        row: usize,
        /// Rows there are.
        rows: usize,
    },

    /// A caller's buffer has the wrong length.
    #[error("the {what} buffer has {found} elements, expected {expected}")]
    Buffer {
        /// Which buffer: `trits`, `scales`, `activations`.
        what: &'static str,
        /// Elements it must have.
        expected: usize,
        /// Elements it has.
        found: usize,
    },

    /// A 2-bit code that stands for no trit.
    #[error(
        "{format} weights: code {code} at row {row}, column {col} is not a trit (0, 1, 2 stand for -1, 0, +1): \
         the data are damaged or written in another layout"
    )]
    InvalidCode {
        /// Name of the format.
        format: &'static str,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// The code found.
        code: u8,
    },

    /// An index that no group of weights has.
    #[error(
        "{format} weights: the code at row {row}, column {col} stands for no group of trits: the data are damaged, or \
         their tiles have other sizes"
    )]
    TableIndex {
        /// Name of the format.
        format: &'static str,
        /// Row of the group.
        row: usize,
        /// Its first column.
        col: usize,
    },

    /// A scale for the whole tensor that is NaN or infinite.
    #[error("{format} weights: the tensor's scale is {scale}, expected a finite number")]
    TensorScale {
        /// Name of the format.
        format: &'static str,
        /// The scale found.
        scale: f32,
    },

    /// A block's scale that is NaN or infinite.
    #[error(
        "{format} weights: the scale of row {row}, block {block} is {scale}, expected a finite number"
    )]
    BlockScale {
        /// Name of the format.
        format: &'static str,
        /// Row of the block.
        row: usize,
        /// Block within the row.
        block: usize,
        /// The scale found.
        scale: f32,
    },

    /// A bias that makes a group's weights something else than `-scale`, `0` and `scale`.
    #[error(
        "{format} weights: row {row}, group {block} has the bias {bias} beside the scale {scale}; ternary weights have \
         its negative"
    )]
    GroupBias {
        /// Name of the format.
        format: &'static str,
        /// Row of the group.
        row: usize,
        /// Group within the row.
        block: usize,
        /// Its scale.
        scale: f32,
        /// Its bias.
        bias: f32,
    },

    /// Weights of a codebook that is not ternary.
    #[error(
        "{format} weights: row {row} has the magnitudes {magnitude} and {other} in the 32 weights from column {col}: they \
         are no trits, and a ternary model written in this codebook, which has no 0, has lost its zeros"
    )]
    Codebook {
        /// Name of the format.
        format: &'static str,
        /// Row of the weights.
        row: usize,
        /// Column of the first of them.
        col: usize,
        /// The magnitude of the first.
        magnitude: f32,
        /// Another among them.
        other: f32,
    },

    /// A stored floating-point weight that is NaN or infinite.
    #[error("{format} weights: {value} at row {row}, column {col}, expected a finite number")]
    NonFiniteWeight {
        /// Name of the format.
        format: &'static str,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// The weight found.
        value: f32,
    },

    /// A value that cannot be written: NaN, infinite, or too large for the format's f16 scale.
    #[error(
        "value {value} at index {index} cannot be written as {format}: not finite, or beyond its range"
    )]
    Unwritable {
        /// Name of the format.
        format: &'static str,
        /// Index of the value (of the block's first value, when its scale overflows).
        index: usize,
        /// The value, or the scale that overflows.
        value: f32,
    },

    /// A trit to be written that is not -1, 0 or +1.
    #[error("trit {trit} at index {index}: only -1, 0 and +1 can be written")]
    InvalidTrit {
        /// Index among the trits handed over.
        index: usize,
        /// What was found there.
        trit: i8,
    },

    /// A scale that the format cannot hold: the weights would not be the same.
    #[error("{format} cannot hold the scale {scale} of row {row}, column {col}: {why}")]
    ScaleLost {
        /// Name of the format.
        format: &'static str,
        /// Row of the first weight concerned.
        row: usize,
        /// Column of the first weight concerned.
        col: usize,
        /// The scale that would be lost.
        scale: f32,
        /// Why it cannot be kept.
        why: &'static str,
    },

    /// Weights read back from the bytes just made are others than those that went in: memory or processor are faulty,
    /// or the source changed while it was read.
    #[error(
        "{format} weights: row {row}, column {col} does not read back as it was written: the source changed meanwhile, or \
         this machine's memory is faulty"
    )]
    NotReadBack {
        /// Name of the format.
        format: &'static str,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
    },

    /// The format has no such conversion.
    #[error("{format} cannot be {operation}: {why}")]
    NotPossible {
        /// Name of the format.
        format: &'static str,
        /// `decoded` or `encoded`, with what to.
        operation: &'static str,
        /// The reason and the way around it.
        why: &'static str,
    },
}
