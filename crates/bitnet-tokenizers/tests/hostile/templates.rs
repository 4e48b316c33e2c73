//! Chat templates put together at random from the words of real ones: each renders or fails, and none panics.

use bitnet_tokenizers::{ChatTemplate, Message};

/// Templates with every feature of the language.
const WORDS_FROM: &str = include_str!("../data/jinja/templates.txt");

/// Words of the language that no one template has often.
const WORDS: [&str; 24] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{%-",
    "-%}",
    "{#",
    "#}",
    "-1",
    "0",
    "9223372036854775807",
    "-9223372036854775808",
    "1e308",
    "''",
    "none",
    "messages",
    "loop",
    "[",
    "]",
    ":",
    "'é€😀'",
    "endfor",
    "endif",
    "|",
];

/// Numbers that only look random (Knuth's multiplier for 64 bits).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A text in words: runs of letters, and single characters.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            c if c.is_alphanumeric() => rest
                .find(|c: char| !c.is_alphanumeric())
                .unwrap_or(rest.len()),
            '{' | '%' | '}' if rest.len() > 1 && rest.is_char_boundary(2) => 2,
            c => c.len_utf8(),
        };
        let (word, behind) = rest.split_at(end);
        words.push(word);
        rest = behind;
    }
    words
}

#[test]
fn templates_put_together_at_random_never_panic() {
    let templates: Vec<Vec<&str>> = WORDS_FROM.split("\n=====\n").map(words).collect();
    let all: Vec<&str> = templates.iter().flatten().copied().chain(WORDS).collect();
    let messages = [
        Message::new("user", "Hé\n2+2?"),
        Message::new("assistant", ""),
    ];
    let mut random = Random(1);
    let mut rendered = 0;
    for _ in 0..20_000 {
        let mut words = templates[random.below(templates.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(words.len());
            match random.below(4) {
                0 => drop(words.remove(at)),
                1 => words.insert(at, all[random.below(all.len())]),
                2 => words[at] = WORDS[random.below(WORDS.len())],
                _ => words[at] = all[random.below(all.len())],
            }
            if words.is_empty() {
                words.push("x");
            }
        }
        let source = words.concat();
        if let Ok(template) = ChatTemplate::new(&source, "<s>", "</s>") {
            rendered += usize::from(template.render(&messages, true).is_ok());
            let _ = template.render(&[], false);
        }
    }
    // Most changes leave a template whole: the machine was reached, not the parser alone.
    assert!(rendered > 2_000, "{rendered}");
}
