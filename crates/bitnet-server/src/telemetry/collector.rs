//! The way to a collector: exporters of spans and of metrics by either protocol, with TLS where its address has https.
//!
//! Over HTTP that is [`HttpSender`]; gRPC is tonic's. Both hold the collector's certificate against the same
//! authorities: a file's, or those of the system.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Runtime;

use super::http_sender::HttpSender;
use super::{TelemetryError, TelemetryOptions};
use crate::config::value::OtlpProtocol;
use crate::tls;

/// How long one sending may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// A way to one collector.
#[derive(Debug)]
pub(super) struct Collector {
    endpoint: String, // without a slash at its end
    way: Way,
}

#[derive(Debug)]
enum Way {
    Http(HttpSender),
    Grpc {
        tls: Option<ClientTlsConfig>,
        runtime: Option<Runtime>, // that of the connection
    },
}

/// The exporter of a kind, whose builders have the same functions and no trait: over HTTP to `$path`, or over gRPC.
macro_rules! exporter {
    ($collector:expr, $kind:ident, $path:literal) => {{
        let collector = $collector;
        let built = match &collector.way {
            Way::Http(sender) => $kind::builder()
                .with_http()
                .with_http_client(sender.clone())
                .with_endpoint(format!("{}/{}", collector.endpoint, $path))
                .with_protocol(Protocol::HttpBinary)
                .with_timeout(SEND_TIMEOUT)
                .build(),
            Way::Grpc { tls, runtime } => {
                let _entered = runtime.as_ref().map(Runtime::enter);
                let builder = $kind::builder()
                    .with_tonic()
                    .with_endpoint(&collector.endpoint)
                    .with_timeout(SEND_TIMEOUT);
                match tls {
                    Some(tls) => builder.with_tls_config(tls.clone()).build(),
                    None => builder.build(),
                }
            }
        };
        built.map_err(|error| TelemetryError::Exporter(error.to_string()))
    }};
}

impl Collector {
    /// # Errors
    /// For addresses that cannot be sent to, and authorities that cannot be read.
    pub fn new(options: &TelemetryOptions) -> Result<Collector, TelemetryError> {
        let endpoint = options.endpoint.trim_end_matches('/');
        let not_one = || TelemetryError::Endpoint(options.endpoint.clone());
        let uri: Uri = endpoint.parse().map_err(|_| not_one())?;
        let has_tls = match (uri.scheme_str(), uri.authority()) {
            (_, Some(authority)) if authority.as_str().contains('@') => return Err(not_one()),
            (Some("http"), Some(_)) => false,
            (Some("https"), Some(_)) => true,
            _ => return Err(not_one()),
        };
        let way = match options.protocol {
            OtlpProtocol::Http => {
                let tls = has_tls.then(|| client_config(options)).transpose()?;
                Way::Http(HttpSender::to(&uri, tls, SEND_TIMEOUT).ok_or_else(not_one)?)
            }
            OtlpProtocol::Grpc => Way::Grpc {
                tls: has_tls.then(|| tonic_config(options)).transpose()?,
                runtime: Some(runtime()?),
            },
        };
        Ok(Collector {
            endpoint: endpoint.to_owned(),
            way,
        })
    }

    /// What sends spans.
    pub fn span_exporter(&self) -> Result<SpanExporter, TelemetryError> {
        exporter!(self, SpanExporter, "v1/traces")
    }

    /// What sends metrics.
    pub fn metric_exporter(&self) -> Result<MetricExporter, TelemetryError> {
        exporter!(self, MetricExporter, "v1/metrics")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Way::Grpc { runtime, .. } = &mut self.way
            && let Some(runtime) = runtime.take()
        {
            // Tokio panics where one runtime is dropped in a task of another one, but for this way.
            runtime.shutdown_background();
        }
    }
}

/// What gRPC's connection runs on: the exporters' threads have no runtime, and the server's is not to wait for a
/// collector.
fn runtime() -> Result<Runtime, TelemetryError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()
        .map_err(|e| TelemetryError::Exporter(e.to_string()))
}

fn tonic_config(options: &TelemetryOptions) -> Result<ClientTlsConfig, TelemetryError> {
    let config = ClientTlsConfig::new();
    Ok(match &options.authorities {
        None => config.with_native_roots(),
        Some(path) => {
            // Read by rustls first, whose errors say what is wrong.
            roots(options)?;
            let refused = |e: std::io::Error| untrusted(path.display().to_string(), e);
            config.ca_certificate(Certificate::from_pem(std::fs::read(path).map_err(refused)?))
        }
    })
}

fn client_config(options: &TelemetryOptions) -> Result<Arc<rustls::ClientConfig>, TelemetryError> {
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TelemetryError::Exporter(e.to_string()))?
        .with_root_certificates(roots(options)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Whom a collector's certificate is held against.
fn roots(options: &TelemetryOptions) -> Result<RootCertStore, TelemetryError> {
    let mut roots = RootCertStore::empty();
    let from = match &options.authorities {
        None => {
            // One that is broken does not make the others useless.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "the system".to_owned()
        }
        Some(path) => {
            let from = path.display().to_string();
            let read = CertificateDer::pem_file_iter(path)
                .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
            for certificate in read.map_err(|e| untrusted(from.clone(), e))? {
                let added = roots.add(certificate);
                added.map_err(|e| untrusted(from.clone(), e))?;
            }
            from
        }
    };
    match roots.is_empty() {
        true => Err(untrusted(from, "there is none")),
        false => Ok(roots),
    }
}

fn untrusted(from: String, reason: impl std::fmt::Display) -> TelemetryError {
    TelemetryError::Authorities {
        from,
        reason: reason.to_string(),
    }
}
