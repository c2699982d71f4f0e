//! Single values: durations, switches, the public base URL.

use std::{net::IpAddr, time::Duration};

use chrono::TimeDelta;
use runtime::config::Vars;

/// Longer is a slip of the pen.
const LONGEST: Duration = Duration::from_hours(24);
/// The same, for what is kept.
const LONGEST_PERIOD: Duration = Duration::from_hours(24 * 36_500);

/// A duration such as `2s`, `250ms`, `15m`, `1h`, `1d` or `2` (seconds).
pub(super) fn duration(vars: &mut Vars, name: &str, default: Duration) -> Duration {
    match vars.text(name).map(|text| parse(&text)) {
        None => default,
        Some(Some(duration)) => duration,
        Some(None) => {
            vars.problem(
                name,
                "does not read as a duration such as 2s, 250ms, 15m or 1h, above zero and up to a day",
            );
            default
        }
    }
}

/// The same, for arithmetic with the time of day.
pub(super) fn delta(vars: &mut Vars, name: &str, default: Duration) -> TimeDelta {
    signed(duration(vars, name, default))
}

/// A long time such as `400d`; `0` is none at all.
pub(super) fn period(vars: &mut Vars, name: &str, default: Duration) -> Option<TimeDelta> {
    let period = match vars.text(name) {
        None => Some(default),
        Some(text) if text == "0" => None,
        Some(text) => read(&text, LONGEST_PERIOD).or_else(|| {
            vars.problem(
                name,
                "does not read as a duration such as 400d or 15m, up to a hundred years, or 0 for none",
            );
            Some(default)
        }),
    };
    period.and_then(|period| TimeDelta::from_std(period).ok())
}

/// Durations with commas between.
pub(super) fn deltas(vars: &mut Vars, name: &str, default: &[Duration]) -> Vec<TimeDelta> {
    let parsed: Option<Vec<Duration>> = match vars.text(name) {
        Some(text) => text.split(',').map(|part| parse(part.trim())).collect(),
        None => Some(default.to_vec()),
    };
    if parsed.is_none() {
        vars.problem(
            name,
            "does not read as durations with commas between, such as 2s,10s,30s,60s",
        );
    }
    parsed
        .unwrap_or_else(|| default.to_vec())
        .into_iter()
        .map(signed)
        .collect()
}

fn signed(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).expect("a day at most")
}

fn parse(text: &str) -> Option<Duration> {
    read(text, LONGEST)
}

fn read(text: &str, longest: Duration) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let number: u64 = digits.parse().ok()?;
    let duration = match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(60 * 60)?),
        "d" => Duration::from_secs(number.checked_mul(24 * 60 * 60)?),
        _ => return None,
    };
    (!duration.is_zero() && duration <= longest).then_some(duration)
}

/// `true`, `on`, `1` and their opposites.
pub(super) fn switch(vars: &mut Vars, name: &str, default: bool) -> bool {
    match vars.text(name).map(|text| text.to_ascii_lowercase()).as_deref() {
        None => default,
        Some("true" | "on" | "yes" | "1") => true,
        Some("false" | "off" | "no" | "0") => false,
        Some(_) => {
            vars.problem(name, "is neither true nor false");
            default
        }
    }
}

/// `WEBHOOK_BASE_URL`, then `RENDER_EXTERNAL_URL`.
pub(super) fn base_url(vars: &mut Vars) -> Option<String> {
    for name in ["WEBHOOK_BASE_URL", "RENDER_EXTERNAL_URL"] {
        let Some(text) = vars.text(name) else { continue };
        if !is_base_url(&text) {
            vars.problem(
                name,
                "is not a base URL: https://host without query, or http on a loopback address",
            );
            return None;
        }
        return Some(text.trim_end_matches('/').to_owned());
    }
    vars.required("WEBHOOK_BASE_URL", "https://calls.example.com");
    None
}

fn is_base_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else {
        return false;
    };
    let Some(host) = uri.host() else { return false };
    let plain = uri.query().is_none() && !text.contains(['#', '@', '{', '}']);
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => plain,
        Some("http") => plain && loopback,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("2s", Some(2000)),
            ("250ms", Some(250)),
            ("15m", Some(900_000)),
            ("7", Some(7000)),
            ("1h", Some(3_600_000)),
            ("1d", Some(86_400_000)),
        ] {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text}");
        }
        for text in [
            "",
            "0",
            "0ms",
            "s",
            "-1s",
            "1w",
            "2 s",
            "25000m",
            "25h",
            "2d",
            "99999999999999999999s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_period_is_long_or_none() {
        let days = Duration::from_hours(24 * 400);
        let of = |text: Option<&'static str>| {
            let mut vars: Vars = text.iter().map(|text| ("RETENTION", *text)).collect();
            let period = period(&mut vars, "RETENTION", days);
            (period.map(|period| period.num_seconds()), vars.finish(()).is_ok())
        };
        assert_eq!(of(None), (Some(400 * 86_400), true));
        assert_eq!(of(Some("0")), (None, true));
        assert_eq!(of(Some("36500d")), (Some(36_500 * 86_400), true));
        assert_eq!(of(Some("90m")), (Some(5_400), true));
        for wrong in ["36501d", "0d", "d", "-1d", "for ever"] {
            assert!(!of(Some(wrong)).1, "{wrong}");
        }
    }

    #[test]
    fn a_base_url_is_https_or_loopback() {
        for good in [
            "https://a.example",
            "https://a.example/x/",
            "http://127.0.0.1:8080",
            "http://[::1]:1",
            "http://localhost",
        ] {
            assert!(is_base_url(good), "{good}");
        }
        for bad in [
            "a.example",
            "http://a.example",
            "ftp://a.example",
            "https://",
            "https://a.example/?q=1",
            "https://u:p@a.example",
        ] {
            assert!(!is_base_url(bad), "{bad}");
        }
    }
}
