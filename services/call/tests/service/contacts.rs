//! What becomes of contacts, as the database sees it.

use call_service::store::contacts::settle;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio_postgres::Client;

use crate::service::{PATIENCE, client, database};

/// A key of advisory locks that nothing else uses.
const HELD: i64 = 1_071;

/// A running campaign with one contact, whose first call has ended. Foreign keys are not looked at.
async fn with_an_ended_call(db: &Client) {
    db.batch_execute(
        "SET session_replication_role = replica;
        INSERT INTO campaigns (id, name, state, caller, idempotency_key, fingerprint, account_id, agent_id, rules,
            max_concurrent_calls, calls_per_minute, priority, ring_timeout_seconds, time_limit_seconds, record, metadata)
        VALUES (uuid_of(1), 'c', 'running', 'test', 'c', '', uuid_of(8), uuid_of(9), '{}', 0, 0, 0, 30, 60, false, '{}');
        INSERT INTO calls (id, version, direction, state, attempt, account_id, customer, exophone, caller, idempotency_key,
            not_before, expire_at, due_at, facts, campaign_id, contact_id, ended_at, end_reason)
        VALUES (uuid_of(3), 1, 'outbound', 'failed', 1, uuid_of(8), '+919812345678', '+918045678901', 'test', 'k:1',
            now(), now(), now(), '{}', uuid_of(1), uuid_of(2), now(), 'failed');
        INSERT INTO contacts (campaign_id, id, number, state, calls, call_id)
        VALUES (uuid_of(1), uuid_of(2), '+919812345678', 'calling', 1, uuid_of(3))",
    )
    .await
    .unwrap();
}

/// F107: a replica that read a contact before another one settled it and made its next call does not settle it by its old call,
/// which would have a second call made while the next one is dialled.
#[tokio::test(flavor = "multi_thread")]
async fn a_contact_is_settled_by_its_own_call_alone() {
    let url = database().await;
    let db = client(&url).await;
    // Whoever reads a campaign waits while the key is held: after its snapshot, and before the contact is locked.
    db.batch_execute(&format!(
        "CREATE FUNCTION uuid_of(n int) RETURNS uuid LANGUAGE sql IMMUTABLE
            RETURN lpad(n::text, 32, '0')::uuid;
        CREATE FUNCTION passes() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN
            PERFORM pg_advisory_xact_lock_shared({HELD}); RETURN true;
        END $$"
    ))
    .await
    .unwrap();
    with_an_ended_call(&db).await;
    db.batch_execute(&format!(
        "ALTER TABLE campaigns RENAME TO all_campaigns;
        CREATE VIEW campaigns AS SELECT * FROM all_campaigns WHERE passes();
        SELECT pg_advisory_lock({HELD})"
    ))
    .await
    .unwrap();
    let ended = async |url: String| {
        let mut conn = AsyncPgConnection::establish(&url).await.unwrap();
        settle::ended(&mut conn, 10).await.unwrap()
    };
    let slow = tokio::spawn(ended(url.clone()));
    let waits = format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {HELD} AND NOT granted");
    stack::poll("a replica that has its snapshot", PATIENCE, async || {
        match db.query_one(&waits, &[]).await.unwrap().get::<_, i64>(0) {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await
    .unwrap();
    db.batch_execute(&format!(
        "UPDATE contacts SET calls = 2, call_id = uuid_of(4);
        SELECT pg_advisory_unlock({HELD})"
    ))
    .await
    .unwrap();
    let settled = slow.await.unwrap();
    assert!(settled.is_empty(), "{settled:?}");

    db.batch_execute("UPDATE contacts SET call_id = uuid_of(3)")
        .await
        .unwrap();
    assert_eq!(ended(url).await.len(), 1, "when it is its own");
}
