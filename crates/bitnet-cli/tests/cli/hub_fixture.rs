//! A Hub on this machine with a model, and an empty cache, for the commands that work on either.

use std::fs;
use std::process::Command;

use crate::bitnet::{Ended, bitnet, data, end};
use crate::fake_hub::FakeHub;

/// A Hub with the smallest GGUF file of the test data as `o/n`, and an empty cache.
pub struct Fixture {
    /// The Hub.
    pub hub: FakeHub,
    /// For `HF_HOME`.
    pub cache: tempfile::TempDir,
    /// The bytes of the file.
    pub model: Vec<u8>,
}

impl Fixture {
    /// With nothing pulled.
    pub fn new() -> Fixture {
        let model = fs::read(data("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf")).unwrap();
        let hub = FakeHub::start();
        hub.has(
            "o/n",
            &[("README.md", b"# Model"), ("tiny-I2_S.gguf", &model)],
        );
        Fixture {
            hub,
            cache: tempfile::tempdir().unwrap(),
            model,
        }
    }

    /// The binary, with this Hub and this cache and no other variable of the Hub's tools.
    pub fn command(&self) -> Command {
        let mut command = bitnet();
        for name in [
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command
            .env("HF_HOME", self.cache.path())
            .env("HF_ENDPOINT", self.hub.url());
        command
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN_PATH");
        command
    }

    /// Runs it with `args`.
    pub fn run(&self, args: &[&str]) -> Ended {
        end(self.command().args(args))
    }
}
