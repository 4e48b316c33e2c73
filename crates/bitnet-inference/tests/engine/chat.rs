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
