//! How long what is kept about people is kept.

use std::time::Duration;

use chrono::TimeDelta;
use runtime::config::Vars;

use super::values;

const DAY: Duration = Duration::from_hours(24);
/// More than the year that India's DPDP rules ask for.
const DAYS: u32 = 400;
/// The database keeps the audit trail for so long whatever is set.
const AUDIT_DAYS: i64 = 365;

/// Ages by class; none is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// A call's number, metadata and timeline, after its end; what was said and recorded in it at the latest.
    pub calls: Option<TimeDelta>,
    /// Pieces of transcripts.
    pub transcripts: Option<TimeDelta>,
    /// Recordings, ours with their files, and the addresses of Exotel's, after the session's end.
    pub recordings: Option<TimeDelta>,
    /// Webhooks, masked once they were applied.
    pub webhooks: Option<TimeDelta>,
    /// Contacts of campaigns, after the campaign's end.
    pub contacts: Option<TimeDelta>,
    /// The audit trail.
    pub audit: Option<TimeDelta>,
}

impl Retention {
    pub(super) fn read(vars: &mut Vars) -> Self {
        let calls = values::period(vars, "RETENTION", DAY * DAYS);
        let default = calls.and_then(|kept| kept.to_std().ok()).unwrap_or(Duration::ZERO);
        let mut at_most_calls = |name: &'static str| {
            if vars.text(name).is_none() {
                return calls;
            }
            let kept = values::period(vars, name, default);
            if calls.is_some_and(|calls| kept.is_none_or(|kept| kept > calls)) {
                vars.problem(name, "is longer than RETENTION, at which it goes with its call");
            }
            kept
        };
        let (transcripts, recordings) = (
            at_most_calls("RETENTION_TRANSCRIPTS"),
            at_most_calls("RETENTION_RECORDINGS"),
        );
        let mut apart = |name: &'static str| {
            if vars.text(name).is_none() {
                return calls;
            }
            values::period(vars, name, default)
        };
        let (webhooks, contacts) = (apart("RETENTION_WEBHOOKS"), apart("RETENTION_CONTACTS"));
        let audit = values::period(vars, "RETENTION_AUDIT", DAY * DAYS);
        if audit.is_some_and(|kept| kept < TimeDelta::days(AUDIT_DAYS)) {
            vars.problem(
                "RETENTION_AUDIT",
                "is shorter than 365d: the database deletes no younger entries",
            );
        }
        Self {
            calls,
            transcripts,
            recordings,
            webhooks,
            contacts,
            audit,
        }
    }

    /// The shortest of them.
    pub(crate) fn shortest(&self) -> Option<TimeDelta> {
        let all = [
            self.calls,
            self.transcripts,
            self.recordings,
            self.webhooks,
            self.contacts,
            self.audit,
        ];
        all.into_iter().flatten().min()
    }
}
