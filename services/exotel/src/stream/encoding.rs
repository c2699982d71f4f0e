//! How audio is coded on the socket.

use audio_codec_algorithms::{decode_ulaw, encode_ulaw};
use bytes::Bytes;
use std::borrow::Cow;

/// How audio is coded on the socket. The stream's own label says nothing (`exotel.md` §5.2), so it is configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// 16-bit little-endian mono PCM: what Exotel's bots get.
    #[default]
    Pcm16,
    /// G.711 μ-law (ITU-T G.711), one byte a sample.
    MuLaw,
}

impl Encoding {
    /// A frame's audio as PCM.
    pub fn to_pcm(self, payload: Bytes) -> Bytes {
        match self {
            Self::Pcm16 => payload,
            Self::MuLaw => payload
                .iter()
                .flat_map(|byte| decode_ulaw(*byte).to_le_bytes())
                .collect(),
        }
    }

    /// How many whole samples so many bytes are.
    pub fn samples(self, bytes: usize) -> usize {
        match self {
            Self::Pcm16 => bytes / 2,
            Self::MuLaw => bytes,
        }
    }

    /// PCM as a frame's audio. Half a sample at the end is left out where samples are coded.
    pub fn from_pcm(self, pcm: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Pcm16 => Cow::Borrowed(pcm),
            Self::MuLaw => pcm
                .as_chunks()
                .0
                .iter()
                .map(|sample| encode_ulaw(i16::from_le_bytes(*sample)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ITU-T G.711 (11/1988), table 2a: the decoded value of each segment's ends, in its 14-bit scale.
    #[test]
    fn mu_law_is_the_recommendations() {
        let table = [
            (0x80, 8031),
            (0x8f, 4191),
            (0x9f, 2079),
            (0xaf, 1023),
            (0xbf, 495),
            (0xcf, 231),
            (0xdf, 99),
            (0xef, 33),
            (0xfe, 2),
            (0xff, 0),
        ];
        for (code, value) in table {
            // A sample has 16 bits.
            let (positive, negative) = (4 * value, -4 * value);
            let decode = |code: u8| {
                let pcm = Encoding::MuLaw.to_pcm(Bytes::copy_from_slice(&[code]));
                i16::from_le_bytes([pcm[0], pcm[1]])
            };
            assert_eq!((decode(code), decode(code & 0x7f)), (positive, negative), "{code:#x}");
        }
    }

    #[test]
    fn every_code_comes_back_and_every_sample_comes_close() {
        let codes: Vec<u8> = (0..=255).collect();
        let pcm = Encoding::MuLaw.to_pcm(codes.clone().into());
        // There are two zeros, and the encoder knows one of them.
        let back = Encoding::MuLaw.from_pcm(&pcm);
        for (code, back) in codes.iter().zip(back.iter()) {
            assert!(code == back || (*code, *back) == (0x7f, 0xff), "{code:#x} {back:#x}");
        }
        for sample in (i16::MIN..=i16::MAX).step_by(7) {
            let byte = Encoding::MuLaw.from_pcm(&sample.to_le_bytes()).into_owned();
            let pcm = Encoding::MuLaw.to_pcm(byte.into());
            let error = i32::from(i16::from_le_bytes([pcm[0], pcm[1]])) - i32::from(sample);
            // Half a step of the sample's segment, or what is cut off at the top.
            let allowed = (i32::from(sample).abs() + 132) / 32 + 4;
            assert!(error.abs() <= allowed, "{sample}: off by {error}");
        }
    }
}
