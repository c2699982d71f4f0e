//! `cargo dev`: the whole system on one machine, one call out and one call in, or a campaign, and what to try next.

mod arguments;
mod campaign;
mod demo;
mod folder;
mod sound;
mod telemetry;
mod verify;
mod view;

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser as _;

use self::{
    arguments::{Arguments, What},
    demo::Demo,
    folder::Folder,
};
use crate::{
    Keys, Registration, Stack,
    keys::random,
    postgres::{self, Binaries, Durability, Options, Postgres},
};

/// The agent's first message, as it is uploaded: "Welcome to callbridge. How can I help you?", by espeak-ng.
const GREETING: &[u8] = include_bytes!("../speech/greeting.wav");

/// The exit code after an interrupt, as shells have it (128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// The `main` of `cargo dev`.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    runtime::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return view::failed(&anyhow::Error::new(error).context("cannot start the async runtime")),
    };
    let code = runtime.block_on(async {
        match run(&arguments).await {
            Ok(code) => code,
            Err(error) => view::failed(&error),
        }
    });
    // What is still blocked somewhere must not hold the exit.
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = Folder::prepare(arguments.state_dir())?;
    arguments.check_ports().await?;
    telemetry::start(&folder.log())?;
    view::title(&folder);
    // From here on an interrupt ends things in order.
    let mut signals = runtime::lifecycle::Signals::listen().context("cannot listen for Ctrl-C")?;

    let (postgres, database_url) = database(arguments, &folder).await?;
    let started = tokio::select! {
        started = start(arguments, &folder, database_url) => started,
        () = signals.recv() => {
            stop_postgres(postgres).await;
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    let stack = match started {
        Ok(stack) => stack,
        Err(error) => {
            stop_postgres(postgres).await;
            return Err(error).with_context(|| format!("see {}", folder.log().display()));
        }
    };
    let outcome = tokio::select! {
        outcome = show(arguments, &stack, &folder) => Some(outcome),
        () = signals.recv() => None,
    };
    let code = match outcome {
        None => ExitCode::from(INTERRUPTED),
        Some(Err(error)) => {
            view::trouble(&error);
            ExitCode::FAILURE
        }
        Some(Ok(good)) => {
            if arguments.once {
                if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            } else {
                view::waiting();
                signals.recv().await;
                ExitCode::SUCCESS
            }
        }
    };
    let begun = Instant::now();
    let stopped = stack.shut_down().await;
    stop_postgres(postgres).await;
    view::stopped(begun.elapsed());
    stopped.with_context(|| format!("something did not stop in order; see {}", folder.log().display()))?;
    Ok(code)
}

/// A private cluster, or the database that was given; migrated.
async fn database(arguments: &Arguments, folder: &Folder) -> anyhow::Result<(Option<Postgres>, String)> {
    let begun = Instant::now();
    if let Some(url) = &arguments.database_url {
        let applied = call_service::migrate(url).await.with_context(|| {
            let address = postgres::address(url);
            let example = "expected something like postgres://user@host/database";
            let which = if address.is_empty() { example } else { &address };
            format!("cannot use the database of --database-url ({which})")
        })?;
        view::ready(
            "PostgreSQL",
            &format!("as given, {} migrations applied", applied.len()),
            begun.elapsed(),
        );
        return Ok((None, url.clone()));
    }
    let binaries = Binaries::find().await?;
    let options = Options {
        durability: Durability::Machine,
        parent: Some(folder.path().to_owned()),
        log: Some(folder.postgres_log()),
    };
    let postgres = Postgres::start_with(&binaries, options).await?;
    let url = postgres.create_database().await?;
    let what = format!(
        "{} (version {}, {})",
        postgres.address(),
        binaries.version(),
        binaries.folder().display()
    );
    view::ready("PostgreSQL", &what, begun.elapsed());
    Ok((Some(postgres), url))
}

async fn stop_postgres(postgres: Option<Postgres>) {
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
}

async fn start(arguments: &Arguments, folder: &Folder, database_url: String) -> anyhow::Result<Stack> {
    let simulator = exotel_sim::Config {
        state_dir: folder.simulator(),
        accounts: Vec::new(),
        settings: exotel_sim::Settings {
            late_facts_ms: 2_000,
            ..exotel_sim::Settings::default()
        },
        ..exotel_sim::Config::default()
    };
    Stack::builder()
        .database_url(database_url)
        .keys(keys(arguments, folder)?)
        .ports(arguments.ports())
        .simulator(simulator)
        .on_ready(view::ready)
        .start()
        .await
}

/// Registers, calls, and writes `dev.json` before and after. Returns whether all was as it should be.
async fn show(arguments: &Arguments, stack: &Stack, folder: &Folder) -> anyhow::Result<bool> {
    let mut registration = Registration::new("dev")?;
    if arguments.database_url.is_some() {
        // A database that is kept has the number of the run before.
        let unique = u32::from_le_bytes(random()?) % 10_000_000;
        registration.phone.number = format!("+91804{unique:07}");
    }
    registration.greeting = Some(GREETING.to_vec());
    registration.account.calls_per_minute = match arguments.what {
        What::Calls => 60,
        // So that nobody waits for minutes.
        What::Campaign => 600,
    };
    let registered = stack.register(registration).await?;
    view::registered(&registered);
    let mut demo = Demo::new(registered);
    folder.write_json(&demo.describe(stack, folder))?;
    match arguments.what {
        What::Calls => {
            demo.call(stack, folder).await?;
            folder.write_json(&demo.describe(stack, folder))?;
            let call = demo.ended.first().map(|ended| ended.call.id.as_str());
            view::next_steps(stack, &demo.registered, call, None);
            Ok(demo.is_good())
        }
        What::Campaign => {
            let ended = campaign::run(stack, folder, &demo.registered).await?;
            let mut json = demo.describe(stack, folder);
            json["campaign"] = campaign::describe(folder.path(), &ended.id);
            folder.write_json(&json)?;
            view::next_steps(stack, &demo.registered, None, Some(&ended.id));
            Ok(ended.bad.is_empty())
        }
    }
}

/// The keys of the run before; with a database that is kept, those that sealed what is in it win.
fn keys(arguments: &Arguments, folder: &Folder) -> anyhow::Result<Keys> {
    let mut keys = Keys::kept_in(&folder.path().join("keys.json"))?;
    if arguments.database_url.is_some() {
        let given = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        keys.credential_keys = given("CREDENTIAL_KEYS").unwrap_or(keys.credential_keys);
        keys.token_keys = given("TOKEN_KEYS").unwrap_or(keys.token_keys);
    }
    Ok(keys)
}
