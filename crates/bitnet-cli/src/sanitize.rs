//! Model output and texts from files, made safe for a terminal.
//!
//! A model can be talked into printing escape sequences that retitle the window, move the cursor over earlier
//! lines or write to the clipboard (OSC 52). A terminal acts on bytes, and a sequence can be spread over several
//! tokens, so the filter is a small state machine that lives as long as the answer. The grammar is ECMA-48's:
//!
//! ```text
//! CSI   ESC [  parameters 0x30-0x3f, intermediates 0x20-0x2f, final 0x40-0x7e
//! OSC   ESC ]  ... BEL or ESC \          (also DCS "P", SOS "X", PM "^", APC "_")
//! other ESC    intermediates 0x20-0x2f, final 0x30-0x7e
//! ```
//! The 8-bit forms (U+0080 to U+009F) count too. Newline and tab pass; other control characters are dropped.

/// Removes terminal control sequences from a text that arrives in pieces.
#[derive(Debug, Default, Clone)]
pub struct Sanitizer {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// Inside a CSI sequence.
    Control,
    /// Inside a string sequence; a newline ends it too, so that an unterminated one cannot swallow the answer.
    String,
    /// ESC inside a string sequence: the terminator if a backslash follows.
    StringEscape,
}

impl Sanitizer {
    /// The part of `piece` that is safe to print; what follows depends on the pieces before.
    pub fn push(&mut self, piece: &str) -> String {
        let mut safe = String::with_capacity(piece.len());
        for c in piece.chars() {
            self.step(c, &mut safe);
        }
        safe
    }

    fn step(&mut self, c: char, safe: &mut String) {
        self.state = match (self.state, c) {
            // The newline is kept whatever sequence it cuts short: losing the text after it would be worse.
            (_, '\n') => {
                safe.push('\n');
                State::Text
            }
            (State::Text | State::Escape | State::Control, '\u{9b}') => State::Control,
            (
                State::Text | State::Escape | State::Control,
                '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}',
            ) => State::String,
            (State::Text | State::Escape | State::Control, '\x1b') => State::Escape,
            (State::Text, '\t') => {
                safe.push('\t');
                State::Text
            }
            (State::Text, c) if c.is_control() => State::Text,
            (State::Text, c) => {
                safe.push(c);
                State::Text
            }
            (State::Escape, '[') => State::Control,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::String,
            (State::Escape, ' '..='/') => State::Escape,
            (State::Escape, '0'..='~') => State::Text,
            (State::Control, ' '..='?') => State::Control,
            (State::Control, '@'..='~') => State::Text,
            // Not part of any sequence: the sequence is broken off and the character is ordinary text again.
            (State::Escape | State::Control, c) => {
                if !c.is_control() {
                    safe.push(c);
                }
                State::Text
            }
            (State::String | State::StringEscape, '\x07' | '\u{9c}') => State::Text,
            (State::String | State::StringEscape, '\x1b') => State::StringEscape,
            (State::StringEscape, '\\') => State::Text,
            (State::String | State::StringEscape, _) => State::String,
        };
    }
}

/// A whole text without control sequences; newlines and tabs stay.
pub fn text(text: &str) -> String {
    Sanitizer::default().push(text)
}

/// A text for one line of output: no control sequences, newlines and tabs become spaces.
pub fn one_line(text: &str) -> String {
    self::text(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_removed_and_text_is_kept() {
        let cases = [
            ("plain text\n\twith tab", "plain text\n\twith tab"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[38;5;1mred\x1b[K", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]52;c;aGk=\x1b\\after", "after"),
            ("\x1bPdevice\x1b\\after", "after"),
            ("\u{9b}31mred", "red"),
            ("\u{9d}0;title\u{9c}after", "after"),
            ("\x1b(Bcharset", "charset"),
            ("\x1bcreset", "reset"),
            ("bell\x07 back\x08space\r\ndel\x7f", "bell backspace\ndel"),
            ("\x1b]0;never ended\nnext line", "\nnext line"),
            ("\x1b", ""),
            ("é\u{1f600}", "é\u{1f600}"),
            ("\x1bé", "é"),
        ];
        for (dirty, clean) in cases {
            assert_eq!(text(dirty), clean, "{dirty:?}");
        }
    }

    #[test]
    fn a_sequence_spread_over_pieces_is_removed_wherever_it_is_cut() {
        let dirty = "a\x1b[31mb\x1b]0;title\x1b\\c\x1b]8;;http://x\x07d";
        for cut in 1..dirty.len() {
            let mut sanitizer = Sanitizer::default();
            let joined = sanitizer.push(&dirty[..cut]) + &sanitizer.push(&dirty[cut..]);
            assert_eq!(joined, "abcd", "cut at {cut}");
        }
    }

    #[test]
    fn one_line_has_no_line_breaks() {
        assert_eq!(one_line("a\nb\tc\x1b[2J"), "a b c");
    }
}
