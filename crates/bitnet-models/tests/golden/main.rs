//! The forward pass against the reference's numbers: Hugging Face transformers in float32, recorded under
//! `tests/data` (its READMEs say how), for every model in every file layout.
//!
//! The checks are those of `tests/data/reference/README.md`, strictest first: single operations, logits where no
//! rounding is in doubt, logits where one may fall either way, greedy text, perplexity. Beside them stands the
//! engine's own promise: a sequence gets the same bytes however it is cut up, whoever is in its batch, however many
//! threads run and whichever kernel computes.

mod batching;
mod cases;
mod conversion;
mod determinism;
mod greedy;
mod loading;
mod logits;
mod operations;
mod perplexity;
mod reference;
mod session;
mod stories;
mod trace;
