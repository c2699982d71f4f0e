//! Taking contacts: rows as they come, committed in batches of bounded size, each with how far the import is. While one batch is
//! being committed the next one is read. A stream that breaks off costs nothing but its last batch, and is sent again.

use std::{mem, sync::Arc, time::Duration};

use callbridge_proto::{campaign::v1::NewContact, id::CampaignId};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use ring::digest::{Context, SHA256};
use serde_json::json;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle, time::Instant};
use tokio_postgres::Client;
use tracing::info;
use uuid::Uuid;

use super::{
    contacts::{Contact, Reader, Row, copy},
    control,
    state::{Control, State},
};
use crate::{
    app::App,
    error::Error,
    store::campaigns::{
        self, Campaign, Standing,
        counts::{self, Delta},
        imports::{self, Batch, CommitError, Import, Problem, WhenDuplicate, held},
    },
};

/// Rows committed together.
const BATCH_ROWS: i64 = 10_000;
/// The same in bytes, whatever the rows are.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Rows of a slow stream are committed so often, which is also how it is known that it goes on.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// Problems that are told one by one.
const MOST_TOLD: usize = 1_000;
/// Held contacts that are let go, or taken back, in one transaction.
const HELD: i64 = 10_000;
/// Contacts of one message.
const MOST_OF_LIST: usize = 500;

/// What is going to be sent.
#[derive(Debug, Clone)]
pub struct Header {
    /// To which campaign.
    pub campaign: CampaignId,
    /// Names the import: the same key goes on where it broke off.
    pub key: String,
    /// SHA-256 of a CSV file, if it is to be compared.
    pub sha256: Option<Vec<u8>>,
    /// What to do with numbers that are there.
    pub policy: WhenDuplicate,
}

/// What came of an import.
#[derive(Debug, Clone)]
pub struct Report {
    /// All rows so far.
    pub import: Import,
    /// Rows that earlier streams had dealt with.
    pub resumed_after: i64,
    /// It had been done before.
    pub repeated: bool,
}

/// How it is sent.
enum Form {
    Unknown,
    File(Box<Reader>),
    /// How many contacts came.
    List(i64),
}

/// The connection, and how far the import is as far as is committed.
struct Writer {
    client: Client,
    import: Import,
}

enum Hand {
    Idle(Box<Writer>),
    Busy(JoinHandle<Option<Result<Box<Writer>, Error>>>),
    /// Only while a hand is changed, or after an error.
    Gone,
}

/// An import that goes on.
pub struct Importing {
    app: Arc<App>,
    caller: String,
    header: Header,
    form: Form,
    rows: Vec<Row>,
    copy: copy::Rows,
    batch: Batch,
    /// Rows since the last batch, those in error included.
    pending: Import,
    hand: Hand,
    resumed_after: i64,
    line: i64,
    /// What was sent under the key before, or is now: see [`Import::header`].
    columns: Option<String>,
    flushed: Instant,
    hash: Context,
    _permit: OwnedSemaphorePermit,
}

/// An import, or what came of it when it had been done before.
pub enum Begun {
    /// Send on.
    Goes(Box<Importing>),
    /// Nothing has to be sent.
    Done(Report),
}

/// Begins an import, or goes on with it.
///
/// # Errors
/// `NotFound`, Precondition (`CAMPAIGN_OVER`), `AlreadyExists` (`IMPORT_KEY_REUSED`), Exhausted (`TOO_MANY_IMPORTS`).
pub async fn begin(app: &Arc<App>, caller: &str, header: Header) -> Result<Begun, Error> {
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
        caller: caller.to_owned(),
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
async fn has_contacts(conn: &mut AsyncPgConnection, caller: &str, campaign: Campaign) -> Result<Campaign, Error> {
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

/// What is known of the first file would be taken for true of the second.
fn reused() -> Error {
    Error::already_exists(
        "IMPORT_KEY_REUSED",
        "another file, or the same one with another when_duplicate, was sent with this key: use a new key",
    )
}

impl Importing {
    /// Takes a piece of a file.
    ///
    /// # Errors
    /// Invalid: the file is of no use, or contacts came before. `AlreadyExists`: its columns are not those that were sent before.
    /// Of the database.
    pub async fn csv(&mut self, piece: &[u8]) -> Result<(), Error> {
        if matches!(self.form, Form::Unknown) {
            let known = u64::try_from(self.line).unwrap_or(0);
            self.form = Form::File(Box::new(Reader::after(known)));
        }
        let Form::File(reader) = &mut self.form else {
            return Err(Error::invalid("csv_chunk", "is not sent together with contacts"));
        };
        self.hash.update(piece);
        reader
            .push(piece, &mut self.rows)
            .map_err(|error| Error::invalid("csv_chunk", error.to_string()))?;
        let decided = i64::try_from(reader.decided()).unwrap_or(i64::MAX);
        let columns = reader.columns().map(|columns| columns.join("\n"));
        if let Some(columns) = columns {
            self.are_columns(&columns)?;
        }
        self.take(decided).await
    }

    fn are_columns(&mut self, columns: &str) -> Result<(), Error> {
        if *self.columns.get_or_insert_with(|| columns.to_owned()) == columns {
            Ok(())
        } else {
            Err(reused())
        }
    }

    /// Takes some contacts.
    ///
    /// # Errors
    /// Invalid: too many at one time, or a file came before. `AlreadyExists`: a file was sent before. Of the database.
    pub async fn list(&mut self, contacts: &[NewContact]) -> Result<(), Error> {
        if contacts.len() > MOST_OF_LIST {
            return Err(Error::invalid("contacts", "are at most 500 in one message"));
        }
        if matches!(self.form, Form::Unknown) {
            self.form = Form::List(0);
            self.are_columns("")?;
        }
        let Form::List(place) = &mut self.form else {
            return Err(Error::invalid("contacts", "are not sent together with csv_chunk"));
        };
        for contact in contacts {
            *place += 1;
            if *place <= self.line {
                continue;
            }
            let variables = contact
                .variables
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            let line = u64::try_from(*place).unwrap_or(0);
            self.rows
                .push(Contact::read(line, &contact.number, &contact.zone, variables));
        }
        let place = *place;
        self.take(place.max(self.line)).await
    }

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
            let row = has_contacts(conn, &self.caller, row).await?;
            if imports::finish(conn, campaign, &self.header.key).await? {
                let data = json!({
                    "accepted": import.accepted.to_string(),
                    "duplicates": import.duplicates.to_string(),
                    "rejected": import.rejected.to_string(),
                });
                let none = Standing::default();
                campaigns::change(conn, &row, None, &none, "contacts_added", &self.caller, data).await?;
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

    /// Takes the rows that were read; all up to line `decided` are among them.
    async fn take(&mut self, decided: i64) -> Result<(), Error> {
        for row in self.rows.drain(..) {
            self.pending.rows += 1;
            match row {
                Ok(contact) => {
                    self.copy.contact(&contact).plain(self.app.clock.new_uuid()).end();
                    self.batch.contacts += 1;
                    let zone = contact.zone.map_or("", |zone| zone.name());
                    if !self.batch.zones.contains(zone) {
                        self.batch.zones.insert(zone.to_owned());
                    }
                }
                Err(problem) => {
                    self.pending.rejected += 1;
                    let problem = Problem {
                        line: i64::try_from(problem.line).unwrap_or(i64::MAX),
                        column: problem.column,
                        problem: problem.fault.word().to_owned(),
                    };
                    self.pending.tell(problem, MOST_TOLD);
                }
            }
        }
        self.line = decided;
        let is_late = self.flushed.elapsed() >= FLUSH_EVERY;
        if is_late && self.pending.rows == 0 {
            self.flushed = Instant::now();
            imports::touch(&mut *self.app.db.conn().await?, self.header.campaign, &self.header.key).await?;
        } else if is_late || self.pending.rows >= BATCH_ROWS || self.copy.len() >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hands what was read to the writer, when that is done with the batch before.
    async fn flush(&mut self) -> Result<(), Error> {
        let mut writer = self.writer().await?;
        let mut batch = mem::take(&mut self.batch);
        batch.copy = self.copy.take();
        let pending = Import {
            header: self.columns.clone(),
            ..mem::take(&mut self.pending)
        };
        self.flushed = Instant::now();
        let (header, line) = (self.header.clone(), self.line);
        self.hand = Hand::Busy(self.app.tasks.spawn(async move {
            writer.commit(&header, batch, pending, line).await?;
            Ok(writer)
        }));
        Ok(())
    }

    async fn writer(&mut self) -> Result<Box<Writer>, Error> {
        match mem::replace(&mut self.hand, Hand::Gone) {
            Hand::Idle(writer) => Ok(writer),
            Hand::Busy(busy) => match busy.await {
                Ok(Some(writer)) => writer,
                Ok(None) => Err(Error::unavailable(
                    "this replica shuts down: send the file again with the same key",
                )),
                Err(error) => Err(Error::internal_from(
                    "a batch of contacts could not be committed",
                    error,
                )),
            },
            Hand::Gone => Err(Error::internal("an import went on after an error")),
        }
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

impl Writer {
    async fn commit(&mut self, header: &Header, batch: Batch, pending: Import, line: i64) -> Result<(), Error> {
        if line == self.import.line && pending.rows == 0 {
            return Ok(());
        }
        let staged = batch.contacts;
        let before = self.import.clone();
        let committed = imports::commit(
            &mut self.client,
            (header.campaign, &header.key),
            batch,
            header.policy,
            &self.import,
            MOST_TOLD,
            |committed| after(before, pending, &committed, staged, line),
        );
        self.import = committed.await.map_err(|error| match error {
            CommitError::Raced => Error::aborted(
                "IMPORT_RUNNING",
                "another stream sends the import with this key: wait for its end, or send again when it broke off",
            ),
            CommitError::Db(error) => error.into(),
        })?;
        Ok(())
    }
}

/// How far an import is after a batch.
fn after(mut import: Import, pending: Import, committed: &imports::Committed, staged: i64, line: i64) -> Import {
    import.line = line;
    import.header = pending.header;
    import.rows += pending.rows;
    import.accepted += committed.accepted;
    import.duplicates += staged - committed.accepted;
    import.rejected += pending.rejected;
    // As many as can be told were asked for; there may be more.
    let cut =
        pending.problems_cut || staged - committed.accepted > i64::try_from(committed.duplicates.len()).unwrap_or(0);
    let duplicates = committed.duplicates.iter().map(|line| Problem {
        line: *line,
        column: "number".to_owned(),
        problem: "duplicate".to_owned(),
    });
    let mut problems: Vec<Problem> = pending.problems.into_iter().chain(duplicates).collect();
    problems.sort_by_key(|problem| problem.line);
    for problem in problems {
        import.tell(problem, MOST_TOLD);
    }
    import.problems_cut |= cut;
    import
}
