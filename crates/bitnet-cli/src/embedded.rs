//! The model inside the program, so that `bitnet run` works on a machine with nothing else.
//!
//! Swapping it means replacing the one file in `assets/` (its README there tells how it was made); every number that
//! this crate says about it is read from the file.

/// The GGUF file's bytes.
pub static BYTES: &[u8] = include_bytes!("../assets/stories-5m.I2_S.gguf");

/// What messages and results call it.
pub const NAME: &str = "stories-5m (embedded)";

/// What it continues when nobody says: how most of the stories that it learnt from begin.
pub const PROMPT: &str = "Once upon a time";
