//! Precedence, unknown names, hostile files, and the documents against the table.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bitnet_inference::{CheckpointOptions, DETERMINISTIC_SEED, HeadMode, KvType, LoadOptions};
use clap::{Args, Command, FromArgMatches};

use super::value::{ByteSize, DevicePreference};
use super::*;
use crate::config::flags::{ConfigArgs, ConfigTask};

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn load_file(name: &str, text: &str) -> Result<ServerConfig, SettingError> {
    let (_folder, path) = file(name, text);
    ServerConfig::load(&Sources {
        file: Some(path),
        ..Sources::default()
    })
}

fn load_env(variables: &[(&str, &str)]) -> Result<ServerConfig, SettingError> {
    ServerConfig::load(&Sources {
        environment: variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Sources::default()
    })
}

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
fn an_unknown_name_is_an_error_with_its_place_and_the_nearest_name() {
    let cases: [(Result<ServerConfig, SettingError>, &str, &str); 11] = [
        (
            load_file("c.yaml", "server:\n  host: 127.0.0.1\n  prot: 1\n"),
            "c.yaml:3",
            "'server.port'",
        ),
        (
            load_file("c.toml", "[server]\n\nprot = 1\n"),
            "c.toml:3",
            "'server.port'",
        ),
        (
            load_file("c.yaml", "sever:\n  port: 1\n"),
            "c.yaml:2",
            "'server.port'",
        ),
        (
            load_file("c.yaml", "monitorin:\n"),
            "c.yaml:1",
            "'monitoring'",
        ),
        (
            load_file("c.yaml", "zebra:\n  stripes: 9\n"),
            "c.yaml:2",
            "--print-config",
        ),
        (
            load_env(&[("BITNET_SERVER__PROT", "1")]),
            "BITNET_SERVER__PROT",
            "'BITNET_SERVER__PORT'",
        ),
        (
            load_env(&[("BITNET_SERVER_PORT", "1")]),
            "'BITNET_SERVER_PORT'",
            "mean 'BITNET_SERVER__PORT'",
        ),
        (
            load_env(&[("BITNET_SERVER_MODELS_KEEP_ALIVE", "1m")]),
            "'BITNET_SERVER_MODELS_KEEP_ALIVE'",
            "mean 'BITNET_SERVER__MODELS__KEEP_ALIVE'",
        ),
        (
            load_env(&[("BITNET_SERVER__SERVER__PORT", "1")]),
            "'BITNET_SERVER__SERVER__PORT'",
            "mean 'BITNET_SERVER__PORT'",
        ),
        (
            load_env(&[("BITNET_SERVER__SERVER__PROT", "1")]),
            "'BITNET_SERVER__SERVER__PROT'",
            "mean 'BITNET_SERVER__PORT'",
        ),
        (
            ServerConfig::load(&Sources {
                flags: vec![("prt".into(), "1".into())],
                ..Sources::default()
            }),
            "--prt",
            "'port'",
        ),
    ];
    for (loaded, place, nearest) in cases {
        let text = loaded.unwrap_err().to_string();
        assert!(text.contains(place) && text.contains(nearest), "{text}");
    }
}

#[test]
fn a_value_outside_its_limits_is_refused_with_the_limits() {
    let cases = [
        (
            "server:\n  port: 65536\n",
            "server.port is 65536, expected a whole number from 0 to 65535",
        ),
        ("server:\n  port: -1\n", "server.port is -1"),
        ("server:\n  port: \"80\"\n", "server.port is \"80\""),
        ("server:\n  port:\n", "server.port is not set to anything"),
        (
            "server:\n  host: localhost.example\n",
            "expected an IP address",
        ),
        (
            "server:\n  max_connections: 0\n",
            "expected a whole number from 1 to 1000000",
        ),
        (
            "server:\n  max_body_bytes: 10GiB\n",
            "from 1024 to 268435456",
        ),
        ("server:\n  request_timeout: -5\n", "0 (no limit), seconds"),
        ("server:\n  request_timeout: 5ms\n", "from \"100ms\""),
        ("performance:\n  queue_timeout: 1us\n", "from \"100ms\""),
        ("monitoring:\n  watchdog: 100ms\n", "from \"1s\""),
        (
            "server:\n  request_timeout: .inf\n",
            "c.yaml:2: value `.inf` is not a finite number",
        ),
        (
            "server:\n  request_timeout: 5 fortnights\n",
            "0 (no limit), seconds",
        ),
        ("server:\n  shutdown_timeout: 1e300\n", "expected seconds"),
        (
            "performance:\n  device_preference: toaster\n",
            "expected one of auto, cpu, gpu",
        ),
        (
            "performance:\n  prefix_cache: maybe\n",
            "expected true or false",
        ),
        (
            "auth:\n  jwt_algorithm: none\n",
            "expected one of HS256, RS256, ES256, EdDSA",
        ),
        ("auth:\n  jwt_leeway: 31\n", "from \"0s\" to \"30s\""),
        ("server:\n  allowed_hosts: a.example\n", "expected a list"),
    ];
    for (text, expected) in cases {
        let error = load_file("c.yaml", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_time_limit_of_nothing_is_none() {
    for nothing in ["0", "0s", "0.0", "null", ""] {
        let text = format!(
            "server:\n  request_timeout: {nothing}\nperformance:\n  queue_timeout: {nothing}\nmonitoring:\n  \
             watchdog: {nothing}\n"
        );
        let config = load_file("c.yaml", &text).unwrap();
        assert_eq!(
            config.sections,
            ServerConfig::default().sections,
            "{nothing}"
        );
    }
    let config = load_env(&[("BITNET_SERVER__REQUEST_TIMEOUT", "2m")]).unwrap();
    assert_eq!(
        config.server.request_timeout.0,
        Some(Duration::from_secs(120))
    );
    assert_eq!(ServerConfig::default().server.request_timeout.0, None);
}

#[test]
fn hostile_files_are_errors() {
    let deep = format!("server: {}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n";
    let large = format!(
        "server:\n  port: 1\n#{}\n",
        "x".repeat(MAX_FILE_BYTES as usize)
    );
    let cases = [
        ("c.yaml", deep.as_str()),
        ("c.toml", deep.as_str()),
        ("c.yaml", bomb),
        ("c.yaml", large.as_str()),
        ("c.yaml", "server:\n  port: 1\n  port: 2\n"),
        ("c.toml", "[server]\nport = 1\nport = 2\n"),
        ("c.yaml", "server:\n  port: {a: 1}\n"),
        ("c.toml", "[server.port]\na = 1\n"),
        ("c.yaml", "server:\n  allowed_hosts: [[a]]\n"),
        ("c.yaml", "- 1\n- 2\n"),
        ("c.yaml", "server: 5\n"),
        ("c.yaml", "just text"),
        ("c.yaml", "server:\n  port: 1\n---\nserver:\n  port: 2\n"),
        ("c.yaml", "server: {port: 1"),
        ("c.toml", "[server\nport = 1"),
        ("c.ini", "port = 1"),
        ("c", ""),
    ];
    for (name, text) in cases {
        let error = load_file(name, text)
            .expect_err(&text[..text.len().min(40)])
            .to_string();
        assert!(
            error.contains(name) && error.len() < 600 && !error.contains('\n'),
            "{error}"
        );
    }
    assert!(load_file("c.yaml", "").is_ok() && load_file("c.yaml", "# nothing\n").is_ok());
    assert!(load_file("c.toml", "").is_ok());
    let missing = ServerConfig::load(&Sources {
        file: Some("/does/not/exist.yaml".into()),
        ..Sources::default()
    });
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("/does/not/exist.yaml")
    );
}

#[test]
fn what_is_wrong_with_a_file_is_told_in_its_writers_words() {
    let cases = [
        ("server:\n  port: 1\n  port: 2\n", "c.yaml:3", "port"),
        (
            "server:\n  port: {a: 1}\n",
            "c.yaml:2",
            "found a section, expected a value",
        ),
        (
            "server:\n  allowed_hosts: [[a]]\n",
            "c.yaml:2",
            "a list within a list",
        ),
        ("- 1\n- 2\n", "c.yaml:1", "found a list, expected sections"),
        (
            "server:\n  port: 1\n---\nserver:\n  port: 2\n",
            "c.yaml:",
            "a second document",
        ),
        ("server:\n\tport: 1\n", "c.yaml:2", "tab"),
    ];
    for (text, place, told) in cases {
        let error = load_file("c.yaml", text).unwrap_err().to_string();
        assert!(
            error.contains(place) && error.contains(told),
            "{text}: {error}"
        );
        for inside in ["Options", "Policy", "from_str", "invalid type"] {
            assert!(!error.contains(inside), "{error}");
        }
    }
}

#[test]
fn a_lone_word_that_is_no_level_is_no_filter() {
    for word in ["loud", "inf", "WARNING"] {
        let error = load_env(&[("BITNET_SERVER__MONITORING__LOG_LEVEL", word)]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(word) && error.contains("error, warn, info"),
            "{error}"
        );
    }
    for filter in [
        "warn",
        "OFF",
        "warn,bitnet_server=debug",
        "bitnet_server=trace",
    ] {
        load_env(&[("BITNET_SERVER__MONITORING__LOG_LEVEL", filter)]).unwrap();
    }
}

#[test]
fn tokens_need_an_issuer_an_audience_and_a_key() {
    let key_alone = load_file("c.yaml", "auth:\n  jwt_key_file: k.pem\n")
        .unwrap_err()
        .to_string();
    assert!(key_alone.contains("auth.jwt_issuer"), "{key_alone}");
    let no_key = load_file("c.yaml", "auth:\n  jwt_issuer: me\n  jwt_audience: you\n")
        .unwrap_err()
        .to_string();
    assert!(no_key.contains("auth.jwt_key_file"), "{no_key}");
    let all = "auth:\n  jwt_key_file: k.pem\n  jwt_issuer: me\n  jwt_audience: you\n";
    assert_eq!(
        load_file("c.yaml", all)
            .unwrap()
            .auth
            .jwt_key_file
            .as_deref(),
        Some(Path::new("k.pem"))
    );
}

#[test]
fn the_printed_configuration_reads_back_as_the_same() {
    let odd = load_file(
        "c.yaml",
        "server:\n  host: '::1'\n  request_timeout: 1500ms\n  allowed_hosts: [a.example, 'b\"c\\d']\nmodels:\n  \
         served_model_name: 'true'\nlimits:\n  tokens_per_minute: 7\n",
    )
    .unwrap();
    for config in [ServerConfig::default(), odd] {
        let printed = print::to_yaml(&config);
        let again =
            load_file("printed.yaml", &printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.sections, config.sections);
    }
}

#[test]
fn a_reload_takes_over_only_what_may_change() {
    let mut running = ServerConfig::default();
    let fresh = load_file(
        "c.yaml",
        "server:\n  port: 1\nlimits:\n  requests_per_minute: 5\n",
    )
    .unwrap();
    let reloaded = running.reload(&fresh);
    assert_eq!(reloaded.changed, ["limits.requests_per_minute"]);
    assert_eq!(reloaded.needs_restart, ["server.port"]);
    assert_eq!(running.server.port, ServerConfig::default().server.port);
    assert_eq!(running.limits.requests_per_minute, 5);
    assert_eq!(
        running.reload(&fresh).changed,
        Vec::<String>::new(),
        "twice changes nothing"
    );
}

#[test]
fn every_setting_has_its_own_flag_variable_and_meaning() {
    let flags: BTreeSet<String> = SETTINGS.iter().map(Setting::flag).collect();
    let variables: BTreeSet<String> = SETTINGS.iter().map(Setting::variable).collect();
    assert_eq!(
        (flags.len(), variables.len()),
        (SETTINGS.len(), SETTINGS.len())
    );
    assert!(!flags.contains("config") && !variables.contains(ENV_FILE));
    for setting in SETTINGS {
        assert!(setting.meaning().ends_with('.'), "{}", setting.key());
    }
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
fn the_section_engine_says_how_models_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("chat.jinja");
    std::fs::write(&template, "{{ messages }}").unwrap();
    let tokenizer = folder.path().join("t.json");
    std::fs::write(&tokenizer, "{}").unwrap();
    let text = format!(
        "engine:\n  threads: 3\n  ctx: 512\n  kv_type: f16\n  kernel: scalar-i2s\n  full_head: true\n  dense: true\n  \
         dialect: i2s-64,stq1_0\n  tokenizer: {}\n  strict_tokenizers: true\n  template: {}\n",
        tokenizer.display(),
        template.display()
    );
    let config = load_file("c.yaml", &text).unwrap();
    let options = config.first_load_options().unwrap();
    let expected = LoadOptions {
        threads: Some(3),
        context: Some(512),
        kv_type: KvType::F16,
        kernel: Some("scalar-i2s".into()),
        head: HeadMode::Full,
        dense: true,
        checkpoint: CheckpointOptions {
            dialects: "stq1_0,i2s-64".parse().unwrap(),
            ..CheckpointOptions::default()
        },
        tokenizer: Some(tokenizer),
        strict_tokenizers: true,
        chat_template: Some("{{ messages }}".into()),
        ..LoadOptions::default()
    };
    assert_eq!(format!("{options:?}"), format!("{expected:?}"));
    let others = LoadOptions {
        tokenizer: None,
        chat_template: None,
        ..expected
    };
    let found = config.engine.load_options();
    assert_eq!(format!("{found:?}"), format!("{others:?}"));
    let untouched = ServerConfig::default().first_load_options().unwrap();
    let defaults = LoadOptions::default();
    assert_eq!(format!("{untouched:?}"), format!("{defaults:?}"));

    std::fs::write(&template, b"{{ \xff }}").unwrap();
    let error = config.first_load_options().unwrap_err().to_string();
    let place = "c.yaml:11: engine.template";
    assert!(error.contains(place) && error.contains("byte 3"), "{error}");
    std::fs::remove_file(&template).unwrap();
    let error = config.first_load_options().unwrap_err().to_string();
    assert!(
        error.contains(place) && error.contains("cannot be read"),
        "{error}"
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
fn a_seed_is_that_which_is_given_else_the_fixed_one_else_none() {
    let seed = |variables: &[(&str, &str)]| load_env(variables).unwrap().engine.seed();
    assert_eq!(seed(&[]), None);
    let fixed = ("BITNET_DETERMINISTIC", "1");
    assert_eq!(seed(&[fixed]), Some(DETERMINISTIC_SEED));
    assert_eq!(seed(&[fixed, ("BITNET_SEED", "7")]), Some(7));
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

#[test]
fn a_variable_that_is_nearly_one_of_ours_is_told_and_never_passed_over() {
    for (name, meant) in [
        ("BITNET_SERVER_CONFIG", "BITNET_SERVER__CONFIG"),
        ("BITNET_SERVER_KEYS_FILE", "BITNET_SERVER__AUTH__KEYS_FILE"),
        ("BITNET_SERVER__KEYS_FILE", "BITNET_SERVER__AUTH__KEYS_FILE"),
        (
            "BITNET_SERVER_REQUESTS_PER_MINUTE",
            "BITNET_SERVER__LIMITS__REQUESTS_PER_MINUTE",
        ),
        ("BITNET_SERVER_PORT", "BITNET_SERVER__PORT"),
    ] {
        let error = load_env(&[(name, "3")]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("did you mean '{meant}'?")),
            "{error}"
        );
    }
    assert!(load_env(&[("BITNET_SERVER_NOTHING_LIKE_IT", "3")]).is_err());
}
