//! The arguments that a filter, test, method or function was called with.

use std::sync::Arc;

use super::failure::Failure;
use super::value::Value;

#[derive(Debug, Default)]
pub(super) struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// The argument at `position`, or named `name`.
    pub(super) fn get(&self, position: usize, name: &str) -> Option<&Value> {
        self.positional.get(position).or_else(|| self.named(name))
    }

    /// The argument that only has a name.
    pub(super) fn named(&self, name: &str) -> Option<&Value> {
        self.named
            .iter()
            .find(|(known, _)| &**known == name)
            .map(|(_, value)| value)
    }

    /// Refuses what nobody would look at.
    ///
    /// # Errors
    /// More than `most` arguments by position, or one with a name that is not in `names`.
    pub(super) fn check(&self, of: &str, most: usize, names: &[&str]) -> Result<(), Failure> {
        if self.positional.len() > most {
            return Err(Failure::new(format!(
                "`{of:.40}` takes {most} arguments, not {}",
                self.positional.len()
            )));
        }
        match self
            .named
            .iter()
            .find(|(name, _)| !names.contains(&&**name))
        {
            Some((name, _)) => Err(Failure::new(format!(
                "`{of:.40}` has no argument `{name:.40}`"
            ))),
            None => Ok(()),
        }
    }

    /// A text, if it is given and not `None`.
    pub(super) fn text(
        &self,
        of: &str,
        position: usize,
        name: &str,
    ) -> Result<Option<Arc<str>>, Failure> {
        match self.get(position, name) {
            None | Some(Value::None) => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text.clone())),
            Some(other) => Err(Failure::new(format!(
                "`{of:.40}`: `{name}` is a {}, not a string",
                other.kind()
            ))),
        }
    }

    /// A text that has to be there.
    pub(super) fn needed_text(
        &self,
        of: &str,
        position: usize,
        name: &str,
    ) -> Result<Arc<str>, Failure> {
        self.text(of, position, name)?.ok_or_else(|| {
            Failure::new(format!("`{of:.40}` needs the argument `{name}`, a string"))
        })
    }

    /// An integer, if it is given and not `None`.
    pub(super) fn int(
        &self,
        of: &str,
        position: usize,
        name: &str,
    ) -> Result<Option<i64>, Failure> {
        match self.get(position, name) {
            None | Some(Value::None) => Ok(None),
            Some(value) => value.as_int().map(Some).ok_or_else(|| {
                Failure::new(format!(
                    "`{of:.40}`: `{name}` is a {}, not an int",
                    value.kind()
                ))
            }),
        }
    }

    /// Whether it is given and true.
    pub(super) fn flag(&self, position: usize, name: &str) -> bool {
        self.get(position, name).is_some_and(Value::is_true)
    }

    /// The arguments behind the first `n` by position.
    pub(super) fn behind(&self, n: usize) -> Self {
        Self {
            positional: self.positional.iter().skip(n).cloned().collect(),
            named: self.named.clone(),
        }
    }
}
