//! What a model says of itself beside its weights: tokenizer, template, sampling defaults, the card.

use bitnet_models::export::ModelCard;
use bitnet_quantization::TensorType;
use bitnet_tokenizers::{
    EncodeOptions, GgufVocabulary, SentencePieceFiles, Tokenizer, TokenizerOptions,
};

use super::back::directory;
use super::{DIRECTORIES, convert, converted, copy_of, data, open, targets, tokenizer};

#[test]
fn tokenizer_template_and_sampling_defaults_go_over() {
    let dir = tempfile::tempdir().unwrap();
    for name in DIRECTORIES {
        let original = open(&data(name));
        let converted = converted(dir.path(), &original, &targets(TensorType::I2S));
        let (a, b) = (tokenizer(&original), tokenizer(&converted));
        assert_eq!((a.bos(), a.eos()), (b.bos(), b.eos()), "{name}");
        let mut ends = a.end_of_generation().to_vec();
        ends.extend(&original.generation_defaults().eos);
        ends.sort_unstable();
        ends.dedup();
        assert_eq!(b.end_of_generation(), ends, "{name}");
        for text in [
            "Hello, world! 123",
            " a\n\n  b",
            "<|eot_id|>",
            "Ünïcödé 你好",
        ] {
            for special in [false, true] {
                let options = EncodeOptions {
                    add_special: special,
                    parse_special: special,
                };
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, options).ok();
                assert_eq!(ids(&a), ids(&b), "{name} {text:?}");
            }
        }
        assert_eq!(
            original.chat_template().unwrap(),
            converted.chat_template().unwrap(),
            "{name}"
        );
        let (a, b) = (
            original.generation_defaults(),
            converted.generation_defaults(),
        );
        assert_eq!(a.top_p, b.top_p, "{name}");
        assert_eq!(a.top_k, b.top_k, "{name}");
        if a.do_sample == Some(false) {
            assert_eq!(b.temperature, Some(0.0), "{name}");
        } else {
            assert_eq!(a.temperature, b.temperature, "{name}");
        }
        assert_eq!(original.config().name, converted.config().name);
    }
}

/// A directory from before `tokenizer.json`, with a SentencePiece vocabulary of as many pieces as its embedding has
/// rows.
#[test]
fn a_directory_with_a_tokenizer_model_alone_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "generation_config.json"] {
        let from = data("reference/tiny-bitnet-silu").join(name);
        std::fs::copy(from, dir.path().join(name)).unwrap();
    }
    let whole = data("../../../bitnet-tokenizers/tests/data/spm/tokenizer.model");
    let whole = std::fs::read(whole).unwrap();
    let all = SentencePieceFiles {
        model: &whole,
        ..Default::default()
    };
    let all = GgufVocabulary::from_sentencepiece(&all).unwrap();
    // The first pieces of a BPE model are one too; fields as in sentencepiece_model.proto.
    let mut model = Vec::new();
    for id in 0..500 {
        let mut piece = vec![0x0a, all.tokens[id].len() as u8];
        piece.extend(all.tokens[id].as_bytes());
        piece.push(0x15);
        piece.extend(all.scores[id].to_le_bytes());
        piece.extend([0x18, all.token_types[id] as u8]);
        model.extend([0x0a, piece.len() as u8]);
        model.extend(piece);
    }
    model.extend([0x12, 2, 3 << 3, 2]); // trainer: BPE
    model.extend([0x1a, 2, 4 << 3, 0]); // normaliser: spaces stay
    std::fs::write(dir.path().join("tokenizer.model"), &model).unwrap();
    let added = r#"{"<|eot_id|>": 505}"#;
    std::fs::write(dir.path().join("added_tokens.json"), added).unwrap();

    let out = tempfile::tempdir().unwrap();
    let converted = converted(out.path(), &open(dir.path()), &targets(TensorType::Tq2_0));
    let tokenizer = tokenizer(&converted);
    assert_eq!(tokenizer.vocab_size(), 512);
    let options = EncodeOptions::default();
    let ids = tokenizer.encode("the ships<|eot_id|>", options).unwrap();
    let expected = Tokenizer::from_gguf(all, &TokenizerOptions { strict: true }).unwrap();
    let mut expected = expected.encode("the ships", options).unwrap();
    assert!(expected.iter().all(|&id| id < 500), "{expected:?}");
    expected.push(505);
    assert_eq!(ids, expected);

    // More tokens than rows.
    std::fs::remove_file(dir.path().join("added_tokens.json")).unwrap();
    std::fs::write(dir.path().join("tokenizer.model"), whole).unwrap();
    let error = convert(&open(dir.path()), &targets(TensorType::Tq2_0)).unwrap_err();
    assert!(error.to_string().contains("640"), "{error}");
}

#[test]
fn a_model_card_becomes_keys() {
    let dir = copy_of("reference/tiny-bitnet");
    let card = "---\nlicense: mit\nlanguage:\n- en\nbase_model: org/base\n---\n# A model\n";
    std::fs::write(dir.path().join("README.md"), card).unwrap();
    let out = tempfile::tempdir().unwrap();
    let converted = converted(out.path(), &open(dir.path()), &targets(TensorType::I2S));
    let metadata = converted.describe().metadata;
    let value = |key: &str| {
        metadata
            .iter()
            .find(|entry| entry.0 == key)
            .map(|entry| &*entry.2)
    };
    assert_eq!(value("general.license"), Some("\"mit\""));
    assert_eq!(value("general.base_model.0.organization"), Some("\"org\""));
    assert_eq!(value("general.languages"), Some("an array of 1 string"));
    assert_eq!(value("bitnet-b1.58.rope.freq_base"), Some("500000"));

    let back = out.path().join("hf");
    std::fs::create_dir(&back).unwrap();
    directory(&back, &converted);
    let card = std::fs::read(back.join("README.md")).unwrap();
    let card = ModelCard::parse(&card);
    assert_eq!(card.license.as_deref(), Some("mit"));
    assert_eq!(
        (card.languages, card.base_models),
        (vec!["en".into()], vec!["org/base".into()])
    );
}
