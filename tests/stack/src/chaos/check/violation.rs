//! What can be wrong.

use std::fmt;

use chrono::{DateTime, Utc};

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Violation {
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
    /// More calls at one time than an account or a campaign allows.
    OverCap {
        whose: String,
        calls: u64,
        cap: u64,
        at: DateTime<Utc>,
    },
    /// More connects within a minute than an account or a campaign allows.
    OverRate {
        whose: String,
        limit: u64,
        from: DateTime<Utc>,
    },
    /// A client never got a definite answer.
    Unanswered { key: String },
    /// A request in order was refused for good.
    Refused { key: String, status: String },
    /// A contact was dialled more often than the rules allow.
    TooOften { contact: String, dials: u64, allowed: u64 },
    /// A contact was dialled while its call before went on, or after that one reached it.
    OnceMore {
        contact: String,
        first: String,
        second: String,
        at: DateTime<Utc>,
    },
    /// A request of a campaign came long after it was paused.
    LatePost {
        campaign: String,
        call: String,
        paused: DateTime<Utc>,
        at: DateTime<Utc>,
    },
    /// Contacts were not called to the end.
    ContactsLeft {
        campaign: String,
        state: String,
        count: u64,
    },
    /// There are more or fewer contacts than were sent.
    ContactsLost { campaign: String, rows: u64, sent: u64 },
    /// A call ended otherwise than its person wanted.
    Dropped { call: String, how: String },
    /// Something else was heard than was said.
    OtherSound { call: String, lost: u64, doubled: u64 },
    /// A row tells another end than the person's, or tells it more than once.
    OtherEnd { call: String, what: String },
    /// A connection, a request or a handshake that nobody took.
    NotTaken { what: String },
    /// More or longer holes while edges were detached than at other times.
    Holes {
        longest_ms: u64,
        control_ms: u64,
        longer: usize,
        windows: usize,
        control_windows: usize,
    },
}

impl Violation {
    /// The call whose timeline says more.
    pub(in super::super) fn call(&self) -> Option<&str> {
        match self {
            Self::DoubleDial { call, .. }
            | Self::SecondPost { call, .. }
            | Self::NeverEnded { call, .. }
            | Self::StuckSlot { call, .. }
            | Self::EndWithoutDial { call, .. }
            | Self::LatePost { call, .. }
            | Self::ForeignSid { call, .. }
            | Self::Dropped { call, .. }
            | Self::OtherSound { call, .. }
            | Self::OtherEnd { call, .. }
            | Self::AcceptedWithoutRow { call, .. } => Some(call),
            Self::OtherCall { row, .. } => Some(row),
            Self::OnceMore { second, .. } => Some(second),
            Self::TwoRows { calls, .. } => calls.first().map(String::as_str),
            Self::DialWithoutRow { .. }
            | Self::OverCap { .. }
            | Self::OverRate { .. }
            | Self::Unanswered { .. }
            | Self::Refused { .. }
            | Self::TooOften { .. }
            | Self::ContactsLeft { .. }
            | Self::ContactsLost { .. }
            | Self::NotTaken { .. }
            | Self::Holes { .. } => None,
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
            Self::OverCap { whose, calls, cap, at } => {
                write!(f, "over the cap: {whose} had {calls} calls at {at}, {cap} are allowed")
            }
            Self::OverRate { whose, limit, from } => {
                write!(
                    f,
                    "over the rate: {whose} had more than {limit} connects in the minute from {from}"
                )
            }
            Self::Unanswered { key } => write!(f, "no answer: the client of key {key} never got a definite one"),
            Self::Refused { key, status } => write!(f, "refused: key {key}: {status}"),
            Self::TooOften {
                contact,
                dials,
                allowed,
            } => write!(
                f,
                "too often: {contact} was dialled {dials} times, {allowed} are allowed"
            ),
            Self::OnceMore {
                contact,
                first,
                second,
                at,
            } => write!(
                f,
                "once more: {contact} was dialled at {at} by {second}, while or after {first} had it"
            ),
            Self::LatePost {
                campaign,
                call,
                paused,
                at,
            } => write!(
                f,
                "late request: {call} was sent at {at}, the pause of {campaign} was answered at {paused}"
            ),
            Self::ContactsLeft { campaign, state, count } => {
                write!(f, "contacts left: {count} of {campaign} are still {state}")
            }
            Self::ContactsLost { campaign, rows, sent } => {
                write!(f, "lost contacts: {campaign} has {rows} rows, {sent} were sent")
            }
            Self::Dropped { call, how } => write!(f, "dropped: {call}: {how}"),
            Self::OtherSound { call, lost, doubled } => {
                write!(
                    f,
                    "other sound: {call}: {lost} samples did not come back, {doubled} once more or elsewhere"
                )
            }
            Self::OtherEnd { call, what } => write!(f, "other end: {call}: {what}"),
            Self::NotTaken { what } => write!(f, "not taken: {what}"),
            Self::Holes {
                longest_ms,
                control_ms,
                longer,
                windows,
                control_windows,
            } => write!(
                f,
                "holes: the longest is {longest_ms} ms while edges are detached and {control_ms} ms at other times; {longer} \
                 are twice as long as any there; {windows} windows have one that its pair has not, {control_windows} pairs"
            ),
        }
    }
}
