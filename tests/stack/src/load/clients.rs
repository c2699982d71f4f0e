//! Clients of PlaceCall: as many calls as the service takes, or calls at a rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use callbridge_proto::call::v1::{CallState, PlaceCallRequest, WaitFor, place_call_request::From};
use runtime::Tasks;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{Clients, Registered};

/// Connections to the service: a caller has a few.
const CHANNELS: usize = 4;
/// Every call has a number and a key of its own.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Places calls.
#[derive(Clone)]
pub(super) struct Callers {
    clients: Arc<Vec<Clients>>,
    phones: Arc<Vec<String>>,
    tasks: Tasks,
}

impl Callers {
    /// Calls from these phones in turn.
    pub(super) fn new(connect: impl Fn() -> Clients, registered: &[Registered]) -> Self {
        Self {
            clients: Arc::new((0..CHANNELS).map(|_| connect()).collect()),
            phones: Arc::new(
                registered
                    .iter()
                    .map(|registered| registered.phone_id.clone())
                    .collect(),
            ),
            tasks: Tasks::new(),
        }
    }

    /// Places one call and waits until Exotel has it. Returns its key.
    pub(super) async fn place(&self) -> anyhow::Result<String> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let at = usize::try_from(number)?;
        let key = format!("load-{number}");
        let request = PlaceCallRequest {
            idempotency_key: key.clone(),
            to: format!("+9170{number:08}"),
            from: Some(From::PhoneId(self.phones[at % self.phones.len()].clone())),
            wait_for: WaitFor::Placed.into(),
            ..PlaceCallRequest::default()
        };
        let mut calls = self.clients[at % CHANNELS].calls();
        let placed = calls.place_call(request).await.context("PlaceCall")?.into_inner();
        let call = placed.call.context("PlaceCall answered without a call")?;
        if call.state() != CallState::Placed {
            bail!(
                "a call is {} (waits for {:?}) instead of PLACED",
                call.state().as_str_name(),
                call.waiting_reason
            );
        }
        Ok(key)
    }

    /// Calls as fast as so many callers can, each with one call at a time. Returns calls a second.
    pub(super) async fn as_many_as_possible(&self, callers: usize, length: Duration) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let end = begun + length;
        let mut running = Vec::new();
        for _ in 0..callers {
            let this = self.clone();
            running.push(self.tasks.spawn(async move {
                let mut placed = 0_u32;
                while Instant::now() < end {
                    this.place().await?;
                    placed += 1;
                }
                anyhow::Ok(placed)
            }));
        }
        let mut placed = 0;
        for caller in running {
            placed += joined(caller).await?;
        }
        Ok(f64::from(placed) / begun.elapsed().as_secs_f64())
    }

    /// Calls at a rate, whatever the service does. Returns how long each took from when it was due, sorted: a service that is late
    /// is late for all that wait behind.
    pub(super) async fn at_a_rate(&self, per_second: f64, length: Duration) -> anyhow::Result<Vec<Duration>> {
        let every = Duration::from_secs_f64(1.0 / per_second.max(1.0));
        let begun = Instant::now();
        let mut running = Vec::new();
        let mut due = begun;
        while due < begun + length {
            sleep_until(due).await;
            let (this, of_call) = (self.clone(), due);
            running.push(self.tasks.spawn(async move {
                this.place().await?;
                anyhow::Ok(of_call.elapsed())
            }));
            due += every;
        }
        let mut took = Vec::with_capacity(running.len());
        for call in running {
            took.push(joined(call).await?);
        }
        took.sort_unstable();
        Ok(took)
    }
}

async fn joined<T>(task: JoinHandle<Option<anyhow::Result<T>>>) -> anyhow::Result<T> {
    task.await?.context("a caller was dropped")?
}
