//! Two people with all that can be known about them, for tests of what is kept.

use callbridge_proto::privacy::v1::{AuditEntry, ListAuditRequest, audit_service_client::AuditServiceClient};
use tokio_postgres::Client;

use crate::service::{Service, client as database, hash};

pub(crate) const ROOT: &str = "ck_root_0123456789";
pub(crate) const OTHER: &str = "+919812340018";
/// An account, a call of each of two numbers with all that hangs on it, a campaign with both as contacts, and lists with them.
pub(crate) const PLANTED: &str = "
    CREATE FUNCTION uuid_of(n int) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN lpad(n::text, 32, '0')::uuid;
    SET session_replication_role = replica;
    INSERT INTO accounts (id, name, sid, subdomain, calls_per_minute, max_concurrent_calls, inbound_reserve, hours_off,
        hours_start_minute, hours_end_minute, hours_time_zone)
    VALUES (uuid_of(8), 'a', 'acme9', 'http://127.0.0.1:9', 60, 0, 0, true, 540, 1260, 'Asia/Kolkata');
    INSERT INTO campaigns (id, name, state, caller, idempotency_key, fingerprint, account_id, agent_id, rules,
        max_concurrent_calls, calls_per_minute, priority, ring_timeout_seconds, time_limit_seconds, record, metadata)
    VALUES (uuid_of(1), 'c', 'paused', 'test', 'c', '', uuid_of(8), uuid_of(9), '{}', 0, 0, 0, 30, 60, false, '{}');
    INSERT INTO calls (id, version, direction, state, attempt, account_id, customer, exophone, caller, idempotency_key,
        not_before, expire_at, due_at, facts, campaign_id, contact_id, ended_at, end_reason, metadata, recording_url,
        transfer_to, calling_hours_override, call_sid, answered_at)
    SELECT uuid_of(n), 1, 'outbound', 'completed', 1, uuid_of(8), number, '+918045678901', 'test', 'k:' || n, now(), now(),
        now(), '{}', uuid_of(1), uuid_of(n + 10), now(), 'completed', jsonb_build_object('phone', number, 'name', 'canary'),
        'https://recordings.exotel.com/' || number, number, 'asked by ' || number, 'sid' || n, now()
    FROM (VALUES (20, '+919812340017'), (21, '+919812340018')) AS v (n, number);
    INSERT INTO call_events (call_id, version, type, state, source, data)
    SELECT id, 1, 'input', 'completed', 'passthru', jsonb_build_object('digits', customer) FROM calls;
    INSERT INTO media_sessions (id, call_id, started_at, ended_at, recording_url, recording_state, recording_key)
    SELECT uuid_of(40 + row_number() OVER (ORDER BY id)::int), id, now(), now(), recording_url, NULL, NULL FROM calls;
    INSERT INTO transcripts (media_session_id, sequence, call_id, speaker, text)
    SELECT s.id, 1, c.id, 1, 'call me at ' || substr(c.customer, 4) FROM calls c JOIN media_sessions s ON s.call_id = c.id;
    INSERT INTO call_commands (id, call_id, media_session_id, command, finished_at)
    SELECT uuid_of(60 + row_number() OVER (ORDER BY c.id)::int), c.id, s.id, convert_to(c.customer, 'UTF8'), now()
    FROM calls c JOIN media_sessions s ON s.call_id = c.id;
    INSERT INTO webhook_inbox (call_id, body, received_at, applied_at)
    SELECT id, convert_to('From=0' || substr(customer, 4), 'UTF8'), now(), now() FROM calls;
    INSERT INTO contacts (campaign_id, id, number, variables, state)
    SELECT uuid_of(1), contact_id, customer, jsonb_build_object('name', customer), 'pending' FROM calls;
    INSERT INTO suppressions (id, number, source, reason, by)
    SELECT uuid_of(70 + row_number() OVER (ORDER BY id)::int), customer, 'caller', 'asked from ' || customer, 'test' FROM calls;
    INSERT INTO suppression_history (type, by, number, reason)
    SELECT 'added', 'test', customer, 'asked from ' || customer FROM calls;
    SET session_replication_role = origin";
pub(crate) const CALL: &str = "call_00000000000000000000000000000020";

pub(crate) async fn started(settings: &[(&str, &str)]) -> (Service, Client) {
    let scopes = "calls.read+calls.write+campaigns.write+credentials.write+keys.write+audit.read+privacy.write";
    let keys = format!("root:{scopes}:{}", hash(ROOT));
    let mut all = vec![("API_KEYS", keys.as_str())];
    all.extend_from_slice(settings);
    let service = Service::start(&all).await;
    let db = database(&service.url).await;
    db.batch_execute(PLANTED).await.unwrap();
    (service, db)
}

macro_rules! root {
    ($client:ident, $service:expr) => {
        $client::with_interceptor(
            $service.channel.clone(),
            crate::service::Bearer(Some(crate::people::ROOT)),
        )
    };
}

pub(crate) use root;

pub(crate) async fn count(db: &Client, what: &str) -> i64 {
    db.query_one(&format!("SELECT count(*) FROM {what}"), &[])
        .await
        .unwrap()
        .get(0)
}

pub(crate) async fn audit(service: &Service, request: ListAuditRequest) -> Vec<AuditEntry> {
    let answer = root!(AuditServiceClient, service).list_audit(request).await.unwrap();
    answer.into_inner().entries
}
