//! The processes of one kind behind a Service, and how a Deployment replaces them: a new one first, and the old one goes only when
//! the new one is ready (maxSurge 1, maxUnavailable 0).

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use runtime::Tasks;
use tokio::time::{Instant, sleep, timeout};

use super::{super::arguments::PieceName, service::Service};
use crate::{
    child::{Child, Death, Spec},
    poll, port,
};

/// A debug build on a busy machine.
const READY: Duration = Duration::from_secs(30);
/// Between two looks at `/readyz`, Kubernetes' one second scaled down.
const PROBE: Duration = Duration::from_millis(50);
/// How long the way from a pod's deletion to the Service takes: so long it still gets new connections.
const PROPAGATION: Duration = Duration::from_millis(700);
/// All live calls end within this after SIGTERM.
const DRAINED: Duration = Duration::from_mins(1);

/// From a pod's deletion to SIGTERM, for the edge; from the end of the propagation, for call-service.
const PRE_STOP: Duration = Duration::from_millis(200);

/// What a Service may lead to.
#[derive(Debug, Clone)]
struct Endpoint {
    address: SocketAddr,
    internal: SocketAddr,
    ready: bool,
    deleted: Option<Instant>,
}

/// A running process.
#[derive(Debug)]
struct Member {
    address: SocketAddr,
    child: Child,
    previous: bool,
}

/// All processes of one kind.
#[derive(Debug)]
pub(super) struct Pool {
    name: PieceName,
    /// Its addresses are filled in.
    template: Spec,
    /// The same piece of an earlier release.
    earlier: Option<PathBuf>,
    service: Service,
    endpoints: Arc<Mutex<Vec<Endpoint>>>,
    members: Vec<Member>,
}

impl Pool {
    /// A pool without processes, whose Service follows what `/readyz` says.
    pub(super) fn new(
        name: PieceName,
        template: &Spec,
        earlier: Option<PathBuf>,
        service: Service,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let endpoints = Arc::<Mutex<Vec<Endpoint>>>::default();
        let client = reqwest::Client::builder().no_proxy().timeout(READY).build()?;
        tasks.spawn(follow(client, service.clone(), Arc::clone(&endpoints)));
        Ok(Self {
            name,
            template: template.clone(),
            earlier,
            service,
            endpoints,
            members: Vec::new(),
        })
    }

    /// Starts one more and waits until it gets connections.
    pub(super) async fn grow(&mut self, previous: bool) -> anyhow::Result<()> {
        let local = || Ok::<_, std::io::Error>(SocketAddr::from((Ipv4Addr::LOCALHOST, port::lasting()?)));
        let (address, internal) = (local()?, local()?);
        let mut spec = self.template.clone();
        if previous {
            spec.program.clone_from(&self.earlier);
            spec.arguments.clear();
        }
        for (name, value) in self.name.addresses().into_iter().zip([address, internal]) {
            spec.settings.insert(name.to_owned(), value.to_string());
        }
        let mut child = spec.start(None)?;
        locked(&self.endpoints).push(Endpoint {
            address,
            internal,
            ready: false,
            deleted: None,
        });
        let mut endpoints = self.service.endpoints();
        let ready = poll(self.name.word(), READY, async || {
            if let Some(death) = child.ended_within(Duration::ZERO).await.map_err(|e| e.to_string())? {
                return Err(format!("it ended: {death:?}"));
            }
            if endpoints.borrow_and_update().contains(&address) {
                Ok(())
            } else {
                Err("it is not ready".to_owned())
            }
        });
        ready
            .await
            .with_context(|| format!("see {}", self.template.log.display()))?;
        self.members.push(Member {
            address,
            child,
            previous,
        });
        Ok(())
    }

    /// Replaces all processes, as a Deployment does; with an earlier release at hand each by one of the other release. Returns
    /// when the old ones have ended, all with exit code 0, and how many there were.
    pub(super) async fn roll(&mut self) -> anyhow::Result<u64> {
        let old: Vec<Member> = self.members.drain(..).collect();
        let count = old.len() as u64;
        let mut leaving = Vec::new();
        for member in old {
            self.grow(self.earlier.is_some() && !member.previous).await?;
            let mut endpoints = locked(&self.endpoints);
            for endpoint in endpoints.iter_mut().filter(|found| found.address == member.address) {
                endpoint.deleted = Some(Instant::now());
            }
            drop(endpoints);
            // They finish side by side with the start of the next one: a pod that ends does not count any more.
            let (service, endpoints) = (self.service.clone(), Arc::clone(&self.endpoints));
            let told = async move {
                // At the latest, however busy those are who look: an endpoint that is late is no fault of a process.
                sleep(PROPAGATION).await;
                publish(&service, &endpoints);
            };
            leaving.push(Tasks::new().spawn(leave(member.child, self.name, told)));
        }
        for left in leaving {
            let left = left.await.context("a process's end was not seen")?;
            left.context("nobody waited for a process")?
                .with_context(|| format!("{}: see {}", self.name.word(), self.template.log.display()))?;
        }
        locked(&self.endpoints).retain(|endpoint| endpoint.deleted.is_none());
        Ok(count)
    }

    /// Kills all processes at one moment; returns how many.
    pub(super) async fn kill(&mut self) -> anyhow::Result<u64> {
        locked(&self.endpoints).clear();
        let mut count = 0;
        for mut member in self.members.drain(..) {
            member.child.kill().await?;
            count += 1;
        }
        Ok(count)
    }

    /// Kills the one that has been there for longest.
    pub(super) async fn kill_one(&mut self) -> anyhow::Result<()> {
        ensure!(!self.members.is_empty(), "there is no {} to kill", self.name.word());
        let mut member = self.members.remove(0);
        member.child.kill().await?;
        locked(&self.endpoints).retain(|endpoint| endpoint.address != member.address);
        Ok(())
    }

    /// Starts so many, and waits until all get connections.
    pub(super) async fn raise(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            self.grow(self.earlier.is_some()).await?;
        }
        Ok(())
    }

    /// Connections that no process took.
    pub(super) fn refused(&self) -> u64 {
        self.service.refused()
    }

    /// The processes, which go on.
    pub(super) fn into_children(self) -> Vec<Child> {
        self.members.into_iter().map(|member| member.child).collect()
    }
}

/// What Kubernetes does with a pod that it has deleted; the grace period is long enough.
async fn leave(mut child: Child, name: PieceName, told: impl Future<Output = ()>) -> anyhow::Result<()> {
    match name {
        // It takes what still comes after SIGTERM (`EDGE_ACCEPT_SECONDS`).
        PieceName::Edge => {
            sleep(PRE_STOP).await;
            child.terminate()?;
            told.await;
        }
        // It does not: its `preStop` is longer than the propagation.
        PieceName::CallService => {
            told.await;
            sleep(PRE_STOP).await;
            child.terminate()?;
        }
    }
    let ended = timeout(DRAINED, child.ended()).await;
    let death = ended.with_context(|| format!("it did not end within {} s of SIGTERM", DRAINED.as_secs()))??;
    ensure!(
        matches!(death, Death::Other(status) if status.success()),
        "it ended otherwise than with exit code 0 after SIGTERM: {death:?}"
    );
    Ok(())
}

/// Looks at all processes for ever, and leads the Service to those that are ready.
async fn follow(client: reqwest::Client, service: Service, endpoints: Arc<Mutex<Vec<Endpoint>>>) {
    loop {
        let known = locked(&endpoints).clone();
        for seen in known.iter().filter(|endpoint| endpoint.deleted.is_none()) {
            let answer = client.get(format!("http://{}/readyz", seen.internal)).send().await;
            let ready = answer.is_ok_and(|answer| answer.status().is_success());
            let mut endpoints = locked(&endpoints);
            for endpoint in endpoints.iter_mut().filter(|found| found.address == seen.address) {
                endpoint.ready = ready;
            }
        }
        publish(&service, &endpoints);
        sleep(PROBE).await;
    }
}

fn publish(service: &Service, endpoints: &Mutex<Vec<Endpoint>>) {
    let endpoints = locked(endpoints);
    let ready = endpoints.iter().filter(|endpoint| endpoint.takes_connections());
    service.lead_to(ready.map(|endpoint| endpoint.address).collect());
}

impl Endpoint {
    fn takes_connections(&self) -> bool {
        // Whether a pod that is deleted is ready does not matter any more, only that not all nodes know of it.
        self.ready && self.deleted.is_none_or(|since| since.elapsed() < PROPAGATION)
    }
}

fn locked(endpoints: &Mutex<Vec<Endpoint>>) -> MutexGuard<'_, Vec<Endpoint>> {
    endpoints.lock().unwrap_or_else(PoisonError::into_inner)
}
