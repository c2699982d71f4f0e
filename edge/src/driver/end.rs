//! How a session ends: a goodbye to both sides, and the last report.

use std::time::Duration;

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, timeout};
use tracing::Span;

use super::{
    Driver, Rare,
    start::{Started, place},
};
use crate::{
    agents::{Link, Said, Turn},
    control::Reporter,
    session::{Effect, Opening, Session},
    socket::CLOSE_LIMIT,
};

/// How long an agent may still say something after `Stop`.
const LINGER: Duration = Duration::from_secs(1);
/// How long the closing handshake of a socket may take that was never a call's: its place is wanted.
const NO_CALL_LIMIT: Duration = Duration::from_secs(1);
/// The same of one that was told to go, since descriptors are short.
const SHED_LIMIT: Duration = Duration::from_millis(200);
/// How long the close waits until call-service knows of a leave: the flow asks for its branch right after the close.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

impl Driver {
    /// Says goodbye to both sides, and reports the end.
    pub(super) async fn end(mut self: Box<Self>) {
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
        let limit = match code {
            _ if self.starting || self.session.is_started() => CLOSE_LIMIT,
            1013 => SHED_LIMIT,
            _ => NO_CALL_LIMIT,
        };
        let closing = self.socket.close(code, reason, limit);
        let goodbye = async {
            if self.starting
                && let Some(Ok(Started { response, asked, .. })) = started(&mut self.rare).await
                && let session = response.media_session_id.clone()
                && let Some((reporter, _orders)) = self.edge.reports.open(session.clone())
            {
                let call = response.start.as_ref().map_or("", |start| &start.call_id);
                place(&self.span, &asked, call, &response);
                self.reporter = Some(reporter);
                self.edge.metrics.session_began();
                if response.record_audio {
                    self.edge.refuse_recording(session, "no_audio");
                }
                let opening = Opening {
                    start: response.start.unwrap_or_default(),
                    ..Opening::default()
                };
                self.session.started(Instant::now(), opening);
            }
            let farewell = farewell(&mut self.session, &mut self.link, self.reporter.as_mut());
            let _ = timeout(LINGER, farewell).await;
            self.link = None;
            self.session.finish();
            report(&mut self.session, self.reporter.as_mut());
            if self.session.is_started() {
                let (by, reason) = self.session.end_words();
                Span::current().record("ended_by", by).record("reason", reason);
                tracing::info!(ended_by = by, reason, quality = ?self.session.counters().quality(), "session ended");
                let counted = self.counted.get_or_insert_default();
                self.edge.metrics.count(counted, self.session.counters());
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

/// What becomes of a start that is under way.
async fn started(rare: &mut FuturesUnordered<BoxFuture<'static, Rare>>) -> Option<Result<Started, u16>> {
    while let Some(rare) = rare.next().await {
        if let Rare::Started(started) = rare {
            return Some(started);
        }
    }
    None
}
