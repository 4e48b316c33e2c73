//! The certificate that the server shows, and its exchange for a new one while connections go on.
//!
//! rustls with ring, named here and installed nowhere else, from TLS 1.2 up. A connection keeps what it began with; the
//! next one is shaken hands with by whatever was read last. Files that cannot be used change nothing: a renewal writes
//! certificate and key one after the other, and between the two they do not belong together.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{Error, RootCertStore};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use crate::config::settings::ServerSettings;

/// Largest file: a chain of certificates is some kilobytes, a system's whole list of authorities 250.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The versions that are spoken; older ones are broken.
pub static VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The server's certificate and key, and who may connect.
#[derive(Debug)]
pub struct TlsIdentity {
    files: TlsFiles,
    config: ArcSwap<rustls::ServerConfig>,
    last_read: Mutex<[u8; 32]>, // SHA-256 of the files' contents when they were last looked at
}

#[derive(Debug)]
struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What is wrong with which file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two that belong together is not set.
    #[error("server.{given} is set and server.{missing} is not: TLS needs both")]
    Incomplete {
        /// The setting that is there.
        given: &'static str,
        /// The setting that is not.
        missing: &'static str,
    },
    /// Somebody would have to show a certificate, and nobody is shown one.
    #[error(
        "server.tls_client_ca_file is set, and TLS is off: set server.tls_certificate_file and server.tls_key_file"
    )]
    ClientCaAlone,
    /// The file cannot be read.
    #[error("cannot read the {what} file {path}: {source}")]
    Read {
        /// What it is for.
        what: &'static str,
        /// Its name.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is too large for what it is for.
    #[error("the {what} file {path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// What it is for.
        what: &'static str,
        /// Its name.
        path: PathBuf,
    },
    /// The file has something else in it.
    #[error("the {what} file {path} {reason}")]
    Content {
        /// What it is for.
        what: &'static str,
        /// Its name.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is another certificate's.
    #[error("the key in {key} is not that of the first certificate in {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// What messages call a file of certificates.
pub const CERTIFICATE: &str = "certificate";
const KEY: &str = "key";
const CLIENT_CA: &str = "client CA";

/// The one implementation of cryptography that TLS uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl TlsIdentity {
    /// Reads what the settings name; `None` when they name nothing, and the server speaks plain HTTP.
    ///
    /// # Errors
    /// Settings that do not belong together, and files that cannot be used.
    pub fn open(settings: &ServerSettings) -> Result<Option<TlsIdentity>, TlsError> {
        let incomplete = |given, missing| Err(TlsError::Incomplete { given, missing });
        let (certificate, key) = match (&settings.tls_certificate_file, &settings.tls_key_file) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (Some(_), None) => return incomplete("tls_certificate_file", "tls_key_file"),
            (None, Some(_)) => return incomplete("tls_key_file", "tls_certificate_file"),
            (None, None) if settings.tls_client_ca_file.is_some() => {
                return Err(TlsError::ClientCaAlone);
            }
            (None, None) => return Ok(None),
        };
        let files = TlsFiles {
            certificate,
            key,
            client_ca: settings.tls_client_ca_file.clone(),
        };
        let contents = files.read()?;
        Ok(Some(TlsIdentity {
            config: ArcSwap::from_pointee(files.parse(&contents)?),
            last_read: Mutex::new(contents.digest()),
            files,
        }))
    }

    /// Shakes hands by what was read last.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.load_full().into()
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// As [`TlsIdentity::open`]; the server goes on with what it had.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.replace(&mut self.last_digest())
    }

    /// Reads the files. Whoever else wants to waits: an older reading must not replace a newer one.
    fn replace(&self, last_digest: &mut [u8; 32]) -> Result<(), TlsError> {
        let contents = self.files.read()?;
        *last_digest = contents.digest();
        self.config.store(self.files.parse(&contents)?.into());
        Ok(())
    }

    /// Reads the files again if they have changed since they were last looked at.
    pub fn poll(&self) -> Option<Result<(), TlsError>> {
        let mut last_digest = self.last_digest();
        // A file that is away for a moment is being replaced: whether it comes back is seen the next time.
        let contents = self.files.read().ok()?;
        let changed = contents.digest() != *last_digest;
        changed.then(|| self.replace(&mut last_digest))
    }

    fn last_digest(&self) -> std::sync::MutexGuard<'_, [u8; 32]> {
        // An array of bytes is never half written.
        self.last_read
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the files every `interval`, for as long as the server runs.
pub async fn follow_certificate(identity: Arc<TlsIdentity>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let identity = identity.clone();
        match tokio::task::spawn_blocking(move || identity.poll()).await {
            Ok(None) => {}
            Ok(Some(Ok(()))) => {
                tracing::info!(target: crate::log::LIFE, "read the changed certificate")
            }
            Ok(Some(Err(e))) => tracing::error!("{e}; the certificate stays as it was"),
            Err(e) => tracing::error!("reading the certificate failed: {e}; it stays as it was"),
        }
    }
}

/// The files' bytes.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.certificate, &self.key]
            .into_iter()
            .chain(&self.client_ca)
        {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(CERTIFICATE, &self.certificate)?,
            key: read(KEY, &self.key)?,
            client_ca: self
                .client_ca
                .as_deref()
                .map(|path| read(CLIENT_CA, path))
                .transpose()?,
        })
    }

    fn parse(&self, contents: &Contents) -> Result<rustls::ServerConfig, TlsError> {
        let chain = certificates(CERTIFICATE, &self.certificate, &contents.certificate)?;
        let key = private_key(&self.key, &contents.key)?;
        let provider = provider();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(VERSIONS)
            .expect("ring has the ciphers of both versions");
        let builder = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(bytes)) => {
                let wrong = |e: String| content(CLIENT_CA, path, format!("cannot be used: {e}"));
                let mut roots = RootCertStore::empty();
                for root in certificates(CLIENT_CA, path, bytes)? {
                    roots.add(root).map_err(|e| wrong(e.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|e| wrong(e.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                Error::InconsistentKeys(_) => TlsError::Mismatch {
                    certificate: self.certificate.clone(),
                    key: self.key.clone(),
                },
                Error::InvalidCertificate(e) => content(
                    CERTIFICATE,
                    &self.certificate,
                    format!("begins with a certificate that cannot be used: {e}"),
                ),
                error => content(KEY, &self.key, format!("cannot be used: {error}")),
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// No PEM, or nothing in it that is a certificate.
pub fn certificates(
    what: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| content(what, path, format!("is no PEM: {e:?}")))?;
    if chain.is_empty() {
        let reason = match contains(bytes, "PRIVATE KEY-----") {
            true => "has a key in it and no certificate: are the two files exchanged?",
            false => "has no block '-----BEGIN CERTIFICATE-----' in it",
        };
        return Err(content(what, path, reason.into()));
    }
    Ok(chain)
}

/// The private key of a PEM file.
///
/// # Errors
/// No PEM, no key in it, or one that needs a password.
pub fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|e| {
        let reason = if contains(bytes, "ENCRYPTED") {
            "is encrypted: write it without a password, readable by the server alone".into()
        } else if contains(bytes, "-----BEGIN CERTIFICATE-----") {
            "has a certificate in it and no key: are the two files exchanged?".into()
        } else {
            format!("has no private key in PEM (PKCS#8, PKCS#1 or SEC1) in it: {e:?}")
        };
        content(KEY, path, reason)
    })
}

/// Reads a file of certificates or keys, which are small.
///
/// # Errors
/// When it cannot be read, or is larger than it could be.
pub fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        what,
        path: path.into(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::TooLarge {
            what,
            path: path.into(),
        });
    }
    Ok(bytes)
}

fn content(what: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::Content {
        what,
        path: path.into(),
        reason,
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
