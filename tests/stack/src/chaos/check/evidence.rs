//! What is held against each other.

use std::collections::{BTreeMap, HashMap};

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
