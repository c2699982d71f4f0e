//! `cargo dev campaign`: two hundred people are called, who do all that people do.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use callbridge_proto::campaign::v1::{
    AddContactsResponse, CampaignState, ExportResultsRequest, ForecastCampaignRequest, ForecastCampaignResponse,
    Progress, Rules, WatchCampaignRequest,
};
use exotel_sim::{Answer, Callee, CallerScript, Outcome};
use tokio::time::timeout;

use super::{folder::Folder, view::campaign as view};
use crate::{
    Registered, Stack,
    campaign::{self, CHUNK},
};

/// Whom the file has.
const CONTACTS: usize = 200;
/// Calls at one time.
const AT_ONE_TIME: i32 = 20;
/// It takes under a minute; the rest is for a slow machine.
const LIMIT: Duration = Duration::from_mins(5);

/// What a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Person {
    Answers,
    Busy,
    NoAnswer,
    Fails,
    Registered,
}

impl Person {
    /// Of twenty, twelve answer.
    fn of(place: usize) -> Self {
        match place % 20 {
            0 | 7 | 13 => Self::Busy,
            3 | 16 => Self::NoAnswer,
            5 | 10 => Self::Fails,
            18 => Self::Registered,
            _ => Self::Answers,
        }
    }

    fn outcome(self, place: usize) -> Outcome {
        match self {
            Self::Answers => Outcome::answered_by(CallerScript {
                hang_up_after_ms: Some(1_200 + 200 * (place % 7) as u64),
                ..CallerScript::new()
            }),
            Self::Busy => Outcome::callee(Callee::Busy),
            Self::NoAnswer => Outcome::callee(Callee::NoAnswer),
            Self::Fails => Outcome::callee(Callee::Fails),
            Self::Registered => Outcome::answer(Answer::Dnd),
        }
    }

    /// The outcome of each attempt, and how many there are: what is not reached is tried once more.
    fn attempts(self) -> (&'static str, i64) {
        match self {
            Self::Answers => ("completed", 1),
            Self::Busy => ("busy", 2),
            Self::NoAnswer => ("no_answer", 2),
            Self::Fails => ("failed", 2),
            Self::Registered => ("refused", 1),
        }
    }
}

fn number(place: usize) -> String {
    format!("+91981235{place:04}")
}

/// A campaign that is over.
pub(super) struct Ended {
    /// Its id.
    pub(super) id: String,
    /// What is not as it should be.
    pub(super) bad: Vec<String>,
}

/// Calls everybody and shows how it goes.
pub(super) async fn run(stack: &Stack, folder: &Folder, registered: &Registered) -> anyhow::Result<Ended> {
    let clients = stack.clients();
    for place in 0..CONTACTS {
        let outcome = Person::of(place).outcome(place);
        stack.control().set_outcome(&number(place), outcome)?;
    }
    let rules = Rules {
        max_concurrent_calls: AT_ONE_TIME,
        windows: campaign::always_open(),
        retries: Some(campaign::retries(1, 3)),
        ..Rules::default()
    };
    let settings = campaign::settings("cargo dev", &registered.agent.id, &registered.phone_id, rules);
    let id = campaign::create(&clients, settings).await?;
    view::created(&id);

    let (file, path) = (file(), folder.path().join("contacts.csv"));
    fs::write(&path, &file).with_context(|| format!("cannot write {}", path.display()))?;
    let pieces: Vec<_> = file.as_bytes().chunks(CHUNK).map(Bytes::copy_from_slice).collect();
    let sent = campaign::send(&clients, &id, "contacts.csv", tokio_stream::iter(pieces));
    let report = sent.await.context("AddContacts")?;
    view::imported(&path, &report);

    let forecast = forecast(stack, &id).await?;
    let chart = folder.path().join("forecast.svg");
    fs::write(&chart, &forecast.chart_svg).with_context(|| format!("cannot write {}", chart.display()))?;
    view::forecast(&chart, &forecast);

    campaign::start(&clients, &id).await?;
    let watched = timeout(LIMIT, watch(stack, &id)).await;
    let progress = watched.with_context(|| format!("the campaign is not over after {} s", LIMIT.as_secs()))??;
    let results = export(stack, &id).await?;
    let path = folder.path().join("results.csv");
    fs::write(&path, &results).with_context(|| format!("cannot write {}", path.display()))?;
    let bad = check(&report, &progress, &results, &dials(stack).await?);
    view::over(&progress, &path, &bad);
    Ok(Ended { id, bad })
}

/// Everybody, one of them twice, and two rows that are of no use.
fn file() -> String {
    let mut file = "number,name,order\n".to_owned();
    for place in 0..CONTACTS {
        // Writing to a text cannot fail.
        let _ = writeln!(file, "{},Person {place},A-{place}", number(place));
    }
    file + &format!("{},Person 0 again,B-0\n", number(0)) + "12345,Too short,C-1\n,Nobody,C-2\n"
}

async fn forecast(stack: &Stack, id: &str) -> anyhow::Result<ForecastCampaignResponse> {
    let request = ForecastCampaignRequest {
        campaign_id: id.to_owned(),
        call_duration: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        ..ForecastCampaignRequest::default()
    };
    let mut campaigns = stack.clients().campaigns();
    let forecast = campaigns.forecast_campaign(request).await.context("ForecastCampaign")?;
    Ok(forecast.into_inner())
}

/// Follows it to its end.
async fn watch(stack: &Stack, id: &str) -> anyhow::Result<Progress> {
    let request = WatchCampaignRequest {
        campaign_id: id.to_owned(),
    };
    let mut campaigns = stack.clients().campaigns();
    let mut watch = campaigns
        .watch_campaign(request)
        .await
        .context("WatchCampaign")?
        .into_inner();
    let (mut bar, mut last) = (view::Bar::new(CONTACTS), None);
    while let Some(response) = watch.message().await.context("WatchCampaign")? {
        if let Some(progress) = response.progress {
            bar.show(&progress);
            last = Some(progress);
        }
    }
    match last {
        Some(progress) if progress.state() == CampaignState::Finished => Ok(progress),
        Some(progress) => bail!(
            "the campaign is {}: {}",
            progress.state().as_str_name(),
            progress.state_reason
        ),
        None => bail!("WatchCampaign showed nothing"),
    }
}

async fn export(stack: &Stack, id: &str) -> anyhow::Result<Vec<u8>> {
    let request = ExportResultsRequest {
        campaign_id: id.to_owned(),
    };
    let mut campaigns = stack.clients().campaigns();
    let mut pieces = campaigns
        .export_results(request)
        .await
        .context("ExportResults")?
        .into_inner();
    let mut file = Vec::new();
    while let Some(piece) = pieces.message().await.context("ExportResults")? {
        file.extend_from_slice(&piece.csv_chunk);
    }
    Ok(file)
}

/// How often each number was dialled.
async fn dials(stack: &Stack) -> anyhow::Result<BTreeMap<String, i64>> {
    let mut dials = BTreeMap::new();
    for dial in stack
        .control()
        .ledger()
        .await?
        .into_iter()
        .filter(|dial| dial.mode.is_connect())
    {
        let number = exotel::PhoneNumber::parse(&dial.from)?;
        *dials.entry(number.expose().to_owned()).or_default() += 1;
    }
    Ok(dials)
}

fn check(
    report: &AddContactsResponse,
    progress: &Progress,
    results: &[u8],
    dials: &BTreeMap<String, i64>,
) -> Vec<String> {
    let mut bad = Vec::new();
    let mut same = |what: &str, is: i64, expected: i64| {
        if is != expected {
            bad.push(format!("{what}: {is}, not {expected}"));
        }
    };
    let all = i64::try_from(CONTACTS).unwrap_or(i64::MAX);
    same("contacts taken", report.accepted, all);
    same("duplicates", report.duplicates, 1);
    same("rows in error", report.rejected, 2);
    let mut outcomes = BTreeMap::new();
    let mut states = BTreeMap::new();
    for place in 0..CONTACTS {
        let person = Person::of(place);
        let (outcome, attempts) = person.attempts();
        *outcomes.entry(outcome).or_insert(0) += attempts;
        let state = match person {
            Person::Answers => "reached",
            Person::Busy | Person::NoAnswer | Person::Fails => "exhausted",
            Person::Registered => "refused",
        };
        *states.entry(state).or_insert(0) += 1;
        let dialled = if person == Person::Registered { 0 } else { attempts };
        same(
            "dials to a person",
            dials.get(&number(place)).copied().unwrap_or(0),
            dialled,
        );
    }
    let of = |counts: &std::collections::HashMap<String, i64>, word: &str| counts.get(word).copied().unwrap_or(0);
    for (state, expected) in states {
        same(
            &format!("contacts that are {state}"),
            of(&progress.by_state, state),
            expected,
        );
    }
    let attempts = outcomes.values().sum();
    for (outcome, expected) in outcomes {
        same(
            &format!("attempts that ended {outcome}"),
            of(&progress.by_outcome, outcome),
            expected,
        );
    }
    let lines = String::from_utf8_lossy(results).lines().count();
    same(
        "rows of results",
        i64::try_from(lines).unwrap_or(i64::MAX) - 1,
        attempts,
    );
    bad
}

/// Files of a campaign, for `dev.json`.
pub(super) fn describe(folder: &Path, id: &str) -> serde_json::Value {
    serde_json::json!({
        "campaign_id": id,
        "contacts": folder.join("contacts.csv"),
        "forecast": folder.join("forecast.svg"),
        "results": folder.join("results.csv"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_differ_and_their_numbers_can_be_called() {
        let of = |person| (0..CONTACTS).filter(|place| Person::of(*place) == person).count();
        assert_eq!(
            [
                Person::Answers,
                Person::Busy,
                Person::NoAnswer,
                Person::Fails,
                Person::Registered
            ]
            .map(of),
            [120, 30, 20, 20, 10]
        );
        assert!((0..CONTACTS).all(|place| exotel::PhoneNumber::parse(&number(place)).is_ok()));
        assert_eq!(file().lines().count(), CONTACTS + 4);
    }
}
