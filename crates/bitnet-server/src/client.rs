//! One question to another server over HTTP, plain or encrypted: what `bitnet healthcheck` and the commands that
//! manage a running server ask with.
//!
//! Over TLS the server must show the very certificate of a file, whatever name is in it: whoever runs the server has
//! that file, and needs no authority for it. Answers are bounded, and the time for one may be.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
pub use axum::http::Method;
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderValue, Request, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{self, CERTIFICATE, TlsError};

/// Where a server is: scheme, host and port, and the path below which it lies behind a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether it is spoken to over TLS.
    pub is_encrypted: bool,
    authority: Authority,
    host: String,
    port: u16,
    base: String,
}

/// A text that is no address of a server.
#[derive(Debug, thiserror::Error)]
#[error("'{url}' is no address of a server: {reason}")]
pub struct UrlError {
    url: String,
    reason: &'static str,
}

impl ServerUrl {
    /// That of a server that listens on `address`; one that listens on every address is reached on this machine's own.
    pub fn of(address: SocketAddr, is_encrypted: bool) -> ServerUrl {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let authority = SocketAddr::new(ip, address.port()).to_string();
        ServerUrl {
            is_encrypted,
            authority: authority.parse().expect("an address is an authority"),
            host: ip.to_string(),
            port: address.port(),
            base: String::new(),
        }
    }

    /// Whether it is on this machine, by its name alone.
    pub fn is_loopback(&self) -> bool {
        let ip: Option<IpAddr> = self.host.parse().ok();
        self.host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<ServerUrl, UrlError> {
        let wrong = |reason| UrlError {
            url: url.chars().take(200).collect(),
            reason,
        };
        let expected = "expected http://HOST:PORT or https://HOST:PORT";
        let parsed: Uri = url.parse().map_err(|_| wrong(expected))?;
        let is_encrypted = match parsed.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong(expected)),
        };
        let authority = parsed.authority().ok_or_else(|| wrong(expected))?;
        if authority.as_str().contains('@') {
            let reason = "a key does not belong into it: other users of this machine see it";
            return Err(UrlError {
                url: "...".into(),
                reason,
            });
        }
        if parsed.query().is_some() {
            return Err(wrong("it has a query"));
        }
        let host = authority.host();
        Ok(ServerUrl {
            is_encrypted,
            authority: authority.clone(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(match is_encrypted {
                true => 443,
                false => 80,
            }),
            base: parsed.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.base)
    }
}

/// A key or token as a client sends it. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerKey(HeaderValue);

impl BearerKey {
    /// The key in `text`; `None` where it can be none: nothing but blanks, or characters that no header may have.
    pub fn of(text: &str) -> Option<BearerKey> {
        let key = text.trim();
        let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok();
        if let Some(value) = &mut value {
            value.set_sensitive(true);
        }
        value.filter(|_| plain).map(BearerKey)
    }
}

impl fmt::Debug for BearerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerKey(..)")
    }
}

/// Who asks a server, and how.
#[derive(Debug, Clone)]
pub struct HttpClient {
    /// Where it is.
    pub url: ServerUrl,
    /// How long everything together may take: connecting, TLS, the answer to its end. `None`: connecting alone has a
    /// limit.
    pub patience: Option<Duration>,
    /// What is sent along.
    pub key: Option<BearerKey>,
    /// The files for TLS; without them nothing that is encrypted can be asked.
    pub tls: Option<ClientTls>,
}

/// Files for asking over TLS.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// The server's certificate: the file of `server.tls_certificate_file`.
    pub certificate: PathBuf,
    /// Certificate and key to show, where the server wants one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What a server answers.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// Its status.
    pub status: u16,
    /// All of its body.
    pub body: Bytes,
}

/// Why nothing is known of a server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It does not answer, or not in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What it says is no HTTP, or ends too early.
    #[error("the answer is no HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// What it says has no end, or a very late one.
    #[error("the answer breaks off or is longer than {LONGEST_ANSWER} bytes")]
    Body,
    /// The files for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There are none.
    #[error("an encrypted server is asked, and no file has its certificate")]
    NoCertificate,
}

/// A list of a thousand models is far shorter; a stranger on that port may send anything.
const LONGEST_ANSWER: usize = 4 << 20;

/// Time for reaching a server where nothing else bounds it: a machine that is off answers nobody.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

impl HttpClient {
    /// Asks for `path`, which begins with a slash, and waits for the answer.
    ///
    /// # Errors
    /// When there is none in time, or none that is HTTP. Every status is an answer.
    pub fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<HttpAnswer, ClientError> {
        let connector = match (self.url.is_encrypted, &self.tls) {
            (false, _) => None,
            (true, Some(files)) => Some(files.connector()?),
            (true, None) => return Err(ClientError::NoCertificate),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let asked = async {
            let connected = tokio::time::timeout(CONNECT_PATIENCE, self.connect());
            let stream = connected.await.map_err(|_| timed_out())??;
            let request = self.request(method, path, body);
            match connector {
                None => exchange(stream, request).await,
                Some(connector) => {
                    let name = ServerName::try_from(self.url.host.clone())
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                    exchange(connector.connect(name, stream).await?, request).await
                }
            }
        };
        runtime.block_on(async {
            match self.patience {
                None => asked.await,
                Some(patience) => tokio::time::timeout(patience, asked)
                    .await
                    .map_err(|_| timed_out())?,
            }
        })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect((self.url.host.as_str(), self.url.port)).await
    }

    fn request(&self, method: &Method, path: &str, body: Option<&Value>) -> Request<Body> {
        let mut request = Request::new(match body {
            None => Body::empty(),
            Some(body) => Body::from(body.to_string()),
        });
        *request.method_mut() = method.clone();
        let path = format!("{}{path}", self.url.base);
        *request.uri_mut() = path
            .parse()
            .expect("paths are made of ids that were encoded");
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(self.url.authority.as_str());
        headers.insert(header::HOST, host.expect("an authority is a header"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if body.is_some() {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
        }
        if let Some(BearerKey(key)) = &self.key {
            headers.insert(header::AUTHORIZATION, key.clone());
        }
        request
    }
}

/// `text` as one part of a path: what means something in paths is written as `%XX`.
pub fn path_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b"._-~".contains(&byte) => {
                segment.push(char::from(byte));
            }
            byte => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> Result<HttpAnswer, ClientError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It moves the bytes, and ends with the runtime at the latest; what goes wrong there is told to the sender too.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = to_bytes(Body::new(answer.into_body()), LONGEST_ANSWER).await;
    let body = body.map_err(|_| ClientError::Body)?;
    Ok(HttpAnswer { status, body })
}

impl ClientTls {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers_are_read_and_what_is_none_is_told() {
        for (url, host, port, base) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, ""),
            ("http://127.0.0.1:8080/", "127.0.0.1", 8080, ""),
            ("http://[::1]:8080", "::1", 8080, ""),
            (
                "https://models.example/bitnet/",
                "models.example",
                443,
                "/bitnet",
            ),
            ("http://localhost", "localhost", 80, ""),
        ] {
            let parsed: ServerUrl = url.parse().unwrap();
            assert_eq!(
                (&*parsed.host, parsed.port, &*parsed.base),
                (host, port, base)
            );
            assert_eq!(parsed.is_encrypted, url.starts_with("https"));
            assert_eq!(parsed.to_string(), url.trim_end_matches('/'));
            assert_eq!(parsed.is_loopback(), host != "models.example");
        }
        for url in [
            "",
            "127.0.0.1:8080",
            "ftp://a",
            "http://",
            "http://a b",
            "http://a/?q=1",
        ] {
            url.parse::<ServerUrl>().unwrap_err();
        }
        let error = "http://user:secret@host".parse::<ServerUrl>().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        let everywhere = ServerUrl::of(([0, 0, 0, 0], 80).into(), false);
        assert_eq!(everywhere.to_string(), "http://127.0.0.1:80");
    }

    #[test]
    fn whatever_a_model_is_called_is_one_part_of_a_path() {
        assert_eq!(path_segment("v1.58_b-x"), "v1.58_b-x");
        assert_eq!(path_segment("a/../b?c d\né"), "a%2F..%2Fb%3Fc%20d%0A%C3%A9");
    }

    #[test]
    fn keys_do_not_print_themselves_and_no_header_is_made_of_two() {
        let key = BearerKey::of(" bn_0123_secret\n").unwrap();
        assert!(!format!("{key:?}").contains("secret"));
        assert_eq!(key.0.to_str().unwrap(), "Bearer bn_0123_secret");
        for none in ["", " \n", "a\r\nHost: other", "two words", "\u{e9}"] {
            assert_eq!(BearerKey::of(none), None, "{none:?}");
        }
    }
}
