//! What the tests of this crate share: reproducible numbers, ternary matrices made of them, one backend per kernel.
#![allow(dead_code, reason = "every test file uses its own part")]

use bitnet_kernels::{Backend, CpuBackend, CpuOptions, available_kernels};
use bitnet_quantization::{QuantError, ScaleLayout, TernaryRows};

/// Marsaglia's xorshift64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() & 0xff_ffff) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A ternary matrix held as trits.
pub struct Trits {
    pub rows: usize,
    pub cols: usize,
    pub trits: Vec<i8>,
    pub scale: ScaleLayout,
    pub scales: Vec<f32>,
}

impl Trits {
    pub fn random(
        rows: usize,
        cols: usize,
        block_len: Option<usize>,
        random: &mut Random,
    ) -> Trits {
        let trits = (0..rows * cols)
            .map(|_| random.below(3) as i8 - 1)
            .collect();
        let (scale, scales) = match block_len {
            None => (ScaleLayout::PerTensor(0.37), vec![]),
            Some(block_len) => {
                let scales = (0..rows * cols / block_len)
                    .map(|_| random.float())
                    .collect();
                (ScaleLayout::PerBlock { block_len }, scales)
            }
        };
        Trits {
            rows,
            cols,
            trits,
            scale,
            scales,
        }
    }
}

impl TernaryRows for Trits {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn scale(&self) -> ScaleLayout {
        self.scale
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        trits.copy_from_slice(&self.trits[row * self.cols..][..self.cols]);
        let n = scales.len();
        scales.copy_from_slice(&self.scales[row * n..][..n]);
        Ok(())
    }
}

/// A backend for every kernel of this CPU.
pub fn backends(threads: usize) -> Vec<CpuBackend> {
    available_kernels()
        .into_iter()
        .map(|kernel| backend(kernel, threads))
        .collect()
}

pub fn backend(kernel: &str, threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions {
        threads: Some(threads),
        kernel: Some(kernel.to_owned()),
        ..CpuOptions::default()
    })
    .unwrap()
}

/// A buffer with these values.
pub fn buffer(backend: &CpuBackend, values: &[f32]) -> <CpuBackend as Backend>::Buffer {
    let mut buffer = backend.buffer(values.len()).unwrap();
    backend.write(&mut buffer, 0, values);
    buffer
}

/// The bits of floats: equality that sees the sign of zero.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
