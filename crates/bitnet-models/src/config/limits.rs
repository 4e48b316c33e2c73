//! The largest values that a configuration may have, and the checks that use them.
//!
//! A limit is several times what the largest known model needs and small enough that no product of two sizes
//! overflows 64 bits and no sum of int8 products overflows 32.

use super::{ConfigError, ConfigField};

/// Widest vector: what the kernels' i32 sums have room for; the widest in use is 28 672.
pub(super) const MAX_WIDTH: u64 = bitnet_kernels::MAX_COLS as u64;
/// Most layers: what llama.cpp accepts.
pub(super) const MAX_LAYERS: u64 = 512;
/// Most heads: 4096; 128 are in use.
pub(super) const MAX_HEADS: u64 = 4096;
/// Longest head: 4096; 256 are in use.
pub(super) const MAX_HEAD_DIM: u64 = 4096;
/// Most token ids: 2^22; 262 144 are in use.
pub(super) const MAX_VOCAB: u64 = 1 << 22;
/// Most positions: 2^24, where f32 still tells every position from the next; 2^20 are in use.
pub(super) const MAX_CONTEXT: u64 = 1 << 24;

/// `value` as a size from 1 to `max`.
pub(super) fn size(field: ConfigField, value: u64, max: u64) -> Result<usize, ConfigError> {
    match usize::try_from(value) {
        Ok(size) if (1..=max).contains(&value) => Ok(size),
        _ => Err(field.refuse(value, format!("1 to {max}"))),
    }
}

/// `a * b`, which must not exceed `max`; `field` is blamed.
pub(super) fn product(
    field: ConfigField,
    a: usize,
    b: usize,
    max: usize,
) -> Result<usize, ConfigError> {
    a.checked_mul(b)
        .filter(|&product| product <= max)
        .ok_or_else(|| field.refuse(a, format!("at most {} together with the size {b}", max / b)))
}

/// `value` as a finite f32 above zero (a subnormal counts as zero).
pub(super) fn positive(field: ConfigField, value: f64) -> Result<f32, ConfigError> {
    match value as f32 {
        single if single.is_normal() && single > 0.0 => Ok(single),
        _ => Err(field.refuse(value, "a finite number above 0")),
    }
}
