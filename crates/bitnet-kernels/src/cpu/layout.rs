//! The two run layouts of ternary weights: which one a weight has decides what its tiles mean.
//!
//! Decoding a token reads every weight once, so fewer bits are faster for as long as memory is what decoding waits for;
//! where the weights lie in a cache, or the cores are slow for their memory, fewer instructions are. Sums are exact
//! integers in both, so the choice never changes a number.

use super::{i2s, t5};

/// How the codes of a weight lie in its tiles of 64 bytes, 16 rows each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Two bits a weight, 16 columns to a tile: [`i2s`].
    I2s,
    /// Five weights a byte, 20 columns to a tile: [`t5`].
    T5,
}

impl Layout {
    /// Name in those of kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::I2s => "i2s",
            Layout::T5 => "t5",
        }
    }

    /// Columns of a tile.
    pub const fn tile_cols(self) -> usize {
        match self {
            Layout::I2s => i2s::TILE,
            Layout::T5 => t5::TILE_COLS,
        }
    }

    /// Bits of a weight.
    pub const fn bits(self) -> f32 {
        (size_of::<i2s::Tile>() * 8) as f32 / (i2s::TILE * self.tile_cols()) as f32
    }
}
