//! What every route that generates text reads of its request, in one order: model, stream, choices, sampling, what is
//! shown, terms.
//!
//! A route adds its prompts and what its own fields say, and starts the request.

use std::sync::Arc;

use bitnet_inference::logprobs::MAX_TOP_LOGPROBS;
use bitnet_inference::{GenerateOptions, Terms};

use crate::app::App;
use crate::auth::rate::Permit;
use crate::caller::Caller;
use crate::checking::{Prompts, Truncate};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::model::LoadedModel;
use crate::running::{Job, Running};
use crate::sampling;
use crate::service_tier::ServiceTier;
use crate::unsupported::{self, RefusedField};

/// A request for text, without its prompts.
pub struct GenerationRequest {
    /// Who answers it.
    pub model: Arc<LoadedModel>,
    /// Whether the answer is a stream of events.
    pub stream: bool,
    /// What its chunks say of usage.
    pub usage: StreamUsage,
    /// Choices of each prompt that are drawn.
    pub n: usize,
    /// How tokens are drawn. `max_tokens` is what the client asks for; log probabilities are computed where the route
    /// needs them, and where they are shown.
    pub options: GenerateOptions,
    /// Tokens when the client asks for no number of them; `None` is what the context leaves.
    pub default_max_tokens: Option<usize>,
    /// What the answer tells beside the text.
    pub shown: Shown,
    truncate: Truncate,
    terms: Terms,
    permit: Option<Arc<Permit>>,
}

/// What the chunks of a stream say of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamUsage {
    /// Nothing.
    #[default]
    Never,
    /// The last one says it all.
    Last,
    /// Each says what it is so far (vLLM's `continuous_usage_stats`).
    Every,
}

/// What an answer tells of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shown {
    /// Log probabilities of drawn tokens, with this many alternatives.
    pub logprobs: Option<usize>,
    /// Log probabilities of the prompt's tokens, with this many alternatives (vLLM's `prompt_logprobs`).
    pub prompt_logprobs: Option<usize>,
    /// Ids of the prompt and of drawn tokens (vLLM's `return_token_ids`).
    pub token_ids: bool,
    /// The tier that the request named.
    pub tier: Option<ServiceTier>,
}

impl GenerationRequest {
    /// Reads what `fields` say, and refuses the fields of `refused`; `max_tokens` and `logprobs` are left to the route.
    ///
    /// # Errors
    /// [`crate::error::ErrorCode::ModelNotFound`], and whatever is wrong, by its field.
    pub async fn read(
        app: &Arc<App>,
        caller: &Caller,
        fields: &mut Fields,
        refused: &[RefusedField],
    ) -> Result<GenerationRequest, ApiError> {
        let model = app.model_in_time(fields, caller).await?;
        unsupported::refuse(fields, unsupported::GENERATION)?;
        unsupported::refuse(fields, refused)?;
        let stream = fields.flag("stream")?.unwrap_or(false);
        let usage = stream_usage(fields)?;
        let n = fields.count("n", 1..=app.limits.max_n)?.unwrap_or(1);
        let options = sampling::read(fields, &app.limits, &model.engine)?;
        let shown = Shown {
            logprobs: None,
            prompt_logprobs: fields.count("prompt_logprobs", 0..=MAX_TOP_LOGPROBS)?,
            token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            tier: ServiceTier::read(fields)?,
        };
        if stream && shown.prompt_logprobs.is_some() {
            let why = "a stream has no place for it; ask without stream";
            return Err(ApiError::unsupported("prompt_logprobs", why));
        }
        Ok(GenerationRequest {
            stream,
            usage,
            n,
            options,
            default_max_tokens: None,
            shown,
            truncate: truncate(fields, model.engine.context())?,
            terms: app.terms(fields, caller, shown.tier)?,
            permit: caller.permit.clone(),
            model,
        })
    }

    /// Puts it in the queue.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub async fn start(self, app: &App, prompts: Prompts) -> Result<Running, ApiError> {
        let mut options = self.options;
        let shown = self.shown;
        options.logprobs |= shown.logprobs.is_some();
        options.prompt_logprobs |= shown.prompt_logprobs.is_some();
        options.top_logprobs = shown.logprobs.max(shown.prompt_logprobs).unwrap_or(0);
        let work = Job {
            prompts,
            n: self.n,
            options,
            default_max_tokens: self.default_max_tokens,
            truncate: self.truncate,
            embed: None,
            terms: self.terms,
            permit: self.permit,
        };
        app.start(self.model, work).await
    }
}

fn stream_usage(fields: &mut Fields) -> Result<StreamUsage, ApiError> {
    const NAME: &str = "stream_options";
    let Some(mut options) = fields.object(NAME)? else {
        return Ok(StreamUsage::Never);
    };
    let inside = |error: ApiError| ApiError {
        param: error.param.map(|name| format!("{NAME}.{name}").into()),
        ..error
    };
    unsupported::refuse(&mut options, unsupported::STREAM_OPTIONS).map_err(inside)?;
    let last = options.flag("include_usage").map_err(inside)?;
    let every = options.flag("continuous_usage_stats").map_err(inside)?;
    Ok(match (last.unwrap_or(false), every.unwrap_or(false)) {
        (false, _) => StreamUsage::Never,
        (true, false) => StreamUsage::Last,
        (true, true) => StreamUsage::Every,
    })
}

/// `truncate_prompt_tokens`, vLLM's number, or `truncate`: as much as there is room for.
fn truncate(fields: &mut Fields, context: usize) -> Result<Truncate, ApiError> {
    const NAME: &str = "truncate_prompt_tokens";
    let fit = fields.flag("truncate")?.unwrap_or(false);
    let context = i64::try_from(context).unwrap_or(i64::MAX);
    Ok(match fields.integer(NAME, -1..=context)? {
        Some(-1) => Truncate::ToFit,
        Some(0) => {
            let zero = serde_json::Value::from(0);
            return Err(ApiError::invalid(
                NAME,
                &zero,
                "-1 (what fits), or 1 and more",
            ));
        }
        Some(keep) => Truncate::To(usize::try_from(keep).expect("it is positive")),
        None if fit => Truncate::ToFit,
        None => Truncate::No,
    })
}
