//! `docs/config.md`, `docs/metrics.md` and `docs/errors.md` list what the code has, each once and with the same words;
//! the shipped alert rules ask for metrics that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitnet_server::config::settings::{Applies, SETTINGS};
use bitnet_server::config::{ServerConfig, Sources};
use bitnet_server::error::code::ERRORS;
use bitnet_server::metrics::table::{Kind, METRICS};
use bitnet_server::unsupported::WITHOUT_EFFECT;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The rows of the document's tables that begin with a name in code are exactly these.
fn assert_rows(path: &str, expected: &[String]) {
    let text = read(path);
    let found: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert!(
        found == expected,
        "the rows of {path} must be:\n{}",
        expected.join("\n")
    );
}

#[test]
fn the_document_lists_every_setting() {
    let defaults = ServerConfig::default();
    let rows: Vec<String> = SETTINGS
        .iter()
        .map(|setting| {
            let applies = match setting.applies {
                Applies::Restart => "restart",
                Applies::Reload => "reload",
            };
            format!(
                "| `{}` | `{}` | {} | {applies} | {} |",
                setting.key(),
                setting.value(&defaults),
                setting.expected(),
                setting.meaning()
            )
        })
        .collect();
    assert_rows("docs/config.md", &rows);
}

#[test]
fn the_document_lists_every_metric() {
    let rows: Vec<String> = METRICS
        .iter()
        .map(|metric| {
            let labels = metric.labels.join(", ");
            format!(
                "| `{}` | {} | {labels} | {} |",
                metric.name,
                metric.kind.name(),
                metric.help
            )
        })
        .collect();
    assert_rows("docs/metrics.md", &rows);
}

#[test]
fn the_document_lists_every_error() {
    let rows: Vec<String> = ERRORS
        .iter()
        .map(|row| {
            let again = if row.code.is_retryable() { "yes" } else { "no" };
            let (status, meaning) = (row.status.as_u16(), row.meaning());
            format!(
                "| `{}` | {status} | {again} | {} | {meaning} | {} |",
                row.name, row.kind, row.hint
            )
        })
        .collect();
    assert_rows("docs/errors.md", &rows);
}

/// All Rust sources under a folder, in one text, and the names of the files.
fn sources(folder: &Path, text: &mut String, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" {
            sources(&path, text, files);
        } else if name.ends_with(".rs") && !name.starts_with('.') {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
            files.insert(name);
        }
    }
}

/// What the rows of a document's table that begins with `header` name in their last cell are tests that exist, or fuzz
/// targets, which have a file. How many each row names.
fn assert_tests(path: &str, header: &str) -> Vec<usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut tests, mut files) = (String::new(), BTreeSet::new());
    sources(&root.join("crates"), &mut tests, &mut files);
    files.clear();
    sources(
        &root.join("fuzz/fuzz_targets"),
        &mut String::new(),
        &mut files,
    );
    let text = read(path);
    let (_, table) = text.split_once(header).expect("the table is there");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names = last.split('`').skip(1).step_by(2);
        names
            .inspect(|name| {
                let is_test = tests.contains(&format!("#[test]\nfn {name}("))
                    || tests.contains(&format!("#[test]\n    fn {name}("));
                assert!(is_test || files.contains(*name), "{name} is no test");
            })
            .count()
    })
    .collect()
}

#[test]
fn tests_that_the_security_document_names_exist() {
    let n_names: usize = assert_tests("docs/security.md", "| attack |").iter().sum();
    assert!(n_names > 40, "{n_names} names were found");
}

#[test]
fn every_dialect_and_every_family_has_tests_but_the_one_that_is_called_unproven() {
    let dialects = assert_tests("docs/formats.md", "| dialect |");
    assert!(
        dialects.len() >= 16 && !dialects.contains(&0),
        "{dialects:?}"
    );
    let families = assert_tests("docs/formats.md", "| family or option |");
    let unproven = read("docs/formats.md").matches("| unproven: ").count();
    let untested = families.iter().filter(|n_tests| **n_tests == 0).count();
    assert!(families.len() >= 8, "{families:?}");
    assert_eq!(untested, unproven, "{families:?}");
}

#[test]
fn tests_that_hold_limits_and_faults_of_serving_exist() {
    for header in [
        "| what | limit | past it | tests |",
        "| fault | outcome | tests |",
    ] {
        let n_names = assert_tests("docs/serving.md", header);
        assert!(n_names.len() >= 18, "{} rows below {header}", n_names.len());
        assert!(!n_names.contains(&0), "a row without a test: {n_names:?}");
    }
}

#[test]
fn the_document_lists_every_field_without_effect() {
    let text = read("docs/serving.md");
    let begin = "| field | why nothing is lost |\n|---|---|\n";
    let (_, table) = text.split_once(begin).expect("the table is there");
    let (table, _) = table.split_once("\n\n").expect("something follows it");
    let rows: Vec<String> = WITHOUT_EFFECT
        .iter()
        .map(|(name, why)| format!("| `{name}` | {why} |"))
        .collect();
    assert_eq!(table, rows.join("\n"));
}

#[test]
fn alert_rules_ask_for_metrics_that_exist() {
    let samples: BTreeSet<String> = METRICS
        .iter()
        .flat_map(|metric| match metric.kind {
            Kind::Histogram(_) => ["_bucket", "_sum", "_count"]
                .map(|suffix| format!("{}{suffix}", metric.name))
                .to_vec(),
            _ => vec![metric.name.to_owned()],
        })
        .collect();
    let rules = read("deploy/prometheus/alerts.yaml");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let asked: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("expr: "))
        .flat_map(|expression| expression.split(|c| !is_name(c)))
        .filter(|name| {
            ["bitnet_", "vllm:", "process_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    assert!(asked.len() >= 5, "{asked:?}");
    for name in asked {
        assert!(samples.contains(name), "{name}");
    }
}

#[test]
fn the_units_of_systemd_say_what_the_server_looks_for() {
    let socket = read("deploy/systemd/bitnet.socket");
    let defaults = ServerConfig::default();
    let server = &defaults.server;
    for line in [
        format!(
            "FileDescriptorName={}",
            bitnet_server::listener::ACTIVATION_NAME
        ),
        format!("ListenStream={}:{}", server.host, server.port),
    ] {
        assert!(socket.lines().any(|found| found == line), "{line}");
    }
    let service = read("deploy/systemd/bitnet.service");
    let seconds = |name: &str| {
        let line = service.lines().find_map(|line| line.strip_prefix(name));
        Duration::from_secs(line.unwrap().parse().unwrap())
    };
    let sources = Sources {
        file: Some(root().join("deploy/systemd/server.yaml")),
        ..Sources::default()
    };
    let config = ServerConfig::load(&sources).unwrap();
    assert!(config.auth.keys_file.is_some());
    assert!(seconds("TimeoutStopSec=") > server.shutdown_timeout);
    assert!(seconds("WatchdogSec=") > defaults.monitoring.stall_timeout);
}

#[test]
fn the_configurations_of_proxies_agree_with_the_settings() {
    let defaults = ServerConfig::default();
    let server = &defaults.server;
    let address = format!("{}:{}", server.host, server.port);
    let nginx = read("deploy/nginx/bitnet.conf");
    let haproxy = read("deploy/haproxy/bitnet.cfg");
    let number = |text: &str, name: &str, unit: &str| -> u64 {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        let word = line.unwrap_or_else(|| panic!("no {name}")).trim();
        let number = word.trim_end_matches(';').strip_suffix(unit);
        number
            .unwrap_or_else(|| panic!("{name} {word}"))
            .parse()
            .unwrap()
    };
    for text in [&nginx, &haproxy] {
        assert_eq!(text.matches(&address).count(), 1);
    }
    let body = number(&nginx, "client_max_body_size", "m");
    assert_eq!(body << 20, server.max_body_bytes.0);
    let ping = server.sse_ping_interval.as_secs();
    let idle = server.header_timeout.as_secs();
    assert!(number(&nginx, "keepalive_timeout", "s") < idle);
    assert!(number(&nginx, "proxy_read_timeout", "s") > ping);
    assert!(number(&haproxy, "default-server pool-purge-delay", "s") < idle);
    for limit in ["timeout client", "timeout server"] {
        assert!(number(&haproxy, limit, "s") > ping, "{limit}");
    }
}
