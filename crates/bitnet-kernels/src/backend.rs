//! The seam between a model and the machine: the dozen ops of a forward pass, with their shapes.
//!
//! A [`Backend`] owns its buffers; a model only names them. Dispatch is static (models are generic over it), uploads
//! may repack (a file's layout and the layout kernels run on are different things), and a batch is flat: every row is
//! one token of one sequence, prefill chunks and decode rows mixed, no padding.
//!
//! ```text
//! every op's float result is a function of its own row only: the same bytes whatever else is in the batch,
//! however many threads run, whichever kernel was chosen
//! ```

use std::io;
use std::ops::Range;

use bitnet_quantization::{TensorType, TernaryRows};
use bytes::Bytes;

use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter, PieceWriter};
use crate::rope_table::RopeTable;

/// Positions in one block of the KV cache. 16 f32 are one AVX-512 register (and one cache line): scores of a block
/// come out of the score pass as one vector.
pub const KV_BLOCK: usize = 16;

/// Token rows that share the unpacking of a weight, as far as a backend has registers: passes of whole multiples are the
/// fastest for each row.
pub const PANEL_ROWS: usize = 16;

/// Rows below which a head is so small that reading all of it costs less than finding out what to read.
pub const LEAST_HEAD_ROWS: usize = 4096;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// 32-bit floats: the reference's numbers exactly.
    #[default]
    F32,
    /// 16-bit floats: half the memory and traffic; keys and values are rounded once, when written.
    F16,
    /// Signed bytes and a scale for each position's key and value of a head: a quarter. Queries and attention weights
    /// are rounded too (to 8 and 15 bits), so that products are integer.
    I8,
}

impl KvType {
    /// Every type.
    pub const ALL: [KvType; 3] = [KvType::F32, KvType::F16, KvType::I8];

    /// Bytes of one position's keys and values in one layer.
    pub const fn position_bytes(self, n_kv_heads: usize, head_dim: usize) -> usize {
        let (number, scale) = match self {
            KvType::F32 => (4, 0),
            KvType::F16 => (2, 0),
            KvType::I8 => (1, 4),
        };
        2 * n_kv_heads * (head_dim * number + scale)
    }

    /// The name that options use: `f32`, `f16` or `i8`.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::I8 => "i8",
        }
    }
}

/// The nonlinearity between the up and the down projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    GeluTanh,
}

/// What a ternary weight is for: a backend may lay out its bytes accordingly. Results never depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TernaryUse {
    /// Every row and column counts.
    #[default]
    Dense,
    /// The up projection of a [`gated`](Backend::gated) product whose activation is often exactly 0 ([`Activation::Relu2`]):
    /// rows can be left out.
    GatedUp,
    /// Its input is often exactly 0 after rounding to int8 (the down projection behind [`Activation::Relu2`]): columns
    /// can be left out.
    SparseInput,
}

/// What a backend read of its ternary weights, counted since it was made, over calls with one token row only: those
/// are the ones that memory bounds and that may leave weights out.
///
/// Counters only grow; the figures of a phase are the difference of two snapshots, [`Traffic::since`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Passes of one token row (calls of [`Backend::embed`] with one token).
    pub passes: u64,
    /// Bytes of ternary weights, codes and scales, that were read.
    pub ternary_bytes: u64,
    /// Bytes that were not read because their channel was exactly 0.
    pub skipped_bytes: u64,
    /// Rows of [`TernaryUse::GatedUp`] weights that were read.
    pub up_rows_read: u64,
    /// Rows that they have.
    pub up_rows: u64,
    /// Columns of [`TernaryUse::SparseInput`] weights that were read.
    pub down_columns_read: u64,
    /// Columns that they have.
    pub down_columns: u64,
}

impl Traffic {
    /// What was counted after `earlier`.
    pub fn since(&self, earlier: &Traffic) -> Traffic {
        Traffic {
            passes: self.passes - earlier.passes,
            ternary_bytes: self.ternary_bytes - earlier.ternary_bytes,
            skipped_bytes: self.skipped_bytes - earlier.skipped_bytes,
            up_rows_read: self.up_rows_read - earlier.up_rows_read,
            up_rows: self.up_rows - earlier.up_rows,
            down_columns_read: self.down_columns_read - earlier.down_columns_read,
            down_columns: self.down_columns - earlier.down_columns,
        }
    }

    /// Bytes of ternary weights that a pass read; `None` without passes.
    pub fn ternary_bytes_per_pass(&self) -> Option<f64> {
        (self.passes > 0).then(|| self.ternary_bytes as f64 / self.passes as f64)
    }

    /// Share of the up projections' rows that were read; `None` where no row could have been left out.
    pub fn up_share(&self) -> Option<f64> {
        (self.up_rows > 0).then(|| self.up_rows_read as f64 / self.up_rows as f64)
    }

    /// Share of the down projections' columns that were read; `None` where none could have been left out.
    pub fn down_share(&self) -> Option<f64> {
        (self.down_columns > 0).then(|| self.down_columns_read as f64 / self.down_columns as f64)
    }
}

/// Size of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Transformer layers.
    pub n_layers: usize,
    /// Physical blocks of [`KV_BLOCK`] positions, shared by all sequences.
    pub n_blocks: usize,
    /// Key/value heads per layer.
    pub n_kv_heads: usize,
    /// Length of one head's key and value.
    pub head_dim: usize,
    /// Storage type.
    pub kv_type: KvType,
}

/// Where the rows of a flat batch belong. No padding: row `i` is one token.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    /// Position of each row in its sequence, `[n]`.
    pub positions: &'a [u32],
    /// Index of the sequence that each row belongs to, `[n]`.
    pub sequences: &'a [u32],
    /// Where each sequence's blocks start in `block_tables`, `[n_sequences + 1]`.
    pub table_offsets: &'a [u32],
    /// Physical KV blocks, flat: logical block `b` of sequence `s` is `block_tables[table_offsets[s] + b]`.
    pub block_tables: &'a [u32],
}

impl BatchView<'_> {
    /// Rows in the batch.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The physical blocks of the sequence of row `row`, in logical order.
    ///
    /// # Panics
    /// If the tables do not cover the row's sequence.
    pub fn blocks_of(&self, row: usize) -> &[u32] {
        let sequence = self.sequences[row] as usize;
        &self.block_tables
            [self.table_offsets[sequence] as usize..self.table_offsets[sequence + 1] as usize]
    }
}

/// A dense matrix as a file stores it: an embedding table or a head.
#[derive(Debug, Clone)]
pub struct MatrixData {
    /// Storage type.
    pub ty: TensorType,
    /// Output features (vocabulary entries).
    pub rows: usize,
    /// Input features (hidden size).
    pub cols: usize,
    /// The stored bytes, row after row; usually a window of a mapped file.
    pub bytes: Bytes,
}

/// Which rows of a head a caller will keep, of those it does not name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// The `k` rows of the largest logits and all that tie with the last of them; 0 counts as 1.
    Best(u32),
    /// All rows whose logit is at most this far below the largest.
    Near(f32),
}

/// Token rows whose candidates are wanted.
#[derive(Debug, Clone, Copy)]
pub struct CandidateRequest<'a> {
    /// Rows of x, `[n]`.
    pub x_rows: &'a [u32],
    /// What each will keep, `[n]`.
    pub keeps: &'a [Keep],
    /// Where each row's named ids start in `named`, `[n + 1]`.
    pub named_offsets: &'a [u32],
    /// Ids whose logits the caller will change: they are candidates whatever their logits are.
    pub named: &'a [u32],
}

impl CandidateRequest<'_> {
    /// The ids that row `index` names.
    ///
    /// # Panics
    /// If the offsets do not cover the row.
    pub fn named_of(&self, index: usize) -> &[u32] {
        &self.named[self.named_offsets[index] as usize..self.named_offsets[index + 1] as usize]
    }
}

/// A row of the head and its exact logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Row of the head: a token id.
    pub id: u32,
    /// Its logit, the bits that [`Backend::matmul`] gives.
    pub logit: f32,
}

/// What [`Backend::head_candidates`] found. Cleared and refilled, it keeps its memory.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    /// Each token row's range of `entries`, `[n]`; `None` where the full head is needed.
    pub rows: Vec<Option<Range<usize>>>,
    /// Candidates, by ascending id within a token row.
    pub entries: Vec<Candidate>,
    /// What it took.
    pub work: HeadWork,
}

impl Candidates {
    /// Removes everything and keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.entries.clear();
        self.work = HeadWork::default();
    }
}

/// What finding candidates took, to be added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadWork {
    /// Token rows.
    pub searched: u64,
    /// Token rows that were left to the full head.
    pub full: u64,
    /// Rows of the head whose bound was refined.
    pub refined: u64,
    /// Rows of the head that were multiplied exactly.
    pub rescored: u64,
    /// Bytes read of the small copy and of the rows multiplied exactly. What the full head reads is not in it.
    pub bytes: u64,
}

impl HeadWork {
    /// What was counted after `earlier`.
    pub fn since(&self, earlier: &HeadWork) -> HeadWork {
        HeadWork {
            searched: self.searched - earlier.searched,
            full: self.full - earlier.full,
            refined: self.refined - earlier.refined,
            rescored: self.rescored - earlier.rescored,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

impl std::ops::AddAssign for HeadWork {
    fn add_assign(&mut self, other: HeadWork) {
        self.searched += other.searched;
        self.full += other.full;
        self.refined += other.refined;
        self.rescored += other.rescored;
        self.bytes += other.bytes;
    }
}

/// A device that can run a forward pass.
///
/// Methods without a `Result` panic only when a shape is inconsistent, which is a bug of the caller: shapes come from
/// a checked configuration. Token ids, positions and block tables are indices and are checked too.
pub trait Backend: Send + Sync + 'static {
    /// A vector of f32 that ops read and write.
    type Buffer: Send + Sync;
    /// A ternary weight in run layout.
    type Ternary: Send + Sync;
    /// A dense matrix (embedding, head).
    type Matrix: Send + Sync;
    /// What finds the few rows of a head that can matter.
    type HeadCopy: Send + Sync;
    /// Keys and values of all layers.
    type KvCache: Send + Sync;

    /// Name of the ternary kernel in use, `{arch}-{format}-{isa}`.
    fn kernel_name(&self) -> &str;

    /// Threads that take part in an op.
    fn threads(&self) -> usize;

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    fn buffer(&self, len: usize) -> Result<Self::Buffer, KernelError>;

    /// Copies `values` to `buffer[offset..]`.
    fn write(&self, buffer: &mut Self::Buffer, offset: usize, values: &[f32]);

    /// Copies `buffer[offset..][..out.len()]` to `out`.
    fn read(&self, buffer: &Self::Buffer, offset: usize, out: &mut [f32]);

    /// What was read of the ternary weights so far.
    fn traffic(&self) -> Traffic;

    /// Repacks a ternary weight `[rows, cols]` for the kernels, on all threads.
    ///
    /// # Errors
    /// Weights that cannot be decoded, shapes that cannot be packed, no memory.
    fn upload_ternary(
        &self,
        weights: &dyn TernaryRows,
        usage: TernaryUse,
    ) -> Result<Self::Ternary, KernelError>;

    /// Names what the bytes of packed weights depend on beside the weights: layouts, copies, their version.
    fn packing(&self) -> String;

    /// Writes a ternary weight as it is packed, for [`read_ternary`](Self::read_ternary) of a backend with the same
    /// [`packing`](Self::packing).
    ///
    /// # Errors
    /// The writer's.
    fn write_ternary(&self, weight: &Self::Ternary, writer: &mut dyn PackWriter) -> io::Result<()>;

    /// Takes a packed weight `[rows, cols]`; on a CPU its bytes stay where they are.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] when it is not such a weight.
    fn read_ternary(
        &self,
        shape: [usize; 2],
        reader: &mut dyn PackReader,
    ) -> Result<Self::Ternary, KernelError>;

    /// Takes a dense matrix; on a CPU its bytes stay where they are.
    ///
    /// # Errors
    /// A type that is not supported, bytes that do not match the shape.
    fn upload_matrix(&self, matrix: MatrixData) -> Result<Self::Matrix, KernelError>;

    /// Bytes of a ternary weight in run layout, codes and scales: what a product reads of it when nothing is skipped.
    fn ternary_bytes(&self, weight: &Self::Ternary) -> usize;

    /// Bytes of a ternary weight's second copy in a layout that can leave out zeros; 0 without one.
    fn ternary_copy_bytes(&self, weight: &Self::Ternary) -> usize;

    /// Bytes of a dense matrix: what a product reads of it.
    fn matrix_bytes(&self, matrix: &Self::Matrix) -> usize;

    /// Makes the small copy of a head that [`head_candidates`](Self::head_candidates) searches; `None` for a head of fewer
    /// rows than `least_rows` ([`LEAST_HEAD_ROWS`] pay).
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    fn upload_head_copy(
        &self,
        w: &Self::Matrix,
        least_rows: usize,
    ) -> Result<Option<Self::HeadCopy>, KernelError>;

    /// Writes the small copy of the head `w` for [`read_head_copy`](Self::read_head_copy), if it has at least `least_rows`
    /// rows, a part at a time; whether it has.
    ///
    /// # Errors
    /// The writer's; what making it reports, as [`io::ErrorKind::Other`].
    fn write_new_head_copy(
        &self,
        w: &Self::Matrix,
        least_rows: usize,
        writer: &mut dyn PieceWriter,
    ) -> io::Result<bool>;

    /// Writes a small copy of a head, for [`read_head_copy`](Self::read_head_copy).
    ///
    /// # Errors
    /// The writer's.
    fn write_head_copy(&self, copy: &Self::HeadCopy, writer: &mut dyn PackWriter)
    -> io::Result<()>;

    /// Takes the small copy of the head `w`; on a CPU its bytes stay where they are.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] when it is not the copy of such a head.
    fn read_head_copy(
        &self,
        w: &Self::Matrix,
        reader: &mut dyn PackReader,
    ) -> Result<Self::HeadCopy, KernelError>;

    /// Bytes of a small copy in memory.
    fn head_copy_bytes(&self, copy: &Self::HeadCopy) -> usize;

    /// Bytes that a search reads of a small copy before it looks at single rows.
    fn head_scan_bytes(&self, copy: &Self::HeadCopy) -> usize;

    /// An empty KV cache.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`], [`KernelError::TooLarge`].
    fn new_kv_cache(&self, shape: KvShape) -> Result<Self::KvCache, KernelError>;

    /// Gives the memory of blocks of a cache back until they are written again. What they held is lost.
    ///
    /// # Panics
    /// If there is no such block.
    fn forget_kv(&self, cache: &mut Self::KvCache, blocks: Range<u32>);

    /// `out[i] = table[tokens[i]]`: out `[tokens.len(), table.cols]`.
    fn embed(&self, table: &Self::Matrix, tokens: &[u32], out: &mut Self::Buffer);

    /// `out = weight * (x / sqrt(mean(x^2) + eps))`, row by row: x and out `[n_rows, weight.len()]`.
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
        n_rows: usize,
        out: &mut Self::Buffer,
    );

    /// The same in place; for QK norms a row is one head: `n_rows` = tokens * heads.
    fn rms_norm_in_place(
        &self,
        x: &mut Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
        n_rows: usize,
    );

    /// BitLinear: quantises each row of x `[n_rows, cols]` to int8 once and multiplies it with every weight;
    /// `outs[i]` is `[n_rows, weights[i].rows]`. All weights have the same `cols` (q, k, v; or gate, up).
    ///
    /// ```text
    /// a = 127 * (1 / max(absmax(x), 1e-5))     q = clamp(round_half_even(x * a), -128, 127)     acc = sum trit * q (exact)
    /// one scale s for the tensor:        y = acc * (s / a)
    /// one scale d_g per block of a row:  y = (sum over g of acc_g * d_g) * (1 / a)
    /// ```
    fn bitlinear(
        &self,
        x: &Self::Buffer,
        n_rows: usize,
        weights: &[&Self::Ternary],
        outs: &mut [&mut Self::Buffer],
    );

    /// The gated product of a feed-forward layer, `out = activation(x gate) * (x up)`: x `[n_rows, cols]` is quantised
    /// as in [`bitlinear`](Self::bitlinear); `products` and out are `[n_rows, rows]`.
    ///
    /// `products` are room for the two factors. Afterwards the second one is only valid where the activation is not 0:
    /// a backend may leave out rows of `up` whose product is 0 whatever they hold. There out is +0 where multiplying
    /// would have given -0 if the row were negative; no norm and no rounding to int8 tells the two apart.
    fn gated(
        &self,
        activation: Activation,
        x: &Self::Buffer,
        n_rows: usize,
        weights: [&Self::Ternary; 2],
        products: [&mut Self::Buffer; 2],
        out: &mut Self::Buffer,
    );

    /// Dense product in f32, for the rows of x whose logits are wanted: x `[_, w.cols]`, out `[x_rows.len(), w.rows]`.
    fn matmul(&self, w: &Self::Matrix, x: &Self::Buffer, x_rows: &[u32], out: &mut Self::Buffer);

    /// Finds, for each token row of the request, every row of `w` that the caller could keep and every row it names, with
    /// exactly the logits that [`matmul`](Self::matmul) gives; x `[_, w.cols]`, `copy` is of `w`. More rows may be found
    /// than are kept. Where a logit is NaN or infinite and the row is not left to the full head, that row of `w` is found.
    fn head_candidates(
        &self,
        w: &Self::Matrix,
        copy: &Self::HeadCopy,
        x: &Self::Buffer,
        request: &CandidateRequest<'_>,
        out: &mut Candidates,
    );

    /// Rotates the heads of x `[n, n_heads * head_dim]`, `n = positions.len()`, in place. Dimensions of a head beyond
    /// the table's `n_rot` stay as they are.
    fn rope(
        &self,
        x: &mut Self::Buffer,
        n_heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: &RopeTable,
    );

    /// Stores the keys and values `[n, n_kv_heads * head_dim]` of a batch at their positions of `layer`.
    fn kv_write(
        &self,
        cache: &mut Self::KvCache,
        layer: usize,
        k: &Self::Buffer,
        v: &Self::Buffer,
        batch: &BatchView<'_>,
    );

    /// Causal attention with scale `1 / sqrt(head_dim)`: each row of q `[n, n_heads * head_dim]` attends to positions
    /// `0..=` its own of its sequence, which [`kv_write`](Self::kv_write) has stored; out has q's shape. Head `h` uses
    /// KV head `h / (n_heads / n_kv_heads)`.
    fn attention(
        &self,
        q: &Self::Buffer,
        cache: &Self::KvCache,
        layer: usize,
        n_heads: usize,
        batch: &BatchView<'_>,
        out: &mut Self::Buffer,
    );

    /// `out[i] = activation(gate[i]) * up[i]` for the first `n` elements.
    fn gate(
        &self,
        activation: Activation,
        gate: &Self::Buffer,
        up: &Self::Buffer,
        n: usize,
        out: &mut Self::Buffer,
    );

    /// `x[i] += y[i]` for the first `n` elements.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, n: usize);

    /// `x[i] *= factor` for the first `n` elements.
    fn scale(&self, x: &mut Self::Buffer, factor: f32, n: usize);
}
