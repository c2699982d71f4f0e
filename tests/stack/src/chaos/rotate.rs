//! `cargo chaos rotate`: the command that re-wraps credentials is killed again and again, and no row is ever unreadable (F120).

mod kills;
mod rows;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::Instant,
};

use anyhow::Context as _;
use call_service::{
    config::{Environment, Rewrap},
    db::Db,
    vault::{Keys, Vault},
};
use data_encoding::BASE64;
use runtime::config::Vars;

use self::{
    kills::{Figures, Now, Run},
    rows::Rows,
};
use super::{
    INTERRUPTED, lock,
    screen::{self, Screen, say},
};
use crate::{
    keys::random,
    postgres::{Binaries, Durability, Options, Postgres},
    target,
};

const WORD: &str = "rotate";

/// Kills `call-service rewrap` again and again while it seals credentials with a new key, and checks that every row can be opened
/// all the time and is sealed with the new key in the end.
///
/// It starts a private PostgreSQL and puts ROWS credentials into it, sealed by call-service's own code. Then processes of
/// `call-service rewrap` follow each other, one or two at a time, and each dies by SIGKILL at a random moment, mostly in the middle of
/// a batch. Other credentials are set all the while, at first with the old key, as replicas do that are not rolled out yet. At each
/// kill a part of the rows is opened, and now and then all. When nothing of the old key is left a process may finish; all rows are
/// opened with the new key alone, and the next rotation begins with a further key.
///
/// The last line has the figures, such as
///   rows=100000 kills=500 unreadable=0 old_left=0 rotations=2 seconds=300 kills_in_work=450 …
/// and the exit code is 0 only if `unreadable` (rows that did not open, said something else, or were gone) and `old_left` (rows that
/// the last rotation left with an old key) are 0. `kills_in_work` are those of processes that had sealed rows; the others died
/// before, such as while they checked the keys. State is in target/chaos/rotate/ unless --state-dir says otherwise: the logs.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo chaos rotate", bin_name = "cargo chaos rotate")]
pub(super) struct Arguments {
    #[arg(hide = true, default_value = WORD)]
    word: String,
    /// Credentials to rotate.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..=10_000_000))]
    rows: u64,
    /// How often a process is killed.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    kills: u64,
    /// The moments come from it; a new one when absent.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where state goes; two that run at one time need one each.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

/// Whether the command line is this one's.
pub(super) fn is_asked_for() -> bool {
    std::env::args_os().nth(1) == Some(OsString::from(WORD))
}

/// Runs it.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let state = match &arguments.state_dir {
        Some(folder) => folder.clone(),
        None => target::folder().join("chaos").join(WORD),
    };
    let _lock = lock(&state)?;
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => u32::from_le_bytes(random()?).into(),
    };
    say(&format!(
        "cargo chaos rotate: {} rows, {} kills, seed {seed}, state in {}",
        arguments.rows,
        arguments.kills,
        state.display()
    ));
    let mut signals = runtime::lifecycle::Signals::listen().context("cannot listen for Ctrl-C")?;
    let options = Options {
        durability: Durability::Process,
        parent: None,
        log: Some(state.join("postgres.log")),
    };
    let postgres = Postgres::start_with(&Binaries::find().await?, options).await?;
    let screen = Screen::new(WORD, 0, arguments.kills);
    let begun = Instant::now();
    let rotated = tokio::select! {
        rotated = rotate(arguments, seed, &state, &postgres, &screen) => rotated.map(Some),
        () = signals.recv() => Ok(None),
    };
    screen.finish();
    let Some(figures) = rotated? else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let holds = figures.unreadable.is_empty() && figures.old_left == 0;
    screen::result(&format!(
        "rows={} kills={} unreadable={} old_left={} rotations={} seconds={} kills_in_work={} two_at_once={} written={} opened={} \
         seed={seed}",
        arguments.rows,
        figures.kills,
        figures.unreadable.len(),
        figures.old_left,
        figures.rotations,
        begun.elapsed().as_secs(),
        figures.in_work,
        figures.pairs,
        figures.written,
        figures.opened,
    ));
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn rotate(
    arguments: &Arguments,
    seed: u64,
    state: &Path,
    postgres: &Postgres,
    screen: &Screen,
) -> anyhow::Result<Figures> {
    let url = postgres.create_database().await?;
    let database = url.rsplit('/').next().and_then(|name| name.split('?').next());
    let client = postgres.connect(database.unwrap_or_default()).await?;
    let (old, new) = (key(1)?, key(2)?);
    let settings: Vars = [("DATABASE_URL", url.clone()), ("CREDENTIAL_KEYS", old.clone())]
        .into_iter()
        .collect();
    let settings = Rewrap::read(settings).context("our own settings")?;
    let db = Db::connect(&settings.database)?;
    let begun = Instant::now();
    let first = vault(&old)?;
    first.check_keys(&mut *db.conn().await?).await?;
    let rows = Rows::make(db, client, &first, arguments.rows).await?;
    say(&format!(
        "{} rows were sealed in {} s",
        arguments.rows,
        begun.elapsed().as_secs()
    ));
    let share = arguments.rows / arguments.kills;
    let run = Run {
        rows,
        // Some batches between two kills, so that most hit one.
        batch: (share / 2).clamp(10, 500),
        share: share.max(10),
        kills: arguments.kills,
        seed,
        url,
        log: state.join("rewrap.log"),
        screen,
        now: Mutex::new(Now {
            writer: first,
            old,
            new,
            next_id: 3,
            figures: Figures::default(),
        }),
    };
    let ended = tokio::select! {
        killed = run.kill() => killed,
        written = run.write() => written,
    };
    let figures = run.now().figures.clone();
    match ended {
        // It says so too, and what was found is told all the same.
        Err(error) if !figures.unreadable.is_empty() => say(&format!("cargo chaos rotate: {error:#}")),
        ended => ended?,
    }
    Ok(figures)
}

/// A new entry of `CREDENTIAL_KEYS`.
fn key(id: u16) -> anyhow::Result<String> {
    Ok(format!("{id}:{}", BASE64.encode(&random::<32>()?)))
}

/// A vault with these `CREDENTIAL_KEYS`.
fn vault(keys: &str) -> anyhow::Result<Vault> {
    Ok(Vault::new(Keys::parse(keys)?, Environment::default()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let arguments = Arguments::parse_from(["chaos", WORD, "--rows", "20", "--kills", "3", "--seed", "7"]);
        assert_eq!((arguments.rows, arguments.kills, arguments.seed), (20, 3, Some(7)));
    }
}
