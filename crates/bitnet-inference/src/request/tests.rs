use super::*;

const VOCAB: usize = 100;

fn resolve(options: &GenerateOptions, model: &GenerationDefaults) -> SamplingParams {
    options.resolve(model, VOCAB).expect("valid options")
}

#[test]
fn defaults_are_those_of_llama_cpp() {
    let params = resolve(&GenerateOptions::default(), &GenerationDefaults::default());
    assert_eq!((params.temperature, params.top_k), (0.8, 40));
    assert_eq!((params.top_p, params.min_p), (0.95, 0.05));
    assert_eq!(params.penalties, Penalties::OFF);
    assert_eq!(params.penalty_window, 64);
}

#[test]
fn the_model_speaks_before_the_defaults_and_the_caller_before_the_model() {
    let model = GenerationDefaults {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_p: Some(0.9),
        top_k: Some(7),
        min_p: Some(0.2),
        repetition_penalty: Some(1.2),
        ..GenerationDefaults::default()
    };
    let params = resolve(&GenerateOptions::default(), &model);
    assert_eq!(
        (params.temperature, params.top_p, params.top_k),
        (0.6, 0.9, 7)
    );
    assert_eq!((params.min_p, params.penalties.repetition), (0.2, 1.2));
    let mine = GenerateOptions {
        temperature: Some(1.5),
        top_p: Some(1.0),
        top_k: Some(0),
        min_p: Some(0.0),
        repetition_penalty: Some(1.0),
        ..GenerateOptions::default()
    };
    let params = resolve(&mine, &model);
    assert_eq!(
        (params.temperature, params.top_p, params.top_k),
        (1.5, 1.0, 0)
    );
    assert_eq!((params.min_p, params.penalties), (0.0, Penalties::OFF));
}

#[test]
fn a_model_that_does_not_sample_is_greedy_unless_a_temperature_is_given() {
    let model = GenerationDefaults {
        do_sample: Some(false),
        temperature: Some(0.6),
        ..GenerationDefaults::default()
    };
    assert_eq!(
        resolve(&GenerateOptions::default(), &model).temperature,
        0.0
    );
    let warm = GenerateOptions {
        temperature: Some(0.3),
        ..GenerateOptions::default()
    };
    assert_eq!(resolve(&warm, &model).temperature, 0.3);
}

#[test]
fn fresh_seeds_differ_and_given_ones_stay() {
    let of = |seed| {
        resolve(
            &GenerateOptions {
                seed,
                ..GenerateOptions::default()
            },
            &GenerationDefaults::default(),
        )
        .seed
    };
    assert_ne!(of(None), of(None));
    assert_eq!(of(Some(9)), 9);
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let base = GenerateOptions::default;
    let nan = Some(f32::NAN);
    let cases = [
        (
            GenerateOptions {
                temperature: nan,
                ..base()
            },
            "temperature is NaN",
        ),
        (
            GenerateOptions {
                temperature: Some(f32::INFINITY),
                ..base()
            },
            "temperature is inf",
        ),
        (
            GenerateOptions {
                top_p: Some(1.5),
                ..base()
            },
            "top_p is 1.5, expected a number from 0 to 1",
        ),
        (
            GenerateOptions {
                top_p: Some(-0.1),
                ..base()
            },
            "top_p is -0.1",
        ),
        (
            GenerateOptions {
                min_p: nan,
                ..base()
            },
            "min_p is NaN",
        ),
        (
            GenerateOptions {
                repetition_penalty: Some(0.0),
                ..base()
            },
            "repetition_penalty is 0",
        ),
        (
            GenerateOptions {
                frequency_penalty: nan,
                ..base()
            },
            "frequency_penalty is NaN",
        ),
        (
            GenerateOptions {
                presence_penalty: nan,
                ..base()
            },
            "presence_penalty is NaN",
        ),
        (
            GenerateOptions {
                stop: vec!["a".into(), String::new()],
                ..base()
            },
            "stop is \"\"",
        ),
        (
            GenerateOptions {
                logit_bias: vec![(100, 1.0)],
                ..base()
            },
            "logit_bias is 100",
        ),
        (
            GenerateOptions {
                logit_bias: vec![(1, f32::NAN)],
                ..base()
            },
            "logit_bias is NaN",
        ),
        (
            GenerateOptions {
                logit_bias: vec![(1, f32::INFINITY)],
                ..base()
            },
            "logit_bias is inf",
        ),
    ];
    for (options, words) in cases {
        let error = options
            .resolve(&GenerationDefaults::default(), VOCAB)
            .expect_err(words);
        assert!(error.to_string().starts_with(words), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn a_bad_value_of_the_model_is_named_as_the_models() {
    let model = GenerationDefaults {
        top_p: Some(7.0),
        ..GenerationDefaults::default()
    };
    let error = GenerateOptions::default()
        .resolve(&model, VOCAB)
        .expect_err("7 is no share");
    assert_eq!(
        error.to_string(),
        "generation_config top_p is 7, expected a number from 0 to 1"
    );
}
