//! One tokenizer for all models of a process that have the same vocabulary: that of 128 k tokens takes 60 megabytes,
//! and two versions of a model rarely differ in it.
//!
//! Which vocabularies are the same is told by two hashes of everything that a tokenizer is made from, keyed at random
//! by the process, so that no file can be made to collide with another. A tokenizer lives as long as somebody has it.

use std::collections::hash_map::RandomState;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use bitnet_tokenizers::Tokenizer;

/// What stands for all that a tokenizer is made from.
pub(crate) type Digest = [u64; 2];

static KEYS: LazyLock<[RandomState; 2]> =
    LazyLock::new(|| [RandomState::new(), RandomState::new()]);

static SHARED: Mutex<Vec<(Digest, Weak<Tokenizer>)>> = Mutex::new(Vec::new());

/// The tokenizer that was made from what `digest` stands for, or what `make` gives.
///
/// # Errors
/// Those of `make`.
pub(crate) fn find_or<E>(
    digest: Digest,
    make: impl FnOnce() -> Result<Option<Tokenizer>, E>,
) -> Result<Option<Arc<Tokenizer>>, E> {
    let find = || {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|(_, tokenizer)| tokenizer.strong_count() > 0);
        let found = shared.iter().find(|(of, _)| *of == digest);
        found.and_then(|(_, tokenizer)| tokenizer.upgrade())
    };
    if let Some(tokenizer) = find() {
        return Ok(Some(tokenizer));
    }
    let Some(made) = make()?.map(Arc::new) else {
        return Ok(None);
    };
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.push((digest, Arc::downgrade(&made)));
    Ok(Some(made))
}

/// Stands for `parts`, of which a tokenizer is made.
pub(crate) fn digest(parts: &dyn fmt::Debug) -> Digest {
    struct Text<H>([H; 2]);
    impl<H: Hasher> Write for Text<H> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0
                .iter_mut()
                .for_each(|hasher| hasher.write(text.as_bytes()));
            Ok(())
        }
    }
    let mut text = Text(KEYS.each_ref().map(BuildHasher::build_hasher));
    // Neither formatting nor hashing fails.
    let _ = write!(text, "{parts:?}");
    text.0.map(|hasher| hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_have_one_digest_and_others_another() {
        let of = |tokens: &[&str]| digest(&(tokens, false));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_ne!(of(&["a\", \"b"]), of(&["a", "b"]));
        assert_ne!(digest(&(["a"], true)), digest(&(["a"], false)));
    }
}
