//! A server whose forward pass costs nothing: what is left is the cost of serving.
//!
//! Everything but the model's arithmetic is the real thing: tokenising, scheduling, KV blocks, drawing, text, metrics,
//! HTTP. The token of a row is fixed by its position, so every answer repeats one sentence. Only measurements want
//! that: it is an example and no part of a release.
//!
//! `cargo run --release -p bitnet-server --example no_forward_pass -- MODEL.gguf [settings of bitnet serve]`

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use bitnet_inference::logits::{Candidate, Row};
use bitnet_inference::{
    Batch, Engine, HeadWork, LoadOptions, Observer, Runner, RunnerShape, SERVING_PREFILL_BESIDE,
    Traffic,
};
use bitnet_server::config::ServerConfig;
use bitnet_server::config::flags::ConfigArgs;
use bitnet_server::log::LogFilter;
use bitnet_server::process::Process;
use bitnet_server::{App, LoadedModel, ServerLimits};
use clap::Parser;

/// Serves a model without running it
#[derive(Parser)]
struct Arguments {
    /// Whose tokenizer and shape are used
    model: PathBuf,

    #[command(flatten)]
    config: ConfigArgs,
}

/// What every answer says: whole characters, tokens of usual length.
const SENTENCE: &str =
    " Once upon a time there was a little fox who lived near the river with a bear.";

/// Rows of logits of one candidate each.
struct NoForwardPass {
    shape: RunnerShape,
    sentence: Vec<Candidate>,
    rows: Vec<usize>, // of `sentence`, [logit rows of the last batch]
}

impl Runner for NoForwardPass {
    fn shape(&self) -> RunnerShape {
        self.shape
    }

    fn run(
        &mut self,
        batch: &Batch,
        _observer: Option<&mut dyn Observer>,
    ) -> Result<(), bitnet_inference::Error> {
        self.rows.clear();
        let n = self.sentence.len();
        let positions = batch.positions();
        let of_row = |&row: &u32| positions[row as usize] as usize % n;
        self.rows.extend(batch.logit_rows().iter().map(of_row));
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &[]
    }

    fn row(&self, row: usize) -> Row<'_> {
        Row::Candidates(std::slice::from_ref(&self.sentence[self.rows[row]]))
    }

    fn head_work(&self) -> HeadWork {
        HeadWork::default()
    }

    fn read_hidden(&self, _row: usize, out: &mut [f32]) {
        out.fill(0.0);
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let sources = arguments.config.sources();
    let config = ServerConfig::load(&sources)?;
    let options = LoadOptions {
        threads: Some(1),
        max_sequences: config.performance.max_concurrent_requests,
        prefix_cache: config.performance.prefix_cache,
        prefill_beside: SERVING_PREFILL_BESIDE,
        ..LoadOptions::default()
    };
    let tokenizer = bitnet_inference::open_tokenizer(&arguments.model, &Default::default())?;
    let ids = tokenizer.encode(SENTENCE, Default::default())?;
    let sentence = ids.into_iter().map(|id| Candidate { id, logit: 0.0 });
    let engine = Engine::load_with_runner(&arguments.model, &options, |runner| {
        Box::new(NoForwardPass {
            shape: runner.shape(),
            sentence: sentence.collect(),
            rows: Vec::new(),
        })
    })?;
    let app = Arc::new(App::new(ServerLimits::from(&config)));
    let model = LoadedModel::start("no-forward-pass", Arc::new(engine), None, &app)?;
    app.models.insert(model);
    Process::begin(config, sources, LogFilter::foreign())?.serve(app, |url| {
        eprintln!("serving no-forward-pass on {url}");
    })?;
    Ok(())
}
