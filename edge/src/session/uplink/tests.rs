use callbridge_proto::agent::v1::{Message, Playout};
use proptest::prelude::*;

use super::*;

/// With an agent that is there.
fn uplink(rate: u32, agent_rate: u32) -> Uplink {
    let mut uplink = Uplink::default();
    uplink.set_line(Encoding::Pcm16, rate, agent_rate);
    uplink.agent_reads(Instant::now());
    uplink
}

fn audio(uplink: &mut Uplink) -> Vec<u8> {
    let mut heard = Vec::new();
    while let Some(event) = uplink.pop() {
        if let Event::Audio(audio) = event {
            heard.extend_from_slice(&audio.pcm);
        }
    }
    heard
}

/// F71: a stalled agent costs its own call the oldest audio, and no key press.
#[test]
fn the_oldest_audio_goes_and_control_stays() {
    let mut uplink = uplink(8000, 8000);
    let mut now = Instant::now();
    uplink.control(Event::Dtmf(Dtmf {
        digit: "1".into(),
        duration_ms: 0,
    }));
    for i in 0..100u8 {
        uplink.audio(now, vec![i; 320].into());
        now += Duration::from_millis(20);
        uplink.control(Event::Playout(Playout {
            queued_ms: u32::from(i),
            dropped_ms: 0,
        }));
    }
    uplink.control(Event::Message(Message { json: "{}".into() }));
    assert_eq!(uplink.dropped_ms(), 1000);
    assert!(matches!(uplink.pop(), Some(Event::Dtmf(_))));
    assert_eq!(
        uplink.pop(),
        Some(Event::Playout(Playout {
            queued_ms: 99,
            dropped_ms: 0
        }))
    );
    let mut audio = 0;
    while let Some(event) = uplink.pop() {
        match event {
            Event::Audio(a) => {
                assert_eq!(a.pcm[0], 50 + audio);
                audio += 1;
            }
            other => assert!(matches!(other, Event::Message(_)) && uplink.is_empty()),
        }
    }
    assert_eq!(audio, 50);
    assert_eq!((uplink.control, uplink.audio_bytes, uplink.since.len()), (0, 0, 0));
}

/// A burst after a stall is not late: a fast agent gets all of it, and memory stays bounded.
#[test]
fn a_burst_is_not_dropped_for_its_size() {
    let mut uplink = uplink(8000, 16_000);
    let now = Instant::now();
    for _ in 0..40 {
        uplink.audio(now, vec![1; 1600].into());
    }
    assert_eq!(uplink.dropped_ms(), 0);
    assert!(audio(&mut uplink).len() > 127_000);
    for _ in 0..600 {
        uplink.audio(now, vec![1; 1600].into());
    }
    assert!(
        uplink.audio_bytes <= AUDIO_LIMIT && uplink.dropped_ms() >= 43_000,
        "{uplink:?}"
    );
}

/// F74: the first words wait for an agent for as long as it takes to reach one, at first as they came; then it has its time
/// to take them.
#[test]
fn the_first_words_wait_for_the_agent() {
    let began = Instant::now();
    let mut uplink = Uplink::default();
    let said: Vec<u8> = (0..14 * 16_000).map(|i: u32| (i % 251) as u8).collect();
    for (i, piece) in said.chunks(320).enumerate() {
        let now = began + Duration::from_millis(20) * u32::try_from(i).unwrap_or(u32::MAX);
        if i == 200 {
            uplink.set_line(Encoding::Pcm16, 8000, 8000);
        }
        uplink.audio(now, Bytes::copy_from_slice(piece));
    }
    let connected = began + Duration::from_secs(14);
    uplink.agent_reads(connected);
    uplink.audio(connected + Duration::from_millis(900), vec![7; 320].into());
    assert_eq!(uplink.dropped_ms(), 0);
    assert_eq!(audio(&mut uplink), [said, vec![7; 320]].concat());
    // Nobody comes: memory is bounded.
    uplink.new_agent();
    for i in 0..120 {
        uplink.audio(connected + Duration::from_secs(i), vec![7; 16_000].into());
    }
    assert!(uplink.audio_bytes <= AUDIO_LIMIT);
}

/// F70, F104: the shortest pieces cost memory too, and the longest are cut to what an agent's message may have.
#[test]
fn pieces_are_bounded_in_number_and_in_length() {
    let mut uplink = Uplink::default();
    let now = Instant::now();
    for _ in 0..10_000 {
        uplink.audio(now, Bytes::from_static(&[1]));
    }
    assert_eq!(uplink.items.len(), MOST_PIECES);
    uplink.set_line(Encoding::MuLaw, 8000, 24_000);
    uplink.audio(now, vec![0x80; 49_000].into());
    let longest = uplink.items.iter().map(|item| match item {
        Event::Audio(audio) => audio.pcm.len(),
        _ => 0,
    });
    assert_eq!(longest.max(), Some(LONGEST_PIECE));
}

/// μ-law has no odd bytes, and silence is silence in it.
#[test]
fn mu_law_is_heard_as_pcm() {
    let mut uplink = Uplink::default();
    let now = Instant::now();
    uplink.audio(now, Bytes::from_static(&[0x80, 0x00, 0xff]));
    uplink.set_line(Encoding::MuLaw, 8000, 8000);
    uplink.audio(now, Bytes::from_static(&[0x9f]));
    uplink.silence(now, Duration::from_millis(1));
    let pcm: Vec<u8> = [32_124_i16, -32_124, 0, 8316]
        .into_iter()
        .flat_map(i16::to_le_bytes)
        .collect();
    assert_eq!(audio(&mut uplink), [pcm, vec![0; 16]].concat());
}

proptest! {
    /// F86: any cutting, odd lengths included, gives the same audio, also where it waited for the settings.
    #[test]
    fn what_goes_in_comes_out(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..20), known_after in 0_usize..20,
    ) {
        let mut uplink = Uplink::default();
        let now = Instant::now();
        let mut out = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            if i == known_after {
                uplink.set_line(Encoding::Pcm16, 16_000, 16_000);
            }
            uplink.audio(now, Bytes::copy_from_slice(piece));
            if i >= known_after {
                out.extend(audio(&mut uplink));
            }
        }
        if pieces.len() <= known_after {
            uplink.set_line(Encoding::Pcm16, 16_000, 16_000);
            out.extend(audio(&mut uplink));
        }
        let mut whole = pieces.concat();
        whole.truncate(whole.len() / 2 * 2);
        prop_assert_eq!(out, whole);
    }
}
