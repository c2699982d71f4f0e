//! Contacts of a file with a hash, which nobody calls before the hash was compared: a wrong file must not ring a single phone. They
//! are due in a time that never comes, and are found through the index of what is due. A few at a time: no transaction is long.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, sql_query,
    sql_types::{Int8, Text, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid as RawUuid;

/// When held contacts are due, in SQL.
macro_rules! held_until {
    () => {
        "'9999-01-01 00:00:00+00'::timestamptz"
    };
}
pub(in crate::store) use held_until;

/// Which of an import are held. $1 the campaign, $2 the import, $3 how many.
macro_rules! some_held {
    () => {
        concat!(
            "SELECT k.id FROM campaign_zones z CROSS JOIN LATERAL (
                SELECT c.id FROM contacts c WHERE c.campaign_id = $1 AND c.zone = z.zone AND c.state = 'pending'
                    AND c.next_at = ",
            held_until!(),
            " AND c.import_id = $2 LIMIT $3 FOR UPDATE
            ) k WHERE z.campaign_id = $1 LIMIT $3"
        )
    };
}

/// Whether a contact that is due then is held.
pub fn is_held(next_at: DateTime<Utc>) -> bool {
    // 9999-01-01 in seconds of Unix time.
    next_at.timestamp() >= 253_370_764_800
}

/// Lets some of an import's contacts be called. Returns how many; zero: all are.
pub async fn let_go(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    import: RawUuid,
    limit: i64,
) -> QueryResult<usize> {
    sql_query(concat!(
        "UPDATE contacts SET next_at = 'epoch' WHERE campaign_id = $1 AND id = ANY(ARRAY(",
        some_held!(),
        "))"
    ))
    .bind::<Uuid, _>(campaign.0)
    .bind::<Uuid, _>(import)
    .bind::<Int8, _>(limit)
    .execute(conn)
    .await
}

/// Takes some of an import's held contacts back. Returns how many; zero: none is left. Call it in a transaction with their count.
pub async fn take_back(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    import: RawUuid,
    limit: i64,
) -> QueryResult<usize> {
    sql_query(concat!(
        "DELETE FROM contacts WHERE campaign_id = $1 AND id = ANY(ARRAY(",
        some_held!(),
        "))"
    ))
    .bind::<Uuid, _>(campaign.0)
    .bind::<Uuid, _>(import)
    .bind::<Int8, _>(limit)
    .execute(conn)
    .await
}

/// Makes an import as if nothing had ever been sent under its key.
pub async fn forget(conn: &mut AsyncPgConnection, campaign: CampaignId, key: &str) -> QueryResult<usize> {
    sql_query(
        "UPDATE campaign_imports SET sha256 = NULL, header = NULL, line = 0, rows = 0, accepted = 0, duplicates = 0, rejected = 0,
            problems = '[]', problems_cut = false, updated_at = clock_timestamp()
        WHERE campaign_id = $1 AND key = $2 AND finished_at IS NULL",
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Text, _>(key)
    .execute(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_sql_is_the_one_that_is_recognised() {
        let text = held_until!();
        let time = text.trim_start_matches('\'').split('\'').next().unwrap();
        let held = DateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%#z").unwrap().to_utc();
        assert!(is_held(held));
        assert!(!is_held(held - chrono::TimeDelta::seconds(1)));
    }
}
