//! The kernels of a ternary model's forward pass, fast, and the same bits on every CPU.
//!
//! [`Backend`] is the seam: a dozen ops with their shapes. [`CpuBackend`] runs them on the kernel that suits the
//! machine. All of the project's `unsafe` code but one memory-mapping module lives here; every block names the fact it
//! relies on.
//!
//! # Layout
//! - [`backend`]: the trait and the types that cross it; [`rope_table`]: angles of every position.
//! - [`packed`]: packed weights as bytes, for whoever keeps them.
//! - [`cpu`]: the CPU backend, one op per file.
//! - [`measure`]: this machine's limits, to compare speeds with.
//! - [`error`]: the one error type.
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod backend;
pub mod packed;
pub mod rope_table;

pub mod cpu;
pub mod measure;

pub mod error;

pub use backend::{
    Activation, Backend, BatchView, Candidate, CandidateRequest, Candidates, HeadWork, KV_BLOCK,
    Keep, KvShape, KvType, LEAST_HEAD_ROWS, MatrixData, PANEL_ROWS, TernaryUse, Traffic,
};
pub use cpu::features::{CpuFeatures, cpu_features};
pub use cpu::i2s::MAX_COLS;
pub use cpu::isa::available_kernels;
pub use cpu::memory::give_back_free_memory;
pub use cpu::probe::LayoutProbe;
pub use cpu::quantize::QuantizedRows;
pub use cpu::{CpuBackend, CpuOptions};
pub use error::KernelError;
pub use packed::{PACKED_ALIGNMENT, PACKING_VERSION, PackReader, PackWriter, PieceWriter};
pub use rope_table::{RopeParams, RopeStyle, RopeTable};
