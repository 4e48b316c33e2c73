//! Trits as transformers packs them: four rows, a quarter of the matrix apart, in each row of bytes.
//!
//! Source: transformers, `integrations/bitnet.py`.

use bitnet_quantization::{HfPackedRows, QuantError, TernaryRows};

use crate::export::PIECE_BYTES;

/// Packs trits as transformers does, some byte rows at a time.
pub(super) struct Packer<'a> {
    rows: &'a dyn TernaryRows,
    /// Byte rows, each of four rows a band apart.
    band: usize,
    next: usize,
    pub bytes: Vec<u8>,
    trits: Vec<i8>,
    read_back: Vec<i8>,
}

impl<'a> Packer<'a> {
    pub fn new(rows: &'a dyn TernaryRows) -> Self {
        Self {
            rows,
            band: rows.rows().div_ceil(4),
            next: 0,
            bytes: Vec::new(),
            trits: Vec::new(),
            read_back: vec![0; rows.cols()],
        }
    }

    /// Puts the next byte rows into `bytes`, read back and compared; `false` when there was none left.
    pub fn next_piece(&mut self) -> Result<bool, QuantError> {
        let cols = self.rows.cols();
        let n = (PIECE_BYTES / cols).max(1).min(self.band - self.next);
        if n == 0 {
            return Ok(false);
        }
        self.bytes.clear();
        self.bytes.resize(n * cols, 0);
        self.trits.resize(4 * n * cols, 0);
        for (row, trits) in self.trits.chunks_exact_mut(cols).enumerate() {
            let (crumb, i) = (row / n, row % n);
            let source = crumb * self.band + self.next + i;
            if source >= self.rows.rows() {
                // No row: code 0, which transformers leaves there too.
                trits.fill(-1);
                continue;
            }
            self.rows.read_row(source, trits, &mut [])?;
            for (byte, trit) in self.bytes[i * cols..][..cols].iter_mut().zip(trits) {
                *byte |= ((*trit + 1) as u8 & 3) << (2 * crumb);
            }
        }
        let piece = HfPackedRows::new(4 * n, cols, &self.bytes, 1.0)?;
        for (row, trits) in self.trits.chunks_exact(cols).enumerate() {
            piece.read_row(row, &mut self.read_back, &mut [])?;
            if trits != self.read_back {
                return Err(QuantError::NotReadBack {
                    format: "packed uint8",
                    row: self.next + row % n + row / n * self.band,
                    col: 0,
                });
            }
        }
        self.next += n;
        Ok(true)
    }
}
