//! A sequence gets the same bytes however its prompt is cut up and whoever is in its batch.

use crate::cases::CASES;
use crate::reference::Golden;
use crate::session::{MAX_CHUNK, Session};
use bitnet_models::{Batch, LogitRows};

#[test]
fn prefill_in_chunks_gives_the_same_bytes() {
    for case in CASES {
        let (golden, mut session) = (case.golden(), Session::open(case));
        for prompt in golden.prompts() {
            let whole = session.all_logits(&prompt.ids, MAX_CHUNK);
            for chunk in [1, 7, 64] {
                let chunked = session.all_logits(&prompt.ids, chunk);
                assert_same_bytes(
                    &whole,
                    &chunked,
                    &format!("{} {} in chunks of {chunk}", case.path, prompt.id),
                );
            }
        }
    }
}

#[test]
fn a_sequence_among_others_gets_the_same_bytes() {
    for case in CASES {
        let (golden, mut session) = (case.golden(), Session::open(case));
        let alone: Vec<Vec<f32>> = golden
            .prompts()
            .iter()
            .map(|prompt| session.all_logits(&prompt.ids, MAX_CHUNK))
            .collect();
        let together = all_at_once(&golden, &mut session);
        for ((alone, together), prompt) in alone.iter().zip(&together).zip(golden.prompts()) {
            assert_same_bytes(
                alone,
                together,
                &format!("{} {} among others", case.path, prompt.id),
            );
        }
    }
}

/// The logits of every prompt, all prompts in the same batches: each goes on by a chunk of its own size (1, 2, 5, 10,
/// 17, 26 tokens), so decode steps and prefill chunks mix and sequences leave the batch one after another.
fn all_at_once(golden: &Golden, session: &mut Session) -> Vec<Vec<f32>> {
    let prompts = golden.prompts();
    let vocab_size = session.model.config().vocab_size;
    let mut done = vec![0; prompts.len()];
    let mut logits = vec![Vec::new(); prompts.len()];
    while done
        .iter()
        .zip(prompts)
        .any(|(&done, prompt)| done < prompt.ids.len())
    {
        let mut batch = Batch::new();
        let mut rows = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let end = prompt.ids.len().min(done[i] + 1 + i * i);
            let tokens = &prompt.ids[done[i]..end];
            batch.push_sequence(
                tokens,
                done[i],
                &interleaved_table(i, prompts.len()),
                LogitRows::All,
            );
            rows.push(tokens.len());
            done[i] = end;
        }
        let mut output = &session.run_batch(&batch)[..];
        for (logits, n_rows) in logits.iter_mut().zip(rows) {
            let (own, others) = output.split_at(n_rows * vocab_size);
            logits.extend_from_slice(own);
            output = others;
        }
    }
    logits
}

/// Block table of sequence `i` of `n`: every `n`-th of the session's 128 physical blocks, so that the sequences'
/// blocks lie mixed.
fn interleaved_table(i: usize, n: usize) -> Vec<u32> {
    (i as u32..128).step_by(n).collect()
}

/// Equality bit for bit, which also tells 0.0 from -0.0.
pub fn assert_same_bytes(expected: &[f32], found: &[f32], what: &str) {
    let same = expected.len() == found.len()
        && expected
            .iter()
            .zip(found)
            .all(|(a, b)| a.to_bits() == b.to_bits());
    let differing = expected
        .iter()
        .zip(found)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(
        same,
        "{what}: {} and {} logits, first difference at {differing:?}",
        expected.len(),
        found.len()
    );
}
