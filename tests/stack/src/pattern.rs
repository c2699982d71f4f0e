//! Audio that tells by itself where it belongs: a sample's value is its place. So whatever the way does to it, each byte that was
//! lost, doubled or put elsewhere is counted, however the audio was cut anew. Zero is silence, which nobody counts.

use std::{ops::Range, sync::LazyLock};

/// Samples until the values begin again: 8 s at 8 kHz. What is nearer than half of it is told apart for sure.
pub(crate) const PERIOD: u64 = 64_000;
/// The longest piece that [`samples`] gives, in samples: no frame is longer.
const LONGEST: u64 = 48 * 1024;
/// Holes that are remembered; in the audio of a call with more of them, late samples may count as doubled.
const MAX_HOLES: usize = 1_024;

/// The period and as much of the next one as the longest piece may need, little-endian.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (0..PERIOD + LONGEST)
        .flat_map(|at| u16::try_from(at % PERIOD + 1).unwrap_or(u16::MAX).to_le_bytes())
        .collect()
});

/// So many samples from a place on, as bytes. None where that is longer than any frame.
fn samples(from: u64, count: u64) -> Option<&'static [u8]> {
    let begin = usize::try_from(from % PERIOD * 2).ok()?;
    let end = begin + usize::try_from(count * 2).ok()?;
    (count <= LONGEST).then(|| TABLE.get(begin..end)).flatten()
}

/// What became of the audio, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// It did not come.
    pub(crate) lost: u64,
    /// It came again.
    pub(crate) doubled: u64,
    /// It came after what follows it, or nobody sent it.
    pub(crate) out_of_order: u64,
}

impl Counts {
    /// Of two calls together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            doubled: self.doubled + other.doubled,
            out_of_order: self.out_of_order + other.out_of_order,
        }
    }

    /// Nothing is wrong.
    pub(crate) fn is_clean(self) -> bool {
        self == Self::default()
    }
}

/// One call's audio: what is said next, and what was heard of it.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Where in the period this call begins: another one than all others, so that audio of another call is in the wrong place.
    offset: u64,
    sent: u64,
    expected: u64,
    holes: Vec<Range<u64>>,
    counts: Counts,
}

impl Ledger {
    /// The call of this number.
    pub(crate) fn new(number: usize) -> Self {
        Self {
            // 29 has no divisor in common with the period.
            offset: (number as u64).wrapping_mul(29) % PERIOD,
            sent: 0,
            expected: 0,
            holes: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// The next samples to say, as bytes.
    pub(crate) fn say(&mut self, count: u64) -> &'static [u8] {
        let said = samples(self.offset + self.sent, count).unwrap_or_default();
        self.sent += said.len() as u64 / 2;
        said
    }

    /// Takes what was heard. Returns which samples of the call are new and where they should be, from the first sample said.
    pub(crate) fn hear(&mut self, pcm: &[u8]) -> Range<u64> {
        let first = self.expected;
        let whole = samples(self.offset + first, pcm.len() as u64 / 2);
        if whole == Some(pcm) {
            self.expected += pcm.len() as u64 / 2;
        } else {
            for sample in pcm.chunks_exact(2) {
                self.sample(u16::from_le_bytes([sample[0], sample[1]]));
            }
        }
        first..self.expected
    }

    fn sample(&mut self, value: u16) {
        let Some(place) = u64::from(value).checked_sub(1) else {
            return;
        };
        if place >= PERIOD {
            self.counts.out_of_order += 2;
            return;
        }
        let ahead = (place + 2 * PERIOD - self.offset - self.expected % PERIOD) % PERIOD;
        if ahead < PERIOD / 2 {
            if ahead > 0 {
                self.counts.lost += 2 * ahead;
                self.holes.push(self.expected..self.expected + ahead);
                if self.holes.len() > MAX_HOLES {
                    self.holes.remove(0);
                }
            }
            self.expected += ahead + 1;
            return;
        }
        match (self.expected + ahead).checked_sub(PERIOD) {
            None => self.counts.out_of_order += 2,
            Some(at) if self.fill(at) => {
                self.counts.lost -= 2;
                self.counts.out_of_order += 2;
            }
            Some(_) => self.counts.doubled += 2,
        }
    }

    /// Whether a sample was missing until now.
    fn fill(&mut self, at: u64) -> bool {
        let Some(index) = self.holes.iter().position(|hole| hole.contains(&at)) else {
            return false;
        };
        let hole = self.holes.remove(index);
        let rest = [hole.start..at, at + 1..hole.end];
        self.holes
            .splice(index..index, rest.into_iter().filter(|rest| !rest.is_empty()));
        true
    }

    /// Whether everything said was heard, or something after it.
    pub(crate) fn is_settled(&self) -> bool {
        self.expected >= self.sent
    }

    /// The end: what was not heard by now is lost.
    pub(crate) fn close(&self) -> Counts {
        let mut counts = self.counts;
        counts.lost += 2 * self.sent.saturating_sub(self.expected);
        // Samples that were never said have been heard.
        counts.out_of_order += 2 * self.expected.saturating_sub(self.sent);
        counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Samples of a chunk of 100 ms.
    const CHUNK: u64 = 800;

    fn said(ledger: &mut Ledger, chunks: usize) -> Vec<Vec<u8>> {
        (0..chunks).map(|_| ledger.say(CHUNK).to_vec()).collect()
    }

    fn heard(ledger: &mut Ledger, chunks: &[Vec<u8>]) -> Counts {
        for chunk in chunks {
            ledger.hear(chunk);
        }
        ledger.close()
    }

    fn counts(lost: u64, doubled: u64, out_of_order: u64) -> Counts {
        Counts {
            lost,
            doubled,
            out_of_order,
        }
    }

    #[test]
    fn what_is_lost_is_counted_in_the_middle_and_at_the_end() {
        let mut ledger = Ledger::new(7);
        let mut chunks = said(&mut ledger, 20);
        chunks.remove(3);
        chunks.pop();
        chunks[5].drain(100..110);
        assert_eq!(heard(&mut ledger, &chunks), counts(1_600 + 1_600 + 10, 0, 0));
        assert!(!ledger.is_settled());
    }

    #[test]
    fn what_comes_again_is_counted() {
        let mut ledger = Ledger::new(2_000);
        let mut chunks = said(&mut ledger, 20);
        chunks.insert(9, chunks[5].clone());
        chunks.push(chunks[0][..20].to_vec());
        assert_eq!(heard(&mut ledger, &chunks), counts(0, 1_620, 0));
        assert!(ledger.is_settled());
    }

    #[test]
    fn what_comes_late_is_not_lost_but_out_of_order() {
        let mut ledger = Ledger::new(1);
        let mut chunks = said(&mut ledger, 20);
        chunks.swap(3, 4);
        assert_eq!(heard(&mut ledger, &chunks), counts(0, 0, 1_600));
    }

    /// Silence that fills a packet is no loss, and does not hide one.
    #[test]
    fn silence_is_not_counted() {
        let mut ledger = Ledger::new(3);
        let mut chunks = said(&mut ledger, 4);
        chunks[1].extend([0; 320]);
        chunks[2].fill(0);
        assert_eq!(heard(&mut ledger, &chunks), counts(1_600, 0, 0));
    }

    #[test]
    fn another_calls_audio_and_a_shifted_byte_do_not_pass() {
        let (mut ours, mut theirs) = (Ledger::new(1), Ledger::new(2));
        let chunks = said(&mut theirs, 3);
        said(&mut ours, 3);
        assert!(!heard(&mut ours, &chunks).is_clean());

        let mut ledger = Ledger::new(1);
        let mut bytes = said(&mut ledger, 3).concat();
        bytes.remove(401);
        assert!(!heard(&mut ledger, &[bytes]).is_clean());
    }

    #[test]
    fn new_samples_have_their_places() {
        let mut ledger = Ledger::new(5);
        let chunks = said(&mut ledger, 2);
        assert_eq!(ledger.hear(&chunks[0][..320]), 0..160);
        assert_eq!(ledger.hear(&chunks[0][..320]), 160..160);
        assert_eq!(ledger.hear(&[&chunks[0][320..], &chunks[1]].concat()), 160..1_600);
    }

    proptest! {
        /// However the audio is cut anew, over more than a period, nothing is wrong with it.
        #[test]
        fn any_cutting_is_clean(number in 0_usize..5_000, cuts in proptest::collection::vec(1_usize..2_000, 1..50)) {
            let mut ledger = Ledger::new(number);
            let whole = said(&mut ledger, 100).concat();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < whole.len() {
                let end = (at + 2 * cuts.next().unwrap_or(1)).min(whole.len());
                ledger.hear(&whole[at..end]);
                at = end;
            }
            prop_assert!(ledger.is_settled());
            prop_assert_eq!(ledger.close(), Counts::default());
        }

        /// What is left out, repeated and moved is counted to the byte.
        #[test]
        fn faults_are_counted_exactly(number in 0_usize..5_000, what in proptest::collection::vec(0_u8..4, 3..40)) {
            let mut ledger = Ledger::new(number);
            let chunks = said(&mut ledger, what.len() * 2 + 1);
            let mut wrong = Counts::default();
            for (pair, what) in chunks.chunks(2).zip(what) {
                let [one, other] = pair else { break };
                let (heard, counted) = match what {
                    0 => (vec![one, other], Counts::default()),
                    1 => (vec![other], counts(1_600, 0, 0)),
                    2 => (vec![one, one, other], counts(0, 1_600, 0)),
                    _ => (vec![other, one], counts(0, 0, 1_600)),
                };
                for chunk in heard {
                    ledger.hear(chunk);
                }
                wrong = wrong.and(counted);
            }
            ledger.hear(&chunks[chunks.len() - 1]);
            prop_assert_eq!(ledger.close(), wrong);
        }
    }
}
