//! What no setting may be: names that there are none of, values outside their limits, and files that are hostile.

use std::path::Path;

use super::super::*;
use super::{load_env, load_file};

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
fn a_port_of_administrators_is_their_own_and_its_address_needs_it() {
    let server = |text: &str| load_file("c.yaml", &format!("server: {{{text}}}"));
    for (text, said) in [
        ("port: 80, admin_port: 80", "so is server.port"),
        (
            "host: 0.0.0.0, port: 80, admin_port: 80",
            "so is server.port",
        ),
        (
            "health_port: 81, admin_port: 81",
            "so is server.health_port",
        ),
        ("admin_host: 127.0.0.2", "server.admin_port, which opens"),
    ] {
        let refused = server(text).unwrap_err().to_string();
        assert!(refused.contains(said), "{text}: {refused}");
    }
    for text in [
        "port: 0, admin_port: 0",
        "host: 10.0.0.1, port: 80, admin_port: 80",
        "admin_port: 81, admin_host: 10.0.0.1",
    ] {
        server(text).unwrap();
    }
}
