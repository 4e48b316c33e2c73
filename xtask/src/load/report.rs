//! What `load` prints: the median of each figure over the rounds, in 80 columns, and a JSON document with every round.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::drive::LoadTally;
use super::gaps::{Stall, StreamGaps};
use super::options::LoadPlan;
use super::watch::{Watched, slope};
use crate::peers::statistics::spread;

/// A round: what the clients found and what was seen of the server.
pub struct Round {
    /// Of the clients.
    pub tally: LoadTally,
    /// Of the server, while they asked.
    pub seen: Watched,
}

/// One number of a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// In the document.
    pub name: &'static str,
    /// In the table.
    pub title: &'static str,
    /// `None`: not measured.
    pub value: Option<f64>,
}

impl Round {
    /// Its figures, in the order of the table; the same names in every round.
    pub fn figures(&self) -> Vec<Figure> {
        let Round { tally, seen } = self;
        let seconds = tally.seconds;
        let rate = |count: f64| (seconds > 0.0).then(|| count / seconds);
        let per_token = |cpu: Option<f64>| {
            let tokens = tally.tokens as f64;
            cpu.filter(|_| tokens > 0.0).map(|cpu| cpu / tokens * 1e6)
        };
        let mut ratios: Vec<f64> = tally.streams.iter().map(StreamGaps::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let share = |p: f64| {
            let last = ratios.len().checked_sub(1)?;
            Some(ratios[(last as f64 * p) as usize])
        };
        let stalls = Stall::union(seen.stalls.clone());
        let own_ratios = (tally.streams.iter()).map(|stream| stream.ratio_without(&stalls));
        let troubles: usize = tally.troubles.values().sum();
        let mut figures = Vec::new();
        let mut add = |name, title, value| figures.push(Figure { name, title, value });
        add(
            "requests_s",
            "answers a second",
            rate(tally.answered as f64),
        );
        add("tokens_s", "tokens a second", rate(tally.tokens as f64));
        add(
            "prompt_tokens_s",
            "prompt tokens a second",
            rate(tally.prompt_tokens as f64),
        );
        for (histogram, names) in [
            (
                &tally.check,
                [
                    ("check_p50_ms", "request to scheduler p50, ms"),
                    ("check_p90_ms", "request to scheduler p90, ms"),
                    ("check_p99_ms", "request to scheduler p99, ms"),
                ],
            ),
            (
                &tally.first,
                [
                    ("first_p50_ms", "first token p50, ms"),
                    ("first_p90_ms", "first token p90, ms"),
                    ("first_p99_ms", "first token p99, ms"),
                ],
            ),
            (
                &tally.gap,
                [
                    ("gap_p50_ms", "between tokens p50, ms"),
                    ("gap_p90_ms", "between tokens p90, ms"),
                    ("gap_p99_ms", "between tokens p99, ms"),
                ],
            ),
            (
                &tally.whole,
                [
                    ("whole_p50_ms", "whole answer p50, ms"),
                    ("whole_p90_ms", "whole answer p90, ms"),
                    ("whole_p99_ms", "whole answer p99, ms"),
                ],
            ),
        ] {
            for ((name, title), p) in names.into_iter().zip([0.5, 0.9, 0.99]) {
                add(name, title, milliseconds(histogram.percentile(p)));
            }
        }
        add(
            "gap_largest_ms",
            "largest gap, ms",
            milliseconds(tally.gap.longest()),
        );
        add(
            "gap_ratio_p50",
            "largest gap / median gap, p50 of streams",
            share(0.5),
        );
        add("gap_ratio_worst", "the same, worst stream", share(1.0));
        add(
            "gap_ratio_worst_own",
            "the same without the machine's stalls",
            own_ratios.reduce(f64::max),
        );
        add(
            "refusal_p50_ms",
            "refusal (429) p50, ms",
            milliseconds(tally.refusal.percentile(0.5)),
        );
        add(
            "refusal_p99_ms",
            "refusal (429) p99, ms",
            milliseconds(tally.refusal.percentile(0.99)),
        );
        add("errors", "errors and refusals", Some(troubles as f64));
        add(
            "server_cpu_us_token",
            "server CPU a token, us",
            per_token(tally.cpu.0),
        );
        add(
            "client_cpu_us_token",
            "client CPU a token, us",
            per_token(tally.cpu.1),
        );
        let megabytes = || seen.memory.iter().map(|&(_, megabytes)| megabytes);
        add(
            "memory_mb",
            "server memory at the end, MB",
            megabytes().next_back(),
        );
        add(
            "memory_largest_mb",
            "server memory at most, MB",
            megabytes().reduce(f64::max),
        );
        add(
            "memory_slope_mb_min",
            "its slope, MB a minute",
            slope(&seen.memory).map(|s| s * 60.0),
        );
        let health = &seen.health;
        add(
            "health_p99_ms",
            "health route p99, ms",
            milliseconds(health.percentile(0.99)),
        );
        add(
            "health_largest_ms",
            "health route at most, ms",
            milliseconds(health.longest()),
        );
        add(
            "health_failures",
            "health route failed",
            Some(seen.health_failures as f64),
        );
        add(
            "late_p99_ms",
            "the machine itself is late p99, ms",
            milliseconds(seen.late.percentile(0.99)),
        );
        add(
            "late_largest_ms",
            "the machine itself is late at most, ms",
            milliseconds(seen.late.longest()),
        );
        let stalled = stalls.iter().map(|stall| stall.to - stall.from);
        add(
            "stalls_ms_min",
            "its stalls of 15 ms or more, ms a minute",
            rate(stalled.sum::<Duration>().as_secs_f64() * 1e3).map(|rate| rate * 60.0),
        );
        figures
    }

    /// One figure.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures()
            .into_iter()
            .find(|figure| figure.name == name)?
            .value
    }
}

/// Prints the rounds, and writes them where the plan says.
///
/// # Errors
/// When the file cannot be written.
pub fn print(plan: &LoadPlan, rounds: &[Round]) -> Result<()> {
    let text = format!("{:#}\n", document(plan, rounds));
    if let Some(file) = &plan.out {
        fs::write(file, &text).with_context(|| format!("could not write {}", file.display()))?;
    }
    print!("{}", if plan.json { text } else { table(rounds) });
    Ok(())
}

fn document(plan: &LoadPlan, rounds: &[Round]) -> Value {
    let rounds: Vec<Value> = rounds
        .iter()
        .map(|round| {
            let figures = round.figures().into_iter();
            let mut map: Map<String, Value> = figures
                .map(|figure| (figure.name.to_owned(), json!(figure.value)))
                .collect();
            let LoadTally {
                answered,
                left,
                cpu,
                ..
            } = round.tally;
            map.extend([
                ("answered".into(), json!(answered)),
                ("left".into(), json!(left)),
                ("server_cpu_s".into(), json!(cpu.0)),
                ("client_cpu_s".into(), json!(cpu.1)),
                ("troubles".into(), json!(round.tally.troubles)),
                ("memory_mb_at".into(), json!(round.seen.memory)),
            ]);
            map.into()
        })
        .collect();
    json!({ "plan": format!("{plan:?}"), "rounds": rounds })
}

fn table(rounds: &[Round]) -> String {
    let figures: Vec<Vec<Figure>> = rounds.iter().map(Round::figures).collect();
    let Some(first) = figures.first() else {
        return String::new();
    };
    let mut text = format!("{:44}{:>12}{:>12}{:>12}\n", "", "median", "least", "most");
    for (index, figure) in first.iter().enumerate() {
        let values: Vec<f64> = figures.iter().filter_map(|of| of[index].value).collect();
        let columns = match spread(&values) {
            Some(spread) => [spread.median, spread.min, spread.max].map(number),
            None => [const { String::new() }; 3].map(|_| "-".to_owned()),
        };
        let [median, least, most] = columns;
        text += &format!("{:44}{median:>12}{least:>12}{most:>12}\n", figure.title);
    }
    let mut troubles = BTreeMap::new();
    for (what, n) in rounds.iter().flat_map(|round| &round.tally.troubles) {
        *troubles.entry(what).or_insert(0) += n;
    }
    for (what, n) in troubles {
        text += &format!("{n:>8} x {what}\n");
    }
    text
}

/// Four digits that count, or all before the point.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

fn milliseconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A stream of ten gaps, one of them of so many milliseconds.
    fn stream(largest: u64) -> StreamGaps {
        let gap = |ms| (Instant::now(), Duration::from_millis(ms));
        let mut gaps = [gap(10); 10];
        gaps[5] = gap(largest);
        StreamGaps::new(&mut gaps).expect("it has gaps")
    }

    fn round(tokens: u64) -> Round {
        let mut tally = LoadTally {
            answered: 3,
            tokens,
            seconds: 2.0,
            cpu: (Some(0.5), None),
            streams: [10, 15, 40].map(stream).into(),
            ..LoadTally::default()
        };
        tally.first.add(Duration::from_millis(7));
        tally.troubles.insert("429 queue_full".into(), 2);
        let memory = vec![(0.0, 10.0), (60.0, 12.0)];
        Round {
            tally,
            seen: Watched {
                memory,
                ..Watched::default()
            },
        }
    }

    #[test]
    fn figures_are_rates_and_shares_of_what_was_counted() {
        let round = round(1000);
        for (name, expected) in [
            ("requests_s", Some(1.5)),
            ("tokens_s", Some(500.0)),
            ("server_cpu_us_token", Some(500.0)),
            ("client_cpu_us_token", None),
            ("first_p99_ms", Some(7.0)),
            ("gap_p50_ms", None),
            ("gap_ratio_p50", Some(1.5)),
            ("gap_ratio_worst", Some(4.0)),
            ("gap_ratio_worst_own", Some(4.0)),
            ("stalls_ms_min", Some(0.0)),
            ("errors", Some(2.0)),
            ("memory_slope_mb_min", Some(2.0)),
        ] {
            assert_eq!(round.figure(name), expected, "{name}");
        }
    }

    #[test]
    fn the_table_shows_medians_within_80_columns() {
        let table = table(&[round(1000), round(3000), round(2000)]);
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
        let row = table
            .lines()
            .find(|line| line.starts_with("tokens a second"));
        let columns: Vec<&str> = row.unwrap().split_whitespace().skip(3).collect();
        assert_eq!(columns, ["1000", "500.0", "1500"]);
        assert!(table.ends_with("       6 x 429 queue_full\n"), "{table}");
    }
}
