//! Groups of 2-bit codes ("crumbs") in quarters: what I2_S and TQ2_0 have in common.
//!
//! A group of `4 B` trits is in `B` bytes; the trits of one quarter are at the same two bits of successive bytes, so
//! that a vector of bytes becomes four vectors of trits by a shift and a mask each. The formats differ only in which
//! bits belong to which quarter.

/// Where the four quarters of a group are: the lowest of the two bits of each.
pub(crate) type QuarterShifts = [u32; 4];

/// Decodes a group: code minus one. Returns whether every code is a trit; a code 3 comes out as 2.
#[inline]
pub(crate) fn unpack_group<const B: usize>(
    bytes: &[u8; B],
    shifts: QuarterShifts,
    trits: &mut [i8],
) -> bool {
    let mut bad = 0;
    for &byte in bytes {
        bad |= byte & (byte >> 1);
    }
    for (trits, shift) in trits.as_chunks_mut::<B>().0.iter_mut().zip(shifts) {
        // A local array cannot overlap `bytes`, which is what lets the unrolled loop become vector instructions.
        let mut quarter = [0; B];
        for (trit, &byte) in quarter.iter_mut().zip(bytes) {
            *trit = ((byte >> shift) & 3) as i8 - 1;
        }
        *trits = quarter;
    }
    bad & 0b0101_0101 == 0
}

/// Encodes a group of `4 B` trits (already checked).
#[inline]
pub(crate) fn pack_group<const B: usize>(trits: &[i8], shifts: QuarterShifts) -> [u8; B] {
    let mut bytes = [0; B];
    for (trits, shift) in trits.chunks_exact(B).zip(shifts) {
        for (byte, &trit) in bytes.iter_mut().zip(trits) {
            *byte |= ((trit + 1) as u8) << shift;
        }
    }
    bytes
}
