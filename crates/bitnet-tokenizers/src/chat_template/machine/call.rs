//! Calls: macros, loops, the functions that Hugging Face offers to templates, and the methods of values.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::arguments::Args;
use super::super::budget::ENTRY;
use super::super::compare::equal;
use super::super::failure::Failure;
use super::super::program::{Arguments, Expr, ExprKind};
use super::super::value::{Loop, Macro, Value};
use super::super::{date, strings};
use super::evaluate::shown;
use super::{Flow, Machine};

/// The functions that every template has.
pub(super) const FUNCTIONS: [&str; 5] = [
    "range",
    "namespace",
    "dict",
    "raise_exception",
    "strftime_now",
];

/// Bytes that a namespace takes beyond its entries: a whole node of a tree, however few they are.
const NAMESPACE: usize = 1024;

/// The most numbers that `range` counts.
const MAX_RANGE: i64 = 100_000;

impl<'p> Machine<'p> {
    /// `call` with a block as its `caller`.
    pub(super) fn call_with_block(
        &mut self,
        call: &'p Expr,
        caller: Macro,
    ) -> Result<Value, Failure> {
        match &call.kind {
            ExprKind::Call(callee, arguments) => self.call(callee, arguments, Some(caller)),
            _ => Err(Failure::new("`call` needs the call of a macro")),
        }
    }

    /// `callee(arguments)`.
    pub(super) fn call(
        &mut self,
        callee: &'p Expr,
        arguments: &'p Arguments,
        caller: Option<Macro>,
    ) -> Result<Value, Failure> {
        if let ExprKind::Attribute(of, name) = &callee.kind {
            let value = self.value(of)?;
            let args = self.arguments(arguments)?;
            return self.method(&value, of, name, &args);
        }
        let value = self.value(callee)?;
        let args = self.arguments(arguments)?;
        self.line = callee.line;
        match value {
            Value::Macro(it) => self.call_macro(it, &args, caller),
            Value::Loop(it) => self.recurse(&it, &args),
            Value::Function(name) => self.function(name, &args),
            Value::Undefined => Err(Failure::new(format!(
                "`{}` is undefined: there is no such function",
                shown(callee)
            ))),
            other => Err(Failure::new(format!("a {} cannot be called", other.kind()))),
        }
    }

    fn call_macro(
        &mut self,
        it: Macro,
        args: &Args,
        caller: Option<Macro>,
    ) -> Result<Value, Failure> {
        let called = &self.program.macros[it.number];
        let known = |name: &str| {
            called
                .parameters
                .iter()
                .any(|(parameter, _)| &**parameter == name)
        };
        if let Some((name, _)) = args.named.iter().find(|(name, _)| !known(name)) {
            return Err(Failure::new(format!(
                "the macro `{}` has no argument `{name:.40}`",
                called.name
            )));
        }
        if args.positional.len() > called.parameters.len() {
            let (most, found) = (called.parameters.len(), args.positional.len());
            return Err(Failure::new(format!(
                "the macro `{}` takes {most} arguments, not {found}",
                called.name
            )));
        }
        // A macro that outlived its scope would see others' variables: it sees those of the template alone.
        let scope = if it.scope < self.scopes.len() {
            it.scope
        } else {
            0
        };
        let before = self.push_scope(scope)?;
        if let Some(caller) = caller {
            self.store(&"caller".into(), Value::Macro(caller))?;
        }
        for (position, (name, default)) in called.parameters.iter().enumerate() {
            let value = match (args.get(position, name), default) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => self.value(default)?,
                (None, None) => Value::Undefined,
            };
            self.store(name, value)?;
        }
        let text = self.captured(|machine| match machine.block(&called.body)? {
            Flow::Next => Ok(()),
            Flow::Break | Flow::Continue => {
                Err(Failure::new("`break` and `continue` cannot leave a macro"))
            }
        })?;
        self.pop_scope(before);
        Ok(text)
    }

    /// `loop(items)`: the loop again, one level deeper.
    fn recurse(&mut self, it: &Loop, args: &Args) -> Result<Value, Failure> {
        if !self.program.loops[it.number].is_recursive {
            return Err(Failure::new(
                "only a loop that is `recursive` can be called",
            ));
        }
        args.check("loop", 1, &[])?;
        let items = args.positional.first().cloned().unwrap_or(Value::Undefined);
        self.captured(|machine| machine.run_loop(it.number, &items, it.depth + 1))
    }

    fn function(&mut self, name: &str, args: &Args) -> Result<Value, Failure> {
        match name {
            "range" => self.range(args),
            "namespace" | "dict" => {
                args.check(
                    name,
                    1,
                    &args
                        .named
                        .iter()
                        .map(|(name, _)| &**name)
                        .collect::<Vec<_>>(),
                )?;
                let mut pairs = match args.positional.first() {
                    Some(Value::Map(map)) => {
                        self.budget.entries(map.pairs.len())?;
                        map.pairs.clone()
                    }
                    None | Some(Value::Undefined) => Vec::new(),
                    Some(other) => {
                        return Err(Failure::new(format!(
                            "`{name}` takes a map, not a {}",
                            other.kind()
                        )));
                    }
                };
                pairs.extend(
                    args.named
                        .iter()
                        .map(|(name, value)| (Value::Str(name.clone()), value.clone())),
                );
                let map = Value::map(pairs, &mut self.budget)?;
                let Value::Map(pairs) = &map else {
                    return Ok(map);
                };
                if name == "dict" {
                    return Ok(map);
                }
                self.budget.take(NAMESPACE)?;
                let text = |key: &Value| match key {
                    Value::Str(name) => Some(name.clone()),
                    _ => None,
                };
                let named = pairs
                    .pairs
                    .iter()
                    .filter_map(|(key, value)| Some((text(key)?, value.clone())));
                Ok(Value::Namespace(Rc::new(RefCell::new(named.collect()))))
            }
            "raise_exception" => {
                let message = args.text(name, 0, "message")?;
                Err(Failure::new(
                    message
                        .as_deref()
                        .unwrap_or("the template refuses this conversation"),
                ))
            }
            _ => {
                let format = args.needed_text(name, 0, "format")?;
                self.budget
                    .take(format.len().saturating_mul(date::LONGEST))?;
                date::strftime_now(&format)
                    .map(Value::text)
                    .map_err(Failure::new)
            }
        }
    }

    fn range(&mut self, args: &Args) -> Result<Value, Failure> {
        args.check("range", 3, &[])?;
        let number = |at: usize| args.int("range", at, "");
        let needed = || Failure::new("`range` needs an int");
        let (start, stop) = match (number(0)?, number(1)?) {
            (Some(stop), None) => (0, stop),
            (Some(start), Some(stop)) => (start, stop),
            _ => return Err(needed()),
        };
        let step = number(2)?.unwrap_or(1);
        let too_long = || Failure::new(format!("`range` counts {MAX_RANGE} numbers at most"));
        let distance = if step > 0 {
            stop.checked_sub(start)
        } else {
            start.checked_sub(stop)
        };
        let distance = distance.ok_or_else(too_long)?.max(0) as u64;
        let count = match step.unsigned_abs() {
            0 => return Err(Failure::new("the step of `range` is 0")),
            step => distance.div_ceil(step),
        };
        if count > MAX_RANGE as u64 {
            return Err(too_long());
        }
        self.budget.entries(count as usize)?;
        let numbers =
            (0..count as i64).map(|n| Value::Int(start.wrapping_add(n.wrapping_mul(step))));
        Value::list(numbers.collect(), &mut self.budget)
    }

    fn method(
        &mut self,
        value: &Value,
        of: &Expr,
        name: &str,
        args: &Args,
    ) -> Result<Value, Failure> {
        let budget = &mut self.budget;
        match (value, name) {
            (Value::Undefined, _) => Err(Failure::new(format!("`{}` is undefined", shown(of)))),
            (Value::Str(text), _) => strings::call(text, name, args, budget),
            (Value::Map(map), "keys") => Value::list(
                map.pairs.iter().map(|(key, _)| key.clone()).collect(),
                budget,
            ),
            (Value::Map(map), "values") => Value::list(
                map.pairs.iter().map(|(_, value)| value.clone()).collect(),
                budget,
            ),
            (Value::Map(_), "items") => super::super::filters::apply("items", value, args, budget),
            (Value::Map(map), "get") => {
                args.check(name, 2, &["default"])?;
                let key = args
                    .positional
                    .first()
                    .ok_or_else(|| Failure::new("`get` needs a key"))?;
                match map.get(key, budget)? {
                    Value::Undefined => Ok(args.get(1, "default").cloned().unwrap_or(Value::None)),
                    found => Ok(found),
                }
            }
            (Value::List(items) | Value::Tuple(items), "count" | "index") => {
                args.check(name, 1, &[])?;
                let wanted = args.positional.first().unwrap_or(&Value::Undefined);
                let mut count = 0;
                for (at, item) in items.values.iter().enumerate() {
                    budget.step()?;
                    if equal(item, wanted, budget)? {
                        if name == "index" {
                            return Ok(Value::Int(at as i64));
                        }
                        count += 1;
                    }
                }
                match name {
                    "count" => Ok(Value::Int(count)),
                    _ => Err(Failure::new("`index`: the list has no such item")),
                }
            }
            (Value::Loop(it), "cycle") => {
                let choices = &args.positional;
                let at = it.index.get().checked_rem(choices.len());
                at.map(|at| choices[at].clone())
                    .ok_or_else(|| Failure::new("`cycle` needs something to choose from"))
            }
            (Value::Loop(it), "changed") => {
                for value in &args.positional {
                    value.check_data()?;
                }
                budget.take(ENTRY.saturating_mul(args.positional.len()))?;
                let before = it.changed.replace(Some(args.positional.clone()));
                let Some(before) = before.filter(|before| before.len() == args.positional.len())
                else {
                    return Ok(Value::Bool(true));
                };
                for (a, b) in before.iter().zip(&args.positional) {
                    if !equal(a, b, budget)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            _ => Err(Failure::new(format!(
                "a {} has no method `{name:.40}`",
                value.kind()
            ))),
        }
    }
}
