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
        input_norm_eps: None,
        rope_base: Some(500_000.0),
        rope_dim: None,
        rope_style: RopeStyle::Neox,
        rope_scaling: RopeScaling::None,
        sliding: None,
        embedding: None,
        multipliers: None,
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
    for kind in ["dynamic", "longrope", "su"] {
        assert_eq!(
            named(kind, Some(4.0)),
            Err(ConfigError::RopeScaling { found: kind.into() })
        );
    }
    for (kind, factor) in [("none", None), ("default", Some(8.0))] {
        assert_eq!(
            named(kind, factor).unwrap().rope.freq_factors,
            None,
            "{kind}"
        );
    }
}

#[test]
fn linear_factors_divide_all_frequencies() {
    let linear = |factor| with(|raw| raw.rope_scaling = RopeScaling::Linear { factor });
    assert_eq!(linear(2.0).unwrap().rope.freq_factors, Some(vec![2.0; 32]));
    assert_eq!(linear(1.0).unwrap().rope.freq_factors, None);
    assert!(linear(0.0).is_err() && linear(f64::INFINITY).is_err());
}

/// Qwen3's own rule for four times its context. For base 1e6 and head size 64, 11.8 pairs turn 32 times in it and 19.8
/// once: pairs 11 to 20 are blended.
#[test]
fn yarn_keeps_fast_pairs_divides_slow_ones_and_sharpens_attention() {
    let yarn = |yarn| {
        with(|raw| {
            raw.rope_base = Some(1e6);
            raw.rope_scaling = RopeScaling::Yarn(yarn);
        })
    };
    let given = Yarn {
        factor: 4.0,
        original_context_length: 32_768.0,
        ..Yarn::default()
    };
    let rope = yarn(given).unwrap().rope;
    assert_eq!(rope.attention_factor, 1.138_629_4);
    let factors = rope.freq_factors.unwrap();
    assert!(factors.is_sorted());
    let at = |pair: usize| factors[pair];
    assert_eq!((at(0), at(11), at(20), at(31)), (1.0, 1.0, 4.0, 4.0));
    // Pair 15 is 4/9 of the way: 1 / (5/9 + 4/9 / 4).
    assert!((at(15) - 1.5).abs() < 1e-6, "{}", at(15));
    for bad in [
        Yarn {
            factor: 0.0,
            ..given
        },
        Yarn {
            original_context_length: f64::NAN,
            ..given
        },
        Yarn {
            beta_fast: -1.0,
            ..given
        },
        Yarn {
            beta_slow: 64.0,
            ..given
        },
        Yarn {
            attention_factor: Some(0.0),
            ..given
        },
    ] {
        let refused = matches!(
            yarn(bad),
            Err(ConfigError::Field {
                field: ConfigField::RopeScaling,
                ..
            })
        );
        assert!(refused, "{bad:?}");
    }
}

#[test]
fn a_context_ends_where_layers_look_back_no_further() {
    let sliding = |window, full_layers| {
        with(|raw| {
            raw.sliding = Some(RawSliding {
                window,
                rope_base: 1e4,
                full_layers,
            });
            raw.n_layers = 7;
        })
    };
    let config = sliding(512, FullLayers::LastOfEvery(3)).unwrap();
    assert_eq!(config.context_length, 512);
    let found = config.sliding.unwrap();
    assert_eq!((found.rope.base, config.rope.base), (1e4, 5e5));
    let layers = [false, false, true, false, false, true, false];
    assert_eq!(found.full_layers, layers);
    assert_eq!(
        sliding(9999, FullLayers::LastOfEvery(6))
            .unwrap()
            .context_length,
        4096
    );
    assert_eq!(
        sliding(9, FullLayers::Listed(layers.to_vec()))
            .unwrap()
            .context_length,
        9
    );
    for (window, layers) in [
        (0, FullLayers::LastOfEvery(6)),
        (512, FullLayers::LastOfEvery(0)),
        (512, FullLayers::Listed(vec![true; 6])),
    ] {
        let refused = matches!(
            sliding(window, layers),
            Err(ConfigError::Field {
                field: ConfigField::SlidingWindow,
                ..
            })
        );
        assert!(refused, "{window}");
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
