//! What must hold of pauses: once one is answered, no request of the campaign comes any more (F108).

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Evidence, Row, Verdict, Violation, named};

/// A request that was on its way may come until then.
const ON_ITS_WAY: TimeDelta = TimeDelta::seconds(1);

pub(super) fn check(evidence: &Evidence, rows: &HashMap<&str, &Row>, verdict: &mut Verdict) {
    let mut requests: BTreeMap<&str, Vec<(DateTime<Utc>, &str)>> = BTreeMap::new();
    for post in &evidence.posts {
        let row = named(post.custom_field.as_deref()).and_then(|call| rows.get(call).copied());
        if let Some(row) = row
            && let Some(campaign) = &row.campaign
        {
            requests.entry(campaign).or_default().push((post.time, &row.call));
        }
    }
    for of_campaign in requests.values_mut() {
        of_campaign.sort_unstable();
    }
    for pause in &evidence.pauses {
        // A shorter one shows nothing.
        verdict.pauses += u64::from(pause.until - pause.from > ON_ITS_WAY);
        let of_campaign = requests.get(pause.campaign.as_str()).map_or(&[][..], Vec::as_slice);
        let first = of_campaign.partition_point(|(at, _)| *at <= pause.from);
        for (at, call) in of_campaign[first..].iter().take_while(|(at, _)| *at < pause.until) {
            let after = *at - pause.from;
            let millis = u64::try_from(after.num_milliseconds()).unwrap_or(0);
            verdict.latest_post_ms = verdict.latest_post_ms.max(millis);
            if after > ON_ITS_WAY {
                verdict.late_posts += 1;
                verdict.violations.push(Violation::LatePost {
                    campaign: pause.campaign.clone(),
                    call: (*call).to_owned(),
                    paused: pause.from,
                    at: *at,
                });
            }
        }
    }
}
