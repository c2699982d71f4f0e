//! Calls on which people talk while processes are replaced or killed: each says samples of which every one is known, the agent
//! echoes them, and what comes back is compared.

mod callers;
mod cut;
mod desk;
mod detach;
mod pool;
mod rolling;
mod service;
mod sound;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

pub(super) use self::service::Service;
use self::{callers::Callers, pool::Pool};
use super::{
    arguments::{PieceName, What},
    check::Window,
    figures::Figures,
    part::{Broken, Stage},
    system::System,
};
use crate::poll;

/// Processes of each kind.
const REPLICAS: usize = 2;
/// Until most calls are up; a debug build on a busy machine.
const UP: Duration = Duration::from_secs(90);
/// Calls end by themselves within this.
const LAST_CALLS: Duration = Duration::from_mins(1);

/// The processes behind the Services.
#[derive(Debug)]
pub(super) struct Fleet {
    edges: Pool,
    call_services: Pool,
}

impl Fleet {
    /// Starts all of them; of an earlier release, when there is one.
    pub(super) async fn start(system: &System, previous: Option<&Path>) -> anyhow::Result<Self> {
        let front = system.front.as_ref().context("there is no Service")?;
        let replica = system.replicas.first().context("there is no replica")?;
        let earlier = |name: PieceName| previous.map(|folder| folder.join(name.word()));
        let pool = |name, template, service: &Service| {
            Pool::new(name, template, earlier(name), service.clone(), &system.tasks)
        };
        let mut fleet = Self {
            edges: pool(PieceName::Edge, &system.edge, &front.edges)?,
            call_services: pool(PieceName::CallService, &replica.spec, &front.call_services)?,
        };
        fleet.call_services.raise(REPLICAS).await?;
        fleet.edges.raise(REPLICAS).await?;
        Ok(fleet)
    }
}

/// Runs the rounds; the processes go on.
pub(super) async fn run(stage: &Stage<'_>, mut fleet: Fleet) -> anyhow::Result<Broken> {
    let (system, what) = (stage.system, stage.part.what);
    let mut callers = Callers::start(stage).await?;
    let wanted = u64::from(stage.part.calls) * 4 / 5;
    poll("most calls to be up", UP, async || match live(system) {
        count if count >= wanted => Ok(()),
        count => Err(format!("{count} calls are up")),
    })
    .await?;
    let mut figures = Figures::default();
    let mut windows: Vec<Window> = Vec::new();
    let mut cut = BTreeSet::new();
    if what == What::Rolling {
        rolling::run(stage, &mut fleet, &mut figures).await?;
    } else {
        detach::run(stage, &mut fleet, &mut callers, &mut figures, &mut windows).await?;
        cut = cut::run(stage, &mut fleet, &mut callers).await?;
        figures.edge_kills += 1;
        figures.cut += u64::try_from(cut.len())?;
    }
    stage.screen.show(stage.part.first + stage.part.rounds, "people finish");
    let heard = callers.finish(LAST_CALLS).await;
    figures.retried = heard.retried;
    let refused = [
        ("an edge", fleet.edges.refused()),
        ("call-service", fleet.call_services.refused()),
    ];
    let mut children = fleet.edges.into_children();
    children.extend(fleet.call_services.into_children());
    Ok(Broken {
        figures,
        told: heard.told,
        campaigns: BTreeMap::new(),
        pauses: Vec::new(),
        children,
        talks: heard.talks,
        windows,
        cut,
        not_taken: refused.map(|(what, count)| (what.to_owned(), count)).into(),
    })
}

/// Calls whose audio flows.
fn live(system: &System) -> u64 {
    let of = |member: &super::system::Member| system.control.load(&member.registered.account_sid);
    let loads = system.members.iter().filter_map(|member| of(member).ok());
    loads.map(|load| load.streams).sum()
}
