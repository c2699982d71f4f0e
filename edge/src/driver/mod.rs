//! The task of one session: does what [`Session`] says, with a socket, an agent's stream and the clock. It decides nothing.

mod end;
mod start;

use std::{future::pending, sync::Arc, time::Duration};

use axum::extract::ws::{Utf8Bytes, WebSocket};
use callbridge_proto::ingress::v1::{ClaimSocketResponse, session_event::Event};
use exotel::stream::bot::Names;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use start::{Started, begin};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::{Instrument as _, Span, field, info_span};

use crate::{
    Edge,
    agents::{self, Link, RETRY_LIMIT, Said, Turn, Unreachable},
    control::{Order, Reporter},
    pending::Place,
    recording::Recording,
    session::{AgentEnd, Effect, Limits, Session, counters::Counters, playout::Plan},
    socket::{Heard, Line, PING_AFTER, Patience, Socket},
};

/// How often a live session's figures are added to the process's.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What opened a socket.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// A call's own token, claimed.
    Claimed {
        /// The session to come.
        claim: ClaimSocketResponse,
        /// The handshake had the query of a diagnosis.
        probed: bool,
    },
    /// An account's credentials.
    Account {
        /// Prefixed.
        account_id: String,
        /// Of its token.
        generation: u32,
    },
}

/// What seldom happens.
enum Rare {
    Started(Result<Started, u16>),
    Dialed(Result<(usize, Link), Unreachable>),
    /// None: there will be no more.
    Order(Option<Order>, mpsc::Receiver<Order>),
    Drain,
    /// Its descriptor is wanted elsewhere.
    Shed,
}

struct Driver {
    /// From `start` on.
    span: Span,
    edge: Arc<Edge>,
    socket: Socket<WebSocket>,
    session: Session,
    ticket: Ticket,
    place: Place,
    /// Call-service is being asked to start the session.
    starting: bool,
    names: Names,
    endpoints: Vec<String>,
    link: Option<Link>,
    reporter: Option<Reporter>,
    /// What seldom happens is looked at only once it has happened, not for every frame.
    rare: FuturesUnordered<BoxFuture<'static, Rare>>,
    recording: Option<Recording>,
    /// The figures that the process has.
    counted: Option<Box<Counters>>,
    count_at: Instant,
    close: Option<(u16, &'static str)>,
    left: bool,
}

/// Runs a session from the upgrade to its end. Its memory is taken here, not while a socket is waited for.
pub(crate) fn run(
    edge: Arc<Edge>,
    socket: WebSocket,
    ticket: Ticket,
    mut place: Place,
) -> impl Future<Output = ()> + Send {
    let limits = Limits {
        start: edge.config.start_limit,
        idle: edge.config.idle_limit,
    };
    let patience = Patience {
        stall: edge.config.stall_limit,
        pong: PING_AFTER,
    };
    let now = Instant::now();
    let draining = edge.sessions.stopping();
    let shed = place.shed();
    let mut driver = Box::new(Driver {
        span: Span::none(),
        socket: Socket::new(socket, now, patience),
        session: Session::new(now, limits),
        edge,
        ticket,
        place,
        starting: false,
        names: Names::default(),
        endpoints: Vec::new(),
        link: None,
        reporter: None,
        rare: FuturesUnordered::from_iter([
            draining.map(|()| Rare::Drain).boxed(),
            shed.map(|()| Rare::Shed).boxed(),
        ]),
        recording: None,
        counted: None,
        count_at: now + COUNT_EVERY,
        close: None,
        left: false,
    });
    // On the heap once: what a future is given is in it twice.
    async move {
        driver.run().await;
        let span = driver.span.clone();
        // Boxed, since it would take its memory from the beginning.
        Box::pin(driver.end()).instrument(span).await;
    }
}

impl Driver {
    async fn run(&mut self) {
        let timer = sleep_until(self.socket.wake());
        tokio::pin!(timer);
        loop {
            self.effects();
            self.record();
            for moment in self.session.moments() {
                self.edge.metrics.moment(moment);
            }
            if self.session.is_over() {
                break;
            }
            let now = Instant::now();
            if now >= self.count_at {
                self.count_at = now + COUNT_EVERY;
                self.count();
            }
            let plan = self.hand_on(now);
            if self.session.has_effect() {
                continue;
            }
            let planned = if let Plan::At(time) = plan { Some(time) } else { None };
            let others = [self.session.wake(), planned].into_iter().flatten();
            let wake = others.fold(self.socket.wake(), Instant::min);
            // One that goes off early costs less than to set it anew for every frame.
            if wake < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(wake);
            }
            let has_event = self.session.has_agent_event();
            tokio::select! {
                heard = self.socket.next(plan == Plan::Send) => self.heard(heard),
                turn = next_turn(self.link.as_mut(), has_event) => self.turn(turn),
                Some(rare) = self.rare.next() => self.rare(rare),
                () = timer.as_mut() => self.tick(),
            }
        }
    }

    /// Adds what the session has counted to the process's figures.
    fn count(&mut self) {
        if self.session.is_started() {
            let counters = self.session.counters();
            let counted = self.counted.get_or_insert_default();
            self.edge.metrics.count(counted, counters);
            Counters::clone_from(counted, counters);
        }
    }

    /// Sends what can go at once, and says what is to be done for the socket then.
    fn hand_on(&mut self, now: Instant) -> Plan {
        if let Some(link) = &mut self.link {
            while self.session.has_agent_event()
                && link.is_ready()
                && let Some(event) = self.session.agent_event()
            {
                link.send(event);
            }
        }
        loop {
            let plan = self.session.plan(now);
            if plan != Plan::Send || !self.socket.is_writable() {
                return plan;
            }
            match self.session.next_text(now) {
                Some(text) => self.socket.send(now, text),
                None => return plan,
            }
        }
    }

    fn rare(&mut self, rare: Rare) {
        let _in = self.span.clone().entered();
        match rare {
            Rare::Started(started) => self.started(started),
            Rare::Dialed(dialed) => self.dialed(dialed),
            Rare::Order(Some(order), orders) => {
                self.order(order);
                self.await_order(orders);
            }
            Rare::Order(None, _) => {}
            Rare::Drain => self.session.drain(),
            Rare::Shed => self.session.shed(),
        }
    }

    fn await_order(&self, mut orders: mpsc::Receiver<Order>) {
        let next = async move {
            let order = orders.recv().await;
            Rare::Order(order, orders)
        };
        self.rare.push(next.boxed());
    }

    fn effects(&mut self) {
        while let Some(effect) = self.session.effect() {
            if matches!(effect, Effect::Begin(_)) {
                self.span = info_span!(
                    parent: None,
                    "session",
                    call.id = field::Empty,
                    media_session.id = field::Empty,
                    ended_by = field::Empty,
                    reason = field::Empty,
                );
            }
            let _in = self.span.clone().entered();
            match effect {
                Effect::Begin(start) => {
                    self.names = Names {
                        stream_sid: start.stream_sid.clone(),
                        call_sid: start.call_sid.clone(),
                        account_sid: start.account_sid.clone(),
                    };
                    if self.edge.recorder.is_some() {
                        self.session.may_record(Instant::now());
                    }
                    let request = self.start_request(start);
                    let edge = Arc::clone(&self.edge);
                    self.starting = true;
                    // A span of its own: whose trace the session's is part of is in the answer.
                    let span = info_span!(parent: None, "session.start", call.id = field::Empty);
                    let starting = begin(edge, request).map(Rare::Started);
                    self.rare.push(starting.instrument(span).boxed());
                }
                Effect::Dial { first, again, start } => {
                    self.link = None;
                    let (agents, endpoints) = (self.edge.agents.clone(), self.endpoints.clone());
                    let limit = if again {
                        RETRY_LIMIT
                    } else {
                        self.edge.config.agent_limit
                    };
                    let opening = agents::Opening {
                        start: *start,
                        names: self.names.clone(),
                    };
                    let dialing =
                        async move { Rare::Dialed(agents.dial(endpoints, first, again, opening, limit).await) };
                    let span = info_span!(parent: &self.span, "agent.dial", again);
                    self.rare.push(dialing.instrument(span).boxed());
                }
                Effect::Report(report) => {
                    self.left |= matches!(report, Event::Leave(_));
                    if let Some(reporter) = &mut self.reporter {
                        reporter.report(report);
                    }
                }
                Effect::Close { code, reason } => self.close = Some((code, reason)),
            }
        }
    }

    /// Hands on what is to be recorded. Never waits.
    fn record(&mut self) {
        if let Some(recording) = &mut self.recording {
            while let Some(piece) = self.session.recorded() {
                recording.put(piece);
            }
        }
    }

    fn heard(&mut self, heard: Heard<Utf8Bytes>) {
        let now = Instant::now();
        match heard {
            Heard::Text(text) => self.session.text(now, &text),
            Heard::Binary(_) => self.session.binary(now),
            Heard::Alive => self.session.alive(now),
            Heard::Closed(_) => self.session.socket_closed(),
            Heard::Broken => self.session.socket_broke(),
            Heard::Violation(code) => self.session.protocol_error(code),
            // What waits is handed on before the next wait.
            Heard::Writable => {}
        }
    }

    fn dialed(&mut self, dialed: Result<(usize, Link), Unreachable>) {
        let now = Instant::now();
        match dialed {
            Ok((endpoint, link)) => {
                self.link = Some(link);
                self.session.agent_connected(now, endpoint);
            }
            Err(Unreachable) => self.session.agent_ended(now, AgentEnd::Unreachable),
        }
    }

    fn turn(&mut self, turn: Turn) {
        let now = Instant::now();
        if let (Turn::Said(said), Some(link)) = (&turn, &mut self.link) {
            let _in = matches!(said, Said::Broken(_)).then(|| self.span.clone().entered());
            link.judge(said);
        }
        match turn {
            // As above.
            Turn::Send => {}
            Turn::Said(Said::Action(action)) => self.session.agent(now, action),
            Turn::Said(Said::Finished) => {
                self.link = None;
                self.session.agent_ended(now, AgentEnd::Finished);
            }
            Turn::Said(Said::Broken(code)) => {
                self.link = None;
                if !self.session.is_over() {
                    tracing::warn!(parent: &self.span, ?code, "the agent's stream broke");
                }
                self.session.agent_ended(now, AgentEnd::Broken);
            }
        }
    }

    fn order(&mut self, order: Order) {
        let now = Instant::now();
        let (command_id, done) = match order {
            Order::Leave { command_id, leave } => {
                self.session.leave(now, leave);
                (command_id, true)
            }
            Order::Message { command_id, message } => (command_id, self.session.message(now, message)),
            Order::Unknown => return self.session.unknown(),
        };
        if let Some(reporter) = &self.reporter {
            reporter.done(command_id, done);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        match self.socket.tick(now) {
            Line::Fine => {}
            Line::NoPong => self.session.missed_pong(),
            Line::Stalled => {
                tracing::warn!(parent: &self.span, "the peer stopped reading; the socket is closed");
                self.session.socket_closed();
            }
        }
        self.session.tick(now);
    }
}

async fn next_turn(link: Option<&mut Link>, has_event: bool) -> Turn {
    match link {
        Some(link) => link.next(has_event).await,
        None => pending().await,
    }
}
