//! Lists of numbers that campaigns do not call. They hold from the next claim on.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    app::App,
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
    Ok(numbers::suppress(&mut conn, listing).await?)
}
