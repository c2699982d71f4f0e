//! A bot that was written for Exotel: to it the edge is Exotel (exotel.md §5).
//!
//! It hears what Exotel would say: `connected`, `start`, then audio, keys and its own marks as they are really heard, and
//! `stop` before the close. It says `media`, `mark` and `clear`; its close ends its part of the call. A mark that a `clear`
//! dropped is not sent back, since it was not heard. Messages, play-out reports and the end of a greeting have no word in this
//! protocol and are not told.

use std::time::Duration;

use callbridge_proto::agent::v1::{
    Clear, Mark, OutgoingAudio, Start, converse_request::Event, converse_response::Action,
};
use exotel::stream::bot::{self, CONNECTED, Feed, Names};
use runtime::telemetry;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error as WsError, client::IntoClientRequest as _, protocol::WebSocketConfig},
};
use tonic::Code;
use url::Url;

use super::{
    KEEP_ALIVE, OpenError, Said, Turn,
    connect::{Connector, Io, Protocol},
};
use crate::socket::{Heard, Line, Patience, Socket};

/// The largest message that is taken: Exotel's 100 kB of audio (exotel.md §5.3) in base64, with its envelope (F104).
const MAX_MESSAGE: usize = 144 * 1024;
/// What may wait unsent: one message, of the person's audio at most.
const MAX_WRITE_BUFFER: usize = 512 * 1024;
/// Read buffer of each socket, as on Exotel's side.
const READ_BUFFER: usize = 4 * 1024;
/// A bot that has nothing more to say closes with these (RFC 6455 §7.4.1); with any other it has failed.
const NORMAL: u16 = 1000;
const NO_CODE: u16 = 1005;
/// How often it is looked whether the bot still reads and answers.
const LOOK: Duration = Duration::from_secs(2);

/// A stream to a bot.
pub(super) struct Bot {
    socket: Socket<WebSocketStream<Io>>,
    feed: Feed,
    looks: Interval,
    /// The next frames; more than one only at the start.
    unsent: Vec<String>,
    closing: Closing,
    /// The bot has closed: what that means, once the handshake is over.
    ended: Option<Said>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Not,
    Wanted,
    Sent,
}

/// Dials a bot and says who calls.
pub(super) async fn open(
    connector: &Connector,
    endpoint: &str,
    start: &Start,
    names: Names,
    stall: Duration,
) -> Result<Bot, OpenError> {
    let mut url = Url::parse(endpoint).map_err(|_| OpenError::Url)?;
    let io = connector.connect(&url, Protocol::Http1).await?;
    let parameters = parameters(&mut url, &start.call_id);
    let mut request = url.as_str().into_client_request().map_err(|_| OpenError::Url)?;
    telemetry::inject(request.headers_mut());
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BUFFER);
    let (socket, _) = client_async_with_config(request, io, Some(limits))
        .await
        .map_err(handshake)?;
    let pong = KEEP_ALIVE.1;
    let rate = start.audio_format.map_or(8000, |format| format.sample_rate);
    let mut feed = Feed::new(names, rate);
    // The one who called, or on outbound calls the customer, is `from` in either direction (exotel.md §5.1).
    let opening = feed.start(&start.customer_number, &start.phone_number, &parameters);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Bot {
        socket: Socket::new(socket, Instant::now(), Patience { stall, pong }),
        feed,
        looks,
        // Taken from the end.
        unsent: vec![opening, CONNECTED.to_owned()],
        closing: Closing::Not,
        ended: None,
    })
}

/// The pairs of the URL's query are told at the start and are not in the handshake, as Exotel does it (exotel.md §4). The
/// call's id is behind them.
fn parameters(url: &mut Url, call_id: &str) -> Vec<(String, String)> {
    let pairs = url.query_pairs().into_owned();
    // The rate is the agent record's.
    let mut parameters: Vec<_> = pairs
        .filter(|(key, _)| key != "sample-rate" && key != "sample_rate")
        .collect();
    if parameters.iter().all(|(key, _)| key != "call_id") {
        parameters.push(("call_id".to_owned(), call_id.to_owned()));
    }
    url.set_query(None);
    parameters
}

fn handshake(error: WsError) -> OpenError {
    match error {
        WsError::Io(error) => OpenError::Io(error),
        WsError::Http(response) => OpenError::Handshake(response.status().as_u16()),
        other => OpenError::Protocol(Box::new(other)),
    }
}

impl Bot {
    /// Ends our half.
    pub(super) fn close(&mut self) {
        if self.closing == Closing::Not {
            self.closing = Closing::Wanted;
        }
    }

    /// As [`super::Link::is_ready`].
    pub(super) fn is_ready(&mut self) -> bool {
        self.ended.is_none() && self.unsent.is_empty() && self.closing == Closing::Not && self.socket.is_writable()
    }

    /// Sends an event, or nothing where the protocol has no word for it. Only while it is ready.
    pub(super) fn send(&mut self, event: &Event) {
        let text = match event {
            Event::Audio(audio) => self.feed.media(&audio.pcm),
            Event::Dtmf(dtmf) => self.feed.dtmf(&dtmf.digit, dtmf.duration_ms),
            Event::MarkPlayed(mark) if !mark.cleared => self.feed.mark(&mark.name),
            Event::Stop(stop) => self.feed.stop(stop.reason == "caller_hung_up"),
            Event::MarkPlayed(_)
            | Event::Start(_)
            | Event::GreetingEnded(_)
            | Event::Playout(_)
            | Event::Message(_) => return,
        };
        self.socket.send(Instant::now(), text);
    }

    /// Waits as [`super::Link::next`] does.
    pub(super) async fn next(&mut self, ready: bool) -> Turn {
        loop {
            let has_more = !self.unsent.is_empty() || self.closing == Closing::Wanted;
            let want = self.ended.is_none() && (ready || has_more);
            let heard = tokio::select! {
                heard = self.socket.next(want) => heard,
                _ = self.looks.tick() => {
                    let line = self.socket.tick(Instant::now());
                    match self.ended.take() {
                        // It does not finish its own closing handshake.
                        Some(said) => return Turn::Said(said),
                        None if line == Line::Fine => continue,
                        None => return Turn::Said(Said::Broken(Code::Unavailable)),
                    }
                }
            };
            match heard {
                Heard::Writable => {
                    let now = Instant::now();
                    if let Some(text) = self.unsent.pop() {
                        self.socket.send(now, text);
                    } else if ready {
                        return Turn::Send;
                    } else {
                        self.closing = Closing::Sent;
                        self.socket.say_goodbye(now);
                    }
                }
                Heard::Text(text) => match bot::decode(&text) {
                    Ok(said) => {
                        if let Some(action) = action(said) {
                            return Turn::Said(Said::Action(Some(action)));
                        }
                    }
                    Err(_) => return Turn::Said(Said::Action(None)),
                },
                Heard::Binary(_) => return Turn::Said(Said::Action(None)),
                Heard::Alive => {}
                Heard::Closed(code) => {
                    let well = self.closing == Closing::Sent || matches!(code, NORMAL | NO_CODE);
                    let said = if well {
                        Said::Finished
                    } else {
                        Said::Broken(Code::Unavailable)
                    };
                    self.ended.get_or_insert(said);
                }
                Heard::Broken => {
                    return Turn::Said(self.ended.take().unwrap_or(Said::Broken(Code::Unavailable)));
                }
                Heard::Violation(_) => return Turn::Said(Said::Broken(Code::InvalidArgument)),
            }
        }
    }
}

fn action(said: bot::Said) -> Option<Action> {
    match said {
        bot::Said::Audio(pcm) => Some(Action::Audio(OutgoingAudio { pcm, generation: 0 })),
        bot::Said::Mark { name } => Some(Action::Mark(Mark { name })),
        bot::Said::Clear => Some(Action::Clear(Clear { generation: 0 })),
        bot::Said::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_told_and_not_sent() {
        let mut url = Url::parse("wss://bot.example/ws/x?lang=hi&sample-rate=16000&empty=").unwrap();
        let told = parameters(&mut url, "call_1");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(told, [pair("lang", "hi"), pair("empty", ""), pair("call_id", "call_1")]);
        assert_eq!(url.as_str(), "wss://bot.example/ws/x");
        let mut url = Url::parse("ws://bot.example/?call_id=mine").unwrap();
        assert_eq!(parameters(&mut url, "call_1"), [pair("call_id", "mine")]);
    }
}
