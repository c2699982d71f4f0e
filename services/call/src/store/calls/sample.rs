//! A row for tests of what decides from rows.

use super::{Call, DateTime, Direction, Facts, State, Utc, Uuid, Value};

impl Call {
    /// An outbound call in the first attempt, with these facts, whose POST began then.
    pub(crate) fn sample(facts: &Facts, posted_at: DateTime<Utc>) -> Self {
        let state: State = facts.state();
        Self {
            id: Uuid::from_u128(1),
            version: 3,
            direction: Direction::Outbound,
            state,
            attempt: facts.attempt,
            account_id: Uuid::from_u128(2),
            phone_id: Some(Uuid::from_u128(3)),
            agent_id: None,
            agent_version: None,
            customer: "+919812345678".to_owned(),
            exophone: "+918040000155".to_owned(),
            caller: Some("crm".to_owned()),
            idempotency_key: Some("key".to_owned()),
            fingerprint: None,
            call_sid: None,
            dial_mode: None,
            ring_timeout_seconds: 30,
            time_limit_seconds: 1800,
            record: false,
            priority: 0,
            calling_hours_override: None,
            when_number_busy: 1,
            metadata: Value::Null,
            not_before: posted_at,
            expire_at: posted_at,
            due_at: posted_at,
            waiting_reason: None,
            waiting_for: None,
            facts: serde_json::to_value(facts).unwrap(),
            end_requested: false,
            end_reason: None,
            ended_by: None,
            provider_code: None,
            end_presumed: facts.ending().is_some_and(|ending| ending.presumed),
            needs_review: false,
            queued_at: posted_at,
            post_started_at: Some(posted_at),
            answered_at: None,
            ended_at: state.is_terminal().then_some(posted_at),
            ring_seconds: None,
            talk_seconds: None,
            price: None,
            recording_url: None,
            transfer_to: None,
            branch_b: false,
            read_back_at: None,
            read_backs: 0,
            traceparent: None,
            settle_polls: 0,
            blanked_at: None,
        }
    }
}
