//! Expressions to values.

use super::super::arguments::Args;
use super::super::compare::{contains, equal, order};
use super::super::failure::Failure;
use super::super::operators;
use super::super::program::{Arguments, Comparison, Expr, ExprKind};
use super::super::value::Value;
use super::super::{filters, tests_of_values};
use super::Machine;
use super::call::FUNCTIONS;

impl<'p> Machine<'p> {
    /// The value of an expression.
    pub(super) fn value(&mut self, expr: &'p Expr) -> Result<Value, Failure> {
        self.line = expr.line;
        self.budget.step()?;
        self.budget.enter()?;
        let value = self.value_of(expr)?;
        self.budget.leave();
        Ok(value)
    }

    fn value_of(&mut self, expr: &'p Expr) -> Result<Value, Failure> {
        match &expr.kind {
            ExprKind::Str(text) => Ok(Value::Str(text.clone())),
            ExprKind::Int(number) => Ok(Value::Int(*number)),
            ExprKind::Float(number) => Ok(Value::Float(*number)),
            ExprKind::Bool(value) => Ok(Value::Bool(*value)),
            ExprKind::None => Ok(Value::None),
            ExprKind::Name(name) => self.variable(name),
            ExprKind::List(items) => {
                let items = self.values(items)?;
                Value::list(items, &mut self.budget)
            }
            ExprKind::Tuple(items) => {
                let items = self.values(items)?;
                Value::tuple(items, &mut self.budget)
            }
            ExprKind::Dict(pairs) => {
                let mut values = Vec::new();
                for (key, value) in pairs {
                    values.push((self.value(key)?, self.value(value)?));
                }
                Value::map(values, &mut self.budget)
            }
            ExprKind::Attribute(of, name) => {
                let value = self.value(of)?;
                self.defined(&value, of)?;
                value.item(&Value::Str(name.clone()), &mut self.budget)
            }
            ExprKind::Item(of, key) => {
                let value = self.value(of)?;
                self.defined(&value, of)?;
                let key = self.value(key)?;
                value.item(&key, &mut self.budget)
            }
            ExprKind::Slice(of, bounds) => {
                let value = self.value(of)?;
                self.defined(&value, of)?;
                let mut found = [Value::None, Value::None, Value::None];
                for (found, bound) in found.iter_mut().zip(bounds) {
                    if let Some(bound) = bound {
                        *found = self.value(bound)?;
                    }
                }
                operators::slice(&value, found, &mut self.budget)
            }
            ExprKind::Call(callee, arguments) => self.call(callee, arguments, None),
            ExprKind::Filter(of, name, arguments) => {
                let value = match of {
                    Some(of) => self.value(of)?,
                    None => self.piped.pop().unwrap_or(Value::Undefined),
                };
                let args = self.arguments(arguments)?;
                filters::apply(name, &value, &args, &mut self.budget)
            }
            ExprKind::Test(of, name, arguments) => {
                let value = self.value(of)?;
                let args = self.arguments(arguments)?;
                match (&**name, &value) {
                    ("filter" | "test", _) => {
                        Err(Failure::new(format!("there is no test `{name}`")))
                    }
                    _ => tests_of_values::check(name, &value, &args, &mut self.budget)
                        .map(Value::Bool),
                }
            }
            ExprKind::Not(of) => Ok(Value::Bool(!self.value(of)?.is_true())),
            ExprKind::Negative(of) => {
                let value = self.value(of)?;
                operators::negative(&value)
            }
            ExprKind::Binary(operator, a, b) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                operators::binary(*operator, &a, &b, &mut self.budget)
            }
            ExprKind::And(a, b) => {
                let a = self.value(a)?;
                if a.is_true() { self.value(b) } else { Ok(a) }
            }
            ExprKind::Or(a, b) => {
                let a = self.value(a)?;
                if a.is_true() { Ok(a) } else { self.value(b) }
            }
            ExprKind::Compare(first, rest) => {
                let mut left = self.value(first)?;
                for (comparison, right) in rest {
                    let right = self.value(right)?;
                    if !self.compare(*comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            ExprKind::Conditional(value, test, otherwise) => {
                if self.value(test)?.is_true() {
                    return self.value(value);
                }
                otherwise
                    .as_ref()
                    .map_or(Ok(Value::Undefined), |otherwise| self.value(otherwise))
            }
        }
    }

    fn compare(&mut self, comparison: Comparison, a: &Value, b: &Value) -> Result<bool, Failure> {
        let budget = &mut self.budget;
        Ok(match comparison {
            Comparison::Equal => equal(a, b, budget)?,
            Comparison::NotEqual => !equal(a, b, budget)?,
            Comparison::Less => order(a, b, budget)?.is_lt(),
            Comparison::LessOrEqual => order(a, b, budget)?.is_le(),
            Comparison::Greater => order(a, b, budget)?.is_gt(),
            Comparison::GreaterOrEqual => order(a, b, budget)?.is_ge(),
            Comparison::In => contains(b, a, budget)?,
            Comparison::NotIn => !contains(b, a, budget)?,
        })
    }

    fn variable(&mut self, name: &str) -> Result<Value, Failure> {
        if let Some(value) = self.find(name)? {
            return Ok(value.clone());
        }
        let function = FUNCTIONS.iter().find(|function| **function == name);
        Ok(function.map_or(Value::Undefined, |function| Value::Function(function)))
    }

    /// Refuses to look into what is undefined, by the name that it has in the source.
    fn defined(&self, value: &Value, expr: &Expr) -> Result<(), Failure> {
        match value {
            Value::Undefined => Err(Failure::new(format!("`{}` is undefined", shown(expr)))),
            _ => Ok(()),
        }
    }

    fn values(&mut self, exprs: &'p [Expr]) -> Result<Vec<Value>, Failure> {
        exprs.iter().map(|expr| self.value(expr)).collect()
    }

    /// The arguments of a call.
    pub(super) fn arguments(&mut self, arguments: &'p Arguments) -> Result<Args, Failure> {
        self.budget
            .entries(arguments.positional.len() + arguments.named.len())?;
        let positional = self.values(&arguments.positional)?;
        let mut named = Vec::new();
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.value(value)?));
        }
        Ok(Args { positional, named })
    }
}

/// An expression as errors name it.
pub(super) fn shown(expr: &Expr) -> String {
    match &expr.kind {
        ExprKind::Name(name) => format!("{name:.40}"),
        ExprKind::Attribute(_, name) => format!("….{name:.40}"),
        _ => "the value".to_owned(),
    }
}
