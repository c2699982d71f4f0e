//! What one sees: a bar where there is a terminal, a line every ten seconds where there is none.

use std::{
    io::{IsTerminal as _, stderr},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::figures::Figures;

/// Between two lines of a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how far a run is.
#[derive(Debug)]
pub(super) struct Screen {
    bar: Option<ProgressBar>,
    begun: Instant,
    /// Rounds that other runs did.
    from: u64,
    rounds: u64,
    last_line: Mutex<Instant>,
}

impl Screen {
    /// A run of so many rounds, some of which are done.
    pub(super) fn new(what: &'static str, from: u64, rounds: u64) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(rounds).with_prefix(what).with_position(from);
            let template = "{prefix} {bar:30} {pos}/{len} rounds, {msg} ({elapsed}, {eta} left)";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let begun = Instant::now();
        let last_line = Mutex::new(begun);
        Self {
            bar,
            begun,
            from,
            rounds,
            last_line,
        }
    }

    /// So many rounds are done.
    pub(super) fn show(&self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message.to_owned());
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        say(&format!(
            "{done}/{} rounds, {message}, {}",
            self.rounds,
            self.left(done)
        ));
    }

    fn left(&self, done: u64) -> String {
        let (new, left) = (done.saturating_sub(self.from), self.rounds.saturating_sub(done));
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        if new == 0 {
            return "time left unknown".to_owned();
        }
        let each = self.begun.elapsed() / new;
        let left = each.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX));
        format!("about {} s left", left.as_secs())
    }

    /// A line of its own.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How often each crash point was hit.
pub(super) fn points(figures: &Figures) -> Vec<String> {
    let mut lines = vec![format!("{:<22}{:>8}{:>10}", "crash point", "hit", "given up")];
    for point in call_service::crash::POINTS {
        let of = |counts: &std::collections::BTreeMap<String, u64>| counts.get(point).copied().unwrap_or(0);
        lines.push(format!(
            "{point:<22}{:>8}{:>10}",
            of(&figures.hits),
            of(&figures.misses)
        ));
    }
    let hit: u64 = figures.hits.values().sum();
    lines.push(format!(
        "{} kills: {hit} at crash points, {} of the edge, {} times everything with PostgreSQL, the rest at random",
        figures.kills, figures.edge_kills, figures.all_kills
    ));
    lines
}

/// Progress, to stderr.
#[expect(clippy::print_stderr, reason = "progress of a command")]
pub(super) fn say(text: &str) {
    eprintln!("{text}");
}

/// Results, to stdout.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(super) fn result(text: &str) {
    println!("{text}");
}
