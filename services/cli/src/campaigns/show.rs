//! A campaign and how it goes.

use std::collections::HashMap;

use callbridge_proto::campaign::v1::{Campaign, GetCampaignRequest, HistoryEntry, Progress, WatchCampaignRequest};

use crate::{
    Failure,
    client::Client,
    output::Out,
    watching::{Broken, Patience},
    words,
};

pub(super) async fn run(client: &Client, out: &mut Out<'_>, id: String) -> Result<(), Failure> {
    let answer = client
        .campaigns()
        .get_campaign(GetCampaignRequest { campaign_id: id })
        .await;
    let answer = answer.map_err(client.failed("show the campaign"))?.into_inner();
    if out.json {
        return Ok(out.message(&answer)?);
    }
    let campaign = answer.campaign.unwrap_or_default();
    let progress = answer.progress.unwrap_or_default();
    show(out, &campaign, &progress)?;
    out.line("")?;
    let rows = answer.history.iter().map(entry).collect();
    Ok(out.table(["at", "what", "by", "facts"], rows)?)
}

fn show(out: &mut Out<'_>, campaign: &Campaign, progress: &Progress) -> Result<(), Failure> {
    let settings = campaign.settings.clone().unwrap_or_default();
    let state = words::campaign_state(campaign.state());
    Ok(out.facts(&[
        ("id", campaign.id.clone()),
        ("name", campaign.name.clone()),
        ("state", format!("{state} {}", campaign.state_reason).trim().to_owned()),
        ("does not dial for", progress.waiting_reason.clone()),
        ("agent", settings.agent_id),
        ("phones", settings.phone_ids.join(" ")),
        (
            "made",
            format!("{} by {}", words::time(campaign.created_at), campaign.caller),
        ),
        ("started", words::time(campaign.started_at)),
        ("over", words::time(campaign.ended_at)),
        (
            "contacts",
            format!("{}: {}", progress.contacts, counts(&progress.by_state)),
        ),
        ("attempts", counts(&progress.by_outcome)),
        ("active calls", progress.active_calls.to_string()),
        ("dials/min", progress.dials_last_minute.to_string()),
        ("through by", words::time(progress.eta)),
    ])?)
}

fn entry(entry: &HistoryEntry) -> [String; 4] {
    [
        words::time(entry.at),
        entry.r#type.clone(),
        entry.by.clone(),
        words::facts(&entry.data),
    ]
}

/// Counts that are not 0, the largest first.
fn counts(counts: &HashMap<String, i64>) -> String {
    let mut there: Vec<_> = counts.iter().filter(|(_, count)| **count != 0).collect();
    there.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let texts: Vec<_> = there.iter().map(|(word, count)| format!("{count} {word}")).collect();
    texts.join(", ")
}

/// Shows the progress as it changes, until the campaign is over.
pub(super) async fn watch(client: &Client, out: &mut Out<'_>, id: String) -> Result<(), Failure> {
    let mut patience = Patience::default();
    loop {
        let request = WatchCampaignRequest {
            campaign_id: id.clone(),
        };
        let watched: Result<(), Broken> = async {
            let mut stream = client.campaigns().watch_campaign(request).await?.into_inner();
            while let Some(response) = stream.message().await? {
                patience.news();
                if let Some(progress) = response.progress {
                    tell(out, &progress)?;
                }
            }
            Ok(())
        }
        .await;
        match watched {
            Ok(()) => return Ok(()),
            Err(broken) => patience.again(client, "the campaign", broken).await?,
        }
    }
}

fn tell(out: &mut Out<'_>, progress: &Progress) -> std::io::Result<()> {
    if out.json {
        return out.message(progress);
    }
    let why = [progress.state_reason.as_str(), progress.waiting_reason.as_str()].join(" ");
    let line = format!(
        "{}  {} {}  {} contacts: {}; {} active, {} dials/min",
        words::clock(progress.at),
        words::campaign_state(progress.state()),
        why.trim(),
        progress.contacts,
        counts(&progress.by_state),
        progress.active_calls,
        progress.dials_last_minute,
    );
    out.line(&line)
}
