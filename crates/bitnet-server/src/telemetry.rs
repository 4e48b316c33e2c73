//! Requests for OpenTelemetry: traces (a span for a request, and in it one for its time in the queue, one until its
//! first token and one for the rest) and metrics (how long requests, their first tokens and their other tokens take).
//!
//! Exporting is behind the feature `opentelemetry`, because most servers have nobody to send traces to. Spans are
//! queued without waiting and sent by a thread of the SDK's; a collector that is slow or gone loses spans and holds up
//! no request. What is queued when the process ends is sent then. Sources: OpenTelemetry's OTLP specification, W3C's
//! Trace Context, and the GenAI conventions, which are in development and therefore asked for by
//! `OTEL_SEMCONV_STABILITY_OPT_IN`.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderMap;

use crate::config::settings::MonitoringSettings;
use crate::config::value::OtlpProtocol;
use crate::metrics::Finished;

#[cfg(not(feature = "opentelemetry"))]
mod absent;
#[cfg(feature = "opentelemetry")]
mod collector;
#[cfg(feature = "opentelemetry")]
mod durations;
#[cfg(feature = "opentelemetry")]
mod http_sender;
#[cfg(feature = "opentelemetry")]
mod operation;
#[cfg(feature = "opentelemetry")]
mod spans;

#[cfg(not(feature = "opentelemetry"))]
use absent as built;
#[cfg(feature = "opentelemetry")]
use spans as built;

/// The variable by which OpenTelemetry's users name the authorities that a collector's certificate is held against.
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
/// The variable by which OpenTelemetry's users ask for conventions that may still change, and what it has for ours.
const OPT_IN: (&str, &str) = (
    "OTEL_SEMCONV_STABILITY_OPT_IN",
    "gen_ai_latest_experimental",
);

/// What is exported, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryOptions {
    /// The collector's address, without the path.
    pub endpoint: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// A file with the certificates that its one is held against, of an address with https; `None` is those that the
    /// system trusts.
    pub authorities: Option<PathBuf>,
    /// Of how many in a hundred requests whose senders trace nothing.
    pub sampling_percent: u32,
    /// Whether spans and metrics have the attributes of the GenAI conventions.
    pub gen_ai: bool,
    /// How often metrics are sent.
    pub metrics_interval: Duration,
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The program was built without it.
    #[error(
        "this build exports neither traces nor metrics: build it with `--features opentelemetry`, or set \
         monitoring.opentelemetry_enabled to false"
    )]
    NotBuilt,
    /// The address of the collector is none that can be sent to.
    #[error(
        "monitoring.opentelemetry_endpoint must be http://HOST:PORT or https://HOST:PORT, and is '{0}'"
    )]
    Endpoint(String),
    /// Nobody is trusted to be the collector.
    #[error(
        "the certificates of {from}, which the collector's is held against, cannot be used: {reason}"
    )]
    Authorities {
        /// Where they are.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// The exporter refused to start.
    #[error("an exporter cannot start: {0}")]
    Exporter(String),
}

/// Exports while it lives.
#[derive(Debug)]
pub struct Telemetry(built::Exporter);

/// The trace of one request, and its part in the metrics. Its span ends when this is dropped.
#[derive(Debug)]
pub struct RequestTrace(built::Trace);

impl TelemetryOptions {
    /// Those of the settings and of this process's environment.
    pub fn of_process(settings: &MonitoringSettings) -> TelemetryOptions {
        let (variable, ours) = OPT_IN;
        let opted_in = std::env::var(variable).unwrap_or_default();
        let endpoint = settings.opentelemetry_endpoint.as_deref();
        let protocol = settings.opentelemetry_protocol;
        TelemetryOptions {
            endpoint: endpoint.map_or_else(|| on_this_machine(protocol), str::to_owned),
            protocol,
            authorities: std::env::var_os(CERTIFICATE).map(PathBuf::from),
            sampling_percent: settings.opentelemetry_sampling_percent,
            gen_ai: opted_in.split(',').any(|word| word.trim() == ours),
            metrics_interval: settings.metrics_interval,
        }
    }
}

impl Telemetry {
    /// Starts exporting.
    ///
    /// # Errors
    /// In a build without the feature, and for addresses that cannot be sent to.
    pub fn start(options: &TelemetryOptions) -> Result<Telemetry, TelemetryError> {
        built::Exporter::start(options).map(Telemetry)
    }

    /// Sends what is queued and ends, or gives that up after a few seconds. Whoever is told of something afterwards
    /// tells nobody.
    pub fn close(&self) {
        self.0.close();
    }

    /// A request has arrived at `route`; its headers may name the trace that it is a part of.
    pub fn request(&self, route: &str, headers: &HeaderMap, id: &str) -> RequestTrace {
        RequestTrace(self.0.request(route, headers, id))
    }
}

impl RequestTrace {
    /// It is for the model that it calls `model`.
    pub fn asks_for(&self, model: &str) {
        self.0.asks_for(model);
    }

    /// What the answer's header `traceparent` tells.
    pub fn traceparent(&self) -> String {
        self.0.traceparent()
    }

    /// It was answered with an error before anything ran.
    pub fn refused(&self, code: &str) {
        self.0.refused(code);
    }

    /// It ran, and has ended now.
    pub fn finished(&self, request: &Finished<'_>) {
        self.0.finished(request);
    }
}

/// Where a collector on the same machine listens: OpenTelemetry's two ports.
fn on_this_machine(protocol: OtlpProtocol) -> String {
    let port = match protocol {
        OtlpProtocol::Http => 4318,
        OtlpProtocol::Grpc => 4317,
    };
    format!("http://127.0.0.1:{port}")
}
