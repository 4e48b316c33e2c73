//! The rotary position encoding's part of the configuration.

use super::{ConfigError, ConfigField, RawConfig, limits};
use bitnet_kernels::RopeStyle;
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
    /// Whatever else the file names. `none`, `default` and a `linear` stretch by 1 change nothing and are taken;
    /// everything else is refused by name.
    Named {
        /// The type as the file gives it.
        kind: String,
        /// Its factor, if it has one.
        factor: Option<f64>,
    },
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
        let freq_factors = match &raw.rope_scaling {
            RopeScaling::None => None,
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
            RopeScaling::Named { kind, factor } => match (kind.as_str(), factor) {
                ("" | "none" | "default", _) | ("linear", None | Some(1.0)) => None,
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
