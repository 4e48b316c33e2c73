//! Commands that are printed to be copied: names from addresses may hold spaces, and what a shell takes for its own.

use std::borrow::Cow;

/// `text` as one word of a command: in single quotes where a shell would read anything into it.
pub fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:@%+=,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into(),
        false => format!("'{}'", text.replace('\'', "'\\''")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_into_is_quoted() {
        for plain in [
            "o/n",
            "o/n:m-Q2_0.gguf@refs/pr/1",
            "hf:o/n",
            "o/n:Übung.gguf",
        ] {
            assert_eq!(quoted(plain), plain);
        }
        for (text, word) in [
            ("o/n:a b.gguf", "'o/n:a b.gguf'"),
            ("o/n:$(x).gguf", "'o/n:$(x).gguf'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(text), word);
        }
    }
}
