//! The wire format of protocol buffers, as far as a reader needs it: fields of four kinds, each with its number.
//!
//! Source: protobuf.dev, "Encoding". Groups, which proto2 had once, are refused.

use crate::error::TokenizerError;

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Field<'a> {
    /// An integer, a flag, a member of an enumeration.
    Varint(u32, u64),
    /// A 32-bit float or integer.
    Fixed32(u32, [u8; 4]),
    /// A string, bytes, a message; and where it starts in the file.
    Bytes(u32, &'a [u8], usize),
    /// A 64-bit number; nothing that is read is one.
    Fixed64,
}

/// The fields of a message, one after another; after an error there are none.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The fields of `bytes`, which start at `at` in the file.
    pub fn of(bytes: &'a [u8], at: usize) -> Self {
        Self { rest: bytes, at }
    }

    fn take(&mut self, n: u64, expected: &'static str) -> Result<&'a [u8], TokenizerError> {
        let n = usize::try_from(n).ok();
        let Some((taken, rest)) = n.and_then(|n| self.rest.split_at_checked(n)) else {
            return Err(self.damaged(expected));
        };
        self.rest = rest;
        self.at += taken.len();
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let expected = "an integer of at most ten bytes";
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1, expected)?[0];
            // The tenth byte has one bit left.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged(expected))
    }

    fn field(&mut self) -> Result<Field<'a>, TokenizerError> {
        let tag = self.varint()?;
        let Ok(number) = u32::try_from(tag >> 3) else {
            return Err(self.damaged("a field number"));
        };
        match tag & 7 {
            0 => Ok(Field::Varint(number, self.varint()?)),
            1 => self.take(8, "eight bytes").map(|_| Field::Fixed64),
            2 => {
                let len = self.varint()?;
                let at = self.at;
                Ok(Field::Bytes(
                    number,
                    self.take(len, "as many bytes as a field says")?,
                    at,
                ))
            }
            5 => {
                let bytes = self.take(4, "four bytes")?;
                Ok(Field::Fixed32(
                    number,
                    [bytes[0], bytes[1], bytes[2], bytes[3]],
                ))
            }
            _ => Err(self.damaged("a field of a known kind")),
        }
    }

    fn damaged(&self, expected: &'static str) -> TokenizerError {
        TokenizerError::Damaged {
            file: super::FILE,
            offset: self.at,
            expected,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, TokenizerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Field<'_>>, TokenizerError> {
        Fields::of(bytes, 100).collect()
    }

    #[test]
    fn fields_of_every_kind_are_read() {
        // 3: varint 300; 1: "ab"; 2: 1.5 as a float; 4: a double.
        let bytes = [
            0x18, 0xac, 0x02, 0x0a, 2, b'a', b'b', 0x15, 0, 0, 0xc0, 0x3f, 0x21, 0, 0, 0, 0, 0, 0,
            0, 0,
        ];
        let expected = vec![
            Field::Varint(3, 300),
            Field::Bytes(1, b"ab", 105),
            Field::Fixed32(2, 1.5f32.to_le_bytes()),
            Field::Fixed64,
        ];
        assert_eq!(all(&bytes).unwrap(), expected);
        let minus_one = [
            0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ];
        assert_eq!(all(&minus_one).unwrap(), [Field::Varint(1, u64::MAX)]);
        assert_eq!(all(&[]).unwrap(), []);
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused_with_its_place() {
        let too_long = [&[0x08][..], &[0x80; 11]].concat();
        let tenth_byte = [&[0x08][..], &[0xff; 9], &[2]].concat();
        for (bytes, at) in [
            (&[0x08][..], 101),
            (&[0x0a, 5, b'a'], 102),
            (&[0x15, 0, 0], 101),
            (&[0x0b], 101),
            (&[0x0f], 101),
            (&too_long, 111),
            (&tenth_byte, 111),
            (
                &[
                    0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
                ],
                111,
            ),
        ] {
            let TokenizerError::Damaged { offset, .. } = all(bytes).unwrap_err() else {
                panic!("{bytes:?}")
            };
            assert_eq!(offset, at, "{bytes:?}");
        }
    }
}
