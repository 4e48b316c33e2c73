//! Which setting an error of the engine is about: it knows options, whoever started the server wrote settings.

use bitnet_inference::Error;
use bitnet_inference::error::option;

use crate::config::{Origin, ServerConfig};

/// The setting that `error` is about, with who set it and a colon, for the front of its message; nothing for an error
/// that is about none.
pub(super) fn prefix(config: &ServerConfig, error: &Error) -> String {
    let key = match error {
        Error::InvalidOption { option, .. } => match option.as_str() {
            option::CONTEXT => "engine.ctx",
            option::KV_CACHE => "performance.kv_cache_memory",
            option::MAX_SEQUENCES => "performance.max_concurrent_requests",
            _ => return String::new(),
        },
        // Memory is as it is; what was asked of it may be too much.
        Error::NotEnoughMemory { .. } => match config.origin("engine.ctx") {
            None | Some(Origin::Default) => return String::new(),
            Some(_) => "engine.ctx",
        },
        _ => return String::new(),
    };
    format!("{}: ", config.named(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn options_of_the_engine_are_told_as_the_settings_that_give_them() {
        let invalid = |option: &str| Error::InvalidOption {
            option: option.into(),
            value: "7".into(),
            expected: "8".into(),
        };
        let memory = Error::NotEnoughMemory {
            memory: 1,
            weights: 2,
            context: 3,
            cache: 4,
        };
        let unset = ServerConfig::default();
        let sources = Sources {
            flags: vec![("ctx".into(), "64".into())],
            ..Sources::default()
        };
        let set = ServerConfig::load(&sources).unwrap();
        for (config, error, expected) in [
            (&set, invalid(option::CONTEXT), "--ctx: engine.ctx: "),
            (&unset, invalid(option::CONTEXT), "engine.ctx: "),
            (
                &unset,
                invalid(option::KV_CACHE),
                "performance.kv_cache_memory: ",
            ),
            (
                &unset,
                invalid(option::MAX_SEQUENCES),
                "performance.max_concurrent_requests: ",
            ),
            (&unset, invalid("temperature"), ""),
            (&set, memory.clone(), "--ctx: engine.ctx: "),
            (&unset, memory, ""),
            (&set, Error::EmptyPrompt, ""),
        ] {
            assert_eq!(prefix(config, &error), expected);
        }
    }
}
