//! What a template computes with, by Python's rules.
//!
//! Lists, tuples and maps never change once they are made, know how deep they are, and hold data only: no namespace,
//! macro or loop. So no value contains itself, and every walk of one is as deep as [`MAX_DEPTH`] at most.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::budget::{Budget, ENTRY};
use super::failure::Failure;

/// Lists in lists: data of published templates is some four levels deep.
const MAX_DEPTH: u32 = 64;

/// Keys of a map that are looked at for one step: maps of templates are small, and most keys differ in their length.
const KEYS_PER_STEP: usize = 16;

#[derive(Debug, Clone)]
pub(super) enum Value {
    Undefined,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Map(Rc<Map>),
    Namespace(Rc<RefCell<BTreeMap<Arc<str>, Value>>>),
    /// A macro of this number, which sees the variables of this scope; with what it was called by, if by a block.
    Macro(Macro),
    Loop(Rc<Loop>),
    /// A function that the engine offers, by its name.
    Function(&'static str),
}

/// The items of a list or tuple.
#[derive(Debug, Default)]
pub(super) struct Items {
    pub values: Vec<Value>,
    depth: u32,
}

/// Pairs in the order in which their keys came.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub pairs: Vec<(Value, Value)>,
    depth: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Macro {
    /// Its number in the program.
    pub number: usize,
    /// The scope that it was defined in.
    pub scope: usize,
}

/// The variable `loop`.
#[derive(Debug)]
pub(super) struct Loop {
    /// The loop's number in the program.
    pub number: usize,
    pub items: Rc<Items>,
    /// Counted from 0.
    pub index: Cell<usize>,
    /// Counted from 0.
    pub depth: i64,
    /// What `changed` was called with.
    pub changed: RefCell<Option<Vec<Value>>>,
}

impl Value {
    /// A text that was paid for.
    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Str(text.into())
    }

    /// What Python calls its kind.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::None => "none",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Map(_) => "map",
            Self::Namespace(_) => "namespace",
            Self::Macro(_) => "macro",
            Self::Loop(_) => "loop",
            Self::Function(_) => "function",
        }
    }

    /// The levels below and including this one, if the value may be kept in another.
    fn depth(&self) -> Result<u32, Failure> {
        match self {
            Self::List(items) | Self::Tuple(items) => Ok(items.depth),
            Self::Map(map) => Ok(map.depth),
            Self::Namespace(_) | Self::Macro(_) | Self::Loop(_) | Self::Function(_) => {
                Err(Failure::new(format!(
                    "a {} cannot be kept in a list, map or namespace",
                    self.kind()
                )))
            }
            _ => Ok(0),
        }
    }

    /// Whether the value may be kept in a list, map or namespace.
    pub(super) fn check_data(&self) -> Result<(), Failure> {
        self.depth().map(drop)
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.values.is_empty(),
            Self::Map(map) => !map.pairs.is_empty(),
            Self::Namespace(_) | Self::Macro(_) | Self::Loop(_) | Self::Function(_) => true,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// As an integer, as which Python sees `True` and `False` too.
    pub(super) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// A list that pays for its entries.
    pub(super) fn list(values: Vec<Value>, budget: &mut Budget) -> Result<Self, Failure> {
        Ok(Self::List(Items::new(values, budget)?))
    }

    /// A tuple that pays for its entries.
    pub(super) fn tuple(values: Vec<Value>, budget: &mut Budget) -> Result<Self, Failure> {
        Ok(Self::Tuple(Items::new(values, budget)?))
    }

    /// A map that pays for its entries; of equal keys the last value holds, at the place of the first.
    pub(super) fn map(pairs: Vec<(Value, Value)>, budget: &mut Budget) -> Result<Self, Failure> {
        budget.entries(pairs.len().saturating_mul(2))?;
        let mut map = Map::default();
        for (key, value) in pairs {
            if !matches!(
                key,
                Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Str(_)
            ) {
                return Err(Failure::new(format!("a {} cannot be a key", key.kind())));
            }
            map.depth = map.depth.max(deeper(value.depth()?)?);
            match map.position(&key, budget)? {
                Some(at) => map.pairs[at].1 = value,
                None => map.pairs.push((key, value)),
            }
        }
        map.depth = map.depth.max(1);
        Ok(Self::Map(Rc::new(map)))
    }

    /// What a loop over the value sees.
    pub(super) fn iterate(&self, budget: &mut Budget) -> Result<Rc<Items>, Failure> {
        match self {
            Self::List(items) | Self::Tuple(items) => Ok(items.clone()),
            Self::Undefined => Ok(Rc::default()),
            Self::Map(map) => Items::new(
                map.pairs.iter().map(|(key, _)| key.clone()).collect(),
                budget,
            ),
            Self::Str(text) => {
                budget.take(text.len().saturating_mul(ENTRY))?;
                let chars = text
                    .chars()
                    .map(|c| Self::text(c.encode_utf8(&mut [0; 4]) as &str));
                Items::new(chars.collect(), budget)
            }
            other => Err(Failure::new(format!(
                "a {} cannot be iterated over",
                other.kind()
            ))),
        }
    }

    /// The item under `key`, or undefined.
    pub(super) fn item(&self, key: &Value, budget: &mut Budget) -> Result<Self, Failure> {
        match self {
            Self::Undefined => Err(Failure::new("undefined value has no items")),
            Self::List(items) | Self::Tuple(items) => {
                let at = key
                    .as_int()
                    .and_then(|index| from_end(index, items.values.len()));
                Ok(at.map_or(Self::Undefined, |at| items.values[at].clone()))
            }
            Self::Map(map) => map.get(key, budget),
            Self::Str(text) => {
                let Some(index) = key.as_int() else {
                    return Ok(Self::Undefined);
                };
                budget.look(text.len())?;
                let found = if index >= 0 {
                    text.chars()
                        .nth(usize::try_from(index).unwrap_or(usize::MAX))
                } else {
                    text.chars()
                        .rev()
                        .nth(usize::try_from(-(index + 1)).unwrap_or(usize::MAX))
                };
                Ok(found.map_or(Self::Undefined, |c| {
                    Self::text(c.encode_utf8(&mut [0; 4]) as &str)
                }))
            }
            Self::Namespace(names) => {
                let found = key
                    .as_str()
                    .and_then(|key| names.borrow().get(key).cloned());
                Ok(found.unwrap_or(Self::Undefined))
            }
            Self::Loop(it) => Ok(key
                .as_str()
                .map_or(Self::Undefined, |key| it.attribute(key))),
            _ => Ok(Self::Undefined),
        }
    }

    /// How many items or characters it has, if it has any.
    pub(super) fn length(&self, budget: &mut Budget) -> Result<Option<usize>, Failure> {
        Ok(match self {
            Self::Undefined => Some(0),
            Self::Str(text) => {
                budget.look(text.len())?;
                Some(text.chars().count())
            }
            Self::List(items) | Self::Tuple(items) => Some(items.values.len()),
            Self::Map(map) => Some(map.pairs.len()),
            Self::Namespace(names) => Some(names.borrow().len()),
            _ => None,
        })
    }
}

impl Items {
    /// Items that pay for their entries.
    pub(super) fn new(values: Vec<Value>, budget: &mut Budget) -> Result<Rc<Self>, Failure> {
        budget.entries(values.len())?;
        let mut depth = 1;
        for value in &values {
            depth = depth.max(deeper(value.depth()?)?);
        }
        Ok(Rc::new(Self { values, depth }))
    }
}

impl Map {
    /// Where `key` is.
    pub(super) fn position(
        &self,
        key: &Value,
        budget: &mut Budget,
    ) -> Result<Option<usize>, Failure> {
        for (at, (found, _)) in self.pairs.iter().enumerate() {
            if at % KEYS_PER_STEP == KEYS_PER_STEP - 1 {
                budget.step()?;
            }
            if super::compare::equal(found, key, budget)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The value under `key`, or undefined.
    pub(super) fn get(&self, key: &Value, budget: &mut Budget) -> Result<Value, Failure> {
        let at = self.position(key, budget)?;
        Ok(at.map_or(Value::Undefined, |at| self.pairs[at].1.clone()))
    }
}

impl Loop {
    fn attribute(&self, name: &str) -> Value {
        let (index, length) = (self.index.get(), self.items.values.len());
        let int = |value: usize| Value::Int(value as i64);
        let at = |at: Option<usize>| {
            at.and_then(|at| self.items.values.get(at).cloned())
                .unwrap_or(Value::Undefined)
        };
        match name {
            "index" => int(index + 1),
            "index0" => int(index),
            "revindex" => int(length - index),
            "revindex0" => int(length - index - 1),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(index + 1 == length),
            "length" => int(length),
            "depth" => Value::Int(self.depth + 1),
            "depth0" => Value::Int(self.depth),
            "previtem" => at(index.checked_sub(1)),
            "nextitem" => at(Some(index + 1)),
            _ => Value::Undefined,
        }
    }
}

fn deeper(depth: u32) -> Result<u32, Failure> {
    if depth >= MAX_DEPTH {
        return Err(Failure::new(format!(
            "data nested deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(depth + 1)
}

/// The place of an index that may count from the end.
fn from_end(index: i64, length: usize) -> Option<usize> {
    let at = if index < 0 {
        index + length as i64
    } else {
        index
    };
    usize::try_from(at).ok().filter(|at| *at < length)
}
