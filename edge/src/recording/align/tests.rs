use proptest::prelude::*;

use super::*;

/// A recording's sides as they would be on the disk.
#[derive(Default)]
struct Disk {
    customer: Vec<i16>,
    agent: Vec<i16>,
}

impl Disk {
    /// Takes all pieces: none of a side begins before the one before it ends.
    fn take(&mut self, aligner: &mut Aligner) {
        while let Some(piece) = aligner.piece() {
            let side = match piece.side {
                Side::Customer => &mut self.customer,
                Side::Agent => &mut self.agent,
            };
            let at = usize::try_from(piece.at).unwrap();
            assert!(at >= side.len(), "a piece at {at} after {}", side.len());
            side.resize(at, 0);
            side.extend(piece.pcm.chunks(2).map(|s| i16::from_le_bytes([s[0], s[1]])));
        }
    }
}

fn pcm(samples: impl IntoIterator<Item = i16>) -> Vec<u8> {
    samples.into_iter().flat_map(i16::to_le_bytes).collect()
}

/// A sound that tells where it was said; never silent.
fn sound(from: u64, count: u64) -> impl Iterator<Item = i16> {
    (from..from + count).map(|at| i16::try_from(at % 30_000).unwrap() + 1)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Debug, Clone)]
struct Chunk {
    ms: u64,
    /// How long it was on its way, beyond the ones before it.
    delay_ms: u64,
    lost: bool,
}

fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let chunk = (
        prop_oneof![Just(20_u64), Just(40), Just(100)],
        prop_oneof![8 => 0..30_u64, 1 => 0..3000_u64],
        prop_oneof![9 => Just(false), 1 => Just(true)],
    );
    let chunk = chunk.prop_map(|(ms, delay_ms, lost)| Chunk { ms, delay_ms, lost });
    proptest::collection::vec(chunk, 1..120)
}

fn rates() -> impl Strategy<Value = u32> {
    prop_oneof![Just(8000_u32), Just(16_000), Just(24_000)]
}

proptest! {
    /// With timestamps, stalls and losses of the network move nothing: all that came is where it was said, to a chunk, and what
    /// was lost is silence.
    #[test]
    fn what_a_person_says_lies_where_it_was_said(chunks in chunks(), rate in rates()) {
        let origin = Instant::now();
        let mut aligner = Aligner::new(origin, rate);
        let (mut disk, mut said, mut came, mut lost) = (Disk::default(), 0, origin, Duration::ZERO);
        let mut kept: Vec<(u64, u64)> = Vec::new();
        for chunk in &chunks {
            let (from, count) = (said * u64::from(rate) / 1000, chunk.ms * u64::from(rate) / 1000);
            let stamp = said;
            said += chunk.ms;
            came = came.max(origin + ms(said + chunk.delay_ms));
            if chunk.lost {
                lost += ms(chunk.ms);
                continue;
            }
            aligner.customer(came, &pcm(sound(from, count)), Some(stamp), std::mem::take(&mut lost));
            kept.push((from, count));
            disk.take(&mut aligner);
        }
        let end = came + ms(50);
        let samples = aligner.end(end);
        disk.take(&mut aligner);
        prop_assert_eq!(aligner.missing(), 0);
        prop_assert!(disk.customer.len() as u64 <= samples);
        let mut offset = None;
        let mut heard = disk.customer.iter().enumerate().filter(|(_, sample)| **sample != 0);
        for (from, count) in kept {
            let mut before = None;
            for (index, wanted) in (from..).zip(sound(from, count)) {
                let (at, sample) = heard.next().expect("all of it is there");
                prop_assert_eq!(*sample, wanted);
                prop_assert!(before.is_none_or(|before| before + 1 == at), "a hole in a chunk");
                before = Some(at);
                let at = i64::try_from(at).unwrap() - i64::try_from(index).unwrap();
                let offset = *offset.get_or_insert(at);
                let seam = count.max(u64::from(rate) / 50);
                prop_assert!((at - offset).unsigned_abs() <= seam, "{} samples off", at - offset);
            }
        }
        prop_assert!(heard.next().is_none(), "and nothing else");
    }

    /// Without timestamps nothing is lost or turned round, whatever the pieces.
    #[test]
    fn without_timestamps_the_order_stays(
        pieces in proptest::collection::vec((0..400_usize, 0..200_u64), 1..100),
        rate in rates(),
    ) {
        let origin = Instant::now();
        let mut aligner = Aligner::new(origin, rate);
        let (mut disk, mut now) = (Disk::default(), origin);
        let total: usize = pieces.iter().map(|(bytes, _)| bytes).sum();
        let said: Vec<u8> = pcm(sound(0, total as u64 / 2 + 1));
        let mut at = 0;
        for (bytes, pause) in pieces {
            now += ms(pause);
            aligner.customer(now, &said[at..at + bytes], None, Duration::ZERO);
            disk.take(&mut aligner);
            at += bytes;
        }
        aligner.end(now);
        disk.take(&mut aligner);
        let heard: Vec<i16> = disk.customer.into_iter().filter(|sample| *sample != 0).collect();
        prop_assert_eq!(heard, sound(0, total as u64 / 2).collect::<Vec<_>>());
    }

    /// The agent is on the recording when Exotel plays it, and not at all where a barge-in came first.
    #[test]
    fn an_agent_lies_where_it_is_heard(
        steps in proptest::collection::vec((0..200_u64, 0..4_u8, 1..10_u64), 1..100),
        rate in rates(),
    ) {
        let origin = Instant::now();
        let samples = |ms: u64| ms * u64::from(rate) / 1000;
        let mut aligner = Aligner::new(origin, rate);
        let (mut disk, mut now_ms, mut until_ms, mut said) = (Disk::default(), 0_u64, 0_u64, 0);
        let mut wanted: Vec<i16> = Vec::new();
        for (pause, what, packets) in steps {
            now_ms += pause;
            let now = origin + ms(now_ms);
            if what == 0 {
                aligner.cut(now);
                wanted.truncate(usize::try_from(samples(now_ms)).unwrap());
                until_ms = now_ms;
            } else {
                let count = samples(packets * 20);
                let begins_ms = until_ms.max(now_ms);
                until_ms = begins_ms + packets * 20;
                wanted.resize(usize::try_from(samples(begins_ms)).unwrap(), 0);
                wanted.extend(sound(said, count));
                aligner.agent(now, origin + ms(until_ms), &pcm(sound(said, count)));
                said += count;
            }
            disk.take(&mut aligner);
            prop_assert!(disk.agent.len() as u64 <= samples(now_ms), "what may still be cut is not written");
        }
        let end_ms = now_ms + 30;
        let length = aligner.end(origin + ms(end_ms));
        disk.take(&mut aligner);
        wanted.truncate(usize::try_from(samples(end_ms)).unwrap());
        while wanted.last() == Some(&0) {
            wanted.pop();
        }
        prop_assert_eq!(length, samples(end_ms));
        prop_assert_eq!(disk.agent, wanted);
    }
}

/// A start that takes its time, and then is not recorded after all, costs a bounded amount of memory.
#[test]
fn what_nobody_takes_is_bounded_and_counted() {
    let origin = Instant::now();
    let mut aligner = Aligner::new(origin, 8000);
    for second in 1..=100 {
        aligner.customer(origin + ms(second * 1000), &pcm(vec![1; 8000]), None, Duration::ZERO);
    }
    let mut kept = 0;
    while let Some(piece) = aligner.piece() {
        kept += piece.pcm.len() as u64 / 2;
    }
    assert!(kept <= MAX_WAITING as u64 * 8000 && kept + aligner.missing() == 100 * 8000);
}

/// Timestamps that stand still, as some senders have them, do not pull the audio together.
#[test]
fn timestamps_that_tell_nothing_are_not_believed() {
    let origin = Instant::now();
    let mut aligner = Aligner::new(origin, 8000);
    let mut disk = Disk::default();
    for chunk in 1..=100_u64 {
        aligner.customer(
            origin + ms(chunk * 20),
            &pcm(sound((chunk - 1) * 160, 160)),
            Some(20),
            Duration::ZERO,
        );
        disk.take(&mut aligner);
    }
    assert_eq!(aligner.end(origin + ms(2000)), 16_000);
    disk.take(&mut aligner);
    assert_eq!(disk.customer, sound(0, 16_000).collect::<Vec<_>>());
}
