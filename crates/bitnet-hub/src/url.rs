//! Addresses: whose they are, and where a redirect leads.
//!
//! Who gets to see the token is decided by comparing origins (scheme, host, port), so an address is taken apart once,
//! strictly, and what has anything odd in it is refused instead of understood.

use std::fmt::Write;

use ureq::http::Uri;

/// An absolute address of http or https.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    text: String,
    origin: Origin,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    is_encrypted: bool,
    host: String, // lower case; IPv6 in brackets
    port: u16,
}

impl Origin {
    /// Host and, where it is not the usual one, port.
    pub(crate) fn host(&self) -> String {
        match (self.is_encrypted, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether what is sent there stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']).parse();
        self.host == "localhost"
            || address.is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }
}

impl Url {
    /// Takes `text` apart; what is wrong with it where that cannot be done.
    pub(crate) fn parse(text: &str) -> Result<Url, &'static str> {
        // A fragment is the reader's and never sent.
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri = text.parse().map_err(|_| "it is no address")?;
        let (is_encrypted, usual) = match uri.scheme_str() {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => (true, 443),
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => (false, 80),
            _ => return Err("it begins with neither https:// nor http://"),
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it holds a user's name");
        }
        if authority.host().is_empty() {
            return Err("it names no host");
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => usual,
            Some(_) => authority.port_u16().ok_or("its port is no number")?,
            None => return Err("it is no address"),
        };
        Ok(Url {
            text: text.into(),
            origin: Origin {
                is_encrypted,
                host: authority.host().to_ascii_lowercase(),
                port,
            },
        })
    }

    /// As it is sent.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// This address with `path` (which begins with `/`) at its end.
    pub(crate) fn with(&self, path: &str) -> Url {
        Url {
            text: format!("{}{path}", self.text.trim_end_matches('/')),
            origin: self.origin.clone(),
        }
    }

    /// Where a redirect from here leads.
    pub(crate) fn redirected(&self, location: &str) -> Result<Url, &'static str> {
        let scheme = match self.origin.is_encrypted {
            true => "https",
            false => "http",
        };
        let url = if location.starts_with("//") {
            Url::parse(&format!("{scheme}:{location}"))?
        } else if location.starts_with('/') {
            Url::parse(&format!(
                "{scheme}://{}:{}{location}",
                self.origin.host, self.origin.port
            ))?
        } else {
            Url::parse(location)?
        };
        if self.origin.is_encrypted && !url.origin.is_encrypted {
            return Err("it leads from https to http");
        }
        Ok(url)
    }
}

/// `text` with everything percent-encoded that is not a letter, a digit or one of `-._~`, nor in `kept`.
pub(crate) fn encoded(text: &str, kept: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || (c.is_ascii() && kept.contains(c)) {
            encoded.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_after(from: &str, location: &str) -> Result<String, &'static str> {
        let to = Url::parse(from).unwrap().redirected(location)?;
        Ok(to.origin.host())
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Url::parse(text).unwrap().origin;
        assert_eq!(
            origin("https://Hub.co/a"),
            origin("https://hub.co:443/b?c#d")
        );
        for other in [
            "http://hub.co",
            "https://hub.co:8443",
            "https://hub.co.evil.com",
            "https://evil.com/hub.co",
        ] {
            assert_ne!(origin("https://hub.co"), origin(other), "{other}");
        }
        assert!(
            origin("http://127.0.0.1:8").is_loopback() && origin("http://[::1]:8").is_loopback()
        );
        assert!(!origin("http://127.0.0.1.evil.com").is_loopback());
    }

    #[test]
    fn what_is_odd_is_refused() {
        for bad in [
            "",
            "hub.co",
            "ftp://hub.co",
            "file:///etc/passwd",
            "https://",
            "https://hub.co@evil.com/",
            "https://u:p@hub.co",
            "https://hub.co:x/",
            "https://hub.co:/",
            "https://hub.co:99999/",
            "https://a b/",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects_lead_where_they_say_and_never_out_of_encryption() {
        let hub = "https://hub.co/a/b";
        assert_eq!(host_after(hub, "/c?d=e").unwrap(), "hub.co");
        assert_eq!(host_after("http://h:81/a", "/c").unwrap(), "h:81");
        assert_eq!(host_after(hub, "//cdn.co/c").unwrap(), "cdn.co");
        assert_eq!(host_after(hub, "https://cdn.co/c#x").unwrap(), "cdn.co");
        assert_eq!(host_after("http://h/", "https://hub.co").unwrap(), "hub.co");
        for bad in [
            "http://cdn.co/c",
            "c",
            "",
            "javascript:x",
            "https://hub.co@evil.com",
        ] {
            assert!(host_after(hub, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b/ö?#%.gguf", "/"), "a%20b/%C3%B6%3F%23%25.gguf");
    }
}
