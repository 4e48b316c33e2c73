//! Tables of text that fit a terminal of 80 columns, and the same as Markdown.

use std::io::IsTerminal;

use console::Term;

use crate::sanitize;

/// The width that tables keep to: every terminal has it, and mails and issues wrap there.
pub const WIDTH: usize = 80;

/// Which side of its column a cell sticks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under headings.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        Table {
            columns: columns
                .iter()
                .map(|(name, align)| ((*name).to_string(), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; control characters in its cells are removed.
    ///
    /// # Panics
    /// When the number of cells is not the number of columns.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(
            cells.len(),
            self.columns.len(),
            "a row has one cell for each column"
        );
        self.rows
            .push(cells.iter().map(|cell| sanitize::one_line(cell)).collect());
    }

    /// The table as standard output needs it: as wide as a terminal that is wider than [`WIDTH`], and whole for
    /// everything else, where somebody looks for a name or a path.
    pub fn shown(&self) -> String {
        if !std::io::stdout().is_terminal() {
            return self.whole();
        }
        let size = Term::stdout().size_checked();
        let width = size.map_or(WIDTH, |(_, columns)| columns.into());
        self.within(width.max(WIDTH))
    }

    /// The table with nothing cut: for what is to be typed again.
    pub fn whole(&self) -> String {
        self.within(usize::MAX)
    }

    /// The table as lines of at most [`WIDTH`] characters. When it is too wide, the widest left-aligned column is
    /// cut (with "…").
    pub fn text(&self) -> String {
        self.within(WIDTH)
    }

    fn within(&self, width: usize) -> String {
        let mut widths = self.widths();
        let gaps = 2 * (widths.len().saturating_sub(1));
        loop {
            let total: usize = widths.iter().sum::<usize>() + gaps;
            let widest = (0..widths.len())
                .filter(|&i| self.columns[i].1 == Align::Left && widths[i] > MIN_COLUMN)
                .max_by_key(|&i| widths[i]);
            match widest {
                Some(i) if total > width => {
                    widths[i] = (widths[i] - (total - width).min(widths[i])).max(MIN_COLUMN)
                }
                _ => break,
            }
        }
        let mut text = String::new();
        if self.columns.iter().any(|(name, _)| !name.is_empty()) {
            let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
            self.push_line(&names, &widths, &mut text);
            let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
            self.push_line(&rule, &widths, &mut text);
        }
        for row in &self.rows {
            self.push_line(row, &widths, &mut text);
        }
        text
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        text.push_str(&format!("| {} |\n", names.join(" | ")));
        let rules: Vec<&str> = self
            .columns
            .iter()
            .map(|(_, align)| {
                if *align == Align::Right {
                    "---:"
                } else {
                    "---"
                }
            })
            .collect();
        text.push_str(&format!("| {} |\n", rules.join(" | ")));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().map(|row| row[i].chars().count());
                cells
                    .chain([self.columns[i].0.chars().count()])
                    .max()
                    .unwrap_or(0)
            })
            .collect()
    }

    fn push_line(&self, cells: &[String], widths: &[usize], text: &mut String) {
        let mut line = String::new();
        for (i, cell) in cells.iter().enumerate() {
            let cell = cut(cell, widths[i]);
            let padding = " ".repeat(widths[i] - cell.chars().count());
            if i > 0 {
                line.push_str("  ");
            }
            match self.columns[i].1 {
                Align::Left => line.push_str(&(cell + &padding)),
                Align::Right => line.push_str(&(padding + &cell)),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// No column is cut below this: a name of fewer characters tells nothing.
const MIN_COLUMN: usize = 12;

/// The first `width` characters, the last of them "…" when something was cut off.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

/// `text` in lines of at most [`WIDTH`] characters, the first after `prefix`, the others indented as far.
pub fn wrapped(text: &str, prefix: &str) -> String {
    let indent = " ".repeat(prefix.chars().count());
    let mut lines = String::new();
    let mut line = prefix.to_string();
    let mut empty = true;
    for word in sanitize::one_line(text).split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = indent.clone();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> Table {
        let mut table = Table::new(&[("name", Align::Left), ("bytes", Align::Right)]);
        table.row(vec![name.into(), "7".into()]);
        table.row(vec!["b".into(), "1234".into()]);
        table
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(
            sample("abc").text(),
            "name  bytes\n----  -----\nabc       7\nb      1234\n"
        );
    }

    #[test]
    fn what_is_no_terminal_gets_every_column_whole() {
        let name = "x".repeat(300);
        assert!(sample(&name).whole().contains(&name));
    }

    #[test]
    fn lines_never_pass_80_characters_and_numbers_are_never_cut() {
        let text = sample(&"x".repeat(300)).text();
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert!(text.contains("…      7") && text.contains("1234"), "{text}");
    }

    #[test]
    fn cells_cannot_break_the_table() {
        let text = sample("two\nlines\x1b[2J|bar").text();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(!text.contains('\x1b'));
        assert!(sample("a|b").markdown().contains("a\\|b"));
    }

    #[test]
    fn long_messages_are_wrapped_and_indented() {
        let text = wrapped(&"word ".repeat(40), "  -> ");
        assert!(
            text.lines().count() > 2 && text.lines().all(|line| line.len() <= WIDTH),
            "{text}"
        );
        assert!(
            text.starts_with("  -> word") && text.lines().nth(1).unwrap().starts_with("     word")
        );
        assert_eq!(wrapped("a\nb\x1b[2J", "  "), "  a b\n");
    }
}
