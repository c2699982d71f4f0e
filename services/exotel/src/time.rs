//! Exotel's times. They carry no zone and mean India (UTC+05:30): the placeholder `1970-01-01 05:30:00` is the Unix
//! epoch as printed there.

use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};

/// Zone-less spellings that were seen, most frequent first.
const ZONELESS: [&str; 5] = [
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%a, %d %b %Y %H:%M:%S",
    "%d %b %Y %H:%M:%S",
    "%Y-%m-%d %H:%M",
];

/// India's offset from UTC, in seconds. India has no daylight saving.
const IST_SECONDS: i32 = 5 * 3600 + 30 * 60;

/// India's zone.
pub fn ist() -> FixedOffset {
    FixedOffset::east_opt(IST_SECONDS).expect("five and a half hours is a valid offset")
}

/// Reads one of Exotel's times: zone-less means India; RFC 3339 and RFC 2822 zones are obeyed.
///
/// Placeholders (`1970-01-01 05:30:00`, `0000-00-00 00:00:00`, empty, `null`) and unreadable text are `None`.
pub fn parse_ist(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let time = match parse_naive(text) {
        Some(naive) => naive.and_local_timezone(ist()).single()?.to_utc(),
        None => parse_zoned(text)?.to_utc(),
    };
    // Both the epoch and the zeros that some databases print as their null.
    (time.timestamp() > 0).then_some(time)
}

/// Reads a zone-less time as it is printed, without deciding on a zone.
///
/// Compared with the HTTP `Date` of the same answer it tells an account's UTC offset.
pub fn parse_naive(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    ZONELESS
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

/// Reads a time with a zone: RFC 3339 (also with a space or without the colon) or RFC 2822, which includes HTTP dates.
fn parse_zoned(text: &str) -> Option<DateTime<FixedOffset>> {
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%z"))
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"))
        .or_else(|_| DateTime::parse_from_rfc2822(text))
        .ok()
}

/// Reads an HTTP date (RFC 9110 §5.6.7, its preferred form).
pub(crate) fn parse_http_date(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(text.trim()).ok().map(|date| date.to_utc())
}

/// Prints a zone-less time the way Exotel's filters want it.
pub(crate) fn print_naive(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_as_seen() {
        // F56
        for (text, want) in [
            ("2025-01-15 18:14:07", Some("2025-01-15T12:44:07Z")),
            ("2025-01-15T18:14:07", Some("2025-01-15T12:44:07Z")),
            ("Tue, 25 Aug 2026 12:07:08", Some("2026-08-25T06:37:08Z")),
            ("Tue, 25 Aug 2026 12:07:08 GMT", Some("2026-08-25T12:07:08Z")),
            ("2024-01-15T14:30:45+05:30", Some("2024-01-15T09:00:45Z")),
            ("2024-01-15T14:30:45Z", Some("2024-01-15T14:30:45Z")),
            ("2024-01-15 14:30:45+0530", Some("2024-01-15T09:00:45Z")),
            (" 2024-09-03 11:44:54 ", Some("2024-09-03T06:14:54Z")),
            ("Wed, 15 Jan 2025 18:14:07 +0530", Some("2025-01-15T12:44:07Z")),
            // Half past two on the night on which New York's clocks leave that hour out, and the hour that they have twice.
            ("2025-03-09 02:30:00", Some("2025-03-08T21:00:00Z")),
            ("2025-11-02 01:30:00", Some("2025-11-01T20:00:00Z")),
            ("2024-02-29 00:00:00", Some("2024-02-28T18:30:00Z")),
            ("1970-01-01 05:30:00", None),
            ("Thu, 01 Jan 1970 05:30:00", None),
            ("1970-01-01 00:00:00", None),
            ("2025-02-29 00:00:00", None),
            ("1970-01-01T00:00:00Z", None),
            ("0000-00-00 00:00:00", None),
            ("0000-00-00", None),
            ("", None),
            ("null", None),
            ("soon", None),
            ("2025-13-01 00:00:00", None),
        ] {
            let want = want.map(|w| w.parse::<DateTime<Utc>>().unwrap());
            assert_eq!(parse_ist(text), want, "{text:?}");
        }
    }

    /// F56: the same on hosts in a zone with daylight saving, and far from India.
    #[test]
    fn the_zone_of_the_host_does_not_matter() {
        for zone in ["America/New_York", "Pacific/Apia", "Asia/Kolkata"] {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["time::tests::times_as_seen", "--exact"])
                .env("TZ", zone)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{zone}: {said}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = parse_ist(&text);
        }

        #[test]
        fn prints_and_reads_back(seconds in 1_i64..4_000_000_000) {
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            let printed = print_naive(time.with_timezone(&ist()).naive_local());
            prop_assert_eq!(parse_ist(&printed), Some(time));
        }
    }
}
