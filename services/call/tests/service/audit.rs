//! The audit trail.

use call_service::{
    Config,
    audit::Trail,
    db::Db,
    store::audit::{NewEntry, Outcome},
};
use callbridge_proto::{
    call::v1::{GetCallRequest, GetTranscriptRequest, ListCallsRequest, call_service_client::CallServiceClient},
    privacy::v1::{HoldCallRequest, privacy_service_client::PrivacyServiceClient},
};
use futures_util::{FutureExt as _, future::join_all};
use runtime::Tasks;
use tonic::Code;

use crate::{
    people::{CALL, OTHER, count, root, started},
    service::client as database,
};

/// Nobody rewrites the trail: not even whoever owns its table, within a year.
#[tokio::test]
async fn the_trail_is_only_appended_to() {
    let url = crate::service::database().await;
    let db = database(&url).await;
    db.batch_execute(
        "INSERT INTO audit (at, principal, method, subject, outcome) VALUES
            (now() - interval '364 days', 'a', 'm', '', 'shown'), (now() - interval '366 days', 'b', 'm', '', 'shown')",
    )
    .await
    .unwrap();
    for forbidden in [
        "UPDATE audit SET principal = 'x' WHERE principal = 'b'",
        "DELETE FROM audit WHERE principal = 'a'",
        "TRUNCATE audit",
        "DELETE FROM audit",
    ] {
        let told = db.batch_execute(forbidden).await.unwrap_err();
        let told = told.as_db_error().unwrap().message().to_owned();
        assert!(told.contains("only appended to"), "{forbidden}: {told}");
    }
    assert_eq!(count(&db, "audit").await, 2);
    db.batch_execute("DELETE FROM audit WHERE principal = 'b'")
        .await
        .unwrap();
}

/// What cannot be noted is not shown and not changed.
#[tokio::test]
async fn what_cannot_be_noted_does_not_happen() {
    let (service, db) = started(&[]).await;
    db.batch_execute(
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''full''; END';
        CREATE TRIGGER no_room BEFORE INSERT ON audit FOR EACH STATEMENT EXECUTE FUNCTION no_room()",
    )
    .await
    .unwrap();
    let mut calls = root!(CallServiceClient, service);
    let mut privacy = root!(PrivacyServiceClient, service);
    let call_id = || CALL.to_owned();
    let told = calls.get_call(GetCallRequest { call_id: call_id() }).await.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable);
    let told = calls.get_transcript(GetTranscriptRequest { call_id: call_id() }).await;
    assert_eq!(told.unwrap_err().code(), Code::Unavailable);
    let told = calls.list_calls(ListCallsRequest::default()).await.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable);
    let hold = HoldCallRequest {
        call_id: call_id(),
        reason: "x".to_owned(),
    };
    privacy.hold_call(hold.clone()).await.unwrap_err();
    assert_eq!(count(&db, "calls WHERE held_at IS NOT NULL").await, 0);

    db.batch_execute("DROP TRIGGER no_room ON audit").await.unwrap();
    calls.get_call(GetCallRequest { call_id: call_id() }).await.unwrap();
    privacy.hold_call(hold).await.unwrap();
    assert_eq!(count(&db, "calls WHERE held_at IS NOT NULL").await, 1);
    assert_eq!(count(&db, "audit").await, 2);
    service.stop().await;
}

/// Readers of one moment share a commit, and each has its entry.
#[tokio::test(flavor = "current_thread")]
async fn entries_of_one_moment_are_one_commit() {
    runtime::install_crypto_provider();
    let url = crate::service::database().await;
    let db = database(&url).await;
    let config = Config::read(crate::service::settings(&url, &[])).unwrap();
    let trail = Trail::new(Db::connect(&config.database).unwrap(), Tasks::new());
    let entry = |n: usize| NewEntry {
        principal: "crm".into(),
        key: None,
        method: "CallService/GetCall".into(),
        subject: format!("call {n}"),
        number: (n == 7).then(|| OTHER.to_owned()),
        trace: None,
        outcome: Outcome::Shown,
        data: serde_json::json!({}),
    };
    // All are asked for before the first one is written, since there is one thread.
    let written = join_all((0..40).map(|n| trail.write(entry(n)))).await;
    assert!(written.iter().all(Result::is_ok));
    trail.write(entry(40)).await.unwrap();
    let commits = db.query_one("SELECT count(DISTINCT xmin::text) FROM audit", &[]).await;
    assert_eq!((commits.unwrap().get::<_, i64>(0), count(&db, "audit").await), (2, 41));
    let in_order =
        "(SELECT id, row_number() OVER (ORDER BY id) - 1 AS n, subject FROM audit) a WHERE subject = 'call ' || n";
    assert_eq!(count(&db, in_order).await, 40);
    assert_eq!(
        count(&db, &format!("audit WHERE subject = number_hash('{OTHER}')")).await,
        1
    );

    // Whoever is gone before its turn is shown nothing, and leaves no entry.
    assert!(trail.write(entry(3)).now_or_never().is_none());
    trail.write(entry(0)).await.unwrap();
    assert_eq!(count(&db, "audit WHERE subject = 'call 3'").await, 1);

    // One that cannot be written tells all who wait for it, and is in nobody's way.
    let mut wrong = entry(0);
    wrong.principal = "\0".into();
    let written = join_all([trail.write(entry(1)), trail.write(wrong)]).await;
    assert!(written.iter().all(Result::is_err));
    trail.write(entry(2)).await.unwrap();
    assert_eq!(count(&db, "audit").await, 43);
}
