//! Asking another process whether it is alive or ready, as containers and scripts do.
//!
//! Alive is what is asked unless somebody wants more: a server whose queue is full, or that drains, is not ready and must
//! not be restarted for it.
//!
//! One limit is for everything together: connecting, TLS, and reading the answer to its end. Over TLS the server must show
//! the very certificate of a file, whatever name is in it: the question comes from its own machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{self, CERTIFICATE, TlsError};

/// A question to a server.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// Where it listens.
    pub address: SocketAddr,
    /// How long it may take, in all.
    pub patience: Duration,
    /// What is asked.
    pub probe: Probe,
    /// How it is spoken to, if encrypted.
    pub tls: Option<CheckTls>,
}

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Probe {
    /// Whether its engine works: if not, only a restart helps.
    #[default]
    Live,
    /// Whether the next request would be taken.
    Ready,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Probe::Live => "/health/live",
            Probe::Ready => "/health/ready",
        }
    }
}

/// Files for asking over TLS.
#[derive(Debug, Clone)]
pub struct CheckTls {
    /// The server's certificate: the file of `server.tls_certificate_file`.
    pub certificate: PathBuf,
    /// Certificate and key to show, where the server wants one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Why nothing is known of a server.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It does not answer, or not in time, or not in HTTP.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The files for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The probe's answer is far shorter; a stranger on that port may send anything.
const LONGEST_ANSWER: u64 = 64 << 10;

impl HealthCheck {
    /// Asks the server; the reason when its answer is no.
    ///
    /// # Errors
    /// When it does not answer in time, or answers something else than HTTP.
    pub fn ask(&self) -> Result<Result<(), String>, CheckError> {
        let connector = self.tls.as_ref().map(CheckTls::connector).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let asked = async {
            let stream = TcpStream::connect(reachable(self.address)).await?;
            match connector {
                None => exchange(stream, self.probe).await,
                Some(connector) => {
                    let name = ServerName::IpAddress(self.address.ip().into());
                    exchange(connector.connect(name, stream).await?, self.probe).await
                }
            }
        };
        let answer = runtime.block_on(async {
            match tokio::time::timeout(self.patience, asked).await {
                Ok(answer) => answer,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.strip_prefix("HTTP/1.1 ").map(|rest| rest.get(..3));
        match status {
            Some(Some("200")) => Ok(Ok(())),
            Some(Some(status)) => {
                let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
                Ok(Err(format!("status {status}: {body}")))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP").into()),
        }
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    probe: Probe,
) -> io::Result<Vec<u8>> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        probe.path()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

impl CheckTls {
    fn connector(&self) -> Result<TlsConnector, TlsError> {
        let chain = |path: &Path| {
            let bytes = tls::read(CERTIFICATE, path)?;
            tls::certificates(CERTIFICATE, path, &bytes)
        };
        let provider = tls::provider();
        let verifier = OnlyThis {
            certificate: chain(&self.certificate)?.swap_remove(0),
            provider: provider.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(tls::VERSIONS)
            .expect("ring has the ciphers of both versions")
            .dangerous() // rustls' word for another rule than the public one; this one is stricter
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let own = tls::private_key(key, &tls::read("key", key)?)?;
                builder
                    .with_client_auth_cert(chain(certificate)?, own)
                    .map_err(|_| TlsError::Mismatch {
                        certificate: certificate.clone(),
                        key: key.clone(),
                    })?
            }
        };
        Ok(Arc::new(config).into())
    }
}

/// Trusts one certificate, and whoever proves to have its key.
#[derive(Debug)]
struct OnlyThis {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnlyThis {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *shown == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General(
                "the server shows another certificate than the one in the file".into(),
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A server that listens on every address is reached on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
