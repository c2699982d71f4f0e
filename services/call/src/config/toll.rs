//! Whom callers may have called, and how often.

use runtime::config::Vars;

use crate::toll::{Prefixes, Rules, Thresholds};

const INDIA: &str = "+91";
/// Of a caller in a day.
const CALLS: i32 = 10_000;

impl Rules {
    pub(super) fn read(vars: &mut Vars) -> Option<Self> {
        let text = vars.text("DIAL_ALLOWED_PREFIXES");
        let prefixes = Prefixes::parse(text.as_deref().unwrap_or(INDIA))
            .map_err(|error| vars.problem("DIAL_ALLOWED_PREFIXES", &error.to_string()))
            .ok();
        let mut number = |name: &str, default: i32| {
            let number: i32 = vars.parsed_or(name, "a number, 0 for none", default);
            if number < 0 {
                vars.problem(name, "is a number, 0 for none");
            }
            (number > 0).then_some(number)
        };
        let daily_calls = number("DIAL_DAILY_CALLS", CALLS);
        let alarms = Thresholds {
            per_minute: number("DIAL_ALARM_PER_MINUTE", 300).map(Into::into),
            per_hour: number("DIAL_ALARM_PER_HOUR", 5_000).map(Into::into),
            failed_percent: number("DIAL_ALARM_FAILED_PERCENT", 50).map(Into::into),
        };
        Some(Self {
            prefixes: prefixes?,
            daily_calls,
            alarms,
        })
    }
}
