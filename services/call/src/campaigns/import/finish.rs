//! The end of an import: the hash is compared, and its contacts are let go or taken back.

use callbridge_proto::id::CampaignId;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use serde_json::json;
use tracing::info;
use uuid::Uuid;

use super::{Form, Importing, Report, begin::has_contacts};
use crate::{
    error::Error,
    store::campaigns::{
        self, Standing,
        counts::{self, Delta},
        imports::{self, held},
    },
};

/// Held contacts that are let go, or taken back, in one transaction.
const HELD: i64 = 10_000;

impl Importing {
    /// Everything was sent.
    ///
    /// # Errors
    /// Invalid: the file has another hash, or no header. Of the database.
    pub async fn finish(mut self: Box<Self>) -> Result<Report, Error> {
        if let Form::File(reader) = &mut self.form {
            reader
                .finish(&mut self.rows)
                .map_err(|error| Error::invalid("csv_chunk", error.to_string()))?;
            let decided = i64::try_from(reader.decided()).unwrap_or(i64::MAX);
            self.take(decided).await?;
        }
        self.flush().await?;
        let writer = self.writer().await?;
        let hash = self.hash.finish();
        let import = writer.import;
        let campaign = self.header.campaign;
        let mut conn = self.app.db.conn().await?;
        if let Some(expected) = &import.sha256 {
            if expected != hash.as_ref() {
                take_back(&mut conn, campaign, &self.header.key, import.id).await?;
                return Err(Error::invalid(
                    "header.sha256",
                    "is not that of what was sent: none of it is called, and its new contacts are taken back; send the whole file again",
                ));
            }
            while held::let_go(&mut conn, campaign, import.id, HELD).await? > 0 {}
        }
        conn.transaction::<_, Error, _>(async |conn| {
            let row = campaigns::lock(conn, campaign)
                .await?
                .ok_or_else(|| Error::not_found("campaign", campaign))?;
            let row = has_contacts(conn, &self.dialler.name, row).await?;
            if imports::finish(conn, campaign, &self.header.key).await? {
                let data = json!({
                    "accepted": import.accepted.to_string(),
                    "duplicates": import.duplicates.to_string(),
                    "rejected": import.rejected.to_string(),
                });
                let none = Standing::default();
                campaigns::change(conn, &row, None, &none, "contacts_added", &self.dialler.name, data).await?;
            }
            Ok(())
        })
        .await?;
        info!(campaign.id = %campaign, rows = import.rows, accepted = import.accepted, "contacts were added");
        self.app.hub.campaign_changed();
        Ok(Report {
            import,
            resumed_after: self.resumed_after,
            repeated: false,
        })
    }
}

/// Takes all held contacts of an import back, and begins it anew.
async fn take_back(conn: &mut AsyncPgConnection, campaign: CampaignId, key: &str, import: Uuid) -> Result<(), Error> {
    loop {
        let taken = conn
            .transaction::<_, Error, _>(async |conn| {
                let taken = held::take_back(conn, campaign, import, HELD).await?;
                let word = "contact.pending".to_owned();
                let n = -i64::try_from(taken).unwrap_or(0);
                counts::add(conn, campaign.0, &[Delta { word, n }]).await?;
                if taken == 0 {
                    held::forget(conn, campaign, key).await?;
                }
                Ok(taken)
            })
            .await?;
        if taken == 0 {
            return Ok(());
        }
    }
}
