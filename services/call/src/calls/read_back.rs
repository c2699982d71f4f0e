//! When Exotel is asked how a call stands, and what its answer means. Decides alone; [`super::reconcile`] asks. A lost callback
//! costs minutes, never the call.

use chrono::{DateTime, TimeDelta, Utc};
use exotel::{ProviderStatus, rest::CallDetails};

use super::state::{Direction, End, Event, Facts, Outcome, Presumption, Source, State};
use crate::store::calls::{Call, Change};

/// After the last audio session ended, first: Exotel's own record follows within seconds, its callback may be lost. The
/// later steps are a setting.
const AFTER_MEDIA: TimeDelta = TimeDelta::seconds(2);
/// An inbound call is only the word of whoever has the account's token until Exotel is asked: soon after its audio began, which is
/// what costs.
const CONFIRM: TimeDelta = TimeDelta::seconds(10);
/// When there is nothing better to go by.
const EVERY: TimeDelta = TimeDelta::minutes(5);
/// Exotel ends a call at its time limit; this much later it is surely over.
const PAST_LIMIT: TimeDelta = TimeDelta::minutes(2);
/// Exotel knows no limit of ours for an inbound call: a person may be talking to it still, but not for longer than this.
const LONGEST_INBOUND: TimeDelta = TimeDelta::hours(24);
/// Price and duration lag the end by up to a quarter of an hour.
const LATE_FACTS: [i64; 3] = [60, 300, 900];
/// After a presumed end Exotel is asked every hour for a day: the presumption gives way to what it says.
const PRESUMED: (TimeDelta, usize) = (TimeDelta::hours(1), 24);
/// A call that is over, and that cannot be asked about, is left alone so long after its end.
const GIVEN_UP: TimeDelta = TimeDelta::days(3);
/// The time of the first question about an unconfirmed dial, which depends on a setting: the reconciler, which knows it, sets
/// it in place of this.
pub const TO_BE_SET: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// When to ask first after a change. None: as it was before.
pub fn schedule(before: &Call, facts: &Facts, state: State, now: DateTime<Utc>) -> Option<Option<DateTime<Utc>>> {
    let known = before.facts().unwrap_or_default();
    if state.is_terminal() {
        let presumed = facts.ending().is_some_and(|ending| ending.presumed);
        let at_exotel = presumed || facts.ends.keys().any(|source| *source != Source::Local);
        let news = !before.state.is_terminal() || before.end_presumed != presumed;
        return news.then(|| at_exotel.then(|| now + TimeDelta::seconds(LATE_FACTS[0])));
    }
    if facts.left != known.left {
        return Some(Some(now + AFTER_MEDIA));
    }
    if facts.media_seen && !known.media_seen {
        return Some(Some(if before.direction == Direction::Inbound {
            now + CONFIRM
        } else {
            past_limit(before, now)
        }));
    }
    if state == State::Unconfirmed && before.state != state {
        return Some(Some(TO_BE_SET));
    }
    let placed = matches!(state, State::Placed | State::Ringing | State::InProgress);
    // Also where a presumed end gave way to evidence.
    let was_placed = matches!(before.state, State::Placed | State::Ringing | State::InProgress);
    if placed && !was_placed {
        let rings_until = TimeDelta::seconds(i64::from(before.ring_timeout_seconds) + 10);
        return Some(Some(now + rings_until));
    }
    None
}

/// Lets Exotel be asked at once where two sources name different ends: its own record decides (F51). Once for each
/// contradiction: while the question waits, and after its answer, a repeat changes nothing.
pub fn ask_if_contradicted(
    before: &Call,
    facts: &Facts,
    event: Option<&Event>,
    now: DateTime<Utc>,
    mut change: Change,
) -> Change {
    let Some(Event::Ended(source, end)) = event else {
        return change;
    };
    let told = facts.ends.range(Source::Passthru..);
    let contradicted = *source != Source::Local
        && *source != Source::ReadBack
        && !facts.ends.contains_key(&Source::ReadBack)
        && told.into_iter().any(|(_, known)| known.outcome != end.outcome);
    let waits = before.read_back_at.is_some_and(|at| at <= now);
    if contradicted && !waits && change.read_back_at.is_none() {
        change.read_back_at = Some(Some(now));
        change.read_backs = Some(0);
    }
    change
}

/// When to ask again after Exotel has told of a call. An inbound one whose audio goes on is confirmed by that.
pub fn after_answer(steps: &[TimeDelta], call: &Call, facts: &Facts, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let talks = !call.state.is_terminal() && facts.media_seen && facts.left.is_none();
    if talks && call.direction == Direction::Inbound {
        return Some(past_limit(call, now));
    }
    next(steps, call, facts, now)
}

fn past_limit(call: &Call, now: DateTime<Utc>) -> DateTime<Utc> {
    now + TimeDelta::seconds(call.time_limit_seconds.into()) + PAST_LIMIT
}

/// When to ask again after an answer that did not settle the call. `steps` are those after the last audio.
pub fn next(steps: &[TimeDelta], call: &Call, facts: &Facts, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let asked = usize::try_from(call.read_backs).unwrap_or(0);
    if call.state.is_terminal() {
        let complete = call.price.is_some() && call.talk_seconds.is_some();
        let late = LATE_FACTS
            .get(asked + 1)
            .filter(|_| !complete)
            .map(|wait| TimeDelta::seconds(*wait));
        let presumed = Some(PRESUMED.0).filter(|_| call.end_presumed && asked < PRESUMED.1);
        return late.or(presumed).map(|wait| now + wait);
    }
    let after_media = facts.left.is_some().then(|| steps.get(asked)).flatten();
    Some(now + after_media.copied().unwrap_or(EVERY))
}

/// Whether nobody waits for an answer any more that could not be asked for: whose credentials are gone has days to give others.
pub fn is_given_up(call: &Call, now: DateTime<Utc>) -> bool {
    call.state.is_terminal() && call.ended_at.is_some_and(|ended| ended < now - GIVEN_UP)
}

/// What Exotel's record of a call says about it.
pub fn event(call: &Call, details: &CallDetails, now: DateTime<Utc>) -> Event {
    match end_of(&details.status) {
        Some(end) => Event::Ended(Source::ReadBack, end),
        None if call.direction == Direction::Inbound && now < call.queued_at + LONGEST_INBOUND => Event::Seen,
        None => overdue(call, now).unwrap_or(Event::Seen),
    }
}

/// The last resort: a call that nobody has ended is over when its time limit is long past. What is unconfirmed and cannot be
/// asked about by an id is settled instead.
pub fn overdue(call: &Call, now: DateTime<Utc>) -> Option<Event> {
    if call.state.is_terminal() || (call.state == State::Unconfirmed && call.call_sid.is_none()) {
        return None;
    }
    let began = call.answered_at.or(call.post_started_at).unwrap_or(call.queued_at);
    let longest = TimeDelta::seconds(i64::from(call.time_limit_seconds) + i64::from(call.ring_timeout_seconds));
    (now > began + longest + PAST_LIMIT).then_some(Event::Presumed(Presumption::TimeLimit))
}

/// Exotel's word for an end. None: not over, or a word we do not know.
pub fn end_of(status: &ProviderStatus) -> Option<End> {
    let outcome = match status {
        ProviderStatus::Completed => Outcome::Completed,
        ProviderStatus::Busy => Outcome::Busy,
        ProviderStatus::NoAnswer => Outcome::NoAnswer,
        ProviderStatus::Failed => Outcome::Failed,
        ProviderStatus::Canceled => Outcome::Canceled,
        ProviderStatus::Queued | ProviderStatus::InProgress | ProviderStatus::Ringing | ProviderStatus::Unknown(_) => {
            return None;
        }
    };
    Some(End::new(outcome))
}

/// The columns that Exotel's record fills.
pub fn facts_of(details: &CallDetails) -> Change {
    Change {
        talk_seconds: details.talk_s.and_then(|seconds| i32::try_from(seconds).ok()),
        price: details.price.clone(),
        recording_url: details.recording_url.clone(),
        ..Change::default()
    }
}

#[cfg(test)]
mod tests;
