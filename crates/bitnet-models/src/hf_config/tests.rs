//! Both styles of config.json, and what the quantisation section means.

use super::*;

const BASE: &str = r#""architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 32, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6"#;

fn read(extra: &str) -> Result<HfConfig, ModelError> {
    let text = format!(
        "{{{BASE}{}{extra}}}",
        if extra.is_empty() { "" } else { ", " }
    );
    let file = JsonFile::parse("config.json".into(), text.as_bytes())?;
    HfConfig::read(&file, Path::new("models/tiny"))
}

#[test]
fn both_styles_of_rotary_settings_mean_the_same() {
    let old = read(r#""rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2.0}"#)
        .unwrap()
        .raw;
    let new = read(
        r#""rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2.0}"#,
    )
    .unwrap()
    .raw;
    let linear = RopeScaling::Linear { factor: 2.0 };
    for raw in [old, new] {
        assert_eq!(
            (raw.rope_base, raw.rope_scaling),
            (Some(500_000.0), linear.clone())
        );
    }
    let plain = read(r#""rope_scaling": null"#).unwrap().raw;
    assert_eq!(
        (plain.rope_base, plain.rope_scaling, plain.rope_dim),
        (None, RopeScaling::None, None)
    );
}

#[test]
fn llama3_scaling_needs_all_its_numbers() {
    let all = r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}"#;
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context_length: 8192.0,
    };
    assert_eq!(read(all).unwrap().raw.rope_scaling, expected);
    let error = read(&all.replace("low_freq_factor", "x"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "config.json: field rope_scaling.low_freq_factor: expected a number, found no such field"
    );
}

#[test]
fn yarn_takes_transformers_defaults_for_what_is_not_given() {
    let yarn = |extra: &str| match read(&format!(r#""rope_scaling": {{"type": "yarn"{extra}}}"#)) {
        Ok(HfConfig { raw, .. }) => match raw.rope_scaling {
            RopeScaling::Yarn(yarn) => yarn,
            other => panic!("{other:?}"),
        },
        Err(error) => panic!("{error}"),
    };
    let usual = Yarn::default();
    let given = yarn(r#", "factor": 4.0, "original_max_position_embeddings": 64"#);
    let expected = Yarn {
        factor: 4.0,
        original_context_length: 64.0,
        ..usual
    };
    assert_eq!(given, expected);
    // Without a factor it is the ratio of the two contexts, without an original context that is the whole one.
    assert_eq!(
        yarn(r#", "original_max_position_embeddings": 64"#),
        expected
    );
    let whole = yarn(r#", "factor": 2.0"#);
    assert_eq!((whole.factor, whole.original_context_length), (2.0, 256.0));
    let all = yarn(
        r#", "factor": 4.0, "beta_fast": 16, "beta_slow": 2, "truncate": false, "mscale": 0.707, "mscale_all_dim": 0.5"#,
    );
    assert_eq!(
        (all.beta_fast, all.beta_slow, all.truncate),
        (16.0, 2.0, false)
    );
    let sharpened = |mscale: f64| 0.1 * mscale * 4f64.ln() + 1.0;
    let expected = sharpened(0.707) / sharpened(0.5);
    assert!((all.attention_factor.unwrap() - expected).abs() < 1e-12);
    let given = yarn(r#", "factor": 4.0, "attention_factor": 1.5, "mscale": 1.0"#);
    assert_eq!(given.attention_factor, Some(1.5));
}

#[test]
fn a_part_of_the_head_may_rotate() {
    assert_eq!(
        read(r#""partial_rotary_factor": 0.5"#)
            .unwrap()
            .raw
            .rope_dim,
        Some(8)
    );
    assert_eq!(
        read(r#""partial_rotary_factor": 0.5, "head_dim": 32"#)
            .unwrap()
            .raw
            .rope_dim,
        Some(16)
    );
    assert!(read(r#""partial_rotary_factor": 1.5"#).is_err());
}

#[test]
fn the_linear_class_decides_what_a_scale_means() {
    use ScaleDirection::{Divides, Multiplies};
    for (section, scale, online) in [
        (r#"{"quant_method": "bitnet"}"#, Divides, false),
        (
            r#"{"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline"}"#,
            Divides,
            false,
        ),
        (
            r#"{"quant_method": "bitnet", "linear_class": "autobitlinear"}"#,
            Multiplies,
            false,
        ),
        (
            r#"{"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}"#,
            Multiplies,
            true,
        ),
        ("null", Divides, false),
    ] {
        let quantization = read(&format!(r#""quantization_config": {section}"#))
            .unwrap()
            .quantization;
        assert_eq!(
            (quantization.scale, quantization.online),
            (scale, online),
            "{section}"
        );
    }
}

#[test]
fn unconverted_modules_are_matched_by_whole_segments() {
    let section = r#""quantization_config": {"modules_to_not_convert": ["lm_head", "layers.1", "down_proj"]}"#;
    let quantization = read(section).unwrap().quantization;
    for (name, dense) in [
        ("lm_head.weight", true),
        ("model.layers.1.mlp.up_proj.weight", true),
        ("model.layers.11.mlp.up_proj.weight", false),
        ("model.layers.0.mlp.down_proj.weight", true),
        ("model.layers.0.mlp.up_proj.weight", false),
    ] {
        assert_eq!(quantization.is_left_dense(name), dense, "{name}");
    }
}

#[test]
fn the_name_is_the_directory_where_the_file_has_none() {
    assert_eq!(read("").unwrap().raw.name, "tiny");
    assert_eq!(
        read(r#""_name_or_path": "org/model""#).unwrap().raw.name,
        "org/model"
    );
}
