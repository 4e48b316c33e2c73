//! Settings as a whole: printed and read again, reloaded, and what they mean to the engine. Where they come from, and
//! what none may be, have files of their own.

mod refused;
mod sources;

use std::collections::BTreeSet;
use std::time::Duration;

use bitnet_inference::{CheckpointOptions, DETERMINISTIC_SEED, HeadMode, KvType, LoadOptions};

use super::*;

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
fn a_seed_is_that_which_is_given_else_the_fixed_one_else_none() {
    let seed = |variables: &[(&str, &str)]| load_env(variables).unwrap().engine.seed();
    assert_eq!(seed(&[]), None);
    let fixed = ("BITNET_DETERMINISTIC", "1");
    assert_eq!(seed(&[fixed]), Some(DETERMINISTIC_SEED));
    assert_eq!(seed(&[fixed, ("BITNET_SEED", "7")]), Some(7));
}
