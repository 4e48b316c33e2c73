//! What serving costs where a forward pass costs nothing, held against what the server promises.
//!
//! Three measurements on the example of bitnet-server without a forward pass, each judged by the medians of its rounds.
//! Client and server share the machine, so a rate is the least that the server alone would reach. The time from a
//! request to the scheduler is the server's own, which its answers tell.

use std::path::Path;

use anyhow::{Result, ensure};

use super::options::LoadPlan;
use super::report::{self, Round};
use crate::peers::statistics::spread;

/// Tokens a second that 64 streams have together on two cores.
const TOTAL_RATE: f64 = 60_000.0;

/// Microseconds of the server's processor time that a streamed token may take.
const TOKEN_COST: f64 = 20.0;

/// Milliseconds from the head of a request with a prompt of 200 tokens to the scheduler.
const ADMISSION: f64 = 0.3;

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

/// A measurement and what is promised of it.
struct Measurement {
    title: &'static str,
    /// After `load --no-forward-pass`.
    args: &'static str,
    promises: &'static [(&'static str, Limit)],
}

const MEASUREMENTS: [Measurement; 3] = [
    Measurement {
        title: "64 streams",
        args: "--setting max-concurrent-requests=64 --clients 64 --prompt 16 --answer 224",
        promises: &[
            ("tokens_s", Limit::AtLeast(TOTAL_RATE)),
            ("server_cpu_us_token", Limit::AtMost(TOKEN_COST)),
            ("errors", Limit::AtMost(0.0)),
        ],
    },
    Measurement {
        title: "one stream",
        args: "--requests 300 --warmup 0 --prompt 2 --answer 240",
        promises: &[
            ("server_cpu_us_token", Limit::AtMost(TOKEN_COST)),
            ("errors", Limit::AtMost(0.0)),
        ],
    },
    Measurement {
        title: "a prompt of 200 tokens as text",
        args: "--requests 2000 --warmup 0 --prompt 200 --answer 1 --text --whole",
        promises: &[
            ("check_p50_ms", Limit::AtMost(ADMISSION)),
            ("errors", Limit::AtMost(0.0)),
        ],
    },
];

/// Measures all three and judges them; `args` are more options of `load`, for all of them.
///
/// # Errors
/// As [`super::run`], and a verdict that a promise is not kept.
pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    let mut faults = Vec::new();
    for measurement in &MEASUREMENTS {
        let plan = measurement.plan(args)?;
        let rounds = super::measure(root, &plan)?;
        println!("{}:", measurement.title);
        report::print(&plan, &rounds)?;
        faults.extend(measurement.judge(&rounds));
    }
    ensure!(faults.is_empty(), "not passed: {}", faults.join("; "));
    println!("passed");
    Ok(())
}

impl Measurement {
    fn plan(&self, more: &[&str]) -> Result<LoadPlan> {
        let mut args = vec!["--no-forward-pass", "--rounds", "3"];
        args.extend(self.args.split(' '));
        args.extend(more);
        let plan = LoadPlan::parse(&args)?;
        ensure!(
            plan.out.is_none() && !plan.json,
            "--overhead makes three tables: --out and --format go with one measurement"
        );
        Ok(plan)
    }

    /// What of the promises is not kept.
    fn judge(&self, rounds: &[Round]) -> Vec<String> {
        let median = |name: &str| {
            let values = rounds.iter().map(|round| round.figure(name));
            // Of a figure that some round lacks nothing is known.
            spread(&values.collect::<Option<Vec<f64>>>()?).map(|spread| spread.median)
        };
        let fault = |&(name, limit): &(&str, Limit)| {
            let (is_kept, wanted) = match (median(name), limit) {
                (None, _) => return Some(format!("{}: {name} was not measured", self.title)),
                (Some(value), Limit::AtLeast(least)) => (value >= least, "at least"),
                (Some(value), Limit::AtMost(most)) => (value <= most, "at most"),
            };
            let (Limit::AtLeast(bound) | Limit::AtMost(bound)) = limit;
            let value = median(name).unwrap_or_default();
            (!is_kept).then(|| format!("{}: {name} is {value:.3}, {wanted} {bound}", self.title))
        };
        self.promises.iter().filter_map(fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::drive::LoadTally;
    use super::super::watch::Watched;
    use super::*;

    /// A round of 64 streams.
    fn round(tokens: u64, cpu: Option<f64>) -> Round {
        Round {
            tally: LoadTally {
                tokens,
                seconds: 1.0,
                cpu: (cpu, None),
                ..LoadTally::default()
            },
            seen: Watched::default(),
        }
    }

    #[test]
    fn medians_are_held_against_the_promises() {
        let streams = &MEASUREMENTS[0];
        let good = || round(90_000, Some(0.2));
        assert_eq!(streams.judge(&[good(), good(), good()]), [""; 0]);
        // One slow round is the machine's.
        assert_eq!(
            streams.judge(&[good(), round(9, Some(0.0)), good()]),
            [""; 0]
        );
        let slow = streams.judge(&[round(59_000, Some(0.2))]);
        assert_eq!(slow.len(), 1);
        assert!(
            slow[0].contains("tokens_s is 59000.000, at least 60000"),
            "{slow:?}"
        );
        let dear = streams.judge(&[round(100_000, Some(2.1))]);
        assert!(
            dear[0].contains("server_cpu_us_token is 21.000, at most 20"),
            "{dear:?}"
        );
        let unknown = streams.judge(&[good(), round(90_000, None)]);
        assert!(unknown[0].contains("was not measured"), "{unknown:?}");
    }

    #[test]
    fn a_late_admission_and_errors_are_faults() {
        let mut round = round(2000, None);
        round.tally.check.add(Duration::from_micros(450));
        round.tally.troubles.insert("500 internal_error".into(), 1);
        let faults = MEASUREMENTS[2].judge(&[round]);
        assert!(faults[0].contains("check_p50_ms"), "{faults:?}");
        assert!(
            faults[1].contains("errors is 1.000, at most 0"),
            "{faults:?}"
        );
    }

    #[test]
    fn the_plans_are_those_of_load() {
        for measurement in &MEASUREMENTS {
            let plan = measurement.plan(&["--rounds", "5"]).unwrap();
            assert_eq!((plan.rounds, plan.settings.len() < 2), (5, true));
            assert!(measurement.plan(&["--out", "x.json"]).is_err());
        }
    }
}
