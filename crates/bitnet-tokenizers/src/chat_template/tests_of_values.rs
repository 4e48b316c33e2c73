//! What `is` asks, as far as chat templates use it.

use super::arguments::Args;
use super::budget::Budget;
use super::compare::{contains, equal, order};
use super::failure::Failure;
use super::strings;
use super::value::Value;

/// `value is name(args)`.
pub(super) fn check(
    name: &str,
    value: &Value,
    args: &Args,
    budget: &mut Budget,
) -> Result<bool, Failure> {
    budget.step()?;
    let other = || {
        let other = args.positional.first();
        other.ok_or_else(|| Failure::new(format!("the test `{name:.40}` needs an argument")))
    };
    let int = || {
        let wrong = || Failure::new(format!("the test `{name}`: a {} is no int", value.kind()));
        value.as_int().ok_or_else(wrong)
    };
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined),
        "undefined" => matches!(value, Value::Undefined),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "string" => matches!(value, Value::Str(_)),
        "number" => value.as_number().is_some(),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "mapping" => matches!(value, Value::Map(_)),
        "sequence" | "iterable" => matches!(
            value,
            Value::List(_) | Value::Tuple(_) | Value::Map(_) | Value::Str(_) | Value::Undefined
        ),
        "callable" => matches!(value, Value::Macro(_) | Value::Function(_) | Value::Loop(_)),
        "odd" => int()?.rem_euclid(2) == 1,
        "even" => int()?.rem_euclid(2) == 0,
        "divisibleby" => match other()?.as_int() {
            Some(by) if by != 0 => int()?.checked_rem(by).unwrap_or(0) == 0,
            _ => {
                return Err(Failure::new(
                    "the test `divisibleby` needs an int that is not 0",
                ));
            }
        },
        "upper" | "lower" => match value {
            Value::Str(text) => strings::call(
                text,
                if name == "upper" {
                    "isupper"
                } else {
                    "islower"
                },
                args,
                budget,
            )?
            .is_true(),
            _ => false,
        },
        "in" => contains(other()?, value, budget)?,
        "eq" | "equalto" | "sameas" => equal(value, other()?, budget)?,
        "ne" => !equal(value, other()?, budget)?,
        "lt" | "lessthan" => order(value, other()?, budget)?.is_lt(),
        "le" => order(value, other()?, budget)?.is_le(),
        "gt" | "greaterthan" => order(value, other()?, budget)?.is_gt(),
        "ge" => order(value, other()?, budget)?.is_ge(),
        _ => return Err(Failure::new(format!("there is no test `{name:.40}`"))),
    })
}
