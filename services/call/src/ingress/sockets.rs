//! A WebSocket upgrade: the newest one owns the session that its token opens.

use std::sync::Arc;

use callbridge_proto::id::{AgentId, CallId, EdgeId, MediaSessionId};
use data_encoding::HEXLOWER;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tracing::Instrument as _;

use super::resolve;
use crate::{
    app::App,
    error::Error,
    store::{
        agents::{self, Version},
        calls::{self, Call},
        sessions,
    },
    trace,
};

/// A session to come.
pub struct Claimed {
    /// The session.
    pub session: MediaSessionId,
    /// Proves at the start that no newer upgrade came.
    pub claim: i64,
    /// Where the agent is, in the order to try.
    pub agent_endpoints: Vec<String>,
    /// The greeting to have ready, lower-case hex; empty for none.
    pub greeting_sha256: String,
}

/// Makes an edge the owner of the session that a token's nonce opens.
///
/// # Errors
/// `NotFound`: unknown, expired or started, or no audio may start on the call.
pub async fn claim(app: &Arc<App>, call: CallId, nonce: u64, edge: EdgeId) -> Result<Claimed, Error> {
    let mut conn = app.db.reserved().await?;
    // The database has no unsigned numbers: the same bits.
    let nonce = i64::from_be_bytes(nonce.to_be_bytes());
    // A token that is used up costs this one look and no lock, however often it comes (F63).
    if !sessions::is_claimable(&mut conn, call, nonce).await? {
        return Err(missing());
    }
    conn.transaction::<_, Error, _>(async |conn| {
        let (call, _) = calls::lock(conn, call).await?.ok_or_else(missing)?;
        trace::follow(&call);
        if resolve::is_closed(&call) {
            return Err(missing());
        }
        let session = sessions::claim(conn, call.id(), nonce, edge)
            .await?
            .ok_or_else(missing)?;
        let agent = agent(conn, &call).await?;
        Ok(Claimed {
            session: session.id(),
            claim: session.claim,
            agent_endpoints: endpoints(&agent)?,
            greeting_sha256: greeting(&agent),
        })
    })
    .instrument(trace::finding("claim_socket"))
    .await
}

fn missing() -> Error {
    Error::not_found("socket", "with this token")
}

/// The version of the agent that a call began with.
///
/// # Errors
/// Internal when the call has none: such a call gets no socket.
pub(super) async fn agent(conn: &mut AsyncPgConnection, call: &Call) -> Result<Version, Error> {
    let version = match (call.agent_id, call.agent_version) {
        (Some(id), Some(version)) => agents::version(conn, AgentId(id), version).await?,
        (None, _) | (_, None) => None,
    };
    version.ok_or_else(|| Error::internal("a call with a socket has no agent"))
}

pub(super) fn endpoints(agent: &Version) -> Result<Vec<String>, Error> {
    agent
        .endpoints()
        .map_err(|error| Error::internal_from("an agent's endpoints cannot be read", error))
}

pub(super) fn greeting(agent: &Version) -> String {
    agent
        .greeting_sha256
        .as_deref()
        .map(|hash| HEXLOWER.encode(hash))
        .unwrap_or_default()
}
