//! Jinja's filters, as far as chat templates use them.

use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use super::arguments::Args;
use super::budget::Budget;
use super::compare::{equal, order};
use super::failure::Failure;
use super::json::Json;
use super::program::Operator;
use super::value::{Items, Value};
use super::{format, operators, strings, tests_of_values, text};

/// `value | name(args)`.
pub(super) fn apply(
    name: &str,
    value: &Value,
    args: &Args,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    budget.step()?;
    budget.enter()?;
    let result = match name {
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => {
            each(name, value, args, budget)
        }
        "sort" | "dictsort" | "unique" | "min" | "max" => ordered(name, value, args, budget),
        "abs" | "int" | "float" | "round" | "sum" => number(name, value, args, budget),
        _ => one(name, value, args, budget),
    };
    budget.leave();
    result
}

fn one(name: &str, value: &Value, args: &Args, budget: &mut Budget) -> Result<Value, Failure> {
    let as_text = |budget: &mut Budget| -> Result<Arc<str>, Failure> {
        match text::string(value, budget)? {
            Value::Str(text) => Ok(text),
            other => Err(Failure::new(format!(
                "`{name:.40}`: a {} is no text",
                other.kind()
            ))),
        }
    };
    match name {
        "upper" | "lower" | "title" | "capitalize" => {
            args.check(name, 0, &[])?;
            strings::cased(&as_text(budget)?, name, budget)
        }
        "trim" => {
            args.check(name, 1, &["chars"])?;
            let chars = args.text(name, 0, "chars")?;
            strings::strip(&as_text(budget)?, chars.as_deref(), true, true, budget)
        }
        "replace" | "split" => strings::call(&as_text(budget)?, name, args, budget),
        "format" => format::percent(&as_text(budget)?, &args.positional, budget),
        "string" => text::string(value, budget),
        "safe" => Ok(value.clone()),
        "escape" | "e" => {
            let mut out = String::new();
            for c in as_text(budget)?.chars() {
                match c {
                    '&' => budget.push(&mut out, "&amp;")?,
                    '<' => budget.push(&mut out, "&lt;")?,
                    '>' => budget.push(&mut out, "&gt;")?,
                    '\'' => budget.push(&mut out, "&#39;")?,
                    '"' => budget.push(&mut out, "&#34;")?,
                    c => budget.push(&mut out, c.encode_utf8(&mut [0; 4]))?,
                }
            }
            Ok(Value::text(out))
        }
        "indent" => indent(&as_text(budget)?, args, budget),
        "tojson" => {
            args.check(
                name,
                1,
                &["indent", "ensure_ascii", "sort_keys", "separators"],
            )?;
            let indent = args.get(0, "indent").unwrap_or(&Value::None);
            Json::new(indent, args.flag(1, "sort_keys"))?.dumps(value, budget)
        }
        "length" | "count" => {
            let length = value.length(budget)?;
            let wrong = || Failure::new(format!("`{name}`: a {} has no length", value.kind()));
            Ok(Value::Int(length.ok_or_else(wrong)? as i64))
        }
        "default" | "d" => {
            args.check(name, 2, &["default_value", "boolean"])?;
            let is_missing =
                matches!(value, Value::Undefined) || (args.flag(1, "boolean") && !value.is_true());
            let otherwise = || {
                args.get(0, "default_value")
                    .cloned()
                    .unwrap_or_else(|| Value::text(""))
            };
            Ok(if is_missing {
                otherwise()
            } else {
                value.clone()
            })
        }
        "bool" => Ok(Value::Bool(value.is_true())),
        "first" | "last" => {
            let items = value.iterate(budget)?;
            let item = if name == "first" {
                items.values.first()
            } else {
                items.values.last()
            };
            Ok(item.cloned().unwrap_or(Value::Undefined))
        }
        "list" => {
            let items = value.iterate(budget)?;
            Ok(Value::List(items))
        }
        "reverse" => match value {
            Value::Str(text) => {
                budget.take(text.len())?;
                Ok(Value::text(text.chars().rev().collect::<String>()))
            }
            other => {
                let items = other.iterate(budget)?;
                budget.entries(items.values.len())?;
                Value::list(items.values.iter().rev().cloned().collect(), budget)
            }
        },
        "items" => match value {
            Value::Undefined => Value::list(Vec::new(), budget),
            Value::Map(map) => {
                let mut pairs = Vec::new();
                for (key, value) in &map.pairs {
                    pairs.push(Value::tuple(vec![key.clone(), value.clone()], budget)?);
                }
                Value::list(pairs, budget)
            }
            other => Err(Failure::new(format!(
                "`items`: a {} has no pairs",
                other.kind()
            ))),
        },
        "join" => {
            args.check(name, 2, &["d", "attribute"])?;
            let items = value.iterate(budget)?;
            let separator = match args.get(0, "d") {
                None => "".into(),
                Some(separator) => match text::string(separator, budget)? {
                    Value::Str(text) => text,
                    _ => "".into(),
                },
            };
            match args.text(name, 1, "attribute")? {
                None => strings::join(&items.values, &separator, budget),
                Some(attribute) => {
                    let values = attributes(&items, &attribute, budget)?;
                    strings::join(&values, &separator, budget)
                }
            }
        }
        "attr" => value.item(&Value::Str(args.needed_text(name, 0, "name")?), budget),
        _ => Err(Failure::new(format!("there is no filter `{name:.40}`"))),
    }
}

fn indent(value: &str, args: &Args, budget: &mut Budget) -> Result<Value, Failure> {
    args.check("indent", 3, &["width", "first", "blank"])?;
    let width = match args.get(0, "width") {
        Some(Value::Str(text)) => text.clone(),
        _ => {
            let width = args.int("indent", 0, "width")?.unwrap_or(4);
            let width = usize::try_from(width).unwrap_or(0);
            budget.take(width)?;
            " ".repeat(width).into()
        }
    };
    let (first, blank) = (args.flag(1, "first"), args.flag(2, "blank"));
    let mut out = String::new();
    // As Jinja: one line break at the end is not one more line, and stays none.
    for (n, line) in value.split('\n').enumerate() {
        if n > 0 {
            budget.push(&mut out, "\n")?;
        }
        if if n == 0 {
            first
        } else {
            blank || !line.is_empty()
        } {
            budget.push(&mut out, &width)?;
        }
        budget.push(&mut out, line)?;
    }
    Ok(Value::text(out))
}

/// The attribute, by its path with dots, of each item.
fn attributes(items: &Items, path: &str, budget: &mut Budget) -> Result<Vec<Value>, Failure> {
    budget.entries(items.values.len())?;
    items
        .values
        .iter()
        .map(|item| attribute(item, path, budget))
        .collect()
}

fn attribute(item: &Value, path: &str, budget: &mut Budget) -> Result<Value, Failure> {
    budget.look(path.len())?;
    let mut value = item.clone();
    for part in path.split('.') {
        budget.step()?;
        let key = part.parse().map_or_else(|_| Value::text(part), Value::Int);
        value = value.item(&key, budget)?;
    }
    Ok(value)
}

/// The filters that apply a filter or a test to each item.
fn each(name: &str, value: &Value, args: &Args, budget: &mut Budget) -> Result<Value, Failure> {
    // As Jinja: nothing at all has no items, whatever its kind.
    let items = if value.is_true() {
        value.iterate(budget)?
    } else {
        Rc::default()
    };
    budget.entries(items.values.len())?;
    let mut out = Vec::new();
    if name == "map" {
        if let Some(path) = args.text(name, usize::MAX, "attribute")? {
            let default = args.named("default").unwrap_or(&Value::Undefined);
            for value in attributes(&items, &path, budget)? {
                out.push(if matches!(value, Value::Undefined) {
                    default.clone()
                } else {
                    value
                });
            }
            return Value::list(out, budget);
        }
        let filter = args.needed_text(name, 0, "filter")?;
        let args = args.behind(1);
        for item in &items.values {
            out.push(apply(&filter, item, &args, budget)?);
        }
        return Value::list(out, budget);
    }
    let by_attribute = name.ends_with("attr");
    let path = by_attribute
        .then(|| args.needed_text(name, 0, "attribute"))
        .transpose()?;
    let test = args.text(name, usize::from(by_attribute), "test")?;
    let args = args.behind(1 + usize::from(by_attribute));
    for item in &items.values {
        budget.step()?;
        let tested = match &path {
            Some(path) => attribute(item, path, budget)?,
            None => item.clone(),
        };
        let passed = match &test {
            Some(test) => tests_of_values::check(test, &tested, &args, budget)?,
            None => tested.is_true(),
        };
        if passed == name.starts_with("select") {
            out.push(item.clone());
        }
    }
    Value::list(out, budget)
}

/// What items are ordered by: texts in one case, unless it matters.
fn keys(items: &[Value], args: &Args, budget: &mut Budget) -> Result<Vec<Value>, Failure> {
    budget.entries(items.len())?;
    let path = args.text("sort", usize::MAX, "attribute")?;
    let mut keys = Vec::new();
    for item in items {
        budget.step()?;
        let key = match &path {
            Some(path) => attribute(item, path, budget)?,
            None => item.clone(),
        };
        keys.push(match &key {
            Value::Str(text) if !args.flag(usize::MAX, "case_sensitive") => {
                strings::cased(text, "lower", budget)?
            }
            _ => key,
        });
    }
    Ok(keys)
}

fn ordered(name: &str, value: &Value, args: &Args, budget: &mut Budget) -> Result<Value, Failure> {
    let items = match (name, value) {
        ("dictsort", Value::Map(_)) => {
            one("items", value, &Args::default(), budget)?.iterate(budget)?
        }
        ("dictsort", other) => {
            return Err(Failure::new(format!(
                "`dictsort`: a {} has no pairs",
                other.kind()
            )));
        }
        _ => value.iterate(budget)?,
    };
    let by = match (name, args.text(name, 1, "by")?.as_deref()) {
        ("dictsort", Some("value")) => Some(Value::Int(1)),
        ("dictsort", _) => Some(Value::Int(0)),
        _ => None,
    };
    let mut of = items.values.clone();
    budget.entries(of.len())?;
    if let Some(by) = by {
        of = of
            .iter()
            .map(|pair| pair.item(&by, budget))
            .collect::<Result<_, _>>()?;
    }
    let keys = keys(&of, args, budget)?;
    let best = |wanted: Ordering, budget: &mut Budget| {
        let mut best = None;
        for (at, key) in keys.iter().enumerate() {
            budget.step()?;
            if best.map_or(Ok(true), |best: usize| {
                order(key, &keys[best], budget).map(|found| found == wanted)
            })? {
                best = Some(at);
            }
        }
        Ok(best.map_or(Value::Undefined, |at| items.values[at].clone()))
    };
    match name {
        "min" => best(Ordering::Less, budget),
        "max" => best(Ordering::Greater, budget),
        "unique" => {
            let mut kept: Vec<usize> = Vec::new();
            'items: for (at, key) in keys.iter().enumerate() {
                for other in &kept {
                    budget.step()?;
                    if equal(key, &keys[*other], budget)? {
                        continue 'items;
                    }
                }
                kept.push(at);
            }
            Value::list(
                kept.into_iter()
                    .map(|at| items.values[at].clone())
                    .collect(),
                budget,
            )
        }
        _ => sort(
            &items,
            &keys,
            args.flag(usize::from(name == "dictsort") * 2, "reverse"),
            budget,
        ),
    }
}

/// The items in the order of their keys, which are all numbers or all texts: anything else has no order.
fn sort(
    items: &Items,
    keys: &[Value],
    reverse: bool,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let rounds = keys.len().checked_ilog2().unwrap_or(0) as usize + 1;
    let bytes: usize = keys.iter().filter_map(Value::as_str).map(str::len).sum();
    budget.look(bytes.saturating_add(16 * keys.len()).saturating_mul(rounds))?;
    let mut places: Vec<usize> = (0..keys.len()).collect();
    budget.entries(places.len())?;
    let by = |a: Ordering| if reverse { a.reverse() } else { a };
    let texts: Option<Vec<&str>> = keys.iter().map(Value::as_str).collect();
    let numbers: Option<Vec<f64>> = keys.iter().map(Value::as_number).collect();
    match (texts, numbers) {
        (Some(texts), _) => places.sort_by(|a, b| by(texts[*a].cmp(texts[*b]))),
        (None, Some(numbers)) => places.sort_by(|a, b| by(numbers[*a].total_cmp(&numbers[*b]))),
        (None, None) => return Err(Failure::new("only texts or only numbers can be sorted")),
    }
    Value::list(
        places
            .into_iter()
            .map(|at| items.values[at].clone())
            .collect(),
        budget,
    )
}

fn number(name: &str, value: &Value, args: &Args, budget: &mut Budget) -> Result<Value, Failure> {
    let wrong = || Failure::new(format!("`{name}`: a {} is no number", value.kind()));
    match name {
        "abs" => match value.as_int() {
            Some(number) => number
                .checked_abs()
                .map(Value::Int)
                .ok_or_else(|| Failure::new("`abs` overflows")),
            None => Ok(Value::Float(value.as_number().ok_or_else(wrong)?.abs())),
        },
        "int" => {
            let number = match value {
                Value::Float(number) => Some(*number as i64),
                Value::Str(text) => {
                    let text = text.trim();
                    text.parse()
                        .ok()
                        .or_else(|| text.parse::<f64>().ok().map(|number| number as i64))
                }
                other => other.as_int(),
            };
            Ok(number.map_or_else(
                || args.get(0, "default").cloned().unwrap_or(Value::Int(0)),
                Value::Int,
            ))
        }
        "float" => {
            let number = match value {
                Value::Str(text) => text.trim().parse().ok(),
                other => other.as_number(),
            };
            Ok(number.map_or_else(
                || args.get(0, "default").cloned().unwrap_or(Value::Float(0.0)),
                Value::Float,
            ))
        }
        "round" => {
            args.check(name, 2, &["precision", "method"])?;
            let number = value.as_number().ok_or_else(wrong)?;
            let digits = args
                .int(name, 0, "precision")?
                .unwrap_or(0)
                .clamp(-300, 300) as i32;
            let scale = 10_f64.powi(digits);
            let rounded = match args.text(name, 1, "method")?.as_deref() {
                None | Some("common") if digits >= 0 => {
                    let digits = digits as usize;
                    format!("{number:.digits$}").parse().unwrap_or(number)
                }
                None | Some("common") => (number * scale).round_ties_even() / scale,
                Some("ceil") => (number * scale).ceil() / scale,
                Some("floor") => (number * scale).floor() / scale,
                Some(_) => {
                    return Err(Failure::new(
                        "`round`: the method is `common`, `ceil` or `floor`",
                    ));
                }
            };
            match value {
                Value::Int(_) if digits >= 0 => Ok(value.clone()),
                _ => Ok(Value::Float(rounded)),
            }
        }
        _ => {
            args.check(name, 2, &["attribute", "start"])?;
            let items = value.iterate(budget)?;
            let path = args.text(name, 0, "attribute")?;
            let mut sum = args.get(1, "start").cloned().unwrap_or(Value::Int(0));
            for item in &items.values {
                budget.step()?;
                let item = match &path {
                    Some(path) => attribute(item, path, budget)?,
                    None => item.clone(),
                };
                sum = operators::binary(Operator::Add, &sum, &item, budget)?;
            }
            Ok(sum)
        }
    }
}
