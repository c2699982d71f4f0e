//! `cargo load campaign`: what an import costs beside COPY, and whether claims stay as quick and dials as even in a campaign of a
//! million contacts as in a small one.

mod import;
mod spans;

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use call_service::store::rates::Kind;
use callbridge_proto::campaign::v1::{PauseCampaignRequest, Rules};
use exotel_sim::{Callee, Outcome, Streams};
use serde_json::json;

use self::{import::Import, spans::Spans};
use super::{arguments::Arguments, machine, progress::Progress, result, say};
use crate::{
    Registered, Registration, Stack, campaign, poll,
    postgres::{Binaries, Durability, Options, Postgres},
    target,
};

/// Contacts of the small campaign, which is called first: enough for its minutes.
const SMALL: u64 = 10_000;
/// Dials a minute that the account allows.
const PER_MINUTE: u32 = 6_000;
/// The dials of the first seconds are not counted: connections and prepared statements are there after them.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long campaigns call, in measurements of the other kind: a dial may be a quarter of a second early, which must not matter.
const TIMES: u32 = 8;
/// What was dialled has ended by then.
const QUIET: Duration = Duration::from_secs(30);

/// How a campaign called.
#[derive(Debug, Clone, Copy)]
struct Called {
    /// The median of the claims that dialled, in milliseconds.
    claim_ms: f64,
    /// The median of the rounds that made contacts calls, in milliseconds.
    fill_ms: f64,
    /// Dials a second.
    per_second: f64,
}

/// Measures and prints.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("load: this is no release build: its figures mean nothing");
    }
    let spans = Spans::install();
    let folder = target::folder().join("load");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let options = Options {
        durability: Durability::Machine,
        parent: Some(folder.clone()),
        log: Some(folder.join("postgres.log")),
    };
    let postgres = Postgres::start_with(&Binaries::find().await?, options).await?;
    let outcome = measure(arguments, &postgres, &spans).await;
    postgres.stop().await;
    outcome
}

async fn measure(arguments: &Arguments, postgres: &Postgres, spans: &Spans) -> anyhow::Result<()> {
    let url = postgres.create_database().await?;
    let simulated = tempfile::tempdir().context("cannot make a temporary folder")?;
    let stack = Stack::builder()
        .database_url(&url)
        .simulator(provider(simulated.path()))
        .call_setting("DB_POOL_SIZE", "16")
        .call_setting("DIAL_CONCURRENCY", "256")
        .start()
        .await?;
    let mut registration = Registration::new("load")?;
    registration.account.calls_per_minute = i32::try_from(PER_MINUTE)?;
    let registered = stack.register(registration).await?;
    let import = Import::new(&stack, &registered, postgres.connect(name(&url)).await?);

    say(&format!("load: a campaign of {SMALL} contacts calls"));
    let (small, _) = import.contacts(0, SMALL).await?;
    let called_small = calls(arguments, &stack, &import, spans, &small).await?;

    let (mut imports, mut copies, mut bare, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    let (mut first, mut large) = (SMALL, String::new());
    for round in 1..=arguments.rounds {
        let contacts = arguments.contacts;
        bare.push(import.copy_bare(first, contacts).await?);
        copies.push(import.copy(first, contacts).await?);
        let (id, sent) = import.contacts(first, contacts).await?;
        say(&format!(
            "load: round {round} of {}: {:.0} contacts/s, COPY {:.0}/s, without keys {:.0}/s",
            arguments.rounds,
            sent.per_second,
            copies.last().copied().unwrap_or_default(),
            bare.last().copied().unwrap_or_default()
        ));
        imports.push(sent.per_second);
        peak = peak.max(sent.peak_mib);
        (first, large) = (first + contacts, id);
    }
    say(&format!("load: a campaign of {} contacts calls", arguments.contacts));
    let called_large = calls(arguments, &stack, &import, spans, &large).await?;
    let pause = Kind::Dial.pause(i32::try_from(PER_MINUTE)?);
    let pace = 1.0 / pause.to_std().context("a pace is a time")?.as_secs_f64();
    let medians = [&imports, &copies, &bare].map(|figures| machine::median(figures));
    tell(arguments, medians, peak, called_small, called_large, pace)?;
    stack.shut_down().await
}

/// Whoever is called is busy after 200 ms.
fn provider(folder: &std::path::Path) -> exotel_sim::Config {
    exotel_sim::Config {
        settings: exotel_sim::Settings {
            convention: false,
            ring_delay_ms: 200,
            unscripted: Outcome::callee(Callee::Busy),
            stream: Streams {
                record: false,
                ..Streams::default()
            },
            ..exotel_sim::Settings::for_tests()
        },
        accounts: Vec::new(),
        ..exotel_sim::Config::for_tests(folder)
    }
}

/// Lets a campaign call for a while.
async fn calls(
    arguments: &Arguments,
    stack: &Stack,
    import: &Import<'_>,
    spans: &Spans,
    id: &str,
) -> anyhow::Result<Called> {
    import.tidy().await?;
    let clients = stack.clients();
    let length = Duration::from_secs(arguments.seconds) * TIMES;
    campaign::start(&clients, id).await?;
    tokio::time::sleep(WARM_UP).await;
    spans.forget();
    let before = stack.control().ledger().await?.len();
    let bar = Progress::new("seconds of calls", length.as_secs());
    for second in 0..length.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bar.at(second + 1);
    }
    let (claims, fills) = spans.take();
    let dials: Vec<_> = stack.control().ledger().await?.into_iter().skip(before).collect();
    drop(bar);
    let request = PauseCampaignRequest {
        campaign_id: id.to_owned(),
        reason: "measured".to_owned(),
    };
    clients
        .campaigns()
        .pause_campaign(request)
        .await
        .context("PauseCampaign")?;
    poll("all calls to end", QUIET, async || import.active().await).await?;
    let (Some(begun), Some(ended)) = (dials.first(), dials.last()) else {
        anyhow::bail!("nothing was dialled");
    };
    let took = (ended.time - begun.time).to_std().unwrap_or_default().as_secs_f64();
    ensure!(took > 0.0 && dials.len() > 1, "hardly anything was dialled");
    #[expect(clippy::cast_precision_loss, reason = "thousands of dials")]
    let per_second = (dials.len() - 1) as f64 / took;
    Ok(Called {
        // A claim that finds that its turn has not come does much less: those that dialled took longest.
        claim_ms: spans::median_of_longest(claims, dials.len()),
        fill_ms: spans::median_of_longest(fills, usize::MAX),
        per_second,
    })
}

/// A campaign that calls whenever there are contacts, and each of them once.
fn settings(name: &str, registered: &Registered) -> callbridge_proto::campaign::v1::CampaignSettings {
    let rules = Rules {
        windows: campaign::always_open(),
        retries: Some(campaign::retries(0, 60)),
        max_attempts: 1,
        ..Rules::default()
    };
    campaign::settings(name, &registered.agent.id, &registered.phone_id, rules)
}

fn name(url: &str) -> &str {
    let path = url.rsplit_once('/').map_or(url, |(_, path)| path);
    path.split('?').next().unwrap_or(path)
}

fn tell(
    arguments: &Arguments,
    [import, copy, bare]: [f64; 3],
    peak: f64,
    small: Called,
    large: Called,
    pace: f64,
) -> anyhow::Result<()> {
    let load = machine::load_average();
    let rate = small.per_second.min(large.per_second);
    if let Some(path) = &arguments.json {
        let called = |called: Called| json!({ "claim_ms": called.claim_ms, "fill_ms": called.fill_ms, "dials_per_s": called.per_second });
        let all = json!({
            "contacts": arguments.contacts, "import_per_s": import, "copy_per_s": copy, "copy_bare_per_s": bare,
            "ratio": import / copy, "ratio_bare": import / bare, "import_peak_mib": peak, "small": called(small),
            "large": called(large), "claim_ratio": large.claim_ms / small.claim_ms, "pace_per_s": pace,
            "rate_ratio": rate / pace, "processors": machine::processors(), "load_avg": load,
        });
        fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    result(&format!(
        "contacts={} import_per_s={import:.0} copy_per_s={copy:.0} ratio={:.2} copy_bare_per_s={bare:.0} ratio_bare={:.2} \
         import_peak_mib={peak:.0} claim_small_ms={:.2} claim_large_ms={:.2} claim_ratio={:.2} fill_small_ms={:.2} \
         fill_large_ms={:.2} dials_per_s={rate:.2} pace_per_s={pace:.2} rate_ratio={:.3} processors={} load_avg={load}",
        arguments.contacts,
        import / copy,
        import / bare,
        small.claim_ms,
        large.claim_ms,
        large.claim_ms / small.claim_ms,
        small.fill_ms,
        large.fill_ms,
        rate / pace,
        machine::processors(),
    ));
    Ok(())
}
