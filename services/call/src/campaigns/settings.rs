//! What an operator sets of a campaign, checked and in our types.

use std::collections::BTreeMap;

use callbridge_proto::id::{AgentId, PhoneId};
use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use uuid::Uuid;

use super::rules::Rules;
use crate::{
    error::{Error, Violations},
    store::{
        agents,
        campaigns::{Campaign, Columns},
        phones::{self, Named},
    },
};

/// Phones of a pool at most.
pub const MOST_PHONES: usize = 50;

/// Its serialised form is what a repeated creation must agree with.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "as in the API")]
pub struct Settings {
    pub name: String,
    pub agent: AgentId,
    pub phones: Vec<PhoneId>,
    pub rules: Rules,
    /// Seconds.
    pub ring_timeout: u32,
    /// Seconds.
    pub time_limit: u32,
    pub record: bool,
    pub metadata: BTreeMap<String, String>,
    pub hook_endpoint: Option<String>,
}

impl Settings {
    /// As they are stored.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn of(campaign: &Campaign, phones: &[Uuid]) -> Result<Self, Error> {
        let broken = |error| Error::internal_from("a campaign's settings cannot be read", error);
        Ok(Self {
            name: campaign.name.clone(),
            agent: campaign.agent_id(),
            phones: phones.iter().copied().map(PhoneId).collect(),
            rules: rules(campaign)?,
            ring_timeout: campaign.ring_timeout_seconds.unsigned_abs(),
            time_limit: campaign.time_limit_seconds.unsigned_abs(),
            record: campaign.record,
            metadata: serde_json::from_value(campaign.metadata.clone()).map_err(broken)?,
            hook_endpoint: campaign.hook_endpoint.clone(),
        })
    }

    /// Whether calls are made otherwise than by those settings, so that queued ones are of no use. Rules are looked at when a call
    /// is claimed and make no other calls, but for the priority.
    pub fn makes_other_calls(&self, than: &Self) -> bool {
        let parts = |settings: &Self| {
            (
                settings.agent,
                settings.phones.clone(),
                settings.rules.priority,
                (settings.ring_timeout, settings.time_limit),
                settings.record,
                settings.metadata.clone(),
                settings.hook_endpoint.clone(),
            )
        };
        parts(self) != parts(than)
    }

    /// The account of the phones, after a look whether all that is named is there. `now` is that of rules that are new: those that were
    /// there may have an end that is over.
    ///
    /// # Errors
    /// Invalid, with each field.
    pub async fn account(&self, conn: &mut AsyncPgConnection, now: Option<DateTime<Utc>>) -> Result<Uuid, Error> {
        let mut wrong = Violations::new();
        self.rules.check(now, &mut wrong);
        let there = agents::cap(conn, self.agent).await?.is_some();
        wrong.require(
            there,
            "agent_id",
            "there is no such agent: create it with AgentService.CreateAgent",
        );
        wrong.require(
            (1..=MOST_PHONES).contains(&self.phones.len()),
            "phone_ids",
            "has 1 to 50 phones",
        );
        let mut account = None;
        for (index, id) in self.phones.iter().enumerate().take(MOST_PHONES) {
            let field = format!("phone_ids[{index}]");
            let found = phones::with_account(conn, Named::Id(*id)).await?;
            wrong.require(!self.phones[..index].contains(id), &field, "is there twice");
            match found {
                None => wrong.add(field, "there is no such phone: create it with PhoneService.CreatePhone"),
                Some((_, of)) if account.is_none_or(|account| account == of.id) => account = Some(of.id),
                Some(_) => wrong.add(field, "is of another account than the first one"),
            }
        }
        wrong.finish()?;
        account.ok_or_else(|| Error::internal("a campaign's phones have no account"))
    }

    /// The columns.
    ///
    /// # Errors
    /// When something cannot be serialised.
    pub fn columns(&self, account: Uuid) -> Result<Columns, Error> {
        let broken = |error| Error::internal_from("a campaign's settings could not be serialised", error);
        Ok(Columns {
            name: self.name.clone(),
            account_id: account,
            agent_id: self.agent.0,
            rules: serde_json::to_value(&self.rules).map_err(broken)?,
            max_concurrent_calls: self.rules.max_concurrent_calls,
            calls_per_minute: self.rules.calls_per_minute,
            priority: self.rules.priority,
            ring_timeout_seconds: i32::try_from(self.ring_timeout).unwrap_or(i32::MAX),
            time_limit_seconds: i32::try_from(self.time_limit).unwrap_or(i32::MAX),
            record: self.record,
            metadata: serde_json::to_value(&self.metadata).map_err(broken)?,
            hook_endpoint: self.hook_endpoint.clone(),
        })
    }
}

/// The rules of a row.
///
/// # Errors
/// When they cannot be read.
pub fn rules(campaign: &Campaign) -> Result<Rules, Error> {
    serde_json::from_value(campaign.rules.clone())
        .map_err(|error| Error::internal_from("a campaign's rules cannot be read", error))
}
