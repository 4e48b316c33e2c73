//! Values as text: what `{{ }}` puts out, by Python's `str` and `repr`.

use std::fmt::Write;

use super::budget::Budget;
use super::failure::Failure;
use super::value::{Items, Value};

/// Adds the value to `out` as `{{ }}` shows it.
pub(super) fn write(value: &Value, out: &mut String, budget: &mut Budget) -> Result<(), Failure> {
    match value {
        Value::Undefined => Ok(()),
        Value::Str(text) => budget.push(out, text),
        other => repr(other, out, budget),
    }
}

/// The value as a text of its own.
pub(super) fn string(value: &Value, budget: &mut Budget) -> Result<Value, Failure> {
    if let Value::Str(_) = value {
        return Ok(value.clone());
    }
    let mut out = String::new();
    write(value, &mut out, budget)?;
    Ok(Value::text(out))
}

/// Adds the value as it stands in a list.
fn repr(value: &Value, out: &mut String, budget: &mut Budget) -> Result<(), Failure> {
    budget.step()?;
    match value {
        Value::Undefined => budget.push(out, "Undefined"),
        Value::None => budget.push(out, "None"),
        Value::Bool(true) => budget.push(out, "True"),
        Value::Bool(false) => budget.push(out, "False"),
        Value::Int(number) => budget.push(out, &number.to_string()),
        Value::Float(number) => budget.push(out, &float(*number)),
        Value::Str(text) => quoted(text, out, budget),
        Value::List(items) => {
            budget.push(out, "[")?;
            sequence(items, out, budget)?;
            budget.push(out, "]")
        }
        Value::Tuple(items) => {
            budget.push(out, "(")?;
            sequence(items, out, budget)?;
            budget.push(out, if items.values.len() == 1 { ",)" } else { ")" })
        }
        Value::Map(map) => {
            budget.push(out, "{")?;
            for (n, (key, value)) in map.pairs.iter().enumerate() {
                budget.push(out, if n == 0 { "" } else { ", " })?;
                repr(key, out, budget)?;
                budget.push(out, ": ")?;
                repr(value, out, budget)?;
            }
            budget.push(out, "}")
        }
        other => {
            budget.push(out, "<")?;
            budget.push(out, other.kind())?;
            budget.push(out, ">")
        }
    }
}

fn sequence(items: &Items, out: &mut String, budget: &mut Budget) -> Result<(), Failure> {
    for (n, item) in items.values.iter().enumerate() {
        budget.push(out, if n == 0 { "" } else { ", " })?;
        repr(item, out, budget)?;
    }
    Ok(())
}

fn quoted(text: &str, out: &mut String, budget: &mut Budget) -> Result<(), Failure> {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    budget.take(text.len() + 2)?;
    out.push(quote);
    for c in text.chars() {
        let escaped = match c {
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\\' => "\\\\",
            c if c == quote => "\\'",
            c if c.is_control() => {
                // The longest is `\x9f`.
                budget.take(4)?;
                write!(out, "\\x{:02x}", c as u32)
                    .map_err(|error| Failure::new(error.to_string()))?;
                continue;
            }
            c => {
                out.push(c);
                continue;
            }
        };
        budget.push(out, escaped)?;
    }
    out.push(quote);
    Ok(())
}

/// A number with a fraction as Python shows it.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        // Python signs the exponent and gives it two digits: 1e+16, 1e-05.
        let shown = format!("{number:e}");
        let (mantissa, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{number:?}")
}
