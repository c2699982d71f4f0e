//! The UTC offset of an account's clock: Exotel prints times without a zone, and lists calls by such times.

use std::ops::RangeInclusive;

use callbridge_proto::id::AccountId;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use tracing::{info, warn};

use crate::{app::App, error::Error, store::accounts};

/// Every offset in use is a multiple of this, in seconds.
pub const QUARTER: i64 = 15 * 60;
/// The offsets in use, in quarters of an hour: from twelve hours west to fourteen east.
pub fn quarters() -> RangeInclusive<i64> {
    -48..=56
}
/// A printed time that is farther from a quarter than this is not the time that it was taken for.
const SLACK: i64 = 5 * 60;

/// The offset in minutes at which an instant is printed like this. None: at no offset that is in use.
pub fn offset_minutes(printed: NaiveDateTime, at: DateTime<Utc>) -> Option<i32> {
    let seconds = (printed - at.naive_utc()).num_seconds();
    let quarter = (seconds + QUARTER / 2).div_euclid(QUARTER);
    let near = (seconds - quarter * QUARTER).abs() <= SLACK;
    (near && quarters().contains(&quarter))
        .then(|| i32::try_from(quarter * QUARTER / 60).ok())
        .flatten()
}

/// Learns an account's offset from a call that Exotel made while it answered, as it does for a dial: when it was made, as
/// printed, and the answer's `Date`. Both are Exotel's clock, so ours does not matter. Never in a call's transaction: a lost
/// lesson costs nothing, and nothing is asked of the database when the offset is the `known` one.
pub async fn learn_offset(
    app: &App,
    account: AccountId,
    known: Option<i32>,
    date_created: Option<NaiveDateTime>,
    server_date: Option<DateTime<Utc>>,
) {
    let Some(minutes) = date_created
        .zip(server_date)
        .and_then(|(printed, at)| offset_minutes(printed, at))
    else {
        return;
    };
    if known == Some(minutes) {
        return;
    }
    match store(app, account, minutes).await {
        Ok(false) => {}
        Ok(true) => info!(account.id = %account, minutes, "learned the UTC offset of an account's clock"),
        Err(error) => warn!(account.id = %account, %error, "an account's UTC offset could not be kept"),
    }
}

/// The same for a call that was made `age` ago.
pub async fn learn_offset_from(
    app: &App,
    account: &accounts::Account,
    date_created: Option<NaiveDateTime>,
    server_date: Option<DateTime<Utc>>,
    age: TimeDelta,
) {
    let at = server_date.map(|date| date - age);
    learn_offset(app, account.id(), account.utc_offset_minutes, date_created, at).await;
}

async fn store(app: &App, account: AccountId, minutes: i32) -> Result<bool, Error> {
    let mut conn = app.db.conn().await?;
    Ok(accounts::set_utc_offset(&mut conn, account, minutes).await?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap()
    }

    #[test]
    fn offsets_of_some_places() {
        let at = "2026-11-25T08:00:00Z".parse().unwrap();
        for (printed, minutes) in [
            ("2026-11-25 13:30:00", Some(330)),
            ("2026-11-25 13:29:25", Some(330)),
            ("2026-11-25 16:00:00", Some(480)),
            ("2026-11-25 03:00:00", Some(-300)),
            ("2026-11-25 13:45:02", Some(345)),
            ("2026-11-25 08:00:00", Some(0)),
            ("2026-11-24 20:00:00", Some(-720)),
            ("2026-11-25 22:00:00", Some(840)),
            // Made at some other time, or nowhere on earth.
            ("2026-11-25 13:37:30", None),
            ("2026-11-25 23:00:00", None),
            ("2026-11-24 08:00:00", None),
        ] {
            assert_eq!(offset_minutes(naive(printed), at), minutes, "{printed}");
        }
    }

    proptest! {
        #[test]
        fn an_answer_that_took_a_minute_teaches_the_same(
            quarter in quarters(), seconds in 1_000_000_000_i64..4_000_000_000, late in 0_i64..60
        ) {
            let made = DateTime::from_timestamp(seconds, 0).unwrap();
            let printed = (made + TimeDelta::seconds(quarter * QUARTER)).naive_utc();
            prop_assert_eq!(offset_minutes(printed, made + TimeDelta::seconds(late)), i32::try_from(quarter * 15).ok());
        }
    }
}
