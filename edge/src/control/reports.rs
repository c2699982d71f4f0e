//! What sessions report until call-service has acknowledged it, and the orders that reach them. Sessions never wait here:
//! a report is put down under a short lock, and `super::attach` carries it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

/// Events of one session without an acknowledgement: minutes of talk. Beyond, the oldest talk goes first.
const MAX_EVENTS: usize = 256;
/// What they may weigh: a thousand sessions in an outage of call-service stay within half a gigabyte.
const MAX_EVENT_BYTES: usize = 512 * 1024;
/// Ended sessions whose end is not acknowledged: an outage of call-service of an hour at a thousand calls.
const MAX_ENDED: usize = 4096;
/// Orders that wait for one session; it takes them as fast as it turns.
const MAX_ORDERS: usize = 32;
/// Ids of a session's latest commands, to know one that is delivered again.
const KNOWN_COMMANDS: usize = 64;
/// Commands that came before their session, and how long they are kept: call-service may send one as soon as it has
/// committed the session's start, which this edge learns a moment later, and then waits for the greeting.
const MAX_EARLY: usize = 64;
const EARLY_LIMIT: Duration = Duration::from_secs(10);
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
    /// Their size.
    bytes: usize,
    /// How many of them are on the current stream.
    sent: usize,
    /// The number of the latest event that was sent.
    numbered: i64,
    waiting: bool,
    ended: bool,
    /// call-service does not know the session, so it may not acknowledge anything of it.
    unknown: bool,
    orders: mpsc::Sender<Order>,
    /// The latest ones, each with what came of it once that is known.
    commands: VecDeque<(String, Option<bool>)>,
}

#[derive(Default)]
struct State {
    logs: HashMap<String, Log>,
    /// Sessions with something to send, in turn.
    turn: VecDeque<String>,
    ended: VecDeque<String>,
    done: VecDeque<CommandDone>,
    /// Commands of sessions that are not open yet, each with the end of its wait, in order.
    early: VecDeque<(Instant, Command)>,
    dropped: u64,
}

struct Inner {
    state: Mutex<State>,
    wake: Notify,
    acknowledged: Notify,
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
            acknowledged: Notify::new(),
            clock,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins, with the commands that came before it. None: it is here already, by another socket (F63).
    pub(crate) fn open(&self, session: String) -> Option<(Reporter, mpsc::Receiver<Order>)> {
        let (orders, receiver) = mpsc::channel(MAX_ORDERS);
        let log = Log {
            events: VecDeque::new(),
            bytes: 0,
            sent: 0,
            numbered: 0,
            waiting: false,
            ended: false,
            unknown: false,
            orders,
            commands: VecDeque::new(),
        };
        let mut state = self.state();
        match state.logs.entry(session.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) => place.insert(log),
        };
        for (until, command) in std::mem::take(&mut state.early) {
            if command.media_session_id == session {
                state.command(command);
            } else {
                state.early.push_back((until, command));
            }
        }
        drop(state);
        // One of them may have an answer already.
        self.0.wake.notify_one();
        let reports = self.clone();
        let reporter = Reporter {
            reports,
            session,
            ended: false,
        };
        Some((reporter, receiver))
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
        let event = SessionEvent {
            media_session_id: session.to_owned(),
            sequence: 0,
            at: Some(at),
            event: Some(event),
        };
        let bytes = size(&event);
        while !is_end && (log.events.len() >= MAX_EVENTS || log.bytes + bytes > MAX_EVENT_BYTES) {
            // Sent events wait only for their acknowledgement, but they hold the memory too.
            let place = log.events.iter().position(is_talk).unwrap_or(0);
            let Some(oldest) = log.events.remove(place) else { break };
            log.bytes -= size(&oldest);
            log.sent -= usize::from(place < log.sent);
            *dropped += 1;
        }
        log.bytes += bytes;
        log.events.push_back(event);
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

    fn carried_out(&self, session: &str, done: CommandDone) {
        let mut state = self.state();
        let log = state.logs.get_mut(session);
        if let Some(known) = log.and_then(|log| log.outcome(&done.command_id)) {
            *known = Some(done.done);
        }
        state.answer(done);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Resolves when there may be something to send.
    pub(super) async fn woken(&self) {
        let lapse = self.state().early.front().map(|(until, _)| *until);
        let lapsed = async {
            match lapse {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.0.wake.notified() => {}
            () = lapsed => {}
        }
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
        living(logs)
    }

    /// The sessions that live.
    pub(super) fn live(&self) -> Vec<String> {
        living(&self.state().logs)
    }

    /// Whether [`Reports::next`] has something.
    pub(super) fn has_next(&self) -> bool {
        let mut state = self.state();
        state.lapse(Instant::now());
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
            log.bytes -= log.events.pop_front().map_or(0, |event| size(&event));
            log.sent -= 1;
        }
        if log.ended && log.events.is_empty() {
            logs.remove(session);
            ended.retain(|other| other != session);
        }
        drop(state);
        self.0.acknowledged.notify_waiters();
    }

    /// A command came. One that was delivered before is answered again, not carried out again; one that is before its
    /// session waits for it.
    pub(super) fn command(&self, command: Command) {
        let mut state = self.state();
        if state.logs.contains_key(&command.media_session_id) {
            state.command(command);
        } else if state
            .early
            .iter()
            .all(|(_, known)| known.command_id != command.command_id)
        {
            if state.early.len() < MAX_EARLY {
                state.early.push_back((Instant::now() + EARLY_LIMIT, command));
            } else {
                state.refuse(command);
            }
        }
        drop(state);
        self.0.wake.notify_one();
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

impl Log {
    /// What came of a command, if it is among the latest.
    fn outcome(&mut self, command: &str) -> Option<&mut Option<bool>> {
        let known = self.commands.iter_mut().find(|(id, _)| id == command);
        known.map(|(_, outcome)| outcome)
    }
}

impl State {
    fn answer(&mut self, done: CommandDone) {
        if self.done.len() >= MAX_DONE {
            self.done.pop_front();
        }
        self.done.push_back(done);
    }

    fn refuse(&mut self, command: Command) {
        self.answer(CommandDone {
            command_id: command.command_id,
            done: false,
        });
    }

    /// Gives a command to its session. An answer that is not known yet comes from there.
    fn command(&mut self, command: Command) {
        let Some(log) = self.logs.get_mut(&command.media_session_id) else {
            return self.refuse(command);
        };
        let ended = log.ended;
        match log.outcome(&command.command_id).copied() {
            Some(Some(done)) => {
                let command_id = command.command_id;
                return self.answer(CommandDone { command_id, done });
            }
            Some(None) if !ended => return,
            _ => {}
        }
        let command_id = command.command_id.clone();
        let order = match command.action.clone() {
            Some(Action::Leave(leave)) => Some(Order::Leave { command_id, leave }),
            Some(Action::Message(message)) => Some(Order::Message { command_id, message }),
            None => None,
        };
        if ended || order.is_none_or(|order| log.orders.try_send(order).is_err()) {
            return self.refuse(command);
        }
        if log.commands.len() >= KNOWN_COMMANDS {
            log.commands.pop_front();
        }
        log.commands.push_back((command.command_id, None));
    }

    /// Answers the commands whose session did not come.
    fn lapse(&mut self, now: Instant) {
        while self.early.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, command)) = self.early.pop_front() {
                self.refuse(command);
            }
        }
    }
}

/// What an event counts for. Its number is left out: it is given later.
fn size(event: &SessionEvent) -> usize {
    event.media_session_id.len() + event.event.as_ref().map_or(0, Event::encoded_len)
}

fn living(logs: &HashMap<String, Log>) -> Vec<String> {
    logs.iter()
        .filter(|(_, log)| !log.ended)
        .map(|(session, _)| session.clone())
        .collect()
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

    /// Resolves when call-service has everything that was reported so far.
    pub(crate) async fn acknowledged(&self) {
        loop {
            let news = self.reports.0.acknowledged.notified();
            let mut news = std::pin::pin!(news);
            // Before the look, so that what comes between the look and the wait is not missed.
            news.as_mut().enable();
            let waits = self
                .reports
                .state()
                .logs
                .get(&self.session)
                .is_some_and(|log| !log.events.is_empty());
            if !waits {
                return;
            }
            news.await;
        }
    }

    /// A command was carried out, or could not be.
    pub(crate) fn done(&self, command_id: String, done: bool) {
        let done = CommandDone { command_id, done };
        self.reports.carried_out(&self.session, done);
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
mod tests;
