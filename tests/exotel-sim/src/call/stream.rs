//! One open AgentStream socket, from `connected` to the end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_encoding::BASE64;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame, protocol::frame::coding::CloseCode};
use tokio_util::sync::CancellationToken;

use super::{Call, caller::Caller, playout::Playout, socket::Socket};
use crate::{
    Cause, StreamReport, clock,
    settings::{Chunks, ClearedMarks, StreamEnd, Streams},
    wav::{self, Recording},
    wire::{FromBot, Opening, Writer},
    world::World,
};

/// The step of the line's clock: one packet of a telephone network.
const TICK_MS: u64 = 20;

/// Documented largest payload from a bot.
const MAX_PAYLOAD: usize = 100_000;

/// Below this a payload may be heard as jitter; documented.
const SMALL_PAYLOAD: usize = 3_200;

/// A bot that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages read ahead of the line's clock: a flood of the smallest messages for some seconds.
const READ_AHEAD: usize = 256;

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The bot closed the socket.
    Bot,
    /// The person hung up.
    Caller,
    /// The platform ended it: time limit, longest stream, stop.
    Platform,
    /// It broke; the text is for the flow.
    Failed(String),
}

/// What the reader found.
enum Inbound {
    Text(String),
    Binary,
    Close(Option<u16>),
    Broken(String),
}

/// The three recordings of a stream.
struct Tapes {
    heard: Recording,
    received: Recording,
    said: Recording,
}

impl Tapes {
    fn open(folder: &Path, name: &str, rate: u32) -> Result<Self, wav::Error> {
        let tape = |what: &str| Recording::create(folder.join(format!("{name}-{what}.wav")), rate);
        Ok(Self {
            heard: tape("heard")?,
            received: tape("received")?,
            said: tape("said")?,
        })
    }

    fn paths(&self) -> [PathBuf; 3] {
        [
            self.heard.path().to_owned(),
            self.received.path().to_owned(),
            self.said.path().to_owned(),
        ]
    }

    fn finish(self) -> Result<(), wav::Error> {
        self.heard.finish()?;
        self.received.finish()?;
        self.said.finish()
    }
}

/// A stream's working state.
pub(crate) struct Stream<'a> {
    pub(crate) world: &'a Arc<World>,
    pub(crate) call: &'a Arc<Call>,
    pub(crate) settings: &'a Streams,
    pub(crate) opening: Opening<'a>,
    pub(crate) report: &'a mut StreamReport,
    /// Place in the call's report.
    pub(crate) index: usize,
}

struct Line {
    sink: SplitSink<Socket, Message>,
    writer: Writer,
    playout: Playout,
    tapes: Option<Tapes>,
    started: Instant,
    /// Audio of the caller that waits for its message.
    pending: Vec<u8>,
    /// Milliseconds of the caller's audio sent, or left out as silence.
    sent_ms: u64,
    /// Audio in bytes before that, for `sent_ms`.
    sent_bytes: u64,
    /// The size of the next message.
    next_chunk: usize,
}

impl Stream<'_> {
    /// Talks until somebody ends it, and closes the socket.
    pub(crate) async fn talk(mut self, socket: Socket, caller: &mut Caller) -> Over {
        let rate = self.opening.sample_rate;
        caller.set_rate(rate);
        let (sink, mut source) = socket.split();
        let (found, mut inbound) = mpsc::channel(READ_AHEAD);
        let reading = CancellationToken::new();
        let _stop_reading = reading.clone().drop_guard();
        self.world.tasks.spawn(async move {
            let read = async {
                while let Some(message) = source.next().await {
                    let message = match message {
                        Ok(Message::Text(text)) => Inbound::Text(text.as_str().to_owned()),
                        Ok(Message::Binary(_)) => Inbound::Binary,
                        Ok(Message::Close(frame)) => Inbound::Close(frame.map(|frame| u16::from(frame.code))),
                        Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                        Err(error) => Inbound::Broken(error.to_string()),
                    };
                    if found.send(message).await.is_err() {
                        return;
                    }
                }
            };
            let _ = reading.run_until_cancelled(read).await;
        });

        let mut line = Line {
            sink,
            writer: Writer::new(
                self.settings.start,
                self.settings.key_case,
                self.report.stream_sid.clone(),
            ),
            playout: Playout::new(rate, self.settings.max_buffered_s),
            tapes: self.tapes(rate),
            started: Instant::now(),
            pending: Vec::new(),
            sent_ms: 0,
            sent_bytes: 0,
            next_chunk: 0,
        };
        line.next_chunk = self.chunk_size();
        if let Some([heard, received, said]) = line.tapes.as_ref().map(Tapes::paths) {
            self.report.heard = Some(heard);
            self.report.received = Some(received);
            self.report.said = Some(said);
        }

        let start = line.writer.start(&self.opening);
        let opened = async {
            line.send(Writer::connected()).await?;
            line.send(start).await
        };
        let over = match opened.await {
            Ok(()) if self.settings.stop_without_media => {
                self.publish(true);
                Over::Platform
            }
            Ok(()) => {
                self.report.started = Some(clock::now());
                self.publish(true);
                self.note("start", &json!({}));
                self.run(&mut line, &mut inbound, caller).await
            }
            Err(error) => Over::Failed(error),
        };
        self.close(&mut line, &mut inbound, &over).await;
        self.report.seconds = line.started.elapsed().as_secs();
        if let Some(Err(error)) = line.tapes.take().map(Tapes::finish) {
            tracing::warn!(call.sid = %self.call.sid, error = &error as &dyn std::error::Error, "recording failed");
        }
        over
    }

    fn tapes(&self, rate: u32) -> Option<Tapes> {
        if !self.settings.record {
            return None;
        }
        let name = match self.index {
            0 => self.call.sid.clone(),
            later => format!("{}-{}", self.call.sid, later + 1),
        };
        match Tapes::open(&self.world.state_dir, &name, rate) {
            Ok(tapes) => Some(tapes),
            Err(error) => {
                tracing::warn!(call.sid = %self.call.sid, error = &error as &dyn std::error::Error, "no recording");
                None
            }
        }
    }

    async fn run(&mut self, line: &mut Line, inbound: &mut mpsc::Receiver<Inbound>, caller: &mut Caller) -> Over {
        let tick = Duration::from_millis(TICK_MS);
        let mut clock = interval_at(line.started + tick, tick);
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let longest = sleep(Duration::from_secs(self.settings.max_seconds));
        tokio::pin!(longest);
        let mut ticks = 0_u64;
        loop {
            let over = tokio::select! {
                () = self.call.ending.cancelled() => {
                    Some(if self.call.cause() == Cause::Caller { Over::Caller } else { Over::Platform })
                }
                () = &mut longest => Some(Over::Platform),
                message = inbound.recv() => self.receive(line, message).await,
                _ = clock.tick() => {
                    ticks += 1;
                    if ticks.is_multiple_of(1_000 / TICK_MS) {
                        self.publish(true);
                    }
                    // What has come is there to be played: a clock that runs late makes no hole of its own.
                    match self.receive_waiting(line, inbound).await {
                        Some(over) => Some(over),
                        None => self.tick(line, caller).await.err().map(Over::Failed),
                    }
                }
            };
            if let Some(over) = over {
                return over;
            }
        }
    }

    /// Takes what was read ahead.
    async fn receive_waiting(&mut self, line: &mut Line, inbound: &mut mpsc::Receiver<Inbound>) -> Option<Over> {
        for _ in 0..READ_AHEAD {
            let Ok(message) = inbound.try_recv() else { break };
            let over = self.receive(line, Some(message)).await;
            if over.is_some() {
                return over;
            }
        }
        None
    }

    /// One step of the line's clock: 20 ms of both voices.
    async fn tick(&mut self, line: &mut Line, caller: &mut Caller) -> Result<(), String> {
        let samples = usize::try_from(u64::from(self.opening.sample_rate) * TICK_MS / 1_000).unwrap_or(0);
        let played = line.playout.tick(samples);
        let added = self.call.added_steps();
        if !added.is_empty() {
            caller.insert(super::life::load(self.world, added).await);
        }
        let said = caller.tick(&played.samples);
        if let Some(tapes) = line.tapes.as_mut() {
            tapes
                .heard
                .samples(&played.samples)
                .map_err(|error| error.to_string())?;
        }
        for name in played.marks {
            self.echo(line, &name).await?;
        }
        for sample in &said.samples {
            line.pending.extend_from_slice(&sample.to_le_bytes());
        }
        for key in said.keys.chars() {
            self.report.digits.push(key);
            self.note("dtmf", &json!({ "digit": key.to_string() }));
            let message = line.writer.dtmf(key);
            line.send(message).await?;
        }
        self.send_audio(line).await?;
        if said.hung_up {
            self.call.end(Cause::Caller);
        }
        Ok(())
    }

    async fn send_audio(&mut self, line: &mut Line) -> Result<(), String> {
        if let Chunks::Bursts { every_ms, .. } = self.settings.chunks
            && line.pending.len() < self.bytes_in(every_ms)
        {
            return Ok(());
        }
        while line.pending.len() >= line.next_chunk {
            let audio: Vec<u8> = line.pending.drain(..line.next_chunk).collect();
            line.sent_bytes += u64::try_from(audio.len()).unwrap_or(0);
            line.sent_ms = line.sent_bytes * 1_000 / (u64::from(self.opening.sample_rate) * 2);
            line.next_chunk = self.chunk_size();
            if !self.settings.send_silence && audio.iter().all(|byte| *byte == 0) {
                continue;
            }
            let message = line.writer.media(line.sent_ms, &audio);
            line.send(message).await?;
            self.report.sent_messages += 1;
            self.report.sent_bytes += u64::try_from(audio.len()).unwrap_or(0);
            if let Some(tapes) = line.tapes.as_mut() {
                tapes.said.bytes(&audio).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn bytes_in(&self, milliseconds: u32) -> usize {
        let bytes = u64::from(self.opening.sample_rate) * 2 * u64::from(milliseconds) / 1_000;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn chunk_size(&self) -> usize {
        let bytes = match self.settings.chunks {
            Chunks::Millis(milliseconds) => self.bytes_in(milliseconds),
            Chunks::Bytes(bytes) | Chunks::Bursts { bytes, .. } => usize::try_from(bytes).unwrap_or(usize::MAX),
            Chunks::Mixed => self.world.chance.draw().pick([320, 640, 1_600, 3_200]),
        };
        bytes.max(2)
    }

    async fn receive(&mut self, line: &mut Line, message: Option<Inbound>) -> Option<Over> {
        let text = match message {
            Some(Inbound::Text(text)) => text,
            Some(Inbound::Binary) => {
                self.report.invalid_messages += 1;
                return None;
            }
            Some(Inbound::Close(code)) => {
                self.report.close_code = code;
                return Some(Over::Bot);
            }
            // A bare end of the connection is a close as well; 1006 is the code for that.
            Some(Inbound::Broken(error)) => {
                self.report.close_code = Some(1006);
                self.note("broken", &json!({ "error": error }));
                return Some(Over::Bot);
            }
            None => {
                self.report.close_code = Some(1006);
                return Some(Over::Bot);
            }
        };
        let Ok(message) = serde_json::from_str::<FromBot>(&text) else {
            self.report.invalid_messages += 1;
            return None;
        };
        match (message.event.as_str(), message.media, message.mark) {
            ("media", Some(media), _) => self.receive_audio(line, &media.payload),
            ("mark", _, Some(mark)) => {
                self.report.marks += 1;
                self.note(
                    "mark",
                    &json!({ "name": mark.name, "waiting_ms": line.playout.waiting_ms() }),
                );
                line.playout.mark(mark.name);
                None
            }
            ("clear", _, _) => {
                self.report.clears += 1;
                let cleared = line.playout.clear();
                self.report.cleared_bytes += u64::try_from(cleared.bytes).unwrap_or(0);
                self.note("clear", &json!({ "bytes": cleared.bytes, "marks": cleared.marks }));
                if self.settings.cleared_marks == ClearedMarks::Echoed {
                    for name in cleared.marks {
                        if let Err(error) = self.echo(line, &name).await {
                            return Some(Over::Failed(error));
                        }
                    }
                }
                None
            }
            ("media" | "mark", _, _) => {
                self.report.invalid_messages += 1;
                None
            }
            _ => {
                self.report.unknown_messages += 1;
                None
            }
        }
    }

    fn receive_audio(&mut self, line: &mut Line, payload: &str) -> Option<Over> {
        let Ok(audio) = BASE64.decode(payload.as_bytes()) else {
            self.report.invalid_messages += 1;
            return None;
        };
        if audio.len() > MAX_PAYLOAD {
            return Some(Over::Failed(format!(
                "3010 media payload of {} bytes timed out",
                audio.len()
            )));
        }
        let report = &mut *self.report;
        if report.first_audio_ms.is_none() && !audio.is_empty() {
            report.first_audio_ms = Some(u64::try_from(line.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
        report.received_messages += 1;
        report.received_bytes += u64::try_from(audio.len()).unwrap_or(0);
        report.small_messages += u64::from(audio.len() < SMALL_PAYLOAD);
        let pushed = line.playout.push(&audio);
        report.gaps += u64::from(pushed.gap);
        report.odd_messages += u64::from(pushed.odd);
        report.underruns += u64::from(pushed.underrun);
        report.overflow_bytes += u64::try_from(pushed.overflow).unwrap_or(0);
        report.longest_queue_ms = report.longest_queue_ms.max(line.playout.waiting_ms());
        let taped = line.tapes.as_mut().map_or(Ok(()), |tapes| tapes.received.bytes(&audio));
        taped.err().map(|error| Over::Failed(error.to_string()))
    }

    async fn echo(&mut self, line: &mut Line, name: &str) -> Result<(), String> {
        self.report.echoed_marks += 1;
        self.note("mark echo", &json!({ "name": name }));
        let message = line.writer.mark(name);
        line.send(message).await
    }

    /// The platform's goodbye, and the closing handshake.
    async fn close(&mut self, line: &mut Line, inbound: &mut mpsc::Receiver<Inbound>, over: &Over) {
        let reason = match over {
            Over::Caller => Some("callended"),
            Over::Platform => Some("stopped"),
            Over::Bot | Over::Failed(_) => None,
        };
        if let Some(reason) = reason {
            if self.settings.end == StreamEnd::Drop {
                return;
            }
            if self.settings.end == StreamEnd::StopAndClose {
                let stop = line.writer.stop(&self.opening, reason);
                let _ = line.send(stop).await;
            }
        }
        let code = if matches!(over, Over::Failed(_)) {
            CloseCode::Error
        } else {
            CloseCode::Normal
        };
        let close = Message::Close(Some(CloseFrame {
            code,
            reason: "".into(),
        }));
        // After the bot's close the answer is on its way already, and this fails: fine.
        let _ = timeout(CLOSE_TIMEOUT, line.sink.send(close)).await;
        let drained = async {
            while let Some(message) = inbound.recv().await {
                match message {
                    Inbound::Close(code) => self.report.close_code = code,
                    Inbound::Broken(_) => return,
                    Inbound::Text(_) | Inbound::Binary => {}
                }
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, drained).await;
    }

    /// Copies the stream's report into the call's.
    fn publish(&mut self, open: bool) {
        self.report.open = open;
        let (report, index) = (self.report.clone(), self.index);
        self.call.update(self.world, |call| {
            if let Some(place) = call.streams.get_mut(index) {
                *place = report;
            }
        });
    }

    fn note(&self, what: &str, facts: &serde_json::Value) {
        let sid = &self.report.stream_sid;
        self.world.note(
            Some(&self.call.sid),
            "stream",
            json!({ "stream_sid": sid, "what": what, "facts": facts }),
        );
    }
}

impl Line {
    async fn send(&mut self, text: String) -> Result<(), String> {
        match timeout(SEND_TIMEOUT, self.sink.send(Message::text(text))).await {
            // After a failed send the reader finds out why; until then nothing more can be sent.
            Ok(Ok(()) | Err(_)) => Ok(()),
            Err(_) => Err("3011 the bot takes no data".to_owned()),
        }
    }
}
