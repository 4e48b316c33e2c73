//! Why no answer came: nobody to talk to, a proxy that refuses, or a connection that broke.

use ureq::{Proxy, Timeout};

use crate::error::HubError;
use crate::patience::Fault;
use crate::url::{Origin, Url};

/// Whether `NO_PROXY` says that the proxy is not asked.
pub(crate) fn is_excepted(proxy: &Proxy, url: &Url) -> bool {
    url.as_str()
        .parse()
        .is_ok_and(|uri| proxy.is_no_proxy(&uri))
}

/// No connection, or one that broke, where `proxy` was asked for it.
pub(crate) fn no_answer(origin: &Origin, proxy: Option<&Proxy>, error: &ureq::Error) -> Fault {
    let named = proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
    if let ureq::Error::ConnectProxyFailed(why) = error {
        let proxy = named.unwrap_or_default();
        return match status_of_proxy(why) {
            Some(status @ 400..=499) => Fault::Lasting(HubError::Proxy { proxy, status }),
            _ => Fault::passing(HubError::NoConnection {
                host: origin.host(),
                why: format!("the proxy {proxy} makes no connection ({why})"),
            }),
        };
    }
    let host = origin.host();
    let error_is_lasting = matches!(error, ureq::Error::Rustls(_) | ureq::Error::Tls(_));
    let error = match no_connection(error) {
        Some(why) => HubError::NoConnection {
            // Nobody else is called, and whom the proxy cannot reach it tells itself.
            host: named.map_or(host, |proxy| format!("the proxy {proxy}")),
            why: why.into(),
        },
        None => HubError::Unreachable {
            host,
            why: match error {
                ureq::Error::Timeout(_) => "it does not answer in time".into(),
                error => error.to_string(),
            },
        },
    };
    match error_is_lasting {
        true => Fault::Lasting(error),
        false => Fault::passing(error),
    }
}

/// The number that a proxy answers, in `proxy server responded 407/407`: the client has it as a text alone.
fn status_of_proxy(why: &str) -> Option<u16> {
    why.rsplit([' ', '/']).next()?.parse().ok()
}

/// Why no connection came about, where that is what went wrong.
fn no_connection(error: &ureq::Error) -> Option<&'static str> {
    use std::io::ErrorKind;
    /// How the standard library begins what it says of a name without an address; it has no kind for that.
    const NO_ADDRESS: &str = "failed to lookup address information";
    const UNKNOWN: &str = "no such host is known";
    match error {
        ureq::Error::HostNotFound => Some(UNKNOWN),
        ureq::Error::ConnectionFailed => Some("nobody takes the connection"),
        ureq::Error::Timeout(Timeout::Resolve) => Some("nobody tells its address in time"),
        ureq::Error::Timeout(Timeout::Connect) => Some("nobody takes the connection in time"),
        ureq::Error::Io(e) => match e.kind() {
            ErrorKind::ConnectionRefused => Some("the connection is refused"),
            ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable => Some("no way leads to it"),
            ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Some("there is no network"),
            // On Windows, which says so in the user's language: WSAHOST_NOT_FOUND, WSATRY_AGAIN, WSANO_RECOVERY and
            // WSANO_DATA. No other system has numbers as high.
            _ if matches!(e.raw_os_error(), Some(11001..=11004)) => Some(UNKNOWN),
            _ if e.to_string().starts_with(NO_ADDRESS) => Some(UNKNOWN),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_does_not_come_about_is_told_from_one_that_breaks() {
        use std::io::{Error, ErrorKind};
        let no_connection = |error| no_connection(&error).is_some();
        for error in [
            ureq::Error::HostNotFound,
            ureq::Error::Timeout(Timeout::Connect),
            ureq::Error::Timeout(Timeout::Resolve),
            Error::from(ErrorKind::AddrNotAvailable).into(),
            Error::from_raw_os_error(11001).into(),
            Error::from(ErrorKind::ConnectionRefused).into(),
            Error::from(ErrorKind::NetworkUnreachable).into(),
            Error::other("failed to lookup address information: Try again").into(),
        ] {
            assert!(no_connection(error));
        }
        for error in [
            ureq::Error::Timeout(Timeout::RecvResponse),
            Error::from(ErrorKind::ConnectionReset).into(),
            Error::from(ErrorKind::UnexpectedEof).into(),
        ] {
            assert!(!no_connection(error));
        }
    }

    #[test]
    fn what_a_proxy_refuses_lasts_and_what_it_cannot_reach_may_come_back() {
        let url = Url::parse("https://hub.example/").unwrap();
        let proxy = Proxy::new("http://name:secret@proxy.example:3128").unwrap();
        let told = |error| no_answer(url.origin(), Some(&proxy), &error);
        let refused = |text: &str| {
            told(ureq::Error::ConnectProxyFailed(format!(
                "it responded {text}"
            )))
        };
        for status in [403, 407] {
            let fault = refused(&format!("{status}/{status}"));
            let Fault::Lasting(error @ HubError::Proxy { .. }) = fault else {
                panic!("{fault:?}");
            };
            let text = format!("{error}; {}", error.hint());
            assert!(
                text.contains("proxy.example:3128") && text.contains("HTTPS_PROXY"),
                "{text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
        for (fault, host) in [
            (refused("502/502"), "hub.example"),
            (refused("nothing"), "hub.example"),
            (
                told(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()),
                "the proxy proxy.example:3128",
            ),
        ] {
            assert!(
                matches!(&fault, Fault::Passing { error: HubError::NoConnection { host: found, .. }, .. }
                    if found == host),
                "{fault:?}"
            );
        }
        let spared = Proxy::builder(ureq::ProxyProtocol::Http)
            .host("proxy.example")
            .no_proxy("hub.example")
            .build()
            .unwrap();
        assert!(is_excepted(&spared, &url) && !is_excepted(&proxy, &url));
    }
}
