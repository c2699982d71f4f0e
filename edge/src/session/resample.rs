//! Changes the sample rate of a stream of speech, statefully: a stream cut into any pieces gives the same as the whole.
//!
//! The work is `rubato`'s: a windowed sinc. The rates of telephones are small multiples of each other, so that every sample it
//! gives out falls on one of the filter's phases and nothing is interpolated.

use rubato::{
    Async, FixedAsync, Resampler as _, Resizable as _, SincInterpolationParameters, SincInterpolationType,
    WindowFunction, audioadapter_buffers::direct::InterleavedSlice,
};

/// The filter's length in samples of the lower rate: 4 ms of delay at 8 kHz.
const FILTER: usize = 64;
/// Where the filter cuts off, as a share of the lower rate's band: speech passes up to 3.4 kHz of 4.
const CUT_OFF: f32 = 0.95;
/// Samples that are converted at a time.
const BLOCK: usize = 320;
/// Phases of the filter, at most; between them is interpolated. Only unusual rates need more.
const MAX_PHASES: u32 = 128;

/// A stateful change of rate. With equal rates it is the identity.
#[derive(Debug)]
pub struct Resampler(Option<Box<Filter>>);

#[derive(Debug)]
struct Filter {
    inner: Async<f32>,
    output: Vec<f32>,
    /// Samples that were pushed come out when so many have followed them.
    delay: usize,
    /// Samples were pushed since the last flush.
    dirty: bool,
}

impl Resampler {
    /// From one rate to the other, both in samples per second and not zero.
    pub fn new(from: u32, to: u32) -> Self {
        let (from, to) = (from.max(1), to.max(1));
        Self((from != to).then(|| Box::new(Filter::new(from, to))))
    }

    /// Whether the rates are equal.
    pub fn is_identity(&self) -> bool {
        self.0.is_none()
    }

    /// Takes 16-bit little-endian samples in, and puts what they give at the end of `out`. Half a sample at the end is ignored.
    pub fn push(&mut self, pcm: &[u8], out: &mut impl for<'a> Extend<&'a u8>) {
        match &mut self.0 {
            None => out.extend(&pcm[..pcm.len() / 2 * 2]),
            Some(filter) => filter.push(pcm, out),
        }
    }

    /// Puts out what the filter still holds, as if silence followed. What is pushed next follows that silence.
    pub fn flush(&mut self, out: &mut impl for<'a> Extend<&'a u8>) {
        if let Some(filter) = &mut self.0
            && filter.dirty
        {
            filter.push(&vec![0; 2 * filter.delay], out);
            filter.dirty = false;
        }
    }

    /// Whether [`Resampler::flush`] would put something out.
    pub fn is_dirty(&self) -> bool {
        self.0.as_ref().is_some_and(|filter| filter.dirty)
    }

    /// Forgets everything that was pushed.
    pub fn reset(&mut self) {
        if let Some(filter) = &mut self.0 {
            filter.inner.reset();
            filter.dirty = false;
        }
    }
}

impl Filter {
    fn new(from: u32, to: u32) -> Self {
        let divisor = gcd(from, to);
        let (up, down) = (to / divisor, from / divisor);
        // In samples of the input, of which there are more when the rate falls.
        let length = FILTER * down.div_ceil(up) as usize;
        let interpolation = if up <= MAX_PHASES {
            SincInterpolationType::Nearest
        } else {
            SincInterpolationType::Cubic
        };
        let parameters = SincInterpolationParameters::new(length, WindowFunction::Blackman)
            .f_cutoff(CUT_OFF)
            .oversampling_factor(up.min(MAX_PHASES) as usize)
            .interpolation(interpolation);
        let ratio = f64::from(to) / f64::from(from);
        let inner = Async::new_sinc(ratio, 1.0, &parameters, BLOCK, 1, FixedAsync::Input)
            .expect("the ratio is positive and the block is not empty");
        Self {
            output: vec![0.0; inner.output_frames_max()],
            inner,
            delay: length / 2,
            dirty: false,
        }
    }

    fn push(&mut self, pcm: &[u8], out: &mut impl for<'a> Extend<&'a u8>) {
        let (samples, _) = pcm.as_chunks::<2>();
        let mut input = [0.0; BLOCK];
        for block in samples.chunks(BLOCK) {
            for (input, sample) in input.iter_mut().zip(block) {
                *input = f32::from(i16::from_le_bytes(*sample));
            }
            for sample in self.convert(&input[..block.len()]) {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a float cast to i16 saturates, as a clipped sample should"
                )]
                let sample = sample.round() as i16;
                out.extend(&sample.to_le_bytes());
            }
        }
        self.dirty = true;
    }

    fn convert(&mut self, block: &[f32]) -> &[f32] {
        let frames = self.output.len();
        let converted = self.inner.set_chunk_size(block.len()).and_then(|()| {
            let input = InterleavedSlice::new(block, 1, block.len());
            let output = InterleavedSlice::new_mut(&mut self.output, 1, frames);
            let (Ok(input), Ok(mut output)) = (input, output) else {
                return Ok((0, 0));
            };
            self.inner.process_into_buffer(&input, &mut output, None)
        });
        // The sizes are right by construction.
        let (_, count) = converted.unwrap_or_default();
        &self.output[..count]
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
