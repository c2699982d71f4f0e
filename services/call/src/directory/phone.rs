//! ExoPhones.

pub mod audio;

use std::sync::Arc;

use callbridge_proto::{
    directory::v1 as api,
    id::{AccountId, AgentId, PhoneId},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::{PhoneNumber, rest::Ownership};
use serde_json::json;

use super::{
    account::{BAD_CREDENTIALS, Check, problem, required_secrets, subdomain},
    text,
};
use crate::{
    app::App,
    audit::{self, Subject},
    error::{Error, Violations},
    rpc::page,
    store::{
        accounts, agents,
        credentials::{self, Owner},
        phones::{self, DialMode, Gather, Phone, Settings},
    },
    vault::Secrets,
};

/// A Connect applet is given no more.
const TRANSFER_NUMBERS: usize = 5;
/// What Exotel's voice reads without anybody hanging up.
const PROMPT_CHARS: usize = 1000;
const LABEL_CHARS: usize = 100;
/// The fields that an update may change.
const MASK: [&str; 9] = [
    "label",
    "dial_mode",
    "app_id",
    "agent_id",
    "max_concurrent_calls",
    "gather",
    "transfer_numbers",
    "audio",
    "record_audio",
];
const LIST: &str = "phones";

/// A phone as others may see it.
#[derive(Debug, Clone)]
pub struct View {
    /// Its row.
    pub phone: Phone,
    /// Whether it has credentials of its own.
    pub has_credentials: bool,
}

/// A new phone, checked.
#[derive(Debug)]
pub struct New {
    account: AccountId,
    number: PhoneNumber,
    settings: Settings,
    secrets: Option<Secrets>,
    subdomain: Option<String>,
}

impl New {
    /// Checks a request.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn read(request: &api::CreatePhoneRequest) -> Result<Self, Error> {
        let mut wrong = Violations::new();
        let account: Option<AccountId> = wrong.check("account_id", request.account_id.parse());
        let number = wrong.check("number", PhoneNumber::parse(&request.number));
        let settings = Settings {
            label: label(&mut wrong, "label", &request.label),
            dial_mode: dial_mode(&mut wrong, "dial_mode", request.dial_mode),
            app_id: text::app_id(&mut wrong, "app_id", &request.app_id),
            agent_id: agent(&mut wrong, "agent_id", &request.agent_id),
            max_concurrent_calls: text::cap(&mut wrong, "max_concurrent_calls", request.max_concurrent_calls),
            gather: gather(&mut wrong, "gather", request.gather.as_ref()),
            transfer_numbers: transfer_numbers(&mut wrong, "transfer_numbers", &request.transfer_numbers),
            audio: audio::read(&mut wrong, "audio", request.audio.as_ref()),
            record_audio: request.record_audio,
        };
        let secrets = request
            .credentials
            .as_ref()
            .map(|set| text::secrets(&mut wrong, "credentials", set));
        let subdomain = cluster(&mut wrong, &request.subdomain);
        if subdomain.is_some() && secrets.is_none() {
            wrong.add(
                "subdomain",
                "is the cluster of the phone's own credentials: give those too",
            );
        }
        wrong.finish()?;
        match (account, number) {
            (Some(account), Some(number)) => Ok(Self {
                account,
                number,
                settings,
                secrets,
                subdomain,
            }),
            _ => Err(Error::internal("a violation was lost")),
        }
    }
}

/// Adds a phone.
///
/// # Errors
/// [`Error::NotFound`] (account, agent), `NUMBER_TAKEN`.
pub async fn create(app: &Arc<App>, new: New) -> Result<View, Error> {
    let mut conn = app.db.conn().await?;
    let id = PhoneId(app.clock.new_uuid());
    let created = conn
        .transaction::<_, Error, _>(async |conn| {
            accounts::find(conn, new.account)
                .await?
                .ok_or_else(|| Error::not_found("account", new.account))?;
            agent_is_there(conn, &new.settings).await?;
            let phone = phones::insert(conn, id, new.account, &new.number, &new.settings).await?;
            if let Some(secrets) = &new.secrets {
                let row = app.clock.new_uuid();
                app.vault
                    .store(conn, row, Owner::Phone(id.0), secrets, new.subdomain.as_deref())
                    .await?;
            }
            audit::changed(conn, Subject::Id(&id)).await?;
            Ok(View {
                phone,
                has_credentials: new.secrets.is_some(),
            })
        })
        .await;
    match created {
        Err(error) if error.is_unique_violation("phones_number_key") => Err(Error::already_exists(
            "NUMBER_TAKEN",
            "there is a phone with this number already",
        )),
        other => other,
    }
}

/// Finds a phone.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &Arc<App>, id: PhoneId) -> Result<View, Error> {
    let mut conn = app.db.conn().await?;
    let phone = phones::find(&mut conn, id).await?.ok_or_else(|| unknown(id))?;
    view(&mut conn, phone).await
}

/// A page of phones, and the token of the next.
///
/// # Errors
/// [`Error::Invalid`].
pub async fn list(app: &Arc<App>, request: &api::ListPhonesRequest) -> Result<(Vec<View>, String), Error> {
    let size = page::size(request.page_size)?;
    let account: Option<AccountId> = match request.account_id.as_str() {
        "" => None,
        id => Some(
            id.parse()
                .map_err(|error: callbridge_proto::id::ParseIdError| Error::invalid("account_id", error.to_string()))?,
        ),
    };
    let filters = account
        .map(|account| account.0.into_bytes().to_vec())
        .unwrap_or_default();
    let after = page::after(LIST, &filters, &request.page_token)?.map(PhoneId);
    let mut conn = app.db.conn().await?;
    let mut rows = phones::page(&mut conn, account, after, size + 1).await?;
    let next = page::cut(&mut rows, size, LIST, &filters, |phone| phone.id);
    let ids: Vec<_> = rows.iter().map(|phone| phone.id).collect();
    let with = phones::with_credentials(&mut conn, &ids).await?;
    let views = rows
        .into_iter()
        .map(|phone| View {
            has_credentials: with.contains(&phone.id),
            phone,
        })
        .collect();
    Ok((views, next))
}

/// Changes the fields that the mask names.
///
/// # Errors
/// [`Error::Invalid`], [`Error::NotFound`] (phone, agent).
pub async fn update(app: &Arc<App>, request: &api::UpdatePhoneRequest) -> Result<View, Error> {
    let mut wrong = Violations::new();
    let from = request.phone.clone().unwrap_or_default();
    let id: Option<PhoneId> = wrong.check("phone.id", from.id.parse());
    let paths = text::mask(&mut wrong, request.update_mask.as_ref(), &MASK);
    let mut changed = Settings::default();
    apply(&mut wrong, &from, &paths, &mut changed);
    wrong.finish()?;
    let id = id.ok_or_else(|| Error::internal("a violation was lost"))?;

    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        let before = phones::lock(conn, id).await?.ok_or_else(|| unknown(id))?;
        let mut settings = before.settings();
        // Checked above, so that nothing is noted here.
        apply(&mut Violations::new(), &from, &paths, &mut settings);
        agent_is_there(conn, &settings).await?;
        let phone = phones::update(conn, id, &settings).await?;
        let fields = json!({ "fields": paths.join(",") });
        audit::changed_with(conn, Subject::Id(&id), fields).await?;
        view(conn, phone).await
    })
    .await
}

fn apply(wrong: &mut Violations, from: &api::Phone, paths: &[&str], settings: &mut Settings) {
    for path in paths {
        match *path {
            "label" => settings.label = label(wrong, "phone.label", &from.label),
            "dial_mode" => settings.dial_mode = dial_mode(wrong, "phone.dial_mode", from.dial_mode),
            "app_id" => settings.app_id = text::app_id(wrong, "phone.app_id", &from.app_id),
            "agent_id" => settings.agent_id = agent(wrong, "phone.agent_id", &from.agent_id),
            "max_concurrent_calls" => {
                settings.max_concurrent_calls =
                    text::cap(wrong, "phone.max_concurrent_calls", from.max_concurrent_calls);
            }
            "gather" => settings.gather = gather(wrong, "phone.gather", from.gather.as_ref()),
            "transfer_numbers" => {
                settings.transfer_numbers = transfer_numbers(wrong, "phone.transfer_numbers", &from.transfer_numbers);
            }
            "audio" => settings.audio = audio::read(wrong, "phone.audio", from.audio.as_ref()),
            "record_audio" => settings.record_audio = from.record_audio,
            // The mask was checked.
            _ => {}
        }
    }
}

/// Replaces the phone's own key, token and cluster.
///
/// # Errors
/// [`Error::Invalid`], [`Error::NotFound`].
pub async fn set_credentials(
    app: &Arc<App>,
    id: PhoneId,
    request: &api::SetPhoneCredentialsRequest,
) -> Result<View, Error> {
    let secrets = required_secrets(request.credentials.as_ref())?;
    let mut wrong = Violations::new();
    let subdomain = cluster(&mut wrong, &request.subdomain);
    wrong.finish()?;
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        let phone = phones::lock(conn, id).await?.ok_or_else(|| unknown(id))?;
        app.vault
            .store(
                conn,
                app.clock.new_uuid(),
                Owner::Phone(id.0),
                &secrets,
                subdomain.as_deref(),
            )
            .await?;
        audit::changed(conn, Subject::Id(&id)).await?;
        Ok(View {
            phone,
            has_credentials: true,
        })
    })
    .await
}

/// Removes the phone's own credentials.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn clear_credentials(app: &Arc<App>, id: PhoneId) -> Result<View, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        let phone = phones::find(conn, id).await?.ok_or_else(|| unknown(id))?;
        credentials::clear_phone(conn, id.0).await?;
        audit::changed(conn, Subject::Id(&id)).await?;
        Ok(View {
            phone,
            has_credentials: false,
        })
    })
    .await
}

/// Asks Exotel whether the credentials of this phone work and own its number.
///
/// # Errors
/// [`Error::NotFound`], `NO_CREDENTIALS`.
pub async fn verify(app: &Arc<App>, id: PhoneId) -> Result<Check, Error> {
    let mut conn = app.db.conn().await?;
    let phone = phones::find(&mut conn, id).await?.ok_or_else(|| unknown(id))?;
    let opened = app.vault.open(&mut conn, id).await?;
    drop(conn);
    let number = PhoneNumber::parse(&phone.number)
        .map_err(|error| Error::internal_from("a stored number cannot be read", error))?;
    let (accepted, owns_number, problem) = match app.exotel.owns_number(&opened, &number).await {
        Ok(Ownership::Owned) => (true, true, String::new()),
        Ok(Ownership::NotOwned) => (
            true,
            false,
            "the credentials work, but the number is not one of the account's ExoPhones: check number and account"
                .to_owned(),
        ),
        Ok(Ownership::BadCredentials) => (false, false, BAD_CREDENTIALS.to_owned()),
        Err(error) => (false, false, problem(&error)),
    };
    Ok(Check {
        accepted,
        owns_number,
        source: opened.source,
        problem,
    })
}

async fn view(conn: &mut AsyncPgConnection, phone: Phone) -> Result<View, Error> {
    let has_credentials = !phones::with_credentials(conn, &[phone.id]).await?.is_empty();
    Ok(View { phone, has_credentials })
}

async fn agent_is_there(conn: &mut AsyncPgConnection, settings: &Settings) -> Result<(), Error> {
    let Some(agent) = settings.agent_id.map(AgentId) else {
        return Ok(());
    };
    agents::find(conn, agent)
        .await?
        .map(drop)
        .ok_or_else(|| Error::not_found("agent", agent))
}

fn unknown(id: PhoneId) -> Error {
    Error::not_found("phone", id)
}

fn label(wrong: &mut Violations, field: &str, text: &str) -> String {
    let label = text.trim();
    let fits = label.chars().count() <= LABEL_CHARS && !label.chars().any(char::is_control);
    wrong.require(fits, field, "is up to 100 characters, none of them a control character");
    label.to_owned()
}

fn dial_mode(wrong: &mut Violations, field: &str, mode: i32) -> DialMode {
    match api::DialMode::try_from(mode) {
        Ok(api::DialMode::Unspecified | api::DialMode::Flow) => DialMode::Flow,
        Ok(api::DialMode::Stream) => DialMode::Stream,
        Err(_) => {
            wrong.add(field, "is DIAL_MODE_FLOW or DIAL_MODE_STREAM");
            DialMode::Flow
        }
    }
}

fn agent(wrong: &mut Violations, field: &str, id: &str) -> Option<uuid::Uuid> {
    if id.is_empty() {
        return None;
    }
    wrong.check(field, id.parse::<AgentId>()).map(|id| id.0)
}

/// The cluster of a phone's own credentials; empty is the account's.
fn cluster(wrong: &mut Violations, text: &str) -> Option<String> {
    if text.trim().is_empty() {
        None
    } else {
        wrong.check("subdomain", subdomain(text))
    }
}

fn gather(wrong: &mut Violations, field: &str, prompt: Option<&api::GatherPrompt>) -> Option<serde_json::Value> {
    let prompt = prompt?;
    let at = |name: &str| format!("{field}.{name}");
    let text = prompt.text.trim();
    wrong.require(
        (1..=PROMPT_CHARS).contains(&text.chars().count()) && !text.contains('\0'),
        &at("text"),
        "is required: up to 1000 characters, without NUL",
    );
    wrong.require(
        (0..=255).contains(&prompt.max_digits),
        &at("max_digits"),
        "is from 1 to 255, or 0 for 1",
    );
    wrong.require(
        (0..=60).contains(&prompt.timeout_seconds),
        &at("timeout_seconds"),
        "is from 1 to 60, or 0 for 5",
    );
    wrong.require((0..=10).contains(&prompt.repeats), &at("repeats"), "is from 0 to 10");
    let finish_on_key = match prompt.finish_on_key.trim() {
        "" => "#",
        "none" => "",
        key if key.len() == 1 && key.contains(|c: char| c.is_ascii_digit() || matches!(c, '*' | '#')) => key,
        _ => {
            wrong.add(at("finish_on_key"), "is a digit, * or #, or the word none");
            ""
        }
    };
    let gather = Gather {
        text: text.to_owned(),
        max_digits: prompt.max_digits.max(1),
        finish_on_key: finish_on_key.to_owned(),
        timeout_seconds: if prompt.timeout_seconds == 0 {
            5
        } else {
            prompt.timeout_seconds
        },
        repeats: prompt.repeats,
    };
    Some(json!(gather))
}

fn transfer_numbers(wrong: &mut Violations, field: &str, numbers: &[String]) -> serde_json::Value {
    wrong.require(numbers.len() <= TRANSFER_NUMBERS, field, "are at most 5");
    let read: Vec<String> = numbers
        .iter()
        .take(TRANSFER_NUMBERS)
        .enumerate()
        .filter_map(|(at, number)| wrong.check(&format!("{field}[{at}]"), PhoneNumber::parse(number)))
        .map(|number| number.expose().to_owned())
        .collect();
    json!(read)
}

#[cfg(test)]
mod tests;
