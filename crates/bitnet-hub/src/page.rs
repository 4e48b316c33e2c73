//! Addresses of the Hub's pages, which users copy where a name is meant:
//! `https://HOST/OWNER/NAME[/tree/REVISION[/FOLDER]|/blob/REVISION/FILE|/resolve/REVISION/FILE]`.
//!
//! Nothing is ever fetched from such an address: it is taken apart into the names that it is made of, and only where
//! its host is the Hub's or the one of the endpoint that is set.

use crate::error::HubError;
use crate::name::HubModel;
use crate::url::Url;

/// Hosts of the Hub; the second is its own short one.
const HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];

/// What is no owner of a model at the beginning of a path.
const NO_OWNERS: [&str; 9] = [
    "api",
    "blog",
    "collections",
    "datasets",
    "docs",
    "papers",
    "settings",
    "spaces",
    "tasks",
];

/// Whether `text` is written as an address, not as a name; the Hub's own may lack `https://`.
pub(crate) fn is_address(text: &str) -> bool {
    let begins = |with: &str| {
        text.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    begins("https://") || begins("http://") || without_scheme(text).is_some()
}

/// The path behind a host of the Hub: two parts of one are no owner's and no model's names.
fn without_scheme(text: &str) -> Option<&str> {
    let path = HOSTS
        .iter()
        .find_map(|host| text.strip_prefix(host)?.strip_prefix('/'))?;
    path.contains('/').then_some(path)
}

/// The model that an address names.
///
/// # Errors
/// An address of somebody else than the Hub and `endpoint`, and a page that is none of a model.
pub(crate) fn model(text: &str, endpoint: &str) -> Result<HubModel, HubError> {
    let refused = |why: &'static str| HubError::Name {
        what: "the address of a model",
        name: text.into(),
        why,
    };
    let path = match without_scheme(text) {
        Some(path) => path,
        None => path_of(text, endpoint).map_err(refused)?,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let parts: Option<Vec<String>> = path.trim_matches('/').split('/').map(decoded).collect();
    let parts = parts.ok_or_else(|| refused("its percent signs stand for no text"))?;
    let mut parts: &[String] = &parts;
    let mut next = |n: usize| {
        let (taken, rest) = parts.split_at_checked(n)?;
        parts = rest;
        Some(taken.join("/"))
    };
    let owner = next(1).unwrap_or_default();
    if NO_OWNERS.contains(&&*owner) {
        return Err(refused("its page is none of a model"));
    }
    let name = next(1).ok_or_else(|| refused("it names no model"))?;
    let mut model: HubModel = format!("{owner}/{name}").parse()?;
    let Some(kind) = next(1) else {
        return Ok(model);
    };
    let is_file = match &*kind {
        "tree" => false,
        "blob" | "resolve" | "raw" => true,
        _ => return Err(refused("its page is none of a revision or a file")),
    };
    let mut revision = next(1).ok_or_else(|| refused("it names no revision"))?;
    // The one kind of revision that has slashes where nobody encoded them.
    if revision == "refs" {
        let rest = next(2).ok_or_else(|| refused("it names no revision"))?;
        revision = format!("{revision}/{rest}");
    }
    model.revision = Some(revision.parse()?);
    let rest = parts.join("/");
    model.pattern = match (is_file, rest.is_empty()) {
        (true, true) => return Err(refused("it names no file")),
        (false, true) => None,
        (true, false) => Some(rest),
        // The files below a folder have it in their names.
        (false, false) => Some(format!("{rest}/")),
    };
    Ok(model)
}

/// The path of an address on the Hub's hosts, or below the endpoint.
fn path_of<'a>(text: &'a str, endpoint: &str) -> Result<&'a str, &'static str> {
    const NOT_THE_HUBS: &str =
        "its host is neither the Hub's (huggingface.co, hf.co) nor the one of HF_ENDPOINT";
    let url = Url::parse(text)?;
    let (_, rest) = text.split_once("://").ok_or("it is no address")?;
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    if let Ok(endpoint) = Url::parse(endpoint)
        && endpoint.origin() == url.origin()
    {
        // A mirror may be a folder of its host.
        let (_, below) = endpoint.as_str().split_once("://").unwrap_or_default();
        let below = below.split_once('/').map_or("", |(_, path)| path);
        let below = below.trim_matches('/');
        return match path.strip_prefix(below) {
            Some(path) if below.is_empty() || path.starts_with('/') => Ok(path),
            _ => Err(NOT_THE_HUBS),
        };
    }
    match HOSTS.contains(&&*url.origin().host()) {
        true => Ok(path),
        false => Err(NOT_THE_HUBS),
    }
}

/// A part of a path without its percent signs; `None` where they stand for no text.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match first {
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                &after[2..]
            }
            byte => {
                bytes.push(*byte);
                after
            }
        };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "https://huggingface.co";

    #[test]
    fn addresses_of_pages_are_the_names_that_they_are_made_of() {
        for (address, name) in [
            ("https://huggingface.co/o/n", "o/n"),
            ("https://huggingface.co/o/n/", "o/n"),
            ("http://HF.co/o/n?library=x#readme", "o/n"),
            ("hf.co/o/n", "o/n"),
            ("hf.co/o/n:Q2_0", "o/n:Q2_0"),
            ("https://hf.co/o/n/tree/main", "o/n@main"),
            ("https://hf.co/o/n/tree/v1.0/Q2_0", "o/n:Q2_0/@v1.0"),
            ("https://hf.co/o/n/tree/refs%2Fpr%2F1", "o/n@refs/pr/1"),
            ("https://hf.co/o/n/tree/refs/pr/1", "o/n@refs/pr/1"),
            (
                "https://hf.co/o/n/blob/main/a/m%20b.gguf",
                "o/n:a/m b.gguf@main",
            ),
            (
                "https://hf.co/o/n/resolve/main/m.gguf?download=true",
                "o/n:m.gguf@main",
            ),
        ] {
            assert!(is_address(address), "{address}");
            assert_eq!(model(address, HUB).unwrap().to_string(), name, "{address}");
        }
        for name in ["o/n", "hf.co/n", "huggingface.co/n", "hf:o/n", "httpx/n"] {
            assert!(!is_address(name), "{name}");
        }
    }

    #[test]
    fn addresses_of_others_and_of_other_pages_are_refused() {
        for (address, why) in [
            ("https://evil.example/o/n", "neither the Hub's"),
            (
                "https://huggingface.co.evil.example/o/n",
                "neither the Hub's",
            ),
            ("https://huggingface.co:8443/o/n", "neither the Hub's"),
            ("https://huggingface.co@evil.example/o/n", "a user's name"),
            ("https://huggingface.co/datasets/o/n", "none of a model"),
            ("https://huggingface.co/o", "it names no model"),
            ("https://huggingface.co/", "it names no model"),
            (
                "https://huggingface.co/o/n/discussions",
                "none of a revision",
            ),
            ("https://huggingface.co/o/n/tree", "no revision"),
            ("https://huggingface.co/o/n/tree/refs/pr", "no revision"),
            ("https://huggingface.co/o/n/blob/main", "no file"),
            ("https://huggingface.co/o/n/blob/main/%zz", "percent"),
            ("https://huggingface.co/o/n/tree/..", "do not begin with"),
            ("https://huggingface.co/../n", "neither begin nor end"),
        ] {
            let error = model(address, HUB).unwrap_err().to_string();
            assert!(error.contains(why), "{address}: {error}");
        }
    }

    #[test]
    fn a_mirrors_addresses_are_taken_where_it_is_the_endpoint() {
        let at_mirror =
            |address: &str, endpoint: &str| model(address, endpoint).map(|model| model.to_string());
        let mirror = "http://127.0.0.1:80/hub/";
        assert_eq!(
            at_mirror("http://127.0.0.1/hub/o/n", mirror).unwrap(),
            "o/n"
        );
        at_mirror("http://127.0.0.1/o/n", mirror).unwrap_err();
        at_mirror("http://127.0.0.1/hubbub/o/n", mirror).unwrap_err();
        at_mirror("https://127.0.0.1/hub/o/n", mirror).unwrap_err();
        // Pages of the Hub stay names, whoever is asked for them.
        assert_eq!(at_mirror("https://hf.co/o/n", mirror).unwrap(), "o/n");
    }
}
