#![forbid(unsafe_code)]
//! Serve loaded models over HTTP: OpenAI's routes on the engine of `bitnet-inference`.
//!
//! # Layout
//!
//! The way of a request: [`server`] accepts its connection ([`listener`], [`peers`], [`connection`], [`tls`],
//! [`transport`]), which [`http1`] serves; [`request_id`] names it and [`request_log`] writes about it, [`panics`]
//! answers for it if it cannot, [`auth`] lets it through (as a [`caller`]), [`path`] and [`routes`] find its handler,
//! [`body`] and [`fields`] read it, [`generation_request`] what all of them have in common ([`sampling`] how tokens are
//! drawn, [`unsupported`] what is refused); [`admission`] takes or refuses it, [`checking`] makes the engine's requests
//! of it; [`running`] holds its client's end, [`cancellation`] ends it by its name, [`engine_thread`] has the engine's
//! end; [`sse`], [`usage`] and [`token_text`] write the answer; [`vectors`] are made of texts. [`startup`] makes the
//! state and the first model, [`process`] is the program around it: runtime, signals, [`log`], `hand_over` to the next
//! process, `service_manager`; [`health_check`] asks another one, by the [`client`] that commands have too. Two threads
//! stand apart from all that: [`health_listener`] answers probes, [`watchdog`] ends a process that hangs; `watchers`
//! begins both.
//!
//! What they share: [`app`] the state, [`model`] a loaded model, [`model_manager`] how models come and go, [`config`]
//! the settings, [`limits`] every bound, [`metrics`] the figures, [`telemetry`] the traces, [`machine`] the hardware,
//! [`build_info`] the program, [`error`] every error.
//!
//! The engine below has no async runtime and no thread of its own. No lock is held across an
//! `.await`. Work crosses threads by channels that are bounded, or by the engine's, which admission bounds.

pub mod admission;
pub mod app;
pub mod auth;
pub mod body;
pub mod build_info;
pub mod caller;
pub mod cancellation;
pub mod checking;
pub mod client;
pub mod config;
pub mod connection;
pub mod engine_thread;
pub mod error;
pub mod fields;
pub mod generation_request;
#[cfg(target_os = "linux")]
pub mod hand_over;
pub mod health_check;
pub mod health_listener;
pub mod held_body;
pub mod http1;
pub mod leaving;
pub mod limits;
pub mod listener;
pub mod log;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod model_manager;
pub mod panics;
pub mod path;
pub mod peers;
pub mod process;
pub mod prompts;
pub mod request_id;
pub mod request_log;
pub mod routes;
pub mod running;
pub mod sampling;
pub mod seats;
pub mod server;
#[cfg(target_os = "linux")]
pub mod service_manager;
pub mod service_tier;
pub mod sse;
pub mod startup;
pub mod tally;
pub mod telemetry;
pub mod tls;
pub mod token_text;
pub mod transport;
pub mod unsupported;
pub mod usage;
pub mod vectors;
pub mod watchdog;
mod watchers;

pub use app::App;
pub use limits::ServerLimits;
pub use model::LoadedModel;
pub use server::{CUT_OFF_EXIT, Ending, Server, Stopped};
