//! The control API over HTTP. It has no password: it is for the machine it runs on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Account, AccountLoad, Arrival, CallReport, CallerScript, Control, Event, InboundCall, LedgerEntry, Outcome, Phase,
    Settings, Step, control::Error, world::World,
};

/// Largest request: a script of thousands of steps.
const MAX_BODY: usize = 1024 * 1024;

/// Longest long poll; longer waits are cut to it.
const MAX_WAIT: Duration = Duration::from_mins(2);

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/control/health", get(async || Json(json!({ "status": "ok" }))))
        .route(
            "/control/settings",
            get(settings).put(set_settings).patch(change_settings),
        )
        .route("/control/accounts", get(accounts).post(put_account))
        .route("/control/accounts/{sid}/load", get(load))
        .route("/control/outcomes", get(outcomes).delete(clear_outcomes))
        .route(
            "/control/outcomes/{number}",
            put(set_outcome).post(set_outcome).get(outcome).delete(clear_outcome),
        )
        .route("/control/inbound", post(inbound))
        .route("/control/calls", get(calls))
        .route("/control/calls/{sid}", get(call))
        .route("/control/calls/{sid}/wait", get(wait))
        .route("/control/calls/{sid}/hangup", post(hang_up))
        .route("/control/calls/{sid}/press", post(press))
        .route("/control/calls/{sid}/steps", post(steps))
        .route("/control/calls/{sid}/audio/{side}", get(audio))
        .route("/control/ledger", get(ledger))
        .route("/control/arrivals", get(arrivals))
        .route("/control/events", get(events))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Control { world })
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self {
            Self::UnknownAccount(_) | Self::UnknownCall(_) | Self::UnknownExoPhone(_) => StatusCode::NOT_FOUND,
            Self::NotANumber(_) | Self::BadAccount(_) => StatusCode::BAD_REQUEST,
            Self::Ended(_) => StatusCode::CONFLICT,
            Self::TooManySteps(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::TimedOut { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

async fn settings(State(control): State<Control>) -> Json<Settings> {
    Json(control.settings())
}

async fn set_settings(State(control): State<Control>, Json(settings): Json<Settings>) -> Json<Settings> {
    control.set_settings(settings);
    Json(control.settings())
}

/// Only the given members change; those of `stream`, `callbacks`, `faults` and `unscripted` one by one, all others as a
/// whole.
async fn change_settings(State(control): State<Control>, Json(changes): Json<Value>) -> Response {
    let mut value = json!(control.settings());
    merge(&mut value, changes, 2);
    match serde_json::from_value::<Settings>(value) {
        Ok(settings) => {
            control.set_settings(settings);
            Json(control.settings()).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error.to_string() }))).into_response(),
    }
}

fn merge(into: &mut Value, changes: Value, depth: u32) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) if depth > 0 => {
            for (key, change) in changes {
                merge(into.entry(key).or_insert(Value::Null), change, depth - 1);
            }
        }
        (into, change) => *into = change,
    }
}

/// The accounts without their tokens.
async fn accounts(State(control): State<Control>) -> Json<Vec<Account>> {
    let hidden = |account| Account {
        api_token: "(hidden)".to_owned(),
        ..account
    };
    Json(control.accounts().into_iter().map(hidden).collect())
}

async fn put_account(State(control): State<Control>, Json(account): Json<Account>) -> Result<StatusCode, Error> {
    control.put_account(account)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn load(State(control): State<Control>, Path(sid): Path<String>) -> Result<Json<AccountLoad>, Error> {
    Ok(Json(control.load(&sid)?))
}

async fn outcomes(State(control): State<Control>) -> Json<BTreeMap<String, Outcome>> {
    Json(control.outcomes())
}

async fn clear_outcomes(State(control): State<Control>) -> StatusCode {
    control.clear_outcomes();
    StatusCode::NO_CONTENT
}

async fn outcome(State(control): State<Control>, Path(number): Path<String>) -> Result<Json<Outcome>, Error> {
    Ok(Json(control.outcome(&number)?))
}

async fn set_outcome(
    State(control): State<Control>,
    Path(number): Path<String>,
    Json(outcome): Json<Outcome>,
) -> Result<StatusCode, Error> {
    control.set_outcome(&number, outcome)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn clear_outcome(State(control): State<Control>, Path(number): Path<String>) -> Result<StatusCode, Error> {
    control.clear_outcome(&number)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn inbound(State(control): State<Control>, Json(call): Json<InboundCall>) -> Result<Json<Value>, Error> {
    let sid = control.inbound(call).await?;
    Ok(Json(json!({ "call_sid": sid })))
}

#[derive(Deserialize)]
struct Which {
    account: Option<String>,
    phase: Option<Phase>,
}

async fn calls(State(control): State<Control>, Query(which): Query<Which>) -> Json<Vec<CallReport>> {
    let mut calls = control.calls();
    calls.retain(|call| {
        which
            .account
            .as_ref()
            .is_none_or(|account| *account == call.account_sid)
            && which.phase.is_none_or(|phase| phase == call.phase)
    });
    Json(calls)
}

async fn call(State(control): State<Control>, Path(sid): Path<String>) -> Result<Json<CallReport>, Error> {
    Ok(Json(control.call(&sid)?))
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default = "ended")]
    phase: Phase,
    #[serde(default = "half_a_minute")]
    timeout_ms: u64,
}

fn ended() -> Phase {
    Phase::Ended
}

fn half_a_minute() -> u64 {
    30_000
}

async fn wait(
    State(control): State<Control>,
    Path(sid): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Json<CallReport>, Error> {
    let timeout = Duration::from_millis(wait.timeout_ms).min(MAX_WAIT);
    Ok(Json(
        control
            .wait_for(&sid, timeout, |report| report.phase >= wait.phase)
            .await?,
    ))
}

async fn hang_up(State(control): State<Control>, Path(sid): Path<String>) -> Result<StatusCode, Error> {
    control.hang_up(&sid)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Press {
    digits: String,
}

async fn press(
    State(control): State<Control>,
    Path(sid): Path<String>,
    Json(press): Json<Press>,
) -> Result<StatusCode, Error> {
    control.press(&sid, &press.digits)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The body is a script, or only its list of steps.
#[derive(Deserialize)]
#[serde(untagged)]
enum Steps {
    List(Vec<Step>),
    Script(CallerScript),
}

async fn steps(
    State(control): State<Control>,
    Path(sid): Path<String>,
    Json(steps): Json<Steps>,
) -> Result<StatusCode, Error> {
    let steps = match steps {
        Steps::List(steps) => steps,
        Steps::Script(script) => script.steps,
    };
    control.add_steps(&sid, steps)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `heard`, `received` or `said` of the last stream.
async fn audio(State(control): State<Control>, Path((sid, side)): Path<(String, String)>) -> Result<Response, Error> {
    let [heard, received, spoken] = control.recordings(&sid)?;
    let path = match side.as_str() {
        "heard" => heard,
        "received" => received,
        "said" => spoken,
        _ => None,
    };
    let bytes = match path {
        Some(path) => tokio::fs::read(path).await.ok(),
        None => None,
    };
    Ok(match bytes {
        Some(bytes) => ([(header::CONTENT_TYPE, "audio/wav")], bytes).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn ledger(State(control): State<Control>) -> Result<Json<Vec<LedgerEntry>>, Error> {
    Ok(Json(control.ledger().await?))
}

async fn arrivals(State(control): State<Control>) -> Result<Json<Vec<Arrival>>, Error> {
    Ok(Json(control.arrivals().await?))
}

#[derive(Deserialize)]
struct Of {
    call_sid: Option<String>,
}

async fn events(State(control): State<Control>, Query(of): Query<Of>) -> Result<Json<Vec<Event>>, Error> {
    Ok(Json(control.events(of.call_sid.as_deref()).await?))
}
