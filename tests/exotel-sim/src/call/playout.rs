//! The platform's side of a bot's speech: a queue that plays in real time. No sockets, no clock: ticks move it.

use std::collections::VecDeque;

/// Documented: payloads are multiples of this; a shorter last packet makes the platform wait.
pub(crate) const PACKET_BYTES: usize = 320;

/// Documented wait after a short packet.
const GAP_MS: u32 = 20;

/// A pause within speech that is shorter than this is heard as a hole, a longer one as the end of a sentence.
const HOLE_MS: u32 = 500;

/// Marks and messages that wait at most; further marks are dropped. More than any sane bot sends in ten minutes.
const WAITING_ITEMS: usize = 100_000;

/// What waits to be played.
#[derive(Debug)]
enum Item {
    Audio(Vec<i16>),
    Mark(String),
}

/// What one push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// The length is no multiple of 320 bytes: a gap follows.
    pub(crate) gap: bool,
    /// The last byte is half a sample and was lost.
    pub(crate) odd: bool,
    /// The play-out had run dry within a sentence.
    pub(crate) underrun: bool,
    /// Bytes for which there was no room.
    pub(crate) overflow: usize,
}

/// What one tick played.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Played {
    /// Exactly as many samples as were asked for; silence where there was nothing.
    pub(crate) samples: Vec<i16>,
    /// Marks that were reached.
    pub(crate) marks: Vec<String>,
}

/// What a clear dropped.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleared {
    pub(crate) bytes: usize,
    pub(crate) marks: Vec<String>,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Playout {
    rate: u32,
    room: usize,
    queue: VecDeque<Item>,
    /// The message being played and how much of it has been.
    playing: Option<(Vec<i16>, usize)>,
    /// Samples in the queue and left of the playing message.
    waiting: usize,
    /// Samples of silence since the last audio; `None` before the first and after a clear.
    dry: Option<usize>,
}

impl Playout {
    /// A queue for this sample rate that holds at most so many seconds.
    pub(crate) fn new(rate: u32, seconds: u64) -> Self {
        let room = usize::try_from(u64::from(rate).saturating_mul(seconds)).unwrap_or(usize::MAX);
        Self {
            rate,
            room,
            queue: VecDeque::new(),
            playing: None,
            waiting: 0,
            dry: None,
        }
    }

    fn samples_in(&self, milliseconds: u32) -> usize {
        usize::try_from(u64::from(self.rate) * u64::from(milliseconds) / 1_000).unwrap_or(0)
    }

    /// How much waits, in milliseconds.
    pub(crate) fn waiting_ms(&self) -> u64 {
        u64::try_from(self.waiting).unwrap_or(u64::MAX).saturating_mul(1_000) / u64::from(self.rate.max(1))
    }

    /// Queues the audio of one message.
    pub(crate) fn push(&mut self, audio: &[u8]) -> Pushed {
        if audio.is_empty() {
            return Pushed::default();
        }
        let mut pushed = Pushed {
            gap: !audio.len().is_multiple_of(PACKET_BYTES),
            odd: !audio.len().is_multiple_of(2),
            ..Pushed::default()
        };
        let free = self.room.saturating_sub(self.waiting);
        let mut samples: Vec<i16> = audio
            .chunks_exact(2)
            .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        if samples.len() > free {
            pushed.overflow = (samples.len() - free) * 2;
            samples.truncate(free);
        } else if pushed.gap {
            samples.resize(samples.len() + self.samples_in(GAP_MS), 0);
        }
        if self.waiting == 0
            && let Some(dry) = self.dry
        {
            pushed.underrun = dry > 0 && dry < self.samples_in(HOLE_MS);
        }
        self.waiting += samples.len();
        self.queue.push_back(Item::Audio(samples));
        pushed
    }

    /// Queues a mark: it is reached when all that was queued before it has been played.
    pub(crate) fn mark(&mut self, name: String) {
        if self.queue.len() < WAITING_ITEMS {
            self.queue.push_back(Item::Mark(name));
        }
    }

    /// Drops what has not started; the message being played plays to its end.
    pub(crate) fn clear(&mut self) -> Cleared {
        let mut cleared = Cleared::default();
        for item in self.queue.drain(..) {
            match item {
                Item::Audio(samples) => {
                    cleared.bytes += samples.len() * 2;
                    self.waiting -= samples.len();
                }
                Item::Mark(name) => cleared.marks.push(name),
            }
        }
        self.dry = None;
        cleared
    }

    /// Plays so many samples.
    pub(crate) fn tick(&mut self, count: usize) -> Played {
        let mut played = Played {
            samples: Vec::with_capacity(count),
            marks: Vec::new(),
        };
        loop {
            if let Some((samples, at)) = self.playing.as_mut() {
                let take = (samples.len() - *at).min(count - played.samples.len());
                played.samples.extend_from_slice(&samples[*at..*at + take]);
                *at += take;
                self.waiting -= take;
                if *at < samples.len() {
                    break;
                }
                self.playing = None;
            }
            match self.queue.front() {
                // The next message only starts when there is time left to play some of it.
                Some(Item::Audio(_)) if played.samples.len() == count => break,
                None => break,
                Some(_) => {}
            }
            match self.queue.pop_front() {
                Some(Item::Audio(samples)) => self.playing = Some((samples, 0)),
                Some(Item::Mark(name)) => played.marks.push(name),
                None => break,
            }
        }
        let silence = count - played.samples.len();
        if silence < count {
            self.dry = Some(silence);
        } else if let Some(dry) = self.dry.as_mut() {
            *dry = dry.saturating_add(silence);
        }
        played.samples.resize(count, 0);
        played
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cleared, Playout, Pushed};

    const TICK: usize = 160;

    fn audio(value: i16, bytes: usize) -> Vec<u8> {
        value.to_le_bytes().into_iter().cycle().take(bytes).collect()
    }

    #[test]
    fn a_mark_comes_when_what_was_before_it_has_been_played() {
        let mut playout = Playout::new(8_000, 60);
        assert_eq!(playout.push(&audio(7, 640)), Pushed::default());
        playout.mark("end".to_owned());
        assert_eq!(playout.waiting_ms(), 40);
        let first = playout.tick(TICK);
        assert_eq!((first.samples, first.marks.len()), (vec![7; TICK], 0));
        let second = playout.tick(TICK);
        assert_eq!((second.samples, second.marks), (vec![7; TICK], vec!["end".to_owned()]));
        assert_eq!(playout.tick(TICK).samples, vec![0; TICK]);
    }

    #[test]
    fn a_short_packet_makes_a_gap_of_20_ms() {
        let mut playout = Playout::new(8_000, 60);
        assert!(playout.push(&audio(7, 300)).gap);
        assert!(!playout.push(&audio(9, 320)).gap);
        let mut heard = Vec::new();
        for _ in 0..4 {
            heard.extend(playout.tick(TICK).samples);
        }
        let expected: Vec<i16> = [vec![7; 150], vec![0; 160], vec![9; 160], vec![0; 170]].concat();
        assert_eq!(heard, expected);
    }

    #[test]
    fn a_clear_spares_the_message_that_plays() {
        let mut playout = Playout::new(8_000, 60);
        playout.push(&audio(1, 640));
        playout.push(&audio(2, 640));
        playout.mark("lost".to_owned());
        playout.tick(TICK);
        assert_eq!(
            playout.clear(),
            Cleared {
                bytes: 640,
                marks: vec!["lost".to_owned()]
            }
        );
        assert_eq!(playout.tick(TICK).samples, vec![1; TICK]);
        assert_eq!(playout.tick(TICK).samples, vec![0; TICK]);
    }

    #[test]
    fn holes_in_speech_are_counted_and_pauses_are_not() {
        let mut playout = Playout::new(8_000, 60);
        assert!(!playout.push(&audio(1, 320)).underrun, "the first audio");
        playout.tick(TICK);
        assert!(!playout.push(&audio(1, 320)).underrun, "just in time");
        playout.tick(TICK);
        playout.tick(TICK);
        assert!(playout.push(&audio(1, 320)).underrun, "20 ms late");
        playout.tick(TICK);
        for _ in 0..30 {
            playout.tick(TICK);
        }
        assert!(!playout.push(&audio(1, 320)).underrun, "another sentence");
    }

    #[test]
    fn what_has_no_room_is_dropped_and_counted() {
        let mut playout = Playout::new(8_000, 1);
        assert_eq!(playout.push(&audio(1, 15_680)).overflow, 0);
        assert_eq!(playout.push(&audio(1, 640)).overflow, 320);
        assert_eq!(playout.waiting_ms(), 1_000);
    }

    #[derive(Clone, Debug)]
    enum Do {
        Push(usize),
        Mark,
        Clear,
        Tick(usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Do>> {
        let one = prop_oneof![
            4 => (0_usize..2_000).prop_map(Do::Push),
            2 => Just(Do::Mark),
            1 => Just(Do::Clear),
            6 => (1_usize..400).prop_map(Do::Tick),
        ];
        proptest::collection::vec(one, 0..60)
    }

    proptest! {
        /// Every sample and every mark is played or cleared, none twice, in order; ticks always give their length.
        #[test]
        fn nothing_is_lost_or_doubled(actions in actions()) {
            let mut playout = Playout::new(8_000, 600);
            let (mut pushed, mut heard, mut cleared) = (0_usize, 0_usize, 0_usize);
            let (mut next, mut reached, mut dropped) = (0_usize, Vec::new(), Vec::new());
            for action in actions.into_iter().chain([Do::Tick(200_000)]) {
                match action {
                    Do::Push(bytes) => {
                        let gap = playout.push(&audio(5, bytes)).gap;
                        pushed += bytes / 2;
                        prop_assert_eq!(gap, bytes % 320 != 0);
                    }
                    Do::Mark => {
                        playout.mark(next.to_string());
                        next += 1;
                    }
                    Do::Clear => {
                        let before = playout.waiting;
                        let lost = playout.clear();
                        prop_assert_eq!(before - playout.waiting, lost.bytes / 2);
                        // Gaps are silence, not speech: count what was speech by elimination below.
                        cleared += lost.bytes / 2;
                        dropped.extend(lost.marks);
                    }
                    Do::Tick(count) => {
                        let played = playout.tick(count);
                        prop_assert_eq!(played.samples.len(), count);
                        heard += played.samples.iter().filter(|sample| **sample != 0).count();
                        reached.extend(played.marks);
                    }
                }
            }
            prop_assert_eq!(playout.waiting, 0);
            prop_assert!(heard <= pushed);
            prop_assert!(heard + cleared >= pushed);
            prop_assert_eq!(reached.len() + dropped.len(), next);
            let numbers: Vec<usize> = reached.iter().map(|name| name.parse().expect("a number")).collect();
            prop_assert!(numbers.is_sorted());
        }
    }
}
