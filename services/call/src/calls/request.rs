//! What a caller asks for, checked and in our types.

use std::collections::BTreeMap;

use callbridge_proto::id::{AgentId, PhoneId};
use chrono::{DateTime, TimeDelta, Utc};
use exotel::PhoneNumber;
use serde::Serialize;

use super::capacity::WhenBusy;
use crate::error::{Error, Violations};

/// A call that waits longer than this past its earliest time is given up, unless the caller says otherwise.
pub const EXPIRES_AFTER: TimeDelta = TimeDelta::hours(1);

/// How far ahead a call can be planned.
const FARTHEST: TimeDelta = TimeDelta::days(30);
/// `when_at_capacity`: refuse rather than wait.
const REFUSE: i16 = 2;

/// A checked request for a call. Its serialised form, without the key, is what a repeat must agree with.
#[derive(Clone, Serialize)]
pub struct Request {
    /// Chosen by the caller.
    #[serde(skip)]
    pub key: String,
    /// Whom to call, E.164.
    #[serde(serialize_with = "full_number")]
    pub to: PhoneNumber,
    /// Which phone to call from.
    pub from: From,
    /// Who talks; the phone's agent if none is named.
    pub agent: Option<AgentId>,
    /// Seconds.
    pub ring_timeout: u32,
    /// Seconds.
    pub time_limit: u32,
    /// Not dialled before.
    pub not_before: Option<DateTime<Utc>>,
    /// Given up if still waiting then.
    pub expire_at: Option<DateTime<Utc>>,
    /// Larger is sooner.
    pub priority: i32,
    /// Dial outside of the calling hours, for this reason.
    pub hours_override: Option<String>,
    /// Kept with the call.
    pub metadata: BTreeMap<String, String>,
    /// Record at Exotel.
    pub record: bool,
    /// What to do while the number is on another call: 1 wait, 2 refuse, 3 allow.
    pub when_number_busy: i16,
    /// What to do while there is no room: 1 wait, 2 refuse.
    pub when_at_capacity: i16,
}

/// Which phone to call from.
#[derive(Clone, Serialize)]
pub enum From {
    /// A phone record.
    Phone(PhoneId),
    /// A phone's number.
    #[serde(serialize_with = "full_number")]
    CallerId(PhoneNumber),
    /// The environment's.
    Default,
}

fn full_number<S: serde::Serializer>(number: &PhoneNumber, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(number.expose())
}

impl Request {
    /// What a repeat must agree with.
    ///
    /// # Errors
    /// When it cannot be serialised.
    pub fn canonical(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|_| Error::internal("a request could not be serialised"))
    }

    /// What to do while the number is on another call.
    pub fn when_busy(&self) -> WhenBusy {
        WhenBusy::of(self.when_number_busy)
    }

    /// Whether the caller would rather have no call than one that waits for room.
    pub fn refuses_to_wait(&self) -> bool {
        self.when_at_capacity == REFUSE
    }

    /// Only a new call is held against the clock: a repeat finds its call however late it comes.
    pub fn check_times(&self, now: DateTime<Utc>) -> Result<(), Error> {
        let mut wrong = Violations::new();
        let begins = self.not_before.map_or(now, |at| at.max(now));
        wrong.require(begins <= now + FARTHEST, "not_before", "at most 30 days ahead");
        wrong.require(
            self.expire_at.is_none_or(|at| at > begins),
            "expire_at",
            "later than not_before and than now",
        );
        let last = begins + FARTHEST;
        wrong.require(
            self.expire_at.is_none_or(|at| at <= last),
            "expire_at",
            "at most 30 days after not_before",
        );
        wrong.finish()
    }
}
