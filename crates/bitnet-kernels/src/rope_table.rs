//! Cosines and sines of every position, computed once at load, with the reference's roundings.
//!
//! Hugging Face computes the inverse frequencies and the angles in f32 and takes cosine and sine of the f32 angle.
//! So do we; power, cosine and sine themselves come from `libm` in f64 and are rounded once, which makes the table the
//! same on every platform. Source: transformers `modeling_rope_utils.py`; llama.cpp's `rope_freqs` for the factors.

use crate::error::KernelError;

/// Which elements of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// `(j, j + n_rot/2)`: half rotation, Hugging Face's order.
    Neox,
    /// `(2j, 2j + 1)`: neighbours, the order of `llama` GGUF files (whose rows were permuted for it).
    Norm,
}

/// What a [`RopeTable`] is computed from.
#[derive(Debug, Clone, Copy)]
pub struct RopeParams<'a> {
    /// Base of the frequencies (`rope_theta`).
    pub base: f32,
    /// Rotated dimensions of a head; even.
    pub n_rot: usize,
    /// Pairing.
    pub style: RopeStyle,
    /// Divisors of the inverse frequencies (`rope_freqs` of a GGUF file), `[n_rot / 2]`.
    pub freq_factors: Option<&'a [f32]>,
    /// What cosines and sines are multiplied with (YaRN's attention factor); 1 otherwise.
    pub attention_factor: f32,
    /// Positions to tabulate: the context length in use.
    pub max_positions: usize,
}

/// `cos` and `sin` of `position * inv_freq[j]`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    n_rot: usize,
    style: RopeStyle,
    cos: Vec<f32>, // [max_positions, n_rot / 2]
    sin: Vec<f32>, // [max_positions, n_rot / 2]
}

impl RopeTable {
    /// Computes the table.
    ///
    /// ```text
    /// inv_freq[j] = 1 / base^(2j / n_rot)  (/ freq_factors[j])      angle = position * inv_freq[j]      all in f32
    /// ```
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] when there is no room for so many positions.
    ///
    /// # Panics
    /// If `n_rot` is odd, or there are not `n_rot / 2` frequency factors.
    pub fn new(params: RopeParams<'_>) -> Result<RopeTable, KernelError> {
        let RopeParams {
            base,
            n_rot,
            style,
            freq_factors,
            attention_factor,
            max_positions,
        } = params;
        assert!(n_rot.is_multiple_of(2), "n_rot = {n_rot} is odd");
        let half = n_rot / 2;
        if let Some(factors) = freq_factors {
            assert_eq!(factors.len(), half, "one frequency factor for each pair");
        }
        let inv_freq: Vec<f32> = (0..half)
            .map(|j| {
                let exponent = (2 * j) as f32 / n_rot as f32;
                let inverse = 1.0 / libm::pow(f64::from(base), f64::from(exponent)) as f32;
                freq_factors.map_or(inverse, |factors| inverse / factors[j])
            })
            .collect();
        let len = max_positions.saturating_mul(half);
        let (mut cos, mut sin) = (reserve(len)?, reserve(len)?);
        for position in 0..max_positions {
            for &inverse in &inv_freq {
                let (s, c) = libm::sincos(f64::from(position as f32 * inverse));
                cos.push(c as f32 * attention_factor);
                sin.push(s as f32 * attention_factor);
            }
        }
        Ok(RopeTable {
            n_rot,
            style,
            cos,
            sin,
        })
    }

    /// Rotated dimensions of a head.
    pub fn n_rot(&self) -> usize {
        self.n_rot
    }

    /// Pairing.
    pub fn style(&self) -> RopeStyle {
        self.style
    }

    /// Positions in the table.
    pub fn max_positions(&self) -> usize {
        if self.n_rot == 0 {
            usize::MAX
        } else {
            self.cos.len() / (self.n_rot / 2)
        }
    }

    /// Cosines and sines of one position, `[n_rot / 2]` each.
    ///
    /// # Panics
    /// If the position is not in the table.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.n_rot / 2;
        (
            &self.cos[position * half..][..half],
            &self.sin[position * half..][..half],
        )
    }
}

/// An empty vector with room for `len` values.
fn reserve(len: usize) -> Result<Vec<f32>, KernelError> {
    let mut values = Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(_) => Err(KernelError::OutOfMemory {
            what: "RoPE tables",
            bytes: len.saturating_mul(size_of::<f32>()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(n_rot: usize, max_positions: usize) -> RopeParams<'static> {
        RopeParams {
            base: 10000.0,
            n_rot,
            style: RopeStyle::Neox,
            freq_factors: None,
            attention_factor: 1.0,
            max_positions,
        }
    }

    #[test]
    fn first_pair_turns_one_radian_a_position() {
        let table = RopeTable::new(params(8, 100)).expect("memory");
        assert_eq!(table.max_positions(), 100);
        for position in 0..100 {
            let (cos, sin) = table.at(position);
            assert_eq!(cos[0], libm::cos(position as f64) as f32);
            assert_eq!(sin[0], libm::sin(position as f64) as f32);
        }
    }

    #[test]
    fn frequency_factors_divide() {
        let plain = RopeTable::new(params(4, 9)).expect("memory");
        let factors = [1.0, 8.0];
        let slowed = RopeTable::new(RopeParams {
            freq_factors: Some(&factors),
            ..params(4, 9)
        })
        .expect("memory");
        assert_eq!(plain.at(8).0[0], slowed.at(8).0[0]);
        assert_eq!(plain.at(1).1[1], slowed.at(8).1[1]);
    }

    #[test]
    fn the_attention_factor_multiplies_cosines_and_sines() {
        let plain = RopeTable::new(params(4, 9)).expect("memory");
        let stretched = RopeTable::new(RopeParams {
            attention_factor: 1.25,
            ..params(4, 9)
        })
        .expect("memory");
        for ((a, b), (c, d)) in (0..9).map(|p| (plain.at(p), stretched.at(p))) {
            assert!(a.iter().map(|v| v * 1.25).eq(c.iter().copied()));
            assert!(b.iter().map(|v| v * 1.25).eq(d.iter().copied()));
        }
    }

    #[test]
    fn a_head_without_rotation_has_an_empty_row() {
        let table = RopeTable::new(params(0, 3)).expect("memory");
        assert_eq!(table.at(2), (&[][..], &[][..]));
    }

    #[test]
    fn a_context_beyond_memory_is_an_error() {
        let table = RopeTable::new(params(8, usize::MAX / 8));
        assert!(matches!(table, Err(KernelError::OutOfMemory { .. })));
    }
}
