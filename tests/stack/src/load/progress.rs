//! What one sees while something is measured: a bar where there is a terminal, a line at its beginning where there is none.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::say;

/// A bar that is gone when it is dropped.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// So much is to be done.
    pub(super) fn new(what: &str, length: u64) -> Self {
        if !stderr().is_terminal() {
            say(&format!("load: {what}: {length}"));
            return Self(None);
        }
        let bar = ProgressBar::new(length).with_prefix(what.to_owned());
        let template = "{prefix} {bar:30} {pos}/{len} ({elapsed}, {eta} left)";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(Some(bar))
    }

    /// So much is done.
    pub(super) fn at(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
