//! Token ids as users write them: a JSON array, or numbers between spaces, commas and line ends.

use crate::exit::CliError;

/// The ids in `text`, which came from `name`.
///
/// # Errors
/// A usage error that names the first thing that is not an id.
pub fn parse(text: &str, name: &str) -> Result<Vec<u32>, CliError> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|e| {
            CliError::usage(
                format!("{name} is not a JSON array of token ids: {e}"),
                HINT,
            )
        });
    }
    let words = text
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty());
    let parsed = words.enumerate().map(|(i, word)| {
        word.parse().map_err(|_| {
            CliError::usage(
                format!(
                    "item {} of {name} is '{}', not a token id",
                    i + 1,
                    shorten(word)
                ),
                HINT,
            )
        })
    });
    parsed.collect()
}

const HINT: &str = "ids are numbers from 0, as a JSON array [1, 2, 3] or between spaces";

/// Enough of a wrong word to recognise it: the text may be anything, a binary file too.
fn shorten(word: &str) -> String {
    crate::table::cut(word, 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_are_read() {
        for text in [
            "[1, 2,3]",
            " [1,2,3]\n",
            "1 2 3",
            "1,2,3",
            "1\n2\r\n3\n",
            " 1 ,\t2 3 ",
        ] {
            assert_eq!(parse(text, "x").unwrap(), [1, 2, 3], "{text:?}");
        }
        assert_eq!(parse("", "x").unwrap(), Vec::<u32>::new());
        assert_eq!(parse("[]", "x").unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn what_is_not_an_id_is_named() {
        let cases = [
            ("1 two 3", "item 2 of x is 'two', not a token id"),
            ("1 -2", "item 2 of x is '-2', not a token id"),
            ("4294967296", "item 1 of x is '4294967296', not a token id"),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text, "x").unwrap_err().message, message);
        }
        assert!(
            parse("[1, \"a\"]", "x")
                .unwrap_err()
                .message
                .starts_with("x is not a JSON array of token ids")
        );
        assert!(parse("[1, 2", "x").is_err());
    }
}
