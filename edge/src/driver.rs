//! The task of one session: does what [`Session`] says, with a socket, an agent's stream and the clock. It decides nothing.

use std::{future::pending, sync::Arc, time::Duration};

use axum::extract::ws::{Utf8Bytes, WebSocket};
use bytes::Bytes;
use callbridge_proto::ingress::v1::{
    ClaimSocketResponse, StartSessionRequest, StartSessionResponse, session_event::Event,
};
use exotel::stream::bot::Names;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use opentelemetry::trace::TraceContextExt as _;
use runtime::telemetry;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tonic::Code;
use tracing::{Instrument as _, Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    Edge,
    agents::{self, Link, RETRY_LIMIT, Said, Turn, Unreachable},
    control::{Order, Reporter},
    ingress::within,
    recording::Recording,
    session::{AgentEnd, Effect, Limits, Opening, Session, playout::Plan, tuning::Tuning},
    socket::{Heard, Line, PING_AFTER, Patience, Socket},
};

/// How long call-service may take to start a session; the person hears nothing meanwhile.
const START_BUDGET: Duration = Duration::from_secs(4);
/// How long the agent's start waits for a greeting that is not in memory yet.
const GREETING_LIMIT: Duration = Duration::from_secs(1);
/// How long an agent may still say something after `Stop`.
const LINGER: Duration = Duration::from_secs(1);
/// How long the close waits until call-service knows of a leave: the flow asks for its branch right after the close.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);
/// A timer that is far away.
const NEVER: Duration = Duration::from_hours(1);

/// What opened a socket.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// A call's own token, claimed.
    Claimed(ClaimSocketResponse),
    /// An account's credentials.
    Account {
        /// Prefixed.
        account_id: String,
        /// Of its token.
        generation: u32,
    },
}

struct Started {
    response: StartSessionResponse,
    /// PCM at Exotel's rate.
    greeting: Option<Bytes>,
}

/// What seldom happens.
enum Rare {
    Started(Result<Started, u16>),
    Dialed(Result<(usize, Link), Unreachable>),
    /// None: there will be no more.
    Order(Option<Order>, mpsc::Receiver<Order>),
    Drain,
}

struct Driver {
    span: Span,
    edge: Arc<Edge>,
    socket: Socket<WebSocket>,
    session: Session,
    ticket: Ticket,
    pending: Option<OwnedSemaphorePermit>,
    /// Call-service is being asked to start the session.
    starting: bool,
    names: Names,
    endpoints: Vec<String>,
    link: Option<Link>,
    reporter: Option<Reporter>,
    /// What seldom happens is looked at only once it has happened, not for every frame.
    rare: FuturesUnordered<BoxFuture<'static, Rare>>,
    recording: Option<Recording>,
    close: Option<(u16, &'static str)>,
    left: bool,
}

/// Runs a session from the upgrade to its end. Its memory is taken here, not while a socket is waited for.
pub(crate) fn run(
    edge: Arc<Edge>,
    socket: WebSocket,
    ticket: Ticket,
    pending: OwnedSemaphorePermit,
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
    let driver = Driver {
        span: info_span!(parent: None, "session", call.id = field::Empty, media_session.id = field::Empty, reason = field::Empty),
        socket: Socket::new(socket, now, patience),
        session: Session::new(now, limits),
        edge,
        ticket,
        pending: Some(pending),
        starting: false,
        names: Names::default(),
        endpoints: Vec::new(),
        link: None,
        reporter: None,
        rare: FuturesUnordered::from_iter([draining.map(|()| Rare::Drain).boxed()]),
        recording: None,
        close: None,
        left: false,
    };
    Box::pin(driver.run())
}

impl Driver {
    async fn run(mut self) {
        let timer = sleep_until(Instant::now() + NEVER);
        tokio::pin!(timer);
        loop {
            self.effects();
            self.record();
            if self.session.is_over() {
                break;
            }
            let now = Instant::now();
            let plan = self.hand_on(now);
            if self.session.has_effect() {
                continue;
            }
            let planned = if let Plan::At(time) = plan { Some(time) } else { None };
            let wake = [self.session.wake(), planned, Some(self.socket.wake())]
                .into_iter()
                .flatten()
                .min();
            let wake = wake.unwrap_or(now + NEVER);
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
        let span = self.span.clone();
        // Boxed, since it would take its memory from the beginning.
        Box::pin(self.end()).instrument(span).await;
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
                    let starting = begin(edge, request).map(Rare::Started);
                    self.rare.push(starting.instrument(self.span.clone()).boxed());
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
                    self.rare.push(dialing.instrument(self.span.clone()).boxed());
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

    /// The recording of a session, if it is to have one and can.
    fn recording(&self, response: &StartSessionResponse) -> Option<Recording> {
        if !response.record_audio {
            return None;
        }
        let (call, session) = (response.start.as_ref(), response.media_session_id.clone());
        let call = call.map_or("", |start| &start.call_id);
        if let Some(recorder) = &self.edge.recorder {
            return Some(recorder.begin(call, &session, self.session.rate()));
        }
        self.edge.refuse_recording(session, "no_spool");
        None
    }

    fn start_request(&self, start: exotel::stream::Start) -> StartSessionRequest {
        let mut request = StartSessionRequest {
            edge_id: self.edge.id.clone(),
            stream_sid: start.stream_sid,
            call_sid: start.call_sid,
            account_sid: start.account_sid,
            from: start.from.raw,
            to: start.to.raw,
            call_id: start.custom_parameters.get("call_id").cloned().unwrap_or_default(),
            sample_rate: start.sample_rate,
            ..StartSessionRequest::default()
        };
        match &self.ticket {
            Ticket::Claimed(claim) => {
                request.media_session_id.clone_from(&claim.media_session_id);
                request.claim = claim.claim;
            }
            Ticket::Account { account_id, generation } => {
                request.account_id.clone_from(account_id);
                request.token_generation = *generation;
            }
        }
        request
    }

    fn heard(&mut self, heard: Heard<Utf8Bytes>) {
        let now = Instant::now();
        match heard {
            Heard::Text(text) => self.session.text(now, &text),
            Heard::Binary => self.session.binary(now),
            Heard::Alive => self.session.alive(now),
            Heard::Closed(_) => self.session.socket_closed(),
            Heard::Broken => self.session.socket_broke(),
            Heard::Violation(code) => self.session.protocol_error(code),
            Heard::Writable => {
                if let Some(text) = self.session.next_text(now) {
                    self.socket.send(now, text);
                }
            }
        }
    }

    fn started(&mut self, started: Result<Started, u16>) {
        self.starting = false;
        self.pending = None;
        let Started { response, greeting } = match started {
            Ok(started) => started,
            Err(code) => return self.session.refused(code),
        };
        let Some((reporter, orders)) = self.edge.reports.open(response.media_session_id.clone()) else {
            tracing::warn!("another socket has this session");
            return self.session.refused(1008);
        };
        let now = Instant::now();
        self.recording = self.recording(&response);
        let start = response.start.unwrap_or_default();
        self.span.record("call.id", &start.call_id);
        self.span.record("media_session.id", &response.media_session_id);
        self.span.add_link(
            telemetry::context_of(&response.traceparent)
                .span()
                .span_context()
                .clone(),
        );
        tracing::info!("session started");
        self.reporter = Some(reporter);
        self.await_order(orders);
        self.edge.metrics.session_began();
        self.endpoints = response.agent_endpoints;
        let left = match (response.ends_in, response.ends_at) {
            (Some(left), _) => Some(left.seconds),
            // A call-service of the release before says only when, which this machine's clock may be wrong about.
            (None, Some(at)) => i64::try_from(self.edge.clock.unix_seconds())
                .ok()
                .map(|unix| at.seconds - unix),
            (None, None) => None,
        };
        let ends_at = left.map(|left| now + Duration::from_secs(u64::try_from(left).unwrap_or(0)));
        let agent_rate = match response.agent_sample_rate {
            rate @ (8000 | 16_000 | 24_000) => rate,
            _ => 8000,
        };
        let opening = Opening {
            start,
            endpoints: self.endpoints.len(),
            agent_rate,
            tuning: response.audio.as_ref().map(Tuning::from).unwrap_or_default(),
            greeting,
            ends_at,
            record: self.recording.is_some(),
        };
        self.session.started(now, opening);
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
            Turn::Send => {
                if let (Some(link), Some(event)) = (&mut self.link, self.session.agent_event()) {
                    link.send(event);
                }
            }
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

    /// Says goodbye to both sides, and reports the end.
    async fn end(mut self) {
        self.effects();
        // Now, and not once the goodbyes are said.
        let recorded = self.session.end_recording(Instant::now());
        self.record();
        if let (Some(recording), Some((samples, dropped))) = (self.recording.take(), recorded) {
            recording.end(samples, dropped);
        }
        let (code, reason) = self.close.unwrap_or((1000, ""));
        if let (true, Some(reporter)) = (self.left, &self.reporter) {
            // In vain while call-service is away: then the flow takes its first branch.
            let _ = timeout(LEAVE_LIMIT, reporter.acknowledged()).await;
        }
        // `start` may have been taken although the peer is gone: then the end is to be reported.
        let closing = self.socket.close(code, reason);
        let goodbye = async {
            if self.starting
                && let Some(Ok(Started { response, .. })) = started(&mut self.rare).await
                && let session = response.media_session_id.clone()
                && let Some((reporter, _orders)) = self.edge.reports.open(response.media_session_id)
            {
                self.reporter = Some(reporter);
                self.edge.metrics.session_began();
                if response.record_audio {
                    self.edge.refuse_recording(session, "no_audio");
                }
                let (start, endpoints) = (response.start.unwrap_or_default(), response.agent_endpoints.len());
                let opening = Opening {
                    start,
                    endpoints,
                    agent_rate: 8000,
                    tuning: Tuning::default(),
                    greeting: None,
                    ends_at: None,
                    record: false,
                };
                self.session.started(Instant::now(), opening);
            }
            self.pending = None;
            let farewell = farewell(&mut self.session, &mut self.link, self.reporter.as_mut());
            let _ = timeout(LINGER, farewell).await;
            self.link = None;
            self.session.finish();
            report(&mut self.session, self.reporter.as_mut());
            if self.session.is_started() {
                let (by, reason) = self.session.end_words();
                Span::current().record("reason", reason);
                tracing::info!(ended_by = by, reason, quality = ?self.session.counters().quality(), "session ended");
                self.edge.metrics.session_ended(reason, self.session.counters());
            }
            drop(self.reporter.take());
        };
        tokio::join!(closing, goodbye);
    }
}

/// Sends the agent what still waits for it, `Stop` last, and hears it out.
async fn farewell(session: &mut Session, link: &mut Option<Link>, mut reporter: Option<&mut Reporter>) {
    loop {
        let Some(open) = link.as_mut() else { return };
        let has_event = session.has_agent_event();
        if !has_event {
            open.close();
        }
        let turn = open.next(has_event).await;
        if let Turn::Said(said) = &turn {
            open.judge(said);
        }
        match turn {
            Turn::Send => {
                if let Some(event) = session.agent_event() {
                    open.send(event);
                }
            }
            Turn::Said(Said::Action(action)) => {
                session.agent(Instant::now(), action);
                report(session, reporter.as_deref_mut());
            }
            Turn::Said(Said::Finished) => return,
            Turn::Said(Said::Broken(_)) => *link = None,
        }
    }
}

fn report(session: &mut Session, mut reporter: Option<&mut Reporter>) {
    while let Some(effect) = session.effect() {
        if let (Effect::Report(report), Some(reporter)) = (effect, reporter.as_deref_mut()) {
            reporter.report(report);
        }
    }
}

/// Asks call-service to begin the session, and has its greeting at hand. The error is a close code.
async fn begin(edge: Arc<Edge>, request: StartSessionRequest) -> Result<Started, u16> {
    let answer = within(START_BUDGET, START_BUDGET, || {
        let (mut client, request) = (edge.ingress.clone(), request.clone());
        async move { client.start_session(request).await }
    });
    let rate = request.sample_rate;
    let response: StartSessionResponse = answer.await.map_err(|status| {
        tracing::warn!(code = ?status.code(), "call-service does not start the session");
        match status.code() {
            Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument => 1008,
            _ => 1013_u16,
        }
    })?;
    let hash = &response.greeting_sha256;
    let greeting = if hash.is_empty() {
        None
    } else {
        match timeout(GREETING_LIMIT, edge.greetings.pcm(hash, rate)).await {
            Ok(Ok(greeting)) => Some(greeting),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the greeting is not played");
                None
            }
            Err(_) => {
                tracing::warn!("the greeting did not come in time and is not played");
                None
            }
        }
    };
    Ok(Started { response, greeting })
}

async fn next_turn(link: Option<&mut Link>, has_event: bool) -> Turn {
    match link {
        Some(link) => link.next(has_event).await,
        None => pending().await,
    }
}

/// What becomes of a start that is under way.
async fn started(rare: &mut FuturesUnordered<BoxFuture<'static, Rare>>) -> Option<Result<Started, u16>> {
    while let Some(rare) = rare.next().await {
        if let Rare::Started(started) = rare {
            return Some(started);
        }
    }
    None
}
