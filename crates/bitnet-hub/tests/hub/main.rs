//! Pulling from a server on this machine, with everything that goes wrong on the way.

mod fake_hub;
mod pulled;

mod access;
mod faults;
mod layout;
mod resume;
mod together;
