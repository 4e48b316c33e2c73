//! Texts or token ids, one or several, as `/v1/completions` and `/v1/embeddings` take them.

use bitnet_inference::Prompt;
use serde_json::Value;

use crate::error::ApiError;
use crate::sampling::token_id;

/// Reads the field `name`: a text, ids, or a list of at most `max` of either. `text` says how a text is meant.
///
/// # Errors
/// What is wrong, by the path to it.
pub fn read(
    name: &'static str,
    value: Value,
    max: usize,
    text: fn(String) -> Prompt,
) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a string, a list of strings, a list of token ids, or a list of such lists";
    let values = match value {
        Value::String(one) => return Ok(vec![text(one)]),
        Value::Array(values) if !values.is_empty() => values,
        other => return Err(ApiError::invalid(name, &other, expected)),
    };
    if values[0].is_number() {
        return Ok(vec![Prompt::Ids(ids(name, &values)?)]);
    }
    if values.len() > max {
        let expected = format!("at most {max} of them");
        return Err(ApiError::invalid(name, &Value::Array(values), expected));
    }
    let one = |(index, value)| match value {
        Value::String(one) => Ok(text(one)),
        Value::Array(values) => Ok(Prompt::Ids(ids(&format!("{name}[{index}]"), &values)?)),
        other => Err(ApiError::invalid(
            format!("{name}[{index}]"),
            &other,
            expected,
        )),
    };
    values.into_iter().enumerate().map(one).collect()
}

fn ids(path: &str, values: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |(index, value): (usize, &Value)| {
        token_id(value)
            .ok_or_else(|| ApiError::invalid(format!("{path}[{index}]"), value, "a token id"))
    };
    values.iter().enumerate().map(id).collect()
}
