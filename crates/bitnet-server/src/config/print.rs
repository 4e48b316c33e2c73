//! `--print-config`: the configuration as a YAML file that says the same, with the meaning and origin of each value.

use std::fmt::Write;

use super::ServerConfig;
use super::settings::SETTINGS;

/// The file, ending in a line feed. Nothing secret is in it: keys lie in files of their own.
pub fn to_yaml(config: &ServerConfig) -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        if section != setting.section {
            section = setting.section;
            // A String takes any text.
            let _ = writeln!(text, "{section}:");
        }
        for line in setting.doc {
            let _ = writeln!(text, "  # {}", line.trim());
        }
        let origin = config
            .origin(&setting.key())
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}: {}  # {origin}",
            setting.name,
            setting.value(config)
        );
    }
    text
}
