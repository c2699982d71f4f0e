//! The beginning of an import, or of another stream of it.

use std::sync::Arc;

use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use ring::digest::{Context, SHA256};
use tokio::time::Instant;

use super::{Begun, Form, Hand, Header, Importing, Report, reused, writer::Writer};
use crate::{
    app::App,
    audit::{self, Subject},
    campaigns::{
        contacts::copy,
        control,
        state::{Control, State},
    },
    error::Error,
    store::campaigns::{
        self, Campaign,
        imports::{self, Batch, Import, WhenDuplicate},
    },
    toll::Dialler,
};

/// Begins an import, or goes on with it.
///
/// # Errors
/// `NotFound`, Precondition (`CAMPAIGN_OVER`), `AlreadyExists` (`IMPORT_KEY_REUSED`), Exhausted (`TOO_MANY_IMPORTS`).
pub async fn begin(app: &Arc<App>, dialler: &Dialler, header: Header) -> Result<Begun, Error> {
    let caller = &*dialler.name;
    let permit = Arc::clone(&app.import_permits).try_acquire_owned().map_err(|_| {
        Error::exhausted(
            "TOO_MANY_IMPORTS",
            "this replica takes as many imports as it can: try again with the same key when one is done",
        )
    })?;
    let mut conn = app.db.conn().await?;
    let import = conn
        .transaction::<_, Error, _>(async |conn| {
            // The lock that a finish takes: it comes before, or sees that contacts are being sent.
            let campaign = campaigns::lock(conn, header.campaign)
                .await?
                .ok_or_else(|| Error::not_found("campaign", header.campaign))?;
            if State::of(&campaign.state) == Some(State::Aborted) {
                return Err(control::over(header.campaign));
            }
            let key = (header.campaign, header.key.as_str());
            has_contacts(conn, caller, campaign).await?;
            let id = app.clock.new_uuid();
            let import = imports::begin(conn, key, id, caller, header.sha256.as_deref(), header.policy).await?;
            let same_file = header.sha256.is_none() || header.sha256 == import.sha256;
            if !same_file || import.replaces != (header.policy == WhenDuplicate::Replace) {
                return Err(reused());
            }
            audit::changed(conn, Subject::Id(&header.campaign)).await?;
            Ok(import)
        })
        .await?;
    drop(conn);
    let resumed_after = import.rows;
    if import.finished {
        return Ok(Begun::Done(Report {
            import,
            resumed_after,
            repeated: true,
        }));
    }
    let (client, drive) = app.db.copying().await?;
    app.tasks.spawn(drive);
    Ok(Begun::Goes(Box::new(Importing {
        app: Arc::clone(app),
        dialler: dialler.clone(),
        form: Form::Unknown,
        rows: Vec::new(),
        copy: copy::Rows::default(),
        batch: Batch::default(),
        pending: Import::default(),
        resumed_after,
        line: import.line,
        columns: import.header.clone(),
        flushed: Instant::now(),
        hand: Hand::Idle(Box::new(Writer { client, import })),
        hash: Context::new(&SHA256),
        header,
        _permit: permit,
    })))
}

/// A campaign that ended for want of contacts goes on when they come.
pub(super) async fn has_contacts(
    conn: &mut AsyncPgConnection,
    caller: &str,
    campaign: Campaign,
) -> Result<Campaign, Error> {
    if State::of(&campaign.state) != Some(State::Finished) || campaign.state_reason != control::NO_CONTACTS_LEFT {
        return Ok(campaign);
    }
    let reason = "contacts_added";
    Ok(
        control::follow(conn, caller, campaign.id(), Control::Resume, reason, |_| true)
            .await?
            .0,
    )
}
