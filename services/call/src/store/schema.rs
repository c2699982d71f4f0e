//! The tables as diesel sees them. A test compares this with the database.
#![expect(missing_docs, reason = "the columns are documented in the migrations")]

use diesel::table;

table! {
    accounts (id) {
        id -> Uuid, name -> Text, sid -> Text, subdomain -> Text, calls_per_minute -> Int4, max_concurrent_calls -> Int4,
        inbound_reserve -> Int4, hours_off -> Bool, hours_start_minute -> Int4, hours_end_minute -> Int4,
        hours_time_zone -> Text, app_id -> Nullable<Text>, from_environment -> Bool, token_generation -> Int4,
        created_at -> Timestamptz, updated_at -> Timestamptz, utc_offset_minutes -> Nullable<Int4>,
        streams_checked_at -> Timestamptz,
    }
}
table! {
    api_keys (id) {
        id -> Uuid, name -> Text, sha256 -> Bytea, scopes -> Text, created_at -> Timestamptz, created_by -> Text,
        created_with -> Nullable<Uuid>, expires_at -> Nullable<Timestamptz>, last_used_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>, revoked_by -> Nullable<Text>, dial_prefixes -> Nullable<Text>,
        daily_calls -> Nullable<Int4>,
    }
}
table! {
    audit (id) {
        id -> Int8, at -> Timestamptz, principal -> Text, key_id -> Nullable<Uuid>, method -> Text, subject -> Text,
        trace_id -> Nullable<Text>, outcome -> Text, data -> Jsonb,
    }
}
table! {
    number_hash_key (single) { single -> Bool, key -> Bytea, }
}
table! {
    number_holds (number) { number -> Text, held_at -> Timestamptz, reason -> Text, }
}
table! {
    caller_days (caller, day) { caller -> Text, day -> Date, calls -> Int8, }
}
table! {
    rates (account_id, kind) { account_id -> Uuid, kind -> Text, next_at -> Timestamptz, }
}
table! {
    greetings (sha256) {
        sha256 -> Bytea, wav -> Bytea, sample_rate -> Int4, duration_ms -> Int4, created_at -> Timestamptz,
    }
}
table! {
    agents (id) {
        id -> Uuid, name -> Text, version -> Int4, max_concurrent_calls -> Int4, created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}
table! {
    agent_versions (agent_id, version) {
        agent_id -> Uuid, version -> Int4, endpoints -> Jsonb, greeting_text -> Nullable<Text>,
        greeting_sha256 -> Nullable<Bytea>, sample_rate -> Int4, config -> Text, created_at -> Timestamptz,
    }
}
table! {
    use diesel::sql_types::{Bool, Int4, Jsonb, Nullable, Text, Timestamptz, Uuid};
    use crate::store::enums::sql::DialMode;
    phones (id) {
        id -> Uuid, account_id -> Uuid, number -> Text, label -> Text, dial_mode -> DialMode, app_id -> Nullable<Text>,
        agent_id -> Nullable<Uuid>, max_concurrent_calls -> Int4, gather -> Nullable<Jsonb>, transfer_numbers -> Jsonb,
        created_at -> Timestamptz, updated_at -> Timestamptz, record_audio -> Bool, audio -> Nullable<Jsonb>,
        variants -> Nullable<Jsonb>,
    }
}
table! {
    credentials (id) {
        id -> Uuid, account_id -> Nullable<Uuid>, phone_id -> Nullable<Uuid>, row_version -> Int8, kek_id -> Int4,
        sealed -> Bytea, subdomain -> Nullable<Text>, created_at -> Timestamptz, updated_at -> Timestamptz,
    }
}
table! {
    crypto_canary (kek_id) { kek_id -> Int4, sealed -> Bytea, created_at -> Timestamptz, }
}
table! {
    use diesel::sql_types::{Bool, Bytea, Int2, Int4, Int8, Jsonb, Nullable, Text, Timestamptz, Uuid};
    use crate::store::enums::sql::{CallDirection, CallState, DialMode};
    calls (id) {
        id -> Uuid, version -> Int8, direction -> CallDirection, state -> CallState, attempt -> Int4,
        account_id -> Uuid, phone_id -> Nullable<Uuid>, agent_id -> Nullable<Uuid>, agent_version -> Nullable<Int4>,
        customer -> Text, exophone -> Text,
        caller -> Nullable<Text>, idempotency_key -> Nullable<Text>, fingerprint -> Nullable<Bytea>,
        call_sid -> Nullable<Text>, dial_mode -> Nullable<DialMode>, ring_timeout_seconds -> Int4,
        time_limit_seconds -> Int4, record -> Bool, priority -> Int4, calling_hours_override -> Nullable<Text>,
        when_number_busy -> Int2, metadata -> Jsonb, not_before -> Timestamptz, expire_at -> Timestamptz,
        due_at -> Timestamptz, waiting_reason -> Nullable<Text>, waiting_for -> Nullable<Uuid>,
        facts -> Jsonb, end_requested -> Bool,
        end_reason -> Nullable<Text>, ended_by -> Nullable<Text>, provider_code -> Nullable<Text>, end_presumed -> Bool,
        needs_review -> Bool, queued_at -> Timestamptz, post_started_at -> Nullable<Timestamptz>,
        answered_at -> Nullable<Timestamptz>, ended_at -> Nullable<Timestamptz>, ring_seconds -> Nullable<Int4>,
        talk_seconds -> Nullable<Int4>, price -> Nullable<Text>, recording_url -> Nullable<Text>,
        transfer_to -> Nullable<Text>, branch_b -> Bool, read_back_at -> Nullable<Timestamptz>, read_backs -> Int4,
        traceparent -> Nullable<Text>, settle_polls -> Int4, blanked_at -> Nullable<Timestamptz>,
        campaign_id -> Nullable<Uuid>, contact_id -> Nullable<Uuid>, campaign_version -> Nullable<Int8>,
        hook_at -> Nullable<Timestamptz>, customer_hash -> Nullable<Text>, held_at -> Nullable<Timestamptz>,
        hold_reason -> Nullable<Text>,
    }
}
table! {
    media_sessions (id) {
        id -> Uuid, call_id -> Uuid, nonce -> Nullable<Int8>, token_expires_at -> Nullable<Timestamptz>, claim -> Int8,
        edge_id -> Nullable<Uuid>, stream_sid -> Nullable<Text>, attached_until -> Nullable<Timestamptz>, last_event -> Int8,
        created_at -> Timestamptz, started_at -> Nullable<Timestamptz>, ended_at -> Nullable<Timestamptz>,
        ended_by -> Nullable<Text>, end_reason -> Nullable<Text>, end_presumed -> Bool, quality -> Jsonb,
        recording_url -> Nullable<Text>, recording_state -> Nullable<Text>, recording_reason -> Nullable<Text>,
        recording_key -> Nullable<Text>, recording_sha256 -> Nullable<Bytea>, recording_bytes -> Nullable<Int8>,
        recording_ms -> Nullable<Int8>, recording_missing_ms -> Nullable<Int8>,
    }
}
table! {
    use diesel::sql_types::{Int8, Jsonb, Text, Timestamptz, Uuid};
    use crate::store::enums::sql::CallState;
    call_events (call_id, version) {
        call_id -> Uuid, version -> Int8, id -> Int8, tx -> Int8,
        #[sql_name = "type"]
        kind -> Text,
        state -> CallState, source -> Text, at -> Timestamptz, data -> Jsonb,
    }
}
table! {
    call_commands (id) {
        id -> Uuid, call_id -> Uuid, media_session_id -> Uuid, command -> Bytea, created_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>, done -> Nullable<Bool>,
    }
}
table! {
    webhook_inbox (id) {
        id -> Int8, call_id -> Uuid, content_type -> Nullable<Text>, body -> Bytea, received_at -> Timestamptz,
        applied_at -> Nullable<Timestamptz>, problem -> Nullable<Text>,
    }
}
table! {
    transcripts (media_session_id, sequence) {
        media_session_id -> Uuid, sequence -> Int8, call_id -> Uuid, speaker -> Int2, text -> Text, language -> Text,
        at -> Timestamptz,
    }
}
table! {
    campaigns (id) {
        id -> Uuid, version -> Int8, name -> Text, state -> Text, state_reason -> Text, caller -> Text,
        idempotency_key -> Text, fingerprint -> Bytea, account_id -> Uuid, agent_id -> Uuid, rules -> Jsonb,
        max_concurrent_calls -> Int4, calls_per_minute -> Int4, priority -> Int4, ring_timeout_seconds -> Int4,
        time_limit_seconds -> Int4, record -> Bool, metadata -> Jsonb, hook_endpoint -> Nullable<Text>,
        calls_since -> Int8, created_at -> Timestamptz, started_at -> Nullable<Timestamptz>, running_since -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
    }
}
table! {
    campaign_phones (campaign_id, place) { campaign_id -> Uuid, place -> Int4, phone_id -> Uuid, }
}
table! {
    campaign_history (campaign_id, version) {
        campaign_id -> Uuid, version -> Int8, at -> Timestamptz,
        #[sql_name = "type"]
        kind -> Text,
        by -> Text, data -> Jsonb,
    }
}
table! {
    campaign_paces (campaign_id) { campaign_id -> Uuid, next_at -> Timestamptz, }
}
table! {
    campaign_zones (campaign_id, zone) { campaign_id -> Uuid, zone -> Text, }
}
table! {
    contacts (campaign_id, id) {
        campaign_id -> Uuid, id -> Uuid, number -> Text, zone -> Text, variables -> Jsonb, state -> Text,
        reason -> Nullable<Text>, calls -> Int4, attempts -> Int4, tries -> Nullable<Jsonb>, next_at -> Timestamptz,
        call_id -> Nullable<Uuid>, import_id -> Nullable<Uuid>,
    }
}
table! {
    campaign_imports (campaign_id, key) {
        campaign_id -> Uuid, key -> Text, id -> Uuid, caller -> Text, sha256 -> Nullable<Bytea>, replaces -> Bool,
        header -> Nullable<Text>, line -> Int8, rows -> Int8, accepted -> Int8, duplicates -> Int8,
        rejected -> Int8, problems -> Jsonb, problems_cut -> Bool, created_at -> Timestamptz, updated_at -> Timestamptz,
        finished_at -> Nullable<Timestamptz>,
    }
}
table! {
    suppressions (id) {
        id -> Uuid, number -> Text, campaign_id -> Nullable<Uuid>, source -> Text, reason -> Text, by -> Text,
        created_at -> Timestamptz, expires_at -> Nullable<Timestamptz>,
    }
}
table! {
    suppression_history (id) {
        id -> Int8, at -> Timestamptz,
        #[sql_name = "type"]
        kind -> Text,
        by -> Text, number -> Text, campaign_id -> Nullable<Uuid>, reason -> Text, expires_at -> Nullable<Timestamptz>,
    }
}
table! {
    campaign_deltas (id) { id -> Int8, campaign_id -> Uuid, word -> Text, n -> Int8, at -> Timestamptz, }
}
table! {
    campaign_counts (campaign_id, bucket, word) { campaign_id -> Uuid, bucket -> Timestamptz, word -> Text, n -> Int8, }
}

diesel::joinable!(phones -> accounts (account_id));

diesel::allow_tables_to_appear_in_same_query!(
    accounts,
    agent_versions,
    agents,
    api_keys,
    call_commands,
    call_events,
    caller_days,
    calls,
    campaign_counts,
    campaign_deltas,
    campaign_history,
    campaign_imports,
    campaign_paces,
    campaign_phones,
    campaign_zones,
    campaigns,
    contacts,
    credentials,
    greetings,
    media_sessions,
    phones,
    rates,
    suppressions,
    transcripts,
    webhook_inbox,
);
