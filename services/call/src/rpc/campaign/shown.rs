//! Campaigns as the API shows them.

use std::collections::BTreeMap;

use callbridge_proto::{
    campaign::v1::{self as api, CallerIds as ApiCallerIds, CampaignState, ContactState},
    id::{AccountId, AgentId, CallId, ContactId, PhoneId},
};
use chrono::Weekday;
use prost_types::Duration;

use super::super::view::{self, timestamp};
use crate::{
    campaigns::{
        chart,
        control::Whole,
        forecast::{Forecast, Hour},
        import::Report,
        progress::Progress,
        rules::{CallerIds, Retry, Rules, Window},
        settings::Settings,
        state::State,
    },
    error::Error,
    store::{
        campaigns::{Entry, imports::held, numbers::Suppression},
        contacts::Contact,
    },
};

/// Columns of a forecast's chart for terminals.
const CHART_COLUMNS: usize = 100;

/// A campaign.
pub(super) fn campaign(whole: &Whole) -> Result<api::Campaign, Error> {
    let row = &whole.campaign;
    let settings = Settings::of(row, &whole.phones)?;
    Ok(api::Campaign {
        id: row.id().to_string(),
        version: row.version,
        name: row.name.clone(),
        state: state(&row.state).into(),
        state_reason: row.state_reason.clone(),
        caller: row.caller.clone(),
        account_id: AccountId(row.account_id).to_string(),
        settings: Some(self::settings(settings)),
        created_at: Some(timestamp(row.created_at)),
        started_at: row.started_at.map(timestamp),
        ended_at: row.ended_at.map(timestamp),
    })
}

fn state(word: &str) -> CampaignState {
    match State::of(word) {
        None => CampaignState::Unspecified,
        Some(State::Draft) => CampaignState::Draft,
        Some(State::Running) => CampaignState::Running,
        Some(State::Paused) => CampaignState::Paused,
        Some(State::Finished) => CampaignState::Finished,
        Some(State::Aborted) => CampaignState::Aborted,
    }
}

fn settings(settings: Settings) -> api::CampaignSettings {
    api::CampaignSettings {
        name: settings.name,
        agent_id: AgentId(settings.agent.0).to_string(),
        phone_ids: settings.phones.iter().map(PhoneId::to_string).collect(),
        rules: Some(rules(&settings.rules)),
        ring_timeout: Some(seconds(settings.ring_timeout.into())),
        time_limit: Some(seconds(settings.time_limit.into())),
        record: settings.record,
        metadata: settings.metadata.into_iter().collect(),
        hook_endpoint: settings.hook_endpoint.unwrap_or_default(),
    }
}

fn rules(rules: &Rules) -> api::Rules {
    let retry = |retry: &Retry| {
        Some(api::Retry {
            delays: retry.delays.iter().copied().map(seconds).collect(),
            most: number(retry.most),
        })
    };
    let retries = &rules.retries;
    api::Rules {
        max_concurrent_calls: rules.max_concurrent_calls,
        calls_per_minute: rules.calls_per_minute,
        windows: rules.windows.iter().map(window).collect(),
        holidays: rules.holidays.iter().map(ToString::to_string).collect(),
        time_zone: rules.time_zone.name().to_owned(),
        retries: Some(api::Retries {
            busy: retry(&retries.busy),
            no_answer: retry(&retries.no_answer),
            failed: retry(&retries.failed),
            agent_unavailable: retry(&retries.agent_unavailable),
            unconfirmed: retry(&retries.unconfirmed),
        }),
        max_attempts: number(rules.max_attempts),
        frequency_cap: rules.frequency_cap.map(|cap| api::FrequencyCap {
            count: number(cap.count),
            period: Some(seconds(cap.period)),
        }),
        caller_ids: match rules.caller_ids {
            CallerIds::Rotate => ApiCallerIds::Rotate,
            CallerIds::PerContact => ApiCallerIds::PerContact,
        }
        .into(),
        breaker: Some(api::Breaker {
            limit: rules.breaker.limit,
            least_sample: rules.breaker.least_sample,
            period: Some(seconds(rules.breaker.period)),
        }),
        end_at: rules.end_at.map(timestamp),
        priority: rules.priority,
    }
}

fn window(window: &Window) -> api::Window {
    let day = |day: &Weekday| match day {
        Weekday::Mon => api::Weekday::Monday,
        Weekday::Tue => api::Weekday::Tuesday,
        Weekday::Wed => api::Weekday::Wednesday,
        Weekday::Thu => api::Weekday::Thursday,
        Weekday::Fri => api::Weekday::Friday,
        Weekday::Sat => api::Weekday::Saturday,
        Weekday::Sun => api::Weekday::Sunday,
    };
    api::Window {
        days: window.days.iter().map(|of_week| day(of_week).into()).collect(),
        from: window.from,
        until: window.until,
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

fn number(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn small(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// An entry of a campaign's history.
pub(super) fn entry(entry: &Entry) -> api::HistoryEntry {
    api::HistoryEntry {
        version: entry.version,
        at: Some(timestamp(entry.at)),
        r#type: entry.kind.clone(),
        by: entry.by.clone(),
        data: view::texts(&entry.data).collect(),
    }
}

/// How far a campaign is.
pub(super) fn progress(progress: &Progress) -> api::Progress {
    let map = |counts: &BTreeMap<String, i64>| counts.iter().map(|(word, n)| (word.clone(), *n)).collect();
    api::Progress {
        at: Some(timestamp(progress.at)),
        contacts: progress.contacts(),
        by_state: map(&progress.by_state),
        by_outcome: map(&progress.by_outcome),
        active_calls: small(progress.active),
        dials_last_minute: small(progress.dials_last_minute),
        eta: progress.eta().map(timestamp),
        state: state(&progress.state.0).into(),
        state_reason: progress.state.1.clone(),
        capacity: progress.room.map(|(room, next)| view::room(room, next)),
        waiting_reason: progress.waiting.to_owned(),
    }
}

/// How a campaign would go.
pub(super) fn forecast(forecast: &Forecast, rules: &Rules) -> api::ForecastCampaignResponse {
    let hour = |hour: &Hour| api::HourlyCalls {
        from: Some(timestamp(hour.start)),
        calls: hour.calls,
        slots: hour.slots,
    };
    api::ForecastCampaignResponse {
        finishes_at: forecast.finish.map(timestamp),
        calls: forecast.calls,
        reached: forecast.reached,
        exhausted: forecast.exhausted,
        not_reached: forecast.left,
        windows_missed: number(forecast.windows_missed),
        peak_slots: forecast.peak_slots,
        hours: forecast.hours.iter().map(hour).collect(),
        chart_svg: chart::svg(forecast, rules.time_zone),
        chart_text: chart::text(forecast, rules.time_zone, CHART_COLUMNS),
    }
}

/// What came of an import.
pub(super) fn report(report: Report) -> api::AddContactsResponse {
    let import = report.import;
    let problem = |problem: crate::store::campaigns::imports::Problem| api::RowProblem {
        line: problem.line,
        column: problem.column,
        problem: problem.problem,
    };
    api::AddContactsResponse {
        rows: import.rows,
        accepted: import.accepted,
        duplicates: import.duplicates,
        rejected: import.rejected,
        resumed_after: report.resumed_after,
        problems: import.problems.into_iter().map(problem).collect(),
        problems_cut: import.problems_cut,
        repeated: report.repeated,
    }
}

/// A contact.
pub(super) fn contact(contact: &Contact) -> api::Contact {
    let state = match contact.state.as_str() {
        "pending" => ContactState::Pending,
        "calling" => ContactState::Calling,
        "reached" => ContactState::Reached,
        "exhausted" => ContactState::Exhausted,
        "refused" => ContactState::Refused,
        "unreachable" => ContactState::Unreachable,
        "canceled" => ContactState::Canceled,
        "suppressed" => ContactState::Suppressed,
        _ => ContactState::Unspecified,
    };
    api::Contact {
        id: ContactId(contact.id).to_string(),
        number: contact.number.clone(),
        zone: contact.zone.clone(),
        variables: view::texts(&contact.variables).collect(),
        state: state.into(),
        reason: contact.reason.clone().unwrap_or_default(),
        attempts: contact.attempts,
        next_at: (state == ContactState::Pending && !held::is_held(contact.next_at))
            .then(|| timestamp(contact.next_at)),
        call_id: contact.call_id.map(|id| CallId(id).to_string()).unwrap_or_default(),
    }
}

/// An entry of a list.
pub(super) fn suppression(entry: &Suppression) -> api::Suppression {
    api::Suppression {
        number: entry.number.clone(),
        reason: entry.reason.clone(),
        by: entry.by.clone(),
        created_at: Some(timestamp(entry.created_at)),
        expires_at: entry.expires_at.map(timestamp),
    }
}
