//! A forecast of a campaign as it stands: reads what [`forecast`] is run with.

use std::sync::Arc;

use callbridge_proto::id::CampaignId;
use chrono::TimeDelta;

use super::{
    forecast::{self, Calls, Capacity, Forecast, Group, Mix},
    gate,
    rules::Rules,
    settings,
};
use crate::{
    app::App,
    error::Error,
    store::{
        calls,
        campaigns::{self, counts},
        contacts::groups::{self, Bounds},
        rates::Kind,
    },
};

/// So many attempts tell how a campaign's calls come out.
const TELLING: i64 = 20;

/// What to assume instead of what the campaign's own calls tell.
#[derive(Debug, Clone, Default)]
pub struct Assumed {
    /// Instead of its rules.
    pub rules: Option<Rules>,
    /// Instead of its average.
    pub seconds: Option<f64>,
    /// Instead of its outcomes.
    pub mix: Option<Mix>,
}

/// Runs it. Also the rules that it went by.
///
/// # Errors
/// `NotFound`, Invalid when the assumed rules are impossible, or Exhausted (`TOO_MANY_FORECASTS`).
pub async fn run(app: &App, id: CampaignId, assumed: Assumed) -> Result<(Forecast, Rules), Error> {
    let permit = Arc::clone(&app.forecast_permits).try_acquire_owned().map_err(|_| {
        Error::exhausted(
            "TOO_MANY_FORECASTS",
            "this replica computes as many forecasts as it can: try again in some seconds",
        )
    })?;
    let mut conn = app.db.conn().await?;
    let campaign = campaigns::find(&mut conn, id)
        .await?
        .ok_or_else(|| Error::not_found("campaign", id))?;
    let now = calls::database_now(&conn).await?;
    let rules = match assumed.rules {
        Some(rules) => {
            let mut wrong = crate::error::Violations::new();
            rules.check(Some(now), &mut wrong);
            wrong.finish()?;
            rules
        }
        None => settings::rules(&campaign)?,
    };
    let bounds = groups::bounds(&mut conn, id).await?;
    let waiting = groups::waiting(&mut conn, id).await?;
    let counted = counts::read(&mut conn, id).await?;
    drop(conn);
    let calls = Calls {
        mix: assumed
            .mix
            .or_else(|| mix(|outcome| counted.get(&format!("attempt.{outcome}")).copied().unwrap_or(0)))
            .unwrap_or(Calls::default().mix),
        seconds: assumed.seconds.or(bounds.seconds).unwrap_or(Calls::default().seconds),
    };
    let groups: Vec<Group> = waiting
        .into_iter()
        .map(|group| Group {
            zone: gate::zone(&rules, &group.zone),
            next_at: group.next_at,
            tries: group
                .tries
                .and_then(|tries| serde_json::from_value(tries).ok())
                .unwrap_or_default(),
            contacts: u64::try_from(group.contacts).unwrap_or(0),
        })
        .collect();
    let capacity = capacity(&rules, bounds);
    // Up to some seconds of computing, which must not hold up what else this thread does.
    let task_rules = rules.clone();
    let done = tokio::task::spawn_blocking(move || {
        // Whoever asked may have gone; the work goes on, and counts.
        let _permit = permit;
        forecast::run(&task_rules, groups, calls, capacity, now)
    })
    .await;
    let forecast = done.map_err(|error| Error::internal_from("a forecast could not be computed", error))?;
    Ok((forecast, rules))
}

/// How the campaign's own attempts came out, if there were enough.
fn mix(attempts: impl Fn(&str) -> i64) -> Option<Mix> {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let of = |outcome| attempts(outcome) as f64;
    let words = ["completed", "busy", "no_answer", "failed", "agent_unavailable"];
    let enough = words.iter().map(|word| attempts(word)).sum::<i64>() >= TELLING;
    enough.then(|| Mix {
        completed: of("completed"),
        busy: of("busy"),
        no_answer: of("no_answer"),
        failed: of("failed"),
        agent_unavailable: of("agent_unavailable"),
    })
}

/// The least of all caps, and of both rates as they are paced.
fn capacity(rules: &Rules, bounds: Bounds) -> Capacity {
    let caps = [
        rules.max_concurrent_calls.into(),
        bounds.account.into(),
        bounds.agent.into(),
        bounds.phones,
    ];
    let slots = caps.into_iter().filter(|cap| *cap > 0).min();
    let rates = [rules.calls_per_minute, bounds.calls_per_minute];
    let rate = rates.into_iter().filter(|rate| *rate > 0).min().unwrap_or(1);
    let pause = Kind::Dial.pause(rate).max(TimeDelta::milliseconds(1)).as_seconds_f64();
    Capacity {
        slots: slots.and_then(|slots| u32::try_from(slots).ok()),
        per_minute: 60.0 / pause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_cap_and_the_lower_rate_bind() {
        let bounds = Bounds {
            account: 40,
            agent: 0,
            phones: 30,
            calls_per_minute: 130,
            seconds: None,
        };
        let rules = Rules {
            max_concurrent_calls: 50,
            calls_per_minute: 65,
            ..Rules::default()
        };
        let both = capacity(&rules, bounds);
        assert_eq!(both.slots, Some(30));
        assert!((both.per_minute - 60.0).abs() < 0.01, "{}", both.per_minute);
        let none = Bounds {
            account: 0,
            phones: 0,
            ..bounds
        };
        assert_eq!(capacity(&Rules::default(), none).slots, None);
    }

    #[test]
    fn a_few_attempts_tell_nothing() {
        assert_eq!(mix(|_| 3), None);
        assert!(mix(|_| 4).is_some());
    }
}
