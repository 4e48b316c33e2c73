//! Conversations laid out by a template and encoded as one text.

use crate::{reference_path, stories_path};
use bitnet_inference::{Engine, LoadOptions, Message, Prompt};

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", "What is 2+2?"),
    ]
}

#[test]
fn the_models_template_is_encoded_with_special_tokens() {
    let engine =
        Engine::load(reference_path("tiny-bitnet"), &LoadOptions::default()).expect("loads");
    let Prompt::Ids(ids) = engine
        .chat_prompt(&conversation())
        .expect("it has a template")
    else {
        panic!("a chat is encoded");
    };
    let tokenizer = engine.tokenizer().expect("it has one");
    assert_eq!(
        tokenizer.decode(&ids, false).expect("known ids"),
        "<|begin_of_text|>System: Be brief.<|eot_id|>User: What is 2+2?<|eot_id|>Assistant: "
    );
    assert_eq!(
        ids.iter().filter(|&&id| id == 505).count(),
        2,
        "each <|eot_id|> is one token"
    );
    assert_eq!(ids.iter().filter(|&&id| id == 496).count(), 1, "one BOS");
}

#[test]
fn a_given_template_replaces_the_models() {
    let options = LoadOptions {
        chat_template: Some(
            "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}".into(),
        ),
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    let Prompt::Ids(ids) = engine
        .chat_prompt(&conversation())
        .expect("a template was given")
    else {
        panic!("a chat is encoded");
    };
    assert_eq!(
        engine
            .tokenizer()
            .expect("it has one")
            .decode(&ids, false)
            .expect("known ids"),
        "[system] Be brief.\n[user] What is 2+2?\n"
    );
}

#[test]
fn a_tokenizer_file_replaces_the_models() {
    let options = LoadOptions {
        tokenizer: Some(crate::in_crates(
            "bitnet-models/tests/data/stories-5m/tokenizer.json",
        )),
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    let text = "One day a little fox";
    let encode = |engine: &Engine| {
        engine
            .tokenizer()
            .expect("one")
            .encode(text, Default::default())
            .expect("encodes")
    };
    assert_eq!(encode(&engine), encode(crate::stories()));
    let missing = LoadOptions {
        tokenizer: Some("no/such/tokenizer.json".into()),
        ..LoadOptions::default()
    };
    let error = Engine::load(stories_path(), &missing)
        .err()
        .expect("there is none");
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    // A folder without one: the repository's own sources.
    let empty = LoadOptions {
        tokenizer: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/src").into()),
        ..LoadOptions::default()
    };
    let error = Engine::load(stories_path(), &empty)
        .err()
        .expect("there is none");
    assert!(
        matches!(error, bitnet_inference::Error::NoTokenizer { .. }),
        "{error}"
    );
}
