//! The steps of a forecast, from one time at which something changes to the next.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{Calls, Forecast, Group, Hour};
use crate::campaigns::{
    retry::{self, Next, Outcome, Tries},
    rules::Rules,
    window,
};

/// How far ahead is looked.
const HORIZON: TimeDelta = TimeDelta::days(366);
/// The shortest step: what happens within it counts as one moment.
const STEP: TimeDelta = TimeDelta::minutes(1);
/// Steps that a campaign's calls take at the full rate, about; long campaigns have longer steps.
const STEPS: f64 = 4_000.0;
/// Steps in all, whatever the rules are.
const MOST_STEPS: usize = 60_000;
/// Less than this of a contact is nobody.
const NOBODY: f64 = 1e-6;
/// Zones that are told apart; a campaign has a few.
const MOST_ZONES: usize = 32;

/// Contacts of a zone.
#[derive(Debug)]
struct Region {
    zone: Tz,
    /// Due: by what became of them so far.
    due: BTreeMap<Tries, f64>,
    /// Not yet: by when, in steps since the epoch.
    later: BTreeMap<i64, BTreeMap<Tries, f64>>,
    open: bool,
    /// When that changes; before the first look, a time long ago.
    until: DateTime<Utc>,
}

impl Region {
    fn new(zone: Tz) -> Self {
        Self {
            zone,
            due: BTreeMap::new(),
            later: BTreeMap::new(),
            open: false,
            until: DateTime::<Utc>::MIN_UTC,
        }
    }

    /// Brings the window and those who wait up to now. Whether the window closed on somebody who is due.
    fn turn(&mut self, rules: &Rules, now: DateTime<Utc>, step: i64) -> bool {
        let mut missed = false;
        if self.until <= now {
            let was_open = self.open;
            self.open = window::is_open(rules, self.zone, now);
            let change = if self.open {
                window::next_close(rules, self.zone, now)
            } else {
                window::next_open(rules, self.zone, now)
            };
            self.until = change.unwrap_or(DateTime::<Utc>::MAX_UTC);
            missed = was_open && !self.open && self.ready() > 0.5;
        }
        let place = now.timestamp_millis().div_euclid(step);
        while let Some(first) = self.later.first_entry().filter(|first| *first.key() <= place) {
            for (tries, contacts) in first.remove() {
                *self.due.entry(tries).or_default() += contacts;
            }
        }
        missed
    }

    fn ready(&self) -> f64 {
        self.due.values().sum()
    }

    fn all(&self) -> f64 {
        self.ready() + self.later.values().flat_map(BTreeMap::values).sum::<f64>()
    }
}

/// A forecast that is being made.
pub(super) struct Run<'a> {
    rules: &'a Rules,
    shares: [(Outcome, f64); 5],
    seconds: f64,
    per_second: f64,
    step: TimeDelta,
    now: DateTime<Utc>,
    end: DateTime<Utc>,
    zones: BTreeMap<&'static str, Region>,
    /// Calls that take a slot still: when they were dialled, and how many.
    active: VecDeque<(DateTime<Utc>, f64)>,
    seen: Forecast,
}

impl<'a> Run<'a> {
    /// One of a campaign with these calls and dials, from `now` on.
    pub(super) fn new(rules: &'a Rules, calls: Calls, per_second: f64, now: DateTime<Utc>) -> Self {
        Self {
            rules,
            shares: calls.mix.shares(),
            seconds: calls.seconds,
            per_second,
            step: STEP,
            now,
            end: rules.end_at.map_or(now + HORIZON, |end| end.min(now + HORIZON)),
            zones: BTreeMap::new(),
            active: VecDeque::new(),
            seen: Forecast::default(),
        }
    }

    /// All the steps.
    pub(super) fn through(mut self, groups: impl IntoIterator<Item = Group>) -> Forecast {
        self.add(groups);
        self.go();
        self.seen
    }

    fn add(&mut self, groups: impl IntoIterator<Item = Group>) {
        let groups: Vec<_> = groups.into_iter().filter(|group| group.contacts > 0).collect();
        #[expect(clippy::cast_precision_loss, reason = "shares of contacts")]
        let all: f64 = groups.iter().map(|group| group.contacts as f64).sum();
        let open_seconds = all * 2.0 / self.per_second.max(1e-6);
        let step = TimeDelta::try_milliseconds(whole(open_seconds / STEPS * 1_000.0)).unwrap_or(STEP);
        self.step = step.clamp(STEP, TimeDelta::hours(1));
        for group in groups {
            let known = self.zones.contains_key(group.zone.name()) || self.zones.len() < MOST_ZONES;
            let zone = if known { group.zone } else { self.rules.time_zone };
            #[expect(clippy::cast_precision_loss, reason = "shares of contacts")]
            let contacts = group.contacts as f64;
            self.wait(zone, group.next_at.max(self.now), group.tries, contacts);
        }
    }

    fn wait(&mut self, zone: Tz, at: DateTime<Utc>, tries: Tries, contacts: f64) {
        let found = self.zones.entry(zone.name()).or_insert_with(|| Region::new(zone));
        // Rounded up: nobody is called before their time.
        let step = self.step.num_milliseconds();
        let place = (at.timestamp_millis() + step - 1).div_euclid(step);
        *found.later.entry(place).or_default().entry(tries).or_default() += contacts;
    }

    fn go(&mut self) {
        for _ in 0..MOST_STEPS {
            let step = self.step.num_milliseconds();
            let mut ready = 0.0;
            for zone in self.zones.values_mut() {
                self.seen.windows_missed += u32::from(zone.turn(self.rules, self.now, step));
                ready += if zone.open { zone.ready() } else { 0.0 };
            }
            let next = self.next_change();
            let idle = ready <= NOBODY || self.per_second <= 0.0;
            // No step goes over the end of an hour: what is dialled counts for one.
            let until = if idle {
                next
            } else {
                next.min(self.now + self.step).min(hour(self.now) + TimeDelta::hours(1))
            };
            if (idle && next >= self.end) || self.now >= self.end {
                break;
            }
            if !idle {
                self.dial(ready, until.min(self.end));
            }
            self.now = until;
        }
        self.seen.left = self.zones.values().map(Region::all).sum();
        if self.seen.left > 0.5 {
            self.seen.finish = None;
        }
    }

    /// The next time at which a window opens or closes for somebody, or somebody comes due.
    fn next_change(&self) -> DateTime<Utc> {
        let step = self.step.num_milliseconds();
        self.zones
            .values()
            .filter(|zone| !(zone.due.is_empty() && zone.later.is_empty()))
            .flat_map(|zone| {
                let first = zone.later.keys().next();
                let due = first.and_then(|place| DateTime::from_timestamp_millis(place * step));
                [zone.until, due.unwrap_or(zone.until)]
            })
            .filter(|at| *at > self.now)
            .min()
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Dials at the full rate until then, everybody who is due alike.
    fn dial(&mut self, ready: f64, until: DateTime<Utc>) {
        let calls = (self.per_second * seconds(until - self.now)).min(ready);
        let took = calls / self.per_second;
        let ended = self.now + TimeDelta::milliseconds(whole((took + self.seconds) * 1_000.0));
        let mut retried = Vec::new();
        for zone in self.zones.values_mut().filter(|zone| zone.open) {
            for (tries, contacts) in &mut zone.due {
                let dialled = *contacts * (calls / ready);
                *contacts -= dialled;
                for (outcome, share) in self.shares {
                    let tries = tries.and(outcome);
                    match retry::next(self.rules, tries, outcome, ended) {
                        _ if share <= 0.0 => {}
                        Next::At(at) => retried.push((zone.zone, at, tries, dialled * share)),
                        Next::Final(retry::End::Reached) => self.seen.reached += dialled * share,
                        Next::Final(_) => self.seen.exhausted += dialled * share,
                    }
                }
            }
            zone.due.retain(|_, contacts| *contacts > NOBODY);
        }
        for (zone, at, tries, contacts) in retried {
            self.wait(zone, at, tries, contacts);
        }
        self.note(calls, ended);
    }

    fn note(&mut self, calls: f64, ended: DateTime<Utc>) {
        let gone = self.now - TimeDelta::milliseconds(whole(self.seconds * 1_000.0));
        while self.active.pop_front_if(|(dialled, _)| *dialled <= gone).is_some() {}
        self.active.push_back((self.now, calls));
        let active: f64 = self.active.iter().map(|(_, calls)| calls).sum();
        let slots = active.min(self.per_second * self.seconds);
        let start = hour(self.now);
        let seen = &mut self.seen;
        seen.calls += calls;
        seen.peak_slots = seen.peak_slots.max(slots);
        seen.finish = Some(seen.finish.map_or(ended, |finish| finish.max(ended)));
        match seen.hours.last_mut().filter(|hour| hour.start == start) {
            Some(hour) => {
                hour.calls += calls;
                hour.slots = hour.slots.max(slots);
            }
            None => seen.hours.push(Hour { start, calls, slots }),
        }
    }
}

/// The hour's first instant.
fn hour(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp().div_euclid(3_600) * 3_600, 0).unwrap_or(at)
}

#[expect(clippy::cast_precision_loss, reason = "seconds of at most a year")]
fn seconds(time: TimeDelta) -> f64 {
    time.num_milliseconds() as f64 / 1_000.0
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to a few years of milliseconds")]
fn whole(millis: f64) -> i64 {
    millis.clamp(0.0, 1e11) as i64
}
