//! The machine that a state dict's pickle runs on: a stack, a memo, and no calls.
//!
//! What stands on the stack is small and owns nothing: texts are parts of the file, tuples and dicts are numbers of
//! what the machine keeps once. So nothing is copied or followed twice, however often the memo hands it out, nothing
//! recurses, and a pickle costs at most some hundred bytes for each of its steps, of which there is a limit.

use super::archive::Archive;
use super::opcode as op;
use super::state_dict::{Storage, View};
use super::value::{Global, PickleValue};
use crate::error::{ModelError, Place, quoted};
use crate::gguf::limits::MAX_NAME_BYTES;

/// Steps of one pickle: a tensor takes about 25.
const MAX_STEPS: u64 = 1 << 22;
/// Values on the stack: Python writes dicts in batches of a thousand pairs.
const MAX_STACK: usize = 1 << 16;
/// Bytes of a line that names a module or a function.
const MAX_LINE_BYTES: usize = 256;

/// What a pickle has built.
#[derive(Debug)]
pub struct PickleMachine<'a> {
    pub archive: &'a Archive<'a>,
    code: &'a [u8],
    /// The next byte of `code`.
    at: usize,
    stack: Vec<PickleValue<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<PickleValue<'a>>,
    pub tuples: Vec<Box<[PickleValue<'a>]>>,
    pub dicts: Vec<Vec<(&'a str, PickleValue<'a>)>>,
    pub storages: Vec<Storage>,
    pub views: Vec<View>,
}

/// Runs an archive's pickle; returns the entries of the dict that it ends with, and what they are made of.
pub fn run<'a>(archive: &'a Archive<'a>) -> Result<PickleMachine<'a>, ModelError> {
    let mut machine = PickleMachine {
        archive,
        code: archive.pickle(),
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        tuples: Vec::new(),
        dicts: Vec::new(),
        storages: Vec::new(),
        views: Vec::new(),
    };
    for _ in 0..MAX_STEPS {
        let at = machine.at;
        match machine.take::<1>()? {
            [op::STOP] => return machine.finished().map(|()| machine),
            [code] => machine.step(code, at)?,
        }
    }
    Err(ModelError::Limit {
        file: archive.file.into(),
        place: Place::Part("data.pkl"),
        offset: Some(archive.offset(machine.at)),
        limit: MAX_STEPS,
        unit: "steps",
        found: MAX_STEPS + 1,
    })
}

impl<'a> PickleMachine<'a> {
    /// The dict that the pickle ended with: the stack holds nothing else.
    pub fn top(&self) -> &[(&'a str, PickleValue<'a>)] {
        match self.stack.as_slice() {
            [PickleValue::Dict(dict)] => &self.dicts[*dict],
            _ => &[],
        }
    }

    fn finished(&self) -> Result<(), ModelError> {
        let left = self.code.len() - self.at;
        match self.stack.as_slice() {
            [PickleValue::Dict(_)] if left == 0 && self.marks.is_empty() => Ok(()),
            [PickleValue::Dict(_)] if left > 0 => {
                Err(self.refused(self.at, "the end", &format!("{left} more bytes")))
            }
            [value] => Err(self.refused(self.at - 1, "a dict of tensors", value.kind())),
            values => {
                let found = format!("{} values", values.len());
                Err(self.refused(self.at - 1, "a dict of tensors", &found))
            }
        }
    }

    fn step(&mut self, code: u8, at: usize) -> Result<(), ModelError> {
        match code {
            op::PROTO => {
                let [version] = self.take()?;
                if !(2..=5).contains(&version) {
                    return Err(self.refused(at, "protocol 2 to 5", &version.to_string()));
                }
                Ok(())
            }
            op::FRAME => self.take::<8>().map(drop), // a promise of bytes, for who reads ahead
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::BINPUT => {
                let [index] = self.take()?;
                self.put(at, index.into())
            }
            op::LONG_BINPUT => {
                let index = u32::from_le_bytes(self.take()?);
                self.put(at, index as usize)
            }
            op::MEMOIZE => self.put(at, self.memo.len()),
            op::BINGET => {
                let [index] = self.take()?;
                self.get(at, index.into())
            }
            op::LONG_BINGET => {
                let index = u32::from_le_bytes(self.take()?);
                self.get(at, index as usize)
            }
            op::NONE => self.push(at, PickleValue::Unused("None")),
            op::NEWTRUE | op::NEWFALSE => self.push(at, PickleValue::Bool),
            op::BININT => {
                let number = i32::from_le_bytes(self.take()?);
                self.push(at, PickleValue::Int(number.into()))
            }
            op::BININT1 => {
                let [number] = self.take()?;
                self.push(at, PickleValue::Int(number.into()))
            }
            op::BININT2 => {
                let number = u16::from_le_bytes(self.take()?);
                self.push(at, PickleValue::Int(number.into()))
            }
            op::LONG1 => self.long(at),
            op::BINFLOAT => {
                self.take::<8>()?;
                self.push(at, PickleValue::Unused("a float"))
            }
            op::SHORT_BINUNICODE => {
                let [len] = self.take()?;
                self.text(at, len.into())
            }
            op::BINUNICODE => {
                let len = u32::from_le_bytes(self.take()?);
                self.text(at, len.into())
            }
            op::BINUNICODE8 => {
                let len = u64::from_le_bytes(self.take()?);
                self.text(at, len)
            }
            op::EMPTY_TUPLE => self.tuple(at, 0),
            op::TUPLE1 => self.tuple(at, 1),
            op::TUPLE2 => self.tuple(at, 2),
            op::TUPLE3 => self.tuple(at, 3),
            op::TUPLE => {
                let n = self.since_mark(at)?;
                self.tuple(at, n)
            }
            op::EMPTY_LIST => self.push(at, PickleValue::List),
            op::APPEND => self.append(at, 1),
            op::APPENDS => {
                let n = self.since_mark(at)?;
                self.append(at, n)
            }
            op::EMPTY_DICT => self.dict(at),
            op::SETITEM => self.set_items(at, 2),
            op::SETITEMS => {
                let n = self.since_mark(at)?;
                self.set_items(at, n)
            }
            op::GLOBAL => {
                let (module, name) = (self.line(at)?, self.line(at)?);
                self.global(at, module, name)
            }
            op::STACK_GLOBAL => match self.pop_n(at)? {
                [PickleValue::Text(module), PickleValue::Text(name)] => {
                    self.global(at, module, name)
                }
                _ => Err(self.refused(at, "the names of a global", "other values")),
            },
            op::REDUCE => self.reduce(at),
            op::BUILD => match self.pop_n(at)? {
                // The attributes of an OrderedDict: `_metadata`, of which no tensor needs anything.
                [dict @ PickleValue::Dict(_), PickleValue::Dict(_)] => self.push(at, dict),
                [object, state] => {
                    let found = format!("attributes of {} in {}", object.kind(), state.kind());
                    Err(self.refused(at, "attributes of a dict in a dict", &found))
                }
            },
            op::BINPERSID => self.storage(at),
            code => Err(self.refused(at, "an opcode of a state dict", &op::refused(code))),
        }
    }

    fn reduce(&mut self, at: usize) -> Result<(), ModelError> {
        let [callable, arguments] = self.pop_n(at)?;
        let (PickleValue::Global(global), PickleValue::Tuple(arguments)) = (callable, arguments)
        else {
            let found = format!("{} with {}", callable.kind(), arguments.kind());
            return Err(self.refused(at, "a known function with a tuple", &found));
        };
        match (global, &*self.tuples[arguments]) {
            (Global::OrderedDict, []) => self.dict(at),
            (Global::RebuildTensor | Global::RebuildTyped, _) => {
                let view = self.view(at, global, arguments)?;
                self.views.push(view);
                self.push(at, PickleValue::Tensor(self.views.len() - 1))
            }
            // A tensor, whether it wants gradients, and its hooks.
            (
                Global::RebuildParameter,
                [tensor @ PickleValue::Tensor(_), PickleValue::Bool, hooks],
            ) => {
                let tensor = *tensor;
                self.no_hooks(at, *hooks)?;
                self.push(at, tensor)
            }
            (_, arguments) => {
                let found = format!("{} of {} arguments", global.kind(), arguments.len());
                Err(self.refused(at, "a call that builds a tensor or a dict", &found))
            }
        }
    }

    /// Hooks are functions: there are none.
    pub fn no_hooks(&self, at: usize, hooks: PickleValue) -> Result<(), ModelError> {
        match hooks {
            PickleValue::Dict(dict) if self.dicts[dict].is_empty() => Ok(()),
            PickleValue::Unused("None") => Ok(()),
            other => Err(self.refused(at, "an empty dict of hooks", other.kind())),
        }
    }

    fn dict(&mut self, at: usize) -> Result<(), ModelError> {
        self.dicts.push(Vec::new());
        self.push(at, PickleValue::Dict(self.dicts.len() - 1))
    }

    fn set_items(&mut self, at: usize, n: usize) -> Result<(), ModelError> {
        let items = self.pop(at, n)?;
        let dict = match self.stack.last() {
            Some(PickleValue::Dict(dict)) if self.reaches(1) => *dict,
            _ => return Err(self.refused(at, "a dict to fill", "another value")),
        };
        for pair in items.chunks(2) {
            let [PickleValue::Text(key), value] = *pair else {
                let found = pair.first().map_or("nothing", PickleValue::kind);
                return Err(self.refused(at, "pairs of a string and a value", found));
            };
            // Here and not at the end: a memo hands a name out for two bytes, and whoever compares or copies it reads
            // all of it each time.
            if key.len() as u64 > MAX_NAME_BYTES {
                let expected = format!("a name of at most {MAX_NAME_BYTES} bytes");
                return Err(self.refused(at, &expected, &format!("one of {}", key.len())));
            }
            self.dicts[dict].push((key, value));
        }
        Ok(())
    }

    /// What lists hold is of no use to a tensor.
    fn append(&mut self, at: usize, n: usize) -> Result<(), ModelError> {
        self.pop(at, n)?;
        match self.stack.last() {
            Some(PickleValue::List) if self.reaches(1) => Ok(()),
            _ => Err(self.refused(at, "a list to fill", "another value")),
        }
    }

    fn tuple(&mut self, at: usize, n: usize) -> Result<(), ModelError> {
        let values = self.pop(at, n)?;
        self.tuples.push(values.into());
        self.push(at, PickleValue::Tuple(self.tuples.len() - 1))
    }

    fn global(&mut self, at: usize, module: &str, name: &str) -> Result<(), ModelError> {
        match Global::find(module, name) {
            Some(global) => self.push(at, PickleValue::Global(global)),
            None => {
                let found = format!("the global {}.{}", quoted(module), quoted(name));
                Err(self.refused(at, "a global of a state dict", &found))
            }
        }
    }

    fn long(&mut self, at: usize) -> Result<(), ModelError> {
        let [len] = self.take()?;
        if len > 8 {
            return Err(self.refused(at, "an integer of 64 bits", &format!("one of {len} bytes")));
        }
        let digits = self.bytes(len.into())?;
        let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut number = [if negative { 0xFF } else { 0 }; 8];
        number[..digits.len()].copy_from_slice(digits);
        self.push(at, PickleValue::Int(i64::from_le_bytes(number)))
    }

    fn text(&mut self, at: usize, len: u64) -> Result<(), ModelError> {
        let bytes = self.bytes(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(at, PickleValue::Text(text)),
            Err(_) => Err(self.refused(at, "a string in UTF-8", "other bytes")),
        }
    }

    /// A line of ASCII, as names of globals are written.
    fn line(&mut self, at: usize) -> Result<&'a str, ModelError> {
        let rest = &self.code[self.at..];
        let head = &rest[..rest.len().min(MAX_LINE_BYTES)];
        let end = head.iter().position(|byte| *byte == b'\n');
        let line = end.and_then(|end| std::str::from_utf8(&head[..end]).ok());
        let Some(line) = line else {
            return Err(self.refused(at, "the name of a global", "no line of text"));
        };
        self.at += line.len() + 1;
        Ok(line)
    }

    fn put(&mut self, at: usize, index: usize) -> Result<(), ModelError> {
        let Some(value) = self.stack.last().copied().filter(|_| self.reaches(1)) else {
            return Err(self.refused(at, "a value to remember", "an empty stack"));
        };
        // Python numbers what it remembers without gaps.
        if index > self.memo.len() {
            let expected = format!("a memo index up to {}", self.memo.len());
            return Err(self.refused(at, &expected, &index.to_string()));
        }
        match self.memo.get_mut(index) {
            Some(place) => *place = value,
            None => self.memo.push(value),
        }
        Ok(())
    }

    fn get(&mut self, at: usize, index: usize) -> Result<(), ModelError> {
        match self.memo.get(index) {
            Some(value) => self.push(at, *value),
            None => {
                let expected = format!("a memo index below {}", self.memo.len());
                Err(self.refused(at, &expected, &index.to_string()))
            }
        }
    }

    pub fn push(&mut self, at: usize, value: PickleValue<'a>) -> Result<(), ModelError> {
        if self.stack.len() == MAX_STACK || self.marks.len() > MAX_STACK {
            return Err(ModelError::Limit {
                file: self.archive.file.into(),
                place: Place::Part("stack of data.pkl"),
                offset: Some(self.archive.offset(at)),
                limit: MAX_STACK as u64,
                unit: "values",
                found: MAX_STACK as u64 + 1,
            });
        }
        self.stack.push(value);
        Ok(())
    }

    /// Whether the top `n` values lie above the last mark.
    fn reaches(&self, n: usize) -> bool {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.len() - floor >= n
    }

    /// How many values lie above the last mark, which is taken away.
    fn since_mark(&mut self, at: usize) -> Result<usize, ModelError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.len() - mark),
            None => Err(self.refused(at, "a mark on the stack", "none")),
        }
    }

    /// The top `n` values, in the order in which they were pushed.
    fn pop(&mut self, at: usize, n: usize) -> Result<Vec<PickleValue<'a>>, ModelError> {
        if !self.reaches(n) {
            let found = self.stack.len() - self.marks.last().copied().unwrap_or(0);
            let expected = format!("{n} values on the stack");
            return Err(self.refused(at, &expected, &found.to_string()));
        }
        Ok(self.stack.split_off(self.stack.len() - n))
    }

    pub fn pop_n<const N: usize>(&mut self, at: usize) -> Result<[PickleValue<'a>; N], ModelError> {
        let values = self.pop(at, N)?;
        let mut array = [PickleValue::Unused("None"); N];
        array.copy_from_slice(&values);
        Ok(array)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let bytes = self.bytes(N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    fn bytes(&mut self, len: u64) -> Result<&'a [u8], ModelError> {
        let rest = &self.code[self.at..];
        let part = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let Some(part) = part else {
            return Err(ModelError::Truncated {
                file: self.archive.file.into(),
                place: Place::Part("data.pkl"),
                offset: self.archive.offset(self.at),
                needed: len,
                available: rest.len() as u64,
            });
        };
        self.at += part.len();
        Ok(part)
    }

    /// A refusal of what stands at a byte of the pickle.
    pub fn refused(&self, at: usize, expected: &str, found: &str) -> ModelError {
        ModelError::Pickle {
            file: self.archive.file.into(),
            place: Place::Part("data.pkl"),
            offset: Some(self.archive.offset(at)),
            expected: expected.into(),
            found: found.into(),
        }
    }
}
