//! Python's two ways of putting values into a text: `'%s' % x` (also the filter `format`) and `'{}'.format(x)`.

use super::budget::Budget;
use super::failure::Failure;
use super::text;
use super::value::Value;

/// The widest field accepted, and the most digits.
const MAX_WIDTH: usize = 1_000;

/// `format % arguments`.
pub(super) fn percent(
    format: &str,
    arguments: &[Value],
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('%') {
        budget.push(&mut out, before)?;
        let field = Field::parse(behind)?;
        rest = &behind[field.length..];
        if field.conversion == '%' {
            budget.push(&mut out, "%")?;
            continue;
        }
        let argument = arguments
            .next()
            .ok_or_else(|| Failure::new("format: too few arguments"))?;
        field.write(argument, &mut out, budget)?;
    }
    budget.push(&mut out, rest)?;
    if arguments.next().is_some() {
        return Err(Failure::new("format: too many arguments"));
    }
    Ok(Value::text(out))
}

struct Field {
    is_left: bool,
    is_zero: bool,
    has_plus: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
    /// Bytes of the field behind its `%`.
    length: usize,
}

impl Field {
    fn parse(text: &str) -> Result<Self, Failure> {
        let flags = text.len() - text.trim_start_matches(['-', '0', '+', ' ', '#']).len();
        let has = |flag| text[..flags].contains(flag);
        let (width, after) = number(&text[flags..])?;
        let (precision, after) = match after.strip_prefix('.') {
            Some(digits) => {
                let (precision, after) = number(digits)?;
                (Some(precision), after)
            }
            None => (None, after),
        };
        let conversion = after
            .chars()
            .next()
            .ok_or_else(|| Failure::new("format: a `%` without its letter"))?;
        Ok(Self {
            is_left: has('-'),
            is_zero: has('0') && !has('-'),
            has_plus: has('+'),
            width,
            precision,
            conversion,
            length: text.len() - after.len() + conversion.len_utf8(),
        })
    }

    fn write(&self, value: &Value, out: &mut String, budget: &mut Budget) -> Result<(), Failure> {
        let wrong = || {
            let kind = value.kind();
            Failure::new(format!(
                "format: `%{}` does not take a {kind}",
                self.conversion
            ))
        };
        let mut shown = match self.conversion {
            's' | 'r' => {
                let mut shown = String::new();
                text::write(value, &mut shown, budget)?;
                shown
            }
            'd' | 'i' | 'u' => match value {
                Value::Float(number) => format!("{:.0}", number.trunc()),
                other => other.as_int().ok_or_else(wrong)?.to_string(),
            },
            'x' => format!(
                "{:x}",
                value
                    .as_int()
                    .filter(|number| *number >= 0)
                    .ok_or_else(wrong)?
            ),
            'f' | 'F' => {
                let digits = self.precision.unwrap_or(6);
                format!("{:.digits$}", value.as_number().ok_or_else(wrong)?)
            }
            other => {
                return Err(Failure::new(format!(
                    "format: `%{}` is not supported",
                    other.escape_debug()
                )));
            }
        };
        let is_text = matches!(self.conversion, 's' | 'r');
        if let (true, Some(precision)) = (is_text, self.precision) {
            shown = shown.chars().take(precision).collect();
        }
        if self.has_plus && !is_text && !shown.starts_with('-') {
            shown.insert(0, '+');
        }
        let missing = self.width.saturating_sub(shown.chars().count());
        budget.take(shown.len() + missing)?;
        let spaces = std::iter::repeat_n(' ', missing);
        if self.is_left {
            out.push_str(&shown);
            out.extend(spaces);
        } else if self.is_zero && !is_text {
            let digits = shown.trim_start_matches(['-', '+']);
            out.push_str(&shown[..shown.len() - digits.len()]);
            out.extend(std::iter::repeat_n('0', missing));
            out.push_str(digits);
        } else {
            out.extend(spaces);
            out.push_str(&shown);
        }
        Ok(())
    }
}

/// The number that the text begins with (0 without digits), and what is behind it.
fn number(text: &str) -> Result<(usize, &str), Failure> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - rest.len()];
    if digits.is_empty() {
        return Ok((0, rest));
    }
    match digits.parse() {
        Ok(number) if number <= MAX_WIDTH => Ok((number, rest)),
        _ => Err(Failure::new(format!("format: a width beyond {MAX_WIDTH}"))),
    }
}

/// `format.format(arguments)`: fields without a format of their own (`{}`, `{0}`, `{name}`).
pub(super) fn braces(
    format: &str,
    positional: &[Value],
    named: &[(std::sync::Arc<str>, Value)],
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let mut out = String::new();
    let mut next = 0;
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        budget.push(&mut out, &rest[..at])?;
        let bracket = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix(bracket) {
            budget.push(&mut out, bracket)?;
            rest = behind;
            continue;
        }
        let (name, behind) = (bracket == "{")
            .then(|| rest.split_once('}'))
            .flatten()
            .ok_or_else(|| Failure::new("format: a bracket without its other one"))?;
        rest = behind;
        let value = if name.is_empty() {
            next += 1;
            positional.get(next - 1)
        } else if let Ok(index) = name.parse::<usize>() {
            positional.get(index)
        } else {
            named
                .iter()
                .find(|(known, _)| &**known == name)
                .map(|(_, value)| value)
        };
        let value = value
            .ok_or_else(|| Failure::new(format!("format: no argument for `{{{name:.40}}}`")))?;
        text::write(value, &mut out, budget)?;
    }
    budget.push(&mut out, rest)?;
    Ok(Value::text(out))
}
