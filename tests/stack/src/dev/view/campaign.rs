//! What is on the screen of a campaign.

use std::{
    io::{IsTerminal as _, stderr},
    path::Path,
    time::{Duration, Instant},
};

use anstream::println;
use callbridge_proto::campaign::v1::{AddContactsResponse, CampaignState, ForecastCampaignResponse, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize as _;

use super::shown;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Rows in error that are shown.
const TOLD: usize = 5;
/// A contact in one of these is called no more.
const FINAL: [&str; 6] = [
    "reached",
    "exhausted",
    "refused",
    "unreachable",
    "canceled",
    "suppressed",
];

pub(crate) fn created(id: &str) {
    println!();
    println!("{} {}", "a campaign".bold(), id.dimmed());
}

pub(crate) fn imported(file: &Path, report: &AddContactsResponse) {
    println!(
        "  {} {:<14} {}: {} taken, {} duplicate, {} in error",
        "✓".green(),
        "contacts",
        shown(file),
        report.accepted,
        report.duplicates,
        report.rejected
    );
    for problem in report.problems.iter().take(TOLD) {
        println!(
            "    {} line {} {} {}",
            "·".dimmed(),
            problem.line,
            problem.column.dimmed(),
            problem.problem.yellow()
        );
    }
}

pub(crate) fn forecast(chart: &Path, forecast: &ForecastCampaignResponse) {
    println!(
        "  {} {:<14} {:.0} calls, {:.0} at one time at most, {} windows missed; {}",
        "✓".green(),
        "forecast",
        forecast.calls,
        forecast.peak_slots,
        forecast.windows_missed,
        shown(chart)
    );
}

/// How far it is: a bar where there is a terminal, lines where there is none.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl Bar {
    /// So many contacts.
    pub(crate) fn new(contacts: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(contacts as u64);
            let template = "  {bar:30} {pos}/{len} contacts, {msg} ({elapsed}, {eta} left)";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, last: None }
    }

    /// It is here now.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let of = |word: &str| progress.by_state.get(word).copied().unwrap_or(0);
        let done: i64 = FINAL.into_iter().map(of).sum();
        let done = u64::try_from(done).unwrap_or(0);
        let words = format!(
            "{} active, {} dials/min, {}",
            progress.active_calls,
            progress.dials_last_minute,
            counted(&progress.by_outcome)
        );
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(words);
            return;
        }
        let over = progress.state() == CampaignState::Finished;
        if over || self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last = Some(Instant::now());
            println!("  {done}/{} contacts, {words}", progress.contacts);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

pub(crate) fn over(progress: &Progress, results: &Path, bad: &[String]) {
    let mark = if bad.is_empty() {
        "✓".green().to_string()
    } else {
        "✗".red().to_string()
    };
    println!("  {mark} {:<14} {}", "contacts", counted(&progress.by_state));
    println!("  {mark} {:<14} {}", "attempts", counted(&progress.by_outcome));
    println!("  {mark} {:<14} {}", "results", shown(results));
    for text in bad {
        println!("    {} {}", "✗".red(), text.red());
    }
}

/// What there is any of, by name.
fn counted(counts: &std::collections::HashMap<String, i64>) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count != 0).collect();
    counts.sort();
    counts
        .into_iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect::<Vec<_>>()
        .join(", ")
}
