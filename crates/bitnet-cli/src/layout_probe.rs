//! Which of I2_S's three byte layouts a file has: no header tells, but in a wrong one the weights are shuffled and a
//! text is as surprising as noise. So a fixed text is scored under each, and the lowest loss wins.

use bitnet_inference::{Prompt, ScoreOptions};
use bitnet_quantization::{Dialects, I2sDialect};
use serde::Serialize;

use crate::args::{EngineArgs, ModelArgs};
use crate::env::Environment;
use crate::exit::CliError;
use crate::model_source::{LoadExtras, ModelSource, load_options, load_source};

/// Plain English that any model of text has seen the like of: 130 words, so that a vocabulary of bytes or of words
/// makes at least two chunks of it.
const TEXT: &str = "The sun had gone down behind the hills when the two men reached the village. They were tired, for they had \
    walked all day, and they asked the first woman they met where they could find something to eat. She pointed to a small \
    house at the end of the street. There was a light in the window, and when they came near they heard people talking. The \
    door was open. An old man sat at the table with a child, and he looked up and said that there was room for everyone. So \
    they sat down with him, and while they ate he told them about the year when the river came over the fields, and how the \
    people had taken their animals to the church on the hill and waited there until the water went away.";

/// Tokens of a chunk: short, because the text is.
const CONTEXT: usize = 32;

/// A layout has to be this much better than the next, in nats a token, to be told from it.
const MARGIN: f64 = 0.25;

/// The loss under one layout.
#[derive(Debug, Clone, Serialize)]
pub struct LayoutLoss {
    /// `i2s-128`, `i2s-64` or `i2s-4row`.
    pub dialect: String,
    /// Mean negative log likelihood of a token; `None` where the model cannot be read so.
    pub nats_a_token: Option<f64>,
    /// Why not.
    pub problem: Option<String>,
}

/// What the probe found.
#[derive(Debug, Clone, Serialize)]
pub struct I2sLayoutProbe {
    /// All layouts.
    pub layouts: Vec<LayoutLoss>,
    /// The one that is clearly the best.
    pub best: Option<String>,
}

/// Scores the text under each layout; `dialects` says the rest of how the file is read.
///
/// # Errors
/// What loading the model gives under every layout.
pub fn run(
    source: &ModelSource,
    dialects: Dialects,
    engine: &EngineArgs,
    env: &Environment,
) -> Result<I2sLayoutProbe, CliError> {
    let mut layouts = Vec::new();
    let mut first_error = None;
    for &dialect in I2sDialect::ALL {
        let (nats_a_token, problem) = match loss(source, dialects.with_i2s(dialect), engine, env) {
            Ok(loss) => (Some(loss), None),
            Err(error) => {
                let problem = error.message.clone();
                first_error.get_or_insert(error);
                (None, Some(problem))
            }
        };
        layouts.push(LayoutLoss {
            dialect: dialect.to_string(),
            nats_a_token,
            problem,
        });
    }
    match first_error {
        Some(error) if layouts.iter().all(|layout| layout.nats_a_token.is_none()) => Err(error),
        _ => Ok(I2sLayoutProbe {
            best: best(&layouts),
            layouts,
        }),
    }
}

fn loss(
    source: &ModelSource,
    dialects: Dialects,
    engine: &EngineArgs,
    env: &Environment,
) -> Result<f64, CliError> {
    let model = ModelArgs {
        model: None,
        tokenizer: None,
        dialect: Some(dialects),
    };
    let engine = load_source(
        source,
        &load_options(&model, engine, env, LoadExtras::default()),
    )?;
    let options = ScoreOptions {
        ctx: CONTEXT.min(engine.context()),
        ..ScoreOptions::default()
    };
    let score = engine.score(Prompt::Text(TEXT.into()), &options, &mut |_| {})?;
    Ok(score.nll)
}

/// The layout with the least loss, where no other is near.
fn best(layouts: &[LayoutLoss]) -> Option<String> {
    let losses = layouts.iter();
    let mut losses: Vec<(f64, &str)> = losses
        .filter_map(|layout| Some((layout.nats_a_token?, layout.dialect.as_str())))
        .collect();
    losses.sort_by(|a, b| a.0.total_cmp(&b.0));
    match losses[..] {
        [] => None,
        [(_, only)] => Some(only.into()),
        [(first, best), (second, _), ..] => (second - first >= MARGIN).then(|| best.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_named_when_no_other_is_near() {
        let layouts = |losses: [Option<f64>; 3]| {
            let names = ["i2s-128", "i2s-64", "i2s-4row"];
            let all = names.iter().zip(losses);
            all.map(|(name, nats_a_token)| LayoutLoss {
                dialect: (*name).into(),
                nats_a_token,
                problem: None,
            })
            .collect::<Vec<_>>()
        };
        let found = |losses| best(&layouts(losses));
        assert_eq!(
            found([Some(2.0), Some(9.0), Some(8.5)]).as_deref(),
            Some("i2s-128")
        );
        assert_eq!(
            found([Some(9.0), Some(2.0), None]).as_deref(),
            Some("i2s-64")
        );
        assert_eq!(found([Some(9.0), Some(8.9), Some(9.1)]), None);
        assert_eq!(found([None, None, Some(4.0)]).as_deref(), Some("i2s-4row"));
        assert_eq!(found([None, None, None]), None);
    }
}
