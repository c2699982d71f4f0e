//! What is purged by its age.

use std::collections::BTreeMap;

use call_service::{Config, store::retention};
use chrono::TimeDelta;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};

use crate::{
    people::{PLANTED, count},
    service::{PATIENCE, Service, client as database},
};

/// Each class goes at its own age, and nothing that a held call needs.
#[tokio::test]
async fn each_class_goes_at_its_age() {
    purged("UPDATE calls SET held_at = now(), hold_reason = 'x' WHERE id = uuid_of(20)").await;
}

/// The same where the number is held, and not its call.
#[tokio::test]
async fn nothing_goes_that_a_held_number_needs() {
    purged("INSERT INTO number_holds (number, reason) VALUES ('+919812340017', 'x')").await;
}

async fn purged(hold: &str) {
    let settings = [
        ("RETENTION", "400d"),
        ("RETENTION_TRANSCRIPTS", "30d"),
        ("RETENTION_RECORDINGS", "60d"),
        ("RETENTION_WEBHOOKS", "90d"),
        ("RETENTION_CONTACTS", "120d"),
    ];
    let url = crate::service::database().await;
    let db = database(&url).await;
    db.batch_execute(PLANTED).await.unwrap();
    db.batch_execute(hold).await.unwrap();
    // The first call is held; both are old, class by class.
    db.batch_execute(
        "UPDATE media_sessions SET recording_state = 'stored', recording_key = 'k', ended_at = now() - interval '61 days';
        UPDATE transcripts SET at = now() - interval '31 days';
        UPDATE webhook_inbox SET received_at = now() - interval '91 days';
        UPDATE campaigns SET state = 'aborted', ended_at = now() - interval '121 days';
        UPDATE contacts c SET call_id = d.id FROM calls d WHERE d.contact_id = c.id;
        INSERT INTO audit (at, principal, method, subject, outcome) VALUES
            (now() - interval '401 days', 'old', 'm', '', 'shown'), (now() - interval '399 days', 'young', 'm', '', 'shown')",
    )
    .await
    .unwrap();
    let service = Service::start_on(&url, &settings).await;
    service.until_ready().await;
    let left = "(SELECT count(*) FROM transcripts) || ' ' || (SELECT count(*) FROM webhook_inbox) || ' '
        || (SELECT count(*) FROM contacts) || ' ' || (SELECT count(*) FROM media_sessions WHERE recording_key = 'k')
        || ' ' || (SELECT count(*) FROM calls WHERE blanked_at IS NOT NULL) || ' ' || (SELECT string_agg(principal, ',') FROM audit)";
    stack::poll("what is old to go", PATIENCE, async || {
        match db
            .query_one(&format!("SELECT {left}"), &[])
            .await
            .unwrap()
            .get::<_, String>(0)
        {
            now if now == "1 1 1 1 0 young" => Ok(()),
            now => Err(now),
        }
    })
    .await
    .unwrap();
    let of_held =
        "transcripts t JOIN media_sessions s ON s.id = t.media_session_id JOIN contacts k ON k.call_id = t.call_id
        JOIN webhook_inbox w ON w.call_id = t.call_id WHERE t.call_id = uuid_of(20) AND s.recording_key = 'k'";
    assert_eq!(count(&db, of_held).await, 1);
    service.stop().await;

    // What is held is not behind; once it is released, it is, until the next round.
    let config = Config::read(crate::service::settings(&url, &settings)).unwrap();
    let mut conn = AsyncPgConnection::establish(&url).await.unwrap();
    let late = async |conn: &mut AsyncPgConnection| {
        let behind = retention::behind(conn, &config.retention).await.unwrap();
        assert_eq!(behind.len(), 6);
        let late = behind.into_iter().filter(|behind| behind.seconds > 0.0);
        late.map(|behind| (behind.class, (behind.seconds / 3600.0).round()))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(late(&mut conn).await, BTreeMap::new());
    db.batch_execute("DELETE FROM number_holds; UPDATE calls SET held_at = NULL")
        .await
        .unwrap();
    let classes = ["contacts", "recordings", "transcripts", "webhooks"];
    assert_eq!(
        late(&mut conn).await,
        classes.map(|class| (class.to_owned(), 24.0)).into(),
        "each is a day late"
    );
}

/// A call that somebody changes is left for the next round: sessions are locked behind their calls here too, so that nobody waits
/// for the other.
#[tokio::test]
async fn a_purge_locks_calls_before_their_sessions() {
    let url = crate::service::database().await;
    let db = database(&url).await;
    db.batch_execute(PLANTED).await.unwrap();
    db.batch_execute(
        "UPDATE media_sessions SET recording_state = 'stored', recording_key = 'k', ended_at = now() - interval '61 days'",
    )
    .await
    .unwrap();
    let mut conn = AsyncPgConnection::establish(&url).await.unwrap();
    conn.batch_execute("SET lock_timeout = '2s'").await.unwrap();
    let purge = async |conn: &mut AsyncPgConnection| {
        conn.transaction(async |conn| retention::forget_recordings(conn, TimeDelta::days(60), 10).await)
            .await
    };
    db.batch_execute("BEGIN; SELECT FROM calls WHERE id = uuid_of(20) FOR UPDATE")
        .await
        .unwrap();
    assert_eq!(purge(&mut conn).await, Ok(1), "only the other one's");
    db.batch_execute("SELECT FROM media_sessions WHERE call_id = uuid_of(20) FOR UPDATE NOWAIT; ROLLBACK")
        .await
        .unwrap();
    assert_eq!(purge(&mut conn).await, Ok(1));
    assert_eq!(purge(&mut conn).await, Ok(0));
    assert_eq!(
        count(
            &db,
            "media_sessions WHERE recording_state = 'erasing' AND recording_url IS NULL"
        )
        .await,
        2
    );
    assert_eq!(count(&db, "calls WHERE recording_url IS NULL").await, 2);

    // An address that a callback told of: its call has no session with a recording.
    db.batch_execute(
        "UPDATE calls SET recording_url = 'https://x', ended_at = now() - interval '61 days' WHERE id = uuid_of(20)",
    )
    .await
    .unwrap();
    let config = Config::read(crate::service::settings(&url, &[("RETENTION_RECORDINGS", "60d")])).unwrap();
    let behind = async |conn: &mut AsyncPgConnection| {
        let behind = retention::behind(conn, &config.retention).await.unwrap();
        let of_recordings = behind.into_iter().find(|behind| behind.class == "recordings");
        of_recordings.unwrap().seconds > 0.0
    };
    assert!(behind(&mut conn).await);
    assert_eq!(purge(&mut conn).await, Ok(1));
    assert!(!behind(&mut conn).await);
    assert_eq!(count(&db, "calls WHERE recording_url IS NULL").await, 2);
}
