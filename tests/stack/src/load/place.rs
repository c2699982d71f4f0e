//! `cargo load place`: what PlaceCall costs beside pgbench with the same statements.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use runtime::Tasks;
use serde_json::json;

use super::{
    arguments::Arguments,
    baseline::{self, Baseline},
    capture::{self, Replace},
    clients::Callers,
    machine, provider, result, say,
};
use crate::{
    Registered, Registration, Stack, poll,
    postgres::{Binaries, Durability, Options, Postgres},
    target,
};

/// Accounts that calls are spread over: one account's calls come one after the other, by its rate.
const ACCOUNTS: usize = 64;
/// Calls before anything is measured: connections, caches and prepared statements are there after them.
const WARM_UP: usize = 1_500;
/// How many callers are tried; the best number counts, for each of the two.
const CALLERS: [usize; 4] = [1, 16, 32, 64];
/// The log's last lines are on the disk by then.
const LOGGED: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Default)]
struct Figures {
    place: Vec<f64>,
    pgbench: Vec<f64>,
}

/// Measures and prints.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("load: this is no release build: its figures mean nothing");
    }
    let folder = target::folder().join("load");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let binaries = Binaries::find().await?;
    baseline::program(&binaries)?;
    let log = folder.join("postgres.log");
    let options = Options {
        durability: Durability::Machine,
        parent: Some(folder.clone()),
        log: Some(log.clone()),
    };
    let postgres = Postgres::start_with(&binaries, options).await?;
    let outcome = measure(arguments, &folder, &binaries, &postgres, &log).await;
    postgres.stop().await;
    outcome
}

async fn measure(
    arguments: &Arguments,
    folder: &Path,
    binaries: &Binaries,
    postgres: &Postgres,
    log: &Path,
) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let provider = provider::start(&tasks).await?;
    let url = postgres.create_database().await?;
    let mut stack = Stack::builder()
        .database_url(&url)
        .call_setting("DB_POOL_SIZE", "16")
        .call_setting("DIAL_CONCURRENCY", "256")
        .start()
        .await?;
    say(&format!("load: {ACCOUNTS} accounts, {WARM_UP} calls to warm up"));
    let registered = register(&stack, &format!("http://{provider}")).await?;
    let callers = Callers::new(|| stack.clients(), &registered);
    for _ in 0..WARM_UP / 16 {
        futures_util::future::try_join_all((0..100).map(|_| callers.place())).await?;
    }
    let script = script(folder, postgres, &url, log, &callers, &registered).await?;
    stack.call_services[0].stop().await?;
    let copy = copy(postgres, &url).await?;
    stack.restart_call_service(0).await?;
    let baseline = Baseline { script, url: copy };

    let length = Duration::from_secs(arguments.seconds);
    let brief = Duration::from_secs(3);
    let (mut best_place, mut best_pgbench) = ((0.0, 0), (0.0, 0));
    for number in CALLERS {
        let placed = callers.as_many_as_possible(number, brief).await?;
        let benched = baseline.run(binaries, number, brief).await?;
        say(&format!(
            "load: {number} callers: {placed:.0} calls/s, pgbench {benched:.0}/s"
        ));
        best_place = if placed > best_place.0 {
            (placed, number)
        } else {
            best_place
        };
        best_pgbench = if benched > best_pgbench.0 {
            (benched, number)
        } else {
            best_pgbench
        };
    }
    let mut figures = Figures::default();
    for round in 1..=arguments.rounds {
        let placed = callers.as_many_as_possible(best_place.1, length).await?;
        let benched = baseline.run(binaries, best_pgbench.1, length).await?;
        say(&format!(
            "load: round {round} of {}: {placed:.0} calls/s, pgbench {benched:.0}/s, ratio {:.2}",
            arguments.rounds,
            placed / benched
        ));
        figures.place.push(placed);
        figures.pgbench.push(benched);
    }
    let highest = machine::median(&figures.place);
    let rate = highest / 2.0;
    say(&format!("load: {rate:.0} calls/s, evenly"));
    let took = callers.at_a_rate(rate, length * 2).await?;
    tell(arguments, &figures, rate, &took)?;
    tasks.shut_down(Duration::from_secs(1)).await;
    stack.shut_down().await
}

async fn register(stack: &Stack, provider: &str) -> anyhow::Result<Vec<Registered>> {
    let mut all = Vec::new();
    for _ in 0..ACCOUNTS {
        let mut registration = Registration::new("load")?;
        registration.account.calls_per_minute = 6_000;
        provider.clone_into(&mut registration.account.subdomain);
        all.push(stack.register(registration).await?);
    }
    Ok(all)
}

/// Logs what one call does, and makes it a script.
async fn script(
    folder: &Path,
    postgres: &Postgres,
    url: &str,
    log: &Path,
    callers: &Callers,
    registered: &[Registered],
) -> anyhow::Result<PathBuf> {
    let admin = postgres.connect("postgres").await?;
    admin
        .batch_execute("ALTER SYSTEM SET log_min_duration_statement = 0")
        .await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    let known = postgres.connect(name(url)).await?;
    // What is asked here is no part of a call.
    known.batch_execute("SET log_min_duration_statement = -1").await?;
    poll("the log", LOGGED, async || {
        let text = fs::read_to_string(log).map_err(|error| error.to_string())?;
        if text.contains("parameter \"log_min_duration_statement\" changed") {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await?;
    let key = callers.place().await?;
    let row = known
        .query_one(
            "SELECT c.id::text, c.call_sid, c.customer, c.phone_id::text, c.account_id::text, c.agent_id::text, c.exophone
            FROM calls c WHERE idempotency_key = $1",
            &[&key],
        )
        .await?;
    let of_call: Vec<String> = (0..7).map(|column| row.get(column)).collect();
    let [id, sid, customer, phone, account, agent, exophone] = &of_call[..] else {
        anyhow::bail!("the captured call has no row");
    };
    poll("the statements of a call in the log", LOGGED, async || {
        let text = fs::read_to_string(log).map_err(|error| error.to_string())?;
        let commits = capture::of_call(&capture::read(&text), &[id]);
        let commits = commits.iter().filter(|statement| statement.text == "COMMIT").count();
        if commits >= 2 {
            Ok(())
        } else {
            Err(format!("{commits} commits"))
        }
    })
    .await?;
    admin
        .batch_execute("ALTER SYSTEM RESET log_min_duration_statement")
        .await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    let text = fs::read_to_string(log)?;
    let statements = capture::of_call(&capture::read(&text), &[id, &key, phone, account, agent]);
    ensure!(
        statements
            .iter()
            .any(|statement| statement.text.starts_with("INSERT INTO \"calls\"")),
        "the log has no INSERT of the call"
    );
    say(&format!("load: a call is {} statements", statements.len()));
    // One script for all accounts: each statement is planned once on a connection, as the service's are.
    let of_account = |value: &dyn Fn(&Registered) -> String, kind: &str| {
        let values: Vec<String> = registered
            .iter()
            .map(|registered| format!("'{}'", value(registered)))
            .collect();
        format!("((ARRAY[{}]::{kind}[])[:account])", values.join(","))
    };
    let replace = [
        (
            id,
            "('00000000-0000-7000-8000-' || lpad(to_hex(:n::bigint), 12, '0'))::uuid".to_owned(),
        ),
        (&key, "('bench-' || :n::text)".to_owned()),
        (sid, "('sid-' || :n::text)".to_owned()),
        (customer, "('+91' || lpad(:n::text, 13, '0'))".to_owned()),
        (phone, of_account(&|other| hyphenated(&other.phone_id), "uuid")),
        (account, of_account(&|other| hyphenated(&other.account_id), "uuid")),
        (agent, of_account(&|other| hyphenated(&other.agent.id), "uuid")),
        (exophone, of_account(&|other| other.phone_number.clone(), "text")),
    ];
    let replace: Vec<Replace<'_>> = replace
        .into_iter()
        .map(|(value, with)| Replace { value, with })
        .collect();
    let path = folder.join("call.sql");
    let script = capture::script(&statements, &replace, registered.len());
    fs::write(&path, script)?;
    Ok(path)
}

fn name(url: &str) -> &str {
    let path = url.rsplit_once('/').map_or(url, |(_, path)| path);
    path.split('?').next().unwrap_or(path)
}

/// `phone_…` as PostgreSQL prints it.
fn hyphenated(id: &str) -> String {
    let hex = id.rsplit('_').next().unwrap_or(id);
    uuid::Uuid::try_parse(hex).map_or_else(|_| hex.to_owned(), |id| id.hyphenated().to_string())
}

async fn copy(postgres: &Postgres, url: &str) -> anyhow::Result<String> {
    let admin = postgres.connect("postgres").await?;
    let statement = format!("CREATE DATABASE bench TEMPLATE {}", name(url));
    poll("a copy of the database", LOGGED, async || {
        admin.batch_execute(&statement).await
    })
    .await?;
    admin.batch_execute("CHECKPOINT").await?;
    Ok(postgres.url("bench"))
}

fn tell(arguments: &Arguments, figures: &Figures, rate: f64, took: &[Duration]) -> anyhow::Result<()> {
    let at = |share: usize| {
        took.get(took.len() * share / 1_000)
            .or(took.last())
            .copied()
            .unwrap_or_default()
    };
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let (place, pgbench) = (machine::median(&figures.place), machine::median(&figures.pgbench));
    let load = machine::load_average();
    if let Some(path) = &arguments.json {
        let all = json!({
            "place_per_s": figures.place, "pgbench_per_s": figures.pgbench, "ratio": place / pgbench,
            "at_per_s": rate, "calls": took.len(), "p50_ms": ms(at(500)), "p90_ms": ms(at(900)), "p99_ms": ms(at(990)),
            "p999_ms": ms(at(999)), "processors": machine::processors(), "load_avg": load,
        });
        fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    result(&format!(
        "place_per_s={place:.0} pgbench_per_s={pgbench:.0} ratio={:.2} p50_ms={:.1} p99_ms={:.1} at_per_s={rate:.0} processors={} load_avg={load}",
        place / pgbench,
        ms(at(500)),
        ms(at(990)),
        machine::processors(),
    ));
    Ok(())
}
