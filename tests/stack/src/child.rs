//! A child process: this program again as one piece, which can be killed, stopped and continued.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{self, ExitCode, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use call_service::vault::rotate::How;
use runtime::program;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::{
    process::{Child as Process, ChildStdin, Command},
    time::timeout,
};

use crate::Settings;

/// Where the point and the time of a child's death are told to it.
const CRASH_AT: &str = "CRASH_AT";

/// What of our own environment a child gets; everything else would be a setting that nobody chose.
const PASSED_ON: [&str; 5] = ["PATH", "RUST_LOG", "RUST_BACKTRACE", "TMPDIR", "LD_LIBRARY_PATH"];

/// SIGKILL works at once, but a busy machine takes its time to say so.
const REAP: Duration = Duration::from_secs(20);

/// How a child ends whose driver is gone.
const ORPHANED: i32 = 75;

/// Makes this process, a child, end with its driver. Standard input is a pipe from the driver, which never writes: its end is the
/// driver's, however it came about.
pub(crate) fn die_with_driver() {
    thread::spawn(|| {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {}
        process::exit(ORPHANED);
    });
}

/// Is call-service, with the settings of the environment.
pub(crate) fn call_service() -> ExitCode {
    program::main("call-service", call_service::Config::read, async |config, tasks| {
        let listeners = call_service::Listeners::bind(&config).await?;
        call_service::run(config, listeners, tasks).await
    })
}

/// Is `call-service rewrap`, with the settings of the environment.
pub(crate) fn rewrap() -> ExitCode {
    program::main(
        "call-service",
        call_service::config::Rewrap::read,
        async |settings, tasks| call_service::rewrap::run(settings, How::Rewrap, &tasks).await.map(drop),
    )
}

/// Is an edge, with the settings of the environment.
pub(crate) fn edge() -> ExitCode {
    program::main("edge", edge::Config::read, async |config, tasks| {
        let listeners = edge::Listeners::bind(&config).await?;
        edge::run(config, listeners, tasks).await
    })
}

/// What a child is made of.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Which piece, for errors.
    pub(crate) name: &'static str,
    /// Another program than this one: an earlier release's, which takes no arguments and does not know its driver. None: this
    /// program again.
    pub(crate) program: Option<PathBuf>,
    /// What makes this program that piece.
    pub(crate) arguments: Vec<String>,
    /// Its whole environment, beside what is passed on.
    pub(crate) settings: Settings,
    /// Where its log goes; each start adds to it.
    pub(crate) log: PathBuf,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// By SIGKILL.
    Killed,
    /// In any other way: nothing asks it to.
    Other(ExitStatus),
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    pid: Option<Pid>,
    /// Its end is ours, and the child's. Kept here, as waiting for a process closes an input that it still owns.
    _tie: Option<ChildStdin>,
}

impl Spec {
    /// Starts it, armed to die at a point or not.
    pub(crate) fn start(&self, crash_at: Option<&str>) -> anyhow::Result<Child> {
        self.start_under(&[], crash_at)
    }

    /// Starts it as the last argument of another program, which watches it.
    pub(crate) fn start_under(&self, watcher: &[&str], crash_at: Option<&str>) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let program = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("cannot find this program again")?,
        };
        let passed_on: BTreeMap<_, _> = PASSED_ON
            .iter()
            .filter_map(|name| Some((*name, std::env::var_os(name)?)))
            .collect();
        let mut line = watcher.iter().map(OsString::from).chain([program.into_os_string()]);
        let mut command = Command::new(line.next().context("a child needs a program")?);
        command
            .args(line)
            .args(&self.arguments)
            .env_clear()
            .env("RUST_LOG", "warn")
            .env("LOG_FORMAT", "human")
            .envs(passed_on)
            .envs(&self.settings)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            // Away from the terminal's signals. And should we die while it is stopped: a group without a parent that has
            // stopped members is sent SIGHUP and SIGCONT by the kernel.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(crash_at) = crash_at {
            command.env(CRASH_AT, crash_at);
        }
        let mut process = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let pid = process
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let tie = process.stdin.take();
        Ok(Child {
            process,
            pid,
            _tie: tie,
        })
    }
}

impl Child {
    /// Its process id.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.process.id().context("a child has ended")
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<Death> {
        let status = self.process.wait().await.context("cannot wait for a child")?;
        Ok(if status.signal() == Some(Signal::KILL.as_raw()) {
            Death::Killed
        } else {
            Death::Other(status)
        })
    }

    /// Waits for its end for so long. None: it lives.
    pub(crate) async fn ended_within(&mut self, limit: Duration) -> anyhow::Result<Option<Death>> {
        timeout(limit, self.ended()).await.ok().transpose()
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<Death> {
        self.process.start_kill().context("cannot kill a child")?;
        match self.ended_within(REAP).await? {
            Some(death) => Ok(death),
            None => bail!("a child is still there {} s after SIGKILL", REAP.as_secs()),
        }
    }

    /// Asks it to end in order, as Kubernetes does.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Asks it to end in order, and waits for so long.
    pub(crate) async fn finish(&mut self, limit: Duration) -> anyhow::Result<Death> {
        self.terminate()?;
        match self.ended_within(limit).await? {
            Some(death) => Ok(death),
            None => bail!("a child is still there {} s after SIGTERM", limit.as_secs()),
        }
    }

    /// Stops it where it is.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it is stopped, by us or by itself.
    pub(crate) fn is_stopped(&self) -> anyhow::Result<bool> {
        let pid = self.pid.context("a child had no process id")?;
        // Looks only: its end is for the runtime to see.
        let looks = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let seen = waitid(WaitId::Pid(pid), looks).context("cannot look after a child")?;
        Ok(seen.is_some_and(|status| status.stopped()))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid.context("a child had no process id")?;
        // Until it is waited for, its id is nobody else's.
        kill_process(pid, signal).context("cannot signal a child")
    }
}
