//! Marks: each goes out behind the audio before it, and is told when that was heard, or was dropped by a `Clear`.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::session::counters::{Counters, Moment, raise};

/// A mark that Exotel does not send back counts as heard this long after its time.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// Marks without an answer: more than any agent has sentences.
const MAX_MARKS: usize = 1024;

/// A mark's name; none for our own at the end, and for those of an agent that is gone.
type Name = Option<String>;

/// The marks of one session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Those whose place in the stream was not sent yet.
    waiting: VecDeque<(Name, u64)>,
    in_flight: VecDeque<InFlight>,
    /// Exotel is told a number, so that an echo is known for ours whatever the agent's names are.
    last_id: u64,
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    name: Name,
    /// When what is before it will have been heard, by our reckoning.
    due: Instant,
}

impl Marks {
    /// Takes a mark at a place in the stream. False when there are too many.
    pub(super) fn push(&mut self, name: Name, place: u64) -> bool {
        let room = self.waiting.len() + self.in_flight.len() < MAX_MARKS || name.is_none();
        if room {
            self.waiting.push_back((name, place));
        }
        room
    }

    /// Whether a mark is to be sent once the stream was sent up to this place.
    pub(super) fn is_due(&self, position: u64) -> bool {
        self.waiting.front().is_some_and(|(_, place)| *place <= position)
    }

    /// The name on the socket of the mark that is to be sent.
    pub(super) fn send(&mut self, due: Instant) -> Option<String> {
        let (name, _) = self.waiting.pop_front()?;
        self.last_id += 1;
        let id = self.last_id;
        self.in_flight.push_back(InFlight { id, name, due });
        Some(format!("m{id}"))
    }

    /// Exotel has sent a mark back: the names of those that were heard. An echo that was lost is settled by the next one, since
    /// they come in order.
    pub(super) fn echo(&mut self, now: Instant, mark: &str, counters: &mut Counters) -> impl Iterator<Item = String> {
        let id = mark.strip_prefix('m').and_then(|id| id.parse::<u64>().ok());
        if id.is_none_or(|id| id > self.last_id) {
            counters.other_events += 1;
        }
        let heard = self
            .in_flight
            .partition_point(|mark| id.is_some_and(|id| mark.id <= id));
        if let Some(last) = heard.checked_sub(1).and_then(|last| self.in_flight.get(last)) {
            let late = now.saturating_duration_since(last.due);
            raise(&mut counters.mark_lag_ms, late);
            counters.measure(Moment::MarkLag(late));
        }
        self.in_flight.drain(..heard).filter_map(|mark| mark.name)
    }

    /// The names of those that were heard long ago although Exotel said nothing.
    pub(super) fn overdue(&mut self, now: Instant, counters: &mut Counters) -> impl Iterator<Item = String> {
        let overdue = self.in_flight.partition_point(|mark| mark.due + GRACE <= now);
        counters.unanswered_marks += overdue as u64;
        self.in_flight.drain(..overdue).filter_map(|mark| mark.name)
    }

    /// When [`Marks::overdue`] has something.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.in_flight.front().map(|mark| mark.due + GRACE)
    }

    /// All of them, and whether they were dropped before they were heard. Whether Exotel sends back the marks it has is not
    /// documented, so none is waited for.
    pub(super) fn clear(&mut self, now: Instant) -> impl Iterator<Item = (String, bool)> {
        let sent = self.in_flight.drain(..).map(move |mark| (mark.name, mark.due > now));
        let waiting = self.waiting.drain(..).map(|(name, _)| (name, true));
        sent.chain(waiting).filter_map(|(name, cleared)| Some((name?, cleared)))
    }

    /// Their agent is gone.
    pub(super) fn forget_agent(&mut self) {
        self.waiting.clear();
        for mark in &mut self.in_flight {
            mark.name = None;
        }
    }

    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }
}
