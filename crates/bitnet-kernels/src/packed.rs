//! Packed weights as bytes, to be kept and used again without packing.
//!
//! A run layout takes seconds to make and is the same every time. A backend writes the arrays of a weight in an order of
//! its own to a [`PackWriter`]; a [`PackReader`] gives them back in that order, as bytes that may lie in a mapped file,
//! and the kernels read them there. Numbers are little-endian, as on every CPU that has a kernel here.

use std::io;

use bytes::Bytes;

/// Version of what backends write: of all layouts, their order and their descriptors. To be raised with any of them.
pub const PACKING_VERSION: u32 = 1;

/// Where arrays start in a file, and so in memory: on a cache line.
pub const PACKED_ALIGNMENT: usize = 64;

/// Takes the arrays of packed weights, in order.
pub trait PackWriter {
    /// Takes the next array. It may keep the handle and read the bytes later: they never change.
    ///
    /// # Errors
    /// What writing it reports.
    fn array(&mut self, bytes: Bytes) -> io::Result<()>;
}

/// Takes arrays too of which no more than a piece is in memory at a time.
pub trait PieceWriter: PackWriter {
    /// Begins the next arrays, of these many bytes each. Their bytes come by [`piece`](PieceWriter::piece), and all of them
    /// before the next array.
    ///
    /// # Errors
    /// What writing reports.
    fn begin_arrays(&mut self, lens: &[usize]) -> io::Result<()>;

    /// The next bytes of array `array` of those that were begun last.
    ///
    /// # Errors
    /// What writing reports; bytes beyond the array's end.
    fn piece(&mut self, array: usize, bytes: &[u8]) -> io::Result<()>;
}

/// Gives arrays back in the order in which they were written.
pub trait PackReader {
    /// The next array, on a border of [`PACKED_ALIGNMENT`] bytes; `None` behind the last.
    fn array(&mut self) -> Option<Bytes>;
}
