//! Lists of numbers that campaigns do not call. They hold from the next claim on.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::App,
    audit::{self, Subject},
    error::Error,
    store::{
        calls,
        campaigns::{
            self,
            numbers::{self, Listing, Source},
        },
    },
};

/// Puts numbers (E.164) on the list of all campaigns, or of one. Returns how many were not on it.
///
/// # Errors
/// `NotFound`, or Invalid when the end is over.
pub async fn add(
    app: &App,
    by: &str,
    campaign: Option<CampaignId>,
    numbers: &[String],
    reason: &str,
    expires_at: Option<DateTime<Utc>>,
) -> Result<i64, Error> {
    let mut conn = app.db.conn().await?;
    if let Some(id) = campaign {
        campaigns::find(&mut conn, id)
            .await?
            .ok_or_else(|| Error::not_found("campaign", id))?;
    }
    let now = calls::database_now(&conn).await?;
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Error::invalid("expires_at", "is later than now"));
    }
    let ids: Vec<Uuid> = numbers.iter().map(|_| app.clock.new_uuid()).collect();
    let listing = Listing {
        source: Source::Caller,
        campaign,
        numbers,
        ids: &ids,
        reason,
        by,
        expires_at,
    };
    conn.transaction::<_, Error, _>(async |conn| {
        note(conn, campaign, numbers.len()).await?;
        Ok(numbers::suppress(conn, listing).await?)
    })
    .await
}

/// Takes numbers (E.164) off the list of all campaigns, or of one. Returns how many were on it.
///
/// # Errors
/// Of the database.
pub async fn remove(
    app: &App,
    by: &str,
    (campaign, source): (Option<CampaignId>, Source),
    numbers: &[String],
) -> Result<i64, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        note(conn, campaign, numbers.len()).await?;
        Ok(numbers::release(conn, by, (campaign, source), numbers).await?)
    })
    .await
}

/// Each number is on the list's own history.
async fn note(conn: &mut AsyncPgConnection, campaign: Option<CampaignId>, numbers: usize) -> Result<(), Error> {
    let data = json!({ "numbers": numbers });
    let subject = campaign.as_ref().map_or(Subject::All, |id| Subject::Id(id));
    audit::changed_with(conn, subject, data).await
}
