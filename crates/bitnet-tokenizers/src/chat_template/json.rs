//! `tojson` as Hugging Face's templates have it: Python's `json.dumps(value, ensure_ascii=False)`, without escaping for HTML.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The widest indentation accepted: templates use 2 or 4.
const MAX_INDENT: usize = 16;

/// The filter `tojson(indent=None)`.
///
/// # Errors
/// A value without JSON, an over-wide indentation, or an unknown argument.
pub(super) fn tojson(
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        None => options.get::<Option<usize>>("indent")?,
        indent => indent,
    };
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let json = match indent {
        Some(width) if width > MAX_INDENT => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: indent {width} exceeds {MAX_INDENT}"),
            ));
        }
        Some(width) => write(
            value,
            PrettyFormatter::with_indent(" ".repeat(width).as_bytes()),
        )?,
        None => write(value, PythonFormatter)?,
    };
    Ok(Value::from(json))
}

fn write(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let failed = |message: String| Error::new(ErrorKind::BadSerialization, message);
    let mut out = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut out, formatter))
        .map_err(|error| failed(error.to_string()))?;
    String::from_utf8(out).map_err(|error| failed(error.to_string()))
}

/// Python puts a space behind `,` and `:`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
