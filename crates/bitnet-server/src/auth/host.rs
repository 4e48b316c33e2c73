//! Against web pages that talk to a server on the reader's own machine.
//!
//! A page of `evil.example` can make its name point to 127.0.0.1 (DNS rebinding) and then reads whatever the server
//! answers; the `Host` header still has the page's name. A page can also send simple requests across origins without
//! reading the answer; browsers mark those by `Sec-Fetch-Site` and `Origin`.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Uri, header};

use super::bind::is_loopback;

/// Whether a request that reached a loopback address was meant for it: its host is `localhost`, a loopback address, or
/// one of `allowed`.
pub fn is_allowed(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        // Two hosts: whoever reads the other one is fooled.
        (Some(_), Some(_)) => None,
        // HTTP/2 has it in the URI.
        (None, _) => uri.authority().map(|authority| authority.as_str()),
    };
    named.is_some_and(|host| is_local(host, allowed))
}

/// The one origin that a request names, if it is one of `allowed`.
pub fn listed_origin<'a>(headers: &'a HeaderMap, allowed: &[String]) -> Option<&'a HeaderValue> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next().filter(|_| origins.next().is_none())?;
    let listed = |name: &String| name.as_bytes() == origin.as_bytes();
    allowed.iter().any(listed).then_some(origin)
}

/// Whether a browser sent the request for a page of another origin, the pages of `origins` apart.
pub fn is_cross_site(headers: &HeaderMap, allowed: &[String], origins: &[String]) -> bool {
    if listed_origin(headers, origins).is_some() {
        return false;
    }
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if text("sec-fetch-site").is_some_and(|site| !["same-origin", "none"].contains(&site)) {
        return true;
    }
    let of_page = |origin: &str| {
        let host = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        !host.is_some_and(|host| is_local(host, allowed))
    };
    text("origin").is_some_and(of_page)
}

fn is_local(authority: &str, allowed: &[String]) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_end_matches('.');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(is_loopback)
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(host))
}
