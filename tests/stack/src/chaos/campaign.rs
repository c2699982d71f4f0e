//! Campaigns call all their contacts while replicas die, and while their contacts still come.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use call_service::crash;
use callbridge_proto::campaign::v1::{AddContactsResponse, CampaignSettings, Rules, StartCampaignRequest};
use futures_util::future::try_join_all;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    check::{Campaign, Limits},
    dice::Dice,
    figures::Figures,
    load::{Told, may_come_right},
    part::{Broken, Stage},
    pauses::{pauses, resume},
    people,
};
use crate::{
    Clients,
    campaign::{self, People},
    child::{Child, Death},
};

/// Name, calls at one time, dials a minute, priority, the seconds after which a contact is tried again, and the part of all
/// contacts, in percent. In one of them a contact is due again in the moment in which its call ended.
const CAMPAIGNS: [(&str, u32, u32, i32, i64, u64); 4] = [
    ("wide", 0, 0, 0, 2, 40),
    ("hasty", 0, 0, 0, 0, 20),
    ("narrow", 6, 0, 0, 2, 20),
    ("slow", 0, 1_200, 10, 2, 20),
];
/// A contact is tried again once, soon.
const ATTEMPTS: u32 = 2;
/// Calls a second, as they are paced, and attempts of a contact: what the deaths are spread by.
const PER_SECOND: f64 = 6_000.0 / 65.0;
/// Deaths come within this part of the time that the calls take at least.
const SPREAD: f64 = 0.7;
/// The shortest pause between two deaths, in milliseconds; a process of a debug build starts in about a second.
const PAUSE: u64 = 300;
/// In percent: a process is born to die at a crash point.
const ARMED: u64 = 30;
/// In percent: two die together.
const TWO: u64 = 15;
/// One try to send a file, and one of anything else.
const SEND: Duration = Duration::from_mins(2);
pub(super) const ASK: Duration = Duration::from_secs(5);
/// Between two tries, and two looks.
const AGAIN: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_secs(1);
/// No call at all for so long: it will not come right.
const STUCK: Duration = Duration::from_mins(2);

/// Runs them; the deaths are the rounds.
pub(super) async fn run(stage: &Stage<'_>, children: Vec<Child>) -> anyhow::Result<Broken> {
    let mut dice = Dice::new(stage.part.seed, "campaigns", 0);
    let mut campaigns = BTreeMap::new();
    let mut first = 0;
    for (name, concurrent, per_minute, priority, retry_after, percent) in CAMPAIGNS {
        let contacts = (stage.part.contacts * percent / 100).max(1);
        let limits = Limits {
            concurrent: concurrent.into(),
            per_minute: per_minute.into(),
        };
        let id = create(stage, name, limits, priority, retry_after).await?;
        let given = Campaign {
            limits,
            attempts: ATTEMPTS.into(),
            contacts,
        };
        for person in first..first + contacts {
            if let Some(outcome) = people::contact(&mut dice) {
                stage.system.control.set_outcome(&People::number(person), outcome)?;
            }
        }
        campaigns.insert(id, (first, given));
        first += contacts;
    }
    let over = CancellationToken::new();
    let calls = async {
        let all = campaigns
            .iter()
            .map(|(id, (first, given))| begin(stage, id, *first, given.contacts));
        let begun = try_join_all(all).await?;
        let operators = campaigns
            .iter()
            .zip(begun)
            .map(|((id, (first, _)), unsure)| pauses(stage, (id, *first), unsure, &over));
        let end = async {
            wait(stage).await?;
            over.cancel();
            anyhow::Ok(())
        };
        let (pauses, ()) = tokio::try_join!(try_join_all(operators), end)?;
        anyhow::Ok(pauses.concat())
    };
    let (deaths, pauses) = tokio::try_join!(deaths(stage, children, &over), calls)?;
    let (mut figures, children) = deaths;
    figures.contacts = first;
    Ok(Broken {
        figures,
        told: Told::default(),
        campaigns: campaigns.into_iter().map(|(id, (_, given))| (id, given)).collect(),
        pauses,
        children,
        talks: Vec::new(),
        windows: Vec::new(),
        cut: BTreeSet::new(),
        not_taken: Vec::new(),
    })
}

async fn create(
    stage: &Stage<'_>,
    name: &str,
    limits: Limits,
    priority: i32,
    retry_after: i64,
) -> anyhow::Result<String> {
    let member = stage.system.members.first().context("there is no account")?;
    let rules = Rules {
        max_concurrent_calls: i32::try_from(limits.concurrent)?,
        calls_per_minute: i32::try_from(limits.per_minute)?,
        windows: campaign::always_open(),
        retries: Some(campaign::retries(i32::try_from(ATTEMPTS)?, retry_after)),
        max_attempts: i32::try_from(ATTEMPTS)?,
        priority,
        ..Rules::default()
    };
    let registered = &member.registered;
    let settings: CampaignSettings = campaign::settings(name, &registered.agent.id, &registered.phone_id, rules);
    let replica = stage.system.clients.first().context("there is no replica")?;
    campaign::create(replica, settings).await
}

/// Lets a campaign call, and sends its contacts meanwhile; again and again, until they are all there. True: a request to let it call
/// that was not answered may still do so later.
async fn begin(stage: &Stage<'_>, id: &str, first: u64, contacts: u64) -> anyhow::Result<bool> {
    let mut dice = Dice::new(stage.part.seed, "begin", first);
    let ((), starts) = insist(stage, &mut dice, ASK, async |replica| {
        let request = StartCampaignRequest {
            campaign_id: id.to_owned(),
        };
        replica.campaigns().start_campaign(request).await.map(drop)
    })
    .await
    .context("StartCampaign")?;
    let (report, _): (AddContactsResponse, _) = insist(stage, &mut dice, SEND, async |replica| {
        let file = People::new(first, contacts).csv();
        campaign::send(&replica, id, "contacts.csv", tokio_stream::iter(file)).await
    })
    .await
    .context("AddContacts")?;
    let taken = u64::try_from(report.accepted)?;
    ensure!(
        taken == contacts && report.rejected == 0 && report.duplicates == 0,
        "{taken} of {contacts} contacts were taken, {} rejected, {} duplicates",
        report.rejected,
        report.duplicates
    );
    // It may have run out of contacts before the others came.
    Ok(resume(stage, &mut dice, id).await? || starts > 1)
}

/// Asks any replica until one has an answer. Returns also how often it was asked for.
pub(super) async fn insist<T>(
    stage: &Stage<'_>,
    dice: &mut Dice,
    patience: Duration,
    ask: impl AsyncFn(Clients) -> Result<T, Status>,
) -> anyhow::Result<(T, u32)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let replica = dice.pick(&stage.system.clients).context("there is no replica")?;
        match timeout(patience, ask(replica.clone())).await {
            Ok(Ok(answer)) => return Ok((answer, tries)),
            Ok(Err(status)) if !may_come_right(status.code()) => bail!("{:?}: {}", status.code(), status.message()),
            Ok(Err(_)) | Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Waits until all campaigns are over, or nothing goes on any more: the checks say then what is left.
async fn wait(stage: &Stage<'_>) -> anyhow::Result<()> {
    let client = stage.system.connect().await?;
    let statement = "SELECT count(*) FROM campaigns WHERE state <> 'finished'";
    let (mut calls, mut since) = (0, Instant::now());
    loop {
        let open: i64 = client
            .query_one(statement, &[])
            .await
            .context("cannot count campaigns")?
            .get(0);
        if open == 0 {
            return Ok(());
        }
        let now = stage.pulse.calls();
        if now != calls {
            (calls, since) = (now, Instant::now());
        } else if since.elapsed() > STUCK {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// Kills replicas at random, and starts each again at once, until all rounds are done or the campaigns are over.
async fn deaths(
    stage: &Stage<'_>,
    mut children: Vec<Child>,
    over: &CancellationToken,
) -> anyhow::Result<(Figures, Vec<Child>)> {
    let part = &stage.part;
    let mut figures = Figures::default();
    let pause = pause(part.contacts, part.rounds);
    for round in part.first..part.first + part.rounds {
        let mut dice = Dice::new(part.seed, "death", round);
        if timeout(dice.millis(pause / 2, pause * 3 / 2), over.cancelled())
            .await
            .is_ok()
        {
            break;
        }
        let many = if dice.percent(TWO) { 2 } else { 1 };
        for _ in 0..many {
            let at = usize::try_from(dice.below(children.len() as u64))?;
            let plan = dice
                .percent(ARMED)
                .then(|| {
                    dice.pick(&crash::POINTS)
                        .map(|point| format!("{point}:{}+0", 1 + dice.below(20)))
                })
                .flatten();
            reborn(stage, at, &mut children[at], plan.as_deref()).await?;
            figures.kills += 1;
        }
        // Those that were born to die.
        for (at, child) in children.iter_mut().enumerate() {
            if child.ended_within(Duration::ZERO).await?.is_some() {
                reborn(stage, at, child, None).await?;
                figures.kills += 1;
            }
        }
        stage.screen.show(round + 1, &stage.pulse.words());
    }
    // Those that are armed still must not die while everything settles.
    for (at, child) in children.iter_mut().enumerate() {
        reborn(stage, at, child, None).await?;
        figures.kills += 1;
    }
    let done = part.first + part.rounds;
    while !over.is_cancelled() {
        stage.screen.show(done, &stage.pulse.words());
        let _ = timeout(LOOK, over.cancelled()).await;
    }
    Ok((figures, children))
}

/// Milliseconds between two deaths.
fn pause(contacts: u64, rounds: u64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a pause of about so long"
    )]
    let each = (contacts as f64 / PER_SECOND * SPREAD * 1_000.0 / rounds.max(1) as f64) as u64;
    each.max(PAUSE)
}

/// Kills a replica, if it is not dead yet, and starts it again.
async fn reborn(stage: &Stage<'_>, at: usize, child: &mut Child, plan: Option<&str>) -> anyhow::Result<()> {
    match child.ended_within(Duration::ZERO).await? {
        Some(Death::Other(status)) => bail!(
            "a call-service ended by itself ({status}); see the logs in {}",
            stage.system.folder.display()
        ),
        Some(Death::Killed) => {}
        None => drop(child.kill().await?),
    }
    *child = stage.system.replicas[at].spec.start(plan)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_spread_over_the_calls() {
        assert_eq!(pause(100, 100), PAUSE);
        assert!((7_000..8_000).contains(&pause(100_000, 100)));
        assert_eq!(CAMPAIGNS.iter().map(|(.., percent)| percent).sum::<u64>(), 100);
    }
}
