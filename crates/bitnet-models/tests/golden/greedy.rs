//! Rule 4: the text that follows each prompt.

use crate::cases::CASES;
use crate::reference::argmax;
use crate::session::Session;
use bitnet_models::LogitRows;

#[test]
fn greedy_tokens_match_up_to_the_first_close_call() {
    for case in CASES {
        let (golden, mut session) = (case.golden(), Session::open(case));
        for prompt in golden.prompts() {
            let sure = prompt
                .greedy_margins
                .iter()
                .take_while(|&&margin| margin >= 0.25)
                .count();
            if matches!(prompt.id.as_str(), "p64" | "p200") {
                assert_eq!(
                    sure, 64,
                    "{} {}: the golden text has no close call",
                    case.golden, prompt.id
                );
            }
            let said = greedy(&mut session, &prompt.ids, sure);
            assert_eq!(said, prompt.greedy[..sure], "{} {}", case.path, prompt.id);
        }
    }
}

/// The `n` most probable tokens after `prompt`, one decode step each.
pub fn greedy(session: &mut Session, prompt: &[u32], n: usize) -> Vec<u32> {
    session.restart();
    let mut logits = session.feed(prompt, LogitRows::Last);
    let mut said = Vec::with_capacity(n);
    for _ in 0..n {
        let token = argmax(&logits) as u32;
        said.push(token);
        logits = session.feed(&[token], LogitRows::Last);
    }
    said
}
