//! What the section `engine` says of loading models: one translation for `bitnet serve` and `bitnet-server`.
//!
//! A tokenizer and a chat template are given for the first model; those that come later have their own.

use std::io::Read;

use bitnet_inference::{
    CheckpointOptions, DETERMINISTIC_SEED, HeadMode, LoadOptions, available_kernels,
};

use super::settings::EngineSettings;
use super::{Origin, ServerConfig, SettingError};

/// Largest chat template: those of published models take some kilobytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

impl EngineSettings {
    /// How models are loaded, but for what serving many needs.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            threads: self.threads,
            kernel: self.kernel.clone(),
            dense: self.dense,
            context: self.ctx,
            kv_type: self.kv_type.0,
            head: match self.full_head {
                true => HeadMode::Full,
                false => HeadMode::Auto,
            },
            checkpoint: CheckpointOptions {
                dialects: self.dialect.map(|names| names.0).unwrap_or_default(),
                ..CheckpointOptions::default()
            },
            strict_tokenizers: self.strict_tokenizers,
            ..LoadOptions::default()
        }
    }

    /// The seed of requests that name none; `None` is a new one for each.
    pub fn seed(&self) -> Option<u64> {
        self.seed
            .or(self.deterministic.then_some(DETERMINISTIC_SEED))
    }
}

impl ServerConfig {
    /// How the first model is loaded: with the tokenizer and the chat template that the settings name.
    ///
    /// # Errors
    /// A kernel that this machine has not, a tokenizer that is not there, and a template that cannot be read, is too
    /// large or is not UTF-8.
    pub fn first_load_options(&self) -> Result<LoadOptions, SettingError> {
        let wrong = |key: &str, reason: String| {
            let origin = self.origin(key).unwrap_or(&Origin::Default);
            SettingError::Contradiction(format!("{origin}: {key} {reason}"))
        };
        if let Some(name) = &self.engine.kernel {
            let kernels = available_kernels();
            if !kernels.contains(&name.as_str()) {
                let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
                let reason = format!("is {name}, expected one of {}", kernels.join(", "));
                return Err(wrong("engine.kernel", reason));
            }
        }
        if let Some(path) = &self.engine.tokenizer {
            let looked = std::fs::metadata(path);
            looked.map_err(|error| {
                wrong("engine.tokenizer", format!("{}: {error}", path.display()))
            })?;
        }
        Ok(LoadOptions {
            tokenizer: self.engine.tokenizer.clone(),
            chat_template: self.template()?,
            ..self.engine.load_options()
        })
    }

    fn template(&self) -> Result<Option<String>, SettingError> {
        let Some(path) = &self.engine.template else {
            return Ok(None);
        };
        let wrong = |reason: String| {
            let origin = self.origin("engine.template").unwrap_or(&Origin::Default);
            let path = path.display();
            SettingError::Contradiction(format!("{origin}: engine.template {path}: {reason}"))
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_TEMPLATE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > MAX_TEMPLATE_BYTES {
            return Err(wrong(format!("is larger than {MAX_TEMPLATE_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            wrong(format!("is not UTF-8 at byte {offset}"))
        })?;
        Ok(Some(text))
    }
}
