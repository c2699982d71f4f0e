//! The control stream: one `AttachEdge` per process. Audio never waits for it; when it breaks, sessions go on and it is
//! attached again (F75).

mod reports;

use std::{future::Future, time::Duration};

use callbridge_proto::ingress::v1::{
    AttachEdgeRequest, AttachEdgeResponse, Heartbeat, Hello, attach_edge_request::Message as Upward,
    attach_edge_response::Message as Downward,
};
pub(crate) use reports::{Order, Reporter, Reports};
use runtime::{Tasks, internal::Readiness};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{ingress::Client, metrics::Metrics};

/// How often call-service hears that the edge lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long call-service may take to answer the Hello.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
/// The first wait before attaching again; it doubles up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// An edge that is without call-service for this long can begin no call: it is not ready until it has attached again.
const UNREADY_AFTER: Duration = Duration::from_secs(15);
/// Messages on their way up; the reports are behind them.
const OUTGOING: usize = 64;

/// Why a control stream is no more.
#[derive(Debug, thiserror::Error)]
enum Detached {
    #[error("call-service refuses the control stream")]
    Refused(#[source] Status),
    #[error("the control stream to call-service broke")]
    Broken(#[source] Status),
    #[error("call-service ended the control stream")]
    Ended,
    #[error("call-service did not welcome this edge within {WELCOME_LIMIT:?}")]
    Slow,
}

/// What the control stream needs.
pub(crate) struct Control {
    pub(crate) client: Client,
    pub(crate) reports: Reports,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) edge_id: String,
    /// The process's: while they stop, an edge that attaches is not ready.
    pub(crate) process: Tasks,
}

impl Control {
    /// Keeps a stream attached until `stopping`, then until everything is acknowledged.
    pub(crate) async fn run(self, stopping: impl Future<Output = ()>) {
        tokio::pin!(stopping);
        let mut stopped = false;
        let mut pause = BACKOFF.0;
        let mut lost_at = Instant::now();
        loop {
            let mut welcomed = false;
            match self
                .attach(stopping.as_mut(), &mut stopped, &mut welcomed, lost_at)
                .await
            {
                Ok(()) => return,
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the control stream is down; live calls go on, and it is attached again"
                ),
            }
            if stopped && self.reports.is_flushed() {
                return;
            }
            if welcomed {
                (pause, lost_at) = (BACKOFF.0, Instant::now());
            } else {
                pause = (pause * 2).min(BACKOFF.1);
            }
            without_call_service(&self.readiness, lost_at, sleep(pause)).await;
        }
    }

    async fn attach(
        &self,
        mut stopping: std::pin::Pin<&mut impl Future<Output = ()>>,
        stopped: &mut bool,
        welcomed: &mut bool,
        lost_at: Instant,
    ) -> Result<(), Detached> {
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let hello = Hello {
            edge_id: self.edge_id.clone(),
            media_session_ids: self.reports.snapshot(),
        };
        // The channel is empty, so there is room.
        let _ = outgoing.try_send(AttachEdgeRequest {
            message: Some(Upward::Hello(hello)),
        });
        let mut client = self.client.clone();
        let attached = async {
            let stream = client
                .attach_edge(ReceiverStream::new(requests))
                .await
                .map_err(Detached::Refused)?;
            let mut stream = stream.into_inner();
            let first = stream
                .message()
                .await
                .map_err(Detached::Broken)?
                .ok_or(Detached::Ended)?;
            Ok((stream, first))
        };
        let welcome = timeout(WELCOME_LIMIT, attached);
        let welcome = without_call_service(&self.readiness, lost_at, welcome).await;
        let (mut stream, first) = welcome.map_err(|_| Detached::Slow)??;
        self.take(first);
        *welcomed = true;
        if !self.process.is_stopping() {
            self.readiness.set(true);
        }
        tracing::info!(edge.id = self.edge_id, "attached to call-service");

        let _attached = self.metrics.attached();

        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if *stopped && self.reports.is_flushed() {
                return Ok(());
            }
            self.metrics.reports_dropped(self.reports.take_dropped());
            let has_next = self.reports.has_next();
            tokio::select! {
                message = stream.message() => match message.map_err(Detached::Broken)? {
                    Some(message) => self.take(message),
                    None => return Err(Detached::Ended),
                },
                permit = outgoing.reserve(), if has_next => match permit {
                    Ok(permit) => if let Some(message) = self.reports.next() {
                        permit.send(message);
                    },
                    Err(_) => return Err(Detached::Ended),
                },
                () = self.reports.woken(), if !has_next => {}
                _ = heartbeat.tick() => {
                    // A full channel says that messages are on their way, which is as good.
                    let heartbeat = Heartbeat { media_session_ids: self.reports.live() };
                    let _ = outgoing.try_send(AttachEdgeRequest { message: Some(Upward::Heartbeat(heartbeat)) });
                }
                () = stopping.as_mut(), if !*stopped => *stopped = true,
            }
        }
    }

    fn take(&self, message: AttachEdgeResponse) {
        match message.message {
            Some(Downward::Welcome(welcome)) => self.reports.unknown(&welcome.unknown_media_session_ids),
            Some(Downward::Ack(ack)) => self.reports.acknowledge(&ack.media_session_id, ack.sequence),
            Some(Downward::Command(command)) => self.reports.command(command),
            None => {}
        }
    }
}

/// Waits, and says meanwhile when the edge has been without call-service for too long.
async fn without_call_service<T>(readiness: &Readiness, lost_at: Instant, wait: impl Future<Output = T>) -> T {
    let too_long = async {
        sleep_until(lost_at + UNREADY_AFTER).await;
        readiness.set(false);
        std::future::pending().await
    };
    tokio::select! {
        done = wait => done,
        never = too_long => never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_edge_without_call_service_is_ready_for_a_while() {
        let readiness = Readiness::default();
        readiness.set(true);
        let lost_at = Instant::now();
        for (wait, ready) in [(10, true), (4, true), (2, false), (1, false)] {
            without_call_service(&readiness, lost_at, sleep(Duration::from_secs(wait))).await;
            assert_eq!(readiness.get(), ready, "after {:?}", lost_at.elapsed());
        }
    }
}
