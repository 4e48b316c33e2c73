//! A request's JSON object, read field by field.
//!
//! Every complaint names the field, as OpenAI's `param` does, and says what was found and what is expected. Fields that
//! nobody asks for are ignored: clients send new ones every month. `null` counts as absent, as it does there. Orders of
//! administrators have the project's own fields [`only`](Fields::only): one that is misspelt would leave out a check.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::config::nearest::nearest;
use crate::error::{ApiError, ErrorCode};

/// An object of a request.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Bytes of the body that they came in, which say how much memory they may take; 0 of an object inside another.
    pub body_len: usize,
}

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidJson`] for anything but an object; objects nested more than 127 deep are refused too.
    pub fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Fields {
                map,
                body_len: body.len(),
            }),
            Ok(_) => Err(ApiError::new(
                ErrorCode::InvalidJson,
                "the body is JSON but no object",
            )),
            Err(error) => Err(ApiError::new(
                ErrorCode::InvalidJson,
                format!("the body is no JSON: {error}"),
            )),
        }
    }

    /// Takes a field out; `None` when it is absent or null.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a field and leaves it where it is.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Takes a field that must be there.
    ///
    /// # Errors
    /// [`ErrorCode::MissingField`].
    pub fn need(&mut self, name: &'static str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| missing(name))
    }

    /// A text.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidValue`].
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::invalid(name, &other, "a string")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidValue`].
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(ApiError::invalid(name, &other, "true or false")),
        }
    }

    /// A number of a range.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidValue`].
    pub fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number as f32)),
            None => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                Err(ApiError::invalid(name, &value, expected))
            }
        }
    }

    /// A whole number of a range.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidValue`].
    pub fn count(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let count = unsigned(&value).and_then(|count| usize::try_from(count).ok());
        match count.filter(|count| range.contains(count)) {
            Some(count) => Ok(Some(count)),
            None => Err(ApiError::invalid(name, &value, whole(&range))),
        }
    }

    /// A whole number, negative ones included.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidValue`].
    pub fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match signed(&value).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(ApiError::invalid(name, &value, expected))
            }
        }
    }

    /// An object inside this one.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidValue`].
    pub fn object(&mut self, name: &'static str) -> Result<Option<Fields>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields::from(map))),
            Some(other) => Err(ApiError::invalid(name, &other, "an object")),
        }
    }

    /// Refuses fields other than `known`. `within`: what stands before their names in a complaint, such as `config.`.
    ///
    /// # Errors
    /// [`ErrorCode::UnsupportedParameter`], with the name that was probably meant.
    pub fn only(&self, within: &str, known: &[&str]) -> Result<(), ApiError> {
        let is_unknown = |name: &&String| !known.contains(&name.as_str());
        match self.map.keys().find(is_unknown) {
            None => Ok(()),
            Some(name) => Err(unknown(within, name, known)),
        }
    }

    /// Refuses a field that asks for what is not offered, unless `harmless` says that its value asks for nothing.
    ///
    /// # Errors
    /// [`ErrorCode::UnsupportedParameter`].
    pub fn refuse(
        &mut self,
        name: &'static str,
        why: &str,
        harmless: impl FnOnce(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !harmless(&value) => Err(ApiError::unsupported(name, why)),
            _ => Ok(()),
        }
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(map: Map<String, Value>) -> Fields {
        Fields { map, body_len: 0 }
    }
}

/// A whole number that is not negative, also as `3.0`: to JSON that is the same number, and some programs have no
/// other.
pub fn unsigned(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| u64::try_from(whole_float(value)?).ok())
}

/// A whole number, as [`unsigned`] reads one.
pub fn signed(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| whole_float(value))
}

/// Floats count as whole numbers as far as they tell them all apart.
fn whole_float(value: &Value) -> Option<i64> {
    const EXACT: f64 = (1u64 << 53) as f64;
    let number = value.as_f64().filter(|_| value.is_f64())?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

/// The error for a name that nobody knows, of a field or of a parameter of a query; `within` stands before it.
pub fn unknown(within: &str, name: &str, known: &[&str]) -> ApiError {
    const SHOWN: usize = 80;
    let shown: String = name.chars().take(SHOWN).collect();
    let param = format!("{within}{shown}");
    let message = format!("{param} is not known here");
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {within}{near}?"),
        None if known.is_empty() => "leave it out: nothing is taken here".to_owned(),
        None => format!("leave it out; what is taken here: {}", known.join(", ")),
    };
    ApiError::about(param, ErrorCode::UnsupportedParameter, message).with_hint(hint)
}

/// The error for a field that is absent.
pub fn missing(name: impl Into<Cow<'static, str>>) -> ApiError {
    let name = name.into();
    let message = format!("{name} is missing");
    ApiError::about(name, ErrorCode::MissingField, message)
}

fn whole(range: &RangeInclusive<usize>) -> String {
    match *range.end() {
        usize::MAX => format!("a whole number of at least {}", range.start()),
        end => format!("a whole number from {} to {end}", range.start()),
    }
}
