//! The query of an order: `?timeout_seconds=5&force=true`.
//!
//! What is misspelt there would do something else than was meant, so names and values that nobody knows are refused.

use serde_json::Value;

use crate::error::ApiError;
use crate::fields::unknown;

/// The parameters of a query, as they were written; none that is taken needs an escape.
#[derive(Debug, Default)]
pub struct OrderQuery<'a>(Vec<(&'a str, &'a str)>);

impl<'a> OrderQuery<'a> {
    /// Reads a query whose parameters are among `known`.
    ///
    /// # Errors
    /// [`UnsupportedParameter`](crate::error::ErrorCode::UnsupportedParameter) for any other, and
    /// [`InvalidValue`](crate::error::ErrorCode::InvalidValue) for one that is given twice.
    pub fn parse(
        text: Option<&'a str>,
        known: &[&'static str],
    ) -> Result<OrderQuery<'a>, ApiError> {
        let mut query = OrderQuery::default();
        let pairs = text.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(unknown("", name, known));
            };
            if query.value(name).is_some() {
                return Err(ApiError::invalid(*name, &value.into(), "it once only"));
            }
            query.0.push((name, value));
        }
        Ok(query)
    }

    /// The value of a parameter.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    }

    /// Whether a parameter is true; it is not where it is absent.
    ///
    /// # Errors
    /// [`InvalidValue`](crate::error::ErrorCode::InvalidValue) for anything but `true`, `false`, `1` and `0`.
    pub fn flag(&self, name: &'static str) -> Result<bool, ApiError> {
        match self.value(name) {
            Some("true" | "1") => Ok(true),
            None | Some("false" | "0") => Ok(false),
            Some(other) => Err(ApiError::invalid(
                name,
                &Value::from(other),
                "true or false",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    const KNOWN: [&str; 2] = ["force", "timeout_seconds"];

    #[test]
    fn parameters_are_read_and_nothing_is_guessed() {
        let read = |text| OrderQuery::parse(Some(text), &KNOWN);
        let query = read("timeout_seconds=1.5&force=1&").unwrap();
        assert_eq!(query.value("timeout_seconds"), Some("1.5"));
        assert!(query.flag("force").unwrap());
        assert!(!read("force=false").unwrap().flag("force").unwrap());
        assert!(
            !OrderQuery::parse(None, &KNOWN)
                .unwrap()
                .flag("force")
                .unwrap()
        );
        for text in ["force=yes", "force", "force=%74rue"] {
            let error = read(text).unwrap().flag("force").unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidValue, "{text}");
        }
        let error = read("force=true&force=false").unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidValue);
        let error = read("timeout=5").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("timeout"));
        assert_eq!(error.code, ErrorCode::UnsupportedParameter);
        let error = read("forse=true").unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("did you mean force?"));
    }
}
