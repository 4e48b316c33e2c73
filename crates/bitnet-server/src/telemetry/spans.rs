//! Spans by OpenTelemetry's SDK.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};

use super::collector::Collector;
use super::durations::{PROVIDER, RequestDurations};
use super::operation::operation;
use super::{TelemetryError, TelemetryOptions};
use crate::metrics::Finished;
use crate::model_manager::paths::LONGEST_ID;

/// Spans that wait to be sent, four to a request; more are dropped.
const QUEUE: usize = 4096;
/// How often they are sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the last sending may take, at the end of the process.
const CLOSING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Exporter {
    _collector: Collector, // what the exporters send by
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    durations: RequestDurations,
    gen_ai: bool,
}

#[derive(Debug)]
pub(super) struct Trace {
    context: Context, // with the request's span
    tracer: SdkTracer,
    durations: RequestDurations,
    operation: Option<&'static str>, // None where no model is run
    asked: OnceLock<String>,
    started: Instant,
    is_measured: AtomicBool,
    gen_ai: bool,
}

impl Exporter {
    pub(super) fn start(options: &TelemetryOptions) -> Result<Exporter, TelemetryError> {
        let collector = Collector::new(options)?;
        let exporter = collector.span_exporter()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_scheduled_delay(INTERVAL)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let share = f64::from(options.sampling_percent) / 100.0;
        // Its own variables OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are the SDK's to read.
        let resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name("bitnet"),
        };
        let resource = resource.build();
        let metrics = collector.metric_exporter()?;
        let durations = RequestDurations::start(options, metrics, resource.clone());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                share,
            ))))
            .with_resource(resource)
            .build();
        Ok(Exporter {
            tracer: provider.tracer("bitnet-server"),
            provider,
            durations,
            gen_ai: options.gen_ai,
            _collector: collector,
        })
    }

    /// Sends what is queued, or gives that up: the SDK waits for a metric reader for ever, so a thread does it.
    pub(super) fn close(&self) {
        let (provider, durations) = (self.provider.clone(), self.durations.clone());
        let (sender, closed) = std::sync::mpsc::channel();
        let closing = std::thread::Builder::new().spawn(move || {
            // A collector that is gone has been told of by the SDK; the process ends all the same.
            let _ = provider.shutdown_with_timeout(CLOSING);
            durations.shutdown();
            let _ = sender.send(()); // nobody waits any more
        });
        if closing.is_ok() && closed.recv_timeout(CLOSING).is_err() {
            tracing::warn!("the collector does not take the last traces: they are lost");
        }
    }

    pub(super) fn request(&self, route: &str, headers: &HeaderMap, id: &str) -> Trace {
        let sender = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let attributes = vec![
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("bitnet.request_id", id.to_owned()),
        ];
        let builder = SpanBuilder::from_name(format!("POST {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        let span = self.tracer.build_with_context(builder, &sender);
        Trace {
            context: sender.with_span(span),
            tracer: self.tracer.clone(),
            durations: self.durations.clone(),
            operation: operation(route),
            asked: OnceLock::new(),
            started: Instant::now(),
            is_measured: AtomicBool::new(false),
            gen_ai: self.gen_ai,
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.close(); // at once if it was closed
    }
}

impl Trace {
    pub(super) fn traceparent(&self) -> String {
        let context = self.context.span().span_context().clone();
        let flags = context.trace_flags().to_u8();
        format!(
            "00-{}-{}-{flags:02x}",
            context.trace_id(),
            context.span_id()
        )
    }

    /// What the request does, if it is to be measured now: it ends once, though its end may be told twice.
    fn to_be_measured(&self) -> Option<&'static str> {
        let operation = self.operation?;
        (!self.is_measured.swap(true, Ordering::Relaxed)).then_some(operation)
    }

    pub(super) fn asks_for(&self, model: &str) {
        // A request names one model. What is longer names none, and thousands of spans may wait for a collector.
        let _ = self.asked.set(model.chars().take(LONGEST_ID).collect());
    }

    /// What it called its model.
    fn asked(&self) -> Option<&str> {
        self.asked.get().map(String::as_str)
    }

    pub(super) fn refused(&self, code: &str) {
        if let Some(operation) = self.to_be_measured() {
            self.durations
                .refused(operation, code, self.started.elapsed());
        }
        let span = self.context.span();
        if self.gen_ai {
            span.set_attributes(self.gen_ai_attributes());
        }
        span.set_attribute(KeyValue::new("error.type", code.to_owned()));
        span.set_status(Status::error(code.to_owned()));
    }

    pub(super) fn finished(&self, request: &Finished<'_>) {
        if let Some(operation) = self.to_be_measured() {
            self.durations.finished(operation, self.asked(), request);
        }
        let span = self.context.span();
        if !span.is_recording() {
            return;
        }
        span.set_attributes(self.attributes(request));
        if let Some(code) = request.failure {
            span.set_attribute(KeyValue::new("error.type", code));
            span.set_status(Status::error(code));
        }
        let end = SystemTime::now();
        let at = |since: Duration| end - request.latency.saturating_sub(since);
        let first_token = request.first_token.unwrap_or(request.latency);
        let queue = request.queue.min(first_token);
        self.phase(
            "queue",
            (at(Duration::ZERO), at(queue)),
            request.queue,
            None,
        );
        if request.first_token.is_some() {
            let prompt = ("bitnet.prompt_tokens", request.n_prompt);
            let times = (at(queue), at(first_token));
            self.phase("prefill", times, request.prefill, Some(prompt));
            let drawn = ("bitnet.generated_tokens", request.n_generated);
            let times = (at(first_token), end);
            self.phase("decode", times, request.decode, Some(drawn));
        }
        span.end_with_timestamp(end);
    }

    /// A part of the request, in which the engine worked on it for `worked`.
    fn phase(
        &self,
        name: &'static str,
        (start, end): (SystemTime, SystemTime),
        worked: Duration,
        tokens: Option<(&'static str, usize)>,
    ) {
        let mut attributes = vec![KeyValue::new("bitnet.seconds", worked.as_secs_f64())];
        attributes.extend(tokens.map(|(key, count)| KeyValue::new(key, count as i64)));
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(start)
            .with_attributes(attributes);
        let mut span = self.tracer.build_with_context(builder, &self.context);
        span.end_with_timestamp(end);
    }

    fn attributes(&self, request: &Finished<'_>) -> Vec<KeyValue> {
        let model = request.model.to_owned();
        let (prompt, drawn) = (request.n_prompt as i64, request.n_generated as i64);
        let ended = request.ended.name();
        if !self.gen_ai {
            return vec![
                KeyValue::new("bitnet.model", model),
                KeyValue::new("bitnet.prompt_tokens", prompt),
                KeyValue::new("bitnet.generated_tokens", drawn),
                KeyValue::new("bitnet.ended", ended),
            ];
        }
        let reasons = Value::Array(Array::String(vec![StringValue::from(ended)]));
        let mut attributes = self.gen_ai_attributes();
        attributes.extend([
            KeyValue::new("gen_ai.response.model", model),
            KeyValue::new("gen_ai.usage.input_tokens", prompt),
            KeyValue::new("gen_ai.usage.output_tokens", drawn),
            KeyValue::new("gen_ai.response.finish_reasons", reasons),
        ]);
        attributes
    }

    /// What the conventions have for a request before it is answered; nothing for one that runs no model.
    fn gen_ai_attributes(&self) -> Vec<KeyValue> {
        let Some(operation) = self.operation else {
            return Vec::new();
        };
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", PROVIDER),
        ];
        let asked = self.asked().map(str::to_owned);
        attributes.extend(asked.map(|model| KeyValue::new("gen_ai.request.model", model)));
        attributes
    }
}
