//! The server over loopback, on the real engine and the model that ships inside the command.

mod access;
mod admin;
mod admin_port;
mod answers;
mod attacks;
mod cancellation;
mod chat;
mod client;
#[cfg(feature = "opentelemetry")]
mod collector;
mod completions;
mod credentials;
mod determinism;
mod device;
mod documented;
mod embeddings;
mod error_table;
mod errors;
mod extensions;
mod faults;
mod fixture;
mod health;
mod health_port;
mod leaving;
mod lifecycle;
mod logs;
mod managed;
mod models;
mod openapi;
mod orders;
mod properties;
mod rerank;
mod rollback;
mod room;
mod runner_faults;
mod sleeping;
mod stats;
mod storm;
#[cfg(feature = "opentelemetry")]
mod telemetry;
mod tls;
mod tokens;
mod unloading;
#[cfg(unix)]
mod watchdog;
mod wire;
mod wire_sequences;
