//! Equality and order, by Python's rules.

use std::cmp::Ordering;

use super::budget::Budget;
use super::failure::Failure;
use super::value::Value;

/// Whether two values are equal: numbers whatever their kind, lists and maps by their contents.
pub(super) fn equal(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool, Failure> {
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (a.as_number(), b.as_number()) {
        return Ok(a == b);
    }
    match (a, b) {
        (Value::Undefined, Value::Undefined) | (Value::None, Value::None) => Ok(true),
        (Value::Str(a), Value::Str(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            budget.look(a.len())?;
            Ok(a == b)
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.values.len() != b.values.len() {
                return Ok(false);
            }
            for (a, b) in a.values.iter().zip(&b.values) {
                budget.step()?;
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Map(a), Value::Map(b)) => {
            if a.pairs.len() != b.pairs.len() {
                return Ok(false);
            }
            for (key, value) in &a.pairs {
                budget.step()?;
                let other = b.get(key, budget)?;
                if !equal(value, &other, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Function(a), Value::Function(b)) => Ok(a == b),
        _ => Ok(false),
    }
}

/// Which comes first, where there is an order: numbers, texts, and lists by their first difference.
pub(super) fn order(a: &Value, b: &Value, budget: &mut Budget) -> Result<Ordering, Failure> {
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return Ok(a.cmp(&b));
    }
    let ordered = match (a, b) {
        (Value::Str(a), Value::Str(b)) => {
            budget.look(a.len().min(b.len()))?;
            Some(a.cmp(b))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.values.iter().zip(&b.values) {
                budget.step()?;
                if !equal(a, b, budget)? {
                    return order(a, b, budget);
                }
            }
            Some(a.values.len().cmp(&b.values.len()))
        }
        _ => match (a.as_number(), b.as_number()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => None,
        },
    };
    ordered.ok_or_else(|| Failure::new(format!("a {} and a {} have no order", a.kind(), b.kind())))
}

/// Whether `container` has `value` in it.
pub(super) fn contains(
    container: &Value,
    value: &Value,
    budget: &mut Budget,
) -> Result<bool, Failure> {
    match (container, value) {
        (Value::Undefined, _) => Ok(false),
        (Value::Str(text), Value::Str(piece)) => {
            budget.look(text.len() + piece.len())?;
            Ok(text.contains(&**piece))
        }
        (Value::List(items) | Value::Tuple(items), _) => {
            for item in &items.values {
                budget.step()?;
                if equal(item, value, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::Map(map), _) => Ok(map.position(value, budget)?.is_some()),
        (Value::Namespace(names), _) => Ok(value
            .as_str()
            .is_some_and(|name| names.borrow().contains_key(name))),
        _ => Err(Failure::new(format!(
            "a {} cannot be in a {}",
            value.kind(),
            container.kind()
        ))),
    }
}
