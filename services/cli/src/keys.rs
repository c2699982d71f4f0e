//! API keys.

use callbridge_proto::access::v1::{CreateKeyRequest, CreateKeyResponse, Key, ListKeysRequest, RevokeKeyRequest};
use chrono::{TimeDelta, Utc};
use clap::Subcommand;
use prost_types::Timestamp;
use runtime::Clock;

use crate::{Failure, client::Client, output::Out, words};

/// The API's largest page.
const PAGE: i32 = 200;

/// What can be done with API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a key and prints it, this once: nobody can show it again.
    Create {
        /// The caller that it stands for: 1 to 64 letters, digits, dots, dashes and underscores.
        name: String,
        /// What it may be used for; several times for several. No scope that your own key lacks.
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// It ends after this: 90d, 12h or 30m. Without it, it does not end by itself.
        #[arg(long, value_name = "TIME", value_parser = period)]
        expires_in: Option<TimeDelta>,
        /// What it may dial, such as +9180, within what the service allows; several times for several. Without it, all of that.
        #[arg(long = "prefix", value_name = "PREFIX")]
        prefixes: Vec<String>,
        /// How many calls its caller may make in a day of India. Without it, what the service's DIAL_DAILY_CALLS says.
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        daily_calls: i32,
    },
    /// Lists the keys that work, oldest first. Those of call-service's API_KEYS are not among them.
    List {
        /// Also those that are revoked or have expired.
        #[arg(long)]
        all: bool,
    },
    /// Ends a key for good, within seconds at every replica, and the streams that were opened with it.
    Revoke {
        /// The key's id; its digits are those after ck_.
        id: String,
    },
}

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create {
            name,
            scopes,
            expires_in,
            prefixes,
            daily_calls,
        } => {
            let request = CreateKeyRequest {
                name,
                scopes,
                expires_at: expires_in.map(after),
                dial_prefixes: prefixes,
                daily_calls,
            };
            let answer = client.keys().create_key(request).await;
            let made = answer.map_err(client.failed("make the key"))?.into_inner();
            shown_once(out, &made)
        }
        Command::List { all } => list(client, out, all).await,
        Command::Revoke { id } => {
            let answer = client.keys().revoke_key(RevokeKeyRequest { key_id: id }).await;
            let key = answer
                .map_err(client.failed("revoke the key"))?
                .into_inner()
                .key
                .unwrap_or_default();
            if out.json {
                return Ok(out.message(&key)?);
            }
            Ok(out.facts(&facts(&key))?)
        }
    }
}

fn shown_once(out: &mut Out<'_>, made: &CreateKeyResponse) -> Result<(), Failure> {
    if out.json {
        return Ok(out.message(made)?);
    }
    let key = made.key.clone().unwrap_or_default();
    let mut facts = facts(&key);
    facts.push(("api key", made.api_key.clone()));
    out.facts(&facts)?;
    Ok(out.line("Keep the API key now: it is not shown again.")?)
}

async fn list(client: &Client, out: &mut Out<'_>, include_ended: bool) -> Result<(), Failure> {
    let (mut keys, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListKeysRequest {
            page_size: PAGE,
            page_token,
            include_ended,
        };
        let answer = client.keys().list_keys(request).await;
        let page = answer.map_err(client.failed("list keys"))?.into_inner();
        keys.extend(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if out.json {
        for key in &keys {
            out.message(key)?;
        }
        return Ok(());
    }
    let rows = keys.into_iter().map(|key| {
        [
            key.id,
            key.name,
            key.scopes.join("+"),
            words::time(key.created_at),
            key.created_by,
            words::time(key.expires_at),
            words::time(key.last_used_at),
            words::time(key.revoked_at),
        ]
    });
    let head = ["id", "name", "scopes", "made", "by", "expires", "used", "revoked"];
    Ok(out.table(head, rows.collect())?)
}

fn facts(key: &Key) -> Vec<(&'static str, String)> {
    vec![
        ("id", key.id.clone()),
        ("name", key.name.clone()),
        ("scopes", key.scopes.join("+")),
        ("made", words::time(key.created_at)),
        ("by", key.created_by.clone()),
        ("with", key.created_with.clone()),
        ("expires", words::time(key.expires_at)),
        ("used", words::time(key.last_used_at)),
        ("revoked", words::time(key.revoked_at)),
        ("revoked by", key.revoked_by.clone()),
        ("dials", key.dial_prefixes.join(",")),
        (
            "calls a day",
            match key.daily_calls {
                0 => String::new(),
                most => most.to_string(),
            },
        ),
    ]
}

fn after(period: TimeDelta) -> Timestamp {
    let at = Clock::system().now().with_timezone(&Utc) + period;
    Timestamp {
        seconds: at.timestamp(),
        nanos: 0,
    }
}

/// Reads `90d`, `12h` or `30m`.
fn period(text: &str) -> Result<TimeDelta, String> {
    let wrong = || "must be a time such as 90d, 12h or 30m, up to ten years".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let period = match unit {
        'd' => TimeDelta::try_days(number),
        'h' => TimeDelta::try_hours(number),
        'm' => TimeDelta::try_minutes(number),
        _ => None,
    };
    period
        .filter(|period| *period > TimeDelta::zero() && *period <= TimeDelta::days(3650))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_number_and_a_unit() {
        assert_eq!(period("90d"), Ok(TimeDelta::days(90)));
        assert_eq!(period("12h"), Ok(TimeDelta::hours(12)));
        assert_eq!(period("30m"), Ok(TimeDelta::minutes(30)));
        for wrong in ["", "d", "90", "-1d", "0h", "4000d", "9999999999999999d", "1w", "1é"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }
}
