//! Every hostile value is refused under its own name, every shape in use is taken.

use super::*;

/// A small BitNet model that is valid as it stands.
fn raw() -> RawConfig {
    RawConfig {
        family: Family::from_gguf("bitnet-b1.58").unwrap(),
        name: "test".into(),
        hidden_size: 256,
        intermediate_size: 512,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: Some(2),
        head_dim: None,
        value_head_dim: None,
        vocab_size: 512,
        context_length: 4096,
        rms_norm_eps: 1e-5,
        rope_base: Some(500_000.0),
        rope_dim: None,
        rope_style: RopeStyle::Neox,
        rope_scaling: RopeScaling::None,
        embedding: None,
        tied_head: true,
    }
}

/// `raw` with one change.
fn with(change: impl FnOnce(&mut RawConfig)) -> Result<ModelConfig, ConfigError> {
    let mut config = raw();
    change(&mut config);
    ModelConfig::new(config)
}

#[test]
fn absent_fields_have_the_reference_defaults() {
    let config = with(|raw| {
        raw.n_kv_heads = None;
        raw.rope_base = None;
    })
    .unwrap();
    assert_eq!(
        (config.n_kv_heads, config.head_dim, config.rope.n_rot),
        (4, 64, 64)
    );
    assert_eq!(config.rope.base, 10_000.0);
    assert_eq!(config.rope.freq_factors, None);
}

#[test]
fn head_dim_need_not_divide_the_hidden_size() {
    let config = with(|raw| {
        raw.head_dim = Some(128);
        raw.hidden_size = 320;
    })
    .unwrap();
    assert_eq!((config.query_size(), config.kv_size()), (512, 256));
}

#[test]
fn each_hostile_value_is_refused_under_its_field() {
    use ConfigField as Field;
    type Change = fn(&mut RawConfig);
    let table: &[(Field, Change)] = &[
        (Field::HiddenSize, |raw| raw.hidden_size = 0),
        (Field::HiddenSize, |raw| raw.hidden_size = u64::MAX),
        (Field::HiddenSize, |raw| raw.hidden_size = (1 << 18) + 1),
        (Field::IntermediateSize, |raw| raw.intermediate_size = 0),
        (Field::LayerCount, |raw| raw.n_layers = 0),
        (Field::LayerCount, |raw| raw.n_layers = 513),
        (Field::HeadCount, |raw| raw.n_heads = 0),
        (Field::HeadCount, |raw| {
            raw.n_heads = 6;
            raw.hidden_size = 257;
        }),
        (Field::HeadCount, |raw| {
            raw.n_heads = 4096;
            raw.n_kv_heads = None;
            raw.head_dim = Some(4096);
        }),
        (Field::KvHeadCount, |raw| raw.n_kv_heads = Some(0)),
        (Field::KvHeadCount, |raw| raw.n_kv_heads = Some(3)),
        (Field::KvHeadCount, |raw| raw.n_kv_heads = Some(8)),
        (Field::HeadDim, |raw| raw.head_dim = Some(0)),
        (Field::HeadDim, |raw| raw.head_dim = Some(1 << 40)),
        (Field::ValueHeadDim, |raw| raw.value_head_dim = Some(32)),
        (Field::VocabSize, |raw| raw.vocab_size = 0),
        (Field::VocabSize, |raw| raw.vocab_size = (1 << 22) + 1),
        (Field::ContextLength, |raw| raw.context_length = 0),
        (Field::ContextLength, |raw| raw.context_length = 1 << 25),
        (Field::RmsNormEps, |raw| raw.rms_norm_eps = 0.0),
        (Field::RmsNormEps, |raw| raw.rms_norm_eps = -1e-5),
        (Field::RmsNormEps, |raw| raw.rms_norm_eps = 1e-60),
        (Field::RmsNormEps, |raw| raw.rms_norm_eps = f64::NAN),
        (Field::RmsNormEps, |raw| raw.rms_norm_eps = f64::INFINITY),
        (Field::RopeBase, |raw| raw.rope_base = Some(0.0)),
        (Field::RopeBase, |raw| raw.rope_base = Some(f64::NAN)),
        (Field::RopeDim, |raw| raw.rope_dim = Some(0)),
        (Field::RopeDim, |raw| raw.rope_dim = Some(63)),
        (Field::RopeDim, |raw| raw.rope_dim = Some(66)),
        (Field::RopeDim, |raw| raw.head_dim = Some(33)),
        (Field::RopeScaling, |raw| {
            raw.rope_scaling = llama3(0.0, 1.0, 4.0)
        }),
        (Field::RopeScaling, |raw| {
            raw.rope_scaling = llama3(f64::NAN, 1.0, 4.0)
        }),
        (Field::RopeScaling, |raw| {
            raw.rope_scaling = llama3(8.0, 4.0, 4.0)
        }),
    ];
    for (row, (field, change)) in table.iter().enumerate() {
        match with(change) {
            Err(ConfigError::Field { field: found, .. }) => assert_eq!(found, *field, "row {row}"),
            other => panic!("row {row}: expected {field} to be refused, got {other:?}"),
        }
    }
}

#[test]
fn an_error_names_the_field_in_both_worlds_and_what_it_may_be() {
    let error = with(|raw| raw.n_heads = 0).unwrap_err().to_string();
    assert_eq!(
        error,
        "attention.head_count (num_attention_heads) is 0, expected 1 to 4096"
    );
}

#[test]
fn unknown_rope_scaling_is_refused_by_name_and_identities_are_taken() {
    let named = |kind: &str, factor| {
        with(|raw| {
            raw.rope_scaling = RopeScaling::Named {
                kind: kind.into(),
                factor,
            }
        })
    };
    for kind in ["yarn", "dynamic", "longrope", "su"] {
        assert_eq!(
            named(kind, Some(4.0)),
            Err(ConfigError::RopeScaling { found: kind.into() })
        );
    }
    assert_eq!(
        named("linear", Some(2.0)),
        Err(ConfigError::RopeScaling {
            found: "linear".into()
        })
    );
    for (kind, factor) in [
        ("none", None),
        ("default", Some(8.0)),
        ("linear", Some(1.0)),
        ("linear", None),
    ] {
        assert_eq!(
            named(kind, factor).unwrap().rope.freq_factors,
            None,
            "{kind}"
        );
    }
}

#[test]
fn llama3_factors_keep_fast_pairs_and_divide_slow_ones() {
    let config = with(|raw| raw.rope_scaling = llama3(8.0, 1.0, 4.0)).unwrap();
    let factors = config.rope.freq_factors.unwrap();
    assert_eq!(factors.len(), 32);
    assert_eq!((factors[0], factors[31]), (1.0, 8.0));
    assert!(factors.is_sorted(), "{factors:?}");
    // Pair 14 turns 8192 * 500000^(-28/64) / 2 pi = 4.19 times, pair 15 2.78 times: the first one between.
    assert_eq!(factors[14], 1.0);
    let smooth = (2.77855 - 1.0) / 3.0;
    let expected = 1.0 / ((1.0 - smooth) / 8.0 + smooth);
    assert!(
        (factors[15] - expected).abs() < 1e-3,
        "{} against {expected}",
        factors[15]
    );
}

/// LLaMA 3.1's rule with the original context of 8192.
fn llama3(factor: f64, low_freq_factor: f64, high_freq_factor: f64) -> RopeScaling {
    RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_context_length: 8192.0,
    }
}
