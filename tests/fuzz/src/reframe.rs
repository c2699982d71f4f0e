//! The person's audio on its way to the agent: base64 pieces of any length in, whole samples out.

use bytes::Bytes;
use callbridge_proto::agent::v1::converse_request::Event;
use edge::session::uplink::Uplink;
use exotel::stream::{self, Encoding, Incoming};
use tokio::time::Instant;

/// The longest piece that an agent is sent.
const LONGEST_PIECE: usize = 32 * 1024;

/// The re-framer (F86): the input is cut into pieces by its own bytes, each goes through a frame, and all that goes in comes out:
/// PCM byte for byte and without half a sample, μ-law two bytes for one, other rates in proportion.
pub fn reframe(data: &[u8]) {
    let Some((&[settings, known_after], audio)) = data.split_first_chunk() else {
        return;
    };
    let encoding = if settings & 1 == 0 {
        Encoding::Pcm16
    } else {
        Encoding::MuLaw
    };
    let agent_rate = [8000, 16_000, 24_000][usize::from(settings >> 1) % 3];
    let pieces = pieces(audio);
    let known_after = usize::from(known_after) % (pieces.len() + 1);
    let (mut uplink, now) = (Uplink::default(), Instant::now());
    let (mut heard, mut lengths) = (Vec::new(), Vec::new());
    for at in 0..=pieces.len() {
        if at == known_after {
            uplink.set_line(encoding, 8000, agent_rate);
            uplink.agent_reads(now);
        }
        if let Some(piece) = pieces.get(at) {
            uplink.audio(now, through_a_frame(piece));
        }
        while at >= known_after
            && let Some(event) = uplink.pop()
        {
            let Event::Audio(audio) = event else {
                unreachable!("there is nothing but audio")
            };
            lengths.push(audio.pcm.len());
            heard.extend_from_slice(&audio.pcm);
        }
    }
    assert!(uplink.is_empty() && uplink.dropped_ms() == 0);
    assert!(lengths.iter().all(|length| (1..=LONGEST_PIECE).contains(length)));
    assert!(heard.len().is_multiple_of(2), "half a sample");
    let whole: Vec<u8> = pieces.concat();
    let expected = match encoding {
        Encoding::Pcm16 => Bytes::copy_from_slice(&whole[..whole.len() / 2 * 2]),
        Encoding::MuLaw => Encoding::MuLaw.to_pcm(whole.into()),
    };
    if agent_rate == 8000 {
        assert_eq!(heard, expected);
    } else {
        let most = expected.len() * agent_rate as usize / 8000;
        assert!(heard.len() <= most + 64, "{} of {most}", heard.len());
    }
}

/// Cuts at the lengths that every 16th byte or so gives.
fn pieces(mut audio: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = audio.split_first() {
        let (piece, rest) = rest.split_at(rest.len().min((*length).into()));
        pieces.push(piece);
        audio = rest;
    }
    pieces
}

fn through_a_frame(piece: &[u8]) -> Bytes {
    match stream::decode(&stream::media("s", piece, None)).map(|received| received.event) {
        Ok(Incoming::Media(media)) => media.payload,
        other => unreachable!("our own frame is read as {other:?}"),
    }
}
