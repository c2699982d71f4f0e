//! Rows of `webhook_inbox`: callbacks as they came, until they are applied.

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, Insertable, OptionalExtension as _, QueryDsl as _, QueryResult, Queryable, Selectable,
    SelectableHelper as _, dsl::now,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::prepared::Prepared;
use crate::store::schema::webhook_inbox;

/// A callback that waits.
#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = webhook_inbox, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Delivery {
    pub id: i64,
    pub call_id: Uuid,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
    pub received_at: DateTime<Utc>,
}

impl Delivery {
    /// The typed id of the call.
    pub fn call_id(&self) -> CallId {
        CallId(self.call_id)
    }
}

/// A row to be.
#[derive(Insertable)]
#[diesel(table_name = webhook_inbox)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct NewDelivery {
    pub call_id: Uuid,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

/// Which waiting row to take.
#[derive(Debug, Clone, Copy)]
pub enum Pick {
    /// This one.
    This(i64),
    /// The first one after this.
    After(i64),
}

/// Keeps a callback. Returns its number.
pub async fn insert(conn: &mut AsyncPgConnection, delivery: &NewDelivery) -> QueryResult<i64> {
    diesel::insert_into(webhook_inbox::table)
        .values((delivery, webhook_inbox::received_at.eq(now)))
        .returning(webhook_inbox::id)
        .get_result(conn)
        .await
}

/// Locks a waiting row until the transaction ends. None: there is none, or another replica has it.
pub async fn take(conn: &mut AsyncPgConnection, pick: Pick) -> QueryResult<Option<Delivery>> {
    let waiting = webhook_inbox::table
        .filter(webhook_inbox::applied_at.is_null())
        .filter(webhook_inbox::problem.is_null())
        .order(webhook_inbox::id)
        .select(Delivery::as_select());
    match pick {
        Pick::This(id) => waiting
            .filter(webhook_inbox::id.eq(id))
            .for_update()
            .skip_locked()
            .first(conn)
            .await
            .optional(),
        Pick::After(id) => waiting
            .filter(webhook_inbox::id.gt(id))
            .for_update()
            .skip_locked()
            .first(conn)
            .await
            .optional(),
    }
}

/// What is kept of a body: no people, tokens and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of `body`, which may be another than that of the body that came.
    pub content_type: &'static str,
    /// At most 64 KiB.
    pub body: Vec<u8>,
}

impl Kept {
    /// Of what comes late about somebody who was erased.
    pub fn nothing() -> Self {
        Self {
            content_type: "",
            body: Vec::new(),
        }
    }
}

/// Marks a row as applied, and keeps this of its body.
pub async fn applied(conn: &mut AsyncPgConnection, id: i64, kept: &Kept) -> QueryResult<usize> {
    let update = diesel::update(webhook_inbox::table.find(id)).set((
        webhook_inbox::applied_at.eq(now),
        webhook_inbox::content_type.eq(kept.content_type),
        webhook_inbox::body.eq(&kept.body),
    ));
    Prepared(update).execute(conn).await
}

/// Sets a row aside for a person, and keeps this of its body.
pub async fn park(conn: &mut AsyncPgConnection, id: i64, problem: &str, kept: &Kept) -> QueryResult<usize> {
    diesel::update(webhook_inbox::table.find(id))
        .set((
            webhook_inbox::problem.eq(problem),
            webhook_inbox::content_type.eq(kept.content_type),
            webhook_inbox::body.eq(&kept.body),
        ))
        .execute(conn)
        .await
}
