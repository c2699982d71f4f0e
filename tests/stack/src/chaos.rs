//! `cargo chaos`: breaks a running system, and checks that every call was dialled at most once and none is lost.

mod arguments;
mod balancer;
mod callbacks;
mod campaign;
mod check;
mod dice;
mod figures;
mod kills;
mod live;
mod load;
mod outages;
mod part;
mod pauses;
mod people;
mod pieces;
mod presets;
mod progress;
mod pulse;
mod records;
mod rotate;
mod screen;
mod system;
mod zombie;

use std::{fs::File, future::Future, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser as _;

use self::{
    arguments::{Arguments, What},
    figures::Figures,
    part::Part,
    progress::Progress,
    screen::{Screen, say},
};
use crate::{
    keys::random,
    postgres::{Binaries, Durability, Options, Postgres},
};

/// The exit code after an interrupt, as shells have it (128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// The `main` of `cargo chaos`, and of the processes that it starts.
pub fn main() -> ExitCode {
    if let Some(code) = pieces::run_if_asked() {
        return code;
    }
    if rotate::is_asked_for() {
        let arguments = rotate::Arguments::parse();
        return block_on(rotate::run(&arguments));
    }
    let arguments = Arguments::parse();
    block_on(run(&arguments))
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    runtime::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the async runtime")),
    };
    let code = runtime.block_on(async {
        match command.await {
            Ok(code) => code,
            Err(error) => failed(&error),
        }
    });
    // What is still blocked somewhere must not hold the exit.
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

fn failed(error: &anyhow::Error) -> ExitCode {
    say(&format!("cargo chaos: {error:#}"));
    ExitCode::FAILURE
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let what = arguments.what;
    let state = arguments.state_dir();
    let _lock = lock(&state)?;
    let mut progress = match arguments.from {
        Some(from) => Progress::resume(&state, what, from, arguments.seed)?,
        None => Progress {
            what: what.word().to_owned(),
            seed: match arguments.seed {
                Some(seed) => seed,
                None => u32::from_le_bytes(random()?).into(),
            },
            figures: Figures::default(),
        },
    };
    let begin = progress.figures.rounds;
    say(&format!(
        "cargo chaos {}: rounds {begin} to {}, seed {}, state in {}",
        what.word(),
        arguments.rounds,
        progress.seed,
        state.display()
    ));
    let mut signals = runtime::lifecycle::Signals::listen().context("cannot listen for Ctrl-C")?;
    let options = Options {
        // Its processes die here, the machine does not.
        durability: Durability::Process,
        parent: None,
        log: Some(state.join("postgres.log")),
    };
    let postgres = Arc::new(Postgres::start_with(&Binaries::find().await?, options).await?);
    let screen = Screen::new(what.word(), begin, arguments.rounds);
    let parts = async {
        while progress.figures.rounds < arguments.rounds {
            let first = progress.figures.rounds;
            let rounds = (arguments.rounds - first).min(part_of(what));
            let part = Part {
                what,
                seed: progress.seed,
                first,
                rounds,
                replicas: arguments.replicas(),
                contacts: arguments.contacts,
                calls: arguments.calls,
                previous: arguments.previous.clone(),
            };
            progress.figures.add(part.run(&state, &postgres, &screen).await?);
            progress.keep(&state)?;
            if !progress.figures.hold() {
                // What is wrong stays in the part's folder.
                break;
            }
        }
        anyhow::Ok(())
    };
    let done = tokio::select! {
        done = parts => Some(done),
        () = signals.recv() => None,
    };
    screen.finish();
    let code = match done {
        None => {
            say(&format!("interrupted: go on with --from {}", progress.figures.rounds));
            ExitCode::from(INTERRUPTED)
        }
        Some(done) => {
            done?;
            if what == What::Kills {
                for line in screen::points(&progress.figures) {
                    screen::result(&line);
                }
            }
            screen::result(&progress.figures.line(what, progress.seed));
            if progress.figures.hold() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    };
    drop(postgres);
    Ok(code)
}

/// Makes the state folder and keeps others out of it, until the file is dropped.
fn lock(state: &Path) -> anyhow::Result<File> {
    let unusable = || {
        format!(
            "cannot use the state folder {}; choose another with --state-dir",
            state.display()
        )
    };
    std::fs::create_dir_all(state).with_context(unusable)?;
    let lock = File::create(state.join(".lock")).with_context(unusable)?;
    if lock.try_lock().is_err() {
        bail!(
            "another `cargo chaos` runs with the state folder {}: give each a --state-dir",
            state.display()
        );
    }
    Ok(lock)
}

/// Rounds that are settled and checked together: an interrupt loses that many at most.
fn part_of(what: What) -> u64 {
    match what {
        What::Kills => 1_000,
        What::Postgres => 250,
        What::Callbacks => 50,
        What::Zombie => 100,
        What::Rolling => 10,
        What::EdgeDetach => 20,
        // Its deaths are spread over the campaigns.
        What::Campaign => u64::MAX,
    }
}
