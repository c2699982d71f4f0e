//! The one place that reads the wall clock, and the platform's ways to print times.

use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};

/// The time now.
#[expect(
    clippy::disallowed_methods,
    reason = "the simulator is its own platform with its own clock; it depends on no other crate of ours"
)]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}

/// An account's zone; the platform prints no zone, so readers have to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone(FixedOffset);

impl Zone {
    pub(crate) fn new(minutes: i32) -> Self {
        Self(
            FixedOffset::east_opt(minutes.saturating_mul(60))
                .unwrap_or(FixedOffset::east_opt(0).expect("zero is in range")),
        )
    }

    /// `2026-08-25 12:07:09`.
    pub(crate) fn plain(self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.0).format("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// `Tue, 25 Aug 2026 12:07:08`: RFC 1123 without its zone, as in applet requests.
    pub(crate) fn wordy(self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.0).format("%a, %d %b %Y %H:%M:%S").to_string()
    }

    /// Reads what [`Self::plain`] prints.
    pub(crate) fn parse(self, text: &str) -> Option<DateTime<Utc>> {
        let local = NaiveDateTime::parse_from_str(text.trim(), "%Y-%m-%d %H:%M:%S").ok()?;
        Some(local.and_local_timezone(self.0).single()?.with_timezone(&Utc))
    }

    /// The placeholder of `EndTime` in Passthru requests: the epoch in the account's zone.
    pub(crate) fn epoch(self) -> String {
        self.plain(DateTime::<Utc>::UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::Zone;

    #[test]
    fn prints_and_reads_the_account_s_time() {
        let zone = Zone::new(330);
        let at = DateTime::from_timestamp(1_787_639_829, 0).expect("in range");
        assert_eq!(zone.plain(at), "2026-08-25 12:07:09");
        assert_eq!(zone.wordy(at), "Tue, 25 Aug 2026 12:07:09");
        assert_eq!(zone.parse("2026-08-25 12:07:09"), Some(at));
        assert_eq!(zone.epoch(), "1970-01-01 05:30:00");
    }
}
