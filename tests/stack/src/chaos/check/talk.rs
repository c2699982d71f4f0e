//! What people who talked heard, and what our rows say of their calls.

use std::collections::HashMap;

use super::{Evidence, Talk, Verdict, Violation, Window, evidence::TalkRow};

/// A hole that a person notices.
pub(in super::super) const AUDIBLE_MS: u64 = 40;
/// As improbable as that is called no chance.
const CHANCE: f64 = 0.001;

pub(super) fn check(evidence: &Evidence, verdict: &mut Verdict) {
    let rows: HashMap<&str, &TalkRow> = evidence
        .talk_rows
        .iter()
        .map(|row| (row.call_sid.as_str(), row))
        .collect();
    for talk in &evidence.talks {
        let row = rows.get(talk.call_sid.as_str());
        let call = match row {
            Some(row) => row.call.clone(),
            None if talk.call_sid.is_empty() => "no call".to_owned(),
            None => talk.call_sid.clone(),
        };
        let is_cut = evidence.cut.contains(&talk.call_sid);
        if let Some(how) = talk.wrong.as_ref().filter(|_| !is_cut) {
            verdict.dropped += 1;
            let how = how.clone();
            verdict.violations.push(Violation::Dropped { call, how });
            continue;
        }
        // What was on its way through an edge that was killed is gone.
        let (lost, doubled) = if is_cut {
            (0, 0)
        } else {
            (talk.sound.lost, talk.sound.doubled)
        };
        verdict.samples_lost += lost;
        verdict.samples_doubled += doubled;
        if (lost, doubled) != (0, 0) {
            verdict.violations.push(Violation::OtherSound {
                call: call.clone(),
                lost,
                doubled,
            });
        }
        let wrong = match row {
            None => Some("there is no row".to_owned()),
            Some(row) => row.wrong(is_cut),
        };
        if let Some(what) = wrong {
            verdict.violations.push(Violation::OtherEnd { call, what });
        }
    }
    if !evidence.talks.is_empty() {
        // Each is told of by itself.
        verdict.refused += evidence.refused.len() as u64;
    }
    for what in &evidence.not_taken {
        verdict.refused += 1;
        verdict.violations.push(Violation::NotTaken { what: what.clone() });
    }
    holes(evidence, verdict);
}

impl TalkRow {
    /// What is wrong with the row of a call that its person ended, or that a death of its edge cut.
    fn wrong(&self, is_cut: bool) -> Option<String> {
        let reason = self.end_reason.as_deref().unwrap_or("no reason");
        if self.state != "completed" || !is_cut && reason != "customer_hung_up" {
            return Some(format!("the row says {} ({reason})", self.state));
        }
        if self.presumed && !is_cut {
            return Some("an end was presumed while the person talked".to_owned());
        }
        // The session began and ended once, and so did the call.
        let counts = (self.ends, self.sessions, self.session_ends);
        (counts != (1, 1, 1)).then(|| {
            let (ends, sessions, session_ends) = counts;
            format!("{ends} ends of the call, {sessions} sessions, {session_ends} ends of sessions")
        })
    }
}

/// The longest hole of a window.
fn longest(window: &Window, talks: &[Talk]) -> u64 {
    let all = talks.iter().flat_map(|talk| &talk.sound.holes);
    let of_window = all.filter(|hole| window.from <= hole.at && hole.at < window.until);
    of_window.map(|hole| hole.ms).max().unwrap_or(0)
}

/// Windows in which the edges were detached, against those in which as much happened to somebody else. They come in pairs.
fn holes(evidence: &Evidence, verdict: &mut Verdict) {
    let of = |attached| {
        let windows = evidence
            .windows
            .iter()
            .filter(move |window| window.attached == attached);
        windows
            .map(|window| longest(window, &evidence.talks))
            .collect::<Vec<u64>>()
    };
    let (detached, control) = (of(true), of(false));
    let max = |of: &[u64]| of.iter().copied().max().unwrap_or(0);
    let over = |of: &[u64]| of.iter().filter(|ms| **ms > AUDIBLE_MS).count() as u64;
    (verdict.hole_ms, verdict.hole_control_ms) = (max(&detached), max(&control));
    (verdict.holes, verdict.holes_control) = (over(&detached), over(&control));
    let alone = |one: &[u64], other: &[u64]| {
        let pairs = one.iter().zip(other);
        pairs
            .filter(|(one, other)| **one > AUDIBLE_MS && **other <= AUDIBLE_MS)
            .count()
    };
    let (only_detached, only_control) = (alone(&detached, &control), alone(&control, &detached));
    // A busy machine makes holes in both. What it makes nearly always in one of them, or what is again and again twice as long as
    // any in the other, it did not make.
    let limit = 2 * verdict.hole_control_ms.max(AUDIBLE_MS);
    let longer = detached.iter().filter(|ms| **ms > limit).count();
    if longer >= (detached.len() / 20).max(3) || tail(only_detached, only_control) < CHANCE {
        verdict.violations.push(Violation::Holes {
            longest_ms: verdict.hole_ms,
            control_ms: verdict.hole_control_ms,
            longer,
            windows: only_detached,
            control_windows: only_control,
        });
    }
}

/// How probable it is that of these pairs at least so many are of the first kind when both kinds are as probable (a sign test).
fn tail(first: usize, second: usize) -> f64 {
    let (first, second) = (whole(first), whole(second));
    let pairs = first + second;
    let mut probability = 0.5_f64.powf(pairs);
    let (mut sum, mut count) = (0.0, pairs);
    while count >= first {
        sum += probability;
        // Of one fewer of the first kind.
        probability *= count / (pairs - count + 1.0);
        count -= 1.0;
    }
    sum
}

fn whole(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

#[cfg(test)]
mod tests;
