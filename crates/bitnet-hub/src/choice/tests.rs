use super::*;

fn chosen(names: &[&str], pattern: Option<&str>) -> Result<ChosenFiles, HubError> {
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.parse().unwrap(), 1))
        .collect();
    let wanted = WantedFiles {
        pattern,
        ..WantedFiles::default()
    };
    choose(&"o/n".parse().unwrap(), &files, wanted)
}

fn names(chosen: Result<ChosenFiles, HubError>) -> Vec<String> {
    chosen
        .unwrap()
        .files
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn choices(chosen: Result<ChosenFiles, HubError>) -> Vec<String> {
    match chosen.unwrap_err() {
        HubError::Choice { choices, .. } => choices.into_iter().map(|(name, _)| name).collect(),
        other => panic!("{other}"),
    }
}

const QUANTS: [&str; 6] = [
    "README.md",
    "m-PQ2_0.gguf",
    "m-Q2_0.gguf",
    "m-TQ1_0.gguf",
    "mmproj-m.gguf",
    "other/m-Q2_0_g64.gguf",
];

#[test]
fn the_only_gguf_is_taken_and_of_several_none_is_guessed() {
    assert_eq!(names(chosen(&["README.md", "m.gguf"], None)), ["m.gguf"]);
    assert_eq!(
        choices(chosen(&QUANTS, None)),
        [
            "m-PQ2_0.gguf",
            "m-Q2_0.gguf",
            "m-TQ1_0.gguf",
            "other/m-Q2_0_g64.gguf"
        ]
    );
    assert_eq!(names(chosen(&["imatrix.gguf", "m.gguf"], None)), ["m.gguf"]);
}

#[test]
fn a_pattern_is_a_name_then_a_word_then_a_part() {
    for (pattern, expected) in [
        ("q2_0", "m-Q2_0.gguf"),
        ("PQ2_0", "m-PQ2_0.gguf"),
        ("m-Q2_0.gguf", "m-Q2_0.gguf"),
        ("g64", "other/m-Q2_0_g64.gguf"),
        ("mmproj", "mmproj-m.gguf"),
        ("README.md", "README.md"),
    ] {
        assert_eq!(
            names(chosen(&QUANTS, Some(pattern))),
            [expected],
            "{pattern}"
        );
    }
    assert_eq!(choices(chosen(&QUANTS, Some("2_0"))).len(), 3);
    assert_eq!(choices(chosen(&QUANTS, Some("Q8_0"))).len(), 5);
    let told = |pattern: &str| chosen(&QUANTS, Some(pattern)).unwrap_err();
    let (several, none) = (told("2_0"), told("Q8_0"));
    let text = several.to_string();
    assert!(text.starts_with("'2_0' means several files"), "{text}");
    let text = none.to_string();
    assert!(text.starts_with("'Q8_0' is no file of o/n"), "{text}");
    assert!(names_another(&none) && !names_another(&several));
    // The directory's name begins as the pattern does, and is not what it means.
    let with_directory = ["config.json", "m.safetensors", "m-Q2_0.gguf"];
    let error = chosen(&with_directory, Some("safe")).unwrap_err();
    assert!(names_another(&error), "{error}");
}

#[test]
fn a_split_is_one_model_and_is_taken_whole() {
    let split = [
        "m-00001-of-00003.gguf",
        "m-00002-of-00003.gguf",
        "m-00003-of-00003.gguf",
    ];
    let all = chosen(&split, None).unwrap();
    assert_eq!(all.files.len(), 3);
    assert_eq!(all.model.unwrap().as_str(), split[0]);
    assert_eq!(chosen(&split, Some(split[1])).unwrap().files.len(), 3);
    let two = chosen(&[split[0], split[2]], None).unwrap();
    assert_eq!(two.missing, [split[1]]);
    // Not parts, whatever they look like.
    for odd in [
        "m-00000-of-00003.gguf",
        "m-00004-of-00003.gguf",
        "m-1-of-3.gguf",
        "m-99999999-of-99999999.gguf",
    ] {
        assert_eq!(chosen(&[odd], None).unwrap().missing, [""; 0], "{odd}");
    }
}

#[test]
fn a_directory_is_configuration_tokenizer_and_weights_without_pickles_and_copies() {
    let files = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "onnx/model.safetensors",
        "optimizer.pt",
        "pytorch_model.bin",
        "tokenizer.json",
    ];
    let all = chosen(&files, None).unwrap();
    assert_eq!(all.model, None);
    let taken: Vec<_> = all.files.iter().map(FileName::as_str).collect();
    let expected: Vec<_> = [1, 2, 6, 10, 4, 5].map(|i| files[i]).into();
    assert_eq!(taken, expected);
    assert_eq!(
        names(chosen(
            &["config.json", "model.safetensors", "model-x.safetensors"],
            None
        )),
        ["config.json", "model.safetensors"]
    );
}

#[test]
fn an_index_goes_with_the_parts_that_it_tells_of() {
    let index = "model.safetensors.index.json";
    let [one, two] = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let pickles = "pytorch_model.bin.index.json";
    for (weights, expected) in [
        (&[one, two][..], true),
        (&[one], true),
        (&["model.safetensors"], false),
        (&["other.safetensors"], false),
    ] {
        let mut files = vec!["config.json", index, pickles];
        files.extend(weights);
        let names = names(chosen(&files, None));
        assert_eq!(
            names.iter().any(|name| name == index),
            expected,
            "{names:?}"
        );
        assert!(!names.iter().any(|name| name == pickles), "{names:?}");
    }
}

#[test]
fn a_directory_beside_a_gguf_has_to_be_named() {
    let files = ["config.json", "m.gguf", "model.safetensors"];
    assert_eq!(choices(chosen(&files, None)), ["m.gguf", "safetensors"]);
    assert_eq!(
        names(chosen(&files, Some("safetensors"))),
        ["config.json", "model.safetensors"]
    );
    assert_eq!(names(chosen(&files, Some("m"))), ["m.gguf"]);
}

#[test]
fn pickles_are_taken_when_asked_for_and_there_is_nothing_else() {
    let names = ["config.json", "pytorch_model.bin"];
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.parse().unwrap(), 1))
        .collect();
    let id = "o/n".parse().unwrap();
    let refused = choose(&id, &files, WantedFiles::default()).unwrap_err();
    assert!(refused.to_string().contains("pickle") && refused.hint().contains("--allow-pickle"));
    let wanted = WantedFiles {
        allow_pickle: true,
        ..WantedFiles::default()
    };
    assert_eq!(choose(&id, &files, wanted).unwrap().files.len(), 2);
    for named in ["pytorch_model.bin", "a/b.PT"] {
        let files = [(named.parse().unwrap(), 1), ("m.gguf".parse().unwrap(), 1)];
        let mut wanted = WantedFiles {
            pattern: Some(named),
            ..WantedFiles::default()
        };
        let refused = choose(&id, &files, wanted).unwrap_err();
        assert!(
            refused.to_string().contains(named) && refused.hint().contains("--allow-pickle"),
            "{refused}"
        );
        wanted.allow_pickle = true;
        assert_eq!(choose(&id, &files, wanted).unwrap().files.len(), 1);
    }
}

#[test]
fn what_is_proposed_has_the_revision_that_was_named() {
    let files = ["a b.gguf", "c.gguf"].map(|name| (name.parse().unwrap(), 1));
    let revision = "v1".parse().unwrap();
    let wanted = WantedFiles {
        revision: Some(&revision),
        ..WantedFiles::default()
    };
    let several = choose(&"o/n".parse().unwrap(), &files, wanted).unwrap_err();
    assert_eq!(several.hint(), "name one, as 'o/n:a b.gguf@v1'");
}

#[test]
fn a_repository_without_a_model_says_what_it_has() {
    for (files, why) in [
        (&["README.md"][..], "neither"),
        (&[], "neither"),
        (&["adapter_model.safetensors"], "no config.json"),
        (&["model.safetensors"], "no config.json"),
    ] {
        let error = chosen(files, None).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn parts_that_are_claimed_by_the_billion_cost_nothing() {
    let claims: Vec<String> = (0..20_000)
        .map(|n| format!("{n}-00001-of-99999.gguf"))
        .collect();
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    assert_eq!(choices(chosen(&claims, None)).len(), claims.len());
    let one = chosen(&claims, Some("7-00001-of-99999.gguf")).unwrap();
    assert_eq!((one.files.len(), one.missing.len()), (1, 99_998));
    assert_eq!(
        some_of(&one.missing[..6]),
        "7-00002-of-99999.gguf, 7-00003-of-99999.gguf, 7-00004-of-99999.gguf, 7-00005-of-99999.gguf and 2 more"
    );
}
