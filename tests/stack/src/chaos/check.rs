//! The verdict: the simulator's ledger against the database, when everything has settled. It does no IO.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};

/// What a run left behind.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// What clients were told.
    pub(super) accepted: Vec<Accepted>,
    /// Keys whose clients never got a definite answer.
    pub(super) unanswered: Vec<String>,
    /// Keys that were refused although nothing was wrong with the request, and how.
    pub(super) refused: Vec<(String, String)>,
    /// All outbound rows.
    pub(super) rows: Vec<Row>,
    /// All outbound dials.
    pub(super) dials: Vec<Dial>,
    /// When calls ended at the simulator, by CallSid.
    pub(super) ends: HashMap<String, DateTime<Utc>>,
    /// All connect requests that reached the simulator, in the order in which they came.
    pub(super) posts: Vec<Post>,
    /// The accounts, by sid.
    pub(super) limits: BTreeMap<String, Limits>,
}

/// PlaceCall answered OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The idempotency key.
    pub(super) key: String,
    /// The call it named.
    pub(super) call: String,
}

/// An outbound row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// As the API writes it.
    pub(super) call: String,
    /// The idempotency key.
    pub(super) key: String,
    /// The database's word.
    pub(super) state: String,
    /// Exotel's id, if it is known.
    pub(super) call_sid: Option<String>,
    /// Why it ended.
    pub(super) end_reason: Option<String>,
}

/// A dial in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dial {
    /// When.
    pub(super) time: DateTime<Utc>,
    /// The simulator's id.
    pub(super) call_sid: String,
    /// Whose.
    pub(super) account: String,
    /// Names our call.
    pub(super) custom_field: Option<String>,
}

/// A connect request that came, whatever became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Post {
    /// When.
    pub(super) time: DateTime<Utc>,
    /// Whose.
    pub(super) account: String,
    /// Names our call, as far as it could be read.
    pub(super) custom_field: Option<String>,
    /// It was told that it came too often: nothing was dialled, and it may come again.
    pub(super) may_come_again: bool,
}

/// What an account allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Calls at one time; 0 is no cap.
    pub(super) concurrent: u64,
    /// Connects in any sliding minute.
    pub(super) per_minute: u64,
}

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Violation {
    /// A key was dialled more than once.
    DoubleDial {
        key: String,
        call: String,
        sids: Vec<String>,
    },
    /// A call was sent once more after a request that may have dialled: that it did not is luck.
    SecondPost {
        call: String,
        first: DateTime<Utc>,
        second: DateTime<Utc>,
    },
    /// A dial that belongs to no row.
    DialWithoutRow { call_sid: String, names: String },
    /// A key that was accepted has no row.
    AcceptedWithoutRow { key: String, call: String },
    /// A row was not terminal after the settle time.
    NeverEnded { call: String, state: String },
    /// A row in an active state holds a slot.
    StuckSlot { call: String, state: String },
    /// A key has several rows.
    TwoRows { key: String, calls: Vec<String> },
    /// A client was told of another call than the key's.
    OtherCall { key: String, told: String, row: String },
    /// A row says how a call went that was never made.
    EndWithoutDial { call: String, state: String },
    /// A row has the CallSid of something else than its own dial.
    ForeignSid { call: String, call_sid: String },
    /// More calls at one time than an account allows.
    OverCap {
        account: String,
        calls: u64,
        cap: u64,
        at: DateTime<Utc>,
    },
    /// More connects within a minute than an account allows.
    OverRate {
        account: String,
        limit: u64,
        from: DateTime<Utc>,
    },
    /// A client never got a definite answer.
    Unanswered { key: String },
    /// A request in order was refused for good.
    Refused { key: String, status: String },
}

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
        cap(evidence, account, limits.concurrent, &mut verdict);
        rate(evidence, account, limits.per_minute, &mut verdict);
    }
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

/// Goes through the beginnings and ends of an account's calls in the order of time. At one instant ends come first; a call
/// without an end goes on.
fn cap(evidence: &Evidence, account: &str, cap: u64, verdict: &mut Verdict) {
    if cap == 0 {
        return;
    }
    let mut turns = Vec::new();
    for dial in evidence.dials.iter().filter(|dial| dial.account == account) {
        turns.push((dial.time, true));
        turns.extend(evidence.ends.get(&dial.call_sid).map(|end| (*end, false)));
    }
    turns.sort_unstable();
    let (mut calls, mut over) = (0_u64, false);
    for (at, begins) in turns {
        calls = if begins { calls + 1 } else { calls.saturating_sub(1) };
        if calls > cap && !over {
            let account = account.to_owned();
            verdict.violations.push(Violation::OverCap {
                account,
                calls,
                cap,
                at,
            });
        }
        // Told once for each time that it is exceeded.
        over = calls > cap;
    }
}

fn rate(evidence: &Evidence, account: &str, limit: u64, verdict: &mut Verdict) {
    let mut times: Vec<_> = evidence
        .posts
        .iter()
        .filter(|post| post.account == account)
        .map(|post| post.time)
        .collect();
    times.sort_unstable();
    let beyond = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut told_until = None;
    for (first, last) in times.iter().zip(times.iter().skip(beyond)) {
        let new = told_until.is_none_or(|until| *first > until);
        if *last - *first < TimeDelta::minutes(1) && new {
            told_until = Some(*last);
            let account = account.to_owned();
            verdict.violations.push(Violation::OverRate {
                account,
                limit,
                from: *first,
            });
        }
    }
}

impl Violation {
    /// The call whose timeline says more.
    pub(super) fn call(&self) -> Option<&str> {
        match self {
            Self::DoubleDial { call, .. }
            | Self::SecondPost { call, .. }
            | Self::NeverEnded { call, .. }
            | Self::StuckSlot { call, .. }
            | Self::EndWithoutDial { call, .. }
            | Self::ForeignSid { call, .. }
            | Self::AcceptedWithoutRow { call, .. } => Some(call),
            Self::OtherCall { row, .. } => Some(row),
            Self::TwoRows { calls, .. } => calls.first().map(String::as_str),
            Self::DialWithoutRow { .. }
            | Self::OverCap { .. }
            | Self::OverRate { .. }
            | Self::Unanswered { .. }
            | Self::Refused { .. } => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoubleDial { key, call, sids } => write!(f, "double dial: key {key}, {call}: {}", sids.join(", ")),
            Self::SecondPost { call, first, second } => {
                write!(
                    f,
                    "second request: {call} was sent at {second} after a request at {first} that may have dialled"
                )
            }
            Self::DialWithoutRow { call_sid, names } => write!(f, "lost call: dial {call_sid} names {names}, no row"),
            Self::AcceptedWithoutRow { key, call } => write!(f, "lost call: key {key} was accepted as {call}, no row"),
            Self::NeverEnded { call, state } => write!(f, "lost call: {call} is still {state}"),
            Self::StuckSlot { call, state } => write!(f, "stuck slot: {call} is {state}"),
            Self::TwoRows { key, calls } => write!(f, "two rows: key {key} has {}", calls.join(", ")),
            Self::OtherCall { key, told, row } => {
                write!(f, "other call: key {key} is {row}, its client was told {told}")
            }
            Self::EndWithoutDial { call, state } => write!(f, "end without a dial: {call} is {state}"),
            Self::ForeignSid { call, call_sid } => {
                write!(f, "foreign CallSid: {call} has {call_sid}, not its own dial")
            }
            Self::OverCap {
                account,
                calls,
                cap,
                at,
            } => {
                write!(
                    f,
                    "over the cap: account {account} had {calls} calls at {at}, {cap} are allowed"
                )
            }
            Self::OverRate { account, limit, from } => {
                write!(
                    f,
                    "over the rate: account {account} had more than {limit} connects in the minute from {from}"
                )
            }
            Self::Unanswered { key } => write!(f, "no answer: the client of key {key} never got a definite one"),
            Self::Refused { key, status } => write!(f, "refused: key {key}: {status}"),
        }
    }
}

#[cfg(test)]
mod tests;
