use super::*;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn pieces(steps: &[Step], text: &str) -> Vec<String> {
    let mut pieces = Pieces::new(Cow::Borrowed(text));
    for step in steps {
        pieces.apply(step, true).unwrap();
    }
    pieces.iter().map(str::to_owned).collect()
}

fn split(pattern: Pattern, behavior: Behavior, invert: bool, text: &str) -> Vec<String> {
    pieces(
        &[Step::Split {
            pattern,
            behavior,
            invert,
        }],
        text,
    )
}

#[test]
fn patterns_with_the_usual_tail_run_in_linear_time() {
    assert!(matches!(
        Pattern::regex(LLAMA3).unwrap().0,
        Engine::Linear(_)
    ));
    assert!(matches!(
        Pattern::regex("a+(?!b)").unwrap().0,
        Engine::Backtracking(_)
    ));
    assert!(matches!(
        Pattern::regex("a?+a").unwrap().0,
        Engine::Backtracking(_)
    ));
}

#[test]
fn the_linear_engine_splits_as_the_backtracking_one() {
    let linear = Pattern::regex(LLAMA3).unwrap();
    let backtracking = Pattern(Engine::Backtracking(Box::new(
        fancy_regex::Regex::new(LLAMA3).unwrap(),
    )));
    // Every text of up to six of these: all ways in which white space, letters and line ends can meet.
    let alphabet = [' ', '\n', 'a', '7', '!', '\u{a0}'];
    let mut texts = vec![String::new()];
    for n in 0.. {
        let Some(text) = texts.get(n).cloned() else {
            break;
        };
        let cut = |pattern: &Pattern| {
            let mut cuts = Vec::new();
            pattern.cut(&text, &mut cuts).unwrap();
            cuts
        };
        assert_eq!(cut(&linear), cut(&backtracking), "{text:?}");
        if text.chars().count() < 6 {
            texts.extend(alphabet.iter().map(|c| format!("{text}{c}")));
        }
    }
    assert_eq!(texts.len(), (6usize.pow(7) - 1) / 5);
}

#[test]
fn matches_become_pieces_as_the_behavior_says() {
    for (behavior, expected) in [
        (
            Behavior::Isolated,
            vec!["the", "-", "-", "final", "-", "countdown"],
        ),
        (Behavior::Removed, vec!["the", "final", "countdown"]),
        (
            Behavior::MergedWithPrevious,
            vec!["the-", "-", "final-", "countdown"],
        ),
        (
            Behavior::MergedWithNext,
            vec!["the", "-", "-final", "-countdown"],
        ),
        (
            Behavior::Contiguous,
            vec!["the", "--", "final", "-", "countdown"],
        ),
    ] {
        assert_eq!(
            split(
                Pattern::literal("-"),
                behavior,
                false,
                "the--final-countdown"
            ),
            expected,
            "{behavior:?}"
        );
    }
}

#[test]
fn inverted_patterns_swap_matches_and_gaps() {
    let pattern = || Pattern::regex("[a-z]+").unwrap();
    assert_eq!(
        split(pattern(), Behavior::Removed, true, "ab12cd"),
        ["ab", "cd"]
    );
    assert_eq!(split(pattern(), Behavior::Removed, false, "ab12cd"), ["12"]);
}

#[test]
fn empty_matches_cut_without_making_pieces() {
    assert_eq!(
        split(
            Pattern::regex("x*").unwrap(),
            Behavior::Isolated,
            false,
            "a\u{e9}xx"
        ),
        ["a", "\u{e9}", "xx"]
    );
    assert_eq!(
        split(Pattern::literal(""), Behavior::Isolated, false, "ab"),
        ["ab"]
    );
    assert_eq!(
        split(Pattern::regex("x").unwrap(), Behavior::Isolated, false, ""),
        [""; 0]
    );
}

#[test]
fn later_steps_work_inside_the_pieces_of_earlier_ones() {
    let isolated = |source| Step::Split {
        pattern: Pattern::regex(source).unwrap(),
        behavior: Behavior::Isolated,
        invert: false,
    };
    let steps = [isolated(r"\p{N}+"), Step::SpellBytes, isolated("[0-9]{3}")];
    assert_eq!(
        pieces(&steps, "a 12345\u{e9}"),
        ["a\u{120}", "123", "45", "\u{c3}\u{a9}"]
    );
}

#[test]
fn spaces_are_put_before_pieces_that_have_none() {
    let metaspace = |prepend, split| Step::Metaspace {
        replacement: SPACE_SYMBOL,
        prepend,
        split,
    };
    assert_eq!(pieces(&[Step::PrefixSpace], "a"), [" a"]);
    assert_eq!(pieces(&[Step::PrefixSpace], " a"), [" a"]);
    assert_eq!(
        pieces(&[metaspace(Prepend::First, true)], "a  b"),
        ["▁a", "▁", "▁b"]
    );
    assert_eq!(
        pieces(&[metaspace(Prepend::Never, false)], "a  b"),
        ["a▁▁b"]
    );
    assert_eq!(pieces(&[metaspace(Prepend::Always, false)], ""), [""]);
}

#[test]
fn broken_patterns_are_errors() {
    for source in ["(", "[a", r"\", "a{999999}{999999}"] {
        let error = Pattern::regex(source).unwrap_err();
        assert!(
            matches!(error, TokenizerError::BadPattern { .. }),
            "{source}: {error}"
        );
    }
}

#[test]
fn a_pattern_that_gives_up_is_an_error() {
    let pattern = Pattern::regex("(a*)*(?=b)c").unwrap();
    let error = pattern.cut(&"a".repeat(100), &mut Vec::new()).unwrap_err();
    assert!(
        matches!(error, TokenizerError::SplitFailed { offset: 0, .. }),
        "{error}"
    );
}
