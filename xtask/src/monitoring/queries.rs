//! What the dashboard and the alert rules ask Prometheus.

use anyhow::{Context, Result};
use serde_json::Value;

/// A query and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The panel, variable or rule.
    pub place: String,
    /// The question.
    pub expression: String,
}

/// Every query of a Grafana dashboard, its variables replaced as Grafana does when everything is chosen.
///
/// # Errors
/// When the dashboard is no JSON or has no panels.
pub fn of_dashboard(text: &str) -> Result<Vec<Query>> {
    let dashboard: Value = serde_json::from_str(text)?;
    let mut queries = Vec::new();
    let panels = dashboard["panels"].as_array().context("no panels")?;
    for panel in panels {
        let title = panel["title"].as_str().context("a panel without a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().context("a target without expr")?;
            queries.push(Query {
                place: format!("panel {title}"),
                expression: expression
                    .replace("$__rate_interval", "1m")
                    .replace("$model", ".*")
                    .replace("$instance", ".*"),
            });
        }
    }
    let variables = dashboard["templating"]["list"].as_array();
    for variable in variables.into_iter().flatten() {
        let query = variable["query"].as_str().unwrap_or_default();
        let asked = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')')?.split_once(", "));
        if let Some((metric, label)) = asked {
            queries.push(Query {
                place: format!("variable {}", variable["name"]),
                expression: format!("count by ({label}) ({metric}{{{label}!=\"\"}})"),
            });
        }
    }
    Ok(queries)
}

/// The expression of every alert rule, without its thresholds: so it returns data also while nothing is wrong.
pub fn of_rules(text: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    let mut name = "";
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(alert) = line.strip_prefix("- alert: ") {
            name = alert;
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            queries.push(Query {
                place: format!("alert {name}"),
                expression: without_thresholds(expression),
            });
        }
    }
    queries
}

/// An expression without its comparisons with numbers.
fn without_thresholds(expression: &str) -> String {
    let mut words = Vec::new();
    let mut rest = expression.split(' ').peekable();
    while let Some(word) = rest.next() {
        let compares = ["==", "!=", ">", "<", ">=", "<="].contains(&word);
        if compares && rest.peek().is_some_and(|next| next.parse::<f64>().is_ok()) {
            rest.next();
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_taken_away_and_labels_are_not() {
        assert_eq!(without_thresholds("up{job=\"b\"} == 0"), "up{job=\"b\"}");
        assert_eq!(
            without_thresholds("max by (a) (x) > 0 and on (a) time() - y > 60"),
            "max by (a) (x) and on (a) time() - y"
        );
    }

    #[test]
    fn the_shipped_files_are_full_of_queries() {
        let dashboard = include_str!("../../../deploy/grafana/bitnet.json");
        let queries = of_dashboard(dashboard).unwrap();
        assert!(queries.len() > 40, "{}", queries.len());
        assert!(queries.iter().all(|query| !query.expression.contains('$')));
        let rules = of_rules(include_str!("../../../deploy/prometheus/alerts.yaml"));
        assert!(rules.len() >= 7);
        assert!(rules.iter().all(|rule| !rule.expression.contains(" > ")));
    }
}
