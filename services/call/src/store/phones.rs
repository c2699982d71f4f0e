//! ExoPhones.

use callbridge_proto::id::{AccountId, PhoneId};
use chrono::{DateTime, Utc};
use diesel::{
    AsChangeset, ExpressionMethods as _, HasQuery, Insertable, OptionalExtension as _, QueryDsl as _, QueryResult,
    SelectableHelper as _, dsl::now,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use exotel::PhoneNumber;
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::{
    accounts::Account,
    enums::{pg_enum, sql},
    schema::{accounts, credentials, phones},
};
use crate::diagnosis::Variants;

pg_enum! {
    /// How outbound calls reach the agent.
    DialMode as sql::DialMode {
        /// Through an Exotel flow with a Voicebot applet.
        Flow => "flow",
        /// Straight to the edge's socket.
        Stream => "stream",
    }
}

/// A phone's row. `Debug` shows no number.
#[derive(Clone, PartialEq, Eq, HasQuery)]
#[diesel(table_name = phones, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Phone {
    pub id: Uuid,
    pub account_id: Uuid,
    /// E.164. Never for logs.
    pub number: String,
    pub label: String,
    pub dial_mode: DialMode,
    pub app_id: Option<String>,
    pub agent_id: Option<Uuid>,
    pub max_concurrent_calls: i32,
    /// A [`Gather`].
    pub gather: Option<serde_json::Value>,
    /// A list of E.164 numbers.
    pub transfer_numbers: serde_json::Value,
    /// An [`Audio`].
    pub audio: Option<serde_json::Value>,
    pub record_audio: bool,
    /// [`Variants`].
    pub variants: Option<serde_json::Value>,
    pub created_at: DateTime<Utc>,
}

impl std::fmt::Debug for Phone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Phone")
            .field("id", &self.id())
            .field("account_id", &self.account_id)
            .finish_non_exhaustive()
    }
}

impl Phone {
    /// The phone's id.
    pub fn id(&self) -> PhoneId {
        PhoneId(self.id)
    }

    /// The account that owns it.
    pub fn account_id(&self) -> AccountId {
        AccountId(self.account_id)
    }

    /// What a Gather applet asks, if anything.
    pub fn gather(&self) -> serde_json::Result<Option<Gather>> {
        self.gather.clone().map(serde_json::from_value).transpose()
    }

    /// Whom a Connect applet dials, E.164.
    pub fn transfer_numbers(&self) -> serde_json::Result<Vec<String>> {
        serde_json::from_value(self.transfer_numbers.clone())
    }

    /// How the audio of its calls is sent and read, where that is not the default. What this program cannot read (F40: a word
    /// of a later release) is the default too: a call with other packets is better than none.
    pub fn audio(&self) -> Option<Audio> {
        serde_json::from_value(self.audio.clone()?)
            .inspect_err(|error| warn!(phone.id = %self.id(), %error, "a phone's audio settings cannot be read; the defaults are used"))
            .ok()
    }

    /// How its account behaves, as the last diagnosis with a call saw it. What this program cannot read (F40) was not seen.
    pub fn variants(&self) -> Option<Variants> {
        serde_json::from_value(self.variants.clone()?)
            .inspect_err(
                |error| warn!(phone.id = %self.id(), %error, "what a diagnosis kept of a phone cannot be read"),
            )
            .ok()
    }

    /// What an operator has set.
    pub fn settings(&self) -> Settings {
        Settings {
            label: self.label.clone(),
            dial_mode: self.dial_mode,
            app_id: self.app_id.clone(),
            agent_id: self.agent_id,
            max_concurrent_calls: self.max_concurrent_calls,
            gather: self.gather.clone(),
            transfer_numbers: self.transfer_numbers.clone(),
            audio: self.audio.clone(),
            record_audio: self.record_audio,
        }
    }
}

/// What a Gather applet asks, as `phones.gather` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gather {
    /// Spoken by Exotel.
    pub text: String,
    /// 1 to 255.
    pub max_digits: i32,
    /// A digit, `*` or `#`; empty for none.
    pub finish_on_key: String,
    /// Seconds without a key.
    pub timeout_seconds: i32,
    /// How often the prompt is repeated.
    pub repeats: i32,
}

/// How the audio of a phone's calls is sent and read, as `phones.audio` keeps it; 0 is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audio {
    /// Bytes of PCM in a frame to Exotel while its buffer is empty.
    pub min_packet_bytes: i32,
    /// Bytes of PCM in a frame once it leads.
    pub max_packet_bytes: i32,
    /// How far ahead of its time audio is sent, in milliseconds.
    pub lead_ms: i32,
    /// Whether frames to Exotel say where in the stream they are.
    pub positions: bool,
    /// Whether missing audio is replaced by silence.
    pub fill_gaps: bool,
    /// How audio is coded on the socket.
    pub encoding: Coding,
}

/// How audio is coded on the socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// 16-bit little-endian PCM.
    #[default]
    Pcm16,
    /// G.711 μ-law.
    Mulaw,
}

/// What an operator sets; written as a whole. `Debug` shows no number.
#[derive(Clone, PartialEq, Eq, Insertable, AsChangeset)]
#[diesel(table_name = phones, treat_none_as_null = true)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Settings {
    pub label: String,
    pub dial_mode: DialMode,
    pub app_id: Option<String>,
    pub agent_id: Option<Uuid>,
    pub max_concurrent_calls: i32,
    pub gather: Option<serde_json::Value>,
    pub transfer_numbers: serde_json::Value,
    pub audio: Option<serde_json::Value>,
    pub record_audio: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("dial_mode", &self.dial_mode)
            .finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            label: String::new(),
            dial_mode: DialMode::Flow,
            app_id: None,
            agent_id: None,
            max_concurrent_calls: 0,
            gather: None,
            transfer_numbers: serde_json::Value::Array(Vec::new()),
            audio: None,
            record_audio: false,
        }
    }
}

/// Finds a phone.
pub async fn find(conn: &mut AsyncPgConnection, id: PhoneId) -> QueryResult<Option<Phone>> {
    Phone::query().filter(phones::id.eq(id.0)).first(conn).await.optional()
}

/// Names a phone.
#[derive(Debug, Clone, Copy)]
pub enum Named<'a> {
    /// By its id.
    Id(PhoneId),
    /// By its number in E.164.
    Number(&'a str),
}

/// Finds a phone and its account.
pub async fn with_account(mut conn: &AsyncPgConnection, phone: Named<'_>) -> QueryResult<Option<(Phone, Account)>> {
    let both = phones::table
        .inner_join(accounts::table)
        .select((Phone::as_select(), Account::as_select()));
    match phone {
        Named::Id(id) => both.filter(phones::id.eq(id.0)).first(&mut conn).await,
        Named::Number(number) => both.filter(phones::number.eq(number)).first(&mut conn).await,
    }
    .optional()
}

/// Finds a phone by its number in E.164.
pub async fn by_number(conn: &mut AsyncPgConnection, e164: &str) -> QueryResult<Option<Phone>> {
    Phone::query()
        .filter(phones::number.eq(e164))
        .first(conn)
        .await
        .optional()
}

/// Finds a phone and keeps others from changing it until the transaction ends.
pub async fn lock(conn: &mut AsyncPgConnection, id: PhoneId) -> QueryResult<Option<Phone>> {
    Phone::query()
        .filter(phones::id.eq(id.0))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()
}

/// A page by number, after the phone `after`.
pub async fn page(
    conn: &mut AsyncPgConnection,
    account: Option<AccountId>,
    after: Option<PhoneId>,
    limit: i64,
) -> QueryResult<Vec<Phone>> {
    let mut query = Phone::query().order(phones::number).limit(limit).into_boxed();
    if let Some(account) = account {
        query = query.filter(phones::account_id.eq(account.0));
    }
    if let Some(after) = after {
        // The token holds the id: a number has no place in it.
        let last: Option<String> = phones::table
            .find(after.0)
            .select(phones::number)
            .first(conn)
            .await
            .optional()?;
        query = query.filter(phones::number.gt(last.unwrap_or_default()));
    }
    query.load(conn).await
}

/// Which of these phones have credentials of their own.
pub async fn with_credentials(conn: &mut AsyncPgConnection, ids: &[Uuid]) -> QueryResult<Vec<Uuid>> {
    let found: Vec<Option<Uuid>> = credentials::table
        .filter(credentials::phone_id.eq_any(ids))
        .select(credentials::phone_id)
        .load(conn)
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// Adds a phone. Fails with `phones_number_key` when the number is taken.
pub async fn insert(
    conn: &mut AsyncPgConnection,
    id: PhoneId,
    account: AccountId,
    number: &PhoneNumber,
    settings: &Settings,
) -> QueryResult<Phone> {
    diesel::insert_into(phones::table)
        .values((
            phones::id.eq(id.0),
            phones::account_id.eq(account.0),
            phones::number.eq(number.expose()),
            settings,
        ))
        .returning(Phone::as_returning())
        .get_result(conn)
        .await
}

/// Adds a phone with nothing set, unless the number is there, whosever it is.
pub async fn put_from_environment(
    conn: &mut AsyncPgConnection,
    id: PhoneId,
    account: AccountId,
    number: &PhoneNumber,
) -> QueryResult<usize> {
    diesel::insert_into(phones::table)
        .values((
            phones::id.eq(id.0),
            phones::account_id.eq(account.0),
            phones::number.eq(number.expose()),
            Settings::default(),
        ))
        .on_conflict(phones::number)
        .do_nothing()
        .execute(conn)
        .await
}

/// Keeps what a diagnosis saw.
pub async fn set_variants(
    conn: &mut AsyncPgConnection,
    id: PhoneId,
    variants: &serde_json::Value,
) -> QueryResult<usize> {
    diesel::update(phones::table.find(id.0))
        .set((phones::variants.eq(variants), phones::updated_at.eq(now)))
        .execute(conn)
        .await
}

/// Writes a phone's settings.
pub async fn update(conn: &mut AsyncPgConnection, id: PhoneId, settings: &Settings) -> QueryResult<Phone> {
    diesel::update(phones::table.find(id.0))
        .set((settings, phones::updated_at.eq(now)))
        .returning(Phone::as_returning())
        .get_result(conn)
        .await
}
