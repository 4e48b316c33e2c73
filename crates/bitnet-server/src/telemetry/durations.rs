//! How long requests take, as the GenAI conventions measure servers: whole requests, first tokens, tokens after the
//! first.
//!
//! Every request counts, sampled for a trace or not. The SDK adds up in memory and a thread of its own sends the sums;
//! what a collector that is gone has not taken is in the next sum that it takes. Names, units and boundaries are those
//! of the conventions' "Generative AI metrics"; attributes have their names only where they are asked for, as in spans.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};

use super::TelemetryOptions;
use crate::metrics::Finished;

/// Who runs the model, as the conventions ask for it.
pub(super) const PROVIDER: &str = "bitnet";

const DURATION_BOUNDS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
const FIRST_TOKEN_BOUNDS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
const OUTPUT_TOKEN_BOUNDS: [f64; 13] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];

/// The histograms of one server. Clones add to the same ones.
#[derive(Debug, Clone)]
pub(super) struct RequestDurations {
    provider: SdkMeterProvider,
    request: Histogram<f64>,
    first_token: Histogram<f64>,
    output_token: Histogram<f64>,
    gen_ai: bool,
}

impl RequestDurations {
    /// Starts the thread that sends them by `exporter`.
    pub(super) fn start(
        options: &TelemetryOptions,
        exporter: MetricExporter,
        resource: Resource,
    ) -> RequestDurations {
        let reader = PeriodicReader::builder(exporter)
            .with_interval(options.metrics_interval)
            .build();
        let provider = SdkMeterProvider::builder()
            .with_reader(reader)
            .with_resource(resource)
            .build();
        let meter = provider.meter("bitnet-server");
        RequestDurations {
            request: histogram(
                &meter,
                "gen_ai.server.request.duration",
                "Time from a request's arrival to its last token.",
                &DURATION_BOUNDS,
            ),
            first_token: histogram(
                &meter,
                "gen_ai.server.time_to_first_token",
                "Time from a request's arrival to its first token.",
                &FIRST_TOKEN_BOUNDS,
            ),
            output_token: histogram(
                &meter,
                "gen_ai.server.time_per_output_token",
                "A request's mean time between tokens.",
                &OUTPUT_TOKEN_BOUNDS,
            ),
            provider,
            gen_ai: options.gen_ai,
        }
    }

    /// A request has run and ended. `asked` is what it called its model.
    pub(super) fn finished(
        &self,
        operation: &'static str,
        asked: Option<&str>,
        request: &Finished<'_>,
    ) {
        let answered = Some(request.model);
        let attributes = self.attributes(operation, asked, answered, request.failure);
        self.request
            .record(request.latency.as_secs_f64(), &attributes);
        let Some(first) = request.first_token else {
            return;
        };
        self.first_token.record(first.as_secs_f64(), &attributes);
        if request.n_generated_longest > 1 {
            let gaps = (request.n_generated_longest - 1) as f64;
            let mean = request.latency.saturating_sub(first).as_secs_f64() / gaps;
            self.output_token.record(mean, &attributes);
        }
    }

    /// A request was answered with an error before anything ran.
    pub(super) fn refused(&self, operation: &'static str, code: &str, time: Duration) {
        // Clients choose what they call a model: no series for each such name.
        let attributes = self.attributes(operation, None, None, Some(code));
        self.request.record(time.as_secs_f64(), &attributes);
    }

    /// Sends what is left and ends the thread, however long that takes.
    pub(super) fn shutdown(&self) {
        // A collector that is gone has been told of by the SDK; the process ends all the same.
        let _ = self.provider.shutdown();
    }

    fn attributes(
        &self,
        operation: &'static str,
        asked: Option<&str>,
        answered: Option<&str>,
        error: Option<&str>,
    ) -> Vec<KeyValue> {
        let text = |name: &'static str, text: &str| KeyValue::new(name, text.to_owned());
        let mut attributes = Vec::new();
        if self.gen_ai {
            attributes.push(KeyValue::new("gen_ai.operation.name", operation));
            attributes.push(KeyValue::new("gen_ai.provider.name", PROVIDER));
            attributes.extend(asked.map(|model| text("gen_ai.request.model", model)));
            attributes.extend(answered.map(|model| text("gen_ai.response.model", model)));
        } else {
            attributes.push(KeyValue::new("bitnet.operation", operation));
            attributes.extend(answered.map(|model| text("bitnet.model", model)));
        }
        attributes.extend(error.map(|error| text("error.type", error)));
        attributes
    }
}

fn histogram(
    meter: &Meter,
    name: &'static str,
    about: &'static str,
    bounds: &[f64],
) -> Histogram<f64> {
    meter
        .f64_histogram(name)
        .with_unit("s")
        .with_description(about)
        .with_boundaries(bounds.to_vec())
        .build()
}
