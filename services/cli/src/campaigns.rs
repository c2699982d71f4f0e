//! Campaigns.

mod import;
mod results;
mod show;

use std::{fs, path::PathBuf};

use callbridge_proto::campaign::v1::{
    AbortCampaignRequest, Campaign, CampaignSettings, CampaignState, CreateCampaignRequest, ListCampaignsRequest,
    PauseCampaignRequest, ResumeCampaignRequest, StartCampaignRequest,
};
use clap::{Args, Subcommand};
use runtime::Clock;

use crate::{Failure, client::Client, json, output::Out, words};

/// The API's largest page.
const PAGE: usize = 200;

/// What can be done with campaigns.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists campaigns, newest first.
    List {
        /// In this state: draft, running, paused, finished or aborted.
        #[arg(long, value_name = "STATE", value_parser = state)]
        state: Option<CampaignState>,
        /// How many at most.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Shows a campaign with its progress and its history.
    Show {
        /// The campaign's id.
        id: String,
    },
    /// Makes a campaign, which does not call yet.
    Create(Create),
    /// Takes contacts from a CSV file. A file that broke off is sent again and goes on where it was.
    Import(import::Wanted),
    /// Begins to call.
    Start {
        /// The campaign's id.
        id: String,
    },
    /// Dials nobody any more until it is resumed.
    Pause {
        /// The campaign's id.
        id: String,
        /// Kept with it.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Goes on after a pause.
    Resume {
        /// The campaign's id.
        id: String,
    },
    /// Ends a campaign for good; calls that were dialled go on.
    Abort {
        /// The campaign's id.
        id: String,
        /// Kept with it.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Shows the progress as it changes, until the campaign is over.
    Watch {
        /// The campaign's id.
        id: String,
    },
    /// Writes the results as a CSV file, one row for each attempt.
    Export {
        /// The campaign's id.
        id: String,
        /// Where to; standard output without it.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A campaign to be.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name.
    #[arg(long)]
    name: Option<String>,
    /// The agent that talks, by its id.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// A phone to call from, by its id; may be repeated.
    #[arg(long = "phone", value_name = "ID")]
    phones: Vec<String>,
    /// JSON file with settings by the names of CampaignSettings in campaign.proto, rules among them; the other options win.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Calls at one time.
    #[arg(long, value_name = "N")]
    max_concurrent_calls: Option<i32>,
    /// Dials in any minute.
    #[arg(long, value_name = "N")]
    calls_per_minute: Option<i32>,
    /// The same key is the same campaign, however often it is sent; default is a new one.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Create {
    fn message(self) -> Result<CreateCampaignRequest, Failure> {
        let mut settings: CampaignSettings = match &self.settings {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|source| Failure::File {
                    attempt: "read the settings in",
                    path: path.clone(),
                    source,
                })?;
                json::read(&text)?
            }
            None => CampaignSettings::default(),
        };
        settings.name = self.name.unwrap_or(settings.name);
        settings.agent_id = self.agent.unwrap_or(settings.agent_id);
        if !self.phones.is_empty() {
            settings.phone_ids = self.phones;
        }
        if self.max_concurrent_calls.is_some() || self.calls_per_minute.is_some() {
            let rules = settings.rules.get_or_insert_default();
            rules.max_concurrent_calls = self.max_concurrent_calls.unwrap_or(rules.max_concurrent_calls);
            rules.calls_per_minute = self.calls_per_minute.unwrap_or(rules.calls_per_minute);
        }
        Ok(CreateCampaignRequest {
            idempotency_key: self.key.unwrap_or_else(|| Clock::system().new_uuid().to_string()),
            settings: Some(settings),
        })
    }
}

fn state(word: &str) -> Result<CampaignState, String> {
    CampaignState::from_str_name(&format!("CAMPAIGN_STATE_{}", word.to_ascii_uppercase()))
        .filter(|state| *state != CampaignState::Unspecified)
        .ok_or_else(|| "states are draft, running, paused, finished and aborted".to_owned())
}

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { state, limit } => list(client, out, state.unwrap_or_default(), limit).await,
        Command::Show { id } => show::run(client, out, id).await,
        Command::Watch { id } => show::watch(client, out, id).await,
        Command::Import(wanted) => import::run(client, out, wanted).await,
        Command::Export { id, output } => results::export(client, out, id, output).await,
        Command::Create(wanted) => {
            let answer = client.campaigns().create_campaign(wanted.message()?).await;
            let answer = answer.map_err(client.failed("make the campaign"))?.into_inner();
            changed(out, answer.campaign)
        }
        Command::Start { id } => {
            let answer = client
                .campaigns()
                .start_campaign(StartCampaignRequest { campaign_id: id })
                .await;
            changed(
                out,
                answer
                    .map_err(client.failed("start the campaign"))?
                    .into_inner()
                    .campaign,
            )
        }
        Command::Pause { id, reason } => {
            let request = PauseCampaignRequest {
                campaign_id: id,
                reason,
            };
            let answer = client.campaigns().pause_campaign(request).await;
            changed(
                out,
                answer
                    .map_err(client.failed("pause the campaign"))?
                    .into_inner()
                    .campaign,
            )
        }
        Command::Resume { id } => {
            let answer = client
                .campaigns()
                .resume_campaign(ResumeCampaignRequest { campaign_id: id })
                .await;
            changed(
                out,
                answer
                    .map_err(client.failed("resume the campaign"))?
                    .into_inner()
                    .campaign,
            )
        }
        Command::Abort { id, reason } => {
            let request = AbortCampaignRequest {
                campaign_id: id,
                reason,
            };
            let answer = client.campaigns().abort_campaign(request).await;
            changed(
                out,
                answer
                    .map_err(client.failed("abort the campaign"))?
                    .into_inner()
                    .campaign,
            )
        }
    }
}

/// The campaign as it stands after something was done to it.
fn changed(out: &mut Out<'_>, campaign: Option<Campaign>) -> Result<(), Failure> {
    let campaign = campaign.unwrap_or_default();
    if out.json {
        return Ok(out.message(&campaign)?);
    }
    let state = words::campaign_state(campaign.state());
    Ok(out.line(&format!("{} {state}", campaign.id))?)
}

async fn list(client: &Client, out: &mut Out<'_>, state: CampaignState, limit: usize) -> Result<(), Failure> {
    let (mut campaigns, mut page_token) = (Vec::new(), String::new());
    while campaigns.len() < limit {
        let size = (limit - campaigns.len()).min(PAGE);
        let request = ListCampaignsRequest {
            state: state.into(),
            page_size: i32::try_from(size).unwrap_or(1),
            page_token,
        };
        let answer = client.campaigns().list_campaigns(request).await;
        let page = answer.map_err(client.failed("list campaigns"))?.into_inner();
        campaigns.extend(page.campaigns);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if out.json {
        for campaign in &campaigns {
            out.message(campaign)?;
        }
        return Ok(());
    }
    let rows = campaigns.into_iter().map(|campaign| {
        [
            campaign.id.clone(),
            campaign.name.clone(),
            words::campaign_state(campaign.state()),
            campaign.state_reason.clone(),
            words::time(campaign.created_at),
            campaign.caller.clone(),
        ]
    });
    Ok(out.table(["id", "name", "state", "why", "made", "by"], rows.collect())?)
}
