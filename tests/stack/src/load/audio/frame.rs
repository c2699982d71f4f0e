//! WebSocket frames (RFC 6455 §5.2) as a lean client needs them: whole text frames out, masked; unfragmented frames in.

use anyhow::{bail, ensure};

/// Text.
pub(super) const TEXT: u8 = 1;
/// The end.
pub(super) const CLOSE: u8 = 8;
/// A question whether we are there.
pub(super) const PING: u8 = 9;
/// The answer to it.
pub(super) const PONG: u8 = 10;
/// Of a client's frame, in the byte of the length.
const MASKED: u8 = 0x80;
/// In that byte: the length follows in two bytes, or in eight.
const IN_TWO: u8 = 126;
const IN_EIGHT: u8 = 127;
/// No server here sends longer ones.
const LONGEST: u64 = 1024 * 1024;

/// Adds a masked frame (RFC 6455 §5.3).
pub(super) fn put(out: &mut Vec<u8>, opcode: u8, mask: [u8; 4], payload: &[u8]) {
    out.push(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => out.push(MASKED | length.to_le_bytes()[0]),
        Ok(length) => {
            out.push(MASKED | IN_TWO);
            out.extend(length.to_be_bytes());
        }
        Err(_) => {
            out.push(MASKED | IN_EIGHT);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    let begin = out.len();
    out.extend_from_slice(payload);
    // Four at a time, which the compiler makes sixteen.
    let mut words = out[begin..].chunks_exact_mut(4);
    for word in &mut words {
        word.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    words
        .into_remainder()
        .iter_mut()
        .zip(mask)
        .for_each(|(byte, mask)| *byte ^= mask);
}

/// What has come of the stream of a server's frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of a frame whose end has not come.
    begun: Vec<u8>,
}

impl Frames {
    /// Takes bytes as they come, and gives each whole frame: its opcode and its payload.
    ///
    /// # Errors
    /// When the server breaks the protocol, or one of the frames is not taken.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        mut frame: impl FnMut(u8, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut begun = std::mem::take(&mut self.begun);
        let mut rest = if begun.is_empty() {
            bytes
        } else {
            begun.extend_from_slice(bytes);
            &begun[..]
        };
        while let Some((opcode, payload, after)) = split(rest)? {
            frame(opcode, payload)?;
            rest = after;
        }
        self.begun = if rest.is_empty() { Vec::new() } else { rest.to_vec() };
        Ok(())
    }
}

/// The first frame's opcode and payload, and what follows it.
type Split<'a> = (u8, &'a [u8], &'a [u8]);

/// Splits the first frame off. None: its end has not come.
fn split(bytes: &[u8]) -> anyhow::Result<Option<Split<'_>>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    ensure!(first & 0xf0 == 0x80, "a frame is fragmented or has reserved bits");
    let (length, rest) = match second {
        length @ 0..126 => (u64::from(*length), rest),
        &IN_TWO => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        &IN_EIGHT => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        _ => bail!("a server's frame is masked"),
    };
    ensure!(length <= LONGEST, "a frame has {length} bytes");
    let split = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    Ok(split.map(|(payload, rest)| (first & 0x0f, payload, rest)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a server sends it.
    fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, opcode, [0; 4], payload);
        bytes[1] &= 0x7f;
        let mask = bytes.len() - payload.len() - 4;
        bytes.drain(mask..mask + 4);
        bytes
    }

    #[test]
    fn frames_are_masked_as_the_standard_shows() {
        // RFC 6455 §5.7.
        let mut bytes = Vec::new();
        put(&mut bytes, TEXT, [0x37, 0xfa, 0x21, 0x3d], b"Hello");
        assert_eq!(
            bytes,
            [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
    }

    #[test]
    fn what_no_server_sends_is_an_error() {
        for wrong in [
            &[0x01, 0][..],
            &[0xc1, 0],
            &[0x81, 0x80],
            &[0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0],
        ] {
            assert!(Frames::default().take(wrong, |_, _| Ok(())).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn frames_come_whole_however_they_are_cut(
            lengths in proptest::collection::vec(prop_oneof![0_usize..200, 65_000_usize..70_000], 1..6),
            cuts in proptest::collection::vec(1_usize..9_000, 1..20),
        ) {
            let payloads: Vec<Vec<u8>> = (1..).zip(&lengths).map(|(byte, length)| vec![byte; *length]).collect();
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| unmasked(TEXT, payload)).collect();
            let (mut frames, mut heard, mut at) = (Frames::default(), Vec::new(), 0);
            let mut cuts = cuts.into_iter().cycle();
            while at < bytes.len() {
                let end = (at + cuts.next().unwrap_or(1)).min(bytes.len());
                frames.take(&bytes[at..end], |_, payload| { heard.push(payload.to_vec()); Ok(()) }).unwrap();
                at = end;
            }
            prop_assert_eq!(heard, payloads);
        }
    }
}
