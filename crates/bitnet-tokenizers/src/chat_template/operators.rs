//! Arithmetic, concatenation, repetition and slices, by Python's rules. Each result is paid for before it is made.

use super::budget::Budget;
use super::failure::Failure;
use super::program::Operator;
use super::text;
use super::value::Value;

/// `a OPERATOR b`.
pub(super) fn binary(
    operator: Operator,
    a: &Value,
    b: &Value,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    match (operator, a, b) {
        (Operator::Concat, _, _) => {
            let mut out = String::new();
            text::write(a, &mut out, budget)?;
            text::write(b, &mut out, budget)?;
            Ok(Value::text(out))
        }
        (Operator::Add, Value::Str(a), Value::Str(b)) => {
            budget.take(a.len() + b.len())?;
            Ok(Value::text([&**a, &**b].concat()))
        }
        (Operator::Add, Value::List(a), Value::List(b)) => {
            budget.entries(a.values.len() + b.values.len())?;
            Value::list([&a.values[..], &b.values].concat(), budget)
        }
        (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
            budget.entries(a.values.len() + b.values.len())?;
            Value::tuple([&a.values[..], &b.values].concat(), budget)
        }
        (Operator::Multiply, Value::Str(_) | Value::List(_) | Value::Tuple(_), _)
            if b.as_int().is_some() =>
        {
            repeat(a, b, budget)
        }
        (Operator::Multiply, _, Value::Str(_) | Value::List(_) | Value::Tuple(_))
            if a.as_int().is_some() =>
        {
            repeat(b, a, budget)
        }
        (Operator::Remainder, Value::Str(format), _) => {
            let arguments = match b {
                Value::Tuple(items) => &items.values[..],
                other => std::slice::from_ref(other),
            };
            super::format::percent(format, arguments, budget)
        }
        _ => numbers(operator, a, b),
    }
}

fn repeat(value: &Value, times: &Value, budget: &mut Budget) -> Result<Value, Failure> {
    let times = times
        .as_int()
        .and_then(|times| usize::try_from(times).ok())
        .unwrap_or(0);
    match value {
        Value::Str(text) => {
            budget.take(text.len().saturating_mul(times))?;
            Ok(Value::text(text.repeat(times)))
        }
        Value::List(items) => {
            budget.entries(items.values.len().saturating_mul(times))?;
            Value::list(repeated(&items.values, times), budget)
        }
        Value::Tuple(items) => {
            budget.entries(items.values.len().saturating_mul(times))?;
            Value::tuple(repeated(&items.values, times), budget)
        }
        other => Err(Failure::new(format!(
            "a {} cannot be repeated",
            other.kind()
        ))),
    }
}

fn repeated(values: &[Value], times: usize) -> Vec<Value> {
    let count = values.len() * times;
    values.iter().cycle().take(count).cloned().collect()
}

fn numbers(operator: Operator, a: &Value, b: &Value) -> Result<Value, Failure> {
    let symbol = match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
        Operator::Concat => "~",
    };
    let undefined = || {
        let (a, b) = (a.kind(), b.kind());
        Failure::new(format!("`{symbol}` is not defined between {a} and {b}"))
    };
    let (x, y) = (
        a.as_number().ok_or_else(undefined)?,
        b.as_number().ok_or_else(undefined)?,
    );
    if matches!(
        operator,
        Operator::Divide | Operator::FloorDivide | Operator::Remainder
    ) && y == 0.0
    {
        return Err(Failure::new("division by zero"));
    }
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        let result = match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::FloorDivide => floor_divide(a, b),
            Operator::Remainder => floor_divide(a, b)
                .and_then(|q| q.checked_mul(b))
                .and_then(|qb| a.checked_sub(qb)),
            Operator::Power if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            _ => {
                return Ok(Value::Float(if operator == Operator::Divide {
                    x / y
                } else {
                    x.powf(y)
                }));
            }
        };
        return result
            .map(Value::Int)
            .ok_or_else(|| Failure::new(format!("`{symbol}` overflows")));
    }
    Ok(Value::Float(match operator {
        Operator::Add => x + y,
        Operator::Subtract => x - y,
        Operator::Multiply => x * y,
        Operator::Divide => x / y,
        Operator::FloorDivide => (x / y).floor(),
        Operator::Remainder => x - y * (x / y).floor(),
        Operator::Power | Operator::Concat => x.powf(y),
    }))
}

/// Division towards minus infinity, as Python's `//`.
fn floor_divide(a: i64, b: i64) -> Option<i64> {
    let (quotient, remainder) = (a.checked_div(b)?, a.checked_rem(b)?);
    Some(quotient - i64::from(remainder != 0 && (remainder < 0) != (b < 0)))
}

/// `-value`.
pub(super) fn negative(value: &Value) -> Result<Value, Failure> {
    match value {
        Value::Float(number) => Ok(Value::Float(-number)),
        other => match other.as_int() {
            Some(number) => number
                .checked_neg()
                .map(Value::Int)
                .ok_or_else(|| Failure::new("`-` overflows")),
            None => Err(Failure::new(format!(
                "`-` is not defined for {}",
                other.kind()
            ))),
        },
    }
}

/// `value[start:stop:step]`; each of the three may be `None`.
pub(super) fn slice(
    value: &Value,
    bounds: [Value; 3],
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(&bounds) {
        *number = match (bound, bound.as_int()) {
            (Value::None, _) => None,
            (_, Some(bound)) => Some(bound),
            (other, None) => {
                return Err(Failure::new(format!(
                    "a {} is no bound of a slice",
                    other.kind()
                )));
            }
        };
    }
    let [start, stop, step] = numbers;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Failure::new("the step of a slice is 0"));
    }
    match value {
        Value::Undefined => Err(Failure::new("undefined value cannot be sliced")),
        Value::Str(text) => {
            let length = value.length(budget)?.unwrap_or(0);
            let picked = picked(length, start, stop, step);
            budget.take(text.len())?;
            if step == 1 {
                let (from, count) = (picked.first, picked.count);
                return Ok(Value::text(
                    text.chars().skip(from).take(count).collect::<String>(),
                ));
            }
            // A character takes four bytes in a row of them.
            budget.take(length.saturating_mul(4))?;
            let chars: Vec<char> = text.chars().collect();
            Ok(Value::text(picked.map(|at| chars[at]).collect::<String>()))
        }
        Value::List(items) | Value::Tuple(items) => {
            let picked = picked(items.values.len(), start, stop, step);
            budget.entries(picked.count)?;
            let values = picked.map(|at| items.values[at].clone()).collect();
            match value {
                Value::List(_) => Value::list(values, budget),
                _ => Value::tuple(values, budget),
            }
        }
        other => Err(Failure::new(format!("a {} cannot be sliced", other.kind()))),
    }
}

/// The places that a slice picks.
struct Picked {
    first: usize,
    step: i64,
    count: usize,
}

impl Iterator for Picked {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.count = self.count.checked_sub(1)?;
        let at = self.first;
        self.first = self
            .first
            .saturating_add_signed(isize::try_from(self.step).unwrap_or(0));
        Some(at)
    }
}

/// Python's `slice(start, stop, step).indices(length)`.
fn picked(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Picked {
    let length = length as i64;
    let (lowest, highest) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let clamp = |bound: Option<i64>, default: i64| {
        let Some(bound) = bound else { return default };
        let bound = if bound < 0 {
            bound.saturating_add(length)
        } else {
            bound
        };
        bound.clamp(lowest, highest)
    };
    let first = clamp(start, if step > 0 { lowest } else { highest });
    let end = clamp(stop, if step > 0 { highest } else { lowest });
    let distance = if step > 0 { end - first } else { first - end };
    let count = if distance > 0 {
        (distance as u64).div_ceil(step.unsigned_abs()) as usize
    } else {
        0
    };
    Picked {
        first: first.max(0) as usize,
        step,
        count,
    }
}
