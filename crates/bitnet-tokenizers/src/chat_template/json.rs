//! `tojson` as Hugging Face's templates have it: Python's `json.dumps(value, ensure_ascii=False)`, without escaping for
//! HTML.

use super::budget::Budget;
use super::failure::Failure;
use super::value::Value;

/// The widest indentation accepted: templates use 2 or 4.
const MAX_INDENT: i64 = 16;

/// Python's `json.dumps` with the options that templates use.
#[derive(Debug, Default)]
pub(super) struct Json {
    indent: Option<usize>,
    sort_keys: bool,
}

impl Json {
    /// With an indentation, and with the keys of maps in their order.
    ///
    /// # Errors
    /// An indentation that is none, or too wide.
    pub(super) fn new(indent: &Value, sort_keys: bool) -> Result<Self, Failure> {
        let indent = match (indent, indent.as_int()) {
            (Value::None | Value::Undefined, _) => None,
            (_, Some(width @ 0..=MAX_INDENT)) => Some(width as usize),
            (_, Some(width)) => {
                return Err(Failure::new(format!(
                    "tojson: indent {width} exceeds {MAX_INDENT}"
                )));
            }
            (other, None) => {
                return Err(Failure::new(format!(
                    "tojson: a {} is no indentation",
                    other.kind()
                )));
            }
        };
        Ok(Self { indent, sort_keys })
    }

    /// The value as JSON.
    pub(super) fn dumps(&self, value: &Value, budget: &mut Budget) -> Result<Value, Failure> {
        let mut out = String::new();
        self.write(value, 1, &mut out, budget)?;
        Ok(Value::text(out))
    }

    fn write(
        &self,
        value: &Value,
        level: usize,
        out: &mut String,
        budget: &mut Budget,
    ) -> Result<(), Failure> {
        budget.step()?;
        match value {
            Value::None => budget.push(out, "null"),
            Value::Bool(value) => budget.push(out, if *value { "true" } else { "false" }),
            Value::Int(number) => budget.push(out, &number.to_string()),
            Value::Float(number) if number.is_nan() => budget.push(out, "NaN"),
            Value::Float(number) if number.is_infinite() => budget.push(
                out,
                if *number > 0.0 {
                    "Infinity"
                } else {
                    "-Infinity"
                },
            ),
            Value::Float(number) => budget.push(out, &super::text::float(*number)),
            Value::Str(text) => string(text, out, budget),
            Value::List(items) | Value::Tuple(items) if items.values.is_empty() => {
                budget.push(out, "[]")
            }
            Value::List(items) | Value::Tuple(items) => {
                budget.push(out, "[")?;
                for (n, item) in items.values.iter().enumerate() {
                    self.separate(n, level, out, budget)?;
                    self.write(item, level + 1, out, budget)?;
                }
                self.line(level - 1, out, budget)?;
                budget.push(out, "]")
            }
            Value::Map(map) if map.pairs.is_empty() => budget.push(out, "{}"),
            Value::Map(map) => {
                budget.push(out, "{")?;
                let mut order: Vec<usize> = (0..map.pairs.len()).collect();
                if self.sort_keys {
                    budget.entries(order.len())?;
                    order.sort_by_key(|at| map.pairs[*at].0.as_str());
                }
                for (n, at) in order.into_iter().enumerate() {
                    let (key, value) = &map.pairs[at];
                    self.separate(n, level, out, budget)?;
                    match key {
                        Value::Str(_) => self.write(key, level, out, budget)?,
                        other => {
                            budget.push(out, "\"")?;
                            self.write(other, level, out, budget)?;
                            budget.push(out, "\"")?;
                        }
                    }
                    budget.push(out, ": ")?;
                    self.write(value, level + 1, out, budget)?;
                }
                self.line(level - 1, out, budget)?;
                budget.push(out, "}")
            }
            other => Err(Failure::new(format!(
                "tojson: a {} has no JSON",
                other.kind()
            ))),
        }
    }

    /// What stands before entry `n`.
    fn separate(
        &self,
        n: usize,
        level: usize,
        out: &mut String,
        budget: &mut Budget,
    ) -> Result<(), Failure> {
        match (n, self.indent) {
            (0, _) => {}
            (_, None) => budget.push(out, ", ")?,
            (_, Some(_)) => budget.push(out, ",")?,
        }
        self.line(level, out, budget)
    }

    /// A new line at `level`, if lines are wanted.
    fn line(&self, level: usize, out: &mut String, budget: &mut Budget) -> Result<(), Failure> {
        let Some(width) = self.indent else {
            return Ok(());
        };
        budget.take(1 + width * level)?;
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', width * level));
        Ok(())
    }
}

fn string(text: &str, out: &mut String, budget: &mut Budget) -> Result<(), Failure> {
    // The longest escape, \u001f, has 6 bytes for one; it is exact where there are none.
    let escapes = text
        .bytes()
        .filter(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'))
        .count();
    budget.take(text.len() + 5 * escapes + 2)?;
    let json = serde_json::to_string(text).map_err(|error| Failure::new(error.to_string()))?;
    out.push_str(&json);
    Ok(())
}
