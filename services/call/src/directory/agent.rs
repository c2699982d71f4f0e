//! Voice agents. Each change makes a new version; a call keeps the one it began with.

use std::sync::Arc;

use callbridge_proto::{directory::v1 as api, id::AgentId};
use data_encoding::HEXLOWER;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use runtime::endpoint::Allow;
use serde_json::json;

use super::text;
use crate::{
    app::App,
    audit::{self, Subject},
    error::{Error, Violations},
    rpc::page,
    store::{
        agents::{self, Agent, Version},
        greetings,
    },
};

const ENDPOINTS: usize = 5;
const GREETING_CHARS: usize = 1000;
const CONFIG_BYTES: usize = 16 * 1024;
/// Bytes of a SHA-256.
const HASH: usize = 32;
const SAMPLE_RATE: i32 = 8000;
/// The fields that an update may change.
const MASK: [&str; 6] = [
    "name",
    "endpoints",
    "greeting",
    "sample_rate",
    "config",
    "max_concurrent_calls",
];
const LIST: &str = "agents";

/// An agent as others may see it.
#[derive(Debug, Clone)]
pub struct View {
    /// Its row.
    pub agent: Agent,
    /// Its current version.
    pub version: Version,
}

/// What an operator sets.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    name: String,
    endpoints: Vec<String>,
    greeting_text: Option<String>,
    greeting_sha256: Option<Vec<u8>>,
    sample_rate: i32,
    config: String,
    max_concurrent_calls: i32,
}

impl Settings {
    fn of(agent: &Agent, version: &Version) -> Result<Self, Error> {
        let endpoints = version
            .endpoints()
            .map_err(|error| Error::internal_from("stored endpoints cannot be read", error))?;
        Ok(Self {
            name: agent.name.clone(),
            endpoints,
            greeting_text: version.greeting_text.clone(),
            greeting_sha256: version.greeting_sha256.clone(),
            sample_rate: version.sample_rate,
            config: version.config.clone(),
            max_concurrent_calls: agent.max_concurrent_calls,
        })
    }

    fn version(&self, agent: AgentId, version: i32) -> Version {
        Version {
            agent_id: agent.0,
            version,
            endpoints: json!(self.endpoints),
            greeting_text: self.greeting_text.clone(),
            greeting_sha256: self.greeting_sha256.clone(),
            sample_rate: self.sample_rate,
            config: self.config.clone(),
        }
    }
}

/// A new agent, checked.
#[derive(Debug)]
pub struct New(Settings);

impl New {
    /// Checks a request.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn read(allow: &Allow, request: &api::CreateAgentRequest) -> Result<Self, Error> {
        let mut wrong = Violations::new();
        let (greeting_text, greeting_sha256) = greeting(&mut wrong, "greeting", request.greeting.as_ref());
        let settings = Settings {
            name: text::name(&mut wrong, "name", &request.name),
            endpoints: endpoints(&mut wrong, "endpoints", allow, &request.endpoints),
            greeting_text,
            greeting_sha256,
            sample_rate: sample_rate(&mut wrong, "sample_rate", request.sample_rate),
            config: config(&mut wrong, "config", &request.config),
            max_concurrent_calls: text::cap(&mut wrong, "max_concurrent_calls", request.max_concurrent_calls),
        };
        wrong.finish()?;
        Ok(Self(settings))
    }
}

/// Adds an agent.
///
/// # Errors
/// [`Error::Invalid`] when its greeting was not uploaded.
pub async fn create(app: &Arc<App>, new: New) -> Result<View, Error> {
    let mut conn = app.db.conn().await?;
    let version = new.0.version(AgentId(app.clock.new_uuid()), 1);
    conn.transaction::<_, Error, _>(async |conn| {
        greeting_is_there(conn, "greeting.wav_sha256", &new.0).await?;
        let agent = agents::insert(conn, &new.0.name, new.0.max_concurrent_calls, &version).await?;
        audit::changed(conn, Subject::Id(&agent.id())).await?;
        Ok(View {
            agent,
            version: version.clone(),
        })
    })
    .await
}

/// Finds an agent.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn get(app: &Arc<App>, id: AgentId) -> Result<View, Error> {
    let conn = app.db.conn().await?;
    let (agent, version) = agents::find(&conn, id).await?.ok_or_else(|| unknown(id))?;
    Ok(View { agent, version })
}

/// A page of agents, and the token of the next.
///
/// # Errors
/// [`Error::Invalid`].
pub async fn list(app: &Arc<App>, page_size: i32, page_token: &str) -> Result<(Vec<View>, String), Error> {
    let size = page::size(page_size)?;
    let after = page::after(LIST, b"", page_token)?.map(AgentId);
    let mut conn = app.db.conn().await?;
    let mut rows = agents::page(&mut conn, after, size + 1).await?;
    let next = page::cut(&mut rows, size, LIST, b"", |(agent, _)| agent.id);
    Ok((
        rows.into_iter()
            .map(|(agent, version)| View { agent, version })
            .collect(),
        next,
    ))
}

/// Changes the fields that the mask names, and makes a new version.
///
/// # Errors
/// [`Error::Invalid`], [`Error::NotFound`].
pub async fn update(app: &Arc<App>, request: &api::UpdateAgentRequest) -> Result<View, Error> {
    let allow = &app.config.agent_endpoints;
    let mut wrong = Violations::new();
    let from = request.agent.clone().unwrap_or_default();
    let id: Option<AgentId> = wrong.check("agent.id", from.id.parse());
    let paths = text::mask(&mut wrong, request.update_mask.as_ref(), &MASK);
    let mut changed = Settings {
        name: String::new(),
        endpoints: Vec::new(),
        greeting_text: None,
        greeting_sha256: None,
        sample_rate: SAMPLE_RATE,
        config: String::new(),
        max_concurrent_calls: 0,
    };
    apply(&mut wrong, allow, &from, &paths, &mut changed);
    wrong.finish()?;
    let id = id.ok_or_else(|| Error::internal("a violation was lost"))?;

    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        // The lock first: the version is read under it.
        let locked = agents::lock(conn, id).await?.ok_or_else(|| unknown(id))?;
        let (_, before) = agents::find(conn, id).await?.ok_or_else(|| unknown(id))?;
        let mut settings = Settings::of(&locked, &before)?;
        // Checked above, so that nothing is noted here.
        apply(&mut Violations::new(), allow, &from, &paths, &mut settings);
        greeting_is_there(conn, "agent.greeting.wav_sha256", &settings).await?;
        let version = settings.version(id, locked.version + 1);
        let agent = agents::update(conn, &settings.name, settings.max_concurrent_calls, &version).await?;
        let fields = json!({ "fields": paths.join(",") });
        audit::changed_with(conn, Subject::Id(&id), fields).await?;
        Ok(View { agent, version })
    })
    .await
}

fn apply(wrong: &mut Violations, allow: &Allow, from: &api::Agent, paths: &[&str], settings: &mut Settings) {
    for path in paths {
        match *path {
            "name" => settings.name = text::name(wrong, "agent.name", &from.name),
            "endpoints" => settings.endpoints = endpoints(wrong, "agent.endpoints", allow, &from.endpoints),
            "greeting" => {
                (settings.greeting_text, settings.greeting_sha256) =
                    greeting(wrong, "agent.greeting", from.greeting.as_ref());
            }
            "sample_rate" => settings.sample_rate = sample_rate(wrong, "agent.sample_rate", from.sample_rate),
            "config" => settings.config = config(wrong, "agent.config", &from.config),
            "max_concurrent_calls" => {
                settings.max_concurrent_calls =
                    text::cap(wrong, "agent.max_concurrent_calls", from.max_concurrent_calls);
            }
            // The mask was checked.
            _ => {}
        }
    }
}

async fn greeting_is_there(conn: &mut AsyncPgConnection, field: &str, settings: &Settings) -> Result<(), Error> {
    match &settings.greeting_sha256 {
        Some(hash) if !greetings::is_there(conn, hash).await? => Err(Error::invalid(
            field,
            "is not the hash of an uploaded greeting: UploadGreeting first",
        )),
        _ => Ok(()),
    }
}

fn unknown(id: AgentId) -> Error {
    Error::not_found("agent", id)
}

fn endpoints(wrong: &mut Violations, field: &str, allow: &Allow, endpoints: &[String]) -> Vec<String> {
    wrong.require(
        (1..=ENDPOINTS).contains(&endpoints.len()),
        field,
        "is required: 1 to 5 URLs",
    );
    endpoints
        .iter()
        .take(ENDPOINTS)
        .enumerate()
        .filter_map(|(at, endpoint)| wrong.check(&format!("{field}[{at}]"), allow.check(endpoint)))
        .collect()
}

fn greeting(
    wrong: &mut Violations,
    field: &str,
    greeting: Option<&api::Greeting>,
) -> (Option<String>, Option<Vec<u8>>) {
    let Some(greeting) = greeting else { return (None, None) };
    let text = greeting.text.trim();
    let fits = text.chars().count() <= GREETING_CHARS && !text.contains('\0');
    wrong.require(fits, &format!("{field}.text"), "is up to 1000 characters, without NUL");
    let hash =
        (!greeting.wav_sha256.is_empty()).then(|| HEXLOWER.decode(greeting.wav_sha256.as_bytes()).unwrap_or_default());
    let fits = hash.as_ref().is_none_or(|hash| hash.len() == HASH);
    wrong.require(
        fits,
        &format!("{field}.wav_sha256"),
        "is the wav_sha256 of UploadGreeting: 64 lower-case hex digits",
    );
    ((!text.is_empty()).then(|| text.to_owned()), hash)
}

fn sample_rate(wrong: &mut Violations, field: &str, rate: u32) -> i32 {
    match rate {
        0 | 8000 => SAMPLE_RATE,
        16000 => 16000,
        24000 => 24000,
        _ => {
            wrong.add(field, "is 8000, 16000 or 24000");
            SAMPLE_RATE
        }
    }
}

fn config(wrong: &mut Violations, field: &str, config: &str) -> String {
    let config = config.trim();
    if config.is_empty() {
        return "{}".to_owned();
    }
    wrong.require(config.len() <= CONFIG_BYTES, field, "is up to 16 KiB");
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(config).is_ok();
    wrong.require(is_json, field, "is a JSON document");
    config.to_owned()
}

#[cfg(test)]
mod tests;
