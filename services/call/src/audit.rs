//! The audit trail: who changed what, and to whom what was shown. The auth layer says who asks, and refuses to answer when a method
//! that has to leave an entry did not. A change's entry is in its own transaction; what is shown is written beside others that are shown
//! at the moment.

mod trail;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use callbridge_proto::id::KeyId;
use diesel_async::AsyncPgConnection;
use runtime::telemetry;
use serde_json::{Value, json};
use tokio::task_local;
use tracing::Span;

pub use trail::Trail;

use crate::{
    error::Error,
    store::audit::{self, NewEntry, Outcome},
};

task_local! {
    static ACT: Arc<Act>;
}

/// A request that may leave entries.
#[derive(Debug)]
pub(crate) struct Act {
    principal: Arc<str>,
    key: Option<KeyId>,
    method: Arc<str>,
    span: Span,
    noted: AtomicBool,
}

impl Act {
    /// Of a request to `path`, which is `/callbridge.area.v1.Service/Method`, within its span.
    pub(crate) fn new(principal: Arc<str>, key: Option<KeyId>, path: &str) -> Arc<Self> {
        let method = path.rsplit_once('.').map_or(path, |(_, method)| method);
        Arc::new(Self {
            principal,
            key,
            method: method.into(),
            span: Span::current(),
            noted: AtomicBool::new(false),
        })
    }

    fn entry(&self, outcome: Outcome, subject: Subject<'_>, data: Value) -> NewEntry {
        let traceparent = telemetry::traceparent(&self.span);
        let (subject, number) = match subject {
            Subject::Id(id) => (id.to_string(), None),
            Subject::Number(number) => (String::new(), Some(number.to_owned())),
            Subject::All => (String::new(), None),
        };
        NewEntry {
            principal: Arc::clone(&self.principal),
            key: self.key.map(|key| key.0),
            method: Arc::clone(&self.method),
            subject,
            number,
            trace: traceparent.and_then(|text| text.split('-').nth(1).map(str::to_owned)),
            outcome,
            data,
        }
    }

    /// Whether it has left an entry.
    pub(crate) fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Acquire)
    }

    /// Runs what the request is answered by.
    pub(crate) fn of<F: Future>(self: &Arc<Self>, answer: F) -> impl Future<Output = F::Output> + use<F> {
        ACT.scope(Arc::clone(self), answer)
    }
}

/// What an entry is about.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// Something with an id.
    Id(&'a (dyn fmt::Display + Sync)),
    /// A number in E.164, of which the trail keeps the hash.
    Number(&'a str),
    /// A list of all.
    All,
}

/// Notes a change, in its transaction.
///
/// # Errors
/// Of the database; the change must not be committed then.
pub(crate) async fn changed(conn: &mut AsyncPgConnection, subject: Subject<'_>) -> Result<(), Error> {
    note(conn, Outcome::Changed, subject, json!({})).await
}

/// Notes a change, in its transaction, where a request asks for it. What a task of ours does is on the timeline of its call.
///
/// # Errors
/// Of the database; the change must not be committed then.
pub(crate) async fn changed_on_request(conn: &mut AsyncPgConnection, subject: Subject<'_>) -> Result<(), Error> {
    if ACT.try_with(|_| ()).is_ok() {
        changed(conn, subject).await?;
    }
    Ok(())
}

/// The same as [`changed`] with words and counts: never numbers or secrets.
///
/// # Errors
/// Of the database; the change must not be committed then.
pub(crate) async fn changed_with(conn: &mut AsyncPgConnection, subject: Subject<'_>, data: Value) -> Result<(), Error> {
    note(conn, Outcome::Changed, subject, data).await
}

/// Notes that something is shown. Call it before it is, and without a connection in hand: it waits for one that others share.
///
/// # Errors
/// Of the database; it must not be shown then.
pub(crate) async fn shown(trail: &Trail, subject: Subject<'_>) -> Result<(), Error> {
    write(trail, Outcome::Shown, subject, json!({})).await
}

/// Notes that somebody asks for a call outside the calling hours, and why. Call it before the call is made.
///
/// # Errors
/// Of the database; there must be no call then.
pub(crate) async fn hours_overridden(trail: &Trail, number: &str, reason: &str) -> Result<(), Error> {
    let data = json!({ "calling_hours_override": without_digits(reason) });
    write(trail, Outcome::Changed, Subject::Number(number), data).await
}

/// Words of a caller's, in which there may be a number.
pub(crate) fn without_digits(words: &str) -> String {
    words.chars().map(|c| if c.is_numeric() { '#' } else { c }).collect()
}

async fn write(trail: &Trail, outcome: Outcome, subject: Subject<'_>, data: Value) -> Result<(), Error> {
    let act = act()?;
    trail.write(act.entry(outcome, subject, data)).await?;
    act.noted.store(true, Ordering::Release);
    Ok(())
}

/// Notes anything, in a transaction.
///
/// # Errors
/// Of the database.
pub(crate) async fn note(
    conn: &mut AsyncPgConnection,
    outcome: Outcome,
    subject: Subject<'_>,
    data: Value,
) -> Result<(), Error> {
    let act = act()?;
    audit::append(conn, &[act.entry(outcome, subject, data)]).await?;
    act.noted.store(true, Ordering::Release);
    Ok(())
}

fn act() -> Result<Arc<Act>, Error> {
    ACT.try_with(Arc::clone)
        .map_err(|_| Error::internal("the audit trail was to note what nobody asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_named_by_its_service() {
        let act = Act::new("crm".into(), None, "/callbridge.call.v1.CallService/GetCall");
        assert_eq!(&*act.method, "CallService/GetCall");
        assert!(!act.is_noted());
    }
}
