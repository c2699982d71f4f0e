//! Requests about campaigns, checked and in our types. All that is wrong is told at once, by its path below `settings`.

use std::collections::BTreeMap;

use callbridge_proto::{
    campaign::v1::{self as api, CallerIds as ApiCallerIds, CampaignState, ContactState, DuplicatePolicy},
    id::{AgentId, PhoneId},
};
use chrono::{NaiveDate, Weekday};
use data_encoding::HEXLOWER_PERMISSIVE;
use prost_types::{Duration, FieldMask};
use uuid::Uuid;

use super::super::{
    call::{check_metadata, given, instant, seconds},
    id,
};
use crate::{
    app::App,
    campaigns::{
        dry_run::Assumed,
        forecast::Mix,
        import::Header,
        rules::{self, Breaker, CallerIds, FrequencyCap, Retries, Retry, Rules, Window},
        settings::{MOST_PHONES, Settings},
        state::State,
    },
    error::{Error, Violations},
    store::campaigns::imports::WhenDuplicate,
};

const KEY_CHARS: usize = 128;
/// What an update can name.
const FIELDS: [&str; 9] = [
    "name",
    "agent_id",
    "phone_ids",
    "rules",
    "ring_timeout",
    "time_limit",
    "record",
    "metadata",
    "hook_endpoint",
];

/// The settings of a new campaign.
pub(super) fn settings(app: &App, key: &str, settings: api::CampaignSettings) -> Result<Settings, Error> {
    let mut wrong = Violations::new();
    check_key(&mut wrong, "idempotency_key", key);
    let settings = checked(&mut wrong, app, &FIELDS, settings);
    wrong.finish()?;
    Ok(settings)
}

/// The fields of an update.
pub(super) fn mask(mask: Option<&FieldMask>) -> Result<Vec<&'static str>, Error> {
    let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    let known = |path: &String| FIELDS.iter().find(|field| *field == path).copied();
    match paths.iter().map(known).collect::<Option<Vec<_>>>() {
        Some(fields) if !fields.is_empty() => Ok(fields),
        _ => Err(Error::invalid(
            "update_mask",
            format!("names one or more of: {}", FIELDS.join(", ")),
        )),
    }
}

/// The settings of an update; those that it does not name mean nothing.
pub(super) fn part(app: &App, fields: &[&str], settings: api::CampaignSettings) -> Result<Settings, Error> {
    let mut wrong = Violations::new();
    let settings = checked(&mut wrong, app, fields, settings);
    wrong.finish()?;
    Ok(settings)
}

/// Those that are there, with the named ones replaced.
pub(super) fn merge(mut before: Settings, wanted: &Settings, fields: &[&str]) -> Settings {
    let wanted = wanted.clone();
    for field in fields {
        match *field {
            "name" => before.name.clone_from(&wanted.name),
            "agent_id" => before.agent = wanted.agent,
            "phone_ids" => before.phones.clone_from(&wanted.phones),
            "rules" => before.rules.clone_from(&wanted.rules),
            "ring_timeout" => before.ring_timeout = wanted.ring_timeout,
            "time_limit" => before.time_limit = wanted.time_limit,
            "record" => before.record = wanted.record,
            "metadata" => before.metadata.clone_from(&wanted.metadata),
            _ => before.hook_endpoint.clone_from(&wanted.hook_endpoint),
        }
    }
    before
}

fn checked(wrong: &mut Violations, app: &App, fields: &[&str], settings: api::CampaignSettings) -> Settings {
    let wanted = |field: &str| fields.contains(&field);
    let name = settings.name.trim().to_owned();
    let named = (1..=100).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    wrong.require(
        named || !wanted("name"),
        "name",
        "is required: 1 to 100 characters, none of them a control character",
    );
    let mut agent = AgentId(Uuid::nil());
    if wanted("agent_id")
        && let Some(id) = wrong.check("agent_id", settings.agent_id.parse())
    {
        agent = id;
    }
    let mut phones: Vec<PhoneId> = Vec::new();
    if wanted("phone_ids") {
        let some = (1..=MOST_PHONES).contains(&settings.phone_ids.len());
        wrong.require(some, "phone_ids", "has 1 to 50 phones");
        for (index, id) in settings.phone_ids.iter().enumerate().take(MOST_PHONES) {
            phones.extend(wrong.check(&format!("phone_ids[{index}]"), id.parse::<PhoneId>()));
        }
    }
    let rules = settings
        .rules
        .filter(|_| wanted("rules"))
        .map_or_else(Rules::default, |given| self::rules(wrong, given));
    let ring_timeout = seconds(wrong, "ring_timeout", settings.ring_timeout, 5..=60, 30);
    let time_limit = seconds(wrong, "time_limit", settings.time_limit, 10..=3600, 1800);
    let metadata: BTreeMap<String, String> = settings.metadata.into_iter().collect();
    check_metadata(wrong, "metadata", &metadata);
    let hook_endpoint = given(settings.hook_endpoint).and_then(|endpoint| {
        let plain = !endpoint.to_ascii_lowercase().starts_with("ws");
        wrong.require(plain, "hook_endpoint", "begins with http:// or https://");
        wrong.check("hook_endpoint", app.config.agent_endpoints.check(&endpoint))
    });
    Settings {
        name,
        agent,
        phones,
        rules,
        ring_timeout,
        time_limit,
        record: settings.record,
        metadata,
        hook_endpoint,
    }
}

/// Rules as the API has them. What is impossible about values that can be written is told by [`Rules::check`].
pub(super) fn rules(wrong: &mut Violations, given: api::Rules) -> Rules {
    let defaults = Rules::default();
    let windows = if given.windows.is_empty() {
        defaults.windows
    } else {
        let windows = given.windows.iter().enumerate();
        windows
            .map(|(index, window)| self::window(wrong, index, window))
            .collect()
    };
    let holidays = given.holidays.iter().enumerate();
    let holidays = holidays
        .filter_map(|(index, day)| {
            let read = NaiveDate::parse_from_str(day, "%Y-%m-%d");
            wrong.check(
                &format!("rules.holidays[{index}]"),
                read.map_err(|_| "is a date such as 2026-12-25"),
            )
        })
        .collect();
    let caller_ids = match ApiCallerIds::try_from(given.caller_ids) {
        Ok(ApiCallerIds::Unspecified | ApiCallerIds::Rotate) => CallerIds::Rotate,
        Ok(ApiCallerIds::PerContact) => CallerIds::PerContact,
        Err(_) => {
            wrong.add("rules.caller_ids", "is a value of the enum CallerIds");
            CallerIds::Rotate
        }
    };
    Rules {
        max_concurrent_calls: given.max_concurrent_calls,
        calls_per_minute: given.calls_per_minute,
        windows,
        holidays,
        time_zone: rules::zone(wrong, "rules.time_zone", &given.time_zone),
        retries: retries(wrong, given.retries.unwrap_or_default()),
        max_attempts: match given.max_attempts {
            0 => defaults.max_attempts,
            n => count(wrong, "rules.max_attempts", n),
        },
        frequency_cap: given.frequency_cap.map(|cap| FrequencyCap {
            count: count(wrong, "rules.frequency_cap.count", cap.count),
            period: whole(wrong, "rules.frequency_cap.period", cap.period.as_ref()).unwrap_or(0),
        }),
        caller_ids,
        breaker: given
            .breaker
            .map_or(defaults.breaker, |breaker| breaker_of(wrong, &breaker)),
        end_at: instant(wrong, "rules.end_at", given.end_at.as_ref()),
        priority: given.priority,
    }
}

fn window(wrong: &mut Violations, index: usize, window: &api::Window) -> Window {
    let mut days = Vec::new();
    for (place, day) in window.days.iter().enumerate() {
        match api::Weekday::try_from(*day).ok().and_then(weekday) {
            Some(day) => days.push(day),
            None => wrong.add(
                format!("rules.windows[{index}].days[{place}]"),
                "is a value of the enum Weekday other than UNSPECIFIED",
            ),
        }
    }
    Window {
        days,
        from: window.from,
        until: window.until,
    }
}

fn weekday(day: api::Weekday) -> Option<Weekday> {
    match day {
        api::Weekday::Unspecified => None,
        api::Weekday::Monday => Some(Weekday::Mon),
        api::Weekday::Tuesday => Some(Weekday::Tue),
        api::Weekday::Wednesday => Some(Weekday::Wed),
        api::Weekday::Thursday => Some(Weekday::Thu),
        api::Weekday::Friday => Some(Weekday::Fri),
        api::Weekday::Saturday => Some(Weekday::Sat),
        api::Weekday::Sunday => Some(Weekday::Sun),
    }
}

fn retries(wrong: &mut Violations, given: api::Retries) -> Retries {
    let defaults = Retries::default();
    let mut retry = |name: &str, given: Option<api::Retry>, default: Retry| {
        let Some(given) = given else { return default };
        let at = format!("rules.retries.{name}");
        let delays = given.delays.iter().enumerate();
        Retry {
            delays: delays
                .map(|(index, delay)| whole(wrong, &format!("{at}.delays[{index}]"), Some(delay)).unwrap_or(0))
                .collect(),
            most: count(wrong, &format!("{at}.most"), given.most),
        }
    };
    Retries {
        busy: retry("busy", given.busy, defaults.busy),
        no_answer: retry("no_answer", given.no_answer, defaults.no_answer),
        failed: retry("failed", given.failed, defaults.failed),
        agent_unavailable: retry("agent_unavailable", given.agent_unavailable, defaults.agent_unavailable),
        unconfirmed: retry("unconfirmed", given.unconfirmed, defaults.unconfirmed),
    }
}

fn breaker_of(wrong: &mut Violations, given: &api::Breaker) -> Breaker {
    let defaults = Breaker::default();
    Breaker {
        limit: if given.limit == 0 { defaults.limit } else { given.limit },
        least_sample: if given.least_sample == 0 {
            defaults.least_sample
        } else {
            given.least_sample
        },
        period: whole(wrong, "rules.breaker.period", given.period.as_ref()).unwrap_or(defaults.period),
    }
}

fn count(wrong: &mut Violations, field: &str, value: i32) -> u32 {
    wrong.require(value >= 0, field, "is not negative");
    u32::try_from(value).unwrap_or(0)
}

/// Whole seconds; none where there is nothing. One that is out of bounds is for the rule's own check.
fn whole(wrong: &mut Violations, field: &str, duration: Option<&Duration>) -> Option<i64> {
    let duration = duration?;
    wrong.require(duration.nanos == 0, field, "is in whole seconds");
    Some(duration.seconds)
}

/// A filter's state; none is any.
pub(super) fn state(value: i32) -> Result<Option<&'static str>, Error> {
    Ok(match CampaignState::try_from(value) {
        Ok(CampaignState::Unspecified) => None,
        Ok(CampaignState::Draft) => Some(State::Draft.word()),
        Ok(CampaignState::Running) => Some(State::Running.word()),
        Ok(CampaignState::Paused) => Some(State::Paused.word()),
        Ok(CampaignState::Finished) => Some(State::Finished.word()),
        Ok(CampaignState::Aborted) => Some(State::Aborted.word()),
        Err(_) => return Err(Error::invalid("state", "is a value of the enum CampaignState")),
    })
}

/// A filter's state of contacts; none is any.
pub(super) fn contact_state(value: i32) -> Result<Option<&'static str>, Error> {
    Ok(match ContactState::try_from(value) {
        Ok(ContactState::Unspecified) => None,
        Ok(ContactState::Pending) => Some("pending"),
        Ok(ContactState::Calling) => Some("calling"),
        Ok(ContactState::Reached) => Some("reached"),
        Ok(ContactState::Exhausted) => Some("exhausted"),
        Ok(ContactState::Refused) => Some("refused"),
        Ok(ContactState::Unreachable) => Some("unreachable"),
        Ok(ContactState::Canceled) => Some("canceled"),
        Ok(ContactState::Suppressed) => Some("suppressed"),
        Err(_) => return Err(Error::invalid("state", "is a value of the enum ContactState")),
    })
}

/// What an import begins with.
pub(super) fn header(header: api::ImportHeader) -> Result<Header, Error> {
    let mut wrong = Violations::new();
    let campaign = wrong.check("header.campaign_id", id("header.campaign_id", &header.campaign_id));
    check_key(&mut wrong, "header.key", &header.key);
    let sha256 = given(header.sha256).and_then(|hex| {
        let hash = HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .ok()
            .filter(|hash| hash.len() == 32);
        wrong.require(hash.is_some(), "header.sha256", "is a SHA-256 in hex: 64 digits");
        hash
    });
    let policy = match DuplicatePolicy::try_from(header.when_duplicate) {
        Ok(DuplicatePolicy::Unspecified | DuplicatePolicy::Skip) => WhenDuplicate::Skip,
        Ok(DuplicatePolicy::Replace) => WhenDuplicate::Replace,
        Err(_) => {
            wrong.add("header.when_duplicate", "is a value of the enum DuplicatePolicy");
            WhenDuplicate::Skip
        }
    };
    wrong.finish()?;
    Ok(Header {
        campaign: campaign.ok_or_else(|| Error::internal("a checked header lacks a field"))?,
        key: header.key,
        sha256,
        policy,
    })
}

/// What a forecast is to assume.
pub(super) fn assumed(request: api::ForecastCampaignRequest) -> Result<Assumed, Error> {
    let mut wrong = Violations::new();
    let rules = request.rules.map(|rules| self::rules(&mut wrong, rules));
    let given = request.call_duration.is_some();
    let seconds = seconds(&mut wrong, "call_duration", request.call_duration, 1..=3600, 60);
    let mix = request.shares.map(|shares| Mix {
        completed: shares.completed,
        busy: shares.busy,
        no_answer: shares.no_answer,
        failed: shares.failed,
        agent_unavailable: shares.agent_unavailable,
    });
    if let Some(mix) = mix {
        let all = [
            mix.completed,
            mix.busy,
            mix.no_answer,
            mix.failed,
            mix.agent_unavailable,
        ];
        let fits = all.iter().all(|share| share.is_finite() && *share >= 0.0) && all.iter().sum::<f64>() > 0.0;
        wrong.require(fits, "shares", "are not negative, and not all zero");
    }
    wrong.finish()?;
    Ok(Assumed {
        rules,
        seconds: given.then(|| seconds.into()),
        mix,
    })
}

fn check_key(wrong: &mut Violations, field: &str, key: &str) {
    let fits = !key.is_empty() && key.chars().count() <= KEY_CHARS && !key.contains('\0');
    wrong.require(fits, field, "is required: 1 to 128 characters of your choice");
}
