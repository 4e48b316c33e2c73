//! The name that was probably meant.

/// The candidate with the fewest edits from `name`, if they are few enough for a slip of the hand.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that turn one text into the other (Levenshtein's distance).
fn edits(a: &str, b: &str) -> usize {
    // Names are far shorter; what is longer is no slip of one, and must not cost a product of lengths.
    const LONGEST: usize = 128;
    let b: Vec<char> = b.chars().take(LONGEST).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(LONGEST).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_none() {
        let names = ["server.port", "server.host", "auth.keys_file"];
        let near = |name| nearest(name, names.into_iter());
        assert_eq!(near("server.prot"), Some("server.port"));
        assert_eq!(near("server.hosts"), Some("server.host"));
        assert_eq!(near("auth.key_file"), Some("auth.keys_file"));
        assert_eq!(near("completely.different"), None);
        assert_eq!(near(""), None);
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "ab", 2),
            ("ab", "ba", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
            assert_eq!(edits(b, a), expected, "{b} {a}");
        }
    }
}
