#![forbid(unsafe_code)]
//! Serve a loaded model over HTTP: OpenAI's routes on the engine of `bitnet-inference`.
//!
//! # Layout
//!
//! The async runtime lives in this crate only; the engine below has no thread of its own.
