//! What was found, for people and for programs: checks with their limits, figures, and where two engines part first.

use super::distance::{Agreement, Position};
use super::hidden::{HiddenStates, first_over};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// What a report calls a model: its path, from the repository's root where it lies there.
pub fn named(root: &Path, model: &Path) -> String {
    let inside = model.strip_prefix(root).unwrap_or(model);
    inside.display().to_string()
}

/// A figure and what it has to keep to.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// What came out.
    pub found: f64,
    /// What it may be.
    pub limit: Bound,
}

/// The bound of a check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Check {
    /// `found` has to be `limit` or less.
    pub fn at_most(name: impl Into<String>, found: f64, limit: f64) -> Check {
        Check {
            name: name.into(),
            found,
            limit: Bound::AtMost(limit),
        }
    }

    /// `found` has to be `limit` or more.
    pub fn at_least(name: impl Into<String>, found: f64, limit: f64) -> Check {
        Check {
            name: name.into(),
            found,
            limit: Bound::AtLeast(limit),
        }
    }

    /// Whether it keeps to it. What is no number does not.
    pub fn holds(&self) -> bool {
        match self.limit {
            Bound::AtMost(limit) => self.found <= limit,
            Bound::AtLeast(limit) => self.found >= limit,
        }
    }

    fn json(&self) -> Value {
        let (kind, limit) = match self.limit {
            Bound::AtMost(limit) => ("at_most", limit),
            Bound::AtLeast(limit) => ("at_least", limit),
        };
        json!({ "name": self.name, "found": self.found, kind: limit, "holds": self.holds() })
    }

    fn line(&self) -> String {
        let mark = if self.holds() { "ok  " } else { "FAIL" };
        let limit = match self.limit {
            Bound::AtMost(limit) => format!("at most {limit}"),
            Bound::AtLeast(limit) => format!("at least {limit}"),
        };
        format!(
            "  {mark} {:<46} {:>10}  {limit}",
            self.name,
            figure(self.found)
        )
    }
}

/// One side held against another.
#[derive(Debug)]
pub struct SideBySide {
    /// The side whose probabilities weigh.
    pub reference: String,
    /// The other side.
    pub found: String,
    /// What the positions say.
    pub agreement: Agreement,
    /// Hidden states, where both sides show them.
    pub hidden: Option<HiddenStates>,
    /// Relative distance of a hidden state from which on a layer is named.
    pub hidden_limit: f64,
}

/// All about one model.
#[derive(Debug)]
pub struct ModelProof {
    /// The model.
    pub model: String,
    /// What decides.
    pub checks: Vec<Check>,
    /// Figures.
    pub comparisons: Vec<SideBySide>,
    /// What else is worth a line.
    pub notes: Vec<String>,
}

impl ModelProof {
    /// Whether all checks hold.
    pub fn holds(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }

    /// For a program.
    pub fn json(&self) -> Value {
        json!({
            "model": self.model,
            "agrees": self.holds(),
            "checks": self.checks.iter().map(Check::json).collect::<Vec<_>>(),
            "comparisons": self.comparisons.iter().map(SideBySide::json).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.model);
        for check in &self.checks {
            let _ = writeln!(text, "{}", check.line());
        }
        for comparison in &self.comparisons {
            text += &comparison.text();
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }
}

impl SideBySide {
    fn json(&self) -> Value {
        let steps = |steps: Vec<(&str, f64)>| -> Value {
            let step = |(name, distance)| json!({ "step": name, "relative_distance": distance });
            steps.into_iter().map(step).collect()
        };
        let at_first = self
            .agreement
            .first
            .as_ref()
            .or(self.agreement.worst.as_ref());
        json!({
            "reference": self.reference, "found": self.found, "figures": self.agreement.json(),
            "hidden_states": self.hidden.as_ref().map(|hidden| steps(hidden.all())),
            "hidden_states_at_first_difference": self.hidden.as_ref().zip(at_first)
                .map(|(hidden, p)| steps(hidden.at(&p.sample, p.index))),
        })
    }

    fn text(&self) -> String {
        let a = &self.agreement;
        let mut text = format!("  {} against {}:\n", self.found, self.reference);
        let _ = writeln!(
            text,
            "    top-1 same at {} of {} positions (95 % sure: {} or more), {} different where the lead exceeds {}",
            a.same,
            a.n,
            a.wilson_lower
                .map_or("-".into(), |bound| format!("{:.2} %", 100.0 * bound)),
            a.sure_and_different,
            super::distance::SURE_MARGIN,
        );
        if let Some(kl) = a.divergence {
            let _ = writeln!(
                text,
                "    KL {} +/- {} nats; logits apart by {} (rms), at most {}",
                figure(kl.value),
                figure(kl.error),
                figure(a.rms),
                figure(f64::from(a.largest)),
            );
        }
        if let (Some([reference, found]), Some(change)) = (a.perplexities(), a.perplexity_change())
        {
            let _ = writeln!(
                text,
                "    perplexity {:.4} +/- {:.4} against {:.4} +/- {:.4} ({:+.3} %) over {} tokens",
                found.value,
                found.error,
                reference.value,
                reference.error,
                100.0 * change,
                a.n_scored,
            );
        }
        let (only_reference, only_found, p) = a.right_alone;
        let _ = writeln!(
            text,
            "    next token right on one side only: {only_found} / {only_reference} (McNemar p = {p:.3})"
        );
        for (what, position) in [
            ("first other token", &a.first),
            ("furthest apart", &a.worst),
        ] {
            if let Some(position) = position {
                let _ = writeln!(text, "    {what}: {}", self.place(position));
            }
        }
        if let Some(hidden) = &self.hidden {
            let _ = writeln!(
                text,
                "    hidden states apart: {}",
                percentages(&hidden.all())
            );
        }
        text
    }

    fn place(&self, position: &Position) -> String {
        let mut text = format!(
            "{} token {}: {} for {} (its lead was {:.3}), KL {}",
            position.sample,
            position.index,
            position.found,
            position.reference.0,
            position.reference.1,
            figure(position.divergence),
        );
        let Some(hidden) = &self.hidden else {
            return text;
        };
        let steps = hidden.at(&position.sample, position.index);
        match first_over(&steps, self.hidden_limit) {
            Some((name, distance)) => {
                let limit = 100.0 * self.hidden_limit;
                let _ = write!(
                    text,
                    "; {name} is the first more than {limit} % off ({:.2} %)",
                    100.0 * distance
                );
            }
            None if !steps.is_empty() => {
                let _ = write!(
                    text,
                    "; no layer more than {} % off",
                    100.0 * self.hidden_limit
                );
            }
            None => {}
        }
        text
    }
}

fn percentages(steps: &[(&str, f64)]) -> String {
    let step = |(name, distance): &(&str, f64)| format!("{name} {} %", figure(100.0 * distance));
    steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

/// Three digits, whatever the size.
fn figure(value: f64) -> String {
    let magnitude = value.abs();
    if value == value.trunc() && magnitude < 1e6 {
        format!("{value}")
    } else if (1e-2..1e4).contains(&magnitude) {
        format!("{value:.4}")
    } else {
        format!("{value:.2e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_keep_to_their_limits() {
        assert!(Check::at_most("x", 1.0, 1.0).holds());
        assert!(!Check::at_most("x", 1.1, 1.0).holds());
        assert!(Check::at_least("x", 1.0, 1.0).holds());
        assert!(!Check::at_least("x", 0.9, 1.0).holds());
        for check in [Check::at_most, Check::at_least] {
            assert!(!check("x", f64::NAN, 1.0).holds());
        }
    }

    #[test]
    fn a_report_names_what_failed_and_where() {
        let row = |best: usize| {
            let mut row = [0.0; 4];
            row[best] = 3.0;
            row
        };
        let positions = [
            Position::compare("chunk 1", 0, &row(1), &row(1), Some((1, true))),
            Position::compare("chunk 1", 1, &row(2), &row(0), Some((2, true))),
        ];
        let finding = ModelProof {
            model: "m.gguf".into(),
            checks: vec![
                Check::at_most("KL", 2e-5, 1e-4),
                Check::at_most("different", 1.0, 0.0),
            ],
            comparisons: vec![SideBySide {
                reference: "them".into(),
                found: "us".into(),
                agreement: Agreement::of(&positions),
                hidden: None,
                hidden_limit: 0.05,
            }],
            notes: vec!["a note".into()],
        };
        assert!(!finding.holds());
        let text = finding.text();
        for part in [
            "ok   KL",
            "FAIL different",
            "us against them",
            "same at 1 of 2",
            "first other token: chunk 1 token 1: 0 for 2 (its lead was 3.000)",
            "a note",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = finding.json();
        assert_eq!(json["agrees"], false);
        assert_eq!(json["checks"][0]["at_most"], 1e-4);
        let figures = &json["comparisons"][0]["figures"];
        assert_eq!(figures["first_difference"]["index"], 1);
        assert_eq!(figures["top1"]["same"], 1);
    }

    #[test]
    fn figures_have_a_few_digits() {
        for (value, text) in [
            (0.0, "0"),
            (1020.0, "1020"),
            (0.5, "0.5000"),
            (2.3456e-5, "2.35e-5"),
            (1234567.8, "1.23e6"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
