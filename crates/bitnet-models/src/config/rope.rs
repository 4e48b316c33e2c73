//! The rotary position encoding's part of the configuration.

use super::{ConfigError, ConfigField, RawConfig, limits};
use bitnet_kernels::{KernelError, RopeParams, RopeStyle, RopeTable};
use std::f64::consts::TAU;

/// The rotary position encoding: dimension pair `j` of a head turns by `position * base^(-2j/n_rot) / factor[j]`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub base: f32,
    /// How many dimensions of a head rotate: even, at most `head_dim`.
    pub n_rot: usize,
    /// Which dimensions make a pair.
    pub style: RopeStyle,
    /// Divisors of the frequencies, `[n_rot / 2]`; a GGUF file's `rope_freqs.weight` takes their place.
    pub freq_factors: Option<Vec<f32>>,
    /// What cosines and sines are multiplied with; 1 but for YaRN and LongRoPE.
    pub attention_factor: f32,
    /// The context that the model was made for, where only the beginning of it is computed: longer texts would have
    /// other divisors.
    pub uncomputed_context: Option<u64>,
}

/// How a file stretches the rotary frequencies for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// LLaMA 3.1's rule: slow frequencies are divided by `factor`, fast ones kept, those between interpolated.
    Llama3 {
        /// What the slow frequencies are divided by.
        factor: f64,
        /// Frequencies with fewer turns than this in the original context are slow.
        low_freq_factor: f64,
        /// Frequencies with more turns than this in the original context are fast.
        high_freq_factor: f64,
        /// The context length before the stretch.
        original_context_length: f64,
    },
    /// Every frequency is divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// YaRN's rule (Peng et al. 2023).
    Yarn(Yarn),
    /// LongRoPE: a divisor for every frequency, found by search.
    LongRope(LongRope),
    /// Whatever else the file names. `none` and `default` change nothing and are taken; everything else is refused by
    /// name.
    Named {
        /// The type as the file gives it.
        kind: String,
        /// Its factor, if it has one.
        factor: Option<f64>,
    },
}

/// YaRN's parameters: slow frequencies are divided by `factor`, fast ones kept, those between interpolated pair by
/// pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// What the slow frequencies are divided by.
    pub factor: f64,
    /// The context length before the stretch.
    pub original_context_length: f64,
    /// Pairs that turn more often than this in the original context are fast.
    pub beta_fast: f64,
    /// Pairs that turn less often than this in the original context are slow.
    pub beta_slow: f64,
    /// What cosines and sines are multiplied with; `None`: `1 + ln(factor) / 10`.
    pub attention_factor: Option<f64>,
    /// Whether the bounds of what is interpolated are whole pairs.
    pub truncate: bool,
}

/// LongRoPE's parameters. A model has two sets of divisors: one for texts within the original context, one for longer
/// texts. Which of them turns a text's first position would depend on where the text ends, so the first set is
/// computed, as far as the original context.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// Divisors of the frequencies of texts within the original context, `[n_rot / 2]`.
    pub factors: Vec<f64>,
    /// The context length before the stretch.
    pub original_context_length: u64,
    /// Whether longer texts have the same divisors.
    pub same_beyond: bool,
    /// What cosines and sines are multiplied with.
    pub attention_factor: f64,
}

impl LongRope {
    /// Whether texts of `context_length` have other divisors than those that are computed.
    fn ends_before(&self, context_length: u64) -> bool {
        !self.same_beyond && self.original_context_length < context_length
    }

    /// What cosines and sines are multiplied with where nothing else is given: `sqrt(1 + ln(stretch) / ln(original))`
    /// (transformers, `_compute_longrope_parameters`).
    pub fn usual_attention_factor(original_context_length: f64, context_length: f64) -> f64 {
        let stretch = context_length / original_context_length;
        if stretch <= 1.0 {
            1.0
        } else {
            (1.0 + stretch.ln() / original_context_length.ln()).sqrt()
        }
    }
}

impl Default for Yarn {
    /// What is usual where a file gives no number; a stretch by 1.
    fn default() -> Yarn {
        Yarn {
            factor: 1.0,
            original_context_length: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            truncate: true,
        }
    }
}

impl Yarn {
    /// What cosines and sines are multiplied with where nothing else is given.
    pub fn usual_attention_factor(factor: f64) -> f64 {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * factor.ln() + 1.0
        }
    }
}

/// Base of the frequencies where a file gives none: the value of llama.cpp and transformers.
const DEFAULT_BASE: f64 = 10_000.0;

impl RopeConfig {
    /// Checks the rotary part of what a file said.
    pub(super) fn new(raw: &RawConfig, head_dim: usize) -> Result<RopeConfig, ConfigError> {
        let base = limits::positive(ConfigField::RopeBase, raw.rope_base.unwrap_or(DEFAULT_BASE))?;
        let n_rot = limits::size(
            ConfigField::RopeDim,
            raw.rope_dim.unwrap_or(head_dim as u64),
            head_dim as u64,
        )?;
        if n_rot % 2 != 0 {
            return Err(ConfigField::RopeDim.refuse(n_rot, "an even number"));
        }
        let mut attention_factor = 1.0;
        let freq_factors = match &raw.rope_scaling {
            RopeScaling::None => None,
            &RopeScaling::Linear { factor } => {
                let factor = limits::positive(ConfigField::RopeScaling, factor)?;
                (factor != 1.0).then(|| vec![factor; n_rot / 2])
            }
            RopeScaling::Yarn(yarn) => {
                let usual = Yarn::usual_attention_factor(yarn.factor);
                let given = yarn.attention_factor.unwrap_or(usual);
                attention_factor = limits::positive(ConfigField::RopeScaling, given)?;
                Some(yarn_factors(base, n_rot, yarn)?)
            }
            RopeScaling::LongRope(long) => {
                attention_factor =
                    limits::positive(ConfigField::RopeScaling, long.attention_factor)?;
                if long.factors.len() != n_rot / 2 {
                    let expected =
                        format!("{} factors, one for each pair of dimensions", n_rot / 2);
                    return Err(ConfigField::RopeScaling.refuse(long.factors.len(), expected));
                }
                if long.original_context_length < 2 {
                    let expected = "an original context of at least 2 positions";
                    let found = long.original_context_length;
                    return Err(ConfigField::RopeScaling.refuse(found, expected));
                }
                let checked = long.factors.iter();
                let checked = checked.map(|&f| limits::positive(ConfigField::RopeScaling, f));
                Some(checked.collect::<Result<_, _>>()?)
            }
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context_length,
            } => {
                let rule = [
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_context_length,
                ];
                for parameter in rule {
                    limits::positive(ConfigField::RopeScaling, parameter)?;
                }
                if high_freq_factor <= low_freq_factor {
                    let expected =
                        format!("high_freq_factor above low_freq_factor {low_freq_factor}");
                    return Err(ConfigField::RopeScaling.refuse(high_freq_factor, expected));
                }
                Some(llama3_factors(base, n_rot, rule))
            }
            RopeScaling::Named { kind, .. } => match kind.as_str() {
                "" | "none" | "default" => None,
                _ => {
                    return Err(ConfigError::RopeScaling {
                        found: kind.clone(),
                    });
                }
            },
        };
        Ok(RopeConfig {
            base,
            n_rot,
            style: raw.rope_style,
            freq_factors,
            attention_factor,
            uncomputed_context: match &raw.rope_scaling {
                RopeScaling::LongRope(long) if long.ends_before(raw.context_length) => {
                    Some(raw.context_length)
                }
                _ => None,
            },
        })
    }

    /// The same without a stretch and with another base.
    pub(super) fn plain(
        base: f64,
        raw: &RawConfig,
        head_dim: usize,
    ) -> Result<RopeConfig, ConfigError> {
        RopeConfig::new(
            &RawConfig {
                rope_base: Some(base),
                rope_scaling: RopeScaling::None,
                ..raw.clone()
            },
            head_dim,
        )
    }

    /// Cosines and sines of `max_positions` positions.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn table(&self, max_positions: usize) -> Result<RopeTable, KernelError> {
        RopeTable::new(RopeParams {
            base: self.base,
            n_rot: self.n_rot,
            style: self.style,
            freq_factors: self.freq_factors.as_deref(),
            attention_factor: self.attention_factor,
            max_positions,
        })
    }
}

/// The divisors that LLaMA 3.1's rule gives, `[n_rot / 2]` (transformers, `_compute_llama3_parameters`):
///
/// ```text
/// turns = original_context_length / wavelength           how often the pair turns in the original context
/// smooth = (turns - low) / (high - low)                  0 where slow, 1 where fast
/// frequency' = frequency * ((1 - smooth) / factor + smooth)
/// ```
fn llama3_factors(base: f32, n_rot: usize, rule: [f64; 4]) -> Vec<f32> {
    let [
        factor,
        low_freq_factor,
        high_freq_factor,
        original_context_length,
    ] = rule;
    let factor_of_pair = |pair: usize| {
        let frequency = f64::from(base).powf(-((2 * pair) as f64) / n_rot as f64);
        let turns = original_context_length * frequency / TAU;
        let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
        let smooth = smooth.clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    (0..n_rot / 2).map(factor_of_pair).collect()
}

/// The divisors that YaRN's rule gives, `[n_rot / 2]` (transformers, `_compute_yarn_parameters`):
///
/// ```text
/// pair(turns) = n_rot ln(original_context_length / (2 pi turns)) / (2 ln base)      which pair turns so often
/// low, high   = floor(pair(beta_fast)), ceil(pair(beta_slow))                        within 0 and n_rot - 1
/// slow        = (j - low) / (high - low)                                             within 0 and 1
/// frequency'  = frequency * (slow / factor + 1 - slow)
/// ```
fn yarn_factors(base: f32, n_rot: usize, yarn: &Yarn) -> Result<Vec<f32>, ConfigError> {
    let field = ConfigField::RopeScaling;
    for parameter in [
        yarn.factor,
        yarn.original_context_length,
        yarn.beta_fast,
        yarn.beta_slow,
    ] {
        limits::positive(field, parameter)?;
    }
    if yarn.beta_fast <= yarn.beta_slow {
        let expected = format!("beta_fast above beta_slow {}", yarn.beta_slow);
        return Err(field.refuse(yarn.beta_fast, expected));
    }
    let pair = |turns: f64| {
        n_rot as f64 * (yarn.original_context_length / (turns * TAU)).ln()
            / (2.0 * f64::from(base).ln())
    };
    let (mut low, mut high) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(n_rot as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let factor_of_pair = |j: usize| {
        let slow = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / (slow / yarn.factor + (1.0 - slow))) as f32
    };
    let factors: Vec<f32> = (0..n_rot / 2).map(factor_of_pair).collect();
    match factors
        .iter()
        .find(|factor| !(factor.is_normal() && **factor > 0.0))
    {
        None => Ok(factors),
        Some(factor) => Err(field.refuse(factor, "parameters that give finite frequencies")),
    }
}
