//! Campaigns of a story.

use anyhow::Context as _;
use bytes::Bytes;
use callbridge_proto::campaign::v1::{
    AddContactsRequest, AddContactsResponse, Campaign, CampaignSettings, CampaignState, Contact, CreateCampaignRequest,
    ExportResultsRequest, GetCampaignRequest, GetCampaignResponse, ImportHeader, ListContactsRequest, Retries, Rules,
    StartCampaignRequest, add_contacts_request::Message,
};
use stack::{
    campaign::{always_open, retries},
    poll,
};
use tonic::Status;

use crate::{PATIENCE, Story};

/// Pieces of a file.
const PIECE: usize = 10_000;

/// Rules under which anybody may be called at any time, and nobody twice.
pub fn always() -> Rules {
    Rules {
        windows: always_open(),
        retries: Some(retries(0, 0)),
        ..Rules::default()
    }
}

/// Rules by which every outcome is tried again at once, so often.
pub fn again(most: i32) -> Rules {
    Rules {
        retries: Some(retries(most, 0)),
        ..always()
    }
}

/// Rules by which who is busy is called again in an hour.
pub fn later() -> Rules {
    Rules {
        retries: Some(Retries {
            busy: retries(3, 3600).busy,
            ..retries(0, 0)
        }),
        ..always()
    }
}

/// A CSV file of numbers and nothing else.
pub fn numbers(numbers: impl IntoIterator<Item = String>) -> String {
    let lines = numbers.into_iter().map(|number| format!("{number}\n"));
    std::iter::once("number\n".to_owned()).chain(lines).collect()
}

/// The messages that send a file under a key.
pub fn messages(header: ImportHeader, file: &[u8]) -> Vec<AddContactsRequest> {
    let message = |message| AddContactsRequest { message: Some(message) };
    let pieces = file
        .chunks(PIECE)
        .map(|piece| message(Message::CsvChunk(Bytes::copy_from_slice(piece))));
    std::iter::once(message(Message::Header(header)))
        .chain(pieces)
        .collect()
}

impl Story {
    /// A campaign of the story's phone and agent with these rules.
    pub fn settings(&self, rules: Rules) -> CampaignSettings {
        CampaignSettings {
            name: "story".to_owned(),
            agent_id: self.registered.agent.id.clone(),
            phone_ids: vec![self.registered.phone_id.clone()],
            rules: Some(rules),
            ..CampaignSettings::default()
        }
    }

    /// Makes a campaign.
    ///
    /// # Errors
    /// Of `CreateCampaign`.
    pub async fn campaign(&self, key: &str, settings: CampaignSettings) -> anyhow::Result<Campaign> {
        let request = CreateCampaignRequest {
            idempotency_key: key.to_owned(),
            settings: Some(settings),
        };
        let made = self.stack.clients().campaigns().create_campaign(request).await?;
        made.into_inner().campaign.context("no campaign")
    }

    /// Makes a campaign with these contacts, and starts it.
    ///
    /// # Errors
    /// Of the API.
    pub async fn campaign_of(&self, rules: Rules, file: &str) -> anyhow::Result<Campaign> {
        let campaign = self.campaign("campaign", self.settings(rules)).await?;
        self.add_contacts(&campaign.id, "file", file.as_bytes()).await?;
        self.start_campaign(&campaign.id).await
    }

    /// Sends a file of contacts.
    ///
    /// # Errors
    /// Of `AddContacts`.
    pub async fn add_contacts(&self, campaign: &str, key: &str, file: &[u8]) -> Result<AddContactsResponse, Status> {
        let header = ImportHeader {
            campaign_id: campaign.to_owned(),
            key: key.to_owned(),
            ..ImportHeader::default()
        };
        let stream = tokio_stream::iter(messages(header, file));
        Ok(self
            .stack
            .clients()
            .campaigns()
            .add_contacts(stream)
            .await?
            .into_inner())
    }

    /// Starts a campaign.
    ///
    /// # Errors
    /// Of `StartCampaign`.
    pub async fn start_campaign(&self, id: &str) -> anyhow::Result<Campaign> {
        let request = StartCampaignRequest {
            campaign_id: id.to_owned(),
        };
        let started = self.stack.clients().campaigns().start_campaign(request).await?;
        started.into_inner().campaign.context("no campaign")
    }

    /// A campaign as it stands.
    ///
    /// # Errors
    /// Of `GetCampaign`.
    pub async fn get_campaign(&self, id: &str) -> anyhow::Result<GetCampaignResponse> {
        let request = GetCampaignRequest {
            campaign_id: id.to_owned(),
        };
        Ok(self
            .stack
            .clients()
            .campaigns()
            .get_campaign(request)
            .await?
            .into_inner())
    }

    /// Waits until a campaign is as wanted.
    ///
    /// # Errors
    /// When it is not in time; the message says how it was last.
    pub async fn campaign_until(
        &self,
        id: &str,
        what: &str,
        wanted: impl Fn(&GetCampaignResponse) -> bool,
    ) -> anyhow::Result<GetCampaignResponse> {
        let found = poll(what, PATIENCE * 3, async || match self.get_campaign(id).await {
            Ok(campaign) if wanted(&campaign) => Ok(campaign),
            Ok(campaign) => Err(format!("{:?}", campaign.progress)),
            Err(error) => Err(error.to_string()),
        });
        Ok(found.await?)
    }

    /// Waits until a campaign has this state.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn campaign_is(&self, id: &str, state: CampaignState) -> anyhow::Result<GetCampaignResponse> {
        self.campaign_until(id, state.as_str_name(), |got| {
            got.campaign.as_ref().is_some_and(|campaign| campaign.state() == state)
        })
        .await
    }

    /// A campaign's first contacts.
    ///
    /// # Errors
    /// Of `ListContacts`.
    pub async fn contacts(&self, id: &str) -> anyhow::Result<Vec<Contact>> {
        let request = ListContactsRequest {
            campaign_id: id.to_owned(),
            page_size: 200,
            ..ListContactsRequest::default()
        };
        let listed = self.stack.clients().campaigns().list_contacts(request).await?;
        Ok(listed.into_inner().contacts)
    }

    /// A campaign's results.
    ///
    /// # Errors
    /// Of `ExportResults`.
    pub async fn results(&self, id: &str) -> anyhow::Result<String> {
        let request = ExportResultsRequest {
            campaign_id: id.to_owned(),
        };
        let mut stream = self
            .stack
            .clients()
            .campaigns()
            .export_results(request)
            .await?
            .into_inner();
        let mut file = Vec::new();
        while let Some(piece) = stream.message().await? {
            file.extend_from_slice(&piece.csv_chunk);
        }
        Ok(String::from_utf8(file)?)
    }
}
