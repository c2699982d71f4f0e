//! The doctor: a thin client of `PhoneService.Diagnose`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use callbridge_proto::directory::v1::{
    DiagnoseRequest, DiagnosisCheck, DiagnosisOutcome, Phone, Variants, diagnose_response::Message,
};
use clap::Args;

use crate::{
    Failure, accounts,
    client::Client,
    output::Out,
    phones::{self, show_variants},
    profile,
};

/// What is to be looked at.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// The account, by its id, name or SID.
    #[arg(long, value_name = "ACCOUNT")]
    account: String,
    /// Which of its phones, by id or number; default all of them.
    #[arg(long, value_name = "PHONE")]
    phone: Option<String>,
    /// Call this number, to see how the account behaves: somebody answers and stays on the line for a few seconds.
    #[arg(long, value_name = "NUMBER")]
    call: Option<String>,
    /// Call outside of the account's calling hours, for this reason.
    #[arg(long, value_name = "REASON", requires = "call", default_value = "")]
    calling_hours_override: String,
    /// Write what the account showed as a simulator's configuration: exotel-sim --config FILE.
    #[arg(long, value_name = "FILE", requires = "call")]
    profile: Option<PathBuf>,
}

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, wanted: Wanted) -> Result<(), Failure> {
    let account = accounts::find(client, &wanted.account).await?;
    let phones = phones::all(client, &account.id).await?;
    let mut chosen = chosen(&phones, wanted.phone.as_deref());
    match (chosen.len(), &wanted.phone) {
        (0, Some(named)) => {
            return Err(Failure::Usage(format!(
                "cannot find the phone {named} in account {}: `callbridge phones list` shows which there are",
                account.name
            )));
        }
        (0, None) => {
            return Err(Failure::NotWell(format!(
                "cannot look at account {}: it has no phone; register one (PhoneService.CreatePhone)",
                account.name
            )));
        }
        (1, _) => {}
        (_, _) if wanted.call.is_some() => {
            return Err(Failure::Usage(
                "cannot tell which phone is to call: the account has several; name one with --phone".to_owned(),
            ));
        }
        (_, _) => {}
    }
    if let Some(path) = &wanted.profile {
        // Before somebody is called for what could not be kept.
        let opened = File::options().create(true).append(true).open(path);
        opened.map_err(not_kept(path))?;
    }
    let mut failed = 0;
    for (at, phone) in chosen.drain(..).enumerate() {
        if !out.json {
            if at > 0 {
                out.line("")?;
            }
            out.line(&format!(
                "{} {} of account {} ({})",
                phone.number, phone.id, account.name, account.sid
            ))?;
        }
        failed += one(client, out, phone, &wanted).await?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::NotWell("1 check failed".to_owned())),
        more => Err(Failure::NotWell(format!("{more} checks failed"))),
    }
}

fn chosen<'a>(phones: &'a [Phone], named: Option<&str>) -> Vec<&'a Phone> {
    phones
        .iter()
        .filter(|phone| named.is_none_or(|named| phone.id == named || phone.number == named))
        .collect()
}

/// How many checks of a phone failed.
async fn one(client: &Client, out: &mut Out<'_>, phone: &Phone, wanted: &Wanted) -> Result<u32, Failure> {
    let request = DiagnoseRequest {
        phone_id: phone.id.clone(),
        call: wanted.call.clone().unwrap_or_default(),
        calling_hours_override: wanted.calling_hours_override.clone(),
    };
    let attempt = || format!("diagnose phone {}", phone.id);
    let answer = client.phones().diagnose(request).await;
    let mut parts = answer.map_err(client.failed(attempt()))?.into_inner();
    let mut failed = 0;
    let mut seen = None;
    while let Some(part) = parts.message().await.map_err(client.failed(attempt()))? {
        if out.json {
            out.message(&part)?;
        }
        match part.message {
            Some(Message::Check(check)) => {
                failed += u32::from(check.outcome() == DiagnosisOutcome::Failed);
                if !out.json {
                    tell(out, &check)?;
                }
            }
            Some(Message::Variants(variants)) => seen = Some(variants),
            None => {}
        }
    }
    if let Some(variants) = seen {
        if !out.json {
            out.line("")?;
            show_variants(out, &variants)?;
        }
        keep(out, &variants, wanted)?;
    }
    Ok(failed)
}

fn tell(out: &mut Out<'_>, check: &DiagnosisCheck) -> Result<(), Failure> {
    let outcome = match check.outcome() {
        DiagnosisOutcome::Passed => "ok",
        DiagnosisOutcome::Warning => "warning",
        DiagnosisOutcome::Failed => "FAILED",
        DiagnosisOutcome::Skipped | DiagnosisOutcome::Unspecified => "skipped",
    };
    out.line(&format!("{outcome:<8} {:<14} {}", check.name, check.seen))?;
    if !check.advice.is_empty() {
        out.line(&format!("{:<8} {:<14} -> {}", "", "", check.advice))?;
    }
    Ok(())
}

fn keep(out: &mut Out<'_>, variants: &Variants, wanted: &Wanted) -> Result<(), Failure> {
    let Some(path) = &wanted.profile else { return Ok(()) };
    let text = format!("{:#}\n", profile::of(variants));
    fs::write(path, text).map_err(not_kept(path))?;
    if !out.json {
        out.line(&format!(
            "the simulator behaves so with exotel-sim --config {}",
            path.display()
        ))?;
    }
    Ok(())
}

fn not_kept(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    |source| Failure::File {
        attempt: "write the simulator's profile to",
        path: path.to_owned(),
        source,
    }
}
