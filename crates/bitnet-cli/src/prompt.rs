//! Texts that the user hands over: as an argument, in a file, on standard input.
//!
//! They are checked here once (UTF-8, size), so that no command meets a broken text later.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use crate::exit::CliError;

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextSource {
    /// An argument of the command line.
    Argument(std::ffi::OsString),
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// Largest text that is read: 64 MiB are some 16 million tokens, beyond every context and every test set, and a
/// wrong pipe (`/dev/zero`) ends here instead of filling the memory.
const MAX_TEXT_BYTES: u64 = 64 << 20;

impl TextSource {
    /// The source that `argument` and `file` name (`-` is standard input); standard input when neither is given and it
    /// is not a terminal.
    ///
    /// # Errors
    /// A usage error when nothing is given, `flag` being what to give.
    pub fn choose(
        argument: Option<&OsStr>,
        file: Option<&Path>,
        flag: &str,
    ) -> Result<TextSource, CliError> {
        match (argument, file) {
            (Some(text), _) => Ok(TextSource::Argument(text.to_owned())),
            (None, Some(path)) if path.as_os_str() == "-" => Ok(TextSource::Stdin),
            (None, Some(path)) => Ok(TextSource::File(path.to_owned())),
            (None, None) if !io::stdin().is_terminal() => Ok(TextSource::Stdin),
            (None, None) => Err(CliError::usage(
                "no text was given",
                format!("give it with {flag}, with --file FILE, or on standard input"),
            )),
        }
    }

    /// Reads the text.
    ///
    /// # Errors
    /// Exit 1 when a file cannot be read; exit 2 when the text is not UTF-8 (with the offset) or too large.
    pub fn read(&self) -> Result<String, CliError> {
        let bytes = match self {
            TextSource::Argument(text) => text.as_encoded_bytes().to_vec(),
            TextSource::Stdin => read_all(io::stdin().lock(), self)?,
            TextSource::File(path) => {
                let file =
                    std::fs::File::open(path).map_err(|e| CliError::file("read", path, &e))?;
                read_all(file, self)?
            }
        };
        check_utf8(bytes, &self.name())
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        match self {
            TextSource::Argument(_) => "the argument".into(),
            TextSource::File(path) => path.display().to_string(),
            TextSource::Stdin => "standard input".into(),
        }
    }
}

fn read_all(reader: impl Read, source: &TextSource) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| match source {
        TextSource::File(path) => CliError::file("read", path, &e),
        _ => CliError::runtime(
            format!("cannot read standard input: {e}"),
            "check where the input comes from",
        ),
    })?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(CliError::usage(
            format!(
                "{} is larger than {} MiB",
                source.name(),
                MAX_TEXT_BYTES >> 20
            ),
            "give a shorter text",
        ));
    }
    Ok(bytes)
}

/// `bytes` as text.
///
/// # Errors
/// A usage error with the offset of the first byte that is not UTF-8.
pub fn check_utf8(bytes: Vec<u8>, name: &str) -> Result<String, CliError> {
    String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        let byte = e.as_bytes()[offset];
        CliError::usage(
            format!("{name} is not valid UTF-8: byte 0x{byte:02x} at offset {offset}"),
            "convert the text to UTF-8 first, for example with `iconv -f LATIN1 -t UTF-8`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_wins_and_a_dash_is_standard_input() {
        let argument = OsStr::new("hi");
        let choose = |argument, file| TextSource::choose(argument, file, "--prompt").unwrap();
        assert_eq!(
            choose(Some(argument), None),
            TextSource::Argument("hi".into())
        );
        assert_eq!(choose(None, Some(Path::new("-"))), TextSource::Stdin);
        assert_eq!(
            choose(None, Some(Path::new("a.txt"))),
            TextSource::File("a.txt".into())
        );
    }

    #[test]
    fn broken_utf8_is_told_with_its_offset() {
        let error = check_utf8(b"ab\xff\xfe".to_vec(), "x.txt").unwrap_err();
        assert_eq!(
            error.message,
            "x.txt is not valid UTF-8: byte 0xff at offset 2"
        );
        let error = check_utf8(b"ab\xe2\x82".to_vec(), "x.txt").unwrap_err();
        assert_eq!(
            error.message,
            "x.txt is not valid UTF-8: byte 0xe2 at offset 2"
        );
    }

    #[test]
    fn endless_input_is_refused() {
        let error = read_all(io::repeat(b'a'), &TextSource::Stdin).unwrap_err();
        assert!(
            error.message.contains("larger than 64 MiB"),
            "{}",
            error.message
        );
    }
}
