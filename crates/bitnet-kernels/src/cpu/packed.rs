//! Finished arrays of packed weights: made here, or lying in a file.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;

use bytes::Bytes;

use super::memory::{Memory, Plain};
use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter};

/// A read-only array of `T`.
#[derive(Debug)]
pub struct Packed<T: Plain> {
    /// Whole elements, aligned for `T`: checked when they were taken, or of a [`Memory`] of `T`.
    bytes: Bytes,
    elements: PhantomData<T>,
}

impl<T: Plain> Packed<T> {
    /// The reader's next array, which must have `len` elements; `what` names it in the error.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] for another length, or none.
    pub fn read(
        what: &'static str,
        len: usize,
        reader: &mut dyn PackReader,
    ) -> Result<Packed<T>, KernelError> {
        let array = Packed::read_any(what, reader)?;
        if array.len() == len {
            return Ok(array);
        }
        Err(KernelError::PackedArray {
            what,
            expected: format!("{len} elements"),
            found: format!("{}", array.len()),
        })
    }

    /// The reader's next array, however long it is.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] when there is none, or it is no whole elements.
    pub fn read_any(
        what: &'static str,
        reader: &mut dyn PackReader,
    ) -> Result<Packed<T>, KernelError> {
        let refuse = |found: String| KernelError::PackedArray {
            what,
            expected: format!("whole elements of {} bytes, aligned", size_of::<T>()),
            found,
        };
        let bytes = reader
            .array()
            .ok_or_else(|| refuse("no more arrays".into()))?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(align_of::<T>());
        if !aligned || !bytes.len().is_multiple_of(size_of::<T>()) {
            return Err(refuse(format!(
                "{} bytes at {:p}",
                bytes.len(),
                bytes.as_ptr()
            )));
        }
        Ok(Packed {
            bytes,
            elements: PhantomData,
        })
    }

    /// Writes all elements as one array.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, writer: &mut dyn PackWriter) -> io::Result<()> {
        writer.array(self.bytes.clone())
    }

    /// The bytes of all elements.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// What keeps packed memory.
struct Kept<T: Plain>(Memory<T>);

impl<T: Plain> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        let elements: &[T] = &self.0;
        // SAFETY: T is Plain: no padding, so all of its bytes are initialised; bytes need no alignment.
        unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) }
    }
}

impl<T: Plain> From<Memory<T>> for Packed<T> {
    fn from(memory: Memory<T>) -> Packed<T> {
        Packed {
            bytes: Bytes::from_owner(Kept(memory)),
            elements: PhantomData,
        }
    }
}

impl<T: Plain> Deref for Packed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the bytes are whole elements, aligned for T: `read_any` has checked it, and a Memory is so; T is Plain, so
        // every bit pattern is a value; the handle keeps the bytes in place and unchanged for as long as it lives.
        unsafe {
            std::slice::from_raw_parts(
                self.bytes.as_ptr().cast(),
                self.bytes.len() / size_of::<T>(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arrays in memory.
    #[derive(Default)]
    struct Arrays(Vec<Bytes>);

    impl PackWriter for Arrays {
        fn array(&mut self, bytes: Bytes) -> io::Result<()> {
            self.0.insert(0, bytes);
            Ok(())
        }
    }

    impl PackReader for Arrays {
        fn array(&mut self) -> Option<Bytes> {
            self.0.pop()
        }
    }

    #[test]
    fn arrays_come_back_in_order_and_lengths_are_checked() {
        let mut memory = Memory::<u8>::zeroed("test", 3).unwrap();
        memory.copy_from_slice(&[1, 2, 3]);
        let array = Packed::from(memory);
        let mut arrays = Arrays::default();
        array.write(&mut arrays).unwrap();
        array.write(&mut arrays).unwrap();
        assert_eq!(
            Packed::<u8>::read("test", 3, &mut arrays).unwrap()[..],
            [1, 2, 3]
        );
        let error = Packed::<u8>::read("codes", 4, &mut arrays).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("codes: expected 4 elements, found 3"),
            "{error}"
        );
        assert!(
            Packed::<u8>::read("test", 0, &mut arrays).is_err(),
            "no array is left"
        );
    }

    #[test]
    fn half_an_element_is_refused() {
        let mut arrays = Arrays(vec![Bytes::from_static(&[0; 7])]);
        assert!(Packed::<f32>::read_any("scales", &mut arrays).is_err());
    }
}
