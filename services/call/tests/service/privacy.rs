//! Erasing, exporting and holding.

use std::collections::BTreeSet;

use call_service::store::holds;
use callbridge_proto::{
    campaign::v1::{
        ListSuppressionsRequest, RemoveSuppressionsRequest, campaign_service_client::CampaignServiceClient,
    },
    privacy::v1::{
        AuditOutcome, EraseNumberRequest, EraseNumberResponse, ExportNumberRequest, HoldCallRequest, HoldNumberRequest,
        ListAuditRequest, ReleaseCallRequest, ReleaseNumberRequest, privacy_service_client::PrivacyServiceClient,
    },
};
use data_encoding::HEXLOWER;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use serde_json::Value;
use tokio_postgres::Client;
use tonic::{Code, Status};

use crate::{
    people::{CALL, OTHER, audit, count, root, started},
    service::{PATIENCE, Service, reason},
};

const NUMBER: &str = "+919812340017";
/// What no column may hold, in whatever form the number is written.
const DIGITS: &str = "9812340017";

/// Tables with a row that has these digits in any column, as text or as bytes.
async fn traces(db: &Client, digits: &str) -> BTreeSet<String> {
    let tables = db
        .query(
            "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
                AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
            &[],
        )
        .await
        .unwrap();
    assert!(tables.len() > 20);
    let bytes = HEXLOWER.encode(digits.as_bytes());
    let mut found = BTreeSet::new();
    for table in tables {
        let table: String = table.get(0);
        let text = "regexp_replace(to_jsonb(t)::text, '[- ().]', '', 'g')";
        let of = format!("\"{table}\" t WHERE position('{digits}' IN {text}) > 0 OR position('{bytes}' IN {text}) > 0");
        if count(db, &of).await > 0 {
            found.insert(table);
        }
    }
    found
}

/// The lines of the number's export.
async fn exported(service: &Service) -> Vec<Value> {
    let request = ExportNumberRequest {
        number: NUMBER.to_owned(),
    };
    let answer = root!(PrivacyServiceClient, service).export_number(request).await;
    let mut stream = answer.unwrap().into_inner();
    let mut text = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        text.extend_from_slice(&piece.json_lines);
    }
    let text = String::from_utf8(text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn erase(dry_run: bool) -> EraseNumberRequest {
    EraseNumberRequest {
        number: "098123 40017".to_owned(),
        reason: "they asked".to_owned(),
        dry_run,
    }
}

/// F122: after an erasure no column of any table has the number, in any form; others' rows are as they were, and the number stays on
/// its list.
#[tokio::test]
async fn an_erased_number_leaves_no_trace_and_is_still_not_called() {
    let (service, db) = started(&[]).await;
    let mut privacy = root!(PrivacyServiceClient, service);
    let planted = traces(&db, DIGITS).await;
    let wanted = [
        "call_commands",
        "call_events",
        "calls",
        "contacts",
        "media_sessions",
        "suppression_history",
        "suppressions",
        "transcripts",
        "webhook_inbox",
    ];
    assert_eq!(planted, wanted.map(str::to_owned).into(), "the scan sees what is there");

    let expected = EraseNumberResponse {
        done: false,
        calls: 1,
        transcripts: 1,
        recordings: 0,
        contacts: 1,
        suppressions: 1,
        transfers: 0,
    };
    let counted = privacy.erase_number(erase(true)).await.unwrap().into_inner();
    assert_eq!(counted, expected);
    assert_eq!(traces(&db, DIGITS).await, planted, "a dry run changes nothing");
    let erased = privacy.erase_number(erase(false)).await.unwrap().into_inner();
    assert_eq!(erased, EraseNumberResponse { done: true, ..expected });
    assert_eq!(traces(&db, DIGITS).await, BTreeSet::new());
    assert_eq!(traces(&db, &OTHER[3..]).await, planted, "others are as they were");
    assert_eq!(
        count(&db, &format!("calls WHERE customer_hash = number_hash('{NUMBER}')")).await,
        1
    );
    let left = exported(&service).await;
    let of = |kind: &str| left.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!(
        (of("call"), of("erased_call"), of("suppression")),
        (0, 1, 1),
        "it is still found by its hash"
    );
    let again = privacy.erase_number(erase(false)).await.unwrap().into_inner();
    assert_eq!(
        again,
        EraseNumberResponse {
            done: true,
            ..EraseNumberResponse::default()
        }
    );

    // It is still not called, on the list that is shown by its hash, and can be taken off it.
    let mut conn = AsyncPgConnection::establish(&service.url).await.unwrap();
    let campaign = callbridge_proto::id::CampaignId(uuid::Uuid::from_u128(1));
    let standing = call_service::store::campaigns::numbers::standing(&mut conn, campaign, None, NUMBER, None).await;
    assert!(standing.unwrap().suppressed);
    let list = ListSuppressionsRequest {
        number: NUMBER.to_owned(),
        ..Default::default()
    };
    let listed = root!(CampaignServiceClient, service).list_suppressions(list).await;
    assert_eq!(
        listed.unwrap().into_inner().suppressions.len(),
        1,
        "who asks for the number is told"
    );
    let remove = RemoveSuppressionsRequest {
        numbers: vec![NUMBER.to_owned()],
        ..Default::default()
    };
    let removed = root!(CampaignServiceClient, service).remove_suppressions(remove).await;
    assert_eq!(removed.unwrap().into_inner().removed, 1);

    // Who did it, and when, is found by the number, which is not in the trail.
    let trail = audit(
        &service,
        ListAuditRequest {
            number: NUMBER.to_owned(),
            ..Default::default()
        },
    )
    .await;
    let outcomes: Vec<_> = trail
        .iter()
        .map(|entry| (entry.outcome(), entry.method.as_str()))
        .collect();
    let method = "PrivacyService/EraseNumber";
    assert_eq!(
        outcomes,
        [
            (AuditOutcome::Shown, "CampaignService/ListSuppressions"),
            (AuditOutcome::Changed, method),
            (AuditOutcome::Shown, "PrivacyService/ExportNumber"),
            (AuditOutcome::Changed, method),
            (AuditOutcome::Shown, method)
        ]
    );
    assert_eq!(
        (trail[3].data["calls"].as_str(), trail[3].data["reason"].as_str()),
        ("1", "they asked")
    );
    assert_eq!(trail[0].principal, "root");
    service.stop().await;
}

/// A call that goes on, or that is held, is not erased, and the answer and the trail say why.
#[tokio::test]
async fn a_held_or_active_call_is_not_erased() {
    let (service, db) = started(&[]).await;
    let mut privacy = root!(PrivacyServiceClient, service);
    let held = HoldCallRequest {
        call_id: CALL.to_owned(),
        reason: "court order".to_owned(),
    };
    privacy.hold_call(held.clone()).await.unwrap();
    let refused = |status: Status| (status.code(), reason(&status));
    let told = privacy.erase_number(erase(false)).await.unwrap_err();
    assert_eq!(refused(told), (Code::FailedPrecondition, "LEGAL_HOLD".to_owned()));
    let release = ReleaseCallRequest {
        call_id: CALL.to_owned(),
    };
    assert!(
        privacy
            .release_call(release.clone())
            .await
            .unwrap()
            .into_inner()
            .released
    );
    assert!(!privacy.release_call(release).await.unwrap().into_inner().released);

    db.batch_execute("UPDATE media_sessions SET ended_at = NULL, attached_until = now() + interval '1 hour'")
        .await
        .unwrap();
    let told = privacy.erase_number(erase(true)).await.unwrap_err();
    assert_eq!(refused(told), (Code::FailedPrecondition, "CALL_ACTIVE".to_owned()));
    for waits in [
        "UPDATE media_sessions SET ended_at = now(), end_presumed = true",
        "UPDATE media_sessions SET end_presumed = false; UPDATE webhook_inbox SET applied_at = NULL",
    ] {
        db.batch_execute(waits).await.unwrap();
        let told = privacy.erase_number(erase(true)).await.unwrap_err();
        assert_eq!(
            refused(told),
            (Code::FailedPrecondition, "CALL_ACTIVE".to_owned()),
            "{waits}"
        );
    }
    db.batch_execute("UPDATE webhook_inbox SET applied_at = now()")
        .await
        .unwrap();
    db.batch_execute("UPDATE media_sessions SET ended_at = now(), recording_state = 'stored', recording_key = 'k'")
        .await
        .unwrap();
    let told = privacy.erase_number(erase(false)).await.unwrap_err();
    let wanted = (Code::FailedPrecondition, "RECORDING_NOT_REACHABLE".to_owned());
    assert_eq!(refused(told), wanted);
    assert!(traces(&db, DIGITS).await.contains("calls"));
    let problems = ListAuditRequest {
        outcome: AuditOutcome::Refused.into(),
        ..Default::default()
    };
    let told: Vec<_> = audit(&service, problems).await;
    let told: Vec<_> = told.iter().map(|entry| entry.data["problem"].as_str()).collect();
    assert_eq!(
        told,
        [
            "RECORDING_NOT_REACHABLE",
            "CALL_ACTIVE",
            "CALL_ACTIVE",
            "CALL_ACTIVE",
            "LEGAL_HOLD"
        ]
    );
    db.batch_execute("UPDATE calls SET blanked_at = now()").await.unwrap();
    let told = privacy.hold_call(held).await.unwrap_err();
    assert_eq!(refused(told), (Code::FailedPrecondition, "CALL_BLANKED".to_owned()));
    service.stop().await;
}

/// A call of somebody else that was passed on to the number is told of, and forgets it; the number is held as a whole.
#[tokio::test]
async fn a_number_that_calls_were_passed_on_to_is_found() {
    let (service, db) = started(&[]).await;
    let mut privacy = root!(PrivacyServiceClient, service);
    db.batch_execute(
        "UPDATE calls SET transfer_to = '+919812340017' WHERE id = uuid_of(21);
        UPDATE call_commands SET command = 'to 9812340017' WHERE call_id = uuid_of(21)",
    )
    .await
    .unwrap();
    let lines = exported(&service).await;
    let passed: Vec<_> = lines.iter().filter(|line| line["kind"] == "transfer").collect();
    assert_eq!(
        (passed.len(), passed[0]["row"]["transfer_to"].as_str()),
        (1, Some(NUMBER))
    );

    let hold = HoldNumberRequest {
        number: NUMBER.to_owned(),
        reason: "tax audit".to_owned(),
    };
    let since = privacy.hold_number(hold.clone()).await.unwrap().into_inner().held_at;
    let again = privacy.hold_number(hold).await.unwrap().into_inner().held_at;
    assert_eq!(again, since, "it is held since the first time");
    let told = privacy.erase_number(erase(false)).await.unwrap_err();
    assert_eq!(
        (told.code(), reason(&told)),
        (Code::FailedPrecondition, "LEGAL_HOLD".to_owned())
    );
    let release = ReleaseNumberRequest {
        number: NUMBER.to_owned(),
    };
    assert!(
        privacy
            .release_number(release.clone())
            .await
            .unwrap()
            .into_inner()
            .released
    );
    assert!(!privacy.release_number(release).await.unwrap().into_inner().released);

    db.batch_execute("UPDATE calls SET held_at = now() WHERE id = uuid_of(21)")
        .await
        .unwrap();
    let told = privacy.erase_number(erase(false)).await.unwrap_err();
    assert_eq!(reason(&told), "LEGAL_HOLD", "the other's call is held");
    db.batch_execute("UPDATE calls SET held_at = NULL; INSERT INTO number_holds (number, reason) VALUES ('+919812340018', 'tax audit')")
        .await
        .unwrap();
    let told = privacy.erase_number(erase(false)).await.unwrap_err();
    assert_eq!(reason(&told), "LEGAL_HOLD", "the other's number is held");
    db.batch_execute("DELETE FROM number_holds").await.unwrap();
    let erased = privacy.erase_number(erase(false)).await.unwrap().into_inner();
    assert_eq!((erased.done, erased.calls, erased.transfers), (true, 1, 1));
    assert_eq!(traces(&db, DIGITS).await, BTreeSet::new());
    assert_eq!(count(&db, "calls WHERE customer = '+919812340018'").await, 1);
    service.stop().await;
}

/// An erasure that dies half-way goes on where it was: each batch is a whole.
#[tokio::test]
async fn an_erasure_goes_on_where_it_broke_off() {
    let (service, db) = started(&[]).await;
    let mut privacy = root!(PrivacyServiceClient, service);
    // More calls than one batch, of which one in the second cannot be blanked for now.
    db.batch_execute(
        "SET session_replication_role = replica;
        INSERT INTO calls (id, version, direction, state, attempt, account_id, customer, exophone, not_before, expire_at, due_at,
            facts, ended_at)
        SELECT uuid_of(1000 + n), 1, 'inbound', 'completed', 0, uuid_of(8), '+919812340017', '+918045678901', now(), now(), now(),
            '{}', now() FROM generate_series(1, 300) n;
        SET session_replication_role = origin;
        CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF OLD.id = uuid_of(1290) THEN RAISE EXCEPTION ''poison''; END IF; RETURN NEW; END';
        CREATE TRIGGER poison BEFORE UPDATE ON calls FOR EACH ROW EXECUTE FUNCTION poison()",
    )
    .await
    .unwrap();
    privacy.erase_number(erase(false)).await.unwrap_err();
    let blanked = "calls WHERE customer_hash IS NOT NULL AND blanked_at IS NOT NULL AND customer = ''";
    assert_eq!(count(&db, blanked).await, 200, "the first batch is done");
    assert_eq!(count(&db, "audit WHERE outcome = 'changed'").await, 1);
    db.batch_execute("DROP TRIGGER poison ON calls").await.unwrap();
    let rest = privacy.erase_number(erase(false)).await.unwrap().into_inner();
    assert_eq!((rest.done, rest.calls), (true, 101));
    assert_eq!(traces(&db, DIGITS).await, BTreeSet::new());
    service.stop().await;
}

/// Every table that knows the number is in its export, and nothing of anybody else.
#[tokio::test]
async fn an_export_has_all_that_is_kept() {
    let (service, _db) = started(&[]).await;
    let lines = exported(&service).await;
    let text = Value::from(lines.clone()).to_string();
    let kinds: BTreeSet<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    let wanted = [
        "audit",
        "call",
        "command",
        "contact",
        "event",
        "session",
        "suppression",
        "suppression_history",
        "transcript",
        "webhook",
    ];
    assert_eq!(kinds, wanted.into());
    assert_eq!(lines.len(), wanted.len());
    assert!(!text.contains(&OTHER[3..]) && text.contains("call me at 9812340017"));
    service.stop().await;
}

/// What a purge has found to be free may go while it is under way: a hold is answered when it is over, and holds what is left.
#[tokio::test]
async fn a_hold_waits_for_a_purge_that_is_under_way() {
    let (service, db) = started(&[]).await;
    let mut conn = AsyncPgConnection::establish(&service.url).await.unwrap();
    let privacy = root!(PrivacyServiceClient, service);
    for of_number in [false, true] {
        conn.batch_execute("BEGIN").await.unwrap();
        holds::purge(&mut conn).await.unwrap();
        let mut privacy = privacy.clone();
        let hold = async move {
            if of_number {
                let number = HoldNumberRequest {
                    number: NUMBER.to_owned(),
                    reason: "x".to_owned(),
                };
                privacy.hold_number(number).await.map(drop)
            } else {
                let call = HoldCallRequest {
                    call_id: CALL.to_owned(),
                    reason: "x".to_owned(),
                };
                privacy.hold_call(call).await.map(drop)
            }
        };
        tokio::pin!(hold);
        let waits = "pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND NOT l.granted";
        let waiting = stack::poll("the hold to wait", PATIENCE, async || {
            tokio::select! {
                biased;
                answer = &mut hold => panic!("it did not wait: {answer:?}"),
                waiting = count(&db, waits) => if waiting > 0 { Ok(()) } else { Err("none waits".to_owned()) },
            }
        });
        waiting.await.unwrap();
        conn.batch_execute("COMMIT").await.unwrap();
        hold.await.unwrap();
    }
    assert_eq!(count(&db, "calls WHERE held_at IS NOT NULL").await, 1);
    service.stop().await;
}
