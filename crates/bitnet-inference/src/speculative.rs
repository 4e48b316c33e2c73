//! Lossless speculation by prompt lookup: guess the next tokens from the text itself, check all guesses in one pass.
//!
//! Text repeats itself: names, code, quotations, a document that is being edited. The last few tokens are looked up
//! in everything before them; what followed there is drafted. A forward pass over the last token and the draft reads
//! the weights once and gives the logits after each of them, so a drafted token costs little more than nothing where
//! decoding is bound by memory.
//!
//! ```text
//! history  ... the little fox met | a bear ...  the little fox met
//!              `------ found ----'  `draft'     `-- last tokens -'
//! ```
//!
//! Nothing is approximated. The sampler draws from the logits after the last token as it always does; while what it
//! draws is what was drafted, the next row of logits is that of the very same text, and it draws again. Rows of a
//! batch do not depend on one another and one draw takes one number of the random stream, so tokens are those of
//! decoding one by one, greedy or sampled. Keys and values of refused tokens are overwritten when their positions are
//! run again.
//!
//! Source: Saxena, "Prompt Lookup Decoding" (2023); for verification in one pass: Leviathan et al., 2023 (arXiv
//! 2211.17192), Stern et al., 2018 (arXiv 1811.03115).

/// Longest run of last tokens that is looked up: a longer match is a better guess.
const LONGEST_MATCH: usize = 4;

/// Shortest run: a single token matches by chance too often to be worth a row.
const SHORTEST_MATCH: usize = 2;

/// Drafted tokens of a pass when [`speculate`](crate::GenerateOptions::speculate) is asked for without a number: the
/// ternary kernels take eight rows at once, one of which is the last token.
pub const DEFAULT_DRAFT: usize = 7;

/// Most tokens that can be drafted at once for a sequence.
pub const MAX_DRAFT: usize = 15;

/// Drafts for one sequence, as many as lately proved right.
#[derive(Debug, Clone)]
pub struct Drafter {
    most: usize,       // tokens a pass, 0: off
    now: usize,        // tokens of the next draft, 1..=most
    draft: Vec<u32>,   // the draft that is being checked
    n_accepted: usize, // leading tokens of it that were drawn
}

impl Drafter {
    /// Drafts up to `most` tokens a pass, at most [`MAX_DRAFT`]; 0 never drafts.
    pub fn new(most: usize) -> Drafter {
        let most = most.min(MAX_DRAFT);
        Drafter {
            most,
            now: most,
            draft: Vec::with_capacity(most),
            n_accepted: 0,
        }
    }

    /// Looks for what may follow `history` and returns it, at most `room` tokens; empty when nothing is found.
    pub fn propose(&mut self, history: &[u32], room: usize) -> &[u32] {
        self.draft.clear();
        self.n_accepted = 0;
        let wanted = self.now.min(room);
        if wanted > 0
            && let Some(from) = continuation(history)
        {
            // As in LZ77 the copy may run into itself: what repeats with a short period goes on repeating.
            for at in from..from + wanted {
                let token = match at.checked_sub(history.len()) {
                    None => history[at],
                    Some(drafted) => self.draft[drafted],
                };
                self.draft.push(token);
            }
        }
        &self.draft
    }

    /// The draft of the pass under way.
    pub fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// Tells that `token` was drawn where the next unchecked token of the draft stands; whether that is the token.
    pub fn accept(&mut self, token: u32) -> bool {
        let right = self.draft.get(self.n_accepted) == Some(&token);
        self.n_accepted += usize::from(right);
        right
    }

    /// Ends the check of a draft: the next one is longer where this one was right throughout, shorter where it was
    /// wrong from the start. Returns how many tokens were drafted and how many of them were right.
    pub fn finish(&mut self) -> (usize, usize) {
        let (drafted, accepted) = (self.draft.len(), self.n_accepted);
        if drafted > 0 {
            if accepted == drafted {
                self.now = (2 * self.now).min(self.most);
            } else if accepted == 0 {
                self.now = (self.now / 2).max(1);
            }
        }
        self.draft.clear();
        self.n_accepted = 0;
        (drafted, accepted)
    }
}

/// Where in `history` the text goes on that its end repeats: behind the latest of the longest matches.
fn continuation(history: &[u32]) -> Option<usize> {
    let mut best = None;
    let mut longest = SHORTEST_MATCH - 1;
    // Ends of earlier runs, the latest first; the end of the history itself is not one of them.
    for end in (SHORTEST_MATCH..history.len()).rev() {
        let here = history[..end].iter().rev();
        let matched = here
            .zip(history.iter().rev())
            .take(LONGEST_MATCH)
            .take_while(|(a, b)| a == b)
            .count();
        if matched > longest {
            (best, longest) = (Some(end), matched);
            if longest == LONGEST_MATCH {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_the_longest_matches_is_continued() {
        let cases: [(&[u32], Option<usize>); 8] = [
            (&[], None),
            (&[1], None),
            (&[1, 1], None),          // one token is too short a match
            (&[1, 2, 1, 2], Some(2)), // may overlap what it repeats
            (&[1, 2, 3, 9, 1, 2], Some(2)),
            (&[1, 2, 7, 1, 2, 8, 1, 2], Some(5)), // the latest
            (&[5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], Some(3)), // the longest, though earlier
            (&[1, 2, 3, 4], None),
        ];
        for (history, expected) in cases {
            assert_eq!(continuation(history), expected, "{history:?}");
        }
    }

    #[test]
    fn drafts_keep_to_the_room_and_to_the_text() {
        let mut drafter = Drafter::new(4);
        let history = [1, 2, 3, 4, 5, 6, 1, 2];
        assert_eq!(drafter.propose(&history, 10), [3, 4, 5, 6]);
        assert_eq!(drafter.propose(&history, 2), [3, 4]);
        assert_eq!(drafter.propose(&history, 0), [0; 0]);
        assert_eq!(
            drafter.propose(&[7, 8, 7, 8], 10),
            [7, 8, 7, 8],
            "the copy runs into itself"
        );
        assert_eq!(drafter.propose(&[5, 5, 5], 10), [5; 4]);
        assert_eq!(drafter.propose(&[1, 2, 3], 10), [0; 0]);
        assert_eq!(Drafter::new(0).propose(&history, 10), [0; 0]);
        assert_eq!(Drafter::new(1000).most, MAX_DRAFT);
    }

    #[test]
    fn drafts_grow_with_success_and_shrink_with_failure() {
        let history = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2];
        let mut drafter = Drafter::new(6);
        assert_eq!(drafter.propose(&history, 10).len(), 6);
        assert!(!drafter.accept(9));
        assert_eq!(drafter.finish(), (6, 0));
        assert_eq!(drafter.propose(&history, 10).len(), 3);
        assert!(drafter.accept(3) && !drafter.accept(3));
        assert_eq!(drafter.finish(), (3, 1));
        assert_eq!(
            drafter.propose(&history, 10).len(),
            3,
            "partly right: as it is"
        );
        for token in [3, 4, 5] {
            assert!(drafter.accept(token));
        }
        assert!(!drafter.accept(6), "behind the draft nothing is right");
        assert_eq!(drafter.finish(), (3, 3));
        assert_eq!(drafter.propose(&history, 10).len(), 6);
        drafter.finish();
        for _ in 0..9 {
            drafter.propose(&history, 10);
            drafter.finish();
        }
        assert_eq!(drafter.propose(&history, 10), [3], "one row goes on trying");
        assert_eq!(drafter.finish(), (1, 0));
        drafter.propose(&[1, 2, 3], 10);
        assert_eq!(drafter.finish(), (0, 0), "no draft says nothing");
    }
}
