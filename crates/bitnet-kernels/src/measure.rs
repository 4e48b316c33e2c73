//! The limits of this machine: how fast memory can be read and how many int8 products it can do.
//!
//! Decode is bound by the first, prefill by the second; a speed without them says nothing. Both take the best of
//! several short runs: on a shared machine everything else only makes them slower.

use std::time::{Duration, Instant};

use crate::cpu::isa::{Isa, Kernel, Op};
use crate::cpu::memory::{Disjoint, Memory};
use crate::cpu::threads::Pool;
use crate::error::KernelError;

/// A cache line as numbers.
type Line = [u64; 8];

/// Bytes that are read: far more than any last-level cache holds.
const READ_BYTES: usize = 1 << 30;

/// Lines that one thread reads at a time: 4 MiB, long enough to stream.
const LINES_AT_ONCE: usize = (4 << 20) / size_of::<Line>();

/// Reads of all the bytes: a quarter of a second at 30 GB/s.
const READ_RUNS: usize = 7;

/// Runs of int8 products, and how long one takes at least: longer than threads take to start together, shorter than a
/// time slice of the system, so that some run is not interrupted even on a busy machine.
const INT8_RUNS: usize = 60;
const INT8_RUN: Duration = Duration::from_millis(3);

/// Bytes ahead that are prefetched.
const AHEAD: usize = 4096;

/// Streaming read bandwidth of `threads` threads in GB/s (10^9 bytes), over 1 GiB in huge pages.
///
/// # Errors
/// No memory, no threads.
pub fn read_bandwidth(threads: usize) -> Result<f64, KernelError> {
    let pool = Pool::new(threads.max(1))?;
    let kernel = Kernel::choose(None)?;
    let mut lines = Memory::<Line>::zeroed(
        "measuring the read bandwidth",
        READ_BYTES / size_of::<Line>(),
    )?;
    let n = lines.len();
    {
        // Pages that were never written may all be one page of zeros.
        let lines = Disjoint::new(&mut lines);
        pool.for_ranges(n, LINES_AT_ONCE, |range, _| {
            // SAFETY: ranges do not overlap.
            unsafe { lines.range(range.start, range.len()) }.fill([1; 8]);
        });
    }
    let mut best = f64::INFINITY;
    for _ in 0..READ_RUNS {
        let start = Instant::now();
        pool.for_ranges(n, LINES_AT_ONCE, |range, _| {
            std::hint::black_box(kernel.run(Read {
                lines: &lines[range],
            }));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(READ_BYTES as f64 / best / 1e9)
}

/// Int8 multiply-adds of `threads` threads with the widest dot product of the CPU, in GOPS (two operations each).
///
/// # Errors
/// No threads.
pub fn int8_peak(threads: usize) -> Result<f64, KernelError> {
    let pool = Pool::new(threads.max(1))?;
    let kernel = Kernel::choose(None)?;
    let n = pool.threads();
    let mut rounds = 1 << 12;
    let mut best = 0.0f64;
    let mut runs = 0;
    while runs < INT8_RUNS {
        let products = std::sync::atomic::AtomicU64::new(0);
        let start = Instant::now();
        pool.for_ranges(n, 1, |range, _| {
            for _ in range {
                let done = kernel.run(Int8Rounds { rounds });
                products.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let time = start.elapsed();
        if time < INT8_RUN {
            // Too short to tell from the noise of starting: not a run yet.
            rounds *= 2;
            continue;
        }
        runs += 1;
        best = best.max(2.0 * products.into_inner() as f64 / time.as_secs_f64() / 1e9);
    }
    Ok(best)
}

/// Reads all lines; returns something that depends on each.
struct Read<'a> {
    lines: &'a [Line],
}

impl Op for Read<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> u64 {
        let mut sums = [[0u64; 8]; 4];
        for four in self.lines.as_chunks::<4>().0 {
            for line in four {
                isa.prefetch(line, AHEAD);
            }
            for (sums, line) in sums.iter_mut().zip(four) {
                for (sum, v) in sums.iter_mut().zip(line) {
                    *sum ^= v;
                }
            }
        }
        sums.as_flattened().iter().fold(0, |a, b| a ^ b)
    }
}

/// Int8 products in registers.
struct Int8Rounds {
    rounds: usize,
}

impl Op for Int8Rounds {
    type Output = u64;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> u64 {
        isa.int8_rounds(self.rounds)
    }
}
