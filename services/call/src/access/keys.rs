//! Making, listing and revoking keys.

use std::sync::Arc;

use callbridge_proto::{access::v1 as api, id::KeyId};
use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE64URL_NOPAD;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{MOST, refresh};
use crate::{
    app::App,
    audit::{self, Subject},
    error::{Error, Violations},
    rpc::{
        auth::{Caller, Scope, is_name},
        page,
    },
    store::api_keys::{self, ApiKey, NewApiKey},
    toll::{Limits, Prefixes, Rules},
};

/// Bytes of a secret. Nobody guesses them, so their SHA-256 may be stored as it is.
const SECRET: usize = 32;
/// No key ends later than this, so that a slip of the pen is noticed.
const LONGEST: TimeDelta = TimeDelta::days(3660);
/// More calls in a day than this are no cap.
const MOST_CALLS: i32 = 10_000_000;
const LIST: &str = "api_keys";

/// A new key, checked.
#[derive(Debug)]
pub struct New {
    name: String,
    scopes: Vec<Scope>,
    expires_at: Option<DateTime<Utc>>,
    limits: Limits,
}

impl New {
    /// Checks a request against the time and against what its caller may do itself.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Denied`], [`Error::Precondition`].
    pub fn read(
        caller: &Caller,
        now: DateTime<Utc>,
        rules: &Rules,
        request: &api::CreateKeyRequest,
    ) -> Result<Self, Error> {
        let mut wrong = Violations::new();
        wrong.require(
            is_name(&request.name),
            "name",
            "is required: 1 to 64 letters, digits, dots, dashes and underscores",
        );
        let mut scopes = Vec::new();
        for (at, word) in request.scopes.iter().take(Scope::ALL.len() + 1).enumerate() {
            match Scope::read(word) {
                Some(scope) if !scopes.contains(&scope) => scopes.push(scope),
                Some(_) => wrong.add(format!("scopes[{at}]"), "is there twice"),
                None => wrong.add(format!("scopes[{at}]"), format!("is none of {}", Scope::words())),
            }
        }
        wrong.require(!request.scopes.is_empty(), "scopes", "is required");
        let expires_at = request.expires_at.map(|at| {
            let at = u32::try_from(at.nanos)
                .ok()
                .and_then(|nanos| DateTime::from_timestamp(at.seconds, nanos));
            at.filter(|at| *at > now && *at <= now + LONGEST)
        });
        wrong.require(
            expires_at != Some(None),
            "expires_at",
            "is in the future, and within ten years",
        );
        let limits = limits(&mut wrong, rules, request);
        wrong.finish()?;
        let new = Self {
            name: request.name.clone(),
            scopes,
            expires_at: expires_at.flatten(),
            limits,
        };
        new.is_within(caller)?;
        new.dials_within(caller, rules)?;
        Ok(new)
    }

    /// A key is worth no more than the one that it is made with.
    fn is_within(&self, caller: &Caller) -> Result<(), Error> {
        if let Some(scope) = self.scopes.iter().find(|scope| !caller.may(**scope)) {
            return Err(Error::Denied {
                reason: "SCOPE_NOT_HELD",
                message: format!(
                    "a key with the scope {} can only be made with a key that has it",
                    scope.word()
                ),
            });
        }
        match (caller.expires_at(), self.expires_at) {
            (Some(end), None) => Err(outlives(end)),
            (Some(end), Some(at)) if at > end => Err(outlives(end)),
            _ => Ok(()),
        }
    }

    /// Nor does it dial more. The keys of the settings bind no one: who has them has the settings' word.
    fn dials_within(&self, caller: &Caller, rules: &Rules) -> Result<(), Error> {
        let own = caller.limits();
        if let Some(prefixes) = &own.prefixes
            && !self.limits.prefixes.as_ref().is_some_and(|new| new.is_within(prefixes))
        {
            return Err(Error::Denied {
                reason: "DIALS_MORE_THAN_ITS_MAKER",
                message: format!(
                    "the key that you use may dial {prefixes} alone: set dial_prefixes to these, or to some within"
                ),
            });
        }
        let most = caller.key().and_then(|_| rules.daily_calls(&own));
        if let Some(most) = most
            && rules.daily_calls(&self.limits).is_none_or(|new| new > most)
        {
            return Err(Error::Denied {
                reason: "DIALS_MORE_THAN_ITS_MAKER",
                message: format!("the key that you use may make {most} calls in a day: set daily_calls to no more"),
            });
        }
        // Calls are counted by name: under another one the cap would be there once more.
        if own.daily_calls.is_some() && self.name != *caller.principal.name {
            return Err(Error::Denied {
                reason: "DIALS_MORE_THAN_ITS_MAKER",
                message: format!(
                    "the key that you use has a cap of its own, which keys of one name share: set name to {}",
                    caller.principal.name
                ),
            });
        }
        Ok(())
    }
}

/// Reads what the key may dial.
fn limits(wrong: &mut Violations, rules: &Rules, request: &api::CreateKeyRequest) -> Limits {
    let prefixes = (!request.dial_prefixes.is_empty()).then(|| {
        wrong.check(
            "dial_prefixes",
            Prefixes::of(request.dial_prefixes.iter().map(String::as_str)),
        )
    });
    let prefixes = prefixes.flatten();
    wrong.require(
        prefixes.as_ref().is_none_or(|own| own.is_within(&rules.prefixes)),
        "dial_prefixes",
        "are each within one of DIAL_ALLOWED_PREFIXES",
    );
    wrong.require(
        (0..=MOST_CALLS).contains(&request.daily_calls),
        "daily_calls",
        "is 1 to 10,000,000; 0 for what DIAL_DAILY_CALLS says",
    );
    Limits {
        prefixes,
        daily_calls: (request.daily_calls > 0).then_some(request.daily_calls),
    }
}

fn outlives(end: DateTime<Utc>) -> Error {
    Error::precondition(
        "OUTLIVES_ITS_MAKER",
        format!("the key that you use ends at {end}: set expires_at to no later, or use another key"),
    )
}

/// Makes a key, and returns it with what its holder shows: `ck_<kid>_<secret>`, which nobody can find out again.
///
/// # Errors
/// [`Error::Exhausted`] when there are too many.
pub async fn create(app: &Arc<App>, caller: &Caller, new: New) -> Result<(ApiKey, SecretString), Error> {
    let id = KeyId(app.clock.new_uuid());
    let presented = presented(id)?;
    let row = NewApiKey {
        id: id.0,
        name: new.name,
        sha256: digest(&SHA256, presented.expose_secret().as_bytes()).as_ref().to_vec(),
        scopes: Scope::joined(&new.scopes),
        created_by: caller.principal.name.to_string(),
        created_with: caller.key().map(|id| id.0),
        expires_at: new.expires_at,
        dial_prefixes: new.limits.prefixes.map(|prefixes| prefixes.to_string()),
        daily_calls: new.limits.daily_calls,
    };
    let mut conn = app.db.conn().await?;
    let key = conn
        .transaction::<_, Error, _>(async |conn| {
            api_keys::lock(conn).await?;
            if i64::try_from(api_keys::live(conn, MOST).await?.len()).unwrap_or(MOST) >= MOST {
                return Err(Error::exhausted(
                    "TOO_MANY_KEYS",
                    format!("there are {MOST} keys that work: revoke some first"),
                ));
            }
            let key = api_keys::insert(conn, &row).await?;
            let what = json!({
                "name": row.name, "scopes": row.scopes,
                "dial_prefixes": row.dial_prefixes.as_deref().unwrap_or_default(),
                "daily_calls": row.daily_calls.map(|most| most.to_string()).unwrap_or_default(),
            });
            audit::changed_with(conn, Subject::Id(&id), what).await?;
            Ok(key)
        })
        .await?;
    info!(key.id = %id, key.name = key.name, key.scopes = key.scopes, by = key.created_by, "an API key was made");
    apply(app, &mut conn).await;
    Ok((key, presented))
}

fn presented(id: KeyId) -> Result<SecretString, Error> {
    let mut secret = Zeroizing::new([0; SECRET]);
    SystemRandom::new()
        .fill(&mut *secret)
        .map_err(|_| Error::internal("cannot make a key: the system has no randomness"))?;
    let secret = Zeroizing::new(BASE64URL_NOPAD.encode(&*secret));
    Ok(format!("ck_{}_{}", id.0.simple(), *secret).into())
}

/// A page of keys, and the token of the next.
///
/// # Errors
/// [`Error::Invalid`].
pub async fn list(app: &Arc<App>, request: &api::ListKeysRequest) -> Result<(Vec<ApiKey>, String), Error> {
    let size = page::size(request.page_size)?;
    let filters = [u8::from(request.include_ended)];
    let after = page::after(LIST, &filters, &request.page_token)?;
    let mut conn = app.db.conn().await?;
    let mut rows = api_keys::page(&mut conn, after, request.include_ended, size + 1).await?;
    let next = page::cut(&mut rows, size, LIST, &filters, |key| key.id);
    Ok((rows, next))
}

/// Ends a key.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn revoke(app: &Arc<App>, caller: &Caller, id: KeyId) -> Result<ApiKey, Error> {
    let mut conn = app.db.conn().await?;
    let key = conn
        .transaction::<_, Error, _>(async |conn| {
            let key = api_keys::revoke(conn, id, &caller.principal.name)
                .await?
                .ok_or_else(|| Error::not_found("key", id))?;
            audit::changed(conn, Subject::Id(&id)).await?;
            Ok(key)
        })
        .await?;
    info!(key.id = %id, key.name = key.name, by = key.revoked_by, "an API key is revoked");
    apply(app, &mut conn).await;
    Ok(key)
}

/// What was committed counts here at once; where it cannot be read, it does with the next refresh.
async fn apply(app: &App, conn: &mut AsyncPgConnection) {
    if let Err(error) = refresh(app, conn).await {
        warn!(%error, "the API keys of the database cannot be read after a change");
    }
}

#[cfg(test)]
mod tests;
