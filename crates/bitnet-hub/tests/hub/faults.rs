//! Each thing that a server or the network can do wrong, once, and for ever.

use std::time::Duration;

use bitnet_hub::HubError;
use serde_json::json;

use crate::fake_hub::{COMMIT, FakeHub, Trouble, noise};
use crate::pulled::Client;

const SIZE: usize = 1_000_000;

/// A hub that has trouble with its one model, and a client.
fn with(troubles: impl IntoIterator<Item = Trouble>) -> (FakeHub, Client, Vec<u8>) {
    let (hub, bytes) = (FakeHub::start(), noise(SIZE, 1));
    hub.has("o/n", &[("m.gguf", &bytes)]);
    hub.has_trouble("o/n", "m.gguf", troubles);
    let client = Client::of(&hub);
    (hub, client, bytes)
}

fn status(status: u16) -> Trouble {
    Trouble::Status(status, Vec::new())
}

fn waits(client: &Client) -> Vec<u64> {
    client
        .record
        .waits
        .lock()
        .unwrap()
        .iter()
        .map(|(wait, _)| *wait)
        .collect()
}

#[test]
fn a_file_arrives_whole() {
    let (hub, client, bytes) = with([]);
    assert!(client.content("o/n") == bytes);
    assert_eq!(hub.sent(), SIZE as u64);
    assert_eq!(waits(&client), [0u64; 0]);
}

#[test]
fn a_cut_connection_goes_on_where_it_was_cut() {
    let (hub, client, bytes) = with([Trouble::Cut(400_000), Trouble::Cut(0), Trouble::Cut(1)]);
    assert!(client.content("o/n") == bytes);
    assert_eq!(hub.offsets("m.gguf"), [0, 400_000, 400_000, 400_001]);
    assert_eq!(hub.sent(), SIZE as u64);
}

#[test]
fn a_server_that_falls_silent_is_asked_again() {
    let (hub, mut client, bytes) = with([Trouble::Stall(300_000)]);
    client.settings.silence = Duration::from_secs(1);
    assert!(client.content("o/n") == bytes);
    // On a slow machine more than this answer may seem silent.
    let offsets = hub.offsets("m.gguf");
    assert!(
        offsets.len() >= 2 && offsets[0] == 0 && offsets[1] <= 300_000,
        "{offsets:?}"
    );
    let waits = client.record.waits.lock().unwrap();
    assert!(waits[0].1.contains("127.0.0.1"), "{waits:?}");
}

#[test]
fn a_429_is_waited_out_as_long_as_it_says() {
    let retry = |name: &'static str, value: &str| Trouble::Status(429, vec![(name, value.into())]);
    let (_hub, client, bytes) = with([
        retry("Retry-After", "7"),
        retry("RateLimit", "\"resolve\";r=0;t=55"),
        status(429),
        retry("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"),
    ]);
    assert!(client.content("o/n") == bytes);
    let waits = waits(&client);
    assert_eq!(waits[..2], [7, 55]);
    assert!(
        (4..=5).contains(&waits[2]) && (8..=10).contains(&waits[3]),
        "{waits:?}"
    );
}

#[test]
fn a_429_that_asks_for_an_hour_ends_the_pull() {
    let (_hub, client, _) = with([Trouble::Status(429, vec![("Retry-After", "3600".into())])]);
    let error = client.pull("o/n").unwrap_err();
    assert!(
        matches!(&error, HubError::Busy { wait, .. } if wait.as_secs() == 3600),
        "{error}"
    );
}

#[test]
fn a_500_is_asked_again_and_not_for_ever() {
    let (hub, client, bytes) = with([500, 502, 503, 504, 520, 599].map(status));
    assert!(client.content("o/n") == bytes);
    assert_eq!(hub.offsets("m.gguf").len(), 7);
    for lasting in [501, 505] {
        let (hub, client, _) = with([status(lasting)]);
        client.pull("o/n").unwrap_err();
        assert_eq!(hub.offsets("m.gguf").len(), 1, "{lasting}");
    }
    let (hub, client, _) = with(vec![status(500); 100]);
    let error = client.pull("o/n").unwrap_err();
    assert!(
        matches!(error, HubError::Status { status: 500, .. }),
        "{error}"
    );
    assert_eq!(hub.offsets("m.gguf").len(), 7);
    assert_eq!(waits(&client).len(), 6);
}

#[test]
fn a_500_of_the_api_is_asked_again() {
    let (hub, client, bytes) = with([]);
    hub.has_trouble("o/n", "", [status(500), status(429)]);
    assert!(client.content("o/n") == bytes);
    assert_eq!(waits(&client).len(), 2);
}

#[test]
fn wrong_bytes_are_fetched_once_more_and_never_taken_over() {
    let damaged = "m.gguf came over the network damaged: its checksum is ";
    let (hub, client, bytes) = with([Trouble::Wrong]);
    assert!(client.content("o/n") == bytes);
    assert_eq!(hub.offsets("m.gguf"), [0, 0]);
    client.was_told_anew(&[damaged]);
    let (hub, client, _) = with(vec![Trouble::Wrong; 10]);
    let error = client.pull("o/n").unwrap_err();
    assert!(error.to_string().starts_with(damaged), "{error}");
    // The second one is the end, and nothing is downloaded anew.
    client.was_told_anew(&[damaged]);
    assert_eq!(hub.offsets("m.gguf"), [0, 0]);
    assert_eq!(client.names("blobs"), [""; 0]);
    assert_eq!(client.names("snapshots"), [""; 0]);
}

#[test]
fn bytes_beyond_the_size_are_not_taken() {
    for more in [
        Trouble::More(10),
        Trouble::MoreUnannounced(10),
        Trouble::MoreUnannounced(1 << 20),
    ] {
        let (hub, client, bytes) = with([more.clone()]);
        assert!(client.content("o/n") == bytes, "{more:?}");
        assert_eq!(hub.offsets("m.gguf"), [0, 0], "{more:?}");
        let (_hub, client, _) = with(vec![more.clone(); 10]);
        let error = client.pull("o/n").unwrap_err();
        assert!(
            matches!(error, HubError::Length { .. }),
            "{more:?}: {error}"
        );
        assert_eq!(client.names("blobs"), [""; 0], "{more:?}");
    }
}

#[test]
fn a_length_that_lies_costs_a_further_request_at_most() {
    let (hub, client, bytes) = with([Trouble::Short(1000)]);
    assert!(client.content("o/n") == bytes);
    assert_eq!(hub.offsets("m.gguf"), [0, SIZE as u64 - 1000]);
    // More than the file has: not even the first byte is read.
    let (hub, client, bytes) = with([Trouble::Long(1000)]);
    assert!(client.content("o/n") == bytes);
    assert_eq!(hub.offsets("m.gguf"), [0, 0]);
}

#[test]
fn a_file_that_changes_on_the_way_is_begun_anew() {
    let (hub, client, bytes) = with([Trouble::Cut(500_000), Trouble::Tag("\"other\"")]);
    assert!(client.content("o/n") == bytes);
    // The tag was sent along, so the server itself started over.
    assert_eq!(hub.offsets("m.gguf"), [0, 500_000]);
    client.was_told_anew(&["sends m.gguf from its beginning"]);
    let versions: Vec<_> = hub
        .seen()
        .iter()
        .filter_map(|seen| seen.headers.get("if-range").cloned())
        .collect();
    assert_eq!(versions.len(), 1);
    assert_eq!(hub.sent(), 1_500_000);
}

#[test]
fn servers_without_ranges_and_with_wrong_ones_are_noticed() {
    for odd in [Trouble::NoRange, Trouble::OtherRange] {
        let (hub, client, bytes) = with([Trouble::Cut(500_000), odd.clone()]);
        assert!(client.content("o/n") == bytes, "{odd:?}");
        let why = match odd {
            Trouble::NoRange => "sends m.gguf from its beginning",
            _ => "it sends another part than the one asked for",
        };
        client.was_told_anew(&[why]);
        assert!(hub.offsets("m.gguf").len() <= 3, "{odd:?}");
    }
}

#[test]
fn a_404_says_what_is_not_there() {
    let (hub, client, _) = with([status(404)]);
    let error = client.pull("o/n").unwrap_err();
    assert!(
        matches!(error, HubError::Status { status: 404, .. })
            && error.to_string().contains("m.gguf"),
        "{error}"
    );
    let error = client.pull("o/other").unwrap_err();
    assert!(matches!(error, HubError::NoRepository { .. }), "{error}");
    hub.has_trouble(
        "o/n",
        "",
        [Trouble::Status(
            404,
            vec![("X-Error-Code", "RevisionNotFound".into())],
        )],
    );
    let error = client.pull("o/n").unwrap_err();
    assert!(matches!(error, HubError::NoRevision { .. }), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_told_by_its_address() {
    let hub = FakeHub::start();
    let client = Client::of(&hub);
    let url = hub.url();
    // Nothing listens once the thread has accepted the last connection and ended.
    drop(hub);
    // Another test's server may have the port by then; it has no repository of this name.
    let error = client.pull("nobody/has-this").unwrap_err().to_string();
    assert!(error.contains(url.trim_start_matches("http://")), "{error}");
}

#[test]
fn where_nobody_takes_the_connection_little_time_is_lost() {
    let mut client = Client::of(&FakeHub::start());
    // Nobody listens on the first port of all.
    client.settings.endpoint = "http://127.0.0.1:1".into();
    let error = client.pull("o/n").unwrap_err();
    assert!(matches!(error, HubError::NoConnection { .. }), "{error}");
    assert!(error.hint().contains("bitnet list"), "{}", error.hint());
    assert_eq!(waits(&client), [1, 2]);
}

#[test]
fn a_web_page_is_no_answer_and_no_file() {
    let (hub, client, _) = with([Trouble::WebPage]);
    let is_page = |error: HubError| {
        assert!(matches!(error, HubError::WebPage { .. }), "{error}");
        assert!(error.hint().contains("login"), "{}", error.hint());
    };
    is_page(client.pull("o/n").unwrap_err());
    for trouble in [Trouble::WebPage, status(511)] {
        hub.has_trouble("o/n", "", [trouble]);
        is_page(client.pull("o/n").unwrap_err());
    }
    hub.answers("o/n", "main", 200, "\n <!DOCTYPE html>");
    is_page(client.pull("o/n").unwrap_err());
    assert_eq!(hub.offsets("m.gguf").len(), 1);
}

#[test]
fn answers_that_are_none_are_refused() {
    let (hub, client, _) = with([]);
    for answer in ["", "{}", r#"{"sha": "../../x"}"#, &"[".repeat(1 << 20)] {
        hub.answers("o/n", "main", 200, answer);
        let error = client.pull("o/n").unwrap_err();
        assert!(matches!(error, HubError::Answer { .. }), "{error}");
    }
}

#[test]
fn a_size_beyond_the_disk_is_refused_before_anything_is_asked_for() {
    let (hub, client, _) = with([]);
    let file =
        |size: u64| json!({"rfilename": "m.gguf", "lfs": {"sha256": "1".repeat(64), "size": size}});
    let refusal = |size| {
        let answer = json!({"sha": COMMIT, "siblings": [file(size)]});
        hub.answers("o/n", "main", 200, &answer.to_string());
        client.pull("o/n").unwrap_err()
    };
    let error = refusal(1 << 44);
    assert!(matches!(error, HubError::Space { .. }), "{error}");
    for size in [u64::MAX, 1 << 60] {
        // No file at all.
        let error = refusal(size);
        assert!(matches!(error, HubError::NoModel { .. }), "{error}");
    }
    assert_eq!(hub.offsets("m.gguf"), [0u64; 0]);
    assert!(!client.repository().exists());
}

#[test]
fn names_that_lead_out_of_the_cache_are_never_asked_for() {
    let (hub, client, _) = with([]);
    let file = |name: &str| json!({"rfilename": name, "size": 1, "blobId": "1".repeat(40)});
    for name in [
        "../../../evil.gguf",
        "/tmp/evil.gguf",
        "a/../../evil.gguf",
        "..\\evil.gguf",
        "C:\\evil.gguf",
    ] {
        let answer = json!({"sha": COMMIT, "siblings": [file(name)]});
        hub.answers("o/n", "main", 200, &answer.to_string());
        let error = client.pull("o/n").unwrap_err();
        assert!(matches!(error, HubError::NoModel { .. }), "{name}: {error}");
        let error = client.pull(&format!("o/n:{name}")).unwrap_err();
        assert!(matches!(error, HubError::NoModel { .. }), "{name}: {error}");
    }
    assert_eq!(
        hub.seen()
            .iter()
            .filter(|seen| seen.path.contains("resolve"))
            .count(),
        0
    );
}
