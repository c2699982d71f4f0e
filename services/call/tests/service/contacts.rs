//! What becomes of contacts, as the database sees it.

use call_service::store::{
    calls,
    campaigns::{gate, numbers},
    contacts::settle,
    queue,
};
use callbridge_proto::id::{AccountId, CallId, CampaignId};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use runtime::Tasks;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::service::{PATIENCE, client, database};

/// A key of advisory locks that nothing else uses.
const HELD: i64 = 1_071;

/// What the rows of a test are named by.
async fn named(db: &Client) {
    db.batch_execute(
        "CREATE FUNCTION uuid_of(n int) RETURNS uuid LANGUAGE sql IMMUTABLE
            RETURN lpad(n::text, 32, '0')::uuid",
    )
    .await
    .unwrap();
}

fn uuid_of(n: u128) -> Uuid {
    // Decimal digits, as the database's function has them.
    Uuid::from_u128(u128::from_str_radix(&n.to_string(), 16).unwrap())
}

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
    named(&db).await;
    // Whoever reads a campaign waits while the key is held: after its snapshot, and before the contact is locked.
    db.batch_execute(&format!(
        "CREATE FUNCTION passes() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN
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
    let slow = Tasks::new().spawn(ended(url.clone()));
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
    let settled = slow.await.unwrap().unwrap();
    assert!(settled.is_empty(), "{settled:?}");

    db.batch_execute("UPDATE contacts SET call_id = uuid_of(3)")
        .await
        .unwrap();
    assert_eq!(ended(url).await.len(), 1, "when it is its own");
}

/// An agent that breaks in the middle of a conversation was there: the person was reached, and is not called again.
#[tokio::test]
async fn only_an_agent_that_was_never_there_is_unavailable() {
    let url = database().await;
    let db = client(&url).await;
    named(&db).await;
    with_an_ended_call(&db).await;
    db.batch_execute(
        "UPDATE calls SET state = 'completed', end_reason = 'completed';
        INSERT INTO media_sessions (id, call_id, created_at, started_at, ended_at, ended_by, end_reason) VALUES
            (uuid_of(5), uuid_of(3), now() - interval '1 minute', now(), now(), 'provider', 'socket_closed'),
            (uuid_of(6), uuid_of(3), now(), now(), now(), 'agent', 'agent_failed')",
    )
    .await
    .unwrap();
    let mut conn = AsyncPgConnection::establish(&url).await.unwrap();
    let (campaign, contact) = (CampaignId(uuid_of(1)), Some(uuid_of(2)));
    // Its edge may tell yet.
    assert!(settle::ended(&mut conn, 10).await.unwrap().is_empty());
    db.batch_execute("UPDATE calls SET ended_at = now() - interval '16 seconds'")
        .await
        .unwrap();
    for (change, unavailable) in [
        ("UPDATE media_sessions SET quality = '{}'", true),
        ("UPDATE media_sessions SET quality = '{\"frames_out\": 40}'", true),
        (
            "UPDATE media_sessions SET quality = '{\"agent_audio_ms\": 40}' WHERE id = uuid_of(6)",
            false,
        ),
        ("UPDATE media_sessions SET quality = '{}'", true),
        (
            "UPDATE media_sessions SET quality = '{\"agent_audio_ms\": 40}' WHERE id = uuid_of(5)",
            false,
        ),
        ("UPDATE media_sessions SET quality = '{}'", true),
        (
            "INSERT INTO transcripts (media_session_id, sequence, call_id, speaker, text)
            VALUES (uuid_of(5), 1, uuid_of(3), 1, 'hello')",
            false,
        ),
    ] {
        db.batch_execute(change).await.unwrap();
        let ended = settle::ended(&mut conn, 10).await.unwrap();
        assert_eq!(ended[0].agent_unavailable, unavailable, "{change}");
        let standing = numbers::standing(&mut conn, campaign, contact, "+919812345678", None)
            .await
            .unwrap();
        assert_eq!(standing.reached, !unavailable, "{change}");
    }
}

/// A call is found by the claim when its campaign's hook has said yes lately, and only then; the claim looks again under the
/// campaign's lock.
#[tokio::test]
async fn only_the_hooks_late_yes_lets_a_call_be_found() {
    let url = database().await;
    let db = client(&url).await;
    named(&db).await;
    with_an_ended_call(&db).await;
    db.batch_execute(
        "UPDATE campaigns SET hook_endpoint = 'http://127.0.0.1:1';
        INSERT INTO campaign_paces (campaign_id) VALUES (uuid_of(1));
        INSERT INTO calls (id, version, direction, state, account_id, phone_id, customer, exophone, caller, idempotency_key,
            not_before, expire_at, due_at, facts, campaign_id, contact_id, campaign_version)
        VALUES (uuid_of(4), 1, 'outbound', 'queued', uuid_of(8), uuid_of(7), '+919812345678', '+918045678901', 'test', 'k:2',
            now(), now() + interval '1 day', now(), '{}', uuid_of(1), uuid_of(2), 1);
        UPDATE contacts SET call_id = uuid_of(4)",
    )
    .await
    .unwrap();
    let mut conn = AsyncPgConnection::establish(&url).await.unwrap();
    for (change, found) in [
        ("UPDATE calls SET hook_at = NULL", false),
        ("UPDATE calls SET hook_at = now() - interval '31 seconds'", false),
        ("UPDATE calls SET hook_at = now()", true),
        (
            "UPDATE calls SET hook_at = NULL; UPDATE campaigns SET hook_endpoint = NULL",
            true,
        ),
    ] {
        db.batch_execute(change).await.unwrap();
        let next = queue::next(&mut conn, AccountId(uuid_of(8))).await.unwrap();
        assert_eq!(next.map(|id| id.0), found.then(|| uuid_of(4)), "{change}");
        let call = calls::find(&mut conn, CallId(uuid_of(4))).await.unwrap().unwrap();
        let gate = gate::lock(&mut conn, CampaignId(uuid_of(1)), &call)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (gate.unasked, gate.zone.is_some(), gate.changed),
            (!found, true, false),
            "{change}"
        );
    }
    // Its contact has another call, and the campaign makes other ones now.
    db.batch_execute("UPDATE contacts SET call_id = uuid_of(3); UPDATE campaigns SET calls_since = 2")
        .await
        .unwrap();
    let call = calls::find(&mut conn, CallId(uuid_of(4))).await.unwrap().unwrap();
    let gate = gate::lock(&mut conn, CampaignId(uuid_of(1)), &call)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((gate.zone, gate.changed), (None, true));
}
