//! How a request wants its tokens chosen: the fields that OpenAI's routes and ours share.
//!
//! What the request does not say comes from the model's `generation_config`, then from OpenAI's documentation
//! (temperature 1, top_p 1, nothing cut off): clients that leave a field out expect that, not the command line's taste.

use bitnet_inference::{Engine, GenerateOptions};
use serde_json::Value;

use crate::error::{ApiError, ErrorCode, shortened};
use crate::fields::{Fields, signed, unsigned};
use crate::limits::ServerLimits;

/// Reads them; `max_tokens`, logprobs and the number of choices are each route's own.
///
/// # Errors
/// A value out of range, named by its field.
pub fn read(
    fields: &mut Fields,
    limits: &ServerLimits,
    engine: &Engine,
) -> Result<GenerateOptions, ApiError> {
    let model = engine.generation_defaults();
    let openai = |model_has: bool, default: f32| (!model_has).then_some(default);
    let penalty = -2.0..=2.0;
    let factor = 0.01..=100.0;
    // Of two names for one thing both are read: a wrong value is told whichever counts.
    let other_name = fields.number("repeat_penalty", factor.clone())?;
    let repetition = fields.number("repetition_penalty", factor)?.or(other_name);
    let top_k = match fields.integer("top_k", -1..=i64::from(u32::MAX))? {
        None => model.top_k.is_none().then_some(0),
        Some(k) => Some(usize::try_from(k).unwrap_or(0)), // -1, like 0, keeps all
    };
    Ok(GenerateOptions {
        temperature: fields.number("temperature", 0.0..=2.0)?.or_else(|| {
            openai(
                model.temperature.is_some() || model.do_sample == Some(false),
                1.0,
            )
        }),
        top_k,
        top_p: fields
            .number("top_p", 0.0..=1.0)?
            .or_else(|| openai(model.top_p.is_some(), 1.0)),
        min_p: fields
            .number("min_p", 0.0..=1.0)?
            .or_else(|| openai(model.min_p.is_some(), 0.0)),
        repetition_penalty: repetition,
        frequency_penalty: fields.number("frequency_penalty", penalty.clone())?,
        presence_penalty: fields.number("presence_penalty", penalty)?,
        // OpenAI's penalties look at the whole answer; only the repetition penalty counts the prompt.
        penalty_window: Some(
            fields
                .count("repeat_last_n", 0..=usize::MAX)?
                .unwrap_or(engine.context()),
        ),
        logit_bias: logit_bias(fields, limits)?,
        seed: seed(fields)?.or(limits.seed),
        stop: stops(fields, limits)?,
        stop_token_ids: stop_tokens(fields, limits)?,
        ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
        ..GenerateOptions::default()
    })
}

/// OpenAI's seeds are signed; two's complement keeps different ones different.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    match fields.take("seed") {
        None => Ok(None),
        Some(value) => match (unsigned(&value), signed(&value)) {
            (Some(seed), _) => Ok(Some(seed)),
            (None, Some(seed)) => Ok(Some(seed.cast_unsigned())),
            _ => Err(ApiError::invalid(
                "seed",
                &value,
                "a whole number of 64 bits",
            )),
        },
    }
}

fn stops(fields: &mut Fields, limits: &ServerLimits) -> Result<Vec<String>, ApiError> {
    let other_name = stops_of(fields, "stop_sequences", limits)?;
    Ok(stops_of(fields, "stop", limits)?
        .or(other_name)
        .unwrap_or_default())
}

fn stops_of(
    fields: &mut Fields,
    name: &'static str,
    limits: &ServerLimits,
) -> Result<Option<Vec<String>>, ApiError> {
    let Some(value) = fields.take(name) else {
        return Ok(None);
    };
    let stops = match value {
        Value::String(stop) => vec![stop],
        Value::Array(values) => {
            if values.len() > limits.max_stops {
                let expected = format!("at most {} strings", limits.max_stops);
                return Err(ApiError::invalid(name, &Value::Array(values), expected));
            }
            values
                .into_iter()
                .map(|value| match value {
                    Value::String(stop) => Ok(stop),
                    other => Err(ApiError::invalid(name, &other, "strings")),
                })
                .collect::<Result<_, _>>()?
        }
        other => {
            return Err(ApiError::invalid(
                name,
                &other,
                "a string or a list of strings",
            ));
        }
    };
    for stop in &stops {
        if stop.is_empty() || stop.len() > limits.max_stop_bytes {
            let expected = format!("texts of 1 to {} bytes", limits.max_stop_bytes);
            return Err(ApiError::invalid(
                name,
                &Value::from(stop.as_str()),
                expected,
            ));
        }
    }
    Ok(Some(stops))
}

/// vLLM's `stop_token_ids`.
fn stop_tokens(fields: &mut Fields, limits: &ServerLimits) -> Result<Vec<u32>, ApiError> {
    const NAME: &str = "stop_token_ids";
    let Some(value) = fields.take(NAME) else {
        return Ok(Vec::new());
    };
    let ids = value.as_array().filter(|ids| ids.len() <= limits.max_stops);
    let ids = ids.and_then(|ids| ids.iter().map(token_id).collect());
    ids.ok_or_else(|| {
        let expected = format!("a list of at most {} token ids", limits.max_stops);
        ApiError::invalid(NAME, &value, expected)
    })
}

/// A token id; whether the model has it is found out later.
pub fn token_id(value: &Value) -> Option<u32> {
    unsigned(value).and_then(|id| u32::try_from(id).ok())
}

/// `{"token id": bias}`, biases from -100 (as good as never) to 100 (as good as always).
fn logit_bias(fields: &mut Fields, limits: &ServerLimits) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let Some(value) = fields.take(NAME) else {
        return Ok(Vec::new());
    };
    let Value::Object(map) = &value else {
        return Err(ApiError::invalid(
            NAME,
            &value,
            "an object of token ids and biases",
        ));
    };
    if map.len() > limits.max_biases {
        let expected = format!("at most {} tokens", limits.max_biases);
        return Err(ApiError::invalid(NAME, &value, expected));
    }
    map.iter()
        .map(|(id, bias)| {
            let Ok(token) = id.parse::<u32>() else {
                let message = format!(
                    "{NAME} has the name {}, expected token ids",
                    shortened(&Value::from(id.as_str()))
                );
                return Err(ApiError::about(NAME, ErrorCode::InvalidValue, message));
            };
            let param = format!("{NAME}.{token}");
            match bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)) {
                Some(bias) => Ok((token, bias as f32)),
                None => Err(ApiError::invalid(param, bias, "a number from -100 to 100")),
            }
        })
        .collect()
}
