//! API keys: made here, shown once, and kept as a hash.
//!
//! A key is `bk_ID_SECRET`: 8 characters by which it is found and revoked, and 256 random bits. A plain SHA-256 is
//! enough to keep: slow hashes protect secrets that people choose, and nobody guesses 256 bits, however fast the hash.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What every key begins with, so that scanners for leaked secrets can find it.
pub const PREFIX: &str = "bk_";
/// Characters of an id.
const ID_LEN: usize = 8;
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// A key as its owner has it. `Debug` does not show it.
pub struct ApiKey(String);

/// SHA-256 of a whole key.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl ApiKey {
    /// A new key from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<ApiKey, getrandom::Error> {
        let mut random = [0; ID_LEN / 2 + SECRET_BYTES];
        getrandom::fill(&mut random)?;
        let (id, secret) = random.split_at(ID_LEN / 2);
        Ok(ApiKey(format!("{PREFIX}{}_{}", hex(id), hex(secret))))
    }

    /// The whole key: for its owner, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Its public part.
    pub fn id(&self) -> &str {
        id_of(&self.0).unwrap_or_default()
    }

    /// What is kept of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

/// The id in a text that looks like a key.
pub fn id_of(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    (is_id(id) && secret.len() == 2 * SECRET_BYTES).then_some(id)
}

/// Whether a text is an id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &str) -> KeyHash {
        KeyHash(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<KeyHash> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16);
            *byte = u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?;
        }
        Some(KeyHash(bytes))
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Whether they are equal, in a time that does not depend on where they differ.
    pub fn is(&self, other: &KeyHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({}...)", self.id())
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
