//! Exotel accounts.

use callbridge_proto::directory::v1::{Account, GetAccountRequest, ListAccountsRequest};

use crate::{Failure, arguments::Directory, client::Client, output::Out, words};

/// The API's largest page.
const PAGE: i32 = 200;

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, command: Directory) -> Result<(), Failure> {
    match command {
        Directory::List => {
            let accounts = all(client).await?;
            if out.json {
                for account in &accounts {
                    out.message(account)?;
                }
                return Ok(());
            }
            let rows = accounts.into_iter().map(|account| {
                [
                    account.id,
                    account.name,
                    account.sid,
                    account.subdomain,
                    account.calls_per_minute.to_string(),
                    cap(account.max_concurrent_calls),
                ]
            });
            Ok(out.table(["id", "name", "sid", "subdomain", "calls/min", "cap"], rows.collect())?)
        }
        Directory::Show { id } => {
            let request = GetAccountRequest { account_id: id };
            let answer = client.accounts().get_account(request).await;
            let account = answer
                .map_err(client.failed("show the account"))?
                .into_inner()
                .account
                .unwrap_or_default();
            if out.json {
                return Ok(out.message(&account)?);
            }
            show(out, &account)
        }
    }
}

fn show(out: &mut Out<'_>, account: &Account) -> Result<(), Failure> {
    let hours = account.calling_hours.clone().unwrap_or_default();
    let clock = |minute: i32| format!("{:02}:{:02}", minute / 60, minute % 60);
    let hours = if hours.off {
        "any time".to_owned()
    } else {
        format!(
            "{} to {} {}",
            clock(hours.start_minute),
            clock(hours.end_minute),
            hours.time_zone
        )
    };
    let credentials = match (account.has_credentials, account.from_environment) {
        (true, _) => "stored",
        (false, true) => "in call-service's environment",
        (false, false) => "none",
    };
    Ok(out.facts(&[
        ("id", account.id.clone()),
        ("name", account.name.clone()),
        ("sid", account.sid.clone()),
        ("subdomain", account.subdomain.clone()),
        ("credentials", credentials.to_owned()),
        ("app id", account.app_id.clone()),
        ("calls/min", account.calls_per_minute.to_string()),
        ("cap", cap(account.max_concurrent_calls)),
        ("kept for inbound", account.inbound_reserve.to_string()),
        ("calling hours", hours),
        ("added", words::time(account.created_at)),
    ])?)
}

/// 0 is no cap of ours.
pub(crate) fn cap(cap: i32) -> String {
    if cap == 0 { "none".to_owned() } else { cap.to_string() }
}

async fn all(client: &Client) -> Result<Vec<Account>, Failure> {
    let (mut accounts, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAccountsRequest {
            page_size: PAGE,
            page_token,
        };
        let answer = client.accounts().list_accounts(request).await;
        let page = answer.map_err(client.failed("list accounts"))?.into_inner();
        accounts.extend(page.accounts);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(accounts);
        }
    }
}

/// The account with this id, name or SID.
pub(crate) async fn find(client: &Client, named: &str) -> Result<Account, Failure> {
    let accounts = all(client).await?;
    let mut found = accounts.into_iter().filter(|account| {
        [&account.id, &account.name, &account.sid]
            .into_iter()
            .any(|one| one == named)
    });
    match (found.next(), found.next()) {
        (Some(account), None) => Ok(account),
        (Some(_), Some(_)) => Err(Failure::Usage(format!(
            "cannot tell which account {named} is: several have this name; give the id"
        ))),
        (None, _) => Err(Failure::Usage(format!(
            "cannot find the account {named}: give the id, name or sid of one that `callbridge accounts list` shows"
        ))),
    }
}
