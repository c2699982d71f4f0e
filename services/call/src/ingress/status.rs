//! Status callbacks: kept first, which is what OK means, and applied after that.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::{
    BodyEncoding, Caller, ProviderStatus,
    callback::{CallbackEvent, StatusCallback},
};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{Instrument as _, error, warn};

use super::{
    bounded, masking,
    resolve::{self, Identity},
};
use crate::{
    app::App,
    calls::{
        read_back,
        record::{Note, record_locked},
        state::{End, Event, Source},
    },
    crash,
    error::Error,
    store::{
        calls::{self, Call, Change},
        inbox::{self, Delivery, Kept, NewDelivery, Pick},
    },
    trace,
};

/// As the column: the edge cuts longer bodies off before.
const MAX_BODY: usize = 64 * 1024;
const CONTENT_TYPE_CHARS: usize = 256;
const PROBLEM_CHARS: usize = 500;
const URL_CHARS: usize = 2048;
/// How often callbacks are looked for that could not be applied at once.
const EVERY: Duration = Duration::from_secs(1);
/// A callback that fails for this long is set aside for a person.
const PATIENCE: TimeDelta = TimeDelta::minutes(10);

/// Keeps a callback. OK means committed; that it is applied too is tried at once and, where that fails, again and again.
///
/// # Errors
/// Invalid for a body over 64 KiB; else of the database: nothing is kept then.
pub async fn keep(app: &Arc<App>, call: CallId, content_type: &str, body: Bytes) -> Result<(), Error> {
    if body.len() > MAX_BODY {
        return Err(Error::invalid("body", "at most 64 KiB"));
    }
    let content_type = bounded(content_type, CONTENT_TYPE_CHARS);
    let delivery = NewDelivery {
        call_id: call.0,
        content_type: (!content_type.is_empty()).then_some(content_type),
        body: body.into(),
    };
    let mut conn = app.db.reserved().await?;
    let span = trace::transaction("keep_callback");
    span.record("call.id", tracing::field::display(call));
    let id = inbox::insert(&mut conn, &delivery).instrument(span).await?;
    drop(conn);
    crash::point(crash::CALLBACK_KEPT);
    if let Err(error) = apply(app, Pick::This(id)).await {
        warn!(call.id = %call, %error, "a callback is kept but not applied yet; it is tried again");
    }
    crash::point(crash::CALLBACK_APPLIED);
    Ok(())
}

/// Starts the loop that applies what could not be applied at once.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stopping => return,
                _ = tick.tick() => {}
            }
            let mut after = 0;
            while !app.tasks.is_stopping() {
                match apply(&app, Pick::After(after)).await {
                    Ok(Some(id)) => after = id,
                    Ok(None) => break,
                    Err(error) => {
                        warn!(%error, "callbacks that wait could not be applied; they are tried again");
                        break;
                    }
                }
            }
        }
    });
}

/// Applies one waiting callback. Returns its number, or none when there is none that is free.
async fn apply(app: &Arc<App>, pick: Pick) -> Result<Option<i64>, Error> {
    let mut conn = app.db.reserved().await?;
    let mut taken = None;
    let result = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some(delivery) = inbox::take(conn, pick).await? else {
                return Ok(None);
            };
            taken = Some(delivery.clone());
            // Most of the time there is none, and that leaves no trace.
            let changed = apply_taken(conn, &delivery)
                .instrument(trace::finding("apply_callback"))
                .await?;
            Ok(Some((delivery, changed)))
        })
        .await;
    match (result, taken) {
        (Ok(None), _) => Ok(None),
        (Ok(Some((delivery, changed))), _) => {
            if changed {
                app.hub.committed(delivery.call_id());
            }
            Ok(Some(delivery.id))
        }
        (Err(error), None) => Err(error),
        (Err(error), Some(delivery)) => {
            let (id, received_at) = (delivery.id, delivery.received_at);
            // By the database's clock: this replica's may be wrong by a day (F37).
            if may_pass(&error) && calls::database_now(&conn).await? - received_at <= PATIENCE {
                return Err(error);
            }
            error!(%error, inbox.id = id, "a callback cannot be applied and is set aside for a person");
            inbox::park(
                &mut conn,
                id,
                &bounded(&format!("could not be applied: {error}"), PROBLEM_CHARS),
                &masked(&delivery).await,
            )
            .await?;
            Ok(Some(id))
        }
    }
}

/// What is kept of it: what it says, where it can be read.
async fn masked(delivery: &Delivery) -> Kept {
    match StatusCallback::parse(delivery.content_type.as_deref(), Bytes::from(delivery.body.clone())).await {
        Ok(callback) => masking::fields(&callback.to_json()),
        Err(_) => masking::raw(&delivery.body),
    }
}

fn may_pass(error: &Error) -> bool {
    match error {
        // The other row that keeps the same CallSid at this moment is visible next time, and decides.
        Error::Db(error) => error.is_transient() || error.is_unique_violation("calls_call_sid"),
        _ => false,
    }
}

/// What a callback says, in our words.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The call is over.
    Ended(End),
    /// Somebody answered.
    Answered,
    /// The phone rings.
    Ringing,
    /// Exotel has the call, without more.
    Seen,
    /// A word that we do not know: evidence that Exotel has the call, and never an end.
    Unknown,
}

fn meaning(callback: &StatusCallback) -> Meaning {
    let status = callback.status.as_ref();
    match (&callback.event, status) {
        (CallbackEvent::Answered, _) => Meaning::Answered,
        (CallbackEvent::Ringing, _) | (CallbackEvent::Unspecified, Some(ProviderStatus::Ringing)) => Meaning::Ringing,
        (CallbackEvent::Terminal | CallbackEvent::Unspecified, Some(status)) => match read_back::end_of(status) {
            Some(end) => {
                let cause = callback.legs.iter().rev().find_map(|leg| leg.cause_code.clone());
                Meaning::Ended(End {
                    code: cause.or_else(|| Some(status.word().to_owned())),
                    ..end
                })
            }
            None if matches!(status, ProviderStatus::Unknown(_)) || callback.event == CallbackEvent::Terminal => {
                Meaning::Unknown
            }
            None => Meaning::Seen,
        },
        (CallbackEvent::Unspecified, None) => Meaning::Seen,
        (CallbackEvent::Terminal, None) | (CallbackEvent::Unknown(_), _) => Meaning::Unknown,
    }
}

/// True when the call's row has changed.
async fn apply_taken(conn: &mut AsyncPgConnection, delivery: &Delivery) -> Result<bool, Error> {
    let callback =
        match StatusCallback::parse(delivery.content_type.as_deref(), Bytes::from(delivery.body.clone())).await {
            Ok(callback) => callback,
            Err(error) => {
                let call = calls::find(conn, delivery.call_id()).await?;
                let kept = if call.is_some_and(|call| call.blanked_at.is_some()) {
                    Kept::nothing()
                } else {
                    masking::raw(&delivery.body)
                };
                inbox::park(conn, delivery.id, &error.to_string(), &kept).await?;
                return Ok(false);
            }
        };
    // Whoever sets it aside has read it, and nobody needs the people in it any more.
    let masked = masking::fields(&callback.to_json());
    let Some((call, now)) = calls::lock(conn, delivery.call_id()).await? else {
        inbox::park(conn, delivery.id, "there is no such call", &masked).await?;
        return Ok(false);
    };
    trace::follow(&call);
    if call.blanked_at.is_some() {
        let late = "late: the call's personal columns are blanked";
        inbox::park(conn, delivery.id, late, &Kept::nothing()).await?;
        return Ok(false);
    }
    if resolve::never_dialled(&call) {
        inbox::park(conn, delivery.id, "the call was never dialled", &masked).await?;
        return Ok(false);
    }
    let told = callback.call_sid.as_deref().and_then(resolve::sid);
    let identity = resolve::identity(conn, &call, told).await?;
    let contradiction = match &identity {
        Identity::Other => Some("call_sid"),
        Identity::Fits | Identity::New(_) if !numbers_fit(&call, &callback) => Some("numbers"),
        Identity::Fits | Identity::New(_) => None,
    };
    if let Some(what) = contradiction {
        return set_aside(conn, (delivery, &masked), call, now, what).await;
    }
    let (event, kind) = match meaning(&callback) {
        Meaning::Ended(end) => (Event::Ended(Source::Callback, end), None),
        Meaning::Answered => (Event::Answered, None),
        Meaning::Ringing => (Event::Ringing, None),
        Meaning::Seen => (Event::Seen, None),
        Meaning::Unknown => (Event::Seen, Some("unknown_callback")),
    };
    let call_sid = match identity {
        Identity::New(sid) => Some(sid),
        Identity::Fits | Identity::Other => None,
    };
    let change = Change {
        call_sid,
        talk_seconds: callback.conversation_s.and_then(|seconds| i32::try_from(seconds).ok()),
        recording_url: callback.recording_url.as_deref().map(|url| bounded(url, URL_CHARS)),
        ..Change::default()
    };
    let (_, changed) = record_locked(conn, call, now, Some(&event), kind, facts(&callback).changing(change)).await?;
    inbox::applied(conn, delivery.id, &masked).await?;
    Ok(changed)
}

/// A callback that is about another call is never applied: a person looks at it, and Exotel is asked at once.
async fn set_aside(
    conn: &mut AsyncPgConnection,
    (delivery, masked): (&Delivery, &Kept),
    call: Call,
    now: DateTime<Utc>,
    what: &'static str,
) -> Result<bool, Error> {
    inbox::park(conn, delivery.id, &format!("contradicts the call: {what}"), masked).await?;
    if call.needs_review {
        return Ok(false);
    }
    warn!(call.id = %call.id(), what, "a callback contradicts its call and is set aside");
    let ask = Change {
        read_back_at: Some(Some(now)),
        read_backs: Some(0),
        ..Change::default()
    };
    let note = Note::from("callback").with("contradiction", what);
    resolve::quarantine(conn, call, now, note, ask).await?;
    Ok(true)
}

fn numbers_fit(call: &Call, callback: &StatusCallback) -> bool {
    let nobody = Caller::default();
    let end = |caller: &Option<Caller>| caller.clone().unwrap_or_else(|| nobody.clone());
    resolve::numbers_fit(&call.customer, &call.exophone, &end(&callback.from), &end(&callback.to))
}

/// What goes onto the timeline: Exotel's words, no numbers.
fn facts(callback: &StatusCallback) -> Note {
    let mut note = Note::from("callback");
    match &callback.event {
        CallbackEvent::Terminal => note = note.with("event", "terminal"),
        CallbackEvent::Answered => note = note.with("event", "answered"),
        CallbackEvent::Ringing => note = note.with("event", "ringing"),
        CallbackEvent::Unknown(word) => note = note.with("event", word.as_str()),
        CallbackEvent::Unspecified => {}
    }
    if let Some(status) = &callback.status {
        note = note.with("status", status.word());
    }
    let fields = if callback.event == CallbackEvent::Unspecified {
        "short"
    } else {
        "full"
    };
    let encoding = match callback.encoding {
        BodyEncoding::Json => "json",
        BodyEncoding::Form => "form",
        BodyEncoding::Multipart => "multipart",
    };
    note.with("fields", fields).with("encoding", encoding)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::calls::state::Outcome;

    fn read(form: &'static str) -> StatusCallback {
        StatusCallback::parse(None, Bytes::from_static(form.as_bytes()))
            .now_or_never()
            .unwrap()
            .unwrap()
    }

    #[test]
    fn three_fields_end_a_call() {
        let end = End {
            code: Some("no-answer".into()),
            ..End::new(Outcome::NoAnswer)
        };
        assert_eq!(meaning(&read("CallSid=a&Status=no-answer")), Meaning::Ended(end));
    }

    #[test]
    fn the_cause_of_a_leg_is_the_code() {
        let callback = read("EventType=terminal&Status=busy&Legs[0][Status]=busy&Legs[0][CauseCode]=USER_BUSY");
        let end = End {
            code: Some("USER_BUSY".into()),
            ..End::new(Outcome::Busy)
        };
        assert_eq!(meaning(&callback), Meaning::Ended(end));
    }

    #[test]
    fn only_an_event_says_that_somebody_answered() {
        assert_eq!(meaning(&read("Status=in-progress")), Meaning::Seen);
        assert_eq!(
            meaning(&read("EventType=answered&Status=in-progress")),
            Meaning::Answered
        );
        assert_eq!(meaning(&read("Status=ringing")), Meaning::Ringing);
    }

    #[test]
    fn unknown_words_never_end_a_call() {
        for form in [
            "EventType=terminal&Status=parked",
            "EventType=terminal&Status=in-progress",
            "EventType=terminal",
            "EventType=dial&Status=completed",
            "Status=evaporated",
        ] {
            assert_eq!(meaning(&read(form)), Meaning::Unknown, "{form}");
        }
    }
}
