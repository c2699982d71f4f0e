use hound::{WavSpec, WavWriter};
use proptest::prelude::*;

use super::*;

fn wav(channels: u16, sample_rate: u32, bits_per_sample: u16, samples: u32) -> Vec<u8> {
    let spec = WavSpec {
        channels,
        sample_rate,
        bits_per_sample,
        sample_format: SampleFormat::Int,
    };
    let mut bytes = Vec::new();
    let mut writer = WavWriter::new(Cursor::new(&mut bytes), spec).unwrap();
    for _ in 0..samples * u32::from(channels) {
        writer.write_sample(7_i8).unwrap();
    }
    writer.finalize().unwrap();
    bytes
}

fn upload(bytes: &[u8]) -> Result<Wav, Error> {
    let mut upload = Upload::default();
    for chunk in bytes.chunks(CHUNK_BYTES) {
        upload.push(chunk)?;
    }
    upload.finish()
}

#[test]
fn a_greeting_is_taken_as_it_is() {
    for (rate, samples, millis) in [
        (8000, 8000, 1000),
        (16000, 4000, 250),
        (24000, 36000, 1500),
        (8000, 480_000, 60_000),
    ] {
        let bytes = wav(1, rate, 16, samples);
        let taken = upload(&bytes).unwrap();
        assert_eq!((taken.bytes, taken.duration_ms), (bytes, millis));
        assert_eq!(taken.sample_rate, i32::try_from(rate).unwrap());
    }
}

#[test]
fn everything_else_is_refused() {
    let cut = wav(1, 8000, 16, 1000);
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("text", b"RIFF but no WAV".to_vec()),
        ("stereo", wav(2, 8000, 16, 100)),
        ("8 bit", wav(1, 8000, 8, 100)),
        ("24 bit", wav(1, 8000, 24, 100)),
        ("44.1 kHz", wav(1, 44_100, 16, 100)),
        ("no samples", wav(1, 8000, 16, 0)),
        ("a minute and a sample's worth more", wav(1, 8000, 16, 480_008)),
        ("cut off", cut[..cut.len() - 100].to_vec()),
        ("too large", wav(1, 24_000, 16, 1_100_000)),
    ] {
        let error = upload(&bytes).unwrap_err();
        assert!(
            matches!(&error, Error::Invalid(v) if v[0].field == "chunk"),
            "{name}: {error}"
        );
    }
    assert!(Upload::default().push(&vec![0; CHUNK_BYTES + 1]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in any::<u8>()) {
        let _ = upload(&bytes);
        let mut changed = wav(1, 8000, 16, 20);
        let at = at.index(changed.len());
        changed[at] ^= flip;
        let _ = upload(&changed);
    }
}
