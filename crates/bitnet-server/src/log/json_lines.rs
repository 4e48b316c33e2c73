//! A line of the log as one JSON object: `time`, `log` (`server`, where the other logs have `access` and `audit`),
//! `level`, `target`, `message`, and as far as there are any `fields` of the event and `spans` around it by name.
//!
//! No text in it moves a terminal or looks like two lines: what JSON itself does not escape of that is escaped too.

use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, Scope};

use crate::request_log::rfc3339;

/// Keeps the fields of spans as JSON.
pub(super) struct JsonSpans;

/// Fields of one span.
struct SpanFields(Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonSpans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.0));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = context.span(id)
            && let Some(known) = span.extensions_mut().get_mut::<SpanFields>()
        {
            known.0.extend(fields.0);
        }
    }
}

/// The line of an event, without its end.
pub(super) fn line_of<S>(event: &Event<'_>, spans: Option<Scope<'_, S>>) -> String
where
    S: for<'a> LookupSpan<'a>,
{
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut line = Map::new();
    let metadata = event.metadata();
    line.insert("time".into(), rfc3339(SystemTime::now()).into());
    line.insert("log".into(), "server".into());
    line.insert("level".into(), metadata.level().as_str().into());
    line.insert("target".into(), metadata.target().into());
    let message = fields.0.remove("message").unwrap_or_default();
    line.insert("message".into(), message);
    if !fields.0.is_empty() {
        line.insert("fields".into(), fields.0.into());
    }
    let around: Map<String, Value> = spans
        .into_iter()
        .flatten()
        .map(|span| {
            let extensions = span.extensions();
            let fields = extensions.get::<SpanFields>();
            let fields = fields.map_or_else(Map::new, |fields| fields.0.clone());
            (span.name().to_owned(), fields.into())
        })
        .collect();
    if !around.is_empty() {
        line.insert("spans".into(), around.into());
    }
    escaped(&Value::Object(line).to_string())
}

/// Escapes what terminals obey and serde_json leaves as it is; outside of strings there is none of it.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\x7f'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Fields of an event or a span.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_says_the_same() {
        let text = "a\r\nb\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2028}ä";
        let line = escaped(&json!({ "message": text }).to_string());
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(!line.contains(['\u{202e}', '\u{2028}']), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], text);
    }
}
