//! Every feature of the language that chat templates use, against Jinja2.
//!
//! `tests/data/jinja/golden.json` is what Jinja2 makes of each template (`make_jinja.py` there has the settings).

use bitnet_tokenizers::{ChatTemplate, Message};

#[test]
fn templates_render_as_jinja2_renders_them() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../data/jinja/golden.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let field = |turn: &serde_json::Value, key: &str| turn[key].as_str().unwrap().to_owned();
        let messages: Vec<Message> = (case["messages"].as_array().unwrap().iter())
            .map(|turn| Message::new(field(turn, "role"), field(turn, "content")))
            .collect();
        let rendered = ChatTemplate::new(source, "<s>", "</s>")
            .and_then(|template| template.render(&messages, true));
        match (rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) => assert_eq!(text, expected, "{source}"),
            (Err(_), None) => {}
            (rendered, expected) => panic!("{source}: {rendered:?} instead of {expected:?}"),
        }
    }
}
