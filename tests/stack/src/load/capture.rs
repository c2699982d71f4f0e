//! The statements of one PlaceCall, as PostgreSQL's log has them, made into scripts for pgbench. So the baseline does the very same
//! work, whatever the service becomes.

use std::fmt::Write as _;

/// One statement and the values of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// Whose connection: the server's process.
    pub(super) session: String,
    /// With `$1` and so on.
    pub(super) text: String,
    /// In order; None is NULL.
    pub(super) values: Vec<Option<String>>,
}

/// Reads a log that was written with `log_min_duration_statement = 0` and the default `log_line_prefix`.
pub(super) fn read(log: &str) -> Vec<Statement> {
    let mut found: Vec<Statement> = Vec::new();
    for (session, kind, text) in records(log) {
        match kind {
            "LOG" => {
                let Some(rest) = text
                    .strip_prefix("duration: ")
                    .and_then(|rest| rest.split_once(" ms  "))
                else {
                    continue;
                };
                // Parse and bind are the same statement again.
                let statement = rest.1.strip_prefix("statement: ").or_else(|| {
                    let (_, text) = rest.1.strip_prefix("execute ")?.split_once(": ")?;
                    Some(text)
                });
                if let Some(text) = statement {
                    found.push(Statement {
                        session: session.to_owned(),
                        text: text.to_owned(),
                        values: Vec::new(),
                    });
                }
            }
            "DETAIL" => {
                let values = text.strip_prefix("parameters: ").map(parameters);
                // The detail of a bind repeats; that of the execute is the last one of its session.
                let last = found.iter_mut().rev().find(|statement| statement.session == session);
                if let (Some(values), Some(last)) = (values, last)
                    && last.values.is_empty()
                    && last.text.contains("$1")
                {
                    last.values = values;
                }
            }
            _ => {}
        }
    }
    found
}

/// Splits a log into (session, severity, text); texts have several lines.
fn records(log: &str) -> Vec<(&str, &str, String)> {
    let mut records: Vec<(&str, &str, String)> = Vec::new();
    for line in log.lines() {
        let head = line.split_once("] ").and_then(|(before, after)| {
            let (time, session) = before.split_once(" [")?;
            let (kind, text) = after.split_once(":  ")?;
            (time.len() > 20 && session.bytes().all(|byte| byte.is_ascii_digit())).then_some((session, kind, text))
        });
        match (head, records.last_mut()) {
            (Some((session, kind, text)), _) => records.push((session, kind, text.to_owned())),
            (None, Some((.., text))) => {
                text.push('\n');
                text.push_str(line.strip_prefix('\t').unwrap_or(line));
            }
            (None, None) => {}
        }
    }
    records
}

/// Reads `$1 = 'it''s', $2 = NULL`.
fn parameters(text: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(" = ") {
        if let Some(tail) = after.strip_prefix("NULL") {
            values.push(None);
            rest = tail;
            continue;
        }
        let Some(quoted) = after.strip_prefix('\'') else { break };
        let mut value = String::new();
        let mut chars = quoted.char_indices().peekable();
        let mut end = quoted.len();
        while let Some((at, char)) = chars.next() {
            if char != '\'' {
                value.push(char);
            } else if chars.next_if(|(_, next)| *next == '\'').is_some() {
                value.push('\'');
            } else {
                end = at + 1;
                break;
            }
        }
        values.push(Some(value));
        rest = &quoted[end..];
    }
    values
}

/// The statements that belong to a call: whole transactions that mention one of the words, and single statements that do, or that
/// only ask for the time just before.
pub(super) fn of_call(statements: &[Statement], words: &[&str]) -> Vec<Statement> {
    let mentions = |statement: &Statement| {
        let in_values = statement
            .values
            .iter()
            .flatten()
            .any(|value| words.iter().any(|word| value.contains(word)));
        in_values || words.iter().any(|word| statement.text.contains(word))
    };
    let mut kept = Vec::new();
    let mut sessions: Vec<&str> = statements.iter().map(|statement| statement.session.as_str()).collect();
    sessions.sort_unstable();
    sessions.dedup();
    for session in sessions {
        let of_session: Vec<&Statement> = statements
            .iter()
            .filter(|statement| statement.session == session)
            .collect();
        let mut transaction: Option<Vec<&Statement>> = None;
        let mut asked_the_time = None;
        for statement in of_session {
            match (statement.text.as_str(), &mut transaction) {
                ("BEGIN", _) => transaction = Some(vec![statement]),
                ("COMMIT" | "ROLLBACK", Some(open)) => {
                    open.push(statement);
                    if open.iter().any(|statement| mentions(statement)) {
                        kept.extend(open.iter().map(|statement| (*statement).clone()));
                    }
                    transaction = None;
                }
                (_, Some(open)) => open.push(statement),
                (text, None) if text.starts_with("SELECT clock_timestamp()") => asked_the_time = Some(statement),
                (_, None) if mentions(statement) => {
                    kept.extend(asked_the_time.take().cloned());
                    kept.push(statement.clone());
                }
                (_, None) => asked_the_time = None,
            }
        }
    }
    kept
}

/// A value of the captured call, and the SQL that stands for it in a script.
pub(super) struct Replace<'a> {
    /// As the log has it.
    pub(super) value: &'a str,
    /// Such as `('key-' || :n)`.
    pub(super) with: String,
}

/// Writes a pgbench script: each run of it is one call, of one of so many accounts.
pub(super) fn script(statements: &[Statement], replace: &[Replace<'_>], accounts: usize) -> String {
    let mut script = format!("\\set n random(1, 1000000000000)\n\\set account random(1, {accounts})\n");
    for statement in statements {
        let mut text = statement.text.replace('\n', " ");
        // From the last one, so that $1 is not found in $12.
        for (index, value) in statement.values.iter().enumerate().rev() {
            let literal = match value {
                None => "NULL".to_owned(),
                Some(value) => literal(value, replace),
            };
            let cast = value.as_deref().filter(|_| is_bare(&statement.text)).map_or("", cast);
            let literal = format!("{literal}{cast}");
            text = text.replace(&format!("${}", index + 1), &literal);
        }
        let _ = writeln!(script, "{text};");
    }
    script
}

/// Whether its parameters stand in a list of values by itself, which gives a literal no type.
fn is_bare(text: &str) -> bool {
    text.contains("AS (VALUES (") || text.contains("FROM (VALUES (")
}

/// The type of a value, by its looks.
fn cast(value: &str) -> &'static str {
    let digits = value.strip_prefix('-').unwrap_or(value);
    if uuid::Uuid::try_parse(value).is_ok() {
        "::uuid"
    } else if matches!(value, "t" | "f") {
        "::bool"
    } else if !digits.is_empty() && digits.len() < 10 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        "::int4"
    } else if value.len() >= 19 && value.as_bytes()[4] == b'-' && value.as_bytes()[10] == b' ' {
        "::timestamptz"
    } else {
        "::text"
    }
}

fn literal(value: &str, replace: &[Replace<'_>]) -> String {
    if let Some(replace) = replace.iter().find(|replace| replace.value == value) {
        return replace.with.clone();
    }
    // pgbench would take a colon for the begin of a variable.
    let escaped = value
        .replace('\\', r"\\")
        .replace('\'', "''")
        .replace(':', r"\x3a")
        .replace('\n', r"\n");
    format!("E'{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-25 16:00:00.123 UTC [12] LOG:  duration: 0.010 ms  parse s1: SELECT a
\tFROM t WHERE id = $1
2026-11-25 16:00:00.123 UTC [12] LOG:  duration: 0.010 ms  bind s1: SELECT a
\tFROM t WHERE id = $1
2026-11-25 16:00:00.123 UTC [12] DETAIL:  parameters: $1 = 'x'
2026-11-25 16:00:00.124 UTC [12] LOG:  duration: 0.020 ms  execute s1: SELECT a
\tFROM t WHERE id = $1
2026-11-25 16:00:00.124 UTC [12] DETAIL:  parameters: $1 = 'x'
2026-11-25 16:00:00.124 UTC [13] LOG:  duration: 0.020 ms  statement: BEGIN
2026-11-25 16:00:00.124 UTC [13] LOG:  duration: 0.020 ms  execute s2: INSERT INTO t VALUES ($1, $2)
2026-11-25 16:00:00.124 UTC [13] DETAIL:  parameters: $1 = 'it''s 10:30', $2 = NULL
2026-11-25 16:00:00.124 UTC [13] LOG:  duration: 0.020 ms  statement: COMMIT
2026-11-25 16:00:00.124 UTC [14] LOG:  duration: 0.020 ms  statement: NOTIFY other";

    #[test]
    fn executed_statements_are_read_with_their_values() {
        let found = read(LOG);
        assert_eq!(found.len(), 5);
        assert_eq!(found[0].text, "SELECT a\nFROM t WHERE id = $1");
        assert_eq!(found[0].values, [Some("x".to_owned())]);
        assert_eq!(found[2].values, [Some("it's 10:30".to_owned()), None]);
    }

    #[test]
    fn values_by_themselves_have_types() {
        let bare = Statement {
            session: "1".to_owned(),
            text: "WITH w (a, b, c, d, e) AS (VALUES ($1, $2, $3, $4, $5)) SELECT".to_owned(),
            values: [
                "01a213d0-c01e-747d-a599-42f93a05da57",
                "-7",
                "t",
                "2026-11-25 16:00:00.1+00",
                "dial",
            ]
            .map(|value| Some(value.to_owned()))
            .into(),
        };
        let script = script(&[bare], &[], 1);
        for cast in ["::uuid", "E'-7'::int4", "E't'::bool", "::timestamptz", "E'dial'::text"] {
            assert!(script.contains(cast), "{script}");
        }
    }

    #[test]
    fn what_belongs_to_the_call_becomes_a_script() {
        let kept = of_call(&read(LOG), &["it's", "x"]);
        let replace = [Replace {
            value: "x",
            with: "(:n)".to_owned(),
        }];
        assert_eq!(
            script(&kept, &replace, 1).lines().skip(2).collect::<Vec<_>>(),
            [
                "SELECT a FROM t WHERE id = (:n);",
                "BEGIN;",
                r"INSERT INTO t VALUES (E'it''s 10\x3a30', NULL);",
                "COMMIT;",
            ]
        );
    }
}
