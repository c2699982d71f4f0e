//! What a run came to, kept between parts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{arguments::What, check::Verdict};

/// Figures that add up over parts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Figures {
    /// Rounds that are done.
    pub(super) rounds: u64,
    /// Processes that died.
    pub(super) kills: u64,
    /// Of them the edge.
    pub(super) edge_kills: u64,
    /// Times that everything died together with PostgreSQL.
    pub(super) all_kills: u64,
    /// Crash points: how often each was hit.
    pub(super) hits: BTreeMap<String, u64>,
    /// Crash points: how often one was armed and given up.
    pub(super) misses: BTreeMap<String, u64>,
    /// PostgreSQL's stops.
    pub(super) stops: u64,
    /// From its return to the first call placed and dialled after it, in milliseconds.
    pub(super) recoveries_ms: Vec<u64>,
    /// Replicas that were stopped and went on.
    pub(super) zombies: u64,
    /// Of them in the middle of a dial.
    pub(super) zombies_in_dial: u64,
    /// From the last call of a batch being placed to the end of all, in milliseconds.
    pub(super) settled_ms: Vec<u64>,
    /// Contacts of campaigns.
    pub(super) contacts: u64,
    /// See [`Verdict`].
    pub(super) pauses: u64,
    /// See [`Verdict`].
    pub(super) late_posts: u64,
    /// See [`Verdict`].
    pub(super) latest_post_ms: u64,
    /// Calls whose edge died.
    pub(super) cut: u64,
    /// Processes that were replaced.
    pub(super) restarts: u64,
    /// Calls whose audio flowed, at each round's beginning.
    pub(super) live: Vec<u64>,
    /// Calls on which people talked, inbound ones among them.
    pub(super) talks: u64,
    /// Calls that were asked for again because the first answer was no definite one.
    pub(super) retried: u64,
    /// See [`Verdict`].
    pub(super) dropped: u64,
    /// See [`Verdict`].
    pub(super) refused: u64,
    /// See [`Verdict`].
    pub(super) samples_lost: u64,
    /// See [`Verdict`].
    pub(super) samples_doubled: u64,
    /// See [`Verdict`].
    pub(super) hole_ms: u64,
    /// See [`Verdict`].
    pub(super) hole_control_ms: u64,
    /// See [`Verdict`].
    pub(super) holes: u64,
    /// See [`Verdict`].
    pub(super) holes_control: u64,
    /// Outbound rows.
    pub(super) calls: u64,
    /// Dials in the ledger.
    pub(super) dials: u64,
    /// See [`Verdict`].
    pub(super) double_dials: u64,
    /// See [`Verdict`].
    pub(super) lost_calls: u64,
    /// See [`Verdict`].
    pub(super) stuck_slots: u64,
    /// See [`Verdict`].
    pub(super) untold_dials: u64,
    /// See [`Verdict`].
    pub(super) violations: u64,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Figures {
    /// Adds another part's.
    pub(super) fn add(&mut self, other: Self) {
        let both = |of: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>| {
            for (name, count) in more {
                *of.entry(name).or_default() += count;
            }
        };
        both(&mut self.hits, other.hits);
        both(&mut self.misses, other.misses);
        self.recoveries_ms.extend(other.recoveries_ms);
        self.settled_ms.extend(other.settled_ms);
        self.live.extend(other.live);
        self.seconds += other.seconds;
        self.hole_ms = self.hole_ms.max(other.hole_ms);
        self.hole_control_ms = self.hole_control_ms.max(other.hole_control_ms);
        self.latest_post_ms = self.latest_post_ms.max(other.latest_post_ms);
        for (mine, theirs) in [
            (&mut self.rounds, other.rounds),
            (&mut self.kills, other.kills),
            (&mut self.edge_kills, other.edge_kills),
            (&mut self.all_kills, other.all_kills),
            (&mut self.stops, other.stops),
            (&mut self.zombies, other.zombies),
            (&mut self.zombies_in_dial, other.zombies_in_dial),
            (&mut self.contacts, other.contacts),
            (&mut self.pauses, other.pauses),
            (&mut self.late_posts, other.late_posts),
            (&mut self.cut, other.cut),
            (&mut self.restarts, other.restarts),
            (&mut self.talks, other.talks),
            (&mut self.retried, other.retried),
            (&mut self.dropped, other.dropped),
            (&mut self.refused, other.refused),
            (&mut self.samples_lost, other.samples_lost),
            (&mut self.samples_doubled, other.samples_doubled),
            (&mut self.holes, other.holes),
            (&mut self.holes_control, other.holes_control),
            (&mut self.calls, other.calls),
            (&mut self.dials, other.dials),
            (&mut self.double_dials, other.double_dials),
            (&mut self.lost_calls, other.lost_calls),
            (&mut self.stuck_slots, other.stuck_slots),
            (&mut self.untold_dials, other.untold_dials),
            (&mut self.violations, other.violations),
        ] {
            *mine += theirs;
        }
    }

    /// Takes over what the checks found.
    pub(super) fn judge(&mut self, verdict: &Verdict) {
        self.double_dials = verdict.double_dials;
        self.lost_calls = verdict.lost_calls;
        self.stuck_slots = verdict.stuck_slots;
        self.untold_dials = verdict.untold_dials;
        self.pauses = verdict.pauses;
        self.late_posts = verdict.late_posts;
        self.latest_post_ms = verdict.latest_post_ms;
        self.dropped = verdict.dropped;
        self.refused = verdict.refused;
        self.samples_lost = verdict.samples_lost;
        self.samples_doubled = verdict.samples_doubled;
        self.hole_ms = verdict.hole_ms;
        self.hole_control_ms = verdict.hole_control_ms;
        self.holes = verdict.holes;
        self.holes_control = verdict.holes_control;
        self.violations = u64::try_from(verdict.violations.len()).unwrap_or(u64::MAX);
    }

    /// Whether all that must hold does.
    pub(super) fn hold(&self) -> bool {
        let wrong = [
            self.violations,
            self.double_dials,
            self.lost_calls,
            self.stuck_slots,
            self.late_posts,
        ];
        wrong == [0; 5]
    }

    /// The last line of a run.
    pub(super) fn line(&self, what: What, seed: u64) -> String {
        let head = match what {
            What::Kills => format!("kills={}", self.kills),
            What::Postgres => format!(
                "stops={} recovery_median_ms={} recovery_p99_ms={}",
                self.stops,
                quantile(&self.recoveries_ms, 50),
                quantile(&self.recoveries_ms, 99)
            ),
            What::Callbacks => format!(
                "rounds={} settled_median_ms={} settled_max_ms={}",
                self.rounds,
                quantile(&self.settled_ms, 50),
                quantile(&self.settled_ms, 100)
            ),
            What::Zombie => format!("zombies={} in_dial={}", self.zombies, self.zombies_in_dial),
            What::Rolling | What::EdgeDetach => self.of_talk(what),
            What::Campaign => format!(
                "kills={} pauses={} late_posts={} latest_post_ms={} contacts={}",
                self.kills, self.pauses, self.late_posts, self.latest_post_ms, self.contacts
            ),
        };
        let points = match what {
            What::Kills => format!(" crash_points_min={}", self.rarest()),
            What::Postgres | What::Callbacks | What::Zombie | What::Campaign | What::Rolling | What::EdgeDetach => {
                String::new()
            }
        };
        format!(
            "{head} calls={} dials={} double_dials={} lost_calls={} stuck_slots={} violations={} untold_dials={}{points} \
             seconds={:.0} seed={seed}",
            self.calls,
            self.dials,
            self.double_dials,
            self.lost_calls,
            self.stuck_slots,
            self.violations,
            self.untold_dials,
            self.seconds
        )
    }

    fn of_talk(&self, what: What) -> String {
        let refused = if what == What::Rolling {
            format!(" refused={}", self.refused)
        } else {
            String::new()
        };
        let sound = format!(
            "dropped={}{refused} samples_lost={} samples_doubled={}",
            self.dropped, self.samples_lost, self.samples_doubled
        );
        let (live, talks, retried) = (quantile(&self.live, 50), self.talks, self.retried);
        let common = format!(
            "rounds={} live_median={live} talks={talks} retried={retried}",
            self.rounds
        );
        if what == What::Rolling {
            format!("{sound} restarts={} {common}", self.restarts)
        } else {
            format!(
                "{sound} longest_hole_ms={} control_ms={} windows_over_40_ms={} control={} kills={} edge_kills={} \
                 cut={} {common}",
                self.hole_ms,
                self.hole_control_ms,
                self.holes,
                self.holes_control,
                self.kills,
                self.edge_kills,
                self.cut
            )
        }
    }

    /// How often the crash point was hit that was hit least.
    fn rarest(&self) -> u64 {
        let hits = |point: &&str| self.hits.get(*point).copied().unwrap_or(0);
        call_service::crash::POINTS.iter().map(hits).min().unwrap_or(0)
    }
}

/// The value below which so many percent are; 0 of nothing.
fn quantile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).or(sorted.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        assert_eq!(quantile(&[], 50), 0);
        assert_eq!(quantile(&[7], 99), 7);
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(
            [0, 50, 99, 100].map(|percent| quantile(&hundred, percent)),
            [1, 50, 99, 100]
        );
    }

    #[test]
    fn the_line_names_what_must_be_nothing_and_the_rarest_point() {
        let mut figures = Figures {
            kills: 3,
            recoveries_ms: vec![5, 9, 7],
            ..Figures::default()
        };
        let line = figures.line(What::Kills, 9);
        assert!(line.starts_with("kills=3 ") && line.ends_with("seed=9"), "{line}");
        assert!(line.contains("double_dials=0 lost_calls=0 stuck_slots=0") && line.contains("crash_points_min=0"));
        assert!(
            figures
                .line(What::Postgres, 9)
                .contains("recovery_median_ms=7 recovery_p99_ms=9")
        );
        assert!(figures.hold());
        figures.judge(&Verdict {
            lost_calls: 1,
            ..Verdict::default()
        });
        assert!(!figures.hold());
        figures.judge(&Verdict {
            pauses: 9,
            late_posts: 1,
            latest_post_ms: 1_200,
            ..Verdict::default()
        });
        assert!(!figures.hold());
        let line = figures.line(What::Rolling, 9);
        assert!(
            line.starts_with("dropped=0 refused=0 samples_lost=0 samples_doubled=0 restarts=0 rounds=0 "),
            "{line}"
        );
        let line = figures.line(What::EdgeDetach, 9);
        assert!(
            line.contains("longest_hole_ms=0 control_ms=0 windows_over_40_ms=0 control=0"),
            "{line}"
        );
        let line = figures.line(What::Campaign, 9);
        assert!(line.contains("pauses=9 late_posts=1 latest_post_ms=1200"), "{line}");
    }
}
