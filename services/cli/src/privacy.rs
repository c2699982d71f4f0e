//! What is kept about people.

use callbridge_proto::privacy::v1::{
    EraseNumberRequest, EraseNumberResponse, ExportNumberRequest, HoldCallRequest, HoldNumberRequest,
    ReleaseCallRequest, ReleaseNumberRequest,
};
use clap::Subcommand;

use crate::{Failure, client::Client, output::Out, words};

/// What can be done about people's data.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes all that is kept about a number, as JSON lines.
    Export {
        /// E.164, or as people in India write it.
        number: String,
    },
    /// Erases a number for good: of its calls stay times, states and a hash. It stays on lists of numbers that are not called.
    Erase {
        /// E.164, or as people in India write it.
        number: String,
        /// Why, for the audit trail; without a number in it.
        #[arg(long)]
        reason: String,
        /// Only counts what there is to erase.
        #[arg(long)]
        dry_run: bool,
    },
    /// Holds a call, or a number with all its calls: neither their age nor an erasure touches them until they are released.
    Hold {
        /// The call's id, or the number.
        what: String,
        /// Why, for the audit trail; without a number in it.
        #[arg(long)]
        reason: String,
    },
    /// Releases a call or a number that is held.
    Release {
        /// The call's id, or the number.
        what: String,
    },
}

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, command: Command) -> Result<(), Failure> {
    match command {
        Command::Export { number } => {
            let answer = client.privacy().export_number(ExportNumberRequest { number }).await;
            let mut pieces = answer.map_err(client.failed("export the number"))?.into_inner();
            while let Some(piece) = pieces.message().await.map_err(client.failed("export the number"))? {
                out.bytes(&piece.json_lines)?;
            }
            Ok(())
        }
        Command::Erase {
            number,
            reason,
            dry_run,
        } => {
            let request = EraseNumberRequest {
                number,
                reason,
                dry_run,
            };
            erase(client, out, request).await
        }
        Command::Hold { what, reason } => hold(client, out, what, reason).await,
        Command::Release { what } => release(client, out, what).await,
    }
}

fn is_call(what: &str) -> bool {
    what.starts_with("call_")
}

async fn hold(client: &Client, out: &mut Out<'_>, what: String, reason: String) -> Result<(), Failure> {
    let held_at = if is_call(&what) {
        let request = HoldCallRequest { call_id: what, reason };
        let answer = client.privacy().hold_call(request).await;
        let held = answer.map_err(client.failed("hold the call"))?.into_inner();
        if out.json {
            return Ok(out.message(&held)?);
        }
        held.held_at
    } else {
        let request = HoldNumberRequest { number: what, reason };
        let answer = client.privacy().hold_number(request).await;
        let held = answer.map_err(client.failed("hold the number"))?.into_inner();
        if out.json {
            return Ok(out.message(&held)?);
        }
        held.held_at
    };
    Ok(out.facts(&[("held since", words::time(held_at))])?)
}

async fn release(client: &Client, out: &mut Out<'_>, what: String) -> Result<(), Failure> {
    let released = if is_call(&what) {
        let answer = client
            .privacy()
            .release_call(ReleaseCallRequest { call_id: what })
            .await;
        let released = answer.map_err(client.failed("release the call"))?.into_inner();
        if out.json {
            return Ok(out.message(&released)?);
        }
        released.released
    } else {
        let answer = client
            .privacy()
            .release_number(ReleaseNumberRequest { number: what })
            .await;
        let released = answer.map_err(client.failed("release the number"))?.into_inner();
        if out.json {
            return Ok(out.message(&released)?);
        }
        released.released
    };
    Ok(out.line(if released {
        "It is released."
    } else {
        "It was not held."
    })?)
}

/// Asks until nothing is left.
async fn erase(client: &Client, out: &mut Out<'_>, request: EraseNumberRequest) -> Result<(), Failure> {
    let mut sum = EraseNumberResponse::default();
    loop {
        let answer = client.privacy().erase_number(request.clone()).await;
        let erased = answer.map_err(client.failed("erase the number"))?.into_inner();
        sum = EraseNumberResponse {
            done: erased.done,
            calls: sum.calls + erased.calls,
            transcripts: sum.transcripts + erased.transcripts,
            recordings: sum.recordings + erased.recordings,
            contacts: sum.contacts + erased.contacts,
            suppressions: sum.suppressions + erased.suppressions,
            transfers: sum.transfers + erased.transfers,
        };
        if erased.done || request.dry_run {
            break;
        }
    }
    if out.json {
        return Ok(out.message(&sum)?);
    }
    out.facts(&[
        ("calls", sum.calls.to_string()),
        ("transcripts", sum.transcripts.to_string()),
        ("recordings", sum.recordings.to_string()),
        ("contacts", sum.contacts.to_string()),
        ("suppressions", sum.suppressions.to_string()),
        ("transfers", sum.transfers.to_string()),
    ])?;
    Ok(out.line(match (request.dry_run, sum.done) {
        (true, true) => "There is nothing to erase.",
        (true, false) => "Nothing was erased: this was a dry run.",
        (false, _) => "Erased.",
    })?)
}
