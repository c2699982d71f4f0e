//! The verdict: the simulator's ledger against the database, when everything has settled. It does no IO.

mod campaigns;
mod evidence;
mod pauses;
mod talk;
mod violation;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};

pub(super) use self::{
    evidence::{Accepted, Campaign, Dial, Evidence, Hole, Limits, Pause, Post, Row, Sound, Talk, TalkRow, Window},
    violation::Violation,
};

/// What the evidence comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Keys that were dialled more than once.
    pub(super) double_dials: u64,
    /// Accepted keys without a row, dials without a row, rows that never ended.
    pub(super) lost_calls: u64,
    /// Rows in an active state.
    pub(super) stuck_slots: u64,
    /// Dials whose call ended as unconfirmed: made, and nobody found out. Not forbidden, but worth a look.
    pub(super) untold_dials: u64,
    /// Pauses of campaigns that were long enough to show a late request.
    pub(super) pauses: u64,
    /// Requests that came in a pause, more than a second after it was answered.
    pub(super) late_posts: u64,
    /// The latest request that came in a pause, in milliseconds after it was answered.
    pub(super) latest_post_ms: u64,
    /// Calls that ended otherwise than their person wanted.
    pub(super) dropped: u64,
    /// Connections, requests and handshakes that nobody took, and calls that were refused.
    pub(super) refused: u64,
    /// Samples that were said and not heard.
    pub(super) samples_lost: u64,
    /// Samples that were heard more than once, or in the wrong place.
    pub(super) samples_doubled: u64,
    /// The longest hole that was heard while edges were detached, in milliseconds.
    pub(super) hole_ms: u64,
    /// The same while they were not, and as much happened to others.
    pub(super) hole_control_ms: u64,
    /// Windows with a hole over 40 ms while edges were detached.
    pub(super) holes: u64,
    /// The same while they were not.
    pub(super) holes_control: u64,
    /// Everything that is wrong.
    pub(super) violations: Vec<Violation>,
}

const ACTIVE: [&str; 5] = ["dialing", "unconfirmed", "placed", "ringing", "in_progress"];
const TERMINAL: [&str; 5] = ["completed", "no_answer", "busy", "failed", "canceled"];
/// Ends that only a call that was made can have.
const AFTER_DIAL: [&str; 3] = ["completed", "busy", "no_answer"];

/// Checks everything.
pub(super) fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let rows: HashMap<&str, &Row> = evidence.rows.iter().map(|row| (row.call.as_str(), row)).collect();
    let by_key = by_key(&evidence.rows);
    dials(evidence, &rows, &mut verdict);
    answers(evidence, &by_key, &mut verdict);
    states(evidence, &mut verdict);
    posts(evidence, &mut verdict);
    for (key, calls) in &by_key {
        if calls.len() > 1 {
            let calls = calls.iter().map(|call| (*call).to_owned()).collect();
            verdict.violations.push(Violation::TwoRows {
                key: (*key).to_owned(),
                calls,
            });
        }
    }
    for (account, limits) in &evidence.limits {
        let dials: Vec<_> = evidence.dials.iter().filter(|dial| dial.account == *account).collect();
        cap(evidence, account, limits.concurrent, &dials, &mut verdict);
        let posts = evidence.posts.iter().filter(|post| post.account == *account);
        rate(account, limits.per_minute, posts.map(|post| post.time), &mut verdict);
    }
    campaigns::check(evidence, &rows, &mut verdict);
    pauses::check(evidence, &rows, &mut verdict);
    talk::check(evidence, &mut verdict);
    verdict
}

fn by_key(rows: &[Row]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut by_key: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in rows {
        by_key.entry(&row.key).or_default().insert(&row.call);
    }
    by_key
}

/// The call that a dial's CustomField names: `call_….MAC`.
fn named(custom_field: Option<&str>) -> Option<&str> {
    let (call, mac) = custom_field?.split_once('.')?;
    (call.parse::<CallId>().is_ok() && !mac.is_empty()).then_some(call)
}

fn dials(evidence: &Evidence, rows: &HashMap<&str, &Row>, verdict: &mut Verdict) {
    let mut of_key: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    let mut own: HashSet<(&str, &str)> = HashSet::new();
    for dial in &evidence.dials {
        let call = named(dial.custom_field.as_deref());
        if let Some(row) = call.and_then(|call| rows.get(call)) {
            of_key.entry(&row.key).or_default().push((&row.call, &dial.call_sid));
            own.insert((&row.call, &dial.call_sid));
        } else {
            verdict.lost_calls += 1;
            verdict.violations.push(Violation::DialWithoutRow {
                call_sid: dial.call_sid.clone(),
                names: call.unwrap_or("nothing").to_owned(),
            });
        }
    }
    for (key, made) in &of_key {
        if made.len() > 1 {
            verdict.double_dials += 1;
            verdict.violations.push(Violation::DoubleDial {
                key: (*key).to_owned(),
                call: made[0].0.to_owned(),
                sids: made.iter().map(|(_, sid)| (*sid).to_owned()).collect(),
            });
        }
    }
    let dialled: HashSet<&str> = own.iter().map(|(call, _)| *call).collect();
    for row in &evidence.rows {
        let (call, state) = (row.call.clone(), row.state.clone());
        let made = dialled.contains(row.call.as_str());
        if AFTER_DIAL.contains(&row.state.as_str()) && !made {
            verdict.violations.push(Violation::EndWithoutDial { call, state });
        }
        if made
            && row
                .end_reason
                .as_deref()
                .is_some_and(|reason| reason.starts_with("unconfirmed"))
        {
            verdict.untold_dials += 1;
        }
        if let Some(call_sid) = &row.call_sid
            && !own.contains(&(row.call.as_str(), call_sid.as_str()))
        {
            let (call, call_sid) = (row.call.clone(), call_sid.clone());
            verdict.violations.push(Violation::ForeignSid { call, call_sid });
        }
    }
}

fn answers(evidence: &Evidence, by_key: &BTreeMap<&str, BTreeSet<&str>>, verdict: &mut Verdict) {
    let mut lost = BTreeSet::new();
    for Accepted { key, call } in &evidence.accepted {
        match by_key.get(key.as_str()) {
            None => {
                if lost.insert(key) {
                    verdict.lost_calls += 1;
                    let (key, call) = (key.clone(), call.clone());
                    verdict.violations.push(Violation::AcceptedWithoutRow { key, call });
                }
            }
            Some(calls) if !calls.contains(call.as_str()) => verdict.violations.push(Violation::OtherCall {
                key: key.clone(),
                told: call.clone(),
                row: calls.first().copied().unwrap_or_default().to_owned(),
            }),
            Some(_) => {}
        }
    }
    for key in &evidence.unanswered {
        verdict.violations.push(Violation::Unanswered { key: key.clone() });
    }
    for (key, status) in &evidence.refused {
        let (key, status) = (key.clone(), status.clone());
        verdict.violations.push(Violation::Refused { key, status });
    }
}

fn states(evidence: &Evidence, verdict: &mut Verdict) {
    for row in &evidence.rows {
        let (call, state) = (row.call.clone(), row.state.clone());
        if ACTIVE.contains(&row.state.as_str()) {
            verdict.stuck_slots += 1;
            let (call, state) = (call.clone(), state.clone());
            verdict.violations.push(Violation::StuckSlot { call, state });
        }
        // A word that we do not know is no end.
        if !TERMINAL.contains(&row.state.as_str()) {
            verdict.lost_calls += 1;
            verdict.violations.push(Violation::NeverEnded { call, state });
        }
    }
}

/// A request after one that may have dialled is one too many, dial or not.
fn posts(evidence: &Evidence, verdict: &mut Verdict) {
    let mut sent: HashMap<&str, DateTime<Utc>> = HashMap::new();
    for post in &evidence.posts {
        let Some(call) = named(post.custom_field.as_deref()) else {
            continue;
        };
        if let Some(first) = sent.get(call) {
            let (call, first, second) = (call.to_owned(), *first, post.time);
            verdict.violations.push(Violation::SecondPost { call, first, second });
        } else if !post.may_come_again {
            sent.insert(call, post.time);
        }
    }
}

/// Goes through the beginnings and ends of somebody's calls in the order of time. At one instant ends come first; a call
/// without an end goes on.
fn cap(evidence: &Evidence, whose: &str, cap: u64, dials: &[&Dial], verdict: &mut Verdict) {
    if cap == 0 {
        return;
    }
    let mut turns = Vec::new();
    for dial in dials {
        turns.push((dial.time, true));
        turns.extend(evidence.ends.get(&dial.call_sid).map(|end| (*end, false)));
    }
    turns.sort_unstable();
    let (mut calls, mut over) = (0_u64, false);
    for (at, begins) in turns {
        calls = if begins { calls + 1 } else { calls.saturating_sub(1) };
        if calls > cap && !over {
            let whose = whose.to_owned();
            verdict.violations.push(Violation::OverCap { whose, calls, cap, at });
        }
        // Told once for each time that it is exceeded.
        over = calls > cap;
    }
}

fn rate(whose: &str, limit: u64, posts: impl Iterator<Item = DateTime<Utc>>, verdict: &mut Verdict) {
    if limit == 0 {
        return;
    }
    let mut times: Vec<_> = posts.collect();
    times.sort_unstable();
    let beyond = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut told_until = None;
    for (first, last) in times.iter().zip(times.iter().skip(beyond)) {
        let new = told_until.is_none_or(|until| *first > until);
        if *last - *first < TimeDelta::minutes(1) && new {
            told_until = Some(*last);
            let whose = whose.to_owned();
            verdict.violations.push(Violation::OverRate {
                whose,
                limit,
                from: *first,
            });
        }
    }
}

#[cfg(test)]
mod tests;
