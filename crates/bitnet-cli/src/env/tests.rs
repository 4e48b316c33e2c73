//! Each variable: what it sets, and what is said of values that cannot be.

use bitnet_hub::settings::AccessToken;

use super::*;

fn with(name: &'static str, value: &'static str) -> Result<Environment, CliError> {
    Environment::from_lookup(|n| (n == name).then(|| value.into()))
}

#[test]
fn each_variable_sets_its_field_only() {
    let none = Environment::default();
    let hub = HubSettings::default();
    let of_hub = |hub: HubSettings| Environment {
        hub,
        ..none.clone()
    };
    let cases = [
        (
            "BITNET_GGUF",
            "m.gguf",
            Environment {
                model: Some("m.gguf".into()),
                ..none.clone()
            },
        ),
        (
            "BITNET_TOKENIZER",
            "t.json",
            Environment {
                tokenizer: Some("t.json".into()),
                ..none.clone()
            },
        ),
        (
            "BITNET_CACHE",
            "kept",
            Environment {
                cache: Some("kept".into()),
                ..none.clone()
            },
        ),
        (
            "BITNET_API_KEY",
            "secret",
            Environment {
                api_key: BearerKey::of("secret"),
                ..none.clone()
            },
        ),
        (
            "BITNET_DEVICE",
            "cpu",
            Environment {
                device: Some(Device::Cpu),
                ..none.clone()
            },
        ),
        (
            "BITNET_CPU_THREADS",
            "3",
            Environment {
                threads: Some(3),
                ..none.clone()
            },
        ),
        (
            "BITNET_KERNEL",
            "scalar-i2s",
            Environment {
                kernel: Some("scalar-i2s".into()),
                ..none.clone()
            },
        ),
        (
            "BITNET_FULL_HEAD",
            "1",
            Environment {
                full_head: true,
                ..none.clone()
            },
        ),
        (
            "BITNET_DENSE",
            "1",
            Environment {
                dense: true,
                ..none.clone()
            },
        ),
        (
            "BITNET_SEED",
            "7",
            Environment {
                seed: Some(7),
                ..none.clone()
            },
        ),
        (
            "BITNET_DETERMINISTIC",
            "1",
            Environment {
                deterministic: true,
                ..none.clone()
            },
        ),
        (
            "BITNET_STRICT_TOKENIZERS",
            "1",
            Environment {
                strict_tokenizers: true,
                ..none.clone()
            },
        ),
        (
            "BITNET_LOG",
            "debug",
            Environment {
                log: Some("debug".into()),
                ..none.clone()
            },
        ),
        (
            "HF_HOME",
            "home",
            of_hub(HubSettings {
                cache: Some("home/hub".into()),
                token_file: Some("home/token".into()),
                ..hub.clone()
            }),
        ),
        (
            "HF_HUB_CACHE",
            "models",
            of_hub(HubSettings {
                cache: Some("models".into()),
                ..hub.clone()
            }),
        ),
        (
            "HF_TOKEN",
            "hf_secret",
            of_hub(HubSettings {
                token: AccessToken::of("hf_secret"),
                ..hub.clone()
            }),
        ),
        (
            "HF_TOKEN_PATH",
            "file",
            of_hub(HubSettings {
                named_token_file: Some("file".into()),
                ..hub.clone()
            }),
        ),
        (
            "HF_ENDPOINT",
            "https://mirror",
            of_hub(HubSettings {
                endpoint: "https://mirror".into(),
                ..hub.clone()
            }),
        ),
        (
            "HF_HUB_OFFLINE",
            "1",
            of_hub(HubSettings {
                offline: true,
                ..hub.clone()
            }),
        ),
        (
            "HTTPS_PROXY",
            "http://proxy",
            of_hub(HubSettings {
                proxy: Some("http://proxy".into()),
                ..hub.clone()
            }),
        ),
        (
            "NO_COLOR",
            "1",
            Environment {
                no_color: true,
                ..none.clone()
            },
        ),
    ];
    assert_eq!(cases.len(), VARIABLES.len());
    for ((name, value, expected), variable) in cases.into_iter().zip(VARIABLES) {
        assert_eq!(with(name, value).unwrap(), expected, "{name}");
        assert_eq!(with(name, "").unwrap(), none, "{name} empty is unset");
        assert!(
            VARIABLES.iter().any(|v| v.name == name),
            "{name} is listed, as {} is",
            variable.name
        );
    }
}

#[test]
fn invalid_values_name_the_variable() {
    let cases = [
        ("BITNET_DEVICE", "gpu"),
        ("BITNET_DEVICE", "toaster"),
        ("BITNET_CPU_THREADS", "0"),
        ("BITNET_CPU_THREADS", "two"),
        ("BITNET_DENSE", "maybe"),
        ("BITNET_SEED", "-1"),
        ("BITNET_DETERMINISTIC", "maybe"),
        ("BITNET_FULL_HEAD", "maybe"),
        ("BITNET_STRICT_TOKENIZERS", "2"),
    ];
    for (name, value) in cases {
        let error = with(name, value).unwrap_err();
        assert_eq!(error.class, crate::exit::Exit::Usage);
        assert!(
            error.message.contains(name) && error.message.contains(value),
            "{}",
            error.message
        );
    }
}

#[test]
fn the_seed_comes_from_flag_then_variable_then_determinism() {
    let mut env = Environment::default();
    assert_eq!(env.seed(None), None);
    env.deterministic = true;
    assert_eq!(env.seed(None), Some(DETERMINISTIC_SEED));
    env.seed = Some(7);
    assert_eq!(env.seed(None), Some(7));
    assert_eq!(env.seed(Some(1)), Some(1));
}
