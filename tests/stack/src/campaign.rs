//! Campaigns for the drivers: always open, with contacts that are sent as a CSV file.

use std::fmt::Write as _;

use anyhow::Context as _;
use bytes::Bytes;
use callbridge_proto::campaign::v1::{
    AddContactsRequest, AddContactsResponse, Breaker, CampaignSettings, CreateCampaignRequest, ImportHeader, Retries,
    Retry, Rules, StartCampaignRequest, Window, add_contacts_request::Message,
};
use tokio_stream::{Stream, StreamExt as _, iter};
use tonic::Status;

use crate::{Clients, keys::random};

/// What the API allows in one message.
pub(crate) const CHUNK: usize = 64 * 1024;

/// People are called at any time of day.
pub fn always_open() -> Vec<Window> {
    vec![Window {
        days: Vec::new(),
        from: 0,
        until: 24 * 60,
    }]
}

/// So many further attempts after any outcome, so many seconds after each.
pub fn retries(most: i32, seconds: i64) -> Retries {
    let retry = Some(Retry {
        delays: vec![prost_types::Duration { seconds, nanos: 0 }],
        most,
    });
    Retries {
        busy: retry.clone(),
        no_answer: retry.clone(),
        failed: retry.clone(),
        agent_unavailable: retry,
        ..Retries::default()
    }
}

/// A campaign whose calls are short, and that goes on however many of them fail.
pub(crate) fn settings(name: &str, agent_id: &str, phone_id: &str, rules: Rules) -> CampaignSettings {
    let rules = Rules {
        breaker: Some(Breaker {
            limit: 100,
            ..Breaker::default()
        }),
        ..rules
    };
    CampaignSettings {
        name: name.to_owned(),
        agent_id: agent_id.to_owned(),
        phone_ids: vec![phone_id.to_owned()],
        rules: Some(rules),
        ring_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        time_limit: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..CampaignSettings::default()
    }
}

/// Makes a campaign. Returns its id.
pub(crate) async fn create(clients: &Clients, settings: CampaignSettings) -> anyhow::Result<String> {
    let request = CreateCampaignRequest {
        idempotency_key: data_encoding::HEXLOWER.encode(&random::<16>()?),
        settings: Some(settings),
    };
    let created = clients
        .campaigns()
        .create_campaign(request)
        .await
        .context("CreateCampaign")?
        .into_inner();
    Ok(created
        .campaign
        .context("CreateCampaign answered without a campaign")?
        .id)
}

/// Lets it call.
pub(crate) async fn start(clients: &Clients, campaign: &str) -> anyhow::Result<()> {
    let request = StartCampaignRequest {
        campaign_id: campaign.to_owned(),
    };
    clients
        .campaigns()
        .start_campaign(request)
        .await
        .context("StartCampaign")?;
    Ok(())
}

/// Sends a file in the pieces that are given. With the key of one that broke off it goes on there.
pub(crate) async fn send(
    clients: &Clients,
    campaign: &str,
    key: &str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<AddContactsResponse, Status> {
    let header = Message::Header(ImportHeader {
        campaign_id: campaign.to_owned(),
        key: key.to_owned(),
        ..ImportHeader::default()
    });
    let messages = iter([header]).chain(pieces.map(Message::CsvChunk));
    let requests = messages.map(|message| AddContactsRequest { message: Some(message) });
    Ok(clients.campaigns().add_contacts(requests).await?.into_inner())
}

/// People that nobody else calls.
#[derive(Debug, Clone)]
pub(crate) struct People {
    next: u64,
    end: u64,
}

impl People {
    /// These, counted from 0; there are a hundred million.
    pub(crate) fn new(first: u64, count: u64) -> Self {
        Self {
            next: first,
            end: first + count,
        }
    }

    /// The number of one of them.
    pub(crate) fn number(person: u64) -> String {
        format!("+9170{person:08}")
    }

    /// A CSV file of all, in pieces that a message can hold.
    pub(crate) fn csv(self) -> impl Iterator<Item = Bytes> {
        let header = Bytes::from_static(b"number,name,order\n");
        std::iter::once(header).chain(self.pieces(|text, person| {
            let _ = writeln!(text, "{},Person {person},A-{person}", Self::number(person));
        }))
    }

    /// Lines of text in pieces.
    pub(crate) fn pieces(mut self, line: impl Fn(&mut String, u64)) -> impl Iterator<Item = Bytes> {
        std::iter::from_fn(move || {
            let mut text = String::with_capacity(CHUNK);
            // A line is far shorter than this margin.
            while self.next < self.end && text.len() < CHUNK - 512 {
                line(&mut text, self.next);
                self.next += 1;
            }
            (!text.is_empty()).then(|| Bytes::from(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_in_the_file_once_and_pieces_fit() {
        let pieces: Vec<_> = People::new(5, 5_000).csv().collect();
        assert!(pieces.len() > 2 && pieces.iter().all(|piece| piece.len() <= CHUNK));
        let text = String::from_utf8(pieces.concat()).unwrap();
        assert_eq!(text.lines().count(), 5_001);
        assert_eq!(text.lines().nth(1), Some("+917000000005,Person 5,A-5"));
        assert!(exotel::PhoneNumber::parse(&People::number(99_999_999)).is_ok());
    }
}
