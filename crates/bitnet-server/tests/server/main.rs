//! The server over loopback, on the real engine and the model that ships inside the command.

mod access;
mod admin;
mod attacks;
mod cancellation;
mod chat;
mod client;
mod completions;
mod determinism;
mod errors;
mod extensions;
mod faults;
mod fixture;
mod health;
mod lifecycle;
mod logs;
mod properties;
mod stats;
#[cfg(feature = "opentelemetry")]
mod telemetry;
mod tls;
mod tokens;
mod wire;
mod wire_sequences;
