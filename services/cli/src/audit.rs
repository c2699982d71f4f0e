//! The audit trail.

use callbridge_proto::privacy::v1::{AuditEntry, AuditOutcome, ListAuditRequest};
use clap::Args;
use prost_types::Timestamp;

use crate::{Failure, calls::instant, client::Client, output::Out, words};

/// The API's largest page.
const PAGE: i32 = 200;

/// Which entries.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Of this caller.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Of this method, such as PhoneService/UpdatePhone.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// About this id.
    #[arg(long, value_name = "ID", conflicts_with = "number")]
    about: Option<String>,
    /// About this number, which the trail has as a hash.
    #[arg(long, value_name = "NUMBER")]
    number: Option<String>,
    /// That came out so: changed, shown or refused.
    #[arg(long, value_name = "OUTCOME", value_parser = outcome)]
    outcome: Option<AuditOutcome>,
    /// At or after this time, such as 2026-11-26T09:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    after: Option<Timestamp>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    before: Option<Timestamp>,
    /// The most entries that are shown, newest first.
    #[arg(long, value_name = "COUNT", default_value = "100")]
    limit: usize,
}

fn outcome(word: &str) -> Result<AuditOutcome, String> {
    match word {
        "changed" => Ok(AuditOutcome::Changed),
        "shown" => Ok(AuditOutcome::Shown),
        "refused" => Ok(AuditOutcome::Refused),
        _ => Err("outcomes are changed, shown and refused".to_owned()),
    }
}

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, wanted: Wanted) -> Result<(), Failure> {
    let mut request = ListAuditRequest {
        page_size: PAGE,
        principal: wanted.by.unwrap_or_default(),
        method: wanted.method.unwrap_or_default(),
        subject: wanted.about.unwrap_or_default(),
        number: wanted.number.unwrap_or_default(),
        outcome: wanted.outcome.unwrap_or_default().into(),
        after: wanted.after,
        before: wanted.before,
        ..ListAuditRequest::default()
    };
    let mut entries: Vec<AuditEntry> = Vec::new();
    while entries.len() < wanted.limit {
        let answer = client.audit().list_audit(request.clone()).await;
        let page = answer.map_err(client.failed("list the audit trail"))?.into_inner();
        entries.extend(page.entries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    entries.truncate(wanted.limit);
    if out.json {
        for entry in &entries {
            out.message(entry)?;
        }
        return Ok(());
    }
    let rows = entries.into_iter().map(|entry| {
        let outcome = words::plain(entry.outcome().as_str_name(), "AUDIT_OUTCOME_");
        let (at, data) = (words::time(entry.at), words::facts(&entry.data));
        [at, entry.principal, entry.method, entry.subject, outcome, data]
    });
    let head = ["at", "by", "method", "about", "outcome", "data"];
    Ok(out.table(head, rows.collect())?)
}
