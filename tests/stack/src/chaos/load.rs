//! The clients: each places one call after the other, and repeats each with its key until there is a definite answer.

use std::time::Duration;

use callbridge_proto::call::v1::{PlaceCallRequest, WaitFor, WhenAtCapacity, WhenNumberBusy, place_call_request::From};
use runtime::Tasks;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{
    check::Accepted,
    dice::Dice,
    people,
    pulse::{Pulse, room},
    system::System,
};
use crate::Clients;

/// Side by side.
const CLIENTS: u64 = 12;
/// Between two calls of one client, in milliseconds: about 30 calls a second in all, which leaves a small machine room for
/// the processes that start.
const PAUSE: (u64, u64) = (100, 600);
/// A client waits this long for an answer at most, in milliseconds; many go away sooner, in the middle of a dial.
const PATIENCE: (u64, u64) = (20, 3_000);
/// Between two tries of one call, in milliseconds.
const AGAIN: (u64, u64) = (5, 120);
/// No account has room: its calls first have to end.
const FULL: Duration = Duration::from_millis(50);

/// What clients were told.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Answers that were OK.
    pub(super) accepted: Vec<Accepted>,
    /// Keys without a definite answer.
    pub(super) unanswered: Vec<String>,
    /// Keys that were refused for good.
    pub(super) refused: Vec<(String, String)>,
}

impl Told {
    /// Adds what another client was told.
    pub(super) fn add(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.unanswered.extend(other.unanswered);
        self.refused.extend(other.refused);
    }
}

/// Where calls go.
#[derive(Debug, Clone)]
struct Targets {
    replicas: Vec<Clients>,
    phones: Vec<String>,
    caps: Vec<u64>,
}

/// Cancels after so long, unless the task is stopped before.
pub(super) fn cancel_after(limit: Duration, token: CancellationToken) -> Tasks {
    let late = Tasks::new();
    late.spawn(async move {
        sleep(limit).await;
        token.cancel();
    });
    late
}

/// Running clients.
#[derive(Debug)]
pub(super) struct Load {
    clients: Vec<JoinHandle<Option<Told>>>,
    enough: CancellationToken,
    give_up: CancellationToken,
}

impl Load {
    /// Starts the clients. Keys and choices come from the seed and the part's first round.
    pub(super) fn start(system: &System, pulse: &Pulse, seed: u64, first_round: u64) -> Self {
        let targets = Targets {
            replicas: system.clients.clone(),
            phones: system
                .members
                .iter()
                .map(|member| member.registered.phone_id.clone())
                .collect(),
            caps: system.members.iter().map(|member| member.limits.concurrent).collect(),
        };
        let (enough, give_up) = (CancellationToken::new(), CancellationToken::new());
        let clients = (0..CLIENTS).map(|number| {
            let client = Client {
                targets: targets.clone(),
                pulse: pulse.clone(),
                dice: Dice::new(seed, "client", first_round * CLIENTS + number),
                prefix: format!("{seed}-{first_round}-{number}"),
                enough: enough.clone(),
                give_up: give_up.clone(),
                told: Told::default(),
            };
            system.tasks.spawn(client.run())
        });
        Self {
            clients: clients.collect(),
            enough,
            give_up,
        }
    }

    /// Lets each client finish its call, and returns what all were told.
    pub(super) async fn finish(self, limit: Duration) -> Told {
        self.enough.cancel();
        let late = cancel_after(limit, self.give_up);
        let mut told = Told::default();
        for client in self.clients {
            if let Ok(Some(more)) = client.await {
                told.add(more);
            }
        }
        late.shut_down(Duration::ZERO).await;
        told
    }
}

struct Client {
    targets: Targets,
    pulse: Pulse,
    dice: Dice,
    prefix: String,
    enough: CancellationToken,
    give_up: CancellationToken,
    told: Told,
}

impl Client {
    async fn run(mut self) -> Told {
        let mut number = 0_u64;
        while !self.enough.is_cancelled() {
            let pause = self.dice.millis(PAUSE.0, PAUSE.1);
            let _ = timeout(pause, self.enough.cancelled()).await;
            let Some(phone) = self.phone() else {
                sleep(FULL).await;
                continue;
            };
            number += 1;
            let request = self.request(number, phone);
            self.place(&request).await;
        }
        self.told
    }

    /// A phone whose account has room, beginning at a random one.
    fn phone(&mut self) -> Option<String> {
        let count = self.targets.phones.len();
        let first = usize::try_from(self.dice.below(count as u64)).unwrap_or(0);
        let open = self.pulse.open();
        (0..count)
            .map(|step| (first + step) % count)
            .find(|&at| open.get(at).is_none_or(|open| *open < room(self.targets.caps[at])))
            .map(|at| self.targets.phones[at].clone())
    }

    fn request(&mut self, number: u64, phone: String) -> PlaceCallRequest {
        let wait_for = self
            .dice
            .weighted(&[(60, WaitFor::Queued), (30, WaitFor::Placed), (10, WaitFor::Ended)])
            .unwrap_or_default();
        let busy = self
            .dice
            .weighted(&[(80, WhenNumberBusy::Wait), (20, WhenNumberBusy::Allow)])
            .unwrap_or_default();
        let full = self
            .dice
            .weighted(&[(95, WhenAtCapacity::Wait), (5, WhenAtCapacity::Refuse)])
            .unwrap_or_default();
        PlaceCallRequest {
            idempotency_key: format!("{}-{number}", self.prefix),
            to: people::choose(&mut self.dice),
            from: Some(From::PhoneId(phone)),
            ring_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            time_limit: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            when_number_busy: busy.into(),
            when_at_capacity: full.into(),
            wait_for: wait_for.into(),
            ..PlaceCallRequest::default()
        }
    }

    /// Asks until there is a definite answer; now and then everywhere at once, and once more after it.
    async fn place(&mut self, request: &PlaceCallRequest) {
        let key = &request.idempotency_key;
        let (everywhere, again) = (self.dice.percent(5), self.dice.percent(10));
        let mut times = if again { 2 } else { 1 };
        loop {
            let patience = self.dice.millis(PATIENCE.0, PATIENCE.1);
            let one = self.dice.pick(&self.targets.replicas).cloned();
            let replicas = if everywhere {
                self.targets.replicas.clone()
            } else {
                one.into_iter().collect()
            };
            let mut request = request.clone();
            if self.enough.is_cancelled() {
                // How long to wait is not part of the call.
                request.wait_for = WaitFor::Queued.into();
            }
            let tells = self.enough.is_cancelled() || self.dice.percent(70);
            let tries = replicas
                .iter()
                .map(|replica| ask(replica, request.clone(), patience, tells));
            let (mut answered, mut full) = (false, false);
            for answer in futures_util::future::join_all(tries).await {
                match answer {
                    Ok(call) => {
                        answered = true;
                        let key = key.clone();
                        self.told.accepted.push(Accepted { key, call });
                    }
                    Err(status) if may_come_right(status.code()) => full = status.code() == Code::ResourceExhausted,
                    Err(status) => {
                        let status = format!("{:?}: {}", status.code(), status.message());
                        self.told.refused.push((key.clone(), status));
                        return;
                    }
                }
            }
            if answered {
                times -= 1;
                if times == 0 {
                    return;
                }
            }
            if self.give_up.is_cancelled() {
                // No room is a definite answer to a client that does not want to wait.
                if !answered && !full {
                    self.told.unanswered.push(key.clone());
                }
                return;
            }
            sleep(self.dice.millis(AGAIN.0, AGAIN.1)).await;
        }
    }
}

/// One try. A client that does not tell its deadline goes away without a word when it loses its patience.
pub(super) async fn ask(
    replica: &Clients,
    request: PlaceCallRequest,
    patience: Duration,
    tells: bool,
) -> Result<String, Status> {
    let mut calls = replica.calls();
    let mut request = Request::new(request);
    if tells {
        request.set_timeout(patience);
    }
    let answer = timeout(patience, calls.place_call(request)).await;
    let answer = answer.map_err(|_| Status::deadline_exceeded("the client lost its patience"))??;
    let call = answer.into_inner().call.unwrap_or_default();
    Ok(call.id)
}

/// Whether asking again can help. Of a replica that dies a client hears all of these.
pub(super) fn may_come_right(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
            | Code::ResourceExhausted
    )
}
