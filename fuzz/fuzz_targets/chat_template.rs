//! Any text as a chat template: rendering ends, within its limits, in a text or an error.
#![no_main]

use bitnet_tokenizers::{ChatTemplate, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else {
        return;
    };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "{{ 7 * 7 }} <|eot_id|>"),
        Message::new("assistant", ""),
        Message::new("user", "and now?"),
    ];
    _ = template.render(&messages, true);
    _ = template.render(&[], false);
});
