//! What a process has used, as Linux counts it.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// Processor time, of user and system.
    pub(super) cpu: Duration,
    /// Resident memory.
    pub(super) rss_kib: u64,
}

impl Usage {
    /// Of a running process.
    ///
    /// # Errors
    /// When it is gone, or this is not Linux.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path)
                .with_context(|| format!("cannot read {path}; what a process uses is only told by Linux"))
        };
        let ticks = ticks(&read("stat")?).context("/proc/…/stat has no times")?;
        let rss_kib = rss(&read("status")?).context("/proc/…/status has no VmRSS")?;
        let each = rustix::param::clock_ticks_per_second();
        ensure!(each > 0, "the system has no clock ticks");
        Ok(Self {
            cpu: Duration::from_nanos(ticks * (1_000_000_000 / each)),
            rss_kib,
        })
    }
}

/// `utime` and `stime` (proc_pid_stat(5), fields 14 and 15).
fn ticks(stat: &str) -> Option<u64> {
    // The name before can hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_are_read() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 900 0 0 0 31 17 5 5 20 0 3 0 100 1000 200";
        assert_eq!(ticks(stat), Some(48));
        assert_eq!(rss("Name:\tload\nVmRSS:\t    5120 kB\nThreads:\t3\n"), Some(5_120));
        assert_eq!((ticks("12 (a) S 1"), rss("")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_kib > 100, "{usage:?}");
    }
}
