//! Making, changing and steering campaigns. Each change is one transaction under the campaign's lock, which claims take too: when
//! it is answered, no replica dials by what was before. Each is on the campaign's history.

use std::sync::Arc;

use callbridge_proto::id::{CallId, CampaignId};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use serde_json::{Value, json};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    settings::Settings,
    settled,
    state::{Control, OutOfPlace, State, lead},
};
use crate::{
    app::App,
    audit::{self, Subject},
    calls::{
        claim,
        queued::{self, undialled},
        record::Note,
        state::Outcome,
    },
    error::Error,
    store::{
        calls,
        campaigns::{self, Campaign, Maker, Standing},
    },
};

/// The reason of a campaign's end that has called all contacts.
pub(super) const NO_CONTACTS_LEFT: &str = "no_contacts_left";
/// Calls that wait and are cancelled at one time.
const BATCH: i64 = 50;

/// A campaign with its pool.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its row.
    pub campaign: Campaign,
    /// Its phones.
    pub phones: Vec<Uuid>,
}

/// Finds a campaign.
///
/// # Errors
/// `NotFound`.
pub async fn get(app: &App, id: CampaignId) -> Result<Whole, Error> {
    let mut conn = app.db.conn().await?;
    let campaign = campaigns::find(&mut conn, id).await?.ok_or_else(|| unknown(id))?;
    whole(&mut conn, campaign).await
}

/// Adds its pool.
///
/// # Errors
/// Of the database.
pub async fn whole(conn: &mut AsyncPgConnection, campaign: Campaign) -> Result<Whole, Error> {
    let phones = campaigns::phones(conn, campaign.id()).await?;
    Ok(Whole { campaign, phones })
}

fn unknown(id: CampaignId) -> Error {
    Error::not_found("campaign", id)
}

/// Makes a campaign, or finds the one that the caller made with this key; the second value tells which.
///
/// # Errors
/// Invalid, or `AlreadyExists` when the key was used for another request.
pub async fn create(app: &App, caller: &str, key: &str, settings: &Settings) -> Result<(Whole, bool), Error> {
    let canonical =
        serde_json::to_vec(settings).map_err(|_| Error::internal("a campaign's settings could not be serialised"))?;
    let fingerprint = app.tokens.fingerprint(&canonical);
    let mut conn = app.db.conn().await?;
    let mut earlier = campaigns::by_key(&mut conn, caller, key).await?;
    if earlier.is_none() {
        let now = calls::database_now(&conn).await?;
        let account = settings.account(&mut conn, Some(now)).await?;
        let maker = Maker {
            caller,
            key,
            fingerprint: &fingerprint,
        };
        let id = CampaignId(app.clock.new_uuid());
        if let Some(made) = insert(&mut conn, id, maker, settings, account).await? {
            return Ok((made, false));
        }
        earlier = campaigns::by_key(&mut conn, caller, key).await?;
    }
    let earlier = earlier.ok_or_else(|| Error::internal("a campaign's key was taken and is gone"))?;
    if !app.tokens.fingerprint_matches(&earlier.fingerprint, &canonical) {
        return Err(Error::already_exists(
            "IDEMPOTENCY_KEY_REUSED",
            format!(
                "this idempotency key was used for another request, {}: use a new key for a new campaign",
                earlier.id()
            ),
        ));
    }
    unchanged(&mut conn, earlier.id()).await?;
    Ok((whole(&mut conn, earlier).await?, true))
}

/// None: the key was taken meanwhile.
async fn insert(
    conn: &mut AsyncPgConnection,
    id: CampaignId,
    maker: Maker<'_>,
    settings: &Settings,
    account: Uuid,
) -> Result<Option<Whole>, Error> {
    let columns = settings.columns(account)?;
    let phones: Vec<Uuid> = settings.phones.iter().map(|phone| phone.0).collect();
    conn.transaction::<_, Error, _>(async |conn| {
        let Some(campaign) = campaigns::insert(conn, id, maker, &columns, &phones).await? else {
            return Ok(None);
        };
        campaigns::note(conn, id, 1, "created", maker.caller, json!({})).await?;
        audit::changed(conn, Subject::Id(&id)).await?;
        Ok(Some(Whole {
            campaign,
            phones: phones.clone(),
        }))
    })
    .await
}

/// Changes a campaign's settings; the next claim goes by them. `edit` gets those that are there.
///
/// # Errors
/// `NotFound`, Invalid, or Precondition (`CAMPAIGN_OVER`).
pub async fn update(
    app: &Arc<App>,
    caller: &str,
    id: CampaignId,
    fields: &[&str],
    edit: impl Fn(Settings) -> Settings + Send + Sync,
) -> Result<Whole, Error> {
    let mut conn = app.db.conn().await?;
    let after = conn
        .transaction::<_, Error, _>(async |conn| {
            let campaign = campaigns::lock(conn, id).await?.ok_or_else(|| unknown(id))?;
            if State::of(&campaign.state) == Some(State::Aborted) {
                return Err(over(id));
            }
            let phones = campaigns::phones(conn, id).await?;
            let before = Settings::of(&campaign, &phones)?;
            let wanted = edit(before.clone());
            if wanted == before {
                unchanged(conn, id).await?;
                return Ok(Whole { campaign, phones });
            }
            let now = calls::database_now(conn).await?;
            let of_new = (wanted.rules != before.rules).then_some(now);
            let account = wanted.account(conn, of_new).await?;
            if account != campaign.account_id {
                return Err(Error::invalid("phone_ids", "are of the campaign's account"));
            }
            let columns = wanted.columns(account)?;
            let standing = Standing {
                calls_since: wanted.makes_other_calls(&before).then_some(campaign.version + 1),
                ..Standing::default()
            };
            let phones: Vec<Uuid> = wanted.phones.iter().map(|phone| phone.0).collect();
            if wanted.phones != before.phones {
                campaigns::set_phones(conn, id, &phones).await?;
            }
            if wanted.rules != before.rules {
                // What waits by the old rules asks the new ones.
                campaigns::due_again(conn, id).await?;
            }
            let data = json!({ "fields": fields.join(",") });
            audit::changed_with(conn, Subject::Id(&id), data.clone()).await?;
            let campaign =
                campaigns::change(conn, &campaign, Some(&columns), &standing, "updated", caller, data).await?;
            Ok(Whole { campaign, phones })
        })
        .await?;
    app.hub.campaign_changed();
    Ok(after)
}

/// Nothing is added to or changed of a campaign that was aborted.
pub(super) fn over(id: CampaignId) -> Error {
    Error::precondition(
        "CAMPAIGN_OVER",
        format!("campaign {id} was aborted: make a new one with CreateCampaign"),
    )
}

/// Does what is asked of a campaign. Asking again is no mistake. `by` is the caller's name.
///
/// # Errors
/// `NotFound`, or Precondition (`CAMPAIGN_STATE`).
pub async fn control(
    app: &Arc<App>,
    by: &str,
    id: CampaignId,
    control: Control,
    reason: &str,
) -> Result<Campaign, Error> {
    let mut conn = app.db.conn().await?;
    let (campaign, changed) = conn
        .transaction::<_, Error, _>(async |conn| {
            let followed = follow(conn, by, id, control, reason, |_| true).await?;
            if followed.1 {
                audit::changed(conn, Subject::Id(&id)).await?;
            } else {
                unchanged(conn, id).await?;
            }
            Ok(followed)
        })
        .await?;
    drop(conn);
    if changed {
        info!(campaign.id = %id, by, control = control.word(), "a campaign is steered");
        app.hub.campaign_changed();
    }
    Ok(campaign)
}

/// Steers a campaign without being asked. `still` is whether there is reason to, by the campaign as it stands under its lock: what
/// was read before may be what an operator has just changed. Returns whether it did.
///
/// # Errors
/// `NotFound`, or of the database.
pub(super) async fn by_itself(
    app: &Arc<App>,
    id: CampaignId,
    control: Control,
    reason: &str,
    still: impl Fn(&Campaign) -> bool + Send + Sync,
) -> Result<bool, Error> {
    let mut conn = app.db.conn().await?;
    let done = conn
        .transaction::<_, Error, _>(async |conn| follow(conn, "callbridge", id, control, reason, &still).await)
        .await;
    drop(conn);
    match done {
        Ok((_, true)) => {
            warn!(campaign.id = %id, control = control.word(), reason, "a campaign is steered by itself");
            app.hub.campaign_changed();
            Ok(true)
        }
        // An operator was quicker.
        Ok((_, false)) | Err(Error::Precondition { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same within the caller's transaction, if `still` says so of the locked campaign; the second value tells whether anything
/// changed.
///
/// # Errors
/// As [`control`].
pub(super) async fn follow(
    conn: &mut AsyncPgConnection,
    by: &str,
    id: CampaignId,
    control: Control,
    reason: &str,
    still: impl Fn(&Campaign) -> bool,
) -> Result<(Campaign, bool), Error> {
    let campaign = campaigns::lock(conn, id).await?.ok_or_else(|| unknown(id))?;
    if !still(&campaign) {
        return Ok((campaign, false));
    }
    let from =
        State::of(&campaign.state).ok_or_else(|| Error::internal("a campaign has a state of a later release"))?;
    let to = match lead(from, control) {
        Ok(Some(to)) => to,
        Ok(None) => return Ok((campaign, false)),
        Err(OutOfPlace) => {
            return Err(Error::precondition(
                "CAMPAIGN_STATE",
                format!("campaign {id} is {}: it cannot be {} now", from.word(), control.word()),
            ));
        }
    };
    let now = calls::database_now(conn).await?;
    let running = to == State::Running;
    let standing = Standing {
        state: Some(to.word().to_owned()),
        state_reason: Some(reason.to_owned()),
        started_at: (running && campaign.started_at.is_none()).then_some(now),
        running_since: running.then_some(now),
        ended_at: Some(to.is_over().then_some(now)),
        calls_since: None,
    };
    let data = if reason.is_empty() {
        Value::Object(serde_json::Map::new())
    } else {
        json!({ "reason": reason })
    };
    let after = campaigns::change(conn, &campaign, None, &standing, control.word(), by, data).await?;
    Ok((after, true))
}

/// What was asked for was so before.
async fn unchanged(conn: &mut AsyncPgConnection, id: CampaignId) -> Result<(), Error> {
    let data = json!({ "unchanged": "true" });
    audit::changed_with(conn, Subject::Id(&id), data).await
}

/// Calls of a campaign that are active.
///
/// # Errors
/// Of the database.
pub async fn in_flight(app: &App, id: CampaignId) -> Result<i64, Error> {
    let mut conn = app.db.conn().await?;
    Ok(campaigns::active(&mut conn, id).await?)
}

/// Cancels calls that wait and are not going to be dialled: their campaign is over, or makes other calls now, and their contacts
/// are due again. Returns whether there may be more.
///
/// # Errors
/// Of the database.
pub(super) async fn cancel_left_over(app: &Arc<App>) -> Result<bool, Error> {
    let mut conn = app.db.conn().await?;
    let left = campaigns::left_over(&mut conn, BATCH).await?;
    let more = i64::try_from(left.len()) == Ok(BATCH);
    for left in left {
        let id = CallId(left.id);
        let reason = if left.over { settled::OVER } else { settled::CHANGED };
        let end = (undialled(Outcome::Canceled, reason), Note::from("campaign"));
        // Whoever claimed it meanwhile saw the campaign running: that call goes on.
        if let Err(error) = queued::end(app, &mut conn, id, end, |_, _| true).await {
            // A row that cannot be read must not keep the others.
            claim::unreadable(app, &mut conn, id, error).await?;
        }
    }
    Ok(more)
}
