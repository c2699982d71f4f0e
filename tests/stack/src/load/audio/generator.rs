//! Calls in real time from a thread of its own, so that what it costs is nobody else's, and nobody's work makes it late.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, thread, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinSet, LocalSet, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::transport::{Channel, Endpoint};

use super::{
    cores,
    direct::{self, Direct},
    histogram::Histogram,
    phone::{self, Line, Phone},
    room::{Caller, Room},
};
use crate::pattern::Counts;

/// Calls that are being set up at one time.
const OPENINGS: usize = 16;
/// A call is up by then, or the run has failed.
const UP: Duration = Duration::from_secs(30);
/// How long the last echoes may take.
const LAST_ECHO: Duration = Duration::from_secs(3);
/// Between two looks whether they are here.
const LOOK: Duration = Duration::from_millis(20);
/// What hangs up has this long until the server has read it.
const GOODBYE: Duration = Duration::from_millis(200);
/// Chunks that are sent before the calls may listen again, where the generator is behind.
const AT_ONCE: u32 = 32;
/// Connections that streams without an edge share.
const CHANNELS: usize = 4;

/// Whom to call.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// A WebSocket.
    Socket(Line),
    /// An agent over gRPC.
    Agent(SocketAddr),
}

/// What is to be generated.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Whom to call.
    pub(super) target: Target,
    /// How many calls.
    pub(super) streams: usize,
    /// The length of a chunk.
    pub(super) chunk: Duration,
    /// Where the thread runs; anywhere when empty.
    pub(super) cores: Vec<usize>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Heard {
    /// Of all audio, from the first call on.
    pub(super) counts: Counts,
    /// From a chunk's last byte in to the first byte of its echo out.
    pub(super) latency: Histogram,
    /// How late chunks were sent.
    pub(super) lateness: Histogram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unmeasured,
    Measuring,
    Ending,
}

/// A running generator.
pub(super) struct Generator {
    phase: watch::Sender<Phase>,
    up: watch::Receiver<usize>,
    ended: oneshot::Receiver<anyhow::Result<Heard>>,
}

impl Generator {
    /// Starts to set the calls up.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(super) fn start(plan: Plan) -> anyhow::Result<Self> {
        let (phase, phases) = watch::channel(Phase::Unmeasured);
        let (up_count, up) = watch::channel(0);
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("generator".to_owned()).spawn(move || {
            // Nobody waits any more when the run has failed elsewhere.
            let _ = end.send(run(&plan, phases, up_count));
        })?;
        Ok(Self { phase, up, ended })
    }

    /// Waits until so many calls are up, or the generator has failed. False when it has ended.
    pub(super) async fn are_up(&mut self, streams: usize) -> bool {
        self.up.wait_for(|up| *up >= streams).await.is_ok()
    }

    /// How many calls are up.
    pub(super) fn up(&self) -> usize {
        *self.up.borrow()
    }

    /// From now on times are taken.
    pub(super) fn measure(&self) {
        self.phase.send_replace(Phase::Measuring);
    }

    /// From now on none are.
    pub(super) fn rest(&self) {
        self.phase.send_replace(Phase::Unmeasured);
    }

    /// Waits for the end, which comes by itself only when a call fails.
    ///
    /// # Errors
    /// The first call's that failed.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.ended).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) | Err(_) => anyhow::anyhow!("the generator ended by itself"),
        }
    }

    /// Hears the calls out and ends them.
    ///
    /// # Errors
    /// The first call's that failed.
    pub(super) async fn end(self) -> anyhow::Result<Heard> {
        self.phase.send_replace(Phase::Ending);
        self.ended.await.context("the generator panicked")?
    }
}

fn run(plan: &Plan, phases: watch::Receiver<Phase>, up: watch::Sender<usize>) -> anyhow::Result<Heard> {
    cores::pin(&plan.cores)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, generate(plan, phases, up))
}

/// An open call.
#[derive(Clone)]
enum Call {
    Phone(Rc<RefCell<Phone>>),
    Direct(Rc<RefCell<Direct>>),
}

impl Call {
    fn say(&self, now: Instant) -> anyhow::Result<bool> {
        match self {
            Self::Phone(phone) => phone.borrow_mut().say(now),
            Self::Direct(direct) => direct.borrow_mut().say(now),
        }
    }

    fn ask<T>(&self, what: impl FnOnce(&Caller) -> T) -> T {
        match self {
            Self::Phone(phone) => what(&phone.borrow().caller),
            Self::Direct(direct) => what(&direct.borrow().caller),
        }
    }
}

/// The calls by their number; none where one is not open yet.
type Calls = Rc<RefCell<Vec<Option<Call>>>>;

async fn generate(plan: &Plan, mut phases: watch::Receiver<Phase>, up: watch::Sender<usize>) -> anyhow::Result<Heard> {
    let room = Room::new(plan.chunk, OPENINGS, up);
    let calls: Calls = Rc::new(RefCell::new(vec![None; plan.streams]));
    let channels = channels(&plan.target)?;
    let mut running = JoinSet::new();
    for number in 0..plan.streams {
        let (room, calls, target) = (Rc::clone(&room), Rc::clone(&calls), plan.target.clone());
        let channel = channels.get(number % CHANNELS).cloned();
        running.spawn_local(async move {
            let done = call(&room, &calls, number, &target, channel).await;
            done.with_context(|| format!("call {number}"))
        });
    }
    let pace = pace(&room, &calls);
    tokio::pin!(pace);
    loop {
        tokio::select! {
            Some(ended) = running.join_next() => ended.context("a call panicked")??,
            failed = &mut pace => failed?,
            changed = phases.changed() => {
                changed.context("nobody waits for the calls")?;
                match *phases.borrow_and_update() {
                    Phase::Unmeasured => room.since.set(None),
                    Phase::Measuring => room.since.set(Some(Instant::now())),
                    Phase::Ending => break,
                }
            }
        }
    }
    let all: Vec<Call> = calls.borrow().iter().flatten().cloned().collect();
    let last = async {
        while !all.iter().all(|call| call.ask(Caller::is_settled)) {
            sleep(LOOK).await;
        }
    };
    // What is not here by then is lost.
    let _ = timeout(LAST_ECHO, last).await;
    let counts = all.iter().map(|call| call.ask(Caller::close));
    let counts = counts.fold(Counts::default(), Counts::and);
    for call in &all {
        if let Call::Phone(phone) = call {
            // The server may be gone.
            let _ = phone.borrow_mut().hang_up();
        }
    }
    sleep(GOODBYE).await;
    Ok(Heard {
        counts,
        latency: room.latency.take(),
        lateness: room.lateness.take(),
    })
}

fn channels(target: &Target) -> anyhow::Result<Vec<Channel>> {
    let Target::Agent(address) = target else {
        return Ok(Vec::new());
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    Ok((0..CHANNELS).map(|_| endpoint.connect_lazy()).collect())
}

/// One call, from its set-up to an end that nobody asked for.
async fn call(
    room: &Rc<Room>,
    calls: &Calls,
    number: usize,
    target: &Target,
    channel: Option<Channel>,
) -> anyhow::Result<()> {
    let place = room.openings.acquire().await?;
    let keep = |call: &Call| {
        if let Some(slot) = calls.borrow_mut().get_mut(number) {
            *slot = Some(call.clone());
        }
    };
    let (call, mut listening): (Call, std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>>>>) =
        match (target, channel) {
            (Target::Socket(line), _) => {
                let phone = timeout(UP, Phone::call(line, room, number)).await??;
                (
                    Call::Phone(Rc::clone(&phone)),
                    Box::pin(phone::listen(phone, Rc::clone(room))),
                )
            }
            (Target::Agent(_), Some(channel)) => {
                let (direct, answers) = timeout(UP, Direct::call(channel, room, number)).await??;
                (
                    Call::Direct(Rc::clone(&direct)),
                    Box::pin(direct::listen(direct, answers)),
                )
            }
            (Target::Agent(_), None) => anyhow::bail!("there is no connection"),
        };
    keep(&call);
    let up = async {
        let mut ups = room.up.subscribe();
        // Any call's coming up wakes this one, which is well while only a few are awaited.
        while !call.ask(Caller::is_up) {
            if ups.changed().await.is_err() {
                break;
            }
        }
    };
    let up = tokio::select! {
        up = timeout(UP, up) => up,
        ended = &mut listening => return ended,
    };
    ensure!(up.is_ok(), "nothing was heard within {} s", UP.as_secs());
    drop(place);
    listening.await
}

/// Says all calls' chunks when they are due, evenly spread over the length of a chunk.
async fn pace(room: &Room, calls: &Calls) -> anyhow::Result<()> {
    let begun = Instant::now();
    let streams = calls.borrow().len();
    let due = |turn: u64| {
        let nanos = room.chunk.as_nanos() * u128::from(turn) / streams.max(1) as u128;
        begun + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    };
    for turn in 0.. {
        let (at, mut now) = (due(turn), Instant::now());
        if at > now {
            sleep_until(at).await;
            now = Instant::now();
        } else if turn % u64::from(AT_ONCE) == 0 {
            yield_now().await;
        }
        let call = usize::try_from(turn % streams as u64)
            .ok()
            .and_then(|number| calls.borrow().get(number).cloned().flatten());
        if let Some(call) = call
            && call.say(now)?
        {
            room.sends(at, now);
        }
    }
    Ok(())
}
