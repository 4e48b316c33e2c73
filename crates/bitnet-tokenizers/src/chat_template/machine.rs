//! Runs a program: statements, scopes and output. Expressions are in [`evaluate`], calls in [`call`].

mod call;
mod evaluate;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::budget::{Budget, ENTRY};
use super::failure::Failure;
use super::program::{Program, Stmt, StmtKind, Target};
use super::text;
use super::value::{Items, Loop, Macro, Value};

/// One rendering.
pub(super) struct Machine<'p> {
    program: &'p Program,
    /// Scopes lie on a stack, each above the one that it sees through.
    scopes: Vec<Scope>,
    /// The place of the innermost one.
    scope: usize,
    /// What was put out, and above it what blocks and macros put out while their text is collected.
    outputs: Vec<String>,
    /// Bytes that may still be put out.
    room: usize,
    /// The texts of the blocks whose filters are being applied.
    piped: Vec<Value>,
    budget: Budget,
    /// Where in the source.
    line: u32,
}

#[derive(Debug, Default)]
struct Scope {
    names: BTreeMap<Arc<str>, Value>,
    outer: Option<usize>,
}

/// Where to go on behind a statement.
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'p> Machine<'p> {
    /// A machine that may put out `room` bytes.
    pub(super) fn new(program: &'p Program, budget: Budget, room: usize) -> Self {
        Self {
            program,
            scopes: vec![Scope::default()],
            scope: 0,
            outputs: vec![String::new()],
            room,
            piped: Vec::new(),
            budget,
            line: 1,
        }
    }

    /// What the template's variables are paid from.
    pub(super) fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// Gives the template a variable.
    ///
    /// # Errors
    /// A budget that is spent.
    pub(super) fn define(&mut self, name: &str, value: Value) -> Result<(), Failure> {
        self.store(&name.into(), value)
    }

    /// Runs the program.
    ///
    /// # Errors
    /// What stopped the template, and in which line.
    pub(super) fn run(mut self) -> Result<String, (Failure, u32)> {
        let program = self.program;
        match self.block(&program.body) {
            Ok(_) => Ok(self.outputs.swap_remove(0)),
            Err(failure) => Err((failure, self.line)),
        }
    }

    fn block(&mut self, statements: &'p [Stmt]) -> Result<Flow, Failure> {
        self.budget.enter()?;
        for statement in statements {
            self.line = statement.line;
            self.budget.step()?;
            match self.statement(&statement.kind)? {
                Flow::Next => {}
                flow => {
                    self.budget.leave();
                    return Ok(flow);
                }
            }
        }
        self.budget.leave();
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &'p StmtKind) -> Result<Flow, Failure> {
        match statement {
            StmtKind::Text(text) => self.put(text)?,
            StmtKind::Output(value) => {
                let value = self.value(value)?;
                self.put_value(&value)?;
            }
            StmtKind::Do(value) => drop(self.value(value)?),
            StmtKind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.value(condition)?.is_true() {
                        return self.block(body);
                    }
                }
                return self.block(otherwise);
            }
            StmtKind::For(number) => {
                let items = self.value(&self.program.loops[*number].items)?;
                self.run_loop(*number, &items, 0)?;
            }
            StmtKind::Set(target, value) => {
                let value = self.value(value)?;
                self.assign(target, value)?;
            }
            StmtKind::SetBlock(target, body, filter) => {
                let mut text = self.captured(|machine| machine.scoped(body))?;
                if let Some(filter) = filter {
                    self.piped.push(text);
                    text = self.value(filter)?;
                }
                self.assign(target, text)?;
            }
            StmtKind::With(variables, body) => {
                // The values are of the scope around, also where they have the names of others.
                let mut values = Vec::new();
                for (target, value) in variables {
                    values.push((target, self.value(value)?));
                }
                let outer = self.push_scope(self.scope)?;
                for (target, value) in values {
                    self.assign(target, value)?;
                }
                let flow = self.block(body)?;
                self.pop_scope(outer);
                return Ok(flow);
            }
            StmtKind::Macro(name, number) => {
                let it = Macro {
                    number: *number,
                    scope: self.scope,
                };
                self.store(name, Value::Macro(it))?;
            }
            StmtKind::CallBlock(call, number) => {
                let caller = Macro {
                    number: *number,
                    scope: self.scope,
                };
                let text = self.call_with_block(call, caller)?;
                self.put_value(&text)?;
            }
            StmtKind::Filter(filter, body) => {
                let text = self.captured(|machine| machine.scoped(body))?;
                self.piped.push(text);
                let filtered = self.value(filter)?;
                self.put_value(&filtered)?;
            }
            StmtKind::Block(body) => return self.block(body),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// A body with a scope of its own, in which nobody leaves a loop around it.
    fn scoped(&mut self, body: &'p [Stmt]) -> Result<(), Failure> {
        let outer = self.push_scope(self.scope)?;
        let flow = self.block(body)?;
        self.pop_scope(outer);
        match flow {
            Flow::Next => Ok(()),
            Flow::Break | Flow::Continue => Err(Failure::new(
                "`break` and `continue` cannot leave a block of text",
            )),
        }
    }

    fn run_loop(&mut self, number: usize, items: &Value, depth: i64) -> Result<(), Failure> {
        let it = &self.program.loops[number];
        let mut items = items.iterate(&mut self.budget)?;
        if let Some(only_if) = &it.only_if {
            let mut kept = Vec::new();
            let outer = self.push_scope(self.scope)?;
            for item in &items.values {
                self.assign(&it.target, item.clone())?;
                if self.value(only_if)?.is_true() {
                    self.budget.take(ENTRY)?;
                    kept.push(item.clone());
                }
            }
            self.pop_scope(outer);
            items = Items::new(kept, &mut self.budget)?;
        }
        if items.values.is_empty() {
            return self.scoped(&it.otherwise);
        }
        let this = Rc::new(Loop {
            number,
            items: items.clone(),
            index: Cell::new(0),
            depth,
            changed: RefCell::new(None),
        });
        let outer = self.push_scope(self.scope)?;
        for (index, item) in items.values.iter().enumerate() {
            self.scopes[self.scope].names.clear();
            this.index.set(index);
            self.store(&"loop".into(), Value::Loop(this.clone()))?;
            self.assign(&it.target, item.clone())?;
            match self.block(&it.body)? {
                Flow::Break => break,
                Flow::Next | Flow::Continue => {}
            }
        }
        self.pop_scope(outer);
        Ok(())
    }

    /// The text that `run` puts out.
    fn captured(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<Value, Failure> {
        self.outputs.push(String::new());
        run(self)?;
        Ok(Value::text(self.outputs.pop().unwrap_or_default()))
    }

    fn put_value(&mut self, value: &Value) -> Result<(), Failure> {
        if let Value::Str(text) = value {
            return self.put(text);
        }
        let mut shown = String::new();
        text::write(value, &mut shown, &mut self.budget)?;
        self.put(&shown)
    }

    fn put(&mut self, text: &str) -> Result<(), Failure> {
        if self.outputs.len() == 1 {
            let room = self.room.checked_sub(text.len());
            self.room = room
                .ok_or_else(|| Failure::new("the output is longer than a conversation can be"))?;
            self.budget.look(text.len())?;
        } else {
            self.budget.take(text.len())?;
        }
        if let Some(output) = self.outputs.last_mut() {
            output.push_str(text);
        }
        Ok(())
    }

    /// A scope that sees through `outer`, and which one was the innermost before.
    fn push_scope(&mut self, outer: usize) -> Result<usize, Failure> {
        self.budget.take(ENTRY)?;
        self.scopes.push(Scope {
            names: BTreeMap::new(),
            outer: Some(outer),
        });
        Ok(std::mem::replace(&mut self.scope, self.scopes.len() - 1))
    }

    fn pop_scope(&mut self, before: usize) {
        self.scopes.pop();
        self.scope = before;
    }

    fn store(&mut self, name: &Arc<str>, value: Value) -> Result<(), Failure> {
        self.budget.take(ENTRY)?;
        self.scopes[self.scope].names.insert(name.clone(), value);
        Ok(())
    }

    fn find(&mut self, name: &str) -> Result<Option<&Value>, Failure> {
        self.budget.look(name.len())?;
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            self.budget.step()?;
            let scope = &self.scopes[scope];
            if let Some(value) = scope.names.get(name) {
                return Ok(Some(value));
            }
            at = scope.outer;
        }
        Ok(None)
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<(), Failure> {
        match target {
            Target::Name(name) => self.store(name, value),
            Target::Attribute(name, attribute) => {
                value.check_data()?;
                self.budget.take(ENTRY)?;
                match self.find(name)? {
                    Some(Value::Namespace(names)) => {
                        names.borrow_mut().insert(attribute.clone(), value);
                        Ok(())
                    }
                    found => {
                        let kind = found.map_or("undefined", Value::kind);
                        Err(Failure::new(format!("`{name}` is no namespace but {kind}")))
                    }
                }
            }
            Target::Tuple(targets) => {
                let items = value.iterate(&mut self.budget)?;
                if items.values.len() != targets.len() {
                    let found = items.values.len();
                    return Err(Failure::new(format!(
                        "{found} values for {} names",
                        targets.len()
                    )));
                }
                for (target, value) in targets.iter().zip(&items.values) {
                    self.assign(target, value.clone())?;
                }
                Ok(())
            }
        }
    }
}
