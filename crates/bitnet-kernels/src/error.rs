//! The one error type of this crate: what could not be made or trusted, with the shapes and names involved.
//!
//! Ops of a [`Backend`](crate::Backend) do not fail: their shapes come from a configuration that was checked when the
//! model was loaded. Everything that can go wrong does so earlier, here.

use bitnet_quantization::{QuantError, TensorType};

/// Why a backend, a buffer or a weight could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The machine has no memory left for a buffer.
    #[error(
        "no memory for {bytes} bytes of {what}: use a smaller context, an f16 KV cache or a smaller model"
    )]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },

    /// A size does not fit into the address space.
    #[error("{what} of {dims:?} elements is larger than the address space")]
    TooLarge {
        /// What has that size.
        what: &'static str,
        /// Its dimensions.
        dims: Vec<usize>,
    },

    /// Packed weights that were kept are not those that this weight needs.
    #[error("packed {what}: expected {expected}, found {found}")]
    PackedArray {
        /// The array.
        what: &'static str,
        /// What the weight needs.
        expected: String,
        /// What was kept.
        found: String,
    },

    /// A kernel was asked for by a name that is not known, or that this CPU cannot run.
    #[error("kernel {name:?} is {problem}; available here: {}", available.join(", "))]
    Kernel {
        /// The name asked for.
        name: String,
        /// `unknown` or `not supported by this CPU`.
        problem: &'static str,
        /// Names that can be asked for on this CPU.
        available: Vec<&'static str>,
    },

    /// A kernel gave another result than the reference on this machine.
    #[error(
        "self-test: kernel {kernel} is wrong for weights [{rows}, {cols}] and {n_rows} token rows: \
         {op} gives {found} at index {index}, expected {expected}; \
         this CPU or build cannot be trusted, choose another kernel (BITNET_KERNEL=scalar-i2s)"
    )]
    SelfTest {
        /// Name of the kernel.
        kernel: &'static str,
        /// The op that was wrong.
        op: &'static str,
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
        /// Token rows of the batch.
        n_rows: usize,
        /// First index of the output that differs.
        index: usize,
        /// What the reference gives there.
        expected: f32,
        /// What the kernel gives there.
        found: f32,
    },

    /// A ternary weight that the run layout cannot hold.
    #[error("ternary weight [{rows}, {cols}]: {why}")]
    TernaryShape {
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// The rule that is broken.
        why: &'static str,
    },

    /// A row of a ternary weight holds something else than -1, 0 and +1.
    #[error("ternary weight row {row} has the value {value} at column {col}, expected -1, 0 or +1")]
    NotATrit {
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// What was found there.
        value: i8,
    },

    /// A dense matrix whose bytes do not match its shape, or whose rows are not whole blocks.
    #[error("{} matrix [{rows}, {cols}]: {why} (expected {expected}, found {found})", ty.name())]
    MatrixShape {
        /// Storage type.
        ty: TensorType,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// The rule that is broken.
        why: &'static str,
        /// What the rule wants.
        expected: usize,
        /// What was found.
        found: usize,
    },

    /// A dense matrix in a type that this backend does not multiply with.
    #[error("{} cannot be used for an embedding or a head: {why}", ty.name())]
    MatrixType {
        /// Storage type.
        ty: TensorType,
        /// Why not, and what to do.
        why: &'static str,
    },

    /// The weights could not be decoded.
    #[error(transparent)]
    Weights(#[from] QuantError),

    /// A worker thread could not be started.
    #[error("cannot start worker thread {index}: {source}")]
    Thread {
        /// Which worker.
        index: usize,
        /// What the system says.
        source: std::io::Error,
    },
}
