//! The backend that runs on the CPU, with the best kernel the CPU has.
//!
//! # Layout
//! - [`isa`]: instruction sets as values, the sixteen lanes, the choice of a kernel; [`features`]: what the CPU is.
//! - [`threads`], [`memory`]: the pool, and zeroed memory in huge pages. [`packed`]: weights that lie in it, or in a file;
//!   `packing`: how they are packed.
//! - [`layout`], [`i2s`], [`t5`]: run layouts of ternary weights and the strip product of each instruction set;
//!   [`probe`]: which layout is faster here.
//! - [`ternary`]: the layouts of one weight; [`sparse`]: products that leave out zeros, [`share_race`]: when.
//! - [`quantize`], [`bitlinear`]: a BitLinear layer. [`dense`]: embedding and head; [`head`]: its small copy.
//! - [`rms_norm`], [`rope`], [`attention`] over [`kv_cache`], [`gate`]: what is between them; [`lanes`]: their `exp`.
//! - [`traffic`]: counts the weights that were read.
//! - [`self_test`]: a wrong kernel is refused at start-up.

pub mod attention;
pub mod bitlinear;
pub mod cores;
pub mod dense;
pub mod features;
pub mod gate;
pub mod head;
pub mod i2s;
pub mod isa;
pub mod kv_cache;
pub mod lanes;
pub mod layout;
pub mod memory;
pub mod packed;
mod packing;
pub mod probe;
pub mod quantize;
pub mod rms_norm;
pub mod rope;
pub mod self_test;
pub mod share_race;
pub mod sparse;
pub mod t5;
pub mod ternary;
pub mod threads;
pub mod traffic;

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitnet_quantization::TernaryRows;

use crate::backend::{
    Activation, Backend, BatchView, CandidateRequest, Candidates, KvShape, MatrixData, TernaryUse,
    Traffic,
};
use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter, PieceWriter};
use crate::rope_table::RopeTable;
use attention::Attention;
use dense::Matrix;
use gate::{Add, Gate};
use head::HeadCopy;
use head::candidates::{Search, Searchable};
use i2s::rows::RowTernary;
use isa::Kernel;
use kv_cache::KvBlocks;
use memory::{Arena, Disjoint, Memory};
use probe::LayoutProbe;
use quantize::QuantizedRows;
use rms_norm::{RmsNorm, RmsNormInPlace};
use rope::Rope;
use share_race::Side;
use sparse::SparseScratch;
use ternary::Ternary;
use threads::Pool;
use traffic::TrafficCounters;

/// Elements below which one thread does an elementwise op faster than a barrier takes.
const PARALLEL_FROM: usize = 1 << 15;

/// Elements of an elementwise op that one thread takes at a time: 64 KiB of f32, and whole vectors.
const ELEMENTS_AT_ONCE: usize = 1 << 14;

/// How to set up a [`CpuBackend`].
#[derive(Debug, Clone, Default)]
pub struct CpuOptions {
    /// Threads, the caller's included; `None`: all that this process may use.
    pub threads: Option<usize>,
    /// Name of the ternary kernel; `None`: the fastest.
    pub kernel: Option<String>,
    /// Read every weight, also those whose channel is exactly 0.
    pub dense: bool,
}

/// Kernels, threads and scratch of one process.
#[derive(Debug)]
pub struct CpuBackend {
    kernel: Kernel,
    pool: Pool,
    activations: Mutex<QuantizedRows>, // int8 input of the BitLinear that is running
    sparse: Mutex<SparseScratch>,
    skips_zeros: bool,
    arena: Mutex<Arena>, // where weights are packed
    traffic: TrafficCounters,
    probe: Option<LayoutProbe>,
    search: Mutex<Search>, // scratch of the head's candidates
    warnings: Vec<String>,
}

impl CpuBackend {
    /// Chooses a kernel, starts the threads and runs the self-test.
    ///
    /// # Errors
    /// [`KernelError::Kernel`] for a name that is unknown or needs another CPU, [`KernelError::SelfTest`] if the kernel
    /// computes something wrong here, [`KernelError::Thread`] if the system gives no threads.
    pub fn new(options: CpuOptions) -> Result<CpuBackend, KernelError> {
        let kernel = Kernel::choose(options.kernel.as_deref())?;
        let pool = Pool::new(
            options
                .threads
                .unwrap_or_else(cores::available_cores)
                .max(1),
        )?;
        self_test::run(kernel, &pool)?;
        let mut warnings = Vec::new();
        if kernel.is_scalar() && options.kernel.is_none() {
            warnings.push(format!(
                "no vector kernel for this CPU ({}): running scalar code, ten times slower or more",
                features::NEEDED
            ));
        }
        let sparse = SparseScratch::new(pool.threads())?;
        Ok(CpuBackend {
            kernel,
            pool,
            activations: Mutex::new(QuantizedRows::new()?),
            sparse: Mutex::new(sparse),
            skips_zeros: kernel.sparse() && !options.dense,
            arena: Mutex::default(),
            probe: None,
            search: Mutex::new(Search::new()?),
            traffic: TrafficCounters::default(),
            warnings,
        })
    }

    /// What the user should know about this CPU, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Quantises rows of x `[n, cols]` as [`Backend::bitlinear`] does.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    ///
    /// # Panics
    /// If x is not whole rows.
    pub fn quantize_rows(&self, x: &[f32], cols: usize) -> Result<QuantizedRows, KernelError> {
        let mut rows = QuantizedRows::new()?;
        rows.quantize(self.kernel, &self.pool, x, x.len() / cols, cols, None)?;
        Ok(rows)
    }

    /// The exact integer products `[n, weight.rows]` of a weight with quantised rows.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn bitlinear_acc(&self, weight: &Ternary, x: &QuantizedRows, out: &mut [i32]) {
        bitlinear::bitlinear_acc(self.kernel, &self.pool, x, weight.tiles(), out);
    }

    /// Multiplies quantised rows with weights of their columns and block length.
    fn multiply(
        &self,
        x: &QuantizedRows,
        weights: &[&Ternary],
        outs: &mut [&mut Memory<f32>],
    ) -> Result<(), KernelError> {
        let (kernel, pool, alone) = (self.kernel, &self.pool, x.n_rows() == 1);
        let mut scratch = self.sparse.lock().unwrap_or_else(PoisonError::into_inner);
        let mut traffic = Traffic::default();
        // Of one input all weights leave out the same columns.
        let by_columns = |weight: &&Ternary| matches!(weight, Ternary::Columns { .. });
        let mut columns = x.cols();
        if alone && weights.iter().any(by_columns) {
            columns = scratch.list_columns(kernel, x)?;
        }
        let timed = match weights {
            [weight @ Ternary::Columns { .. }] if alone => weight.bytes(),
            _ => 0,
        };
        let heat = scratch.column_race.begin(columns, x.cols(), timed);
        let sparse = heat.side == Side::Chosen;
        let dense = weights.iter().zip(outs.iter_mut());
        let dense = dense.filter_map(|(weight, out)| match weight {
            Ternary::Columns { .. } if sparse => None,
            _ => Some((weight.tiles(), &mut **out)),
        });
        bitlinear::with_outputs(dense, x.n_rows(), |outputs| {
            bitlinear::bitlinear(kernel, pool, x, outputs);
        });
        for (weight, out) in weights.iter().zip(outs) {
            let mut read = weight.bytes();
            match weight {
                Ternary::Columns {
                    columns: c, scale, ..
                } => {
                    let all = x.cols();
                    let n = if sparse { columns } else { all };
                    if sparse {
                        let out = &mut out[..weight.rows()];
                        scratch.column_products(kernel, pool, x, (c, *scale), n, out)?;
                        read = n * c.column_bytes();
                    }
                    traffic.down_columns += all as u64;
                    traffic.down_columns_read += n as u64;
                }
                Ternary::Rows { .. } => {
                    traffic.up_rows += weight.rows() as u64;
                    traffic.up_rows_read += weight.rows() as u64;
                }
                Ternary::Tiles(_) => {}
            }
            traffic.ternary_bytes += read as u64;
            traffic.skipped_bytes += weight.bytes().saturating_sub(read) as u64;
        }
        if alone {
            self.traffic.add(traffic);
        }
        let n = if sparse { columns } else { x.cols() };
        scratch.column_race.end(&heat, n);
        Ok(())
    }

    /// `out = relu(x gate)^2 * (x up)` for one token row, without the rows of `up` whose gate is closed where that pays.
    fn gated_rows(
        &self,
        x: &[f32],
        [gate_weight, up_weight]: [&Ternary; 2],
        rows: &RowTernary,
        [gate, up]: [&mut Memory<f32>; 2],
        out: &mut Memory<f32>,
    ) -> Result<(), KernelError> {
        let (kernel, pool, cols) = (self.kernel, &self.pool, rows.cols());
        let mut q = self.activations();
        q.quantize(kernel, pool, x, 1, cols, None)?;
        self.multiply(&q, &[gate_weight], &mut [&mut *gate])?;
        let all = rows.rows();
        // No product of a row can be infinite or NaN, so that 0 times it is 0.
        let largest = (128 * cols) as f32 * (rows.scale() / q.scales()[0]);
        let mut scratch = self.sparse.lock().unwrap_or_else(PoisonError::into_inner);
        let n = scratch.list_open_rows(kernel, &gate[..all])?;
        // Where one could be, all count.
        let n = if largest.is_finite() { n } else { all };
        let heat = scratch.row_race.begin(n, all, up_weight.bytes());
        if heat.side == Side::Whole {
            drop(scratch);
            self.multiply(&q, &[up_weight], &mut [&mut *up])?;
            self.gate(Activation::Relu2, gate, up, all, out);
            let mut scratch = self.sparse.lock().unwrap_or_else(PoisonError::into_inner);
            scratch.row_race.end(&heat, all);
            return Ok(());
        }
        let out = &mut out[..all];
        out.fill(0.0);
        scratch.row_products(kernel, pool, &q, (rows, &gate[..all]), n, out)?;
        scratch.row_race.end(&heat, n);
        let read = n * rows.row_bytes();
        self.traffic.add(Traffic {
            ternary_bytes: read as u64,
            skipped_bytes: up_weight.bytes().saturating_sub(read) as u64,
            up_rows_read: n as u64,
            up_rows: all as u64,
            ..Traffic::default()
        });
        Ok(())
    }

    fn activations(&self) -> MutexGuard<'_, QuantizedRows> {
        // Whatever a panic left there is overwritten before it is read.
        self.activations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work(first, len)` over `0..n` rows of `row_len` elements, on all threads if that pays.
    fn over_rows(&self, n_rows: usize, row_len: usize, work: impl Fn(usize, usize) + Sync) {
        let grain = if n_rows * row_len < PARALLEL_FROM {
            n_rows
        } else {
            self.pool.grain(n_rows, 1)
        };
        self.pool
            .for_ranges(n_rows, grain, |range, _| work(range.start, range.len()));
    }

    /// Calls `work(first, len)` over elements `0..n`, on all threads if that pays.
    fn over_elements(&self, n: usize, work: impl Fn(usize, usize) + Sync) {
        let grain = if n < PARALLEL_FROM {
            n
        } else {
            ELEMENTS_AT_ONCE
        };
        self.pool
            .for_ranges(n, grain, |range, _| work(range.start, range.len()));
    }
}

impl Backend for CpuBackend {
    type Buffer = Memory<f32>;
    type Ternary = Ternary;
    type Matrix = Matrix;
    type HeadCopy = HeadCopy;
    type KvCache = KvBlocks;

    fn kernel_name(&self) -> &str {
        self.kernel.name()
    }

    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn buffer(&self, len: usize) -> Result<Memory<f32>, KernelError> {
        Memory::zeroed("activations", len)
    }

    fn write(&self, buffer: &mut Memory<f32>, offset: usize, values: &[f32]) {
        buffer[offset..][..values.len()].copy_from_slice(values);
    }

    fn read(&self, buffer: &Memory<f32>, offset: usize, out: &mut [f32]) {
        out.copy_from_slice(&buffer[offset..][..out.len()]);
    }

    fn traffic(&self) -> Traffic {
        self.traffic.totals()
    }

    fn upload_ternary(
        &self,
        weights: &dyn TernaryRows,
        usage: TernaryUse,
    ) -> Result<Ternary, KernelError> {
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = if self.skips_zeros {
            usage
        } else {
            TernaryUse::Dense
        };
        let layout = self.kernel.layout();
        Ternary::pack(weights, usage, layout, &self.pool, &mut arena)
    }

    fn packing(&self) -> String {
        self.packing_of(self.kernel)
    }

    fn write_ternary(&self, weight: &Ternary, writer: &mut dyn PackWriter) -> io::Result<()> {
        weight.write(writer)
    }

    fn read_ternary(
        &self,
        shape: [usize; 2],
        reader: &mut dyn PackReader,
    ) -> Result<Ternary, KernelError> {
        Ternary::read(shape, self.kernel.layout(), reader)
    }

    fn write_new_head_copy(
        &self,
        w: &Matrix,
        least_rows: usize,
        writer: &mut dyn PieceWriter,
    ) -> io::Result<bool> {
        let wanted = w.rows() >= least_rows;
        if wanted {
            HeadCopy::write_new(self.kernel, &self.pool, w, writer)?;
        }
        Ok(wanted)
    }

    fn write_head_copy(&self, copy: &HeadCopy, writer: &mut dyn PackWriter) -> io::Result<()> {
        copy.write(writer)
    }

    fn read_head_copy(
        &self,
        w: &Matrix,
        reader: &mut dyn PackReader,
    ) -> Result<HeadCopy, KernelError> {
        HeadCopy::read([w.rows(), w.cols()], reader)
    }

    fn upload_matrix(&self, matrix: MatrixData) -> Result<Matrix, KernelError> {
        Matrix::new(matrix)
    }

    fn ternary_bytes(&self, weight: &Ternary) -> usize {
        weight.bytes()
    }

    fn ternary_copy_bytes(&self, weight: &Ternary) -> usize {
        weight.copy_bytes()
    }

    fn matrix_bytes(&self, matrix: &Matrix) -> usize {
        matrix.bytes()
    }

    fn upload_head_copy(
        &self,
        w: &Matrix,
        least_rows: usize,
    ) -> Result<Option<HeadCopy>, KernelError> {
        if w.rows() < least_rows {
            return Ok(None);
        }
        HeadCopy::new(self.kernel, &self.pool, w).map(Some)
    }

    fn head_scan_bytes(&self, copy: &HeadCopy) -> usize {
        copy.scan_bytes()
    }

    fn head_copy_bytes(&self, copy: &HeadCopy) -> usize {
        copy.bytes()
    }

    fn new_kv_cache(&self, shape: KvShape) -> Result<KvBlocks, KernelError> {
        KvBlocks::new(shape, self.pool.threads())
    }

    fn forget_kv(&self, cache: &mut KvBlocks, blocks: Range<u32>) {
        cache.forget(blocks);
    }

    fn embed(&self, table: &Matrix, tokens: &[u32], out: &mut Memory<f32>) {
        dense::embed(
            self.kernel,
            &self.pool,
            table,
            tokens,
            &mut out[..tokens.len() * table.cols()],
        );
        self.traffic.add(Traffic {
            passes: u64::from(tokens.len() == 1),
            ..Traffic::default()
        });
    }

    fn rms_norm(
        &self,
        x: &Memory<f32>,
        weight: &Memory<f32>,
        eps: f32,
        n_rows: usize,
        out: &mut Memory<f32>,
    ) {
        let len = weight.len();
        let (x, out) = (&x[..n_rows * len], Disjoint::new(&mut out[..n_rows * len]));
        self.over_rows(n_rows, len, |first, n| {
            // SAFETY: ranges of rows do not overlap.
            let out = unsafe { out.range(first * len, n * len) };
            self.kernel.run(RmsNorm {
                x: &x[first * len..][..n * len],
                weight,
                eps,
                out,
            });
        });
    }

    fn rms_norm_in_place(
        &self,
        x: &mut Memory<f32>,
        weight: &Memory<f32>,
        eps: f32,
        n_rows: usize,
    ) {
        let len = weight.len();
        let x = Disjoint::new(&mut x[..n_rows * len]);
        self.over_rows(n_rows, len, |first, n| {
            // SAFETY: ranges of rows do not overlap.
            let x = unsafe { x.range(first * len, n * len) };
            self.kernel.run(RmsNormInPlace { x, weight, eps });
        });
    }

    fn bitlinear(
        &self,
        x: &Memory<f32>,
        n_rows: usize,
        weights: &[&Ternary],
        outs: &mut [&mut Memory<f32>],
    ) {
        assert_eq!(weights.len(), outs.len(), "one output for each weight");
        let Some(cols) = weights.first().map(|weight| weight.cols()) else {
            return;
        };
        let mut rows = self.activations();
        let mut first = 0;
        // Weights of one layer have one layout; where they do not, activations are summed anew for each.
        while let Some(block_len) = weights.get(first).map(|weight| weight.block_len()) {
            let same = weights[first..]
                .iter()
                .take_while(|weight| weight.block_len() == block_len);
            let end = first + same.count();
            rows.quantize(
                self.kernel,
                &self.pool,
                &x[..n_rows * cols],
                n_rows,
                cols,
                block_len,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            self.multiply(&rows, &weights[first..end], &mut outs[first..end])
                .unwrap_or_else(|error| panic!("{error}"));
            first = end;
        }
    }

    fn gated(
        &self,
        activation: Activation,
        x: &Memory<f32>,
        n_rows: usize,
        weights: [&Ternary; 2],
        [gate, up]: [&mut Memory<f32>; 2],
        out: &mut Memory<f32>,
    ) {
        match weights[1] {
            Ternary::Rows { rows, .. }
                if n_rows == 1
                    && activation == Activation::Relu2
                    && weights[0].block_len().is_none() =>
            {
                let x = &x[..rows.cols()];
                self.gated_rows(x, weights, rows, [gate, up], out)
                    .unwrap_or_else(|error| panic!("{error}"));
            }
            _ => {
                let n = n_rows * weights[0].rows();
                self.bitlinear(x, n_rows, &weights, &mut [&mut *gate, &mut *up]);
                self.gate(activation, gate, up, n, out);
            }
        }
    }

    fn matmul(&self, w: &Matrix, x: &Memory<f32>, x_rows: &[u32], out: &mut Memory<f32>) {
        dense::matmul(
            self.kernel,
            &self.pool,
            w,
            x,
            x_rows,
            &mut out[..x_rows.len() * w.rows()],
        );
    }

    fn head_candidates(
        &self,
        w: &Matrix,
        copy: &HeadCopy,
        x: &Memory<f32>,
        request: &CandidateRequest<'_>,
        out: &mut Candidates,
    ) {
        // Whatever a panic left there is overwritten before it is read.
        let mut search = self.search.lock().unwrap_or_else(PoisonError::into_inner);
        let head = Searchable {
            kernel: self.kernel,
            pool: &self.pool,
            w,
            copy,
        };
        search
            .run(&head, x, request, out)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn rope(
        &self,
        x: &mut Memory<f32>,
        n_heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: &RopeTable,
    ) {
        let len = n_heads * head_dim;
        let x = Disjoint::new(&mut x[..positions.len() * len]);
        self.over_rows(positions.len(), len, |first, n| {
            // SAFETY: ranges of rows do not overlap.
            let x = unsafe { x.range(first * len, n * len) };
            self.kernel.run(Rope {
                x,
                head_dim,
                positions: &positions[first..][..n],
                table,
            });
        });
    }

    fn kv_write(
        &self,
        cache: &mut KvBlocks,
        layer: usize,
        k: &Memory<f32>,
        v: &Memory<f32>,
        batch: &BatchView<'_>,
    ) {
        let len = batch.len() * cache.shape().n_kv_heads * cache.shape().head_dim;
        cache.write(self.kernel, &self.pool, layer, &k[..len], &v[..len], batch);
    }

    fn attention(
        &self,
        q: &Memory<f32>,
        cache: &KvBlocks,
        layer: usize,
        n_heads: usize,
        batch: &BatchView<'_>,
        out: &mut Memory<f32>,
    ) {
        let len = batch.len() * n_heads * cache.shape().head_dim;
        let attention = Attention {
            q: &q[..len],
            cache,
            layer,
            n_heads,
            batch,
        };
        attention.run(self.kernel, &self.pool, &mut out[..len]);
    }

    fn gate(
        &self,
        activation: Activation,
        gate: &Memory<f32>,
        up: &Memory<f32>,
        n: usize,
        out: &mut Memory<f32>,
    ) {
        let (gate, up, out) = (&gate[..n], &up[..n], Disjoint::new(&mut out[..n]));
        self.over_elements(n, |first, n| {
            // SAFETY: ranges of elements do not overlap.
            let out = unsafe { out.range(first, n) };
            self.kernel.run(Gate {
                activation,
                gate: &gate[first..][..n],
                up: &up[first..][..n],
                out,
            });
        });
    }

    fn add(&self, x: &mut Memory<f32>, y: &Memory<f32>, n: usize) {
        let (x, y) = (Disjoint::new(&mut x[..n]), &y[..n]);
        self.over_elements(n, |first, n| {
            // SAFETY: ranges of elements do not overlap.
            let x = unsafe { x.range(first, n) };
            self.kernel.run(Add {
                x,
                y: &y[first..][..n],
            });
        });
    }

    fn scale(&self, x: &mut Memory<f32>, factor: f32, n: usize) {
        let x = Disjoint::new(&mut x[..n]);
        self.over_elements(n, |first, n| {
            // SAFETY: ranges of elements do not overlap.
            let x = unsafe { x.range(first, n) };
            x.iter_mut().for_each(|x| *x *= factor);
        });
    }
}
