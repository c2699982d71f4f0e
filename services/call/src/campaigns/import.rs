//! Taking contacts: rows as they come, committed in batches of bounded size, each with how far the import is. While one batch is
//! being committed the next one is read. A stream that breaks off costs nothing but its last batch, and is sent again.

mod begin;
mod finish;
mod writer;

use std::{mem, sync::Arc, time::Duration};

use callbridge_proto::{campaign::v1::NewContact, id::CampaignId};
use ring::digest::Context;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle, time::Instant};

pub use self::begin::begin;
use self::writer::{MOST_TOLD, Writer};
use super::contacts::{self, Contact, Fault, Reader, Row, copy};
use crate::{
    app::App,
    error::Error,
    store::campaigns::imports::{self, Batch, Import, Problem, WhenDuplicate},
    toll::Dialler,
};

/// Rows committed together.
const BATCH_ROWS: i64 = 10_000;
/// The same in bytes, whatever the rows are.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Rows of a slow stream are committed so often, which is also how it is known that it goes on.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
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

enum Hand {
    Idle(Box<Writer>),
    Busy(JoinHandle<Option<Result<Box<Writer>, Error>>>),
    /// Only while a hand is changed, or after an error.
    Gone,
}

/// An import that goes on.
pub struct Importing {
    app: Arc<App>,
    dialler: Dialler,
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

/// What is known of the first file would be taken for true of the second.
fn reused() -> Error {
    Error::already_exists(
        "IMPORT_KEY_REUSED",
        "another file, or the same one with another when_duplicate, was sent with this key: use a new key",
    )
}

/// Whoever sends a contact has it called, and may have that number called.
fn may_be_called(app: &App, dialler: &Dialler, contact: Contact) -> Row {
    match app.config.toll.allow(&dialler.limits, &contact.number) {
        Ok(()) => Ok(contact),
        Err(_) => Err(contacts::Problem {
            line: contact.line,
            column: "number".to_owned(),
            fault: Fault::NumberNotAllowed,
        }),
    }
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

    /// Takes the rows that were read; all up to line `decided` are among them.
    async fn take(&mut self, decided: i64) -> Result<(), Error> {
        for row in self.rows.drain(..) {
            self.pending.rows += 1;
            match row.and_then(|contact| may_be_called(&self.app, &self.dialler, contact)) {
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
