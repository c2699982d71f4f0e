//! What is held against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};

/// What a run left behind.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Evidence {
    /// What clients were told.
    pub(in super::super) accepted: Vec<Accepted>,
    /// Keys whose clients never got a definite answer.
    pub(in super::super) unanswered: Vec<String>,
    /// Keys that were refused although nothing was wrong with the request, and how.
    pub(in super::super) refused: Vec<(String, String)>,
    /// All outbound rows.
    pub(in super::super) rows: Vec<Row>,
    /// All outbound dials.
    pub(in super::super) dials: Vec<Dial>,
    /// When calls ended at the simulator, by CallSid.
    pub(in super::super) ends: HashMap<String, DateTime<Utc>>,
    /// All connect requests that reached the simulator, in the order in which they came.
    pub(in super::super) posts: Vec<Post>,
    /// The accounts, by sid.
    pub(in super::super) limits: BTreeMap<String, Limits>,
    /// The campaigns, by id.
    pub(in super::super) campaigns: BTreeMap<String, Campaign>,
    /// The pauses of campaigns.
    pub(in super::super) pauses: Vec<Pause>,
    /// How many contacts a campaign has in a state.
    pub(in super::super) contacts: BTreeMap<(String, String), u64>,
    /// The calls on which people talked.
    pub(in super::super) talks: Vec<Talk>,
    /// What our rows say of all calls, where people talked.
    pub(in super::super) talk_rows: Vec<TalkRow>,
    /// Windows in which replicas died.
    pub(in super::super) windows: Vec<Window>,
    /// Calls whose edge died, by the simulator's ids.
    pub(in super::super) cut: BTreeSet<String>,
    /// Connections, requests and handshakes that nobody took, where none may be refused.
    pub(in super::super) not_taken: Vec<String>,
}

/// A call on which somebody talked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Talk {
    /// The simulator's id; empty when there was no call.
    pub(in super::super) call_sid: String,
    /// Why it did not end as the person wanted.
    pub(in super::super) wrong: Option<String>,
    /// What was heard; nothing of a call that ended otherwise.
    pub(in super::super) sound: Sound,
}

/// What was heard of what was said, from the first sample to the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Sound {
    /// Samples that did not come back.
    pub(in super::super) lost: u64,
    /// Samples that came back again, or in the wrong place.
    pub(in super::super) doubled: u64,
    /// Silence in the midst of it.
    pub(in super::super) holes: Vec<Hole>,
}

/// Silence that nobody said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Hole {
    /// Its beginning.
    pub(in super::super) at: DateTime<Utc>,
    /// Its length.
    pub(in super::super) ms: u64,
}

/// A time in which replicas of call-service died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Window {
    /// The moment before they died.
    pub(in super::super) from: DateTime<Utc>,
    /// Its end.
    pub(in super::super) until: DateTime<Utc>,
    /// Whether the edges were attached to them.
    pub(in super::super) attached: bool,
}

/// What our rows say of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct TalkRow {
    /// As the API writes it.
    pub(in super::super) call: String,
    /// Exotel's id.
    pub(in super::super) call_sid: String,
    /// The database's word.
    pub(in super::super) state: String,
    /// Why it ended.
    pub(in super::super) end_reason: Option<String>,
    /// How often it came to an end, by its events.
    pub(in super::super) ends: i64,
    /// Media sessions that began.
    pub(in super::super) sessions: i64,
    /// Ends of sessions, by the call's events.
    pub(in super::super) session_ends: i64,
    /// Whether an end, of the call or of a session, is or was presumed.
    pub(in super::super) presumed: bool,
}

/// PlaceCall answered OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Accepted {
    /// The idempotency key.
    pub(in super::super) key: String,
    /// The call it named.
    pub(in super::super) call: String,
}

/// An outbound row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Row {
    /// As the API writes it.
    pub(in super::super) call: String,
    /// The idempotency key.
    pub(in super::super) key: String,
    /// Whose contact it calls.
    pub(in super::super) campaign: Option<String>,
    /// The database's word.
    pub(in super::super) state: String,
    /// Exotel's id, if it is known.
    pub(in super::super) call_sid: Option<String>,
    /// Why it ended.
    pub(in super::super) end_reason: Option<String>,
}

/// A dial in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Dial {
    /// When.
    pub(in super::super) time: DateTime<Utc>,
    /// The simulator's id.
    pub(in super::super) call_sid: String,
    /// Whose.
    pub(in super::super) account: String,
    /// Names our call.
    pub(in super::super) custom_field: Option<String>,
}

/// A connect request that came, whatever became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Post {
    /// When.
    pub(in super::super) time: DateTime<Utc>,
    /// Whose.
    pub(in super::super) account: String,
    /// Names our call, as far as it could be read.
    pub(in super::super) custom_field: Option<String>,
    /// It was told that it came too often: nothing was dialled, and it may come again.
    pub(in super::super) may_come_again: bool,
}

/// What a campaign was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Campaign {
    /// Of its own.
    pub(in super::super) limits: Limits,
    /// Attempts that its rules allow for a contact.
    pub(in super::super) attempts: u64,
    /// Contacts that were sent.
    pub(in super::super) contacts: u64,
}

/// A campaign was paused, by the one who resumed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Pause {
    /// Its id.
    pub(in super::super) campaign: String,
    /// When PauseCampaign was answered.
    pub(in super::super) from: DateTime<Utc>,
    /// When ResumeCampaign was sent.
    pub(in super::super) until: DateTime<Utc>,
}

/// What an account or a campaign allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Limits {
    /// Calls at one time; 0 is no cap.
    pub(in super::super) concurrent: u64,
    /// Connects in any sliding minute; 0 is no limit.
    pub(in super::super) per_minute: u64,
}
