//! The dashboard and the alerts ask for nothing that no process shows.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// How the names of our metrics begin, and of those that conventions name.
const PREFIXES: [&str; 5] = ["callbridge_", "http_server_", "rpc_server_", "db_client_", "otel_sdk_"];
/// Seldom there: a cap that nobody has set, and rows that are too old.
const SELDOM: [&str; 2] = ["callbridge_slots_limit", "callbridge_rows_purged_total"];

/// Names of metrics in PromQL. What stands in braces, in quotes and behind `by` are labels, of which none begins like this but those
/// of `db_client_connection`.
fn names(expression: &str) -> BTreeSet<String> {
    let mut bare = String::new();
    let mut depth = 0;
    for c in expression.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            c if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    bare.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .filter(|word| !["db_client_connection_pool_name", "db_client_connection_state"].contains(word))
        .map(str::to_owned)
        .collect()
}

/// Every `expr` of a dashboard.
fn expressions<'a>(of: &'a Value, found: &mut Vec<&'a str>) {
    match of {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The names on the pages: each sample's, and a histogram's own.
fn shown(pages: &Value) -> BTreeSet<&str> {
    let pages = pages.as_object().into_iter().flatten();
    pages
        .filter_map(|(_, page)| page.as_str())
        .flat_map(str::lines)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .flat_map(|name| [Some(name), name.strip_suffix("_bucket")])
        .flatten()
        .collect()
}

/// Every metric that the dashboard and the alerts name is on a page.
pub(crate) fn all_are_there(pages: &Value) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../k8s/components/monitoring");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).with_context(|| format!("cannot read {name}"));
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")?)?;
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    ensure!(found.len() > 20, "the dashboard has {} expressions", found.len());
    // Comments and texts of the alerts name no metric that is not there, either.
    let alerts = read("alerts.yaml")?;
    let wanted: BTreeSet<String> = found.into_iter().chain([alerts.as_str()]).flat_map(names).collect();
    ensure!(wanted.len() > 30, "only {} metrics are named", wanted.len());
    let shown = shown(pages);
    let missing: Vec<_> = wanted
        .iter()
        .filter(|name| !shown.contains(name.as_str()) && !SELDOM.contains(&name.as_str()))
        .collect();
    ensure!(missing.is_empty(), "nothing shows {missing:?}");
    Ok(())
}

#[test]
fn names_are_read_out_of_promql() {
    let expression = r#"sum by (db_client_connection_pool_name) (rate(callbridge_calls_ended_total{callbridge_no="x"}[5m]))
        > on () callbridge_queue_age_seconds"#;
    let wanted = ["callbridge_calls_ended_total", "callbridge_queue_age_seconds"];
    assert_eq!(names(expression), wanted.map(str::to_owned).into());
}
