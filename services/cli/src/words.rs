//! Values as people read them.

use callbridge_proto::{
    call::v1::{CallState, Direction},
    campaign::v1::CampaignState,
};
use chrono::DateTime;
use prost_types::Timestamp;

/// A number without its middle: enough to recognise one's own.
pub(crate) fn masked(number: &str) -> String {
    let digits = number.chars().filter(char::is_ascii_digit).count();
    if digits < 8 {
        // Anonymous callers, and what retention has blanked.
        return number.to_owned();
    }
    let shown = |at: usize| at < 3 || at + 4 >= number.len();
    number
        .char_indices()
        .map(|(at, c)| if shown(at) { c } else { '*' })
        .collect()
}

/// To the second, in UTC; empty where there is none.
pub(crate) fn time(at: Option<Timestamp>) -> String {
    formatted(at, "%Y-%m-%d %H:%M:%S")
}

/// The same to the millisecond, without the day.
pub(crate) fn clock(at: Option<Timestamp>) -> String {
    formatted(at, "%H:%M:%S%.3f")
}

fn formatted(at: Option<Timestamp>, format: &str) -> String {
    at.and_then(|at| DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?))
        .map(|at| at.format(format).to_string())
        .unwrap_or_default()
}

/// An enum's name without the part that all of its values share, in lower case: `CALL_STATE_BUSY` is `busy`.
fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => String::new(),
        word => word.to_ascii_lowercase(),
    }
}

pub(crate) fn call_state(state: CallState) -> String {
    word(state.as_str_name(), "CALL_STATE_")
}

pub(crate) fn campaign_state(state: CampaignState) -> String {
    word(state.as_str_name(), "CAMPAIGN_STATE_")
}

pub(crate) fn direction(direction: Direction) -> String {
    word(direction.as_str_name(), "DIRECTION_")
}

/// Any other enum.
pub(crate) fn plain(name: &str, prefix: &str) -> String {
    word(name, prefix)
}

/// Facts as `key=value`, in order of the keys.
pub(crate) fn facts<'a>(data: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut pairs: Vec<String> = data.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lose_their_middle() {
        for (number, shown) in [
            ("+919812345678", "+91******5678"),
            ("+14155550100", "+14*****0100"),
            ("anonymous", "anonymous"),
            ("", ""),
            ("+12", "+12"),
        ] {
            assert_eq!(masked(number), shown);
        }
    }

    #[test]
    fn times_are_short_and_in_utc() {
        let at = Some(Timestamp {
            seconds: 1_787_639_829,
            nanos: 5_000_000,
        });
        assert_eq!(
            (time(at).as_str(), clock(at).as_str()),
            ("2026-08-25 06:37:09", "06:37:09.005")
        );
        assert_eq!(time(None), "");
    }

    #[test]
    fn enums_are_words() {
        assert_eq!(call_state(CallState::NoAnswer), "no_answer");
        assert_eq!(call_state(CallState::Unspecified), "");
    }
}
