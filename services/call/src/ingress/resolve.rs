//! Which call is this? Exotel's requests from a flow name it in up to four ways, of which the best one counts.

use callbridge_proto::{
    TOKEN_ENDED,
    id::{AccountId, CallId},
};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use exotel::{Caller, PhoneNumber};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    calls::{
        record::{Note, record_locked},
        state::{Direction, Event},
    },
    error::Error,
    store::{
        accounts::{self, Account},
        calls::{self, Call, Change},
        sessions,
    },
    trace,
};

/// How long a dialled call may be found by its two numbers alone: it rings for a minute at most.
const NUMBERS_WINDOW: TimeDelta = TimeDelta::minutes(5);
/// Exotel's ids have 32 characters.
const SID_CHARS: usize = 64;

/// Whether Exotel says that the person called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It says nothing that we know.
    Unknown,
    /// The person called.
    Incoming,
    /// The company called.
    Outbound,
}

/// An applet's request, read. `Debug` shows no number.
#[derive(Debug, Clone)]
pub struct Applet {
    /// The account that the URL's token names.
    pub account: AccountId,
    /// The token's generation.
    pub generation: u32,
    /// Out of the URL.
    pub call_id: Option<CallId>,
    /// Out of a CustomField whose MAC was right.
    pub verified_call_id: Option<CallId>,
    /// Exotel's id of the call.
    pub call_sid: Option<String>,
    /// The person.
    pub customer: Caller,
    /// The ExoPhone.
    pub phone: Caller,
    /// Who called whom.
    pub way: Way,
    /// The edge's id of the request: the same when it asks again.
    pub request_id: Option<String>,
    /// For the timeline: stable words to short texts, no numbers.
    pub facts: Map<String, Value>,
}

/// Something that may name a call, the most believed first.
#[derive(Debug, PartialEq, Eq)]
enum Clue<'a> {
    /// Our own id. No other clue counts beside it.
    Id(CallId),
    /// Exotel's id.
    Sid(&'a str),
    /// Both numbers of a call that we have just dialled.
    Numbers(&'a PhoneNumber, &'a PhoneNumber),
}

fn clues(applet: &Applet) -> Vec<Clue<'_>> {
    if let Some(id) = applet.call_id.or(applet.verified_call_id) {
        return vec![Clue::Id(id)];
    }
    let sid = applet.call_sid.as_deref().map(Clue::Sid);
    let both = applet.customer.number.as_ref().zip(applet.phone.number.as_ref());
    let numbers = match applet.way {
        // Somebody whom we are dialling may be calling us at the same moment.
        Way::Incoming => None,
        Way::Unknown | Way::Outbound => both.map(|(customer, phone)| Clue::Numbers(customer, phone)),
    };
    sid.into_iter().chain(numbers).collect()
}

/// An id of Exotel's or the edge's making, if the text can be one.
pub fn sid(text: &str) -> Option<&str> {
    let fits = !text.is_empty() && text.len() <= SID_CHARS && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then_some(text)
}

/// The answer whenever a request's call is not there, or not for the one who asks.
pub fn unknown() -> Error {
    Error::not_found("call", "for this request")
}

/// Finds the account and checks the generation of its token: the newest and the one before it are taken.
///
/// # Errors
/// `NotFound`, or Precondition with [`TOKEN_ENDED`], by which an edge knows that the token is of no use any more.
pub async fn account(conn: &mut AsyncPgConnection, id: AccountId, generation: u32) -> Result<Account, Error> {
    let account = accounts::find(conn, id).await?.ok_or_else(unknown)?;
    if is_current(account.token_generation, generation) {
        return Ok(account);
    }
    // One that is newer than the database, which was restored, is good again after a rotation.
    if !is_over(account.token_generation, generation) {
        return Err(unknown());
    }
    Err(Error::precondition(
        TOKEN_ENDED,
        "the account's token has been rotated out: put the URLs of GetWebhookUrls into the flow",
    ))
}

fn is_current(newest: i32, generation: u32) -> bool {
    i32::try_from(generation)
        .is_ok_and(|generation| generation >= 1 && (generation == newest || generation == newest - 1))
}

fn is_over(newest: i32, generation: u32) -> bool {
    i32::try_from(generation).is_ok_and(|generation| generation < newest - 1)
}

/// Finds the call of a request. None: it names no call that we know.
///
/// # Errors
/// `NotFound` when it names a call by our id that is not this account's.
pub async fn find(conn: &mut AsyncPgConnection, account: &Account, applet: &Applet) -> Result<Option<CallId>, Error> {
    for clue in clues(applet) {
        match clue {
            Clue::Id(id) => {
                let call = calls::find(conn, id)
                    .await?
                    .filter(|call| call.account_id == account.id);
                return call.map(|call| Some(call.id())).ok_or_else(unknown);
            }
            Clue::Sid(sid) => {
                if let Some(call) = calls::by_sid(conn, account.id, sid).await? {
                    return Ok(Some(call.id()));
                }
            }
            Clue::Numbers(one, other) => {
                let numbers = (one.expose(), other.expose());
                let sid = applet.call_sid.as_deref();
                let found = sessions::dialled_without_media(conn, account.id, numbers, sid, NUMBERS_WINDOW).await?;
                if let [id] = found[..] {
                    return Ok(Some(CallId(id)));
                }
            }
        }
    }
    Ok(None)
}

/// What Exotel's id of a call says about a row.
#[derive(Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nothing against it: it is the row's, or none was told.
    Fits,
    /// The row has none yet, and no other row has this one: it is to be kept.
    New(String),
    /// It is another call: the row has another id, or another row of the account has this one. Nothing is to be kept.
    Other,
}

/// Compares Exotel's id of a call with a locked row. Whoever keeps an id asks here before, in the same transaction: a unique
/// index would refuse another row's, and with it all that is written beside it.
///
/// # Errors
/// Of the database.
pub async fn identity(conn: &mut AsyncPgConnection, call: &Call, call_sid: Option<&str>) -> Result<Identity, Error> {
    let Some(told) = call_sid else {
        return Ok(Identity::Fits);
    };
    match &call.call_sid {
        Some(known) if known == told => Ok(Identity::Fits),
        Some(_) => Ok(Identity::Other),
        None => match calls::by_sid(conn, call.account_id, told).await? {
            Some(_) => Ok(Identity::Other),
            None => Ok(Identity::New(told.to_owned())),
        },
    }
}

/// A request's call, locked.
pub struct Known {
    /// The row.
    pub call: Call,
    /// The database's time.
    pub now: DateTime<Utc>,
    /// Exotel's id, where the row has none yet.
    pub sid: Option<String>,
}

impl Known {
    /// What the request brings for the row beside its event.
    pub fn change(&self) -> Change {
        Change {
            call_sid: self.sid.clone(),
            ..Change::default()
        }
    }

    /// Records that Exotel has the call, if that is news.
    ///
    /// # Errors
    /// Of the database.
    pub async fn seen(self, conn: &mut AsyncPgConnection, source: &'static str) -> Result<Self, Error> {
        let note = Note::from(source).changing(self.change());
        let (call, _) = record_locked(conn, self.call, self.now, Some(&Event::Seen), None, note).await?;
        Ok(Self {
            call,
            now: self.now,
            sid: None,
        })
    }
}

/// Locks a request's call and compares Exotel's id. None: the call cannot be the one that Exotel means; where the ids
/// contradict each other it is marked for review, which is to be committed.
///
/// # Errors
/// Of the database.
pub async fn lock(
    conn: &mut AsyncPgConnection,
    id: CallId,
    call_sid: Option<&str>,
    source: &'static str,
) -> Result<Option<Known>, Error> {
    let Some((call, now)) = calls::lock(conn, id).await? else {
        return Ok(None);
    };
    trace::follow(&call);
    if never_dialled(&call) {
        return Ok(None);
    }
    let sid = match identity(conn, &call, call_sid).await? {
        Identity::Fits => None,
        Identity::New(sid) => Some(sid),
        Identity::Other => {
            quarantine(
                conn,
                call,
                now,
                Note::from(source).with("contradiction", "call_sid"),
                Change::default(),
            )
            .await?;
            return Ok(None);
        }
    };
    Ok(Some(Known { call, now, sid }))
}

/// Whether no dial was ever committed, so that nothing at Exotel can be this call.
pub fn never_dialled(call: &Call) -> bool {
    call.direction == Direction::Outbound && call.attempt == 0
}

/// Whether no audio may start on a call: somebody asked to end it, or its end is known.
pub fn is_closed(call: &Call) -> bool {
    call.end_requested || (call.state.is_terminal() && !call.end_presumed)
}

/// Marks a call for a person to look at, once, and keeps what contradicts it on the timeline.
///
/// # Errors
/// Of the database.
pub async fn quarantine(
    conn: &mut AsyncPgConnection,
    call: Call,
    now: DateTime<Utc>,
    note: Note,
    change: Change,
) -> Result<(), Error> {
    if call.needs_review {
        return Ok(());
    }
    let note = note.changing(Change {
        needs_review: Some(true),
        ..change
    });
    record_locked(conn, call, now, None, Some("contradiction"), note).await?;
    Ok(())
}

/// Whether the two numbers of a stream can be those of a call. What cannot be read proves nothing.
pub fn numbers_fit(call_customer: &str, call_phone: &str, one: &Caller, other: &Caller) -> bool {
    let ends = [&one.number, &other.number];
    let is = |wanted: &str| {
        ends.iter()
            .filter_map(|end| end.as_ref())
            .any(|number| number.expose() == wanted)
    };
    // An anonymous caller, or a row that retention has blanked.
    let known_customer = call_customer.starts_with('+');
    match ends.iter().filter(|end| end.is_some()).count() {
        0 => true,
        1 => !known_customer || is(call_customer) || is(call_phone),
        _ => !known_customer || is(call_customer),
    }
}

/// The rows that a transaction touched, to be told after its commit.
#[derive(Debug, Default)]
pub struct Touched(Vec<Uuid>);

impl Touched {
    /// Notes a call.
    pub fn add(&mut self, id: CallId) {
        self.0.push(id.0);
    }

    /// Tells who waits. Call it after the commit.
    pub fn tell(self, app: &crate::app::App) {
        for id in self.0 {
            app.hub.committed(CallId(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applet() -> Applet {
        Applet {
            account: AccountId(Uuid::from_u128(1)),
            generation: 1,
            call_id: None,
            verified_call_id: None,
            call_sid: None,
            customer: Caller::default(),
            phone: Caller::default(),
            way: Way::Unknown,
            request_id: None,
            facts: Map::new(),
        }
    }

    fn id(n: u128) -> CallId {
        CallId(Uuid::from_u128(n))
    }

    #[test]
    fn our_own_id_counts_alone_and_the_urls_first() {
        let full = Applet {
            call_id: Some(id(1)),
            verified_call_id: Some(id(2)),
            call_sid: Some("sid".into()),
            customer: Caller::read("09812345678"),
            phone: Caller::read("08040000000"),
            way: Way::Outbound,
            ..applet()
        };
        assert_eq!(clues(&full), [Clue::Id(id(1))]);
        assert_eq!(
            clues(&Applet {
                call_id: None,
                ..full.clone()
            }),
            [Clue::Id(id(2))]
        );
        let ours = Applet {
            call_id: None,
            verified_call_id: None,
            ..full
        };
        let (customer, phone) = (
            ours.customer.number.clone().unwrap(),
            ours.phone.number.clone().unwrap(),
        );
        assert_eq!(clues(&ours), [Clue::Sid("sid"), Clue::Numbers(&customer, &phone)]);
    }

    #[test]
    fn an_incoming_call_is_never_taken_for_one_that_we_dial() {
        let incoming = Applet {
            call_sid: Some("sid".into()),
            customer: Caller::read("09812345678"),
            phone: Caller::read("08040000000"),
            way: Way::Incoming,
            ..applet()
        };
        assert_eq!(clues(&incoming), [Clue::Sid("sid")]);
        assert_eq!(
            clues(&Applet {
                call_sid: None,
                ..incoming
            }),
            []
        );
    }

    #[test]
    fn an_unreadable_number_is_no_clue() {
        let anonymous = Applet {
            customer: Caller::read("anonymous"),
            phone: Caller::read("08040000000"),
            ..applet()
        };
        assert_eq!(clues(&anonymous), []);
    }

    #[test]
    fn two_generations_of_an_account_token_are_taken() {
        assert!(is_current(3, 3) && is_current(3, 2) && is_current(1, 1));
        assert!(!is_current(3, 1) && !is_current(3, 4) && !is_current(1, 0) && !is_current(1, u32::MAX));
        assert!(is_over(3, 1) && !is_over(3, 2) && !is_over(3, 3));
        assert!(
            !is_over(3, 4) && !is_over(1, u32::MAX),
            "a rotation makes it good again"
        );
    }

    #[test]
    fn a_stream_must_not_name_another_person() {
        let (customer, phone) = ("+919812345678", "+918040000000");
        let read = Caller::read;
        assert!(numbers_fit(customer, phone, &read("09812345678"), &read("08040000000")));
        assert!(numbers_fit(
            customer,
            phone,
            &read("08040000000"),
            &read("+919812345678")
        ));
        assert!(numbers_fit(customer, phone, &read("09812345678"), &read("09513886363")));
        assert!(numbers_fit(customer, phone, &read(""), &read("08040000000")));
        assert!(numbers_fit(
            "anonymous",
            phone,
            &read("anonymous"),
            &read("08040000000")
        ));
        assert!(numbers_fit("", phone, &read("09812345678"), &read("08040000000")));
        assert!(!numbers_fit(
            customer,
            phone,
            &read("09812345679"),
            &read("08040000000")
        ));
        assert!(!numbers_fit(customer, phone, &read("09812345679"), &read("")));
    }

    #[test]
    fn ids_of_exotel_are_short_words() {
        assert_eq!(
            sid("faccc8dce91e426a398475de9fdb1a8p"),
            Some("faccc8dce91e426a398475de9fdb1a8p")
        );
        assert_eq!(sid(""), None);
        assert_eq!(sid("a b"), None);
        assert_eq!(sid(&"a".repeat(65)), None);
    }
}
