//! Settling a dial whose outcome is unknown by Exotel's list of calls: which of them can be the dial, and what follows.
//! Decides alone; [`super::search`] asks and writes.

use std::collections::HashSet;

use callbridge_proto::id::CallId;
use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};
use exotel::{
    Caller,
    rest::{CallDetails, Direction as Way},
};

use super::{
    state::{Direction, Presumption, State},
    zone,
};
use crate::store::calls::Call;

/// How long a POST may take: Exotel makes the call at some moment of it.
const POST: TimeDelta = TimeDelta::seconds(38);
/// Exotel's machines need not agree on the second.
const MARGIN: TimeDelta = TimeDelta::seconds(10);
/// How far our clock and Exotel's may be apart (F57). Only what they have both shown is compared without it.
const SKEW: TimeDelta = TimeDelta::minutes(10);
/// When Exotel's list is read, as parts of the settle window.
const POLLS: [(i32, i32); 5] = [(1, 60), (1, 15), (1, 4), (1, 2), (1, 1)];
/// After the window, one of this many parts of it lies between two polls.
const LATE_POLLS: i32 = 15;
/// Polls without a trace before a dial counts as never made.
const CLEAN_POLLS: i32 = 3;
/// An Exotel that cannot be asked keeps a dial open for so long at most.
const PATIENCE: TimeDelta = TimeDelta::hours(24);
/// Candidates that are named on the timeline.
pub(super) const NAMED: usize = 20;

/// A dial whose call at Exotel is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought<'a> {
    /// The call.
    pub id: CallId,
    /// The person, as the row has it.
    pub customer: &'a str,
    /// The ExoPhone, likewise.
    pub exophone: &'a str,
    /// When the POST began, by the database's clock.
    pub posted_at: DateTime<Utc>,
    /// The account's clock, once it is known.
    pub offset: Option<FixedOffset>,
}

impl<'a> Sought<'a> {
    /// What to look for. None: the call at Exotel is known, there is none, or too little is left to know it by.
    pub(super) fn of(call: &'a Call, offset_minutes: Option<i32>) -> Option<Self> {
        let open = match call.state {
            State::Queued | State::Dialing => false,
            State::Unconfirmed | State::Placed | State::Ringing | State::InProgress => true,
            // Without the account's clock the wrong call might be taken for it, now that the next one may have been made.
            _ => call.end_presumed && offset_minutes.is_some(),
        };
        let offset = offset_minutes.and_then(|minutes| FixedOffset::east_opt(minutes * 60));
        let known = call.call_sid.is_some() || call.blanked_at.is_some();
        (open && !known && call.direction == Direction::Outbound).then_some(Self {
            id: call.id(),
            customer: &call.customer,
            exophone: &call.exophone,
            posted_at: call.post_started_at?,
            offset,
        })
    }

    /// The times of creation to list, as the account's clock prints them; all clocks of the world while it is not known.
    pub(super) fn window(&self) -> (NaiveDateTime, NaiveDateTime) {
        let (before, after) = (MARGIN + SKEW, MARGIN + POST + SKEW);
        let (west, east) = match self.offset.map(|offset| i64::from(offset.local_minus_utc())) {
            Some(offset) => (offset, offset),
            None => (
                zone::QUARTER * zone::quarters().start(),
                zone::QUARTER * zone::quarters().end(),
            ),
        };
        let posted = self.posted_at.naive_utc();
        (
            posted + TimeDelta::seconds(west) - before,
            posted + TimeDelta::seconds(east) + after,
        )
    }

    /// Whether a call that was created then can be this one. `skew` is Exotel's clock minus ours.
    fn made(&self, created: NaiveDateTime, skew: Option<TimeDelta>) -> bool {
        let unsure = if skew.is_some() { TimeDelta::zero() } else { SKEW };
        let (before, after) = (MARGIN + unsure, MARGIN + POST + unsure);
        let late = created - (self.posted_at + skew.unwrap_or_default()).naive_utc();
        if let Some(offset) = self.offset {
            let late = late - TimeDelta::seconds(offset.local_minus_utc().into());
            return -before <= late && late <= after;
        }
        let (seconds, span) = ((late + before).num_seconds(), (before + after).num_seconds());
        zone::quarters().any(|quarter| (0..=span).contains(&(seconds - quarter * zone::QUARTER)))
    }

    /// What cannot be read proves nothing.
    fn fits(&self, listed: &CallDetails) -> bool {
        let is = |shown: &Caller, wanted: &str| shown.number.as_ref().is_none_or(|number| number.expose() == wanted);
        is(&listed.from, self.customer)
            && is(&listed.phone_number, self.exophone)
            && !matches!(listed.direction, Some(Way::Inbound | Way::OutboundDial))
    }
}

/// The listed calls that can be the dial. Those that other rows own (`taken`) are not, nor those that carry a `CustomField`
/// which `named` does not find to be this call's. One that carries this call's is it, whatever else is listed.
pub(super) fn candidates<'a>(
    sought: &Sought<'_>,
    listed: &'a [CallDetails],
    taken: &HashSet<String>,
    skew: Option<TimeDelta>,
    named: impl Fn(&str) -> Option<CallId>,
) -> Vec<&'a CallDetails> {
    let (mut ours, mut likely) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for call in listed {
        // A list that grows between two pages shows a call twice.
        if taken.contains(&call.call_sid) || !seen.insert(call.call_sid.as_str()) {
            continue;
        }
        match call.custom_field.as_deref().map(&named) {
            Some(Some(id)) if id == sought.id => ours.push(call),
            Some(_) => {}
            None if !sought.fits(call) => {}
            None if call
                .date_created_naive
                .is_some_and(|created| !sought.made(created, skew)) => {}
            None => likely.push(call),
        }
    }
    if ours.is_empty() { likely } else { ours }
}

/// What is to become of an unconfirmed dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision<'a> {
    /// This is it.
    Found(&'a CallDetails),
    /// It counts as failed until there is evidence.
    GiveUp {
        /// In which words.
        presumption: Presumption,
        /// Whether a person should look.
        needs_review: bool,
    },
    /// Exotel's list is read again.
    Wait {
        /// Whether this look counts as one without a trace.
        clean: bool,
        /// When.
        until: DateTime<Utc>,
    },
}

/// Decides about an unconfirmed dial. `found` is None where Exotel could not be asked; `clean_polls` were without a trace
/// before.
pub(super) fn decide<'a>(
    posted_at: DateTime<Utc>,
    window: TimeDelta,
    clean_polls: i32,
    found: Option<&[&'a CallDetails]>,
    now: DateTime<Utc>,
) -> Decision<'a> {
    let over = now >= posted_at + window;
    let clean = found.is_some_and(<[_]>::is_empty);
    match found {
        Some([call]) => return Decision::Found(call),
        Some([]) if over && clean_polls + 1 >= CLEAN_POLLS => {
            return Decision::GiveUp {
                presumption: Presumption::Unconfirmed,
                needs_review: false,
            };
        }
        Some([_, _, ..]) if over => {
            return Decision::GiveUp {
                presumption: Presumption::UnconfirmedAmbiguous,
                needs_review: true,
            };
        }
        None if over && now >= posted_at + PATIENCE => {
            return Decision::GiveUp {
                presumption: Presumption::Unconfirmed,
                needs_review: true,
            };
        }
        Some(_) | None => {}
    }
    Decision::Wait {
        clean,
        until: next_poll(posted_at, window, now),
    }
}

/// When Exotel's list is read next.
fn next_poll(posted_at: DateTime<Utc>, window: TimeDelta, now: DateTime<Utc>) -> DateTime<Utc> {
    let planned = POLLS
        .iter()
        .map(|(part, of)| posted_at + window * *part / *of)
        .find(|at| *at > now);
    planned.unwrap_or(now + window / LATE_POLLS)
}

/// When Exotel's list is read first: a call takes a while to get into it.
pub(super) fn first_poll(posted_at: DateTime<Utc>, window: TimeDelta) -> DateTime<Utc> {
    posted_at + window * POLLS[0].0 / POLLS[0].1
}

#[cfg(test)]
mod tests;
