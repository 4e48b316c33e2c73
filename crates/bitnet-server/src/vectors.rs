//! Vectors of texts, for the routes that answer with them (`routes::embeddings`) or compare them (`routes::rerank`).
//!
//! A model that was made to generate has no vectors unless the operator says how its states are pooled (`--pooling`, as
//! in llama.cpp): a silent choice would be a wrong one for somebody.

use std::borrow::Cow;
use std::sync::Arc;

use bitnet_inference::{GenerateOptions, Pooling, Prompt, Terms};

use crate::app::App;
use crate::auth::rate::Permit;
use crate::caller::Caller;
use crate::checking::{Prompts, Truncate};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::model::LoadedModel;
use crate::running::{Job, Running};
use crate::service_tier::ServiceTier;

/// Texts that are in the queue at once: enough for a few full batches, and others get their turns between.
const AT_ONCE: usize = 64;

/// A request for vectors, without its texts.
pub struct VectorRequest {
    /// Who makes them.
    pub model: Arc<LoadedModel>,
    pooling: Pooling,
    terms: Terms,
    permit: Option<Arc<Permit>>,
}

/// What is asked for beside the text, and what a complaint about a text calls it.
#[derive(Debug, Clone, Copy)]
pub struct VectorWish {
    /// How the states of a text become one vector.
    pub pooling: Pooling,
    /// Place of the first text in the request, from 0.
    pub first: usize,
    /// The field of the request that has the text of a place.
    pub field: fn(usize) -> Cow<'static, str>,
}

impl VectorRequest {
    /// Reads what the routes have in common.
    ///
    /// # Errors
    /// [`crate::error::ErrorCode::UnsupportedParameter`] for a model without vectors, and bad terms.
    pub fn read(
        app: &App,
        caller: &Caller,
        fields: &mut Fields,
        model: Arc<LoadedModel>,
    ) -> Result<VectorRequest, ApiError> {
        let pooling = app.limits.pooling.or(model.engine.pooling());
        let pooling = pooling.ok_or_else(|| {
            let why = "this model was made to generate text and its files name no pooling; whoever runs the server can \
                       choose one, such as --pooling last";
            ApiError::unsupported("model", why).with_hint("name a model that was made for vectors, if there is one")
        })?;
        Ok(VectorRequest {
            terms: {
                let tier = ServiceTier::read(fields)?;
                app.terms(fields, caller, tier)?
            },
            permit: caller.permit.clone(),
            pooling,
            model,
        })
    }

    /// Tells `take` the first `length` numbers of each text's vector, brought to length 1, in the order of `texts`;
    /// returns the request, which has ended: its texts are one, in as many parts as the queue has room for. `field`
    /// says which field of the request has the text of a place.
    ///
    /// # Errors
    /// As [`crate::running::Running::start`] and [`crate::running::Running::piece`].
    pub async fn run(
        self,
        app: &App,
        texts: Vec<Prompt>,
        length: usize,
        field: fn(usize) -> Cow<'static, str>,
        mut take: impl FnMut(Vec<f32>),
    ) -> Result<Running, ApiError> {
        let at_once = AT_ONCE.min(self.model.admission.most_choices()).max(1);
        let mut texts = texts.into_iter();
        let mut wish = VectorWish {
            pooling: self.pooling,
            first: 0,
            field,
        };
        let work = Job {
            prompts: Prompts::Plain(texts.by_ref().take(at_once).collect()),
            n: 1,
            options: GenerateOptions {
                max_tokens: Some(0),
                ..GenerateOptions::greedy()
            },
            default_max_tokens: None,
            truncate: Truncate::No,
            embed: Some(wish),
            terms: self.terms,
            permit: self.permit.clone(),
        };
        let mut running = app.start(self.model.clone(), work).await?;
        loop {
            let mut vectors = vec![Vec::new(); running.choices.len() - wish.first];
            while let Some(piece) = running.piece().await {
                let piece = piece?;
                if let Some(vector) = piece.embedding {
                    vectors[piece.choice - wish.first] = unit(&vector[..length]);
                }
            }
            vectors.into_iter().for_each(&mut take);
            wish.first = running.choices.len();
            let more: Vec<Prompt> = texts.by_ref().take(at_once).collect();
            if more.is_empty() {
                return Ok(running);
            }
            if let Err(error) = running.embed_more(more, wish).await {
                running.give_up(&error);
                return Err(error);
            }
        }
    }
}

impl VectorWish {
    /// The engine speaks of prompts: here is what the client calls the one at `index` of these.
    pub fn about(&self, index: usize, error: ApiError) -> ApiError {
        match error.param.as_deref() {
            Some("prompt") => ApiError {
                param: Some((self.field)(self.first + index)),
                ..error
            },
            _ => error,
        }
    }
}

/// The vector of length 1 in the same direction; zeros have none and stay.
fn unit(vector: &[f32]) -> Vec<f32> {
    let square: f64 = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    // What the engine made a unit vector of already is left as it is, to the last bit.
    if square == 0.0 || (square - 1.0).abs() < 1e-6 {
        return vector.to_vec();
    }
    let length = square.sqrt();
    let scaled = vector.iter().map(|&v| (f64::from(v) / length) as f32);
    scaled.collect()
}
