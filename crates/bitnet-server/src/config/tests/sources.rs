//! Where settings come from, files, variables and flags, and which of them wins.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};

use super::super::*;
use super::{file, load_env, load_file};
use crate::config::flags::{ConfigArgs, ConfigTask};
use crate::config::value::{ByteSize, DevicePreference};

/// The keys that deployments were told to use.
const REQUIRED_KEYS: &str = "
server:
  host: \"0.0.0.0\"
  port: 9000
monitoring:
  prometheus_enabled: false
  opentelemetry_enabled: true
  metrics_interval: 15s
models:
  default_model: /models/bitnet-2b.gguf
  cache_size: 8GB
performance:
  max_concurrent_requests: 100
  batch_timeout_ms: 5
  device_preference: cpu
";

#[test]
fn the_required_keys_are_taken_from_yaml() {
    let config = load_file("config.yaml", REQUIRED_KEYS).unwrap();
    assert_eq!(config.server.host.to_string(), "0.0.0.0");
    assert_eq!(config.server.port, 9000);
    assert!(!config.monitoring.prometheus_enabled);
    assert!(config.monitoring.opentelemetry_enabled);
    assert_eq!(config.monitoring.metrics_interval, Duration::from_secs(15));
    assert_eq!(
        config.models.default_model.as_deref(),
        Some("/models/bitnet-2b.gguf")
    );
    assert_eq!(config.models.cache_size, ByteSize(8_000_000_000));
    assert_eq!(config.performance.max_concurrent_requests, 100);
    assert_eq!(config.performance.batch_timeout_ms, 5);
    assert_eq!(config.performance.device_preference, DevicePreference::Cpu);
    assert!(
        matches!(config.origin("server.port"), Some(Origin::File(place)) if place.ends_with("config.yaml:4"))
    );
}

#[test]
fn toml_says_the_same_as_yaml() {
    let toml = "
[server]
host = \"0.0.0.0\"
port = 9000
[monitoring]
prometheus_enabled = false
opentelemetry_enabled = true
metrics_interval = 15
[models]
default_model = \"/models/bitnet-2b.gguf\"
cache_size = 8000000000
[performance]
max_concurrent_requests = 100
batch_timeout_ms = 5
device_preference = \"cpu\"
";
    let toml = load_file("config.toml", toml).unwrap();
    let yaml = load_file("config.yaml", REQUIRED_KEYS).unwrap();
    assert_eq!(toml.sections, yaml.sections);
    assert!(
        matches!(toml.origin("server.port"), Some(Origin::File(place)) if place.ends_with("config.toml:4"))
    );
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let (_folder, path) = file(
        "c.yml",
        "server:\n  port: 1\n  max_connections: 2\n  shutdown_timeout: 3\n",
    );
    let config = ServerConfig::load(&Sources {
        flags: vec![("port".into(), "100".into())],
        environment: [
            ("BITNET_SERVER__PORT", "10"),
            ("BITNET_SERVER__MAX_CONNECTIONS", "20"),
            ("BITNET_SERVER__AUTH__KEYS_FILE", ""),
            ("PATH", "/bin"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec(),
        file: Some(path),
    })
    .unwrap();
    assert_eq!(config.server.port, 100);
    assert_eq!(config.server.max_connections, 20);
    assert_eq!(config.server.shutdown_timeout, Duration::from_secs(3));
    assert_eq!(config.auth.keys_file, None, "an empty variable is unset");
    assert_eq!(
        config.origin("server.port"),
        Some(&Origin::Flag("port".into()))
    );
    assert_eq!(config.origin("server.host"), Some(&Origin::Default));
}

#[test]
fn the_variable_names_the_file_where_no_flag_does() {
    let (_folder, path) = file("c.toml", "server.port = 4711\n");
    let config = load_env(&[("BITNET_SERVER__CONFIG", path.to_str().unwrap())]).unwrap();
    assert_eq!(config.server.port, 4711);
    assert_eq!(config.file(), Some(path.as_path()));
}

#[test]
fn flags_reach_the_configuration() {
    let command = ConfigArgs::augment_args(Command::new("serve"));
    command.clone().debug_assert();
    let parse = |args: &[&str]| {
        let matches = command
            .clone()
            .try_get_matches_from([&["serve"], args].concat())
            .unwrap();
        ConfigArgs::from_arg_matches(&matches).unwrap()
    };
    let args = parse(&[
        "--port",
        "81",
        "--insecure-no-auth",
        "--prefix-cache=false",
        "--print-config",
        "--config",
        "x.yaml",
    ]);
    assert_eq!(args.instead, Some(ConfigTask::Print));
    assert_eq!(args.file.as_deref(), Some(Path::new("x.yaml")));
    assert_eq!(parse(&["--check-config"]).instead, Some(ConfigTask::Check));
    let config = ServerConfig::load(&Sources {
        flags: args.flags,
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(config.server.port, 81);
    assert!(config.auth.insecure_no_auth && !config.performance.prefix_cache);
    assert_eq!(parse(&[]), ConfigArgs::default());
    let short = parse(&["-m", "x.gguf", "-t", "3", "--device", "cpu"]);
    let config = ServerConfig::load(&Sources {
        flags: short.flags,
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(config.models.default_model.as_deref(), Some("x.gguf"));
    assert_eq!(config.engine.threads, Some(3));
    assert_eq!(config.performance.device_preference, DevicePreference::Cpu);
    assert_eq!(
        parse(&["--model", "x.gguf"]),
        parse(&["--default-model", "x.gguf"])
    );
}

#[test]
fn variables_of_all_commands_set_the_server_too() {
    for (variable, key) in SHARED_VARIABLES {
        let setting = SETTINGS.iter().find(|s| s.key() == *key).unwrap();
        let named = format!("`{variable}`");
        assert!(setting.meaning().contains(&named), "{key} tells {variable}");
    }
    let shared = ("BITNET_CPU_THREADS", "3");
    assert_eq!(load_env(&[shared]).unwrap().engine.threads, Some(3));
    let own = ("BITNET_SERVER__ENGINE__THREADS", "2");
    assert_eq!(load_env(&[own, shared]).unwrap().engine.threads, Some(2));
    let (_folder, path) = file("c.yaml", "engine:\n  threads: 1\n");
    let config = ServerConfig::load(&Sources {
        environment: vec![(shared.0.into(), shared.1.into())],
        file: Some(path),
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(config.engine.threads, Some(3), "a variable over the file");
    let error = load_env(&[("BITNET_CPU_THREADS", "0")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "BITNET_CPU_THREADS: engine.threads is \"0\", expected a whole number from 1 to 1024"
    );
}

#[test]
fn what_kubernetes_says_of_a_service_of_our_name_is_none_of_our_settings() {
    let address = "tcp://10.0.0.11:8080";
    let loaded = load_env(&[
        ("BITNET_SERVER_SERVICE_HOST", "10.0.0.11"),
        ("BITNET_SERVER_SERVICE_PORT", "8080"),
        ("BITNET_SERVER_SERVICE_PORT_HTTP", "8080"),
        ("BITNET_SERVER_PORT", address),
        ("BITNET_SERVER_PORT_8080_TCP", address),
        ("BITNET_SERVER_PORT_8080_TCP_PROTO", "tcp"),
        ("BITNET_SERVER_PORT_8080_TCP_PORT", "8080"),
        ("BITNET_SERVER_PORT_8080_TCP_ADDR", "10.0.0.11"),
        ("BITNET_SERVER__PORT", "81"),
    ]);
    assert_eq!(loaded.unwrap().server.port, 81);
}
