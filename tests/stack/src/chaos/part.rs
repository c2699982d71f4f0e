//! One part of a run: a system of its own, broken for some rounds, settled, and checked in full.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::ErrorKind,
    mem::take,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::time::sleep;

use super::{
    arguments::What,
    callbacks, campaign,
    check::{self, Campaign, Evidence, Pause, Talk, Verdict, Violation, Window},
    figures::Figures,
    kills,
    live::{self, Fleet},
    load::{Load, Told},
    outages, people,
    pulse::Pulse,
    records,
    screen::Screen,
    system::System,
    zombie,
};
use crate::{child::Child, postgres::Postgres};

/// After the load has ended, everything must have settled within this: a question to Exotel that died with its replica is
/// asked again after a minute, by another.
const SETTLE: Duration = Duration::from_secs(90);
/// Clients of a system that is whole get their answer in seconds.
const ANSWER: Duration = Duration::from_secs(30);
/// Once all is terminal, a dial that must not be has this long to show.
const QUIET: Duration = Duration::from_millis(1_500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Violations whose timelines are written; after so many the pattern is clear.
const TOLD_IN_FULL: usize = 50;
/// What a run left in the state folder goes when the next one begins.
const FOLDER: &str = "part";

/// Which rounds.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// What is broken.
    pub(super) what: What,
    /// Of the whole run.
    pub(super) seed: u64,
    /// The first round's number.
    pub(super) first: u64,
    /// How many.
    pub(super) rounds: u64,
    /// Of call-service.
    pub(super) replicas: usize,
    /// Of campaigns.
    pub(super) contacts: u64,
    /// People who talk at one time.
    pub(super) calls: u16,
    /// Programs of an earlier release.
    pub(super) previous: Option<PathBuf>,
}

/// What the rounds of every mode leave.
pub(super) struct Broken {
    /// What was done.
    pub(super) figures: Figures,
    /// What clients were told.
    pub(super) told: Told,
    /// The campaigns, by id.
    pub(super) campaigns: BTreeMap<String, Campaign>,
    /// The pauses of campaigns.
    pub(super) pauses: Vec<Pause>,
    /// The processes, alive and unarmed.
    pub(super) children: Vec<Child>,
    /// The calls on which people talked.
    pub(super) talks: Vec<Talk>,
    /// Windows in which replicas died.
    pub(super) windows: Vec<Window>,
    /// Calls whose edge died, by the simulator's ids.
    pub(super) cut: BTreeSet<String>,
    /// Connections that no process of a kind took.
    pub(super) not_taken: Vec<(String, u64)>,
}

/// What the rounds of every mode get.
pub(super) struct Stage<'a> {
    /// Which rounds.
    pub(super) part: Part,
    /// What is broken.
    pub(super) system: &'a System,
    /// How its database stands.
    pub(super) pulse: &'a Pulse,
    /// Where progress goes.
    pub(super) screen: &'a Screen,
}

impl Part {
    /// Runs it.
    pub(super) async fn run(self, parent: &Path, postgres: &Arc<Postgres>, screen: &Screen) -> anyhow::Result<Figures> {
        let begun = Instant::now();
        let folder = prepare(parent)?;
        let (what, rounds) = (self.what, self.rounds);
        let mut system = System::start(&folder, postgres, &self).await?;
        // Processes that come and go have Services before them, the others have fixed addresses.
        let (fleet, children) = if what.is_live() {
            let fleet = Fleet::start(&system, self.previous.as_deref()).await?;
            (Some(fleet), Vec::new())
        } else {
            (None, system.raise().await?)
        };
        system.furnish(&self).await?;
        let pulse = Pulse::start(&system, what);
        let stage = Stage {
            part: self,
            system: &system,
            pulse: &pulse,
            screen,
        };
        let mut broken = match fleet {
            Some(fleet) => live::run(&stage, fleet).await?,
            None => stage.rounds(children).await?,
        };
        settle(&stage).await?;
        let verdict = judge(system, what, &mut broken).await?;
        let mut figures = broken.figures;
        figures.rounds = rounds;
        figures.seconds = begun.elapsed().as_secs_f64();
        for violation in verdict.violations.iter().take(TOLD_IN_FULL) {
            screen.line(&format!("VIOLATION {violation}"));
        }
        if !verdict.violations.is_empty() {
            screen.line(&format!("see {}", folder.join("violations.txt").display()));
        }
        Ok(figures)
    }
}

impl Stage<'_> {
    /// Breaks the system while clients place calls; the replicas run as they should afterwards.
    async fn rounds(&self, children: Vec<Child>) -> anyhow::Result<Broken> {
        let part = &self.part;
        // Their calls come in batches, or from campaigns.
        if part.what == What::Callbacks {
            return callbacks::run(self, children).await;
        }
        if part.what == What::Campaign {
            return campaign::run(self, children).await;
        }
        let load = Load::start(self.system, self.pulse, part.seed, part.first);
        let (figures, children) = match part.what {
            What::Kills => kills::run(self, children).await?,
            What::Zombie => zombie::run(self, children).await?,
            What::Postgres | What::Callbacks | What::Campaign | What::Rolling | What::EdgeDetach => {
                outages::run(self, children).await?
            }
        };
        self.screen.show(part.first + part.rounds, "clients finish");
        Ok(Broken {
            figures,
            told: load.finish(ANSWER).await,
            campaigns: BTreeMap::new(),
            pauses: Vec::new(),
            children,
            talks: Vec::new(),
            windows: Vec::new(),
            cut: BTreeSet::new(),
            not_taken: Vec::new(),
        })
    }
}

/// An empty folder for the part.
fn prepare(state: &Path) -> anyhow::Result<PathBuf> {
    let folder = state.join(FOLDER);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(&folder),
    }
    .with_context(|| {
        format!(
            "cannot use {}; choose another folder with --state-dir",
            folder.display()
        )
    })?;
    Ok(folder)
}

/// Waits until no call is open here or at the simulator, and stays so; or until the settle time is over: the checks say what
/// was not.
async fn settle(stage: &Stage<'_>) -> anyhow::Result<()> {
    let client = stage.system.connect().await?;
    let open_calls = "SELECT count(*) FROM calls WHERE state IN ('queued', 'dialing', 'unconfirmed', 'placed', 'ringing', \
                      'in_progress')";
    // The session of an edge that died ends when its lease lapses, which may be after its call.
    let open_sessions =
        "SELECT count(DISTINCT call_id) FROM media_sessions WHERE started_at IS NOT NULL AND ended_at IS NULL";
    let statement = if stage.part.what.is_live() {
        format!("SELECT ({open_calls}) + ({open_sessions})")
    } else {
        open_calls.to_owned()
    };
    let begun = Instant::now();
    let mut quiet_since = None;
    while begun.elapsed() < SETTLE {
        let open: i64 = client
            .query_one(&statement, &[])
            .await
            .context("cannot count calls")?
            .get(0);
        let live = stage
            .system
            .control
            .calls()
            .iter()
            .filter(|call| !call.has_ended())
            .count();
        if open == 0 && live == 0 {
            if quiet_since.get_or_insert_with(Instant::now).elapsed() > QUIET {
                return Ok(());
            }
        } else {
            quiet_since = None;
        }
        let done = stage.part.first + stage.part.rounds;
        stage
            .screen
            .show(done, &format!("settling: {open} calls open, {live} at Exotel"));
        sleep(LOOK).await;
    }
    Ok(())
}

/// Ends the system, reads what it left, and checks it.
async fn judge(system: System, what: What, broken: &mut Broken) -> anyhow::Result<Verdict> {
    let folder = system.folder.clone();
    let limits = system
        .members
        .iter()
        .map(|member| (member.registered.account_sid.clone(), member.limits))
        .collect();
    let client = system.connect().await?;
    let control = system.control.clone();
    system.end(take(&mut broken.children)).await?;
    let told = take(&mut broken.told);
    let mut not_taken = Vec::new();
    if what == What::Rolling {
        not_taken = records::not_taken(&folder.join("events.jsonl"))?;
        for (what, count) in &broken.not_taken {
            not_taken.extend((0..*count).map(|_| format!("a connection to {what}")));
        }
    }
    let talk_rows = if what.is_live() {
        records::talk_rows(&client).await?
    } else {
        Vec::new()
    };
    let refuses = |number: &str| {
        control
            .outcome(number)
            .is_ok_and(|outcome| people::is_told_too_often(&outcome))
    };
    let evidence = Evidence {
        accepted: told.accepted,
        unanswered: told.unanswered,
        refused: told.refused,
        rows: records::rows(&client).await?,
        dials: records::dials(&folder.join("ledger.jsonl"))?,
        ends: records::ends(&folder.join("events.jsonl"))?,
        posts: records::posts(&folder.join("arrivals.jsonl"), refuses)?,
        limits,
        campaigns: take(&mut broken.campaigns),
        pauses: take(&mut broken.pauses),
        contacts: records::contacts(&client).await?,
        talks: take(&mut broken.talks),
        talk_rows,
        windows: take(&mut broken.windows),
        cut: take(&mut broken.cut),
        not_taken,
    };
    let verdict = check::check(&evidence);
    let figures = &mut broken.figures;
    figures.calls = u64::try_from(evidence.rows.len())?;
    figures.dials = u64::try_from(evidence.dials.len())?;
    figures.talks = u64::try_from(evidence.talks.len())?;
    figures.judge(&verdict);
    let mut text = String::new();
    for violation in verdict.violations.iter().take(TOLD_IN_FULL) {
        text += &describe(violation, &evidence, &client).await?;
    }
    if !text.is_empty() {
        fs::write(folder.join("violations.txt"), text).context("cannot write violations.txt")?;
    }
    Ok(verdict)
}

/// A violation with the dials and the timeline of its call.
async fn describe(
    violation: &Violation,
    evidence: &Evidence,
    client: &tokio_postgres::Client,
) -> anyhow::Result<String> {
    let mut text = format!("{violation}\n");
    if let Some(call) = violation.call() {
        let of_call = |field: &Option<String>| field.as_deref().is_some_and(|field| field.starts_with(call));
        for dial in evidence.dials.iter().filter(|dial| of_call(&dial.custom_field)) {
            let end = evidence
                .ends
                .get(&dial.call_sid)
                .map_or("never".to_owned(), ToString::to_string);
            let _ = writeln!(text, "  dial {} at {}, ended {end}", dial.call_sid, dial.time);
        }
        for line in records::timeline(client, call).await? {
            let _ = writeln!(text, "  {line}");
        }
    }
    text.push('\n');
    Ok(text)
}
