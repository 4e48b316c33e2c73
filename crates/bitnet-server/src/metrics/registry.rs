//! The values of all metrics, and their text.
//!
//! Ours and small, because two texts are wanted that are right to the letter (Prometheus's classic one, which
//! `promtool` reads, and OpenMetrics, where a counter's family is called without `_total`), from one table that
//! documents can be checked against, and with a bound on labels: a client must not be able to fill the memory with
//! names.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::table::{Id, Kind, METRICS};

/// Most sets of label values of one metric; beyond them values are counted under [`OTHER`], and gauges, of which
/// several have no sum and which are to be forgotten one by one, are not told.
const MAX_SERIES: usize = 64;
/// First labels that name a model: ours, and vLLM's.
const MODEL_LABELS: [&str; 2] = ["model", "model_name"];
/// Stands for label values that are too many.
const OTHER: &str = "other";

/// What a histogram has counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Upper bounds, without the last one, which is infinite.
    pub bounds: Vec<f64>,
    /// Values up to each bound and above the one before it; one more than bounds.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: f64,
}

/// A text of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus's own, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// All values. A metric that nobody set is absent.
#[derive(Debug)]
pub struct Registry {
    families: Vec<Family>,
}

#[derive(Debug)]
struct Family {
    bounds: Vec<f64>,
    series: Mutex<AllSeries>,
}

/// Sorted by label values. They are few, and finding one by borrowed texts allocates nothing: that happens several
/// times for every token.
type AllSeries = Vec<(Vec<String>, Series)>;

#[derive(Debug, Clone)]
enum Series {
    Value(f64),
    /// One count a bound and one more above all bounds, not yet summed up.
    Histogram {
        counts: Vec<u64>,
        sum: f64,
    },
}

impl Exposition {
    /// What a client that sends this `Accept` header wants.
    pub fn negotiate(accept: Option<&str>) -> Exposition {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => {
                Exposition::OpenMetrics
            }
            _ => Exposition::Text,
        }
    }

    /// The `Content-Type` of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Exposition::Text => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Registry {
    /// Without any value. `longest_context` bounds the buckets that count tokens.
    pub fn new(longest_context: usize) -> Registry {
        let family = |kind| Family {
            bounds: match kind {
                Kind::Histogram(buckets) => buckets.bounds(longest_context),
                _ => Vec::new(),
            },
            series: Mutex::default(),
        };
        Registry {
            families: METRICS.iter().map(|metric| family(metric.kind)).collect(),
        }
    }

    /// Sets a gauge.
    pub fn set(&self, id: Id, labels: &[&str], value: f64) {
        let family = &self.families[id as usize];
        let mut all = family.lock();
        let index = match place(&all, labels) {
            Ok(index) => index,
            Err(index) if all.len() < MAX_SERIES => family.insert(&mut all, index, labels),
            Err(_) => return,
        };
        all[index].1 = Series::Value(value);
    }

    /// Adds to a counter.
    pub fn add(&self, id: Id, labels: &[&str], amount: f64) {
        self.value(id, labels, |old| *old += amount.max(0.0));
    }

    /// Sets a counter to a count that is kept elsewhere; it never goes down.
    pub fn set_total(&self, id: Id, labels: &[&str], total: f64) {
        self.value(id, labels, |old| *old = old.max(total));
    }

    /// Counts a value in a histogram.
    pub fn observe(&self, id: Id, labels: &[&str], value: f64) {
        let family = &self.families[id as usize];
        let bucket = family.bounds.partition_point(|bound| *bound < value);
        family.with(labels, |series| {
            if let Series::Histogram { counts, sum } = series {
                counts[bucket] += 1;
                *sum += value;
            }
        });
    }

    /// Forgets all series of a gauge whose first label has this value: those of a model that is gone.
    pub fn forget(&self, id: Id, first: &str) {
        self.families[id as usize].forget(first);
    }

    /// Forgets all gauges of a model that is gone.
    pub fn forget_gauges_of(&self, model: &str) {
        for (id, metric) in METRICS.iter().enumerate() {
            let is_gauge = matches!(metric.kind, Kind::Gauge);
            let first = metric.labels.first();
            if is_gauge && first.is_some_and(|label| MODEL_LABELS.contains(label)) {
                self.families[id].forget(model);
            }
        }
    }

    /// The value of a counter or gauge, if it was set.
    pub fn get(&self, id: Id, labels: &[&str]) -> Option<f64> {
        match self.families[id as usize].find(labels) {
            Some(Series::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// What a histogram counted, if it counted anything.
    pub fn observed(&self, id: Id, labels: &[&str]) -> Option<Observed> {
        let family = &self.families[id as usize];
        match family.find(labels) {
            Some(Series::Histogram { counts, sum }) => Some(Observed {
                bounds: family.bounds.clone(),
                counts,
                sum,
            }),
            _ => None,
        }
    }

    /// Label values and value of every series of a counter or gauge.
    pub fn values(&self, id: Id) -> Vec<(Vec<String>, f64)> {
        let series = self.families[id as usize].lock();
        series
            .iter()
            .filter_map(|(labels, series)| match series {
                Series::Value(value) => Some((labels.clone(), *value)),
                Series::Histogram { .. } => None,
            })
            .collect()
    }

    /// All values as text, but those of the `hidden` families.
    pub fn text(&self, exposition: Exposition, hidden: &[Id]) -> String {
        let mut text = String::new();
        for (index, (metric, family)) in METRICS.iter().zip(&self.families).enumerate() {
            let series = family.lock();
            if series.is_empty() || hidden.iter().any(|&id| id as usize == index) {
                continue;
            }
            let family_name = match (exposition, metric.kind) {
                (Exposition::OpenMetrics, Kind::Counter) => metric.name.trim_end_matches("_total"),
                _ => metric.name,
            };
            // A String takes any text.
            let _ = writeln!(text, "# HELP {family_name} {}", metric.help);
            let _ = writeln!(text, "# TYPE {family_name} {}", metric.kind.name());
            for (values, series) in series.iter() {
                let labels = labels_text(metric.labels, values);
                match series {
                    Series::Value(value) => {
                        write_sample(&mut text, metric.name, "", &labels, None, *value)
                    }
                    Series::Histogram { counts, sum } => {
                        let mut below = 0;
                        let bounds = family.bounds.iter().copied().chain([f64::INFINITY]);
                        for (count, bound) in counts.iter().zip(bounds) {
                            below += count;
                            write_sample(
                                &mut text,
                                metric.name,
                                "_bucket",
                                &labels,
                                Some(bound),
                                below as f64,
                            );
                        }
                        write_sample(&mut text, metric.name, "_sum", &labels, None, *sum);
                        write_sample(
                            &mut text,
                            metric.name,
                            "_count",
                            &labels,
                            None,
                            below as f64,
                        );
                    }
                }
            }
        }
        if exposition == Exposition::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn value(&self, id: Id, labels: &[&str], change: impl FnOnce(&mut f64)) {
        self.families[id as usize].with(labels, |series| {
            if let Series::Value(value) = series {
                change(value);
            }
        });
    }
}

impl Family {
    fn lock(&self) -> MutexGuard<'_, AllSeries> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, first: &str) {
        let is_other = |labels: &[String]| labels.first().is_none_or(|label| label != first);
        self.lock().retain(|(labels, _)| is_other(labels));
    }

    fn find(&self, labels: &[&str]) -> Option<Series> {
        let all = self.lock();
        place(&all, labels).ok().map(|index| all[index].1.clone())
    }

    /// Changes the series of these labels, which is made when there is none.
    fn with(&self, labels: &[&str], change: impl FnOnce(&mut Series)) {
        let mut all = self.lock();
        let index = match place(&all, labels) {
            Ok(index) => index,
            Err(index) if all.len() < MAX_SERIES => self.insert(&mut all, index, labels),
            Err(_) => {
                let other = vec![OTHER; labels.len()];
                let found = place(&all, &other);
                found.unwrap_or_else(|index| self.insert(&mut all, index, &other))
            }
        };
        change(&mut all[index].1);
    }

    fn insert(&self, all: &mut AllSeries, index: usize, labels: &[&str]) -> usize {
        let series = match self.bounds.len() {
            0 => Series::Value(0.0),
            n => Series::Histogram {
                counts: vec![0; n + 1],
                sum: 0.0,
            },
        };
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        all.insert(index, (labels, series));
        index
    }
}

impl Observed {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean; `None` without any.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum / count as f64)
    }

    /// The value that the share `q` of all lies at or below, as Prometheus's `histogram_quantile` has it: values lie
    /// evenly between two bounds, and those above the last bound at it. `None` without any value.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        let last = *self.bounds.last()?;
        if count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * count as f64;
        let mut below = 0;
        for (index, (&bound, &here)) in self.bounds.iter().zip(&self.counts).enumerate() {
            // Of an empty bucket no value is told, also not by a rank of 0.
            if here > 0 && (below + here) as f64 >= rank {
                let start = if index == 0 {
                    0.0
                } else {
                    self.bounds[index - 1]
                };
                let share = (rank - below as f64) / here as f64;
                return Some(start + (bound - start) * share);
            }
            below += here;
        }
        Some(last)
    }

    /// What was counted since this histogram was as `earlier` is.
    #[must_use]
    pub fn since(mut self, earlier: &Observed) -> Observed {
        for (count, before) in self.counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        self.sum -= earlier.sum;
        self
    }

    /// Adds what another histogram of the same bounds counted.
    pub fn merge(&mut self, other: &Observed) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }
}

/// Where the series of these labels is, or belongs.
fn place(all: &AllSeries, labels: &[&str]) -> Result<usize, usize> {
    all.binary_search_by(|(found, _)| {
        let found = found.iter().map(String::as_str);
        found.cmp(labels.iter().copied())
    })
}

fn labels_text(names: &[&str], values: &[String]) -> String {
    let pairs: Vec<String> = names
        .iter()
        .zip(values)
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    pairs.join(",")
}

fn write_sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    bound: Option<f64>,
    value: f64,
) {
    let bound = bound.map(|bound| match bound.is_infinite() {
        true => "le=\"+Inf\"".to_owned(),
        // `1.0`, as Python's client writes it and queries of existing dashboards have it.
        false => format!("le=\"{bound:?}\""),
    });
    let comma = if labels.is_empty() || bound.is_none() {
        ""
    } else {
        ","
    };
    let inner = format!("{labels}{comma}{}", bound.unwrap_or_default());
    let _ = match inner.as_str() {
        "" => writeln!(text, "{name}{suffix} {value}"),
        inner => writeln!(text, "{name}{suffix}{{{inner}}} {value}"),
    };
}
