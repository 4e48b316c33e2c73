//! Checksums that the Hub names its files by.
//!
//! Large files (stored apart from git) have the SHA-256 of their bytes. Small ones are git's blobs: the SHA-1 of `blob
//! SIZE\0` and the bytes. Both are names in the cache too, as its other users have them.

use std::fmt;
use std::fmt::Write;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::name::is_hex;

/// What the content of a file has to sum up to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum {
    kind: ChecksumKind,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ChecksumKind {
    /// Of the bytes.
    Sha256,
    /// Of git's header and the bytes.
    GitBlob,
}

impl Checksum {
    /// A large file's; `None` if `hex` is not 64 lower-case digits.
    pub fn sha256(hex: &str) -> Option<Checksum> {
        Checksum::of(ChecksumKind::Sha256, hex, 64)
    }

    /// A small file's; `None` if `hex` is not 40 lower-case digits.
    pub fn git_blob(hex: &str) -> Option<Checksum> {
        Checksum::of(ChecksumKind::GitBlob, hex, 40)
    }

    fn of(kind: ChecksumKind, hex: &str, digits: usize) -> Option<Checksum> {
        is_hex(hex, digits).then(|| Checksum {
            kind,
            hex: hex.into(),
        })
    }

    /// The digits, which name the file in the cache.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Begins to sum up a file of `size` bytes.
    pub(crate) fn begin(&self, size: u64) -> Summing {
        match self.kind {
            ChecksumKind::Sha256 => Summing::Sha256(Sha256::new()),
            ChecksumKind::GitBlob => {
                let mut sum = Sha1::new();
                sum.update(format!("blob {size}\0"));
                Summing::Sha1(sum)
            }
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex)
    }
}

/// A sum under way.
#[derive(Clone)]
pub(crate) enum Summing {
    /// Of a large file.
    Sha256(Sha256),
    /// Of a small one.
    Sha1(Sha1),
}

impl Summing {
    /// Adds the next bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        match self {
            Summing::Sha256(sum) => sum.update(bytes),
            Summing::Sha1(sum) => sum.update(bytes),
        }
    }

    /// The digits.
    pub(crate) fn end(self) -> String {
        match self {
            Summing::Sha256(sum) => hex(&sum.finalize()),
            Summing::Sha1(sum) => hex(&sum.finalize()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(kind: &Checksum, bytes: &[u8]) -> String {
        let mut sum = kind.begin(bytes.len() as u64);
        for piece in bytes.chunks(3) {
            sum.add(piece);
        }
        sum.end()
    }

    #[test]
    fn sums_are_those_of_sha256sum_and_git_hash_object() {
        let large = Checksum::sha256(&"0".repeat(64)).unwrap();
        let small = Checksum::git_blob(&"0".repeat(40)).unwrap();
        // printf hello | sha256sum; printf hello | git hash-object --stdin
        assert_eq!(
            sum(&large, b"hello"),
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(
            sum(&small, b"hello"),
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
        );
        assert_eq!(sum(&small, b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    }

    #[test]
    fn only_digits_are_checksums() {
        for bad in [
            "",
            "0",
            &"0".repeat(63),
            &"g".repeat(64),
            &"A".repeat(64),
            "../x",
        ] {
            assert!(Checksum::sha256(bad).is_none(), "{bad}");
            assert!(Checksum::git_blob(bad).is_none(), "{bad}");
        }
    }
}
