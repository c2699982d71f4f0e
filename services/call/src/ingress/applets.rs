//! What Greeting, Gather and Connect applets ask. Before an inbound call has a row, the phone answers for it.

use std::sync::Arc;

use callbridge_proto::id::{AgentId, CallId};
use data_encoding::HEXLOWER;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::PhoneNumber;
use tracing::{Instrument as _, warn};

use super::{
    inbound,
    resolve::{self, Applet, Way},
};
use crate::{
    app::App,
    error::Error,
    store::{
        accounts::Account,
        agents,
        calls::Call,
        phones::{self, Gather, Phone},
    },
    toll::Limits,
    trace,
};

/// The agent's first message.
pub struct Greeting {
    /// The call, if it has a row.
    pub call: Option<CallId>,
    /// To be spoken by Exotel.
    pub text: String,
    /// Hash of a WAV file, lower-case hex.
    pub wav_sha256: String,
}

/// What a Gather applet asks.
pub struct Prompt {
    /// The call, if it has a row.
    pub call: Option<CallId>,
    /// The phone's settings.
    pub gather: Gather,
}

/// Whom a Connect applet dials.
pub struct Transfer {
    /// The call, if it has a row.
    pub call: Option<CallId>,
    /// E.164; nobody when empty.
    pub numbers: Vec<String>,
    /// The caller id to show, E.164.
    pub outgoing_number: String,
    /// Whether Exotel records.
    pub record: bool,
}

/// Whom an applet's request is about.
struct Subject {
    call: Option<Call>,
    phone: Option<Phone>,
}

impl Subject {
    fn call_id(&self) -> Option<CallId> {
        self.call.as_ref().map(Call::id)
    }
}

/// None: the request contradicts the call, which is to be committed.
async fn subject(conn: &mut AsyncPgConnection, account: &Account, applet: &Applet) -> Result<Option<Subject>, Error> {
    if let Some(id) = resolve::find(conn, account, applet).await? {
        let Some(known) = resolve::lock(conn, id, applet.call_sid.as_deref(), "applet").await? else {
            return Ok(None);
        };
        let call = known.seen(conn, "applet").await?.call;
        let phone = match call.phone_id() {
            Some(id) => phones::find(conn, id).await?,
            None => None,
        };
        return Ok(Some(Subject {
            call: Some(call),
            phone,
        }));
    }
    if applet.way == Way::Outbound {
        return Ok(None);
    }
    let phone = inbound::phone(conn, account, &applet.phone).await?;
    Ok(phone.map(|phone| Subject {
        call: None,
        phone: Some(phone),
    }))
}

/// Asks about the subject of a request, in a transaction that keeps what the request told.
async fn ask(app: &Arc<App>, applet: &Applet, name: &'static str) -> Result<Subject, Error> {
    let mut conn = app.db.reserved().await?;
    let subject = conn
        .transaction::<_, Error, _>(async |conn| {
            let account = resolve::account(conn, applet.account, applet.generation).await?;
            subject(conn, &account, applet).await
        })
        .instrument(trace::finding(name))
        .await?;
    let subject = subject.ok_or_else(resolve::unknown)?;
    if let Some(id) = subject.call_id() {
        app.hub.committed(id);
    }
    Ok(subject)
}

/// Finds the agent's first message.
///
/// # Errors
/// `NotFound` when the call or the number is not known.
pub async fn greeting(app: &Arc<App>, applet: &Applet) -> Result<Greeting, Error> {
    let subject = ask(app, applet, "greeting").await?;
    let mut conn = app.db.reserved().await?;
    // A call keeps the version it began with; before it has a row, the phone's agent speaks for it.
    let version = match &subject.call {
        Some(call) => match call.agent_id().zip(call.agent_version) {
            Some((agent, version)) => agents::version(&mut conn, agent, version).await?,
            None => None,
        },
        None => match subject.phone.as_ref().and_then(|phone| phone.agent_id) {
            Some(agent) => agents::find(&conn, AgentId(agent)).await?.map(|(_, version)| version),
            None => None,
        },
    };
    let call = subject.call_id();
    let version = version.ok_or_else(resolve::unknown)?;
    let wav_sha256 = version
        .greeting_sha256
        .map(|hash| HEXLOWER.encode(&hash))
        .unwrap_or_default();
    let text = if wav_sha256.is_empty() {
        version.greeting_text.unwrap_or_default()
    } else {
        String::new()
    };
    Ok(Greeting { call, text, wav_sha256 })
}

/// Finds what to ask.
///
/// # Errors
/// `NotFound` when the call or the number is not known.
pub async fn gather(app: &Arc<App>, applet: &Applet) -> Result<Prompt, Error> {
    let subject = ask(app, applet, "gather").await?;
    let call = subject.call_id();
    let gather = match &subject.phone {
        Some(phone) => phone
            .gather()
            .map_err(|error| Error::internal_from("a phone's gather prompt cannot be read", error))?,
        None => None,
    };
    Ok(Prompt {
        call,
        gather: gather.unwrap_or_else(default_gather),
    })
}

/// The defaults of the API, without a prompt.
fn default_gather() -> Gather {
    Gather {
        text: String::new(),
        max_digits: 1,
        finish_on_key: "#".to_owned(),
        timeout_seconds: 5,
        repeats: 0,
    }
}

/// Finds whom to dial: whom the agent or an API client named, else the phone's numbers.
///
/// # Errors
/// `NotFound` when the call or the number is not known.
pub async fn transfer(app: &Arc<App>, applet: &Applet) -> Result<Transfer, Error> {
    let subject = ask(app, applet, "transfer").await?;
    let named = subject.call.as_ref().and_then(|call| call.transfer_to.clone());
    let wanted = match (named, &subject.phone) {
        (Some(number), _) => vec![number],
        (None, Some(phone)) => phone
            .transfer_numbers()
            .map_err(|error| Error::internal_from("a phone's transfer numbers cannot be read", error))?,
        (None, None) => Vec::new(),
    };
    // The setting may be narrower by now than when they were written down (F126).
    let allowed = |number: &String| {
        PhoneNumber::parse(number).is_ok_and(|number| app.config.toll.allow(&Limits::default(), &number).is_ok())
    };
    let (numbers, refused): (Vec<String>, Vec<String>) = wanted.into_iter().partition(allowed);
    if !refused.is_empty() {
        warn!(
            numbers = refused.len(),
            "numbers of a transfer are not in DIAL_ALLOWED_PREFIXES and are left out"
        );
    }
    let outgoing_number = match (&subject.call, &subject.phone) {
        (Some(call), _) => call.exophone.clone(),
        (None, Some(phone)) => phone.number.clone(),
        (None, None) => String::new(),
    };
    let record = subject.call.as_ref().is_some_and(|call| call.record);
    Ok(Transfer {
        call: subject.call_id(),
        numbers,
        outgoing_number,
        record,
    })
}
