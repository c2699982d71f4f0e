//! One-time socket URLs: the token that opens a media session, minted together with the session's row.

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use exotel::{paths, token::Purpose};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    app::App,
    error::Error,
    store::sessions::{self, NewSession, Session},
};

/// From a connect request to the upgrade: Exotel gives a handshake ten seconds and tries twice.
pub const AFTER_CONNECT: TimeDelta = TimeDelta::seconds(120);
/// In STREAM mode the URL is made before the dial, and the phone rings first.
pub const BEFORE_DIAL: TimeDelta = TimeDelta::seconds(300);

/// Inserts a session that waits for its socket, and returns the URL that opens it. A secret.
pub async fn open(
    conn: &mut AsyncPgConnection,
    app: &App,
    call: CallId,
    now: DateTime<Utc>,
    lifetime: TimeDelta,
) -> Result<String, Error> {
    let mut nonce = [0; 8];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| Error::internal("the system gives no random bytes"))?;
    let expires = now + lifetime;
    let session = NewSession {
        id: app.clock.new_uuid(),
        call_id: call.0,
        nonce: Some(i64::from_be_bytes(nonce)),
        token_expires_at: Some(expires),
    };
    sessions::insert(conn, &session).await?;
    Ok(url(app, call, nonce, expires))
}

/// The URL of a session that waits: the same for every repeat of a connect request.
pub fn again(app: &App, session: &Session) -> Option<String> {
    let nonce = session.nonce?.to_be_bytes();
    Some(url(app, session.call_id(), nonce, session.token_expires_at?))
}

fn url(app: &App, call: CallId, nonce: [u8; 8], expires: DateTime<Utc>) -> String {
    let expires = u32::try_from(expires.timestamp()).unwrap_or(u32::MAX);
    let token = app.tokens.mint(Purpose::Socket, call.0, nonce, expires);
    paths::socket_url(&app.config.public_base_url, &call.to_string(), &token)
}
