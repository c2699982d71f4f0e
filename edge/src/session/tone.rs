//! What the person hears when no agent can be reached: the busy tone of the Indian network.

use std::f64::consts::TAU;

/// 400 Hz, three quarters of a second on and off (ITU-T E.180, Supplement 2, India).
const HERTZ: f64 = 400.0;
const HALF_PERIOD_S: f64 = 0.75;
/// Two beeps say enough.
const SECONDS: f64 = 2.25;
/// Quieter than speech.
const LEVEL: f64 = 6000.0;

/// The sound as PCM, at a rate in samples per second.
pub(super) fn apology(rate: u32) -> Vec<u8> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few seconds at a telephone's rate"
    )]
    let count = (f64::from(rate) * SECONDS) as u32;
    (0..count)
        .flat_map(|i| {
            let seconds = f64::from(i) / f64::from(rate);
            let on = seconds % (2.0 * HALF_PERIOD_S) < HALF_PERIOD_S;
            #[expect(clippy::cast_possible_truncation, reason = "the level is far below the limit of i16")]
            let sample = (LEVEL * (TAU * HERTZ * seconds).sin()) as i16;
            if on { sample } else { 0 }.to_le_bytes()
        })
        .collect()
}
