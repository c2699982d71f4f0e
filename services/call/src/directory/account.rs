//! Exotel accounts with their limits.

use std::sync::Arc;

use callbridge_proto::{directory::v1 as api, id::AccountId};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::{
    paths::{self, Applet},
    rest::{Endpoint, RestError},
    token::{Purpose, account_nonce},
};
use serde_json::json;

use super::text;
use crate::{
    app::App,
    audit::{self, Subject},
    error::{Error, Violations},
    rpc::page,
    store::{
        accounts::{self, Account, Settings},
        credentials::Owner,
    },
    vault::{Secrets, Source},
};

/// Exotel's Singapore cluster, which answers for accounts without a cluster of their own.
pub const DEFAULT_SUBDOMAIN: &str = "api.exotel.com";
/// What Exotel allows an account unless agreed otherwise.
const CALLS_PER_MINUTE: i32 = 60;
const MOST_CALLS_PER_MINUTE: i32 = 6000;
/// 09:00 and 21:00: the hours of India's rules for commercial calls.
const START_MINUTE: i32 = 540;
const END_MINUTE: i32 = 1260;
const TIME_ZONE: &str = "Asia/Kolkata";
/// The fields that an update may change.
const MASK: [&str; 7] = [
    "name",
    "calls_per_minute",
    "max_concurrent_calls",
    "inbound_reserve",
    "calling_hours",
    "app_id",
    "subdomain",
];
const LIST: &str = "accounts";

/// An account as others may see it.
#[derive(Debug, Clone)]
pub struct View {
    /// Its row.
    pub account: Account,
    /// Whether credentials are stored.
    pub has_credentials: bool,
}

/// What Exotel said about credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The key and the token work.
    pub accepted: bool,
    /// The number is one of the account's.
    pub owns_number: bool,
    /// Where the credentials came from.
    pub source: Source,
    /// What to do; empty when all is well.
    pub problem: String,
}

/// What to enter in Exotel's dashboard. Secret.
pub struct WebhookUrls {
    /// The token in them.
    pub token: String,
    base: String,
}

impl WebhookUrls {
    /// An applet's URL.
    pub fn applet(&self, applet: Applet) -> String {
        paths::applet_url(&self.base, &self.token, applet)
    }

    /// The URL for Voicebot applets that take a fixed one.
    pub fn socket(&self) -> String {
        paths::static_socket_url(&self.base)
    }
}

/// A new account, checked.
#[derive(Debug)]
pub struct New {
    sid: String,
    settings: Settings,
    secrets: Option<Secrets>,
}

impl New {
    /// Checks a request.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn read(request: &api::CreateAccountRequest) -> Result<Self, Error> {
        let mut wrong = Violations::new();
        let sid = request.sid.trim().to_owned();
        wrong.require(
            is_sid(&sid),
            "sid",
            "is required: up to 64 letters, digits, dashes and underscores",
        );
        let mut settings = from_environment(DEFAULT_SUBDOMAIN);
        settings.name = text::name(&mut wrong, "name", &request.name);
        settings.calls_per_minute = rate(&mut wrong, "calls_per_minute", request.calls_per_minute);
        settings.max_concurrent_calls = text::cap(&mut wrong, "max_concurrent_calls", request.max_concurrent_calls);
        settings.inbound_reserve = text::cap(&mut wrong, "inbound_reserve", request.inbound_reserve);
        hours(
            &mut wrong,
            "calling_hours",
            request.calling_hours.as_ref(),
            &mut settings,
        );
        settings.app_id = text::app_id(&mut wrong, "app_id", &request.app_id);
        if !request.subdomain.trim().is_empty()
            && let Some(host) = wrong.check("subdomain", subdomain(&request.subdomain))
        {
            settings.subdomain = host;
        }
        reserve(&mut wrong, "inbound_reserve", &settings);
        let secrets = request
            .credentials
            .as_ref()
            .map(|set| text::secrets(&mut wrong, "credentials", set));
        wrong.finish()?;
        Ok(Self { sid, settings, secrets })
    }
}

/// Adds an account.
///
/// # Errors
/// `SID_TAKEN`.
pub async fn create(app: &Arc<App>, new: New) -> Result<View, Error> {
    let mut conn = app.db.conn().await?;
    let id = AccountId(app.clock.new_uuid());
    let created = conn
        .transaction::<_, Error, _>(async |conn| {
            let account = accounts::insert(conn, id, &new.sid, &new.settings).await?;
            if let Some(secrets) = &new.secrets {
                app.vault
                    .store(conn, app.clock.new_uuid(), Owner::Account(id.0), secrets, None)
                    .await?;
            }
            audit::changed(conn, Subject::Id(&id)).await?;
            Ok(View {
                account,
                has_credentials: new.secrets.is_some(),
            })
        })
        .await;
    match created {
        Err(error) if error.is_unique_violation("accounts_sid_key") => Err(Error::already_exists(
            "SID_TAKEN",
            "there is an account with this sid already",
        )),
        other => other,
    }
}

/// Finds an account.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &Arc<App>, id: AccountId) -> Result<View, Error> {
    let mut conn = app.db.conn().await?;
    let account = accounts::find(&mut conn, id).await?.ok_or_else(|| unknown(id))?;
    view(&mut conn, account).await
}

/// A page of accounts, and the token of the next.
///
/// # Errors
/// [`Error::Invalid`].
pub async fn list(app: &Arc<App>, page_size: i32, page_token: &str) -> Result<(Vec<View>, String), Error> {
    let size = page::size(page_size)?;
    let after = page::after(LIST, b"", page_token)?.map(AccountId);
    let mut conn = app.db.conn().await?;
    let mut rows = accounts::page(&mut conn, after, size + 1).await?;
    let next = page::cut(&mut rows, size, LIST, b"", |account| account.id);
    let ids: Vec<_> = rows.iter().map(|account| account.id).collect();
    let with = accounts::with_credentials(&mut conn, &ids).await?;
    let views = rows
        .into_iter()
        .map(|account| View {
            has_credentials: with.contains(&account.id),
            account,
        })
        .collect();
    Ok((views, next))
}

/// Changes the fields that the mask names.
///
/// # Errors
/// [`Error::Invalid`], [`Error::NotFound`].
pub async fn update(app: &Arc<App>, request: &api::UpdateAccountRequest) -> Result<View, Error> {
    let mut wrong = Violations::new();
    let account = request.account.clone().unwrap_or_default();
    let id: Option<AccountId> = wrong.check("account.id", account.id.parse());
    let paths = text::mask(&mut wrong, request.update_mask.as_ref(), &MASK);
    let Some(id) = id else {
        return Err(wrong.finish().err().unwrap_or_else(|| unknown(&account.id)));
    };

    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        let before = accounts::lock(conn, id).await?.ok_or_else(|| unknown(id))?;
        let mut settings = before.settings();
        apply(&mut wrong, &account, &paths, &mut settings);
        if before.from_environment && settings.subdomain != before.subdomain {
            wrong.add("account.subdomain", "is set by EXOTEL_SUBDOMAIN for this account");
        }
        std::mem::take(&mut wrong).finish()?;
        let account = accounts::update(conn, id, &settings).await?;
        let fields = json!({ "fields": paths.join(",") });
        audit::changed_with(conn, Subject::Id(&id), fields).await?;
        view(conn, account).await
    })
    .await
}

fn apply(wrong: &mut Violations, from: &api::Account, paths: &[&str], settings: &mut Settings) {
    for path in paths {
        match *path {
            "name" => settings.name = text::name(wrong, "account.name", &from.name),
            "calls_per_minute" => {
                settings.calls_per_minute = rate(wrong, "account.calls_per_minute", from.calls_per_minute);
            }
            "max_concurrent_calls" => {
                settings.max_concurrent_calls =
                    text::cap(wrong, "account.max_concurrent_calls", from.max_concurrent_calls);
            }
            "inbound_reserve" => {
                settings.inbound_reserve = text::cap(wrong, "account.inbound_reserve", from.inbound_reserve);
            }
            "calling_hours" => hours(wrong, "account.calling_hours", from.calling_hours.as_ref(), settings),
            "app_id" => settings.app_id = text::app_id(wrong, "account.app_id", &from.app_id),
            "subdomain" => {
                let host = if from.subdomain.trim().is_empty() {
                    DEFAULT_SUBDOMAIN
                } else {
                    &from.subdomain
                };
                if let Some(host) = wrong.check("account.subdomain", subdomain(host)) {
                    settings.subdomain = host;
                }
            }
            // The mask was checked.
            _ => {}
        }
    }
    reserve(wrong, "account.inbound_reserve", settings);
}

/// Replaces the account's key and token.
///
/// # Errors
/// [`Error::Invalid`], [`Error::NotFound`], `ENVIRONMENT_ACCOUNT`.
pub async fn set_credentials(
    app: &Arc<App>,
    id: AccountId,
    credentials: Option<&api::ExotelCredentials>,
) -> Result<View, Error> {
    let secrets = required_secrets(credentials)?;
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        let account = accounts::lock(conn, id).await?.ok_or_else(|| unknown(id))?;
        if account.from_environment {
            return Err(Error::precondition(
                "ENVIRONMENT_ACCOUNT",
                "the secrets of this account are EXOTEL_API_KEY and EXOTEL_API_TOKEN: change them there",
            ));
        }
        app.vault
            .store(conn, app.clock.new_uuid(), Owner::Account(id.0), &secrets, None)
            .await?;
        audit::changed(conn, Subject::Id(&id)).await?;
        Ok(View {
            account,
            has_credentials: true,
        })
    })
    .await
}

/// A key and a token that must be there.
///
/// # Errors
/// [`Error::Invalid`] on `credentials`.
pub(super) fn required_secrets(credentials: Option<&api::ExotelCredentials>) -> Result<Secrets, Error> {
    let mut wrong = Violations::new();
    let secrets = text::secrets(&mut wrong, "credentials", &credentials.cloned().unwrap_or_default());
    wrong.finish()?;
    Ok(secrets)
}

/// Asks Exotel whether the account's credentials work.
///
/// # Errors
/// [`Error::NotFound`], `NO_CREDENTIALS`.
pub async fn verify(app: &Arc<App>, id: AccountId) -> Result<Check, Error> {
    let mut conn = app.db.conn().await?;
    let opened = app.vault.open_account(&mut conn, id).await?;
    drop(conn);
    // The cheapest request that needs the key.
    let answer = app.exotel.active_streams(&opened).await;
    let (accepted, problem) = match answer {
        // An answer in a shape of its own is an answer to a good key.
        Ok(_) | Err(RestError::Unreadable(_)) => (true, String::new()),
        Err(error) => (false, problem(&error)),
    };
    Ok(Check {
        accepted,
        owns_number: false,
        source: opened.source,
        problem,
    })
}

/// What an operator should do about a failed question.
pub(crate) fn problem(error: &RestError) -> String {
    use exotel::rest::Rejection;
    match error {
        RestError::Refused {
            kind: Rejection::BadCredentials,
            ..
        }
        | RestError::Status(401) => BAD_CREDENTIALS.to_owned(),
        RestError::Refused {
            kind: Rejection::NotFound,
            ..
        }
        | RestError::Status(404) => {
            "Exotel does not know the account's sid on this cluster: check sid and subdomain".to_owned()
        }
        RestError::Refused {
            kind, provider_code, ..
        } => {
            format!("Exotel refused the question ({}, {provider_code})", kind.word())
        }
        other => format!("Exotel could not be asked, so nothing is known about the credentials: {other}"),
    }
}

/// What a refused key means.
pub(super) const BAD_CREDENTIALS: &str = "Exotel does not accept the API key and token: set them again, and check the subdomain, as keys belong to one cluster";

/// The URLs for the dashboard.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn webhook_urls(app: &Arc<App>, id: AccountId) -> Result<WebhookUrls, Error> {
    let account = accounts::find(&mut *app.db.conn().await?, id)
        .await?
        .ok_or_else(|| unknown(id))?;
    let generation = u16::try_from(account.token_generation)
        .map_err(|error| Error::internal_from("a token generation is out of range", error))?;
    let token = app
        .tokens
        .mint(Purpose::Account, account.id, account_nonce(generation), 0);
    Ok(WebhookUrls {
        token,
        base: app.config.public_base_url.clone(),
    })
}

/// Makes a new token; the one before stays good until the next rotation.
///
/// # Errors
/// [`Error::NotFound`], `TOKEN_GENERATIONS_USED_UP`.
pub async fn rotate_token(app: &Arc<App>, id: AccountId) -> Result<i32, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        if let Some(generation) = accounts::rotate_token(conn, id).await? {
            audit::changed(conn, Subject::Id(&id)).await?;
            return Ok(generation);
        }
        accounts::find(conn, id).await?.ok_or_else(|| unknown(id))?;
        Err(Error::precondition(
            "TOKEN_GENERATIONS_USED_UP",
            "this account's token was rotated 65534 times: rotate TOKEN_KEYS",
        ))
    })
    .await
}

async fn view(conn: &mut AsyncPgConnection, account: Account) -> Result<View, Error> {
    let has_credentials = !accounts::with_credentials(conn, &[account.id]).await?.is_empty();
    Ok(View {
        account,
        has_credentials,
    })
}

fn unknown(id: impl std::fmt::Display) -> Error {
    Error::not_found("account", id)
}

/// Whether a text can be an account SID: it is part of URLs.
pub fn is_sid(text: &str) -> bool {
    is_app_id(text)
}

/// Whether a text can be the id of a flow: it is part of URLs.
pub fn is_app_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Checks a cluster's host: one of Exotel's, or a simulator's URL on this machine.
///
/// # Errors
/// What is wrong with it.
pub fn subdomain(text: &str) -> Result<String, exotel::rest::EndpointError> {
    let host = text.trim().to_ascii_lowercase();
    Endpoint::parse(&host).map(|_| host)
}

/// The settings of the environment's account until somebody changes them.
pub fn from_environment(subdomain: &str) -> Settings {
    Settings {
        name: "environment".to_owned(),
        subdomain: subdomain.to_owned(),
        calls_per_minute: CALLS_PER_MINUTE,
        max_concurrent_calls: 0,
        inbound_reserve: 0,
        hours_off: false,
        hours_start_minute: START_MINUTE,
        hours_end_minute: END_MINUTE,
        hours_time_zone: TIME_ZONE.to_owned(),
        app_id: None,
    }
}

fn rate(wrong: &mut Violations, field: &str, rate: i32) -> i32 {
    wrong.require(
        (0..=MOST_CALLS_PER_MINUTE).contains(&rate),
        field,
        &format!("is from 1 to {MOST_CALLS_PER_MINUTE}, or 0 for {CALLS_PER_MINUTE}"),
    );
    if rate == 0 { CALLS_PER_MINUTE } else { rate }
}

fn reserve(wrong: &mut Violations, field: &str, settings: &Settings) {
    let fits = settings.max_concurrent_calls == 0 || settings.inbound_reserve <= settings.max_concurrent_calls;
    wrong.require(fits, field, "is at most max_concurrent_calls");
}

/// Zero is the default for either end: at night people are called only where the hours are off.
fn hours(wrong: &mut Violations, field: &str, hours: Option<&api::CallingHours>, settings: &mut Settings) {
    let hours = hours.cloned().unwrap_or_default();
    let or = |minute: i32, default: i32| if minute == 0 { default } else { minute };
    let (start, end) = (or(hours.start_minute, START_MINUTE), or(hours.end_minute, END_MINUTE));
    wrong.require(
        (0..1440).contains(&start),
        &format!("{field}.start_minute"),
        "is from 1 to 1439, or 0 for 540",
    );
    wrong.require(
        (1..=1440).contains(&end),
        &format!("{field}.end_minute"),
        "is from 1 to 1440, or 0 for 1260",
    );
    wrong.require(start < end, field, "begin before they end");
    let zone = match hours.time_zone.trim() {
        "" => TIME_ZONE,
        zone => zone,
    };
    let known = zone.parse::<chrono_tz::Tz>().is_ok();
    wrong.require(
        known,
        &format!("{field}.time_zone"),
        "is an IANA name such as Asia/Kolkata",
    );
    settings.hours_off = hours.off;
    settings.hours_start_minute = start;
    settings.hours_end_minute = end;
    zone.clone_into(&mut settings.hours_time_zone);
}

#[cfg(test)]
mod tests;
