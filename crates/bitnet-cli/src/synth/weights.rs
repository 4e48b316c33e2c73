//! The random values of a synthetic model, addressed by tensor and row.
//!
//! Every row has its own random stream, so rows can be made in any order: a GGUF file (which permutes the rows of Q and
//! K for `llama`) and a Hugging Face directory (which packs four far-apart rows into one) of the same seed hold the
//! same model.
//!
//! Values are chosen so that a forward pass stays finite and every format stores them exactly: norms are 1, a tensor's
//! ternary scale is the power of two nearest to `sqrt(3 / (2 cols))` (trits are uniform over -1, 0, +1, so a projection
//! of unit-variance input has about unit variance), embedding values are small integers times 2^-12.

/// Steps of the generator: xorshift64* (Vigna 2016), small and fast; nothing here needs more.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of one row.
    pub fn for_row(seed: u64, tensor: u64, row: u64) -> Random {
        // SplitMix64's finaliser between the parts, so that neighbouring rows have unrelated streams.
        let state = mix(mix(mix(seed).wrapping_add(tensor)).wrapping_add(row));
        Random {
            state: if state == 0 { 1 } else { state },
        }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Five trits for each byte below 243 = 3^5; larger bytes are skipped, which keeps the three values equally likely.
const TRITS_OF_BYTE: [[i8; 5]; 243] = {
    let mut table = [[0; 5]; 243];
    let mut byte = 0;
    while byte < 243 {
        let (mut rest, mut i) = (byte, 0);
        while i < 5 {
            table[byte][i] = (rest % 3) as i8 - 1;
            rest /= 3;
            i += 1;
        }
        byte += 1;
    }
    table
};

/// The trits of one row of a ternary tensor.
pub fn trits(seed: u64, tensor: u64, row: usize, out: &mut [i8]) {
    let mut random = Random::for_row(seed, tensor, row as u64);
    let mut at = 0;
    while at < out.len() {
        for byte in random.next_u64().to_le_bytes() {
            let Some(five) = TRITS_OF_BYTE.get(usize::from(byte)) else {
                continue;
            };
            let n = (out.len() - at).min(5);
            out[at..at + n].copy_from_slice(&five[..n]);
            at += n;
        }
    }
}

/// Values of one row of the embedding or the head: integers of -127 to 127 times 2^-12, so that f16 and bf16 both
/// hold them exactly. Their deviation is about 0.018: logits of a normed vector of 2560 have about 0.9.
pub fn dense_row(seed: u64, tensor: u64, row: usize, out: &mut [f32]) {
    let mut random = Random::for_row(seed, tensor, row as u64);
    for chunk in out.chunks_mut(8) {
        let bytes = random.next_u64().to_le_bytes();
        for (value, byte) in chunk.iter_mut().zip(bytes) {
            *value = f32::from((byte as i8).max(-127)) / 4096.0;
        }
    }
}

/// The scale of a ternary tensor with rows of `cols` weights.
pub fn ternary_scale(cols: usize) -> f32 {
    let ideal = (1.5 / cols as f64).sqrt();
    ideal.log2().round().exp2() as f32
}

/// Factor on the scale of one group of weights, for formats whose real files have a scale for each group: 1 to 1.5 in
/// steps of 1/16, which f16 holds exactly.
pub fn group_factor(seed: u64, tensor: u64, row: usize, group: usize) -> f32 {
    let mut random = Random::for_row(seed ^ GROUP_STREAM, tensor, row as u64);
    let bits = mix(random.next_u64().wrapping_add(group as u64));
    1.0 + (bits % 9) as f32 / 16.0
}

/// Keeps the streams of scales apart from those of trits.
const GROUP_STREAM: u64 = 0x5ca1_e5ca_1e5c_a1e5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trits_are_balanced_and_repeatable() {
        let mut row = vec![0; 100_003];
        trits(7, 1, 3, &mut row);
        for value in -1..=1 {
            let share = row.iter().filter(|t| **t == value).count() as f64 / row.len() as f64;
            assert!((share - 1.0 / 3.0).abs() < 0.01, "{value}: {share}");
        }
        let mut again = vec![0; row.len()];
        trits(7, 1, 3, &mut again);
        assert_eq!(row, again);
        trits(7, 1, 4, &mut again);
        assert_ne!(row, again);
        trits(8, 1, 3, &mut again);
        assert_ne!(row, again);
    }

    #[test]
    fn dense_values_are_exact_in_both_half_formats() {
        let mut row = [0.0; 1001];
        dense_row(1, 2, 3, &mut row);
        for value in row {
            assert_eq!(half::f16::from_f32(value).to_f32(), value);
            assert_eq!(half::bf16::from_f32(value).to_f32(), value);
        }
        let deviation = (row.iter().map(|v| v * v).sum::<f32>() / 1001.0).sqrt();
        assert!((0.015..0.021).contains(&deviation), "{deviation}");
    }

    #[test]
    fn scales_are_powers_of_two() {
        assert_eq!(ternary_scale(2560), 1.0 / 32.0);
        assert_eq!(ternary_scale(6912), 1.0 / 64.0);
        for group in 0..50 {
            let factor = group_factor(1, 2, 3, group);
            assert!(
                (1.0..=1.5).contains(&factor) && half::f16::from_f32(factor).to_f32() == factor
            );
        }
    }
}
