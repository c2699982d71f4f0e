//! Which calls: the conditions of ListCalls and WatchCalls.

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use exotel::PhoneNumber;
use uuid::Uuid;

use super::state::{Direction, State};
use crate::{
    error::Error,
    store::{calls::Call, schema::calls, unreadable::readable},
};

/// So many unreadable rows on a page shorten no page.
const SPARE: i64 = 20;

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Any of these, or any at all when empty.
    pub states: Vec<State>,
    /// This direction.
    pub direction: Option<Direction>,
    /// From or to this phone.
    pub phone: Option<Uuid>,
    /// With this agent.
    pub agent: Option<Uuid>,
    /// Of this campaign.
    pub campaign: Option<Uuid>,
    /// With this person.
    pub customer: Option<PhoneNumber>,
    /// Placed with the API key of this name.
    pub caller: Option<String>,
    /// Queued at or after.
    pub queued_after: Option<DateTime<Utc>>,
    /// Queued before.
    pub queued_before: Option<DateTime<Utc>>,
    /// Only those that a person should look at.
    pub needs_review: bool,
}

impl Filter {
    /// Whether every call matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a call matches; `state` is that of the event at hand.
    pub fn matches(&self, call: &Call, state: State) -> bool {
        (self.states.is_empty() || self.states.contains(&state))
            && self.direction.is_none_or(|direction| direction == call.direction)
            && self.phone.is_none_or(|phone| Some(phone) == call.phone_id)
            && self.agent.is_none_or(|agent| Some(agent) == call.agent_id)
            && self.campaign.is_none_or(|campaign| Some(campaign) == call.campaign_id)
            && self
                .customer
                .as_ref()
                .is_none_or(|customer| customer.expose() == call.customer)
            && self
                .caller
                .as_ref()
                .is_none_or(|caller| Some(caller) == call.caller.as_ref())
            && self.queued_after.is_none_or(|at| call.queued_at >= at)
            && self.queued_before.is_none_or(|at| call.queued_at < at)
            && (!self.needs_review || call.needs_review)
    }
}

/// A page of calls, newest first, older than `before`.
///
/// # Errors
/// Of the database.
pub async fn page(
    conn: &mut AsyncPgConnection,
    filter: &Filter,
    before: Option<CallId>,
    limit: i64,
) -> Result<Vec<Call>, Error> {
    let mut query = calls::table
        .order(calls::id.desc())
        .limit(limit + SPARE)
        .select(calls::id)
        .into_boxed();
    if let Some(id) = before {
        query = query.filter(calls::id.lt(id.0));
    }
    if !filter.states.is_empty() {
        query = query.filter(calls::state.eq_any(&filter.states));
    }
    if let Some(direction) = filter.direction {
        query = query.filter(calls::direction.eq(direction));
    }
    if let Some(phone) = filter.phone {
        query = query.filter(calls::phone_id.eq(phone));
    }
    if let Some(agent) = filter.agent {
        query = query.filter(calls::agent_id.eq(agent));
    }
    if let Some(campaign) = filter.campaign {
        query = query.filter(calls::campaign_id.eq(campaign));
    }
    if let Some(customer) = &filter.customer {
        query = query.filter(calls::customer.eq(customer.expose()));
    }
    if let Some(caller) = &filter.caller {
        query = query.filter(calls::caller.eq(caller));
    }
    if let Some(at) = filter.queued_after {
        query = query.filter(calls::queued_at.ge(at));
    }
    if let Some(at) = filter.queued_before {
        query = query.filter(calls::queued_at.lt(at));
    }
    if filter.needs_review {
        query = query.filter(calls::needs_review);
    }
    let ids: Vec<Uuid> = query.load(conn).await?;
    // A row that cannot be read is left out; it must not take the page with it (F40).
    let mut found = readable(conn, &ids).await?.calls;
    found.sort_unstable_by_key(|call| std::cmp::Reverse(call.id));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}
