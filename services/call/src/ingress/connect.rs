//! A Voicebot applet asks for its URL.

use std::sync::Arc;

use callbridge_proto::id::CallId;
use chrono::TimeDelta;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::paths;
use tracing::Instrument as _;

use super::{
    inbound::{self, Arrival, Arrived},
    resolve::{self, Applet, Touched, Way},
};
use crate::{
    app::App,
    calls::{
        record::{Note, record_locked},
        socket,
        state::{Direction, Event},
    },
    diagnosis,
    error::Error,
    store::{accounts::Account, sessions},
    trace,
};

/// A waiting socket is offered again while Exotel has at least this long to use it: ten seconds for a handshake, and a retry.
const STILL_USEFUL: TimeDelta = TimeDelta::seconds(20);

/// The answer.
pub struct Connected {
    /// The call; none when a probe asked about a call that is not known yet.
    pub call: Option<CallId>,
    /// A secret. None when a probe asked and no socket waits.
    pub socket_url: Option<String>,
}

/// Finds the outbound call or makes the inbound one, and gives the URL of a socket for it. A repeat gets the same URL until the
/// socket's session has started.
///
/// # Errors
/// `NotFound`: no such call, an unknown number, a call that is over or shall be.
pub async fn connect(app: &Arc<App>, applet: &Applet) -> Result<Connected, Error> {
    let mut conn = app.db.reserved().await?;
    let mut touched = Touched::default();
    let answer = conn
        .transaction::<_, Error, _>(async |conn| {
            let account = resolve::account(conn, applet.account, applet.generation).await?;
            decide(conn, app, &account, applet, &mut touched).await
        })
        .instrument(trace::finding("connect"))
        .await?;
    touched.tell(app);
    answer.ok_or_else(resolve::unknown)
}

/// None is a refusal, which is committed with what it left on the row.
async fn decide(
    conn: &mut AsyncPgConnection,
    app: &App,
    account: &Account,
    applet: &Applet,
    touched: &mut Touched,
) -> Result<Option<Connected>, Error> {
    let id = match resolve::find(conn, account, applet).await? {
        Some(id) => id,
        None => match (applet.way, applet.call_sid.as_deref()) {
            (Way::Incoming, Some(call_sid)) => {
                let arrival = Arrival {
                    call_sid,
                    customer: &applet.customer,
                    phone: &applet.phone,
                    source: "connect",
                    facts: &applet.facts,
                };
                match inbound::arrive(conn, app, account, arrival).await? {
                    Arrived::Call(id) => id,
                    Arrived::Refused(id) => {
                        touched.add(id);
                        return Ok(None);
                    }
                }
            }
            (Way::Incoming | Way::Outbound | Way::Unknown, _) => return Ok(None),
        },
    };
    touched.add(id);
    let Some(known) = resolve::lock(conn, id, applet.call_sid.as_deref(), "connect").await? else {
        return Ok(None);
    };
    let (now, change) = (known.now, known.change());
    let call = match known.call.direction {
        Direction::Outbound => {
            let note = Note {
                data: applet.facts.clone(),
                ..Note::from("connect").changing(change)
            };
            record_locked(conn, known.call, now, Some(&Event::Answered), None, note)
                .await?
                .0
        }
        Direction::Inbound => known.call,
    };
    if resolve::is_closed(&call) {
        return Ok(None);
    }
    let waiting = sessions::waiting(conn, id).await?;
    let again = waiting
        .filter(|session| session.token_expires_at.is_some_and(|until| until - now > STILL_USEFUL))
        .and_then(|session| socket::again(app, &session));
    let url = match again {
        Some(url) => url,
        None => socket::open(conn, app, id, now, socket::AFTER_CONNECT).await?,
    };
    // To see what becomes of a query.
    let url = if diagnosis::is_of(&call.metadata) {
        paths::with_probe(&url, "1")
    } else {
        url
    };
    Ok(Some(Connected {
        call: Some(id),
        socket_url: Some(url),
    }))
}

/// Answers a HEAD request, which creates and changes nothing.
///
/// # Errors
/// `NotFound` as for the request itself.
pub async fn probe(app: &Arc<App>, applet: &Applet) -> Result<Connected, Error> {
    let mut conn = app.db.reserved().await?;
    let account = resolve::account(&mut conn, applet.account, applet.generation).await?;
    let Some(id) = resolve::find(&mut conn, &account, applet).await? else {
        let would_create =
            applet.way == Way::Incoming && inbound::phone(&mut conn, &account, &applet.phone).await?.is_some();
        return if would_create {
            Ok(Connected {
                call: None,
                socket_url: None,
            })
        } else {
            Err(resolve::unknown())
        };
    };
    let waiting = sessions::waiting(&mut conn, id).await?;
    Ok(Connected {
        call: Some(id),
        socket_url: waiting.and_then(|session| socket::again(app, &session)),
    })
}
