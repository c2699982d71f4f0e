//! What the calls of one generator share. All of it is one thread's.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::histogram::Histogram;
use crate::pattern::{Counts, Ledger};

/// Samples per second.
pub(super) const RATE: u64 = 8_000;
/// Chunks whose times are remembered; an echo that comes later than that many is not timed.
const REMEMBERED: usize = 256;
/// What is said once at first: its echo tells that the call is up. A person who spoke before would be answered late for the
/// whole call, since an echo never catches up.
pub(super) const SILENCE: [u8; 320] = [0; 320];
/// Bytes that are read at once.
const READ: usize = 64 * 1024;

/// What the calls of one generator share.
pub(super) struct Room {
    /// The length of a chunk.
    pub(super) chunk: Duration,
    /// Places for calls that are being set up.
    pub(super) openings: Semaphore,
    /// How many calls have heard something.
    pub(super) up: watch::Sender<usize>,
    /// What is said from then on is timed.
    pub(super) since: Cell<Option<Instant>>,
    /// How long echoes took.
    pub(super) latency: RefCell<Histogram>,
    /// How late chunks were sent.
    pub(super) lateness: RefCell<Histogram>,
    /// Where bytes are read to.
    pub(super) scratch: RefCell<Vec<u8>>,
}

impl Room {
    /// A room for calls that send chunks of this length, of which so many may be set up at one time.
    pub(super) fn new(chunk: Duration, openings: usize, up: watch::Sender<usize>) -> Rc<Self> {
        Rc::new(Self {
            chunk,
            openings: Semaphore::new(openings),
            up,
            since: Cell::new(None),
            latency: RefCell::default(),
            lateness: RefCell::default(),
            scratch: RefCell::new(vec![0; READ]),
        })
    }

    fn is_timed(&self, at: Instant) -> bool {
        self.since.get().is_some_and(|since| since <= at)
    }

    /// A chunk that was due at a time is sent now.
    pub(super) fn sends(&self, due: Instant, now: Instant) {
        if self.is_timed(due) {
            self.lateness.borrow_mut().add(now.saturating_duration_since(due));
        }
    }
}

/// One call's voice and ear.
pub(super) struct Caller {
    room: Rc<Room>,
    ledger: Ledger,
    /// Samples of a chunk.
    chunk: u64,
    chunks: u64,
    /// When the latest chunks were sent, by their number modulo the length.
    sent_at: Vec<Instant>,
    heard: bool,
}

impl Caller {
    /// The call of this number.
    pub(super) fn new(room: Rc<Room>, number: usize) -> Self {
        let chunk = u64::try_from(room.chunk.as_millis()).unwrap_or(u64::MAX) * RATE / 1_000;
        Self {
            room,
            ledger: Ledger::new(number),
            chunk,
            chunks: 0,
            sent_at: Vec::with_capacity(REMEMBERED),
            heard: false,
        }
    }

    /// The next chunk, if the call is up.
    pub(super) fn say(&mut self, now: Instant) -> Option<&'static [u8]> {
        if !self.heard {
            return None;
        }
        match self.sent_at.get_mut(slot(self.chunks)) {
            Some(at) => *at = now,
            None => self.sent_at.push(now),
        }
        self.chunks += 1;
        Some(self.ledger.say(self.chunk))
    }

    /// Takes an echo.
    pub(super) fn hear(&mut self, now: Instant, pcm: &[u8]) {
        if !self.heard {
            self.heard = true;
            self.room.up.send_modify(|up| *up += 1);
        }
        let Range { start, end } = self.ledger.hear(pcm);
        // Chunks whose first byte has come.
        for chunk in start.div_ceil(self.chunk)..end.div_ceil(self.chunk) {
            let is_remembered = chunk < self.chunks && chunk + REMEMBERED as u64 >= self.chunks;
            if let Some(at) = self.sent_at.get(slot(chunk)).filter(|_| is_remembered)
                && self.room.is_timed(*at)
            {
                self.room.latency.borrow_mut().add(now.saturating_duration_since(*at));
            }
        }
    }

    /// Whether something was heard at all.
    pub(super) fn is_up(&self) -> bool {
        self.heard
    }

    /// Whether everything said was heard.
    pub(super) fn is_settled(&self) -> bool {
        self.ledger.is_settled()
    }

    /// What became of everything said.
    pub(super) fn close(&self) -> Counts {
        self.ledger.close()
    }
}

fn slot(chunk: u64) -> usize {
    usize::try_from(chunk % REMEMBERED as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_timed_from_the_last_byte_in_to_the_first_byte_out() {
        let room = Room::new(Duration::from_millis(100), 1, watch::Sender::new(0));
        let mut caller = Caller::new(Rc::clone(&room), 3);
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(caller.say(at(0)), None);
        caller.hear(at(1), &SILENCE);
        assert_eq!(*room.up.borrow(), 1);

        caller.say(at(10)).unwrap();
        room.since.set(Some(at(50)));
        let chunks = [caller.say(at(110)).unwrap(), caller.say(at(210)).unwrap()].concat();
        let mut before = Caller::new(Rc::clone(&room), 3);
        before.hear(at(0), &[0; 2]);
        // The first chunk is not timed: it was said before.
        caller.hear(at(111), before.say(at(0)).unwrap());
        assert_eq!(room.latency.borrow().count(), 0);
        caller.hear(at(113), &chunks[..320]);
        caller.hear(at(150), &chunks[320..1_600]);
        assert_eq!(room.latency.borrow().count(), 1);
        caller.hear(at(217), &chunks[1_600..]);
        assert!(caller.is_settled() && caller.close().is_clean());
        let latency = room.latency.borrow();
        assert_eq!((latency.count(), latency.per_mille(500).as_millis()), (2, 3));
        assert_eq!(latency.per_mille(1_000), Duration::from_millis(7));
    }
}
