//! Malformed and malicious vocabularies are refused by name; none panics.

mod gguf;
mod json;
mod templates;
