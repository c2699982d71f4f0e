//! The evidence from where it is kept: the simulator's files and the database.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::Context as _;
use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use exotel_sim::{Event, LedgerEntry, Mode};
use serde::de::DeserializeOwned;
use tokio_postgres::Client;

use super::check::{Dial, Row};

/// What the simulator's event journal tells.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// When calls ended, by CallSid.
    pub(super) ends: HashMap<String, DateTime<Utc>>,
    /// Connect requests: account's sid and arrival.
    pub(super) connects: Vec<(String, DateTime<Utc>)>,
}

/// Goes through the entries of a file of JSON lines.
fn each<T: DeserializeOwned>(path: &Path, mut take: impl FnMut(T)) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        let entry = serde_json::from_str(&line)
            .with_context(|| format!("line {} of {} is no entry", number + 1, path.display()))?;
        take(entry);
    }
    Ok(())
}

/// The outbound dials of a ledger.
pub(super) fn dials(ledger: &Path) -> anyhow::Result<Vec<Dial>> {
    let mut dials = Vec::new();
    each(ledger, |entry: LedgerEntry| {
        if entry.mode != Mode::Inbound {
            dials.push(Dial {
                time: entry.time,
                call_sid: entry.call_sid,
                account: entry.account_sid,
                custom_field: entry.custom_field,
            });
        }
    })?;
    Ok(dials)
}

/// What of an event journal the checks need.
pub(super) fn journal(events: &Path) -> anyhow::Result<Journal> {
    let mut journal = Journal::default();
    each(events, |event: Event| match event.kind.as_str() {
        "call" if event.facts["what"] == "ended" => {
            journal.ends.extend(event.call_sid.map(|sid| (sid, event.time)));
        }
        "rest" if event.facts["method"] == "POST" => {
            let path = event.facts["path"].as_str().unwrap_or_default();
            let mut parts = path.trim_start_matches('/').split('/').skip(2);
            if let (Some(account), Some("Calls"), Some(last)) = (parts.next(), parts.next(), parts.next())
                && last.split('.').next() == Some("connect")
            {
                // The event is of the answer; what counts is when the request came.
                let took = TimeDelta::milliseconds(event.facts["ms"].as_i64().unwrap_or(0));
                journal.connects.push((account.to_owned(), event.time - took));
            }
        }
        _ => {}
    })?;
    Ok(journal)
}

/// All outbound rows.
pub(super) async fn rows(client: &Client) -> anyhow::Result<Vec<Row>> {
    let statement = "SELECT id::text, idempotency_key, state::text, call_sid, end_reason FROM calls \
                     WHERE direction = 'outbound' ORDER BY id";
    let found = client.query(statement, &[]).await.context("cannot read the calls")?;
    found
        .iter()
        .map(|row| {
            let id = row.try_get::<_, String>(0)?;
            Ok(Row {
                call: format!("{}_{}", CallId::PREFIX, id.replace('-', "")),
                key: row.try_get::<_, Option<String>>(1)?.unwrap_or_default(),
                state: row.try_get(2)?,
                call_sid: row.try_get(3)?,
                end_reason: row.try_get(4)?,
            })
        })
        .collect()
}

/// A call's row and events, for a person: what is in an event never names a number.
pub(super) async fn timeline(client: &Client, call: &str) -> anyhow::Result<Vec<String>> {
    let Ok(CallId(id)) = call.parse::<CallId>() else {
        return Ok(vec!["not an id of ours".to_owned()]);
    };
    let id = id.to_string();
    let row = "SELECT concat_ws(' ', 'state', state, 'attempt', attempt, 'call_sid', call_sid, 'end_reason', end_reason, \
               'waiting_reason', waiting_reason, 'due_at', due_at, 'post_started_at', post_started_at, 'read_back_at', \
               read_back_at, 'read_backs', read_backs, 'settle_polls', settle_polls, 'facts', facts, 'now', now()) \
               FROM calls WHERE id = $1::text::uuid";
    let events = "SELECT concat_ws(' ', at, version, type, state, source, data) FROM call_events \
                  WHERE call_id = $1::text::uuid ORDER BY version";
    let mut lines = Vec::new();
    for statement in [row, events] {
        for found in client
            .query(statement, &[&id])
            .await
            .context("cannot read a timeline")?
        {
            lines.push(found.try_get(0)?);
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_journal_tells_of_ends_and_of_requests_when_they_came() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for facts in [
            r#""call_sid":"s1","kind":"call","facts":{"what":"ringing","status":null,"cause":null}"#,
            r#""call_sid":"s1","kind":"call","facts":{"what":"ended","status":"busy","cause":"not_answered"}"#,
            r#""call_sid":null,"kind":"rest","facts":{"method":"POST","path":"/v1/Accounts/acme/Calls/connect.json","status":null,"ms":500}"#,
            r#""call_sid":null,"kind":"rest","facts":{"method":"GET","path":"/v1/Accounts/acme/Calls/s1.json","status":200,"ms":1}"#,
            r#""call_sid":null,"kind":"rest","facts":{"method":"POST","path":"/v1/Accounts/acme/Calls/s1","status":405,"ms":1}"#,
        ] {
            writeln!(file, r#"{{"time":"2026-11-25T10:00:01Z",{facts}}}"#).unwrap();
        }
        let journal = journal(file.path()).unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(journal.ends, [("s1".to_owned(), at("2026-11-25T10:00:01Z"))].into());
        assert_eq!(journal.connects, [("acme".to_owned(), at("2026-11-25T10:00:00.5Z"))]);
        assert!(dials(file.path()).unwrap_err().to_string().contains("line 1"));
    }
}
