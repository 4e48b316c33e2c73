//! What a model card says about licence and origin: the block of YAML in front of a `README.md`.
//!
//! Only what cards use is read: `key: value` and lists of plain values at the top level. Anything else in the block
//! (nested tables, multi-line texts) is passed over; nothing in a card can make a conversion fail. The keys that it
//! becomes are gguf-py's (`Keys.General`); of a file that has them, a card is made again.

use crate::gguf::{Array, Gguf, Value};

/// Bytes of a README that are looked at: the block stands at its beginning and has a few KB.
pub(crate) const MAX_CARD_BYTES: usize = 64 << 10;
/// Values of a list, and bytes of a value, that are taken over.
const MAX_VALUES: usize = 64;
const MAX_VALUE_BYTES: usize = 512;

/// The fields of a model card that a GGUF file has keys for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// `license`: an SPDX name in lower case, or `other`.
    pub license: Option<String>,
    /// `license_name`, for `other`.
    pub license_name: Option<String>,
    /// `license_link`.
    pub license_link: Option<String>,
    /// `language`.
    pub languages: Vec<String>,
    /// `tags`, with `pipeline_tag` at their end.
    pub tags: Vec<String>,
    /// `base_model`: repositories.
    pub base_models: Vec<String>,
}

impl ModelCard {
    /// Reads the block in front of a `README.md`; without one everything is empty.
    pub fn parse(readme: &[u8]) -> Self {
        let mut card = Self::default();
        let readme = &readme[..readme.len().min(MAX_CARD_BYTES)];
        let text = String::from_utf8_lossy(readme);
        let mut lines = text.trim_start_matches('\u{feff}').lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return card;
        }
        let mut key = "";
        for line in lines {
            let line = line.trim_end();
            if line == "---" {
                break;
            }
            let item = line.trim_start().strip_prefix("- ");
            match (item, line.split_once(':')) {
                (Some(value), _) => card.take(key, value),
                (None, Some((name, value))) if !line.starts_with([' ', '\t', '#']) => {
                    key = name;
                    let value = value.trim();
                    match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
                        Some(list) => list.split(',').for_each(|value| card.take(key, value)),
                        None => card.take(key, value),
                    }
                }
                // A nested table or the continuation of a text.
                _ => key = "",
            }
        }
        card
    }

    /// Takes one value of a field.
    fn take(&mut self, key: &str, value: &str) {
        let value = value.trim();
        let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = quoted('"').or(quoted('\'')).unwrap_or(value);
        let plain = !value.is_empty() && !value.starts_with(['|', '>', '{', '&', '*', '[']);
        if !plain || value.len() > MAX_VALUE_BYTES || value.contains(char::is_control) {
            return;
        }
        let one = |field: &mut Option<String>| {
            field.get_or_insert_with(|| value.to_owned());
        };
        let list = |field: &mut Vec<String>| {
            if field.len() < MAX_VALUES && !field.iter().any(|other| other == value) {
                field.push(value.to_owned());
            }
        };
        match key {
            "license" => one(&mut self.license),
            "license_name" => one(&mut self.license_name),
            "license_link" => one(&mut self.license_link),
            "language" => list(&mut self.languages),
            "tags" | "pipeline_tag" => list(&mut self.tags),
            "base_model" => list(&mut self.base_models),
            _ => {}
        }
    }

    /// The card as keys of a GGUF file.
    pub(super) fn metadata(&self) -> Vec<(String, Value)> {
        let mut keys = Vec::new();
        for (key, value) in [
            ("general.license", &self.license),
            ("general.license.name", &self.license_name),
            ("general.license.link", &self.license_link),
        ] {
            keys.extend(value.as_deref().map(|v| (key.to_owned(), Value::string(v))));
        }
        if !self.base_models.is_empty() {
            let count = Value::U32(self.base_models.len() as u32);
            keys.push(("general.base_model.count".into(), count));
        }
        for (index, repository) in self.base_models.iter().enumerate() {
            let mut field = |name: &str, value: &str| {
                let key = format!("general.base_model.{index}.{name}");
                keys.push((key, Value::string(value)));
            };
            match repository.split_once('/') {
                Some((organization, name)) => {
                    field("name", name);
                    field("organization", organization);
                }
                None => field("name", repository),
            }
            field("repo_url", &format!("https://huggingface.co/{repository}"));
        }
        for (key, values) in [
            ("general.tags", &self.tags),
            ("general.languages", &self.languages),
        ] {
            if !values.is_empty() {
                keys.push((key.into(), Value::Array(Array::of_strings(values))));
            }
        }
        keys
    }
}

impl ModelCard {
    /// The card that the keys of a GGUF file make.
    pub(super) fn of_gguf(gguf: &Gguf) -> Self {
        let mut card = Self::default();
        let text = |key: &str| gguf.metadata().get(key).and_then(Value::as_str);
        for (key, field) in [
            ("general.license", "license"),
            ("general.license.name", "license_name"),
            ("general.license.link", "license_link"),
        ] {
            if let Some(value) = text(key) {
                card.take(field, value);
            }
        }
        for (key, field) in [("general.tags", "tags"), ("general.languages", "language")] {
            let Some(Value::Array(list)) = gguf.metadata().get(key) else {
                continue;
            };
            for value in list.iter().take(MAX_VALUES) {
                if let Some(value) = value.as_str() {
                    card.take(field, value);
                }
            }
        }
        for index in 0..MAX_VALUES {
            let part = |name: &str| text(&format!("general.base_model.{index}.{name}"));
            match (part("organization"), part("name")) {
                (Some(organization), Some(name)) => {
                    card.take("base_model", &format!("{organization}/{name}"));
                }
                (None, Some(name)) => card.take("base_model", name),
                (_, None) => break,
            }
        }
        card
    }

    /// A `README.md` with the card in front, `None` for an empty one.
    pub(super) fn readme(&self, name: &str) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let mut text = String::from("---\n");
        // Quoted, so that nothing in a value is YAML; what a quoted text would have to escape is left out.
        let plain = |value: &&String| !value.contains(['"', '\\']);
        for (field, value) in [
            ("license", &self.license),
            ("license_name", &self.license_name),
            ("license_link", &self.license_link),
        ] {
            if let Some(value) = value.as_ref().filter(plain) {
                text.push_str(&format!("{field}: \"{value}\"\n"));
            }
        }
        for (field, values) in [
            ("language", &self.languages),
            ("tags", &self.tags),
            ("base_model", &self.base_models),
        ] {
            let mut values = values.iter().filter(plain).peekable();
            if values.peek().is_some() {
                text.push_str(&format!("{field}:\n"));
                values.for_each(|value| text.push_str(&format!("- \"{value}\"\n")));
            }
        }
        text.push_str(&format!("---\n\n# {name}\n"));
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_goes_through_a_gguf_file_and_back() {
        let card = ModelCard::parse(
            b"---\nlicense: other\nlicense_name: falcon\nlicense_link: https://a.b/c\nlanguage: [en, fr]\n\
              tags:\n- bitnet\n- 'a: b'\nbase_model:\n- org/name\n- alone\n---\n",
        );
        let mut writer = crate::gguf::GgufWriter::new();
        for (key, value) in card.metadata() {
            writer.metadata(&key, value).unwrap();
        }
        writer
            .metadata("general.type", Value::string("model"))
            .unwrap();
        let file = writer.start(Vec::new()).unwrap().finish().unwrap();
        let gguf = Gguf::from_bytes("card.gguf", file.into()).unwrap();
        assert_eq!(ModelCard::of_gguf(&gguf), card);
        let readme = card.readme("x").unwrap();
        assert_eq!(ModelCard::parse(readme.as_bytes()), card);
        assert!(readme.ends_with("\n# x\n"), "{readme}");
        assert_eq!(ModelCard::default().readme("x"), None);
    }

    #[test]
    fn values_cannot_leave_their_quotes() {
        let card = ModelCard {
            license: Some("mit\"\nlicense_link: x".into()),
            tags: vec!["a\\".into(), "b".into()],
            ..ModelCard::default()
        };
        let readme = card.readme("x").unwrap();
        assert!(!readme.contains("license"), "{readme}");
        assert!(
            readme.contains("- \"b\"") && !readme.contains('\\'),
            "{readme}"
        );
    }

    #[test]
    fn fields_and_lists_are_read_and_the_rest_is_passed_over() {
        let card = ModelCard::parse(
            b"---\nlicense: other\nlicense_name: \"falcon-llm-license\"\nlicense_link: https://a.b/c.html\n\
              language:\n- en\n  - fr\n- en\ntags: [bitnet, '1.58-bit']\npipeline_tag: text-generation\n\
              base_model: org/name\nmodel-index:\n- name: x\n  results:\n    - task: y\nlicense: mit\nextra: |\n  a\n  b\n\
              ---\nlicense: none\n",
        );
        assert_eq!(card.license.as_deref(), Some("other"));
        assert_eq!(card.license_name.as_deref(), Some("falcon-llm-license"));
        assert_eq!(card.license_link.as_deref(), Some("https://a.b/c.html"));
        assert_eq!(card.languages, ["en", "fr"]);
        assert_eq!(card.tags, ["bitnet", "1.58-bit", "text-generation"]);
        assert_eq!(card.base_models, ["org/name"]);
        let keys = card.metadata();
        let organization = keys
            .iter()
            .find(|(key, _)| key == "general.base_model.0.organization");
        assert_eq!(organization.unwrap().1, Value::string("org"));
    }

    #[test]
    fn a_readme_without_the_block_says_nothing() {
        for readme in [
            &b""[..],
            b"# Title\nlicense: mit\n",
            b"--\nlicense: mit",
            b"\xff\xfe",
        ] {
            assert_eq!(ModelCard::parse(readme), ModelCard::default());
        }
        assert_eq!(ModelCard::default().metadata(), []);
    }

    #[test]
    fn lists_and_values_are_bounded() {
        let tags: String = (0..1000).map(|i| format!("- t{i}\n")).collect();
        let long = "x".repeat(10_000);
        let card = ModelCard::parse(format!("---\nlicense: {long}\ntags:\n{tags}").as_bytes());
        assert_eq!((card.license, card.tags.len()), (None, MAX_VALUES));
    }
}
