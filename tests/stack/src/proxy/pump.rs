//! One connection: bytes both ways, until its end or its cut.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{Direction, MAX_PATTERN, Rules, Shared, When, locked, upstream};

/// Read at once at most.
const CHUNK: usize = 16 * 1024;

/// Chunks on their way in one direction: with [`CHUNK`] a mebibyte. Beyond, the sender waits.
const ON_THE_WAY: usize = 64;

/// Slices of a throttled second.
const SLICES: u64 = 20;

/// Why a connection ends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// On purpose.
    Cut,
    /// By one of the two peers; the other one gets to feel it.
    Peer,
}

pub(super) async fn connection(shared: &Arc<Shared>, client: TcpStream) {
    let mut resets = shared.resets.subscribe();
    let mut sockets = vec![client];
    let broken = {
        let carried = carry(shared, &mut sockets);
        tokio::select! {
            ended = carried => ended.err(),
            _ = resets.changed() => Some(Broken::Cut),
            () = shared.stop.cancelled() => Some(Broken::Cut),
        }
    };
    if broken == Some(Broken::Cut) {
        shared.counts.cuts.fetch_add(1, Ordering::Relaxed);
    }
    if broken.is_some() {
        for socket in &sockets {
            // An RST instead of a FIN.
            let _ = socket.set_zero_linger();
        }
    }
}

/// Connects to an upstream and forwards until both sides have ended.
async fn carry(shared: &Arc<Shared>, sockets: &mut Vec<TcpStream>) -> Result<(), Broken> {
    let mut rules = shared.rules.subscribe();
    rules
        .wait_for(|rules| !rules.black_hole)
        .await
        .map_err(|_| Broken::Peer)?;
    let Some(upstream) = upstream(shared).await else {
        shared.counts.unreachable.fetch_add(1, Ordering::Relaxed);
        return Err(Broken::Peer);
    };
    sockets.push(upstream);
    let [client, upstream] = sockets.as_mut_slice() else {
        return Err(Broken::Peer);
    };
    for socket in [&*client, &*upstream] {
        let _ = socket.set_nodelay(true);
    }
    let ((from_client, to_client), (from_upstream, to_upstream)) = (client.split(), upstream.split());
    tokio::try_join!(
        one_way(shared, Direction::ToUpstream, from_client, to_upstream),
        one_way(shared, Direction::ToClient, from_upstream, to_client),
    )?;
    Ok(())
}

async fn one_way(
    shared: &Arc<Shared>,
    direction: Direction,
    mut from: ReadHalf<'_>,
    to: WriteHalf<'_>,
) -> Result<(), Broken> {
    let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let arrives = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = from.read(&mut buffer).await.map_err(|_| Broken::Peer)?;
            let delay = shared.rules.borrow().link(direction).delay;
            // The queue ends with the reader, and tells the writer of the end; nothing else closes it.
            if length == 0
                || queue
                    .send((Instant::now() + delay, buffer[..length].to_vec()))
                    .await
                    .is_err()
            {
                return Ok(());
            }
        }
    };
    let leaves = async move {
        let mut writer = Writer {
            shared,
            rules: shared.rules.subscribe(),
            direction,
            to,
            passed: 0,
            tail: Vec::new(),
        };
        while let Some((release, chunk)) = waiting.recv().await {
            sleep_until(release).await;
            writer.forward(&chunk).await?;
        }
        writer.passes().await?;
        writer.to.shutdown().await.map_err(|_| Broken::Peer)
    };
    tokio::try_join!(arrives, leaves)?;
    Ok(())
}

/// The writing end of one direction.
struct Writer<'a> {
    shared: &'a Shared,
    rules: watch::Receiver<Rules>,
    direction: Direction,
    to: WriteHalf<'a>,
    /// Bytes that have passed.
    passed: u64,
    /// The last of them, for patterns that come in pieces.
    tail: Vec<u8>,
}

impl Writer<'_> {
    /// Waits until the direction is open.
    async fn passes(&mut self) -> Result<(), Broken> {
        let direction = self.direction;
        let open = self.rules.wait_for(|rules| rules.passes(direction)).await;
        open.map(drop).map_err(|_| Broken::Peer)
    }

    async fn forward(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        self.passes().await?;
        let mut keep = chunk.len();
        let mut cut = false;
        let cut_after = self.rules.borrow().link(self.direction).cut_after;
        if let Some(left) = cut_after.map(|bytes| bytes.saturating_sub(self.passed)) {
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            (keep, cut) = (keep.min(left), keep >= left);
        }
        if let Some(before) = self.shared.fire(self.direction, &self.tail, &chunk[..keep]) {
            (keep, cut) = (before, true);
        }
        self.write(&chunk[..keep]).await?;
        self.tail.extend_from_slice(&chunk[..keep]);
        let old = self.tail.len().saturating_sub(MAX_PATTERN - 1);
        self.tail.drain(..old);
        if cut { Err(Broken::Cut) } else { Ok(()) }
    }

    /// Writes at the rate in force.
    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            self.passes().await?;
            let rate = self.rules.borrow().link(self.direction).bytes_per_second;
            let slice = rate.map_or(u64::MAX, |rate| (rate.get() / SLICES).max(1));
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(slice).unwrap_or(usize::MAX)));
            self.to.write_all(now).await.map_err(|_| Broken::Peer)?;
            let length = u64::try_from(now.len()).unwrap_or(u64::MAX);
            self.passed += length;
            self.shared.count(self.direction).fetch_add(length, Ordering::Relaxed);
            if let Some(rate) = rate {
                sleep(Duration::from_micros(length.saturating_mul(1_000_000) / rate)).await;
            }
            bytes = later;
        }
        Ok(())
    }
}

impl Shared {
    fn count(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToUpstream => &self.counts.to_upstream,
            Direction::ToClient => &self.counts.to_client,
        }
    }

    /// Looks for the pattern that ends first in the chunk, and says how much of the chunk comes before its cut.
    fn fire(&self, direction: Direction, tail: &[u8], chunk: &[u8]) -> Option<usize> {
        let mut triggers = locked(&self.triggers);
        if triggers.is_empty() {
            return None;
        }
        let seen = [tail, chunk].concat();
        let found = triggers
            .iter()
            .enumerate()
            .filter(|(_, trigger)| trigger.direction == direction)
            .filter_map(|(at, trigger)| {
                let length = trigger.pattern.len();
                // What ends in the tail has passed already.
                let first = (tail.len() + 1).saturating_sub(length);
                let begin = seen.get(first..)?.windows(length).position(|w| w == trigger.pattern)?;
                Some((first + begin + length, at))
            });
        let (end, at) = found.min()?;
        let trigger = triggers.get_mut(at)?;
        let cut = match trigger.when {
            When::Before => end - trigger.pattern.len(),
            When::After => end,
        };
        trigger.left -= 1;
        if trigger.left == 0 {
            triggers.remove(at);
        }
        self.counts.pattern_cuts.fetch_add(1, Ordering::Relaxed);
        Some(cut.saturating_sub(tail.len()))
    }
}
