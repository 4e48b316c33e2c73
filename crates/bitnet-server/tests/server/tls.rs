//! HTTPS: what is spoken, who is let in, and how a certificate is exchanged.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_server::ServerLimits;
use bitnet_server::client::ClientTls;
use bitnet_server::config::ServerConfig;
use bitnet_server::config::Sources;
use bitnet_server::health_check::{HealthCheck, Probe};
use bitnet_server::tls::{TlsError, TlsIdentity, provider};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::client::Connection;
use crate::fixture::TestServer;

/// An authority, and files of what it signs.
struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Clone)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn write(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: self.folder.path().join(format!("{name}.pem")),
            key: self.folder.path().join(format!("{name}.key")),
        };
        std::fs::write(&pair.certificate, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    fn client(&self, own: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(first(&self.ca())).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(
                    vec![first(&own.certificate)],
                    PrivateKeyDer::from_pem_file(&own.key).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Client(Arc::new(config))
    }
}

struct Client(Arc<ClientConfig>);

type TlsConnection = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    fn open(&self, address: SocketAddr) -> TlsConnection {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(self.0.clone(), name).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        StreamOwned::new(connection, stream)
    }
}

/// Asks on a connection that stays open; the head and body as text.
fn ask(connection: &mut TlsConnection) -> std::io::Result<String> {
    connection.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    while !text.ends_with('}') {
        let mut part = [0; 1024];
        let n = connection.read(&mut part)?;
        assert!(n > 0, "it ended after {text:?}");
        text.push_str(std::str::from_utf8(&part[..n]).unwrap());
    }
    Ok(text)
}

fn first(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn config(pair: &Pair, client_ca: Option<&Path>) -> ServerConfig {
    let mut flags = vec![
        ("tls-certificate-file", pair.certificate.clone()),
        ("tls-key-file", pair.key.clone()),
    ];
    flags.extend(client_ca.map(|path| ("tls-client-ca-file", path.to_owned())));
    let flags = flags
        .into_iter()
        .map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned()))
        .collect();
    ServerConfig::load(&Sources {
        flags,
        ..Sources::default()
    })
    .unwrap()
}

#[test]
fn both_versions_are_spoken_and_plain_http_is_told() {
    let authority = Authority::new();
    let pair = authority.write("server");
    let server = TestServer::with_config(config(&pair, None));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut connection = authority.client(None, &[version]).open(server.address);
        for _ in 0..2 {
            assert!(ask(&mut connection).unwrap().starts_with("HTTP/1.1 200"));
        }
        assert_eq!(connection.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(connection.conn.protocol_version(), Some(version.version));
    }
    let mut plain = Connection::open(server.address);
    plain.send("GET", "/health/live", "", "");
    let answer = plain.answer();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["code"], "invalid_request");
    assert!(answer.body.contains("https://"), "{}", answer.body);
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let authority = Authority::new();
    let pair = authority.write("server");
    let server = TestServer::with_config(config(&pair, None));
    let identity = server.tls.clone().unwrap();
    let client = authority.client(None, rustls::ALL_VERSIONS);
    let mut old = client.open(server.address);
    ask(&mut old).unwrap();
    let shown = |connection: &TlsConnection| {
        connection.conn.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    };
    let before = shown(&old);
    assert!(identity.poll().is_none(), "nothing has changed");

    // The certificate alone: it and the key do not belong together for a while.
    let fresh = authority.write("fresh");
    std::fs::copy(&fresh.certificate, &pair.certificate).unwrap();
    assert!(matches!(
        identity.poll(),
        Some(Err(TlsError::Mismatch { .. }))
    ));
    assert!(identity.poll().is_none(), "told once");
    let mut between = client.open(server.address);
    ask(&mut between).unwrap();
    assert_eq!(shown(&between), before);

    std::fs::copy(&fresh.key, &pair.key).unwrap();
    assert!(matches!(identity.poll(), Some(Ok(()))));
    let mut new = client.open(server.address);
    ask(&mut new).unwrap();
    assert_eq!(shown(&new), first(&fresh.certificate));
    assert!(ask(&mut old).unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn with_a_client_ca_only_its_clients_are_let_in() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let pair = authority.write("server");
    let server = TestServer::with_config(config(&pair, Some(&authority.ca())));
    let versions = rustls::ALL_VERSIONS;
    let own = authority.write("client");
    let mut known = authority.client(Some(&own), versions).open(server.address);
    assert!(ask(&mut known).unwrap().starts_with("HTTP/1.1 200"));
    let foreign = stranger.write("client");
    for own in [None, Some(&foreign)] {
        let mut refused = authority.client(own, versions).open(server.address);
        assert!(ask(&mut refused).is_err());
    }
}

#[test]
fn errors_name_the_file_and_what_is_wrong_with_it() {
    let authority = Authority::new();
    let good = authority.write("good");
    let other = authority.write("other");
    let file = |name: &str, text: &str| {
        let path = authority.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let empty = file("empty", "");
    let noise = file(
        "noise",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    );
    let no_x509 = file(
        "no_x509",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let locked = file(
        "locked",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let missing = authority.folder.path().join("missing");
    let pair = |certificate: &Path, key: &Path| Pair {
        certificate: certificate.into(),
        key: key.into(),
    };
    let cases = [
        (
            pair(&missing, &good.key),
            None,
            ["missing", "cannot read the certificate"],
        ),
        (
            pair(&good.certificate, &missing),
            None,
            ["missing", "cannot read the key"],
        ),
        (
            pair(&empty, &good.key),
            None,
            ["empty", "BEGIN CERTIFICATE"],
        ),
        (pair(&noise, &good.key), None, ["noise", "no PEM"]),
        (pair(&no_x509, &good.key), None, ["no_x509", "certificate"]),
        (
            pair(&good.key, &good.certificate),
            None,
            ["good.key", "exchanged"],
        ),
        (
            pair(&good.certificate, &empty),
            None,
            ["empty", "no private key"],
        ),
        (
            pair(&good.certificate, &locked),
            None,
            ["locked", "password"],
        ),
        (
            pair(&good.certificate, &other.key),
            None,
            ["other.key", "good.pem"],
        ),
        (
            good.clone(),
            Some(&empty),
            ["client CA", "BEGIN CERTIFICATE"],
        ),
        (good.clone(), Some(&no_x509), ["client CA", "no_x509"]),
    ];
    for (pair, client_ca, words) in cases {
        let config = config(&pair, client_ca.map(PathBuf::as_path));
        let error = TlsIdentity::open(&config.server).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    let alone = Sources {
        flags: vec![("tls-key-file".into(), "key".into())],
        ..Sources::default()
    };
    let error = TlsIdentity::open(&ServerConfig::load(&alone).unwrap().server).unwrap_err();
    assert!(
        error.to_string().contains("tls_certificate_file"),
        "{error}"
    );
}

#[test]
fn a_handshake_that_stalls_holds_nobody_up_and_ends() {
    let authority = Authority::new();
    let pair = authority.write("server");
    let limits = ServerLimits {
        header_timeout: Duration::from_millis(300),
        ..ServerLimits::default()
    };
    let server = TestServer::with_config_and_limits(config(&pair, None), limits);
    let mut stalled = TcpStream::connect(server.address).unwrap();
    stalled.write_all(&[22, 3, 1]).unwrap();
    let client = authority.client(None, rustls::ALL_VERSIONS);
    assert!(ask(&mut client.open(server.address)).is_ok());
    stalled
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    assert_eq!(stalled.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_health_check_trusts_the_file_alone_and_has_one_limit_for_all() {
    let authority = Authority::new();
    let pair = authority.write("server");
    let own = authority.write("client");
    let server = TestServer::with_config(config(&pair, Some(&authority.ca())));
    let check = |certificate: &Path, own: Option<&Pair>| HealthCheck {
        address: server.address,
        patience: Duration::from_secs(30),
        probe: Probe::Ready,
        tls: Some(ClientTls {
            certificate: certificate.into(),
            own: own.map(|own| (own.certificate.clone(), own.key.clone())),
        }),
    };
    assert_eq!(check(&pair.certificate, Some(&own)).ask().unwrap(), Ok(()));
    assert!(check(&pair.certificate, None).ask().is_err());
    let refused = check(&own.certificate, Some(&own)).ask().unwrap_err();
    assert!(
        refused.to_string().contains("another certificate"),
        "{refused}"
    );

    // It sends a byte now and then, each well within the limit.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let dripping = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b"H").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let started = Instant::now();
    let slow = HealthCheck {
        address,
        patience: Duration::from_millis(300),
        probe: Probe::Live,
        tls: None,
    };
    assert!(slow.ask().is_err());
    assert!(started.elapsed() < Duration::from_secs(10));
    dripping.join().unwrap();
}
