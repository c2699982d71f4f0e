//! The evidence from where it is kept: the simulator's files and the database.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::Context as _;
use callbridge_proto::id::{CallId, CampaignId};
use chrono::{DateTime, Utc};
use exotel_sim::{Event, Fate, ledger};
use tokio_postgres::Client;

use super::check::{Dial, Post, Row, TalkRow};

/// The outbound dials of a ledger.
pub(super) fn dials(path: &Path) -> anyhow::Result<Vec<Dial>> {
    let entries = ledger::read(path)?;
    let ours = entries.into_iter().filter(|entry| entry.mode.is_connect());
    let dials = ours.map(|entry| Dial {
        time: entry.time,
        call_sid: entry.call_sid,
        account: entry.account_sid,
        custom_field: entry.custom_field,
    });
    Ok(dials.collect())
}

/// The connect requests that came. `refuses` says of a number whether its script tells all that they come too often.
pub(super) fn posts(path: &Path, refuses: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Post>> {
    let arrivals = ledger::read_arrivals(path)?;
    let posts = arrivals.into_iter().map(|arrival| Post {
        time: arrival.time,
        account: arrival.account_sid,
        custom_field: arrival.custom_field,
        may_come_again: arrival.fate == Fate::RateLimited
            || arrival.fate == Fate::NotDialled && arrival.from.as_deref().is_some_and(&refuses),
    });
    Ok(posts.collect())
}

/// When calls ended, by CallSid, from an event journal.
pub(super) fn ends(path: &Path) -> anyhow::Result<HashMap<String, DateTime<Utc>>> {
    let mut ends = HashMap::new();
    for event in events(path)? {
        let event = event?;
        if event.kind == "call" && event.facts["what"] == "ended" {
            ends.extend(event.call_sid.map(|sid| (sid, event.time)));
        }
    }
    Ok(ends)
}

/// What nobody took: requests of applets, tries of callbacks and handshakes without an answer or with 5xx, each by itself, as
/// Exotel repeats few of them.
pub(super) fn not_taken(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut not_taken = Vec::new();
    for event in events(path)? {
        let event = event?;
        let facts = &event.facts;
        let answered = facts["status"].as_u64().is_some_and(|status| status < 500);
        let (what, error) = match event.kind.as_str() {
            "applet" if !answered => (facts["applet"].as_str(), &facts["error"]),
            "callback" if !answered && facts["lost"] == false => (facts["event"].as_str(), &facts["error"]),
            "stream" if facts["what"] == "handshake failed" => (Some("handshake"), &facts["facts"]["error"]),
            _ => continue,
        };
        not_taken.push(format!(
            "{} ({}) of {} at {}: status {}, {error}",
            what.unwrap_or("?"),
            event.kind,
            event.call_sid.as_deref().unwrap_or("no call"),
            event.time,
            facts["status"]
        ));
    }
    Ok(not_taken)
}

fn events(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Event>>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let path = path.to_owned();
    let lines = BufReader::new(file).lines().enumerate();
    Ok(lines.map(move |(number, line)| {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&line).with_context(|| format!("line {} of {} is no event", number + 1, path.display()))
    }))
}

/// What the rows of all calls say of their ends.
pub(super) async fn talk_rows(client: &Client) -> anyhow::Result<Vec<TalkRow>> {
    let terminal = "('completed', 'no_answer', 'busy', 'failed', 'canceled')";
    let statement = format!(
        "SELECT c.id::text, c.call_sid, c.state::text, c.end_reason, e.ends, m.sessions, e.session_ends, \
         c.end_presumed OR e.presumed OR m.presumed \
         FROM calls c, \
         LATERAL (SELECT count(*) FILTER (WHERE state IN {terminal} AND state IS DISTINCT FROM before) AS ends, \
         count(*) FILTER (WHERE type = 'media_ended') AS session_ends, bool_or(data ? 'presumed') AS presumed \
         FROM (SELECT type, state, data, lag(state) OVER (ORDER BY version) AS before \
         FROM call_events WHERE call_id = c.id) story) e, \
         LATERAL (SELECT count(*) AS sessions, coalesce(bool_or(end_presumed), false) AS presumed \
         FROM media_sessions WHERE call_id = c.id AND started_at IS NOT NULL) m \
         WHERE c.call_sid IS NOT NULL"
    );
    let found = client
        .query(&statement, &[])
        .await
        .context("cannot read the calls' ends")?;
    found
        .iter()
        .map(|row| {
            let id: String = row.try_get(0)?;
            Ok(TalkRow {
                call: format!("{}_{}", CallId::PREFIX, id.replace('-', "")),
                call_sid: row.try_get(1)?,
                state: row.try_get(2)?,
                end_reason: row.try_get(3)?,
                ends: row.try_get(4)?,
                sessions: row.try_get(5)?,
                session_ends: row.try_get(6)?,
                presumed: row.try_get(7)?,
            })
        })
        .collect()
}

/// All outbound rows.
pub(super) async fn rows(client: &Client) -> anyhow::Result<Vec<Row>> {
    let statement = "SELECT id::text, idempotency_key, state::text, call_sid, end_reason, campaign_id::text FROM calls \
                     WHERE direction = 'outbound' ORDER BY id";
    let found = client.query(statement, &[]).await.context("cannot read the calls")?;
    found
        .iter()
        .map(|row| {
            let id = row.try_get::<_, String>(0)?;
            let campaign: Option<String> = row.try_get(5)?;
            Ok(Row {
                call: format!("{}_{}", CallId::PREFIX, id.replace('-', "")),
                campaign: campaign.map(|id| prefixed(&id)),
                key: row.try_get::<_, Option<String>>(1)?.unwrap_or_default(),
                state: row.try_get(2)?,
                call_sid: row.try_get(3)?,
                end_reason: row.try_get(4)?,
            })
        })
        .collect()
}

fn prefixed(campaign: &str) -> String {
    format!("{}_{}", CampaignId::PREFIX, campaign.replace('-', ""))
}

/// How many contacts each campaign has in each state.
pub(super) async fn contacts(client: &Client) -> anyhow::Result<BTreeMap<(String, String), u64>> {
    let statement = "SELECT campaign_id::text, state, count(*) FROM contacts GROUP BY campaign_id, state";
    let found = client.query(statement, &[]).await.context("cannot read the contacts")?;
    found
        .iter()
        .map(|row| {
            let campaign: String = row.try_get(0)?;
            let count: i64 = row.try_get(2)?;
            Ok(((prefixed(&campaign), row.try_get(1)?), u64::try_from(count)?))
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

    fn file(lines: &[&str]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for line in lines {
            writeln!(file, r#"{{"time":"2026-11-25T10:00:01Z",{line}}}"#).unwrap();
        }
        file
    }

    #[test]
    fn ends_are_found_among_events() {
        let events = file(&[
            r#""call_sid":"s1","kind":"call","facts":{"what":"ringing","status":null,"cause":null}"#,
            r#""call_sid":"s1","kind":"call","facts":{"what":"ended","status":"busy","cause":"not_answered"}"#,
            r#""call_sid":"s2","kind":"stream","facts":{"what":"ended"}"#,
        ]);
        let at = "2026-11-25T10:00:01Z".parse().unwrap();
        assert_eq!(ends(events.path()).unwrap(), [("s1".to_owned(), at)].into());
        assert!(ends(file(&["}{"]).path()).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn a_request_may_come_again_only_if_it_was_told_so() {
        let arrival = |fate: &str, from: &str| {
            format!(
                r#""account_sid":"acme","custom_field":"c","from":"{from}","caller_id":null,"fate":"{fate}","fault":null"#
            )
        };
        let arrivals = [
            arrival("dialled", "often"),
            arrival("not_dialled", "often"),
            arrival("not_dialled", "seldom"),
            arrival("rate_limited", "seldom"),
        ];
        let arrivals = file(&arrivals.each_ref().map(String::as_str));
        let again = posts(arrivals.path(), |number| number == "often").unwrap();
        let again: Vec<bool> = again.iter().map(|post| post.may_come_again).collect();
        assert_eq!(again, [false, true, false, true]);
    }
}
