//! Operators who pause and resume campaigns all the time, whatever dies meanwhile (F108).

use anyhow::Context as _;
use callbridge_proto::campaign::v1::{PauseCampaignRequest, ResumeCampaignRequest};
use runtime::Clock;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    campaign::{ASK, insist},
    check::Pause,
    dice::Dice,
    part::Stage,
};

/// Milliseconds until the first pause.
const AT_FIRST: (u64, u64) = (100, 1_000);
/// Milliseconds from a pause to the next one: a campaign is paused for about a quarter of its time.
const BETWEEN: (u64, u64) = (2_000, 8_000);
/// Milliseconds that a pause takes: longer than a request may still come.
const SHORT: (u64, u64) = (1_100, 1_600);
/// Milliseconds that some take, in percent, to see what comes later still.
const LONG: (u64, u64) = (4_000, 8_000);
const LONG_PERCENT: u64 = 4;

/// Pauses and resumes one campaign until it is over. `number` is the campaign's in this run; `unsure`: somebody may have asked to let
/// it run whose request is still under way. Returns the pauses that nobody else can have ended.
pub(super) async fn pauses(
    stage: &Stage<'_>,
    (campaign, number): (&str, u64),
    mut unsure: bool,
    over: &CancellationToken,
) -> anyhow::Result<Vec<Pause>> {
    let clock = Clock::system();
    let mut dice = Dice::new(stage.part.seed, "pauses", number);
    let (mut pauses, mut between) = (Vec::new(), AT_FIRST);
    while timeout(dice.millis(between.0, between.1), over.cancelled())
        .await
        .is_err()
    {
        between = BETWEEN;
        if !pause(stage, &mut dice, campaign).await? {
            break;
        }
        let from = clock.now();
        let (least, most) = if dice.percent(LONG_PERCENT) { LONG } else { SHORT };
        sleep(dice.millis(least, most)).await;
        let until = clock.now();
        if !unsure {
            let campaign = campaign.to_owned();
            pauses.push(Pause { campaign, from, until });
        }
        unsure = resume(stage, &mut dice, campaign).await?;
    }
    Ok(pauses)
}

/// False: the campaign is over.
async fn pause(stage: &Stage<'_>, dice: &mut Dice, campaign: &str) -> anyhow::Result<bool> {
    let refused = |status: Status| match status.code() {
        Code::FailedPrecondition => Ok(false),
        _ => Err(status),
    };
    let paused = insist(stage, dice, ASK, async |replica| {
        let request = PauseCampaignRequest {
            campaign_id: campaign.to_owned(),
            reason: "chaos".to_owned(),
        };
        let paused = replica.campaigns().pause_campaign(request).await;
        paused.map(|_| true).or_else(refused)
    });
    Ok(paused.await.context("PauseCampaign")?.0)
}

/// Lets a campaign run. True: a request that was not answered may still do so later.
pub(super) async fn resume(stage: &Stage<'_>, dice: &mut Dice, campaign: &str) -> anyhow::Result<bool> {
    let resumed = insist(stage, dice, ASK, async |replica| {
        let request = ResumeCampaignRequest {
            campaign_id: campaign.to_owned(),
        };
        replica.campaigns().resume_campaign(request).await.map(drop)
    });
    Ok(resumed.await.context("ResumeCampaign")?.1 > 1)
}
