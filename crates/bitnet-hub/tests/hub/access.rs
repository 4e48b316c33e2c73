//! Who gets to see the token, and what is said where there is no access.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use bitnet_hub::HubError;

use crate::fake_hub::{FakeHub, Trouble};
use crate::pulled::Client;

const FILE: (&str, &[u8]) = ("m.gguf", b"weights");

fn tokens(hub: &FakeHub) -> Vec<Option<String>> {
    hub.seen()
        .iter()
        .map(|seen| seen.headers.get("authorization").cloned())
        .collect()
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_where_it_redirects() {
    let (hub, storage) = (FakeHub::start(), FakeHub::start());
    for server in [&hub, &storage] {
        server.has("o/n", &[FILE]);
    }
    hub.has_trouble(
        "o/n",
        "m.gguf",
        [FakeHub::redirect(&storage, "o/n", "m.gguf")],
    );
    let client = Client::with_token(&hub, "secret");
    assert_eq!(client.content("o/n"), FILE.1);
    let shown = Some("Bearer secret".to_owned());
    assert_eq!(tokens(&hub), [shown.clone(), shown]);
    assert_eq!(tokens(&storage), [None]);
    assert!(
        storage
            .seen()
            .iter()
            .all(|seen| !format!("{seen:?}").contains("secret"))
    );
}

#[test]
fn nothing_is_shown_without_a_token() {
    let hub = FakeHub::start();
    hub.has("o/n", &[FILE]);
    assert_eq!(Client::of(&hub).content("o/n"), FILE.1);
    assert_eq!(tokens(&hub), [None, None]);
}

#[test]
fn a_renamed_repository_is_followed_on_its_own_host_with_the_token() {
    let hub = FakeHub::start();
    hub.has("o/n", &[FILE]);
    let to = "/api/models/o/n/revision/main?blobs=true".to_owned();
    hub.has_trouble("o/old", "", [Trouble::Status(307, vec![("Location", to)])]);
    let client = Client::with_token(&hub, "secret");
    hub.has_trouble(
        "o/old",
        "m.gguf",
        [FakeHub::redirect(&hub, "o/n", "m.gguf")],
    );
    assert_eq!(client.content("o/old"), FILE.1);
    assert!(tokens(&hub).iter().all(Option::is_some));
}

#[test]
fn redirects_to_nowhere_and_in_circles_end() {
    let hub = FakeHub::start();
    hub.has("o/n", &[FILE]);
    let client = Client::of(&hub);
    for location in [
        "file:///etc/passwd",
        "",
        "relative",
        "http://user@127.0.0.1/",
    ] {
        hub.has_trouble(
            "o/n",
            "m.gguf",
            [Trouble::Status(302, vec![("Location", location.into())])],
        );
        let error = client.pull("o/n").unwrap_err();
        assert!(
            matches!(error, HubError::Redirect { .. }),
            "{location}: {error}"
        );
    }
    hub.has_trouble(
        "o/n",
        "m.gguf",
        vec![FakeHub::redirect(&hub, "o/n", "m.gguf"); 20],
    );
    let error = client.pull("o/n").unwrap_err();
    assert!(error.to_string().contains("again and again"), "{error}");
}

/// A port on which whoever comes is told something that is not TLS.
fn not_encrypted() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that has gone already fails as well.
            let _ = (&stream).write_all(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n");
        }
    });
    address
}

#[test]
fn encryption_that_only_a_redirect_or_a_proxy_asks_for_fails_without_harm() {
    let (hub, address) = (FakeHub::start(), not_encrypted());
    hub.has("o/n", &[FILE]);
    let location = format!("https://{address}/m.gguf");
    let redirect = Trouble::Status(302, vec![("Location", location)]);
    hub.has_trouble("o/n", "m.gguf", vec![redirect; 10]);
    let error = Client::of(&hub).pull("o/n").unwrap_err();
    assert!(
        matches!(&error, HubError::Unreachable { host, .. } if *host == address.to_string()),
        "{error}"
    );
    let mut client = Client::of(&hub);
    client.settings.endpoint = "http://hub.invalid".into();
    client.settings.proxy = Some(format!("https://{address}"));
    let error = client.pull("o/n").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[test]
fn a_proxy_that_refuses_is_asked_once_and_named() {
    let proxy = FakeHub::start();
    let mut client = Client::of(&proxy);
    client.settings.endpoint = "https://hub.invalid".into();
    // It knows no CONNECT, and answers with a status of 4xx.
    client.settings.proxy = Some(proxy.url());
    let error = client.pull("o/n").unwrap_err();
    let address = proxy.url().trim_start_matches("http://").to_owned();
    assert!(
        matches!(&error, HubError::Proxy { proxy, status: 400..=499 } if *proxy == address),
        "{error}"
    );
    assert!(client.record.waits.lock().unwrap().is_empty());
    // Nobody listens on the first port of all.
    client.settings.proxy = Some("http://127.0.0.1:1".into());
    let error = client.pull("o/n").unwrap_err().to_string();
    let told = "the proxy 127.0.0.1:1 cannot be reached: the connection is refused";
    assert_eq!(error, told);
}

#[test]
fn a_hub_on_this_machine_is_asked_without_a_proxy() {
    let (hub, proxy) = (FakeHub::start(), FakeHub::start());
    hub.has("o/n", &[FILE]);
    let mut client = Client::with_token(&hub, "secret");
    client.settings.proxy = Some(proxy.url());
    assert_eq!(client.content("o/n"), FILE.1);
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
}

#[test]
fn a_gated_repository_says_where_access_is_asked_for() {
    let hub = FakeHub::start();
    hub.has("o/n", &[FILE]);
    let gated = |status| Trouble::Status(status, vec![("X-Error-Code", "GatedRepo".into())]);
    hub.has_trouble("o/n", "m.gguf", [gated(401), gated(403)]);
    let error = Client::of(&hub).pull("o/n").unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Gated {
                token_shown: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.hint().contains(&format!("{}/o/n", hub.url())) && error.hint().contains("HF_TOKEN"),
        "{}",
        error.hint()
    );
    let error = Client::with_token(&hub, "secret").pull("o/n").unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Gated {
                token_shown: true,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.hint().contains("account of the token"),
        "{}",
        error.hint()
    );
    // Nobody asks twice where the answer will be the same.
    assert_eq!(hub.offsets("m.gguf").len(), 2);
}

#[test]
fn a_403_is_a_gate_only_where_the_hub_says_so() {
    let hub = FakeHub::start();
    hub.has("o/n", &[FILE]);
    let refused = |name: &str, client: &Client, hint: &str| {
        hub.has_trouble("o/n", name, [Trouble::Status(403, Vec::new())]);
        let error = client.pull("o/n").unwrap_err();
        assert!(matches!(error, HubError::Forbidden { .. }), "{error}");
        assert!(
            error.hint().contains("firewall") && error.hint().contains(hint),
            "{}",
            error.hint()
        );
    };
    for name in ["", "m.gguf"] {
        refused(name, &Client::of(&hub), "in HF_TOKEN");
        refused(name, &Client::with_token(&hub, "secret"), "the token may");
    }
}

#[test]
fn a_401_is_a_wrong_token_or_something_private() {
    let hub = FakeHub::start();
    hub.has("o/n", &[FILE]);
    hub.has_trouble("o/n", "", vec![Trouble::Status(401, Vec::new()); 2]);
    let error = Client::with_token(&hub, "old").pull("o/n").unwrap_err();
    assert!(matches!(error, HubError::Token { .. }), "{error}");
    let error = Client::of(&hub).pull("o/n").unwrap_err();
    assert!(
        error.to_string().contains("private") && error.hint().contains("HF_TOKEN"),
        "{error}"
    );
}

#[test]
fn a_storage_that_refuses_is_not_taken_for_the_hub() {
    let (hub, storage) = (FakeHub::start(), FakeHub::start());
    hub.has("o/n", &[FILE]);
    hub.has_trouble(
        "o/n",
        "m.gguf",
        [FakeHub::redirect(&storage, "o/n", "m.gguf")],
    );
    let refusal = Trouble::Status(403, vec![("X-Error-Code", "GatedRepo".into())]);
    storage.has_trouble("o/n", "m.gguf", [refusal]);
    let error = Client::with_token(&hub, "secret").pull("o/n").unwrap_err();
    assert!(
        matches!(error, HubError::Status { status: 403, .. }),
        "{error}"
    );
}
