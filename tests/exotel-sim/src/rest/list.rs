//! The bulk list of calls: filters, order, cursors.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use axum::{http::StatusCode, response::Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    Format, details,
    error::Refusal,
    params::Params,
    resource::{self, Resource},
};
use crate::{
    Settings,
    account::AccountState,
    call::Call,
    clock::{self, Zone},
    number::Number,
    world::{World, locked},
};

/// Documented limits.
const MAX_SIDS: usize = 100;
const MAX_NUMBERS: usize = 5;
const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 100;

/// Without `DateCreated`, and as the longest span of one.
const MONTH: TimeDelta = TimeDelta::days(31);

const KNOWN: [&str; 14] = [
    "Sid",
    "DateCreated",
    "To",
    "From",
    "PhoneNumber",
    "Status",
    "Duration",
    "Price",
    "Direction",
    "details",
    "PageSize",
    "SortBy",
    "Before",
    "After",
];

/// What a list asks for.
#[derive(Debug)]
struct Filter {
    sids: Option<HashSet<String>>,
    from: Option<Vec<Number>>,
    to: Option<Vec<Number>>,
    phones: Option<Vec<Number>>,
    statuses: Option<Vec<String>>,
    directions: Option<Vec<String>>,
    created: (DateTime<Utc>, DateTime<Utc>),
    duration: Range,
    price: Range,
    details: bool,
    ascending: bool,
    page: usize,
    before: Option<u64>,
    after: Option<u64>,
}

/// `gte:…;lte:…` or `eq:…`, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    from: Option<i64>,
    to: Option<i64>,
}

impl Range {
    fn parse(text: Option<&str>, unit: &str, name: &str) -> Result<Self, Refusal> {
        let mut range = Self::default();
        for part in text.unwrap_or("").split(';').filter(|part| !part.is_empty()) {
            let bad = || Refusal::bad_request(format!("{name} is invalid"));
            let (bound, value) = part.split_once(':').ok_or_else(bad)?;
            let value = value.strip_suffix(unit).unwrap_or(value);
            let value = thousandths(value).ok_or_else(bad)?;
            match bound {
                "gte" => range.from = Some(value),
                "lte" => range.to = Some(value),
                "eq" => {
                    range = Self {
                        from: Some(value),
                        to: Some(value),
                    }
                }
                _ => return Err(bad()),
            }
        }
        Ok(range)
    }

    /// What has no value yet only passes where nothing is asked.
    fn holds(self, value: Option<i64>) -> bool {
        match value {
            Some(value) => self.from.is_none_or(|from| value >= from) && self.to.is_none_or(|to| value <= to),
            None => self == Self::default(),
        }
    }
}

/// `1.25` as 1250.
fn thousandths(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let part: i64 = format!("{part:0<3}").parse().ok()?;
    whole.checked_mul(1_000)?.checked_add(part)
}

fn words(text: Option<&str>) -> Option<Vec<String>> {
    text.map(|text| {
        text.split(',')
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect()
    })
}

fn numbers(params: &Params, key: &str) -> Result<Option<Vec<Number>>, Refusal> {
    let Some(words) = words(params.get(key)) else {
        return Ok(None);
    };
    if words.len() > MAX_NUMBERS {
        return Err(Refusal::bad_request(format!(
            "{key} takes at most {MAX_NUMBERS} numbers"
        )));
    }
    let read = |word: &String| Number::parse(word).ok_or_else(|| Refusal::bad_request(format!("{key} is invalid")));
    Ok(Some(words.iter().map(read).collect::<Result<_, _>>()?))
}

fn dates(params: &Params, zone: Zone, now: DateTime<Utc>) -> Result<(DateTime<Utc>, DateTime<Utc>), Refusal> {
    let Some(text) = params.get("DateCreated") else {
        return Ok((now - MONTH, DateTime::<Utc>::MAX_UTC));
    };
    let bad = || Refusal::bad_request("DateCreated is invalid; use gte:YYYY-MM-DD HH:mm:ss;lte:YYYY-MM-DD HH:mm:ss");
    let (mut from, mut to) = (None, None);
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (bound, value) = part.split_once(':').ok_or_else(bad)?;
        let at = zone.parse(value).ok_or_else(bad)?;
        match bound {
            "gte" => from = Some(at),
            "lte" => to = Some(at),
            _ => return Err(bad()),
        }
    }
    let range = match (from, to) {
        (Some(from), Some(to)) => (from, to),
        (Some(from), None) => (from, from + MONTH),
        (None, Some(to)) => (to - MONTH, to),
        (None, None) => return Err(bad()),
    };
    if range.1 - range.0 > MONTH {
        return Err(Refusal::bad_request("DateCreated spans more than one month"));
    }
    Ok(range)
}

impl Filter {
    fn parse(params: &Params, zone: Zone, now: DateTime<Utc>) -> Result<Self, Refusal> {
        if let Some((key, _)) = params
            .iter()
            .find(|(key, _)| !KNOWN.contains(key) && *key != "RecordingUrlValidity")
        {
            return Err(Refusal::bad_request(format!("Unknown parameter {key}")));
        }
        let sids = words(params.get("Sid"));
        if sids.as_ref().is_some_and(|sids| sids.len() > MAX_SIDS) {
            return Err(Refusal::bad_request(format!("Sid takes at most {MAX_SIDS} Sids")));
        }
        let page = match params.get("PageSize").map(str::parse) {
            None => DEFAULT_PAGE,
            Some(Ok(page @ 1..=MAX_PAGE)) => page,
            Some(_) => {
                return Err(Refusal::bad_request(format!(
                    "PageSize must be between 1 and {MAX_PAGE}"
                )));
            }
        };
        let ascending = match params.get("SortBy") {
            None | Some("DateCreated:desc" | "DateCreated") => false,
            Some("DateCreated:asc") => true,
            Some(_) => {
                return Err(Refusal::bad_request(
                    "SortBy must be DateCreated:asc or DateCreated:desc",
                ));
            }
        };
        let cursor = |key| match params.get(key).map(|text| u64::from_str_radix(text, 16)) {
            None => Ok(None),
            Some(Ok(place)) => Ok(Some(place)),
            Some(Err(_)) => Err(Refusal::bad_request(format!("{key} is invalid"))),
        };
        Ok(Self {
            sids: sids.map(HashSet::from_iter),
            from: numbers(params, "From")?,
            to: numbers(params, "To")?,
            phones: numbers(params, "PhoneNumber")?,
            statuses: words(params.get("Status")),
            directions: words(params.get("Direction")),
            created: dates(params, zone, now)?,
            duration: Range::parse(params.get("Duration"), "s", "Duration")?,
            price: Range::parse(params.get("Price"), "", "Price")?,
            details: params.get("details") == Some("true"),
            ascending,
            page,
            before: cursor("Before")?,
            after: cursor("After")?,
        })
    }

    fn takes(&self, world: &World, call: &Call, appeared: DateTime<Utc>) -> bool {
        let report = call.report.borrow();
        let among = |wanted: &Option<Vec<Number>>, number: Option<&Number>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| number.is_some_and(|number| wanted.contains(number)))
        };
        let one_of = |wanted: &Option<Vec<String>>, word: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.iter().any(|wanted| wanted == word))
        };
        // Times are compared in whole seconds, as they are printed.
        let created = DateTime::from_timestamp(report.created.timestamp(), 0).unwrap_or(report.created);
        if report.created > appeared
            || created < self.created.0
            || created > self.created.1
            || !self.sids.as_ref().is_none_or(|sids| sids.contains(&call.sid))
            || !one_of(&self.statuses, resource::status(&report))
            || !one_of(&self.directions, resource::direction(report.mode))
        {
            return false;
        }
        let request = &call.request;
        let to = request
            .to
            .as_ref()
            .or_else(|| (report.mode == crate::Mode::Inbound).then_some(&request.exophone));
        if !among(&self.from, Some(&request.customer))
            || !among(&self.to, to)
            || !among(&self.phones, Some(&request.exophone))
        {
            return false;
        }
        drop(report);
        if self.duration == Range::default() && self.price == Range::default() {
            return true;
        }
        let shown = Resource::of(world, call, false, None);
        self.duration.holds(shown.duration.as_deref().and_then(thousandths))
            && self.price.holds(shown.price.as_deref().and_then(thousandths))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    total: usize,
    page_size: usize,
    first_page_uri: String,
    prev_page_uri: Option<String>,
    next_page_uri: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct JsonList {
    metadata: Metadata,
    calls: Vec<Resource>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct XmlList {
    metadata: Metadata,
    calls: XmlCalls,
}

#[derive(Serialize)]
struct XmlCalls {
    #[serde(rename = "Call")]
    calls: Vec<Resource>,
}

/// The latest creation with which this call is in the list now.
fn appeared(settings: &Settings, call: &Call, now: DateTime<Utc>) -> DateTime<Utc> {
    let delay = settings.scaled_ms(call.outcome.list_delay_ms.unwrap_or(settings.list_delay_ms));
    let delay = TimeDelta::from_std(delay).ok();
    delay
        .and_then(|delay| now.checked_sub_signed(delay))
        .unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// The calls among which those asked for are: all of them only where neither a Sid nor a customer is named.
fn candidates(world: &World, filter: &Filter) -> Vec<Arc<Call>> {
    let calls = locked(&world.calls);
    match (&filter.sids, &filter.from) {
        (Some(sids), _) => calls.with_sids(sids),
        (None, Some(customers)) => calls.with_customers(customers),
        (None, None) => calls.all(),
    }
}

pub(crate) fn list(world: &World, account: &Arc<AccountState>, format: Format, query: &str) -> Response {
    let params = Params::of_query(query);
    let now = clock::now();
    let parsed = Filter::parse(&params, account.zone(), now)
        .and_then(|filter| Ok((filter, details::recording_validity(&params)?)));
    let (filter, validity) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => return refusal.answer(format),
    };
    let sid = account.get().sid.clone();
    let settings = world.settings();
    let mine = candidates(world, &filter).into_iter().filter(|call| {
        Arc::ptr_eq(&call.account, account) && filter.takes(world, call, appeared(&settings, call, now))
    });
    let mut all: Vec<Arc<Call>> = mine.collect();
    let order = |a: u64, b: u64| if filter.ascending { a.cmp(&b) } else { b.cmp(&a) };
    all.sort_by(|a, b| order(a.place, b.place));
    let total = all.len();

    // `After` pages forwards, `Before` backwards; both name the call at the edge of the page seen.
    let later = |call: &Arc<Call>, place: u64| order(call.place, place) == Ordering::Greater;
    let start = match (filter.after, filter.before) {
        (Some(place), _) => all.iter().position(|call| later(call, place)).unwrap_or(total),
        (None, Some(place)) => {
            let end = all
                .iter()
                .position(|call| call.place == place || later(call, place))
                .unwrap_or(total);
            end.saturating_sub(filter.page)
        }
        (None, None) => 0,
    };
    let end = match (filter.after, filter.before) {
        (None, Some(place)) => all
            .iter()
            .position(|call| call.place == place || later(call, place))
            .unwrap_or(total),
        _ => (start + filter.page).min(total),
    };
    let page = &all[start..end.max(start)];

    let suffix = if format == Format::Json { "Calls.json" } else { "Calls" };
    let base: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(params.iter().filter(|(key, _)| !matches!(*key, "Before" | "After")))
        .finish();
    let uri = |cursor: Option<(&str, u64)>| {
        let cursor = cursor.map(|(key, place)| format!("{key}={place:016x}"));
        let query: Vec<String> = [(!base.is_empty()).then(|| base.clone()), cursor]
            .into_iter()
            .flatten()
            .collect();
        let query = if query.is_empty() {
            String::new()
        } else {
            format!("?{}", query.join("&"))
        };
        format!("/v1/Accounts/{sid}/{suffix}{query}")
    };
    let metadata = Metadata {
        total,
        page_size: filter.page,
        first_page_uri: uri(None),
        prev_page_uri: page
            .first()
            .filter(|_| start > 0)
            .map(|call| uri(Some(("Before", call.place)))),
        next_page_uri: page
            .last()
            .filter(|_| end < total)
            .map(|call| uri(Some(("After", call.place)))),
    };
    let calls: Vec<Resource> = page
        .iter()
        .map(|call| Resource::read(world, call, filter.details, validity).for_format(format))
        .collect();
    match format {
        Format::Json => format.answer(StatusCode::OK, &JsonList { metadata, calls }),
        Format::Xml => format.answer(
            StatusCode::OK,
            &XmlList {
                metadata,
                calls: XmlCalls { calls },
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::{Filter, Range, thousandths};
    use crate::{clock::Zone, rest::params::Params};

    fn parse(query: &str) -> Result<Filter, String> {
        let now = DateTime::from_timestamp(1_790_000_000, 0).expect("in range");
        Filter::parse(&Params::of_query(query), Zone::new(330), now).map_err(|refusal| refusal.message)
    }

    #[test]
    fn the_documented_filters_are_understood() {
        let filter = parse("DateCreated=gte:2026-08-25+12:07:09%3Blte:2026-08-26+00:00:00&From=0981234567%38,%2B919812345679&PageSize=20&SortBy=DateCreated:asc&Duration=gte:10s%3Blte:45s&details=true").expect("valid");
        assert_eq!(filter.created.0.timestamp(), 1_787_639_829);
        assert_eq!(filter.from.map(|numbers| numbers.len()), Some(2));
        assert_eq!((filter.page, filter.ascending, filter.details), (20, true, true));
        assert_eq!(
            filter.duration,
            Range {
                from: Some(10_000),
                to: Some(45_000)
            }
        );
    }

    #[test]
    fn what_is_not_documented_is_refused() {
        let sids = vec!["a"; 101].join(",");
        for query in [
            "PageSize=101",
            "PageSize=0",
            "From=1,2,3",
            "From=09812345678,09812345678,09812345678,09812345678,09812345678,09812345678",
            "DateCreated=2026-08-25",
            "DateCreated=gte:2026-01-01+00:00:00%3Blte:2026-03-01+00:00:00",
            "SortBy=Price:asc",
            "Duration=ten",
            "After=xyz",
            "Foo=1",
            &format!("Sid={sids}"),
        ] {
            assert!(parse(query).is_err(), "{query}");
        }
    }

    proptest! {
        #[test]
        fn ranges_hold_what_is_between(from in 0_i64..1_000, span in 0_i64..1_000, value in 0_i64..2_500) {
            let range = Range::parse(Some(&format!("gte:{from}s;lte:{}s", from + span)), "s", "Duration").expect("valid");
            prop_assert_eq!(range.holds(Some(value * 1_000)), (from..=from + span).contains(&value));
            prop_assert!(!range.holds(None));
        }

        #[test]
        fn prices_are_read_exactly(whole in 0_i64..10_000, part in 0_i64..1_000) {
            prop_assert_eq!(thousandths(&format!("{whole}.{part:03}")), Some(whole * 1_000 + part));
        }

        #[test]
        fn filters_never_panic(query in ".{0,80}") {
            let _ = parse(&query);
        }
    }
}
