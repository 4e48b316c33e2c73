//! The run layout of 1.6 bits: five codes in a byte, in tiles of 16 rows by 20 columns.
//!
//! ```text
//! strip = 16 rows; its tiles lie one after the other along the columns: a strip is one linear stream
//! tile  = 64 bytes; byte 4r + j holds code(row r, column 4d + j) for the digits d < 5      r < 16, j < 4
//!
//!           byte 0          byte 1          byte 2          byte 3        | byte 4 ...
//! digit 0   row 0 col 0     row 0 col 1     row 0 col 2     row 0 col 3   | row 1 col 0 ...
//! digit 1         col 4           col 5           col 6           col 7
//!   ...
//! digit 4         col 16          col 17          col 18          col 19
//! ```
//!
//! As in [`i2s`](super::i2s), a 32-bit lane is a row and four bytes of a digit are a quad of columns; codes are trits
//! plus one, missing rows have code 1 and missing columns meet activations of 0.
//!
//! Which byte stands for which five codes is free, so it is what AVX-512 VBMI undoes with three table look-ups, one
//! instruction each and none of them in need of the whole byte:
//!
//! ```text
//! digit 4              LAST[b & 63]                               vpermb looks at six bits of an index
//! digits 0..4, crumbs  CRUMBS[b & 127]                            vpermi2b looks at seven,
//!                        ^ (if b < 128 { FLIP[b & 15] } else 0)   vpshufb at four, and gives 0 where the top bit is set
//! ```
//!
//! A flip of bit 2d turns digit d from 0 to 1, so a byte below 128 and the one 128 above it, which have the same digit
//! 4, are a pair that differs in one digit. `Code::new` shows that 243 values fit. Plain base 3 (TQ1_0) would take a
//! multiplication and two instructions for each digit.

#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod scalar;

use super::i2s::Tile;

/// Digits of a byte.
const DIGITS: usize = 5;

/// Columns of a tile: four bytes of a row.
pub const TILE_COLS: usize = 4 * DIGITS;

/// The code: what each byte means.
pub(crate) static CODE: Code = Code::new();

/// Tables of the code.
pub(crate) struct Code {
    /// Digits 0 to 3 as crumbs, of bytes whose top bit is set.
    crumbs: [u8; 128],
    /// What to flip in the crumbs where it is not.
    flip: [u8; 16],
    /// Digit 4.
    last: [u8; 64],
    /// The byte of each value below 243: digits in base 3, digit 0 the lowest.
    bytes: [u8; 256],
}

/// For each value of digit 4: the digit that most pairs differ in, and those for what is left.
///
/// 81 combinations of four digits in 84 slots: where the first of these digits is 0 or 1 it makes 27 pairs; where it is
/// 2 the second makes 9; where that is 2 as well the third makes 3; and 3 combinations stay alone.
const PAIRED: [[usize; 3]; 3] = [[0, 2, 1], [0, 2, 3], [1, 3, 2]];

/// Values of the low six bits that the pairs of each of these digits take. A value has two pairs, because of bit 6, so
/// 27 pairs and one alone, 9 and one, 3 and one: 21 values for each digit 4, of 64.
const VALUES: [usize; 3] = [14, 5, 2];

/// First low four bits whose flip is of this digit, and the end. Four values of six bits have the same low four; with
/// [`PAIRED`] the digits need 28, 16, 12 and 7 values.
const FLIPS_FROM: [usize; 5] = [0, 7, 11, 14, 16];

/// `3^digit`.
const POWERS: [usize; 4] = [1, 3, 9, 27];

impl Code {
    const fn new() -> Code {
        let mut code = Code {
            crumbs: [0; 128],
            flip: [0; 16],
            last: [0; 64],
            bytes: [0; 256],
        };
        let mut digit = 0;
        while digit < 4 {
            let mut low = FLIPS_FROM[digit];
            while low < FLIPS_FROM[digit + 1] {
                code.flip[low] = 1 << (2 * digit);
                low += 1;
            }
            digit += 1;
        }
        let mut given = [0; 4]; // values of six bits that pairs of each digit have taken
        let mut last = 0;
        while last < 3 {
            // The slots (seven bits) of each of the three digits, and how many of them are filled.
            let mut slots = [[0; 2 * VALUES[0]]; 3];
            let mut filled = [0; 3];
            let mut turn = 0;
            while turn < 3 {
                let digit = PAIRED[last][turn];
                let mut n = 0;
                while n < VALUES[turn] {
                    let low = FLIPS_FROM[digit] + given[digit] / 4 + 16 * (given[digit] % 4);
                    given[digit] += 1;
                    code.last[low] = last as u8;
                    slots[turn][2 * n] = low;
                    slots[turn][2 * n + 1] = low + 64;
                    n += 1;
                }
                turn += 1;
            }
            let mut alone = 0;
            let mut value = 0;
            while value < 81 {
                let digits = [value % 3, value / 3 % 3, value / 9 % 3, value / 27];
                let mut turn = 0;
                while turn < 3 && digits[PAIRED[last][turn]] == 2 {
                    turn += 1;
                }
                let paired = turn < 3;
                if !paired {
                    turn = alone;
                    alone += 1;
                }
                let digit = PAIRED[last][turn];
                if !paired || digits[digit] == 0 {
                    let slot = slots[turn][filled[turn]];
                    filled[turn] += 1;
                    code.crumbs[slot] =
                        (digits[0] | digits[1] << 2 | digits[2] << 4 | digits[3] << 6) as u8;
                    code.bytes[81 * last + value] = (slot | 128) as u8;
                    if paired {
                        code.bytes[81 * last + value + POWERS[digit]] = slot as u8;
                    }
                }
                value += 1;
            }
            last += 1;
        }
        code
    }

    /// The five codes of a byte.
    #[inline(always)]
    fn digits(&self, byte: u8) -> [u8; DIGITS] {
        let flip = if byte < 128 {
            self.flip[usize::from(byte & 15)]
        } else {
            0
        };
        let crumbs = self.crumbs[usize::from(byte & 127)] ^ flip;
        let crumb = |digit: usize| (crumbs >> (2 * digit)) & 3;
        [
            crumb(0),
            crumb(1),
            crumb(2),
            crumb(3),
            self.last[usize::from(byte & 63)],
        ]
    }
}

/// Packs `codes` `[tiles * 20]` of one row into its lane of each tile.
pub(crate) fn pack_row(lane: usize, codes: &[u8], tiles: &mut [Tile]) {
    for (tile, codes) in tiles.iter_mut().zip(codes.as_chunks::<TILE_COLS>().0) {
        // Base 3 in four bytes at once: no byte exceeds 242, so none carries into the next.
        let quads = codes.as_chunks::<4>().0;
        let digit = |d: usize| u32::from_le_bytes(quads[d]);
        let values = digit(0) + 3 * digit(1) + 9 * digit(2) + 27 * digit(3) + 81 * digit(4);
        for (byte, value) in tile[4 * lane..][..4].iter_mut().zip(values.to_le_bytes()) {
            *byte = CODE.bytes[usize::from(value)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::i2s::TILE;

    #[test]
    fn every_five_codes_have_a_byte_of_their_own() {
        for value in 0..243 {
            let digits = [1, 3, 9, 27, 81].map(|power| (value / power % 3) as u8);
            assert_eq!(CODE.digits(CODE.bytes[value]), digits, "value {value}");
        }
    }

    #[test]
    fn rows_are_packed_where_the_drawing_says() {
        let codes: Vec<u8> = (0..3 * TILE_COLS)
            .map(|col| (col * 7 / 3 % 3) as u8)
            .collect();
        let mut tiles = [[0; 64]; 3];
        for lane in 0..TILE {
            pack_row(lane, &codes, &mut tiles);
        }
        for (t, tile) in tiles.iter().enumerate() {
            for (byte, packed) in tile.iter().enumerate() {
                for (digit, code) in CODE.digits(*packed).into_iter().enumerate() {
                    let col = t * TILE_COLS + 4 * digit + byte % 4;
                    assert_eq!(code, codes[col], "byte {byte}, column {col}");
                }
            }
        }
    }
}
