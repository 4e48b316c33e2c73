//! Python's methods of texts, which filters share.

use std::sync::Arc;

use super::arguments::Args;
use super::budget::{Budget, ENTRY};
use super::failure::Failure;
use super::format;
use super::text;
use super::value::Value;

/// `text.name(args)`.
pub(super) fn call(
    text: &Arc<str>,
    name: &str,
    args: &Args,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    budget.look(text.len())?;
    let is = |found: bool| Ok(Value::Bool(found));
    let all = |test: fn(char) -> bool| Ok(Value::Bool(!text.is_empty() && text.chars().all(test)));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            args.check(name, 1, &["chars"])?;
            let chars = args.text(name, 0, "chars")?;
            strip(
                text,
                chars.as_deref(),
                name != "rstrip",
                name != "lstrip",
                budget,
            )
        }
        "upper" | "lower" | "title" | "capitalize" => {
            args.check(name, 0, &[])?;
            cased(text, name, budget)
        }
        "split" | "rsplit" => {
            args.check(name, 2, &["sep", "maxsplit"])?;
            let separator = args.text(name, 0, "sep")?;
            let most = args
                .int(name, 1, "maxsplit")?
                .and_then(|most| usize::try_from(most).ok());
            split(text, separator.as_deref(), most, name == "rsplit", budget)
        }
        "splitlines" => {
            args.check(name, 1, &["keepends"])?;
            let keeps = args.flag(0, "keepends");
            let lines = text
                .split_inclusive('\n')
                .map(|line| match line.strip_suffix('\n') {
                    Some(bare) if !keeps => bare.strip_suffix('\r').unwrap_or(bare),
                    _ => line,
                });
            pieces(lines, budget)
        }
        "replace" => {
            args.check(name, 3, &["old", "new", "count"])?;
            let (old, new) = (
                args.needed_text(name, 0, "old")?,
                args.needed_text(name, 1, "new")?,
            );
            replace(text, &old, &new, args.int(name, 2, "count")?, budget)
        }
        "startswith" | "endswith" => {
            args.check(name, 1, &[])?;
            let affixes = match args.positional.first() {
                Some(Value::Tuple(items)) => items.values.clone(),
                Some(other) => vec![other.clone()],
                None => Vec::new(),
            };
            for affix in &affixes {
                let wrong = || Failure::new(format!("`{name}` takes a string or a tuple of them"));
                let affix = affix.as_str().ok_or_else(wrong)?;
                budget.look(affix.len())?;
                if if name == "startswith" {
                    text.starts_with(affix)
                } else {
                    text.ends_with(affix)
                } {
                    return is(true);
                }
            }
            is(false)
        }
        "removeprefix" | "removesuffix" => {
            args.check(name, 1, &[])?;
            let affix = args.needed_text(name, 0, "prefix")?;
            let bare = match name {
                "removeprefix" => text.strip_prefix(&*affix),
                _ => text.strip_suffix(&*affix),
            };
            part(bare.unwrap_or(text), budget)
        }
        "find" | "rfind" => {
            args.check(name, 1, &[])?;
            let what = args.needed_text(name, 0, "sub")?;
            let at = if name == "find" {
                text.find(&*what)
            } else {
                text.rfind(&*what)
            };
            Ok(Value::Int(
                at.map_or(-1, |at| text[..at].chars().count() as i64),
            ))
        }
        "count" => {
            args.check(name, 1, &[])?;
            let what = args.needed_text(name, 0, "sub")?;
            Ok(Value::Int(text.matches(&*what).count() as i64))
        }
        "join" => {
            args.check(name, 1, &[])?;
            let items = args
                .positional
                .first()
                .unwrap_or(&Value::Undefined)
                .iterate(budget)?;
            join(&items.values, text, budget)
        }
        "format" => format::braces(text, &args.positional, &args.named, budget),
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(char::is_whitespace),
        "isascii" => is(text.is_ascii()),
        "isupper" => {
            is(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))
        }
        "islower" => {
            is(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))
        }
        _ => Err(Failure::new(format!("a string has no method `{name:.40}`"))),
    }
}

/// A part of a text, as a text of its own.
fn part(text: &str, budget: &mut Budget) -> Result<Value, Failure> {
    budget.take(text.len())?;
    Ok(Value::text(text))
}

/// The text without white space, or without the given characters, at its ends.
pub(super) fn strip(
    text: &str,
    chars: Option<&str>,
    at_start: bool,
    at_end: bool,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let chars = chars.unwrap_or("");
    // Each character is looked for among the others.
    budget.look(text.len().saturating_mul(chars.len().max(1)))?;
    let strips = |c: char| {
        if chars.is_empty() {
            c.is_whitespace()
        } else {
            chars.contains(c)
        }
    };
    let mut bare = text;
    if at_start {
        bare = bare.trim_start_matches(strips);
    }
    if at_end {
        bare = bare.trim_end_matches(strips);
    }
    part(bare, budget)
}

/// The text in `upper`, `lower`, `title` or `capitalize` case.
pub(super) fn cased(text: &str, case: &str, budget: &mut Budget) -> Result<Value, Failure> {
    // No character has more than three times its bytes in another case.
    budget.take(text.len().saturating_mul(3))?;
    Ok(Value::text(match case {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        _ => {
            let mut out = String::with_capacity(text.len());
            let mut is_first = true;
            for c in text.chars() {
                match is_first {
                    true => out.extend(c.to_uppercase()),
                    false => out.extend(c.to_lowercase()),
                }
                is_first = case == "title"
                    && (c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<'));
            }
            out
        }
    }))
}

/// `text.split(separator, most)`, or `rsplit`.
pub(super) fn split(
    text: &str,
    separator: Option<&str>,
    most: Option<usize>,
    from_end: bool,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
    match (separator, from_end) {
        (Some(""), _) => Err(Failure::new("`split`: an empty separator")),
        (Some(separator), false) => pieces(text.splitn(most, separator), budget),
        (Some(separator), true) => {
            let Value::List(reversed) = pieces(text.rsplitn(most, separator), budget)? else {
                return Err(Failure::new("`rsplit`: no list"));
            };
            Value::list(reversed.values.iter().rev().cloned().collect(), budget)
        }
        (None, false) if most == usize::MAX => pieces(text.split_whitespace(), budget),
        (None, false) => {
            let mut rest = text.trim_start();
            let mut all = Vec::new();
            while !rest.is_empty() {
                let is_last = all.len() + 1 == most;
                let end = if is_last {
                    None
                } else {
                    rest.find(char::is_whitespace)
                };
                let (piece, behind) = rest.split_at(end.unwrap_or(rest.len()));
                budget.take(piece.len() + ENTRY)?;
                all.push(Value::text(piece));
                rest = behind.trim_start();
            }
            Value::list(all, budget)
        }
        (None, true) => Err(Failure::new(
            "`rsplit` without a separator is not supported",
        )),
    }
}

fn pieces<'a>(
    pieces: impl Iterator<Item = &'a str>,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let mut all = Vec::new();
    for piece in pieces {
        budget.take(piece.len() + ENTRY)?;
        all.push(Value::text(piece));
    }
    Value::list(all, budget)
}

/// The text with `new` for the first `count` places (all if it is none or negative) of `old`.
pub(super) fn replace(
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    budget.look(text.len() + old.len())?;
    let count = count
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(usize::MAX);
    let found = text.matches(old).take(count).count();
    budget.take(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(Value::text(text.replacen(old, new, found)))
}

/// The items as one text with `separator` between them.
pub(super) fn join(
    items: &[Value],
    separator: &str,
    budget: &mut Budget,
) -> Result<Value, Failure> {
    let mut out = String::new();
    for (n, item) in items.iter().enumerate() {
        budget.step()?;
        if n > 0 {
            budget.push(&mut out, separator)?;
        }
        text::write(item, &mut out, budget)?;
    }
    Ok(Value::text(out))
}
