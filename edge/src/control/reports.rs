//! What sessions report until call-service has acknowledged it, and the orders that reach them. Sessions never wait here:
//! a report is put down under a short lock, and `super::attach` carries it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use callbridge_proto::{
    agent::v1::{Leave, Message},
    ingress::v1::{
        AttachEdgeRequest, Command, CommandDone, SessionEnded, SessionEvent, attach_edge_request::Message as Upward,
        command::Action, session_event::Event,
    },
};
use prost_types::Timestamp;
use runtime::Clock;
use tokio::sync::{Notify, mpsc};

/// Events of one session without an acknowledgement: minutes of talk. Beyond, the oldest talk goes first.
const MAX_EVENTS: usize = 256;
/// Ended sessions whose end is not acknowledged: an outage of call-service of an hour at a thousand calls.
const MAX_ENDED: usize = 4096;
/// Orders that wait for one session; it takes them as fast as it turns.
const MAX_ORDERS: usize = 32;
/// Ids of a session's latest commands, to know one that is delivered again.
const KNOWN_COMMANDS: usize = 64;
/// Answers to commands that wait for the stream.
const MAX_DONE: usize = 1024;

/// What a session is told to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Leave the call.
    Leave { command_id: String, leave: Leave },
    /// Pass a message to the agent.
    Message { command_id: String, message: Message },
    /// call-service does not know the session.
    Unknown,
}

struct Log {
    events: VecDeque<SessionEvent>,
    /// How many of them are on the current stream.
    sent: usize,
    /// The number of the latest event that was sent.
    numbered: i64,
    waiting: bool,
    ended: bool,
    /// call-service does not know the session, so it may not acknowledge anything of it.
    unknown: bool,
    orders: mpsc::Sender<Order>,
    commands: VecDeque<String>,
}

#[derive(Default)]
struct State {
    logs: HashMap<String, Log>,
    /// Sessions with something to send, in turn.
    turn: VecDeque<String>,
    ended: VecDeque<String>,
    done: VecDeque<CommandDone>,
    dropped: u64,
}

struct Inner {
    state: Mutex<State>,
    wake: Notify,
    clock: Clock,
}

/// The reports of all sessions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reports(Arc<Inner>);

/// The reports of one session. Dropped without an end, it reports one.
pub(crate) struct Reporter {
    reports: Reports,
    session: String,
    ended: bool,
}

impl Reports {
    /// None yet.
    pub(crate) fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            wake: Notify::new(),
            clock,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins.
    pub(crate) fn open(&self, session: String) -> (Reporter, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(MAX_ORDERS);
        let log = Log {
            events: VecDeque::new(),
            sent: 0,
            numbered: 0,
            waiting: false,
            ended: false,
            unknown: false,
            orders,
            commands: VecDeque::new(),
        };
        self.state().logs.insert(session.clone(), log);
        (
            Reporter {
                reports: self.clone(),
                session,
                ended: false,
            },
            receiver,
        )
    }

    fn put(&self, session: &str, event: Event) {
        let at = self.0.clock.now();
        let at = Timestamp {
            seconds: at.timestamp(),
            nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(0),
        };
        let mut state = self.state();
        let State {
            logs,
            turn,
            ended,
            dropped,
            ..
        } = &mut *state;
        let Some(log) = logs.get_mut(session) else { return };
        if log.ended {
            return;
        }
        let is_end = matches!(event, Event::Ended(_));
        if log.events.len() >= MAX_EVENTS && !is_end {
            // Sent events wait only for their acknowledgement, but they hold the memory too.
            let place = log.events.iter().position(is_talk).unwrap_or(0);
            log.events.remove(place);
            log.sent -= usize::from(place < log.sent);
            *dropped += 1;
        }
        log.events.push_back(SessionEvent {
            media_session_id: session.to_owned(),
            sequence: 0,
            at: Some(at),
            event: Some(event),
        });
        if !log.waiting {
            log.waiting = true;
            turn.push_back(session.to_owned());
        }
        if is_end {
            log.ended = true;
            ended.push_back(session.to_owned());
            if ended.len() > MAX_ENDED
                && let Some(oldest) = ended.pop_front()
            {
                logs.remove(&oldest);
                *dropped += 1;
            }
        }
        drop(state);
        self.0.wake.notify_one();
    }

    fn answer(&self, done: CommandDone) {
        let mut state = self.state();
        if state.done.len() >= MAX_DONE {
            state.done.pop_front();
        }
        state.done.push_back(done);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Resolves when there may be something to send.
    pub(super) async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// A stream begins: the sessions that live, and everything without an acknowledgement is to be sent again.
    pub(super) fn snapshot(&self) -> Vec<String> {
        let mut state = self.state();
        let State { logs, turn, .. } = &mut *state;
        turn.clear();
        for (session, log) in logs.iter_mut() {
            log.sent = 0;
            log.waiting = !log.events.is_empty();
            if log.waiting {
                turn.push_back(session.clone());
            }
        }
        logs.iter()
            .filter(|(_, log)| !log.ended)
            .map(|(session, _)| session.clone())
            .collect()
    }

    /// Whether [`Reports::next`] has something.
    pub(super) fn has_next(&self) -> bool {
        let state = self.state();
        !state.done.is_empty() || !state.turn.is_empty()
    }

    /// Whether everything is acknowledged.
    pub(super) fn is_flushed(&self) -> bool {
        let state = self.state();
        state.done.is_empty() && state.logs.values().all(|log| log.events.is_empty())
    }

    /// The next message for the stream: one event of each session in turn.
    pub(super) fn next(&self) -> Option<AttachEdgeRequest> {
        let mut state = self.state();
        if let Some(done) = state.done.pop_front() {
            return Some(AttachEdgeRequest {
                message: Some(Upward::CommandDone(done)),
            });
        }
        let State { logs, turn, ended, .. } = &mut *state;
        while let Some(session) = turn.pop_front() {
            let Some(log) = logs.get_mut(&session) else { continue };
            let Some(event) = log.events.get_mut(log.sent) else {
                log.waiting = false;
                continue;
            };
            log.sent += 1;
            // Numbered when sent, so that what was dropped before leaves no hole.
            if event.sequence == 0 {
                log.numbered += 1;
                event.sequence = log.numbered;
            }
            let event = event.clone();
            log.waiting = log.sent < log.events.len();
            if log.waiting {
                turn.push_back(session);
            } else if log.unknown && log.ended {
                logs.remove(&session);
                ended.retain(|other| *other != session);
            }
            return Some(AttachEdgeRequest {
                message: Some(Upward::Event(event)),
            });
        }
        None
    }

    /// call-service has everything of a session up to this number.
    pub(super) fn acknowledge(&self, session: &str, sequence: i64) {
        let mut state = self.state();
        let State { logs, ended, .. } = &mut *state;
        let Some(log) = logs.get_mut(session) else { return };
        while log.sent > 0 && log.events.front().is_some_and(|event| event.sequence <= sequence) {
            log.events.pop_front();
            log.sent -= 1;
        }
        if log.ended && log.events.is_empty() {
            logs.remove(session);
            ended.retain(|other| other != session);
        }
    }

    /// A command came. One that was delivered before is answered again, not carried out again.
    pub(super) fn command(&self, command: Command) {
        let Command {
            command_id,
            media_session_id,
            action,
        } = command;
        let order = match action {
            Some(Action::Leave(leave)) => Some(Order::Leave {
                command_id: command_id.clone(),
                leave,
            }),
            Some(Action::Message(message)) => Some(Order::Message {
                command_id: command_id.clone(),
                message,
            }),
            None => None,
        };
        let answer = {
            let mut state = self.state();
            match state.logs.get_mut(&media_session_id).filter(|log| !log.ended) {
                Some(log) if log.commands.contains(&command_id) => Some(true),
                Some(log) if order.is_some_and(|order| log.orders.try_send(order).is_ok()) => {
                    if log.commands.len() >= KNOWN_COMMANDS {
                        log.commands.pop_front();
                    }
                    log.commands.push_back(command_id.clone());
                    None
                }
                _ => Some(false),
            }
        };
        if let Some(done) = answer {
            self.answer(CommandDone { command_id, done });
        }
    }

    /// call-service does not know these sessions.
    pub(super) fn unknown(&self, sessions: &[String]) {
        let mut state = self.state();
        for session in sessions {
            if let Some(log) = state.logs.get_mut(session) {
                log.unknown = true;
                // A full queue means that it has orders enough to end it.
                let _ = log.orders.try_send(Order::Unknown);
            }
        }
    }

    /// How many reports were dropped since this was asked last.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.state().dropped)
    }
}

/// What may be lost in an outage before anything else is.
fn is_talk(event: &SessionEvent) -> bool {
    matches!(
        event.event,
        Some(Event::Transcript(_) | Event::Metadata(_) | Event::Interrupted(_))
    )
}

impl Reporter {
    /// Something happened.
    pub(crate) fn report(&mut self, event: Event) {
        self.ended |= matches!(event, Event::Ended(_));
        self.reports.put(&self.session, event);
    }

    /// A command was carried out, or could not be.
    pub(crate) fn done(&self, command_id: String, done: bool) {
        self.reports.answer(CommandDone { command_id, done });
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if !self.ended {
            let (ended_by, reason) = ("callbridge".to_owned(), "edge_failed".to_owned());
            self.report(Event::Ended(SessionEnded {
                ended_by,
                reason,
                quality: HashMap::new(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use callbridge_proto::agent::v1::{Dtmf, Transcript};

    use super::*;

    fn reports() -> Reports {
        Reports::new(Clock::system())
    }

    fn sent(reports: &Reports) -> Vec<(i64, &'static str)> {
        let mut sent = Vec::new();
        while let Some(message) = reports.next() {
            if let Some(Upward::Event(event)) = message.message {
                let name = match event.event {
                    Some(Event::Ended(_)) => "ended",
                    Some(Event::Dtmf(_)) => "dtmf",
                    Some(Event::Transcript(_)) => "transcript",
                    _ => "other",
                };
                sent.push((event.sequence, name));
            }
        }
        sent
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_with_its_number() {
        let reports = reports();
        let (mut reporter, _orders) = reports.open("media_1".into());
        reporter.report(Event::Dtmf(Dtmf::default()));
        reporter.report(Event::Transcript(Transcript::default()));
        assert_eq!(reports.snapshot(), ["media_1"]);
        assert_eq!(sent(&reports), [(1, "dtmf"), (2, "transcript")]);
        reports.acknowledge("media_1", 1);
        drop(reporter);
        assert_eq!(sent(&reports), [(3, "ended")]);
        assert_eq!(reports.snapshot(), [""; 0]);
        assert_eq!(sent(&reports), [(2, "transcript"), (3, "ended")]);
        assert!(!reports.is_flushed());
        reports.acknowledge("media_1", 3);
        assert!(reports.is_flushed() && reports.state().logs.is_empty() && reports.state().ended.is_empty());
    }

    #[test]
    fn an_outage_costs_talk_and_never_the_end() {
        let reports = reports();
        let (mut reporter, _orders) = reports.open("media_1".into());
        reporter.report(Event::Dtmf(Dtmf::default()));
        for _ in 0..2 * MAX_EVENTS {
            reporter.report(Event::Transcript(Transcript::default()));
        }
        drop(reporter);
        let sent = sent(&reports);
        assert_eq!(sent.len(), MAX_EVENTS + 1);
        assert_eq!((sent[0], sent[MAX_EVENTS]), ((1, "dtmf"), (257, "ended")));
        assert_eq!(reports.take_dropped(), MAX_EVENTS as u64 + 1);
    }

    #[test]
    fn a_command_is_carried_out_once_and_answered_each_time() {
        let reports = reports();
        let (reporter, mut orders) = reports.open("media_1".into());
        let command = |id: &str, session: &str| Command {
            command_id: id.into(),
            media_session_id: session.into(),
            action: Some(Action::Message(Message { json: "{}".into() })),
        };
        let answers = || {
            let mut answers = Vec::new();
            while let Some(AttachEdgeRequest {
                message: Some(Upward::CommandDone(done)),
            }) = reports.next()
            {
                answers.push((done.command_id, done.done));
            }
            answers
        };
        reports.command(command("cmd_1", "media_1"));
        assert!(matches!(orders.try_recv(), Ok(Order::Message { .. })));
        reporter.done("cmd_1".into(), true);
        reports.command(command("cmd_1", "media_1"));
        assert!(orders.try_recv().is_err());
        reports.command(command("cmd_2", "media_2"));
        assert_eq!(
            answers(),
            [("cmd_1".into(), true), ("cmd_1".into(), true), ("cmd_2".into(), false)]
        );
    }
}
