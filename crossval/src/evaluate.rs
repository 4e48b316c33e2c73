//! Running given tokens: the logits of every position for a comparison number by number, and perplexity by the method of
//! llama.cpp's own `llama-perplexity`, whose source the crate does not bring along.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::llama::trace::LayerOutputs;
use crate::llama::{Context, KV_PADDING, LlamaBatch, LlamaModel};
use crate::phase::PASS;

/// The logits of every id in the file `ids` (a JSON array), and with `traced` the hidden states, as safetensors: the
/// tensors that `bitnet logits --all --trace` writes, but for `embedding`, which llama.cpp does not show.
///
/// # Errors
/// A file that cannot be read or written, ids outside the vocabulary, what llama.cpp reports.
pub fn logits(
    model: &LlamaModel,
    threads: usize,
    ids: &Path,
    out: &Path,
    traced: bool,
) -> Result<()> {
    let ids: Vec<usize> = serde_json::from_str(&read(ids)?)?;
    let (n_vocab, hidden_size) = (model.n_vocab(), model.hidden_size());
    ensure!(!ids.is_empty(), "there are no ids");
    ensure!(
        ids.iter().all(|&id| id < n_vocab),
        "an id is outside the vocabulary of {n_vocab}"
    );
    let trace = traced.then(|| LayerOutputs::new(model.n_layers()));
    let n_ctx = ids.len().next_multiple_of(KV_PADDING);
    let mut context = model.exact_context(n_ctx, threads, trace)?;
    let mut logits = Vec::with_capacity(ids.len() * n_vocab);
    pass(&mut context, &ids, 0..ids.len(), n_vocab, |_, row| {
        logits.extend_from_slice(row);
    })?;
    let mut tensors = vec![("logits".to_owned(), n_vocab, logits.as_slice())];
    if let Some(trace) = context.trace() {
        for (layer, values) in trace.layers.iter().enumerate() {
            tensors.push((format!("layer.{layer}"), hidden_size, values));
        }
        tensors.push(("final_norm".to_owned(), hidden_size, &trace.final_norm));
    }
    for (name, width, values) in &tensors {
        ensure!(
            values.len() == ids.len() * width,
            "llama.cpp showed {} values of {name}, expected {} x {width}",
            values.len(),
            ids.len()
        );
    }
    write(out, ids.len(), &tensors).with_context(|| format!("could not write {}", out.display()))
}

/// The ids of the text in a file, and the token that begins each chunk of it.
///
/// # Errors
/// A file that cannot be read, what llama.cpp reports.
pub fn tokens(model: &LlamaModel, text: &Path) -> Result<Value> {
    Ok(json!({ "ids": model.tokenize(&text_of(text)?)?, "bos": model.bos() }))
}

/// llama-perplexity's figure, in the words of `bitnet score --format json`: llama.cpp's default cache and attention,
/// chunks of `ctx` tokens from an empty cache, the second half of each predicted.
///
/// # Errors
/// A file that cannot be read, a text shorter than two chunks, what llama.cpp reports.
pub fn score(model: &LlamaModel, threads: usize, text: &Path, ctx: usize) -> Result<Value> {
    let ids = model.tokenize(&text_of(text)?)?;
    ensure!(
        ctx >= 4 && ids.len() >= 2 * ctx,
        "the text has {} tokens, too few for two chunks of {ctx}",
        ids.len()
    );
    let n_vocab = model.n_vocab();
    let mut context = model.context(ctx.next_multiple_of(KV_PADDING), 1, threads)?;
    let (mut n, mut sum, mut sum_of_squares) = (0usize, 0f64, 0f64);
    for chunk in ids.chunks_exact(ctx) {
        let mut input = chunk.to_vec();
        if let Some(bos) = model.bos() {
            input[0] = bos;
        }
        pass(
            &mut context,
            &input,
            ctx / 2..ctx - 1,
            n_vocab,
            |position, row| {
                let nll = -log_probability(row, chunk[position + 1]);
                n += 1;
                sum += nll;
                sum_of_squares += nll * nll;
            },
        )?;
    }
    let mean = sum / n as f64;
    let variance = (sum_of_squares / n as f64 - mean * mean).max(0.0);
    Ok(json!({
        "perplexity": mean.exp(),
        "error": mean.exp() * (variance / (n as f64 - 1.0)).sqrt(),
        "nll": mean,
        "n_predictions": n,
        "n_chunks": ids.len() / ctx,
        "n_tokens": ids.len(),
        "ctx": ctx,
    }))
}

/// Runs `ids` from an empty cache and shows the logits of the positions in `wanted`, in order.
fn pass(
    context: &mut Context<'_>,
    ids: &[usize],
    wanted: Range<usize>,
    n_vocab: usize,
    mut row: impl FnMut(usize, &[f32]),
) -> Result<()> {
    context.clear();
    let mut batch = LlamaBatch::new(PASS.min(ids.len()));
    for first in (0..ids.len()).step_by(PASS) {
        let end = ids.len().min(first + PASS);
        batch.clear();
        for (position, &id) in (first..end).zip(&ids[first..end]) {
            batch.push(id, position, 0, wanted.contains(&position));
        }
        context.decode(&batch)?;
        for position in (first..end).filter(|position| wanted.contains(position)) {
            row(position, context.logits(position - first, n_vocab)?);
        }
    }
    Ok(())
}

/// As llama-perplexity computes it: the largest logit subtracted, the sum in f64.
fn log_probability(logits: &[f32], target: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from((l - max).exp())).sum();
    f64::from(logits[target] - max) - sum.ln()
}

/// The text of a file as llama.cpp's option `-f` takes it: without a line end at its end.
fn text_of(path: &Path) -> Result<String> {
    let mut text = read(path)?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

/// A safetensors file of f32 tensors `[n_rows, width]`.
fn write(path: &Path, n_rows: usize, tensors: &[(String, usize, &[f32])]) -> Result<()> {
    let mut header = Map::new();
    let mut offset = 0;
    for (name, width, values) in tensors {
        let end = offset + size_of_val(*values);
        header.insert(
            name.clone(),
            json!({ "dtype": "F32", "shape": [n_rows, width], "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for value in tensors.iter().flat_map(|(_, _, values)| *values) {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1.0, 2.0, 4.0, -300.0];
        let sum: f64 = (0..4).map(|id| log_probability(&logits, id).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-7);
        assert!(log_probability(&logits, 2) > log_probability(&logits, 1));
    }
}
