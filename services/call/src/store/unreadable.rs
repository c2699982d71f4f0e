//! Rows of `calls` that this program cannot read: an unknown label, or facts in words that it does not know. A newer release
//! may have written them, or a hand. They must not hold up the others (F40).

use diesel::{ExpressionMethods as _, QueryDsl as _, QueryResult, SelectableHelper as _, result::Error as DieselError};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{calls::Call, schema::calls};

/// Rows of a list, as far as they can be read.
#[derive(Debug, Default)]
pub struct Read {
    /// Those that can.
    pub calls: Vec<Call>,
    /// Those that cannot: for [`super::calls::quarantine_unreadable`].
    pub unreadable: Vec<Uuid>,
}

/// Reads rows by id, in no order. One that cannot be read takes no other with it. A row that is gone is in neither list.
pub async fn readable(conn: &mut AsyncPgConnection, ids: &[Uuid]) -> QueryResult<Read> {
    let mut read = Read::default();
    let rows = || calls::table.select(Call::as_select());
    let loaded: QueryResult<Vec<Call>> = rows().filter(calls::id.eq_any(ids)).load(conn).await;
    match loaded {
        Ok(calls) => calls.into_iter().for_each(|call| read.sort(call)),
        Err(DieselError::DeserializationError(_)) => {
            for id in ids {
                // A list, so that an unreadable row is not taken for a missing one.
                let one: QueryResult<Vec<Call>> = rows().filter(calls::id.eq(id)).load(conn).await;
                match one {
                    Ok(calls) => calls.into_iter().for_each(|call| read.sort(call)),
                    Err(DieselError::DeserializationError(_)) => read.unreadable.push(*id),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(error) => return Err(error),
    }
    Ok(read)
}

impl Read {
    fn sort(&mut self, call: Call) {
        if call.facts().is_ok() {
            self.calls.push(call);
        } else {
            self.unreadable.push(call.id);
        }
    }
}
