//! One command, one file: its options, its help, and the code that turns them into calls of the libraries below.

pub mod bench;
pub mod chat;
pub mod compat_check;
pub mod completions;
pub mod convert;
pub mod detokenize;
pub mod inspect;
pub mod keys;
pub mod list;
pub mod load;
pub mod logits;
pub mod merge;
pub mod ps;
pub mod pull;
pub mod quantize;
pub mod rm;
pub mod run;
pub mod score;
pub mod serve;
pub mod split;
pub mod swap;
pub mod synth;
pub mod tokenize;
pub mod unload;
pub mod version;
