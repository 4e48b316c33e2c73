#![forbid(unsafe_code)]
//! (crate doc to be written by its owner)
