//! Conversations: rendered text and its ids.

use bitnet_tokenizers::{ChatTemplate, EncodeOptions, Message};

use crate::vocabularies::{LLAMA3, ids};

#[test]
fn conversations_have_the_golden_text_and_ids() {
    for (name, tokenizer) in &LLAMA3.tokenizers {
        let text_of = |id: Option<u32>| tokenizer.token_text(id.unwrap()).unwrap();
        let source = tokenizer.chat_template().unwrap();
        let template =
            ChatTemplate::new(source, text_of(tokenizer.bos()), text_of(tokenizer.eos())).unwrap();
        for case in LLAMA3.cases("chats") {
            let turns = case["messages"].as_array().unwrap();
            let field =
                |turn: &serde_json::Value, key: &str| turn[key].as_str().unwrap().to_owned();
            let messages: Vec<Message> = turns
                .iter()
                .map(|turn| Message::new(field(turn, "role"), field(turn, "content")))
                .collect();
            let text = template.render(&messages, true).unwrap();
            assert_eq!(text, case["text"], "{name}");
            let options = EncodeOptions {
                add_special: false,
                parse_special: true,
            };
            assert_eq!(
                tokenizer.encode(&text, options).unwrap(),
                ids(&case["ids"]),
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn the_repairs_of_the_official_file_are_listed() {
    let repairs = |name: &str| {
        let (_, tokenizer) = LLAMA3
            .tokenizers
            .iter()
            .find(|(other, _)| *other == name)
            .unwrap();
        tokenizer
            .repairs()
            .iter()
            .map(|repair| repair.what.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(repairs("tokenizer.json"), [""; 0]);
    let both = repairs("GGUF without pre");
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(
        both[0].contains("llama-bpe") && both[1].contains("chat format"),
        "{both:?}"
    );
}
