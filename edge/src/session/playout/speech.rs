//! The audio that waits to be sent, at Exotel's rate: the greeting first, then the agent's speech, in one stream of bytes.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

use super::ms;
use crate::session::resample::Resampler;

/// An emptied queue gives memory back when it holds more than this many bytes.
const KEPT_BYTES: usize = 32 * 1024;

/// What is to be heard next.
#[derive(Debug)]
pub(super) struct Speech {
    rate: u32,
    agent_rate: u32,
    /// What is left of the greeting.
    greeting: Bytes,
    queue: VecDeque<u8>,
    /// Bytes in the queue, at most.
    limit: usize,
    /// The first half of a sample, and the turn that it is of.
    odd: Option<(u64, u8)>,
    resampler: Resampler,
    /// Bytes that came, and that left, ever. A place in the stream is a number of these.
    came: u64,
    left: u64,
    dropped_bytes: u64,
    /// The packet that leaves.
    packet: Vec<u8>,
}

impl Speech {
    /// From the agent's rate to Exotel's; holds so many milliseconds of the agent's speech.
    pub(super) fn new(agent_rate: u32, rate: u32, limit_ms: u32, greeting: Bytes) -> Self {
        let limit = 2 * u64::from(limit_ms) * u64::from(rate) / 1000;
        Self {
            rate,
            agent_rate,
            came: greeting.len() as u64,
            greeting,
            queue: VecDeque::new(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX) / 2 * 2,
            odd: None,
            resampler: Resampler::new(agent_rate, rate),
            left: 0,
            dropped_bytes: 0,
            packet: Vec::new(),
        }
    }

    /// Takes a turn's audio at the agent's rate. A turn begins with a whole sample, whatever the one before has left.
    pub(super) fn push(&mut self, generation: u64, mut pcm: &[u8]) {
        if let Some((_, low)) = self.odd.take_if(|(of, _)| *of == generation)
            && let Some((high, rest)) = pcm.split_first()
        {
            self.append(&[low, *high]);
            pcm = rest;
        }
        self.odd = None;
        let (samples, odd) = pcm.split_at(pcm.len() / 2 * 2);
        self.odd = odd.first().map(|low| (generation, *low));
        self.append(samples);
    }

    fn append(&mut self, pcm: &[u8]) {
        let room = (self.limit.saturating_sub(self.queue.len()) / 2) as u64;
        let room = room * u64::from(self.agent_rate) / u64::from(self.rate);
        let taken = pcm.len().min(2 * usize::try_from(room).unwrap_or(usize::MAX / 2));
        self.dropped_bytes += (pcm.len() - taken) as u64;
        let before = self.queue.len();
        self.resampler.push(&pcm[..taken], &mut self.queue);
        self.came += (self.queue.len() - before) as u64;
    }

    /// Takes a sound of our own at Exotel's rate.
    pub(super) fn sound(&mut self, pcm: &[u8]) {
        let room = self.limit.saturating_sub(self.queue.len()).min(pcm.len());
        self.queue.extend(&pcm[..room]);
        self.came += room as u64;
    }

    /// Gets what the change of rates still holds. False when that is nothing.
    pub(super) fn flush(&mut self) -> bool {
        let (dirty, before) = (self.resampler.is_dirty(), self.queue.len());
        self.resampler.flush(&mut self.queue);
        self.came += (self.queue.len() - before) as u64;
        dirty
    }

    /// Takes so many bytes, of which there are as many, for a packet that is filled up with this much silence.
    pub(super) fn take(&mut self, bytes: usize, silence: usize) -> &[u8] {
        self.packet.clear();
        let greeting = self.greeting.len().min(bytes);
        self.packet.extend_from_slice(&self.greeting[..greeting]);
        self.greeting.advance(greeting);
        let speech = (bytes - greeting).min(self.queue.len());
        let (front, back) = self.queue.as_slices();
        let from_front = speech.min(front.len());
        self.packet.extend_from_slice(&front[..from_front]);
        self.packet.extend_from_slice(&back[..speech - from_front]);
        self.queue.drain(..speech);
        self.give_back();
        self.left += self.packet.len() as u64;
        self.packet.resize(self.packet.len() + silence, 0);
        &self.packet
    }

    /// Drops all that waits, the greeting with the rest.
    pub(super) fn clear(&mut self) {
        self.greeting.clear();
        self.forget_agent();
        self.left = self.came;
    }

    /// Drops what the agent said.
    pub(super) fn forget_agent(&mut self) {
        self.came -= self.queue.len() as u64;
        self.queue.clear();
        self.give_back();
        self.odd = None;
        self.resampler.reset();
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.greeting.len() + self.queue.len()
    }

    /// Whether the last of what came waits in the change of rates.
    pub(super) fn has_tail(&self) -> bool {
        self.resampler.is_dirty()
    }

    /// The place of what comes next.
    pub(super) fn end(&self) -> u64 {
        self.came
    }

    /// The place of what leaves next.
    pub(super) fn position(&self) -> u64 {
        self.left
    }

    /// Milliseconds of the agent's speech that wait.
    pub(super) fn queued_ms(&self) -> u32 {
        ms(self.queue.len() as u64 / 2, self.rate)
    }

    /// Milliseconds of the greeting that wait.
    pub(super) fn greeting_ms(&self) -> u32 {
        ms(self.greeting.len() as u64 / 2, self.rate)
    }

    /// Milliseconds of the agent's speech that were dropped for exceeding the limit.
    pub(super) fn dropped_ms(&self) -> u32 {
        ms(self.dropped_bytes / 2, self.agent_rate)
    }

    fn give_back(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT_BYTES {
            self.queue = VecDeque::new();
        }
    }
}
