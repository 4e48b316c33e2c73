//! Running the engines on given tokens: `bitnet logits`, and llama.cpp through the package `crossval`.

use super::options::{ProofKind, ProofOptions};
use super::tensors::TensorFile;
use crate::llama_cpp::{self, NATIVE_FLAGS};
use crate::process::{output, target_folder};
use crate::served::release_program;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs, and a folder for what passes between them.
pub struct ProofEngines {
    bitnet: PathBuf,
    llama_cpp: PathBuf,
    threads: usize,
    scratch: PathBuf,
}

/// The tokens of a text by llama.cpp.
pub struct LlamaTokens {
    /// All of them.
    pub ids: Vec<usize>,
    /// What begins a chunk, where the tokenizer puts something in front.
    pub bos: Option<usize>,
}

impl ProofEngines {
    /// Builds what the command needs.
    ///
    /// # Errors
    /// A failed build.
    pub fn build(root: &Path, options: &ProofOptions) -> Result<ProofEngines> {
        let target = target_folder(root)?;
        let bitnet = match &options.bitnet {
            Some(program) => program.clone(),
            None => release_program(root)?,
        };
        if matches!(options.kind, ProofKind::Crossval | ProofKind::FullCrossval) {
            llama_cpp::build(root, &target, "native", NATIVE_FLAGS)?;
        }
        let scratch = target.join("proof").join(std::process::id().to_string());
        fs::create_dir_all(&scratch)
            .with_context(|| format!("could not make {}", scratch.display()))?;
        Ok(ProofEngines {
            bitnet,
            llama_cpp: llama_cpp::program(&target, "native"),
            threads: options.threads,
            scratch,
        })
    }

    /// A file in the folder that is removed at the end.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Our logits of every position, and the hidden states where `trace` says so.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn bitnet_logits(&self, model: &Path, ids: &[usize], trace: bool) -> Result<TensorFile> {
        let (ids, out) = self.exchange(ids, "bitnet")?;
        let mut command = self.bitnet_on("logits", model);
        command
            .arg("--tokens")
            .arg(ids)
            .arg("--all")
            .args(trace.then_some("--trace"));
        output(command.arg("--out").arg(&out))?;
        self.take(&out)
    }

    /// llama.cpp's, with an f32 cache and plain attention.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn llama_logits(&self, model: &Path, ids: &[usize], trace: bool) -> Result<TensorFile> {
        let (ids, out) = self.exchange(ids, "llama")?;
        let mut command = self.llama_on(model);
        command
            .arg("--logits")
            .arg(ids)
            .args(trace.then_some("--trace"));
        output(command.arg("--out").arg(&out))?;
        self.take(&out)
    }

    /// Our tokens of a text.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn bitnet_tokens(&self, model: &Path, text: &str) -> Result<Vec<usize>> {
        let file = self.scratch("text.txt");
        fs::write(&file, text)?;
        let mut command = Command::new(&self.bitnet);
        command.args(["tokenize", "--bos", "--model"]).arg(model);
        let printed = output(command.arg("--file").arg(&file))?;
        let ids = printed.split_whitespace().map(str::parse);
        ids.collect::<Result<_, _>>()
            .context("bitnet tokenize printed no ids")
    }

    /// llama.cpp's tokens of the text in a file.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn llama_tokens(&self, model: &Path, text: &Path) -> Result<LlamaTokens> {
        let printed = output(self.llama_on(model).arg("--tokenize").arg(text))?;
        let tokens: Value = serde_json::from_str(&printed)?;
        Ok(LlamaTokens {
            ids: serde_json::from_value(tokens["ids"].clone())?,
            bos: serde_json::from_value(tokens["bos"].clone())?,
        })
    }

    /// `bitnet score`.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn bitnet_score(&self, model: &Path, text: &Path, ctx: usize) -> Result<Value> {
        let mut command = self.bitnet_on("score", model);
        command.args(["--format", "json", "--ctx", &ctx.to_string()]);
        Ok(serde_json::from_str(&output(
            command.arg("--file").arg(text),
        )?)?)
    }

    /// llama-perplexity's figure by llama.cpp's logits.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn llama_score(&self, model: &Path, text: &Path, ctx: usize) -> Result<Value> {
        let mut command = self.llama_on(model);
        command.args(["--ctx", &ctx.to_string(), "--score"]);
        Ok(serde_json::from_str(&output(command.arg(text))?)?)
    }

    /// The same weights as F32, decoded by llama.cpp: activations are not rounded when it runs them.
    ///
    /// # Errors
    /// What llama.cpp reports.
    pub fn dequantized(&self, model: &Path) -> Result<PathBuf> {
        let out = self.scratch("f32.gguf");
        output(self.llama_on(model).arg("--dequantize").arg(&out))?;
        Ok(out)
    }

    fn bitnet_on(&self, command: &str, model: &Path) -> Command {
        let mut process = Command::new(&self.bitnet);
        process.args([command, "--threads", &self.threads.to_string(), "--model"]);
        process.arg(model);
        process
    }

    fn llama_on(&self, model: &Path) -> Command {
        let mut process = Command::new(&self.llama_cpp);
        process
            .arg(model)
            .args(["--threads", &self.threads.to_string()]);
        process
    }

    /// A file with the ids, and the name of the one that the engine writes.
    fn exchange(&self, ids: &[usize], engine: &str) -> Result<(PathBuf, PathBuf)> {
        let file = self.scratch("ids.json");
        fs::write(&file, serde_json::to_string(ids)?)?;
        Ok((file, self.scratch(&format!("{engine}.safetensors"))))
    }

    /// Logits of a large vocabulary are hundreds of megabytes: they are gone from the disk once they are in memory.
    fn take(&self, file: &Path) -> Result<TensorFile> {
        let tensors = TensorFile::read(file)?;
        fs::remove_file(file)?;
        Ok(tensors)
    }
}

impl Drop for ProofEngines {
    fn drop(&mut self) {
        // A folder that is left below `target` harms nobody.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}
