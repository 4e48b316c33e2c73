//! Stop strings, found in text that arrives in pieces.
//!
//! A stop string may begin inside one token and end inside another, so text that could still become one is held back
//! until it is decided. Where the text is cut never depends on how the tokens cut it: the matcher reads character by
//! character and stops at the first character that completes any stop string (the longest, when several end there).

/// Watches the text of one sequence.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The longest end of the text so far that is a proper beginning of a stop string: nobody has seen it yet.
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopOutcome {
    /// Text that is certain not to belong to a stop string; may be empty.
    Emit(String),
    /// The last text before a stop string; the string itself and all after it are dropped.
    Stop(String),
}

impl StopMatcher {
    /// A matcher for `stops`, none of them empty (an empty one would end every text at once; options are checked
    /// before they come here).
    pub fn new(stops: Vec<String>) -> StopMatcher {
        debug_assert!(stops.iter().all(|stop| !stop.is_empty()));
        StopMatcher {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.stops.is_empty() {
            return StopOutcome::Emit(piece.to_owned());
        }
        let mut safe = String::with_capacity(self.held.len() + piece.len());
        for character in piece.chars() {
            self.held.push(character);
            let matched = self
                .stops
                .iter()
                .filter(|stop| self.held.ends_with(stop.as_str()))
                .map(String::len)
                .max();
            if let Some(len) = matched {
                safe.push_str(&self.held[..self.held.len() - len]);
                self.held.clear();
                return StopOutcome::Stop(safe);
            }
            safe.extend(self.held.drain(..self.undecided_from()));
        }
        StopOutcome::Emit(safe)
    }

    /// The text that was held back, once it is known that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where in `held` the longest suffix starts that is a beginning of a stop string.
    fn undecided_from(&self) -> usize {
        self.held
            .char_indices()
            .map(|(start, _)| start)
            .find(|&start| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[start..]))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `pieces`; returns everything emitted and whether a stop string ended it.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                StopOutcome::Emit(safe) => text += &safe,
                StopOutcome::Stop(safe) => return (text + &safe, true),
            }
        }
        (text + &matcher.finish(), false)
    }

    #[test]
    fn stop_strings_are_found_and_never_emitted() {
        let cases: &[(&[&str], &[&str], &str, bool)] = &[
            (&[], &["all ", "of it"], "all of it", false),
            (&["END"], &["abc END def"], "abc ", true),
            (&["END"], &["abc E", "N", "D def"], "abc ", true),
            (&["END"], &["abc EN", "Q"], "abc ENQ", false),
            (&["END"], &["abc EN"], "abc EN", false),
            (&["END"], &["END"], "", true),
            (&["aab"], &["a", "a", "a", "b"], "a", true),
            (&["abab"], &["aba", "abab"], "aba", true),
            (&["\n\n"], &["a\n", "b\n", "\nc"], "a\nb", true),
            (&["né"], &["o", "n", "é", "x"], "o", true),
            (&["火事"], &["山火", "事"], "山", true),
            (&["x", "wxy"], &["vwxy"], "vw", true),
            (&["xy", "wxy"], &["vwxy"], "v", true),
        ];
        for (stops, pieces, text, stopped) in cases {
            assert_eq!(
                run(stops, pieces),
                ((*text).to_owned(), *stopped),
                "{stops:?} over {pieces:?}"
            );
        }
    }

    #[test]
    fn text_that_may_become_a_stop_string_is_held_back() {
        let mut matcher = StopMatcher::new(vec!["</s>".into()]);
        assert_eq!(matcher.push("hi <"), StopOutcome::Emit("hi ".into()));
        assert_eq!(matcher.push("/"), StopOutcome::Emit(String::new()));
        assert_eq!(matcher.push("b>"), StopOutcome::Emit("</b>".into()));
        assert_eq!(matcher.finish(), "");
    }

    proptest! {
        #[test]
        fn the_cut_does_not_depend_on_how_the_text_is_split(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            cuts in prop::collection::vec(1usize..4, 0..24),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let characters: Vec<char> = text.chars().collect();
            let mut pieces = Vec::new();
            let mut rest = characters.as_slice();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.iter().collect::<String>());
                rest = tail;
            }
            pieces.push(rest.iter().collect());
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = run(&stops, &[&text]);
            prop_assert_eq!(&run(&stops, &pieces), &whole);
            let found = stops.iter().any(|stop| text.contains(stop));
            prop_assert_eq!(whole.1, found);
            prop_assert!(text.starts_with(&whole.0));
            if !found {
                prop_assert_eq!(whole.0, text);
            }
        }
    }
}
