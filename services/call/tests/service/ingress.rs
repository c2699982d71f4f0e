//! What edges report and ask, over the wire.

use std::collections::HashMap;

use callbridge_proto::{
    TOKEN_ENDED,
    agent::v1::{Dtmf, Leave, LeaveAction, Metadata, Transcript},
    directory::v1 as directory,
    ingress::v1::{
        attach_edge_request::Message as Up, attach_edge_response::Message as Down,
        ingress_service_client::IngressServiceClient, session_event::Event, *,
    },
};
use data_encoding::HEXLOWER;
use exotel::token::{Purpose, TokenKeys};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::service::{ADMIN, Bearer, Keyed, PATIENCE, Service, client, key, reason};

const EDGE_KEY: &str = "ck_edge_0123456789";
const EDGE: &str = "edge_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b";
const OTHER_EDGE: &str = "edge_01980a6f3c1e7d0f8a2b4c6d8e0f1a2c";
const CUSTOMER: &str = "09812345678";
const PHONE: &str = "08040000155";

/// A service with an account, a phone and its agent, and an edge's way to it.
struct Bench {
    service: Service,
    edge: IngressServiceClient<Keyed>,
    sql: tokio_postgres::Client,
    account_id: String,
}

/// An edge's control stream.
struct Control {
    up: mpsc::Sender<AttachEdgeRequest>,
    down: Streaming<AttachEdgeResponse>,
}

impl Control {
    async fn send(&self, message: Up) {
        let message = Some(message);
        self.up.send(AttachEdgeRequest { message }).await.unwrap();
    }

    async fn heartbeat(&self, sessions: &[&str]) {
        let media_session_ids = sessions.iter().map(ToString::to_string).collect();
        self.send(Up::Heartbeat(Heartbeat { media_session_ids })).await;
    }

    async fn event(&self, session: &str, sequence: i64, event: Event) {
        let event = SessionEvent {
            media_session_id: session.to_owned(),
            sequence,
            at: None,
            event: Some(event),
        };
        self.send(Up::Event(event)).await;
    }

    async fn next(&mut self) -> Down {
        let next = tokio::time::timeout(PATIENCE, self.down.message()).await;
        next.expect("a message").unwrap().unwrap().message.unwrap()
    }
}

impl Bench {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let hash = |key: &str| HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref());
        let keys = format!(
            "admin:credentials.write+calls.read:{},edge:ingest+media:{}",
            hash(ADMIN),
            hash(EDGE_KEY)
        );
        let mut settings = settings.to_vec();
        settings.push(("API_KEYS", &keys));
        let service = Service::start(&settings).await;
        let request = directory::CreateAccountRequest {
            name: "Acme".to_owned(),
            sid: "acme1".to_owned(),
            ..Default::default()
        };
        let [account_id, ..] = service.register(request, PHONE).await;
        Self {
            edge: IngressServiceClient::with_interceptor(service.channel.clone(), Bearer(Some(EDGE_KEY))),
            sql: client(&service.url).await,
            account_id,
            service,
        }
    }

    fn applet(&self, call_sid: &str) -> AppletRequest {
        AppletRequest {
            account_id: self.account_id.clone(),
            token_generation: 1,
            call_sid: call_sid.to_owned(),
            customer_number: CUSTOMER.to_owned(),
            phone_number: PHONE.to_owned(),
            direction: FlowDirection::Incoming.into(),
            ..Default::default()
        }
    }

    /// A call of a person, and what a socket that was opened for it says.
    async fn claimed(&mut self, call_sid: &str) -> (String, StartSessionRequest) {
        let request = ResolveConnectRequest {
            applet: Some(self.applet(call_sid)),
            probe: false,
        };
        let connected = self.edge.resolve_connect(request).await.unwrap().into_inner();
        let token = connected.socket_url.rsplit('/').next().unwrap();
        let verifier = TokenKeys::parse(&format!("1:{}", key(2))).unwrap().verifier();
        let claims = verifier.verify(token, Purpose::Socket, 0).unwrap();
        let request = ClaimSocketRequest {
            call_id: connected.call_id.clone(),
            nonce: u64::from_be_bytes(claims.nonce),
            edge_id: EDGE.to_owned(),
        };
        let claim = self.edge.claim_socket(request).await.unwrap().into_inner();
        let start = StartSessionRequest {
            edge_id: EDGE.to_owned(),
            media_session_id: claim.media_session_id,
            claim: claim.claim,
            stream_sid: format!("stream-{call_sid}"),
            call_sid: call_sid.to_owned(),
            account_sid: "acme1".to_owned(),
            from: CUSTOMER.to_owned(),
            to: PHONE.to_owned(),
            ..Default::default()
        };
        (connected.call_id, start)
    }

    async fn start(&mut self, start: &StartSessionRequest) -> Result<StartSessionResponse, Status> {
        Ok(self.edge.start_session(start.clone()).await?.into_inner())
    }

    async fn attach(&mut self, sessions: &[&str]) -> Control {
        let (up, requests) = mpsc::channel(16);
        let hello = Hello {
            edge_id: EDGE.to_owned(),
            media_session_ids: sessions.iter().map(ToString::to_string).collect(),
        };
        let message = Some(Up::Hello(hello));
        up.send(AttachEdgeRequest { message }).await.unwrap();
        let down = self.edge.attach_edge(ReceiverStream::new(requests)).await.unwrap();
        let mut control = Control {
            up,
            down: down.into_inner(),
        };
        assert!(matches!(control.next().await, Down::Welcome(_)));
        control
    }

    /// How often something is on the timelines.
    async fn count(&self, kind: &str) -> i64 {
        let sql = "SELECT count(*) FROM call_events WHERE type = $1";
        self.sql.query_one(sql, &[&kind]).await.unwrap().get(0)
    }

    async fn text(&self, sql: &str) -> String {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Polls until the query says so.
    async fn until(&self, wanted: &str, sql: &str) {
        stack::poll(wanted, PATIENCE, async || match self.text(sql).await {
            said if said == wanted => Ok(()),
            other => Err(other),
        })
        .await
        .unwrap();
    }
}

fn refused(result: Result<StartSessionResponse, Status>) {
    let status = result.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "MEDIA_REFUSED")
    );
}

const REVIEWS: &str = "SELECT count(*)::text FROM calls WHERE needs_review";

/// The same answer, but for the time that has gone by.
fn assert_repeats(repeat: &StartSessionResponse, first: &StartSessionResponse) {
    let left = |response: &StartSessionResponse| response.ends_in.as_ref().unwrap().seconds;
    assert!((0..5).contains(&(left(first) - left(repeat))), "{repeat:?}");
    let mut same = repeat.clone();
    same.ends_in.clone_from(&first.ends_in);
    assert_eq!(&same, first);
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_is_answered_again() {
    let mut bench = Bench::new(&[]).await;
    let (call_id, start) = bench.claimed("sid1").await;
    let first = bench.start(&start).await.unwrap();
    assert_eq!(first.start.as_ref().unwrap().call_id, call_id);
    assert_repeats(&bench.start(&start).await.unwrap(), &first);
    assert_eq!(
        (bench.count("media_started").await, bench.text(REVIEWS).await.as_str()),
        (1, "0")
    );
    bench
        .edge
        .start_session(StartSessionRequest {
            claim: start.claim + 1,
            ..start.clone()
        })
        .await
        .unwrap_err();
    let other = StartSessionRequest {
        edge_id: OTHER_EDGE.to_owned(),
        ..start.clone()
    };
    refused(bench.start(&other).await);
    // F63: the token was used.
    refused(
        bench
            .start(&StartSessionRequest {
                stream_sid: "another".to_owned(),
                ..start.clone()
            })
            .await,
    );
    // Over is over.
    let mut control = bench.attach(&[&first.media_session_id]).await;
    control
        .event(&first.media_session_id, 1, Event::Ended(SessionEnded::default()))
        .await;
    assert!(matches!(control.next().await, Down::Ack(_)));
    refused(bench.start(&start).await);
    bench.service.stop().await;
}

#[tokio::test]
async fn a_static_sockets_start_can_be_repeated_too() {
    let mut bench = Bench::new(&[]).await;
    // Exotel's id of the call finds the row again; without one, the stream does.
    let sql = "SELECT count(*)::text FROM media_sessions";
    for (call_sid, sessions) in [("sid1", "1"), ("sid2", "2")] {
        let start = StartSessionRequest {
            edge_id: EDGE.to_owned(),
            account_id: bench.account_id.clone(),
            token_generation: 1,
            stream_sid: format!("stream-{call_sid}"),
            call_sid: call_sid.to_owned(),
            from: CUSTOMER.to_owned(),
            to: PHONE.to_owned(),
            ..Default::default()
        };
        let first = bench.start(&start).await.unwrap();
        assert_repeats(&bench.start(&start).await.unwrap(), &first);
        let unnamed = StartSessionRequest {
            call_sid: String::new(),
            ..start.clone()
        };
        assert_repeats(&bench.start(&unnamed).await.unwrap(), &first);
        let other = StartSessionRequest {
            edge_id: OTHER_EDGE.to_owned(),
            ..start
        };
        refused(bench.start(&other).await);
        assert_eq!(bench.text(sql).await, sessions);
    }
    bench.service.stop().await;
}

/// F65.
#[tokio::test]
async fn a_start_that_names_another_call_is_refused() {
    let mut bench = Bench::new(&[]).await;
    let (other, _) = bench.claimed("sid1").await;
    let (call_id, start) = bench.claimed("sid2").await;
    refused(
        bench
            .start(&StartSessionRequest {
                call_id: other,
                ..start.clone()
            })
            .await,
    );
    assert_eq!(bench.text(REVIEWS).await, "1");
    let said = "SELECT data->>'contradiction' FROM call_events WHERE type = 'media_refused'";
    assert_eq!(bench.text(said).await, "call_id");
    bench.start(&StartSessionRequest { call_id, ..start }).await.unwrap();
    bench.service.stop().await;
}

const SESSION: &str = "SELECT CASE WHEN ended_at IS NULL THEN 'live' WHEN end_presumed THEN 'presumed' ELSE 'over' END
                       FROM media_sessions";

/// F75: only what the edge holds is vouched for, and what it holds is open again however it lapsed.
#[tokio::test]
async fn a_session_lives_while_its_edge_holds_it() {
    let settings = [
        ("ATTACH_LEASE", "1s"),
        ("ATTACH_RENEW", "200ms"),
        ("ATTACH_GRACE", "200ms"),
    ];
    let mut bench = Bench::new(&settings).await;
    let control = bench.attach(&[]).await;
    let (_, start) = bench.claimed("sid1").await;
    let session = bench.start(&start).await.unwrap().media_session_id;
    control.heartbeat(&[]).await;
    // Its answer was lost, so the edge never tells of it.
    bench.until("presumed", SESSION).await;
    control.heartbeat(&[&session]).await;
    bench.until("live", SESSION).await;
    assert_eq!(bench.count("media_reopened").await, 1);
    // It lapses under a stream that is up.
    let lapsed = "UPDATE media_sessions SET ended_at = now(), end_presumed = true";
    bench.sql.execute(lapsed, &[]).await.unwrap();
    bench.until("live", SESSION).await;
    assert_eq!(bench.count("media_reopened").await, 2);
    // It stays so for longer than a lease.
    let renewed = "SELECT (attached_until > started_at + interval '3 s')::text FROM media_sessions";
    bench.until("true", renewed).await;
    assert_eq!(bench.count("media_reopened").await, 2);
    control.heartbeat(&[]).await;
    bench.until("presumed", SESSION).await;
    bench.service.stop().await;
}

#[tokio::test]
async fn a_passthru_that_is_asked_again_gets_the_same_branch() {
    let mut bench = Bench::new(&[]).await;
    let (_, _) = bench.claimed("sid1").await;
    let input = |request_id: &str, asked_at: &str| RecordInputRequest {
        applet: Some(AppletRequest {
            request_id: request_id.to_owned(),
            facts: [("asked_at".to_owned(), asked_at.to_owned())].into(),
            ..bench.applet("sid1")
        }),
        digits: "8".to_owned(),
        ..Default::default()
    };
    let branch_b = "UPDATE calls SET branch_b = true";
    bench.sql.execute(branch_b, &[]).await.unwrap();
    let asked = [
        // The edge's retry, Exotel's retry, and then news.
        (input("one", "12:00:00"), true, 1),
        (input("one", "12:00:00"), true, 1),
        (input("two", "12:00:00"), true, 1),
        (input("three", "12:00:09"), false, 2),
    ];
    for (request, branch_b, entries) in asked {
        let answer = bench.edge.record_input(request).await.unwrap().into_inner();
        assert_eq!((answer.branch_b, bench.count("input").await), (branch_b, entries));
    }
    let end = |request_id: &str, asked_at: &str, status: &str| RecordEndRequest {
        applet: Some(AppletRequest {
            request_id: request_id.to_owned(),
            facts: HashMap::from([("asked_at".to_owned(), asked_at.to_owned())]),
            ..bench.applet("sid1")
        }),
        stream_sid: "stream-1".to_owned(),
        stream_status: status.to_owned(),
        ..Default::default()
    };
    bench.sql.execute(branch_b, &[]).await.unwrap();
    let mut transferred = end("six", "12:01:05", "completed");
    let facts = transferred.applet.as_mut().map(|applet| &mut applet.facts).unwrap();
    facts.insert("dial_call_status".to_owned(), "completed".to_owned());
    let asked = [
        (end("four", "12:01:00", "completed"), true, 1),
        (end("four", "12:01:00", "completed"), true, 1),
        (end("five", "12:01:04", "completed"), true, 1),
        // The same stream is named again after a transfer: that is news.
        (transferred, false, 2),
        // Without anything that marks a repeat but the edge's own id.
        (
            RecordEndRequest {
                stream_sid: String::new(),
                ..end("seven", "", "")
            },
            false,
            3,
        ),
        (
            RecordEndRequest {
                stream_sid: String::new(),
                ..end("seven", "", "")
            },
            false,
            3,
        ),
    ];
    for (request, branch_b, entries) in asked {
        let answer = bench.edge.record_end(request).await.unwrap().into_inner();
        assert_eq!(
            (answer.branch_b, bench.count("stream_ended").await),
            (branch_b, entries)
        );
    }
    bench.service.stop().await;
}

/// F63: a token that is used up, or was never made, costs one look at the sessions: the call is neither read nor locked.
#[tokio::test]
async fn a_replayed_token_costs_one_look() {
    let mut bench = Bench::new(&[]).await;
    let (call_id, start) = bench.claimed("sid1").await;
    let nonce: i64 = bench
        .sql
        .query_one("SELECT nonce FROM media_sessions", &[])
        .await
        .unwrap()
        .get(0);
    bench.start(&start).await.unwrap();
    bench
        .sql
        .batch_execute("BEGIN; LOCK TABLE calls, accounts, agents IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    for nonce in [u64::from_be_bytes(nonce.to_be_bytes()), 7] {
        let request = ClaimSocketRequest {
            call_id: call_id.clone(),
            nonce,
            edge_id: EDGE.to_owned(),
        };
        let refused = bench.edge.claim_socket(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    }
    bench.sql.batch_execute("ROLLBACK").await.unwrap();
    bench.service.stop().await;
}

/// No database column takes a NUL, and JSON in the database takes none either.
#[tokio::test]
async fn no_text_is_too_strange_to_be_kept() {
    let mut bench = Bench::new(&[]).await;
    let long = format!("a\0{}", "\u{1f600}\u{1}".repeat(5_000));
    let applet = |bench: &Bench| AppletRequest {
        customer_number: format!("anon\0{long}"),
        facts: HashMap::from([(long.clone(), long.clone()), ("\0".to_owned(), "\0".to_owned())]),
        request_id: "\0".to_owned(),
        ..bench.applet("sid1")
    };
    let request = RecordInputRequest {
        applet: Some(applet(&bench)),
        digits: "1\0".to_owned(),
        recording_url: long.clone(),
    };
    bench.edge.record_input(request).await.unwrap();
    let (_, start) = bench.claimed("sid1").await;
    let start = StartSessionRequest {
        from: "\0".to_owned(),
        call_id: "\0".to_owned(),
        ..start
    };
    let session = bench.start(&start).await.unwrap().media_session_id;
    let mut control = bench.attach(&[&session]).await;
    let leave = Leave {
        action: LeaveAction::ContinueFlow.into(),
        transfer_to: "\0".to_owned(),
        reason: long.clone(),
        ..Default::default()
    };
    let said = Transcript {
        text: long.clone(),
        r#final: true,
        language: long.clone(),
        ..Default::default()
    };
    let metadata = Metadata {
        entries: HashMap::from([
            ("k\0".to_owned(), "v".to_owned()),
            ("k".to_owned(), "\0".to_owned()),
            ("ok".to_owned(), "v".to_owned()),
        ]),
    };
    let ended = SessionEnded {
        ended_by: "\0".to_owned(),
        reason: "drained\0".to_owned(),
        quality: HashMap::from([("\0gaps".to_owned(), 1), ("\0".to_owned(), 2)]),
    };
    let events = [
        Event::Transcript(said),
        Event::Metadata(metadata),
        Event::Leave(leave),
        Event::Ended(ended),
    ];
    for (sequence, event) in (1..).zip(events) {
        control.event(&session, sequence, event).await;
        let Down::Ack(ack) = control.next().await else {
            panic!("an acknowledgement")
        };
        assert_eq!(ack.sequence, sequence);
    }
    let kept = "SELECT (SELECT count(*) FROM transcripts) || (SELECT end_reason || quality FROM media_sessions)
                || (SELECT metadata FROM calls) || (SELECT count(*) FROM call_events WHERE type = 'agent_left')";
    assert_eq!(bench.text(kept).await, r#"1drained{"gaps": 1}{"ok": "v"}1"#);
    let request = RecordEndRequest {
        applet: Some(applet(&bench)),
        stream_sid: start.stream_sid.clone(),
        stream_status: long.clone(),
        disconnected_by: long.clone(),
        detail: long.clone(),
        recording_url: long,
        ..Default::default()
    };
    bench.edge.record_end(request).await.unwrap();
    bench.service.stop().await;
}

/// F122: an edge that was away tells of a call that was blanked meanwhile: it is acknowledged, and no word, digit or number stays.
#[tokio::test]
async fn what_comes_late_of_a_blanked_call_is_not_kept() {
    let mut bench = Bench::new(&[]).await;
    let (call, start) = bench.claimed("sid1").await;
    let session = bench.start(&start).await.unwrap().media_session_id;
    let mut control = bench.attach(&[&session]).await;
    let blank = "UPDATE calls SET blanked_at = now(), customer = '', metadata = '{}'";
    bench.sql.batch_execute(blank).await.unwrap();
    let said = Transcript {
        text: "call me at 98123 45678".to_owned(),
        r#final: true,
        ..Default::default()
    };
    let metadata = Metadata {
        entries: HashMap::from([("phone".to_owned(), CUSTOMER.to_owned())]),
    };
    let leave = Leave {
        action: LeaveAction::ContinueFlow.into(),
        transfer_to: CUSTOMER.to_owned(),
        reason: "wants a person".to_owned(),
        ..Default::default()
    };
    let events = [
        Event::Transcript(said),
        Event::Dtmf(Dtmf {
            digit: "7".to_owned(),
            ..Default::default()
        }),
        Event::Metadata(metadata),
        Event::Leave(leave),
    ];
    for (sequence, event) in (1..).zip(events) {
        control.event(&session, sequence, event).await;
        let Down::Ack(ack) = control.next().await else {
            panic!("an acknowledgement")
        };
        assert_eq!(ack.sequence, sequence);
    }
    let kept = "SELECT (SELECT count(*) FROM transcripts) || (SELECT metadata || coalesce(transfer_to, '-') FROM calls)
        || (SELECT string_agg(data::text, '') FROM call_events WHERE type IN ('dtmf', 'metadata', 'agent_left'))";
    assert_eq!(bench.text(kept).await, "0{}-{}{}{}");

    let applet = AppletRequest {
        account_id: bench.account_id.clone(),
        token_generation: 1,
        call_id: call.clone(),
        request_id: uuid::Uuid::from_u128(9).to_string(),
        ..Default::default()
    };
    let end = RecordEndRequest {
        applet: Some(applet),
        stream_sid: start.stream_sid.clone(),
        recording_url: format!("https://recordings.exotel.com/{CUSTOMER}.mp3"),
        ..Default::default()
    };
    bench.edge.record_end(end).await.unwrap();
    let status = RecordStatusRequest {
        call_id: call,
        content_type: "application/x-www-form-urlencoded".to_owned(),
        body: format!("CallSid=x&Status=busy&From={CUSTOMER}").into(),
        ..Default::default()
    };
    let unreadable = RecordStatusRequest {
        content_type: "application/json".to_owned(),
        body: format!("{{ it was Asha {CUSTOMER}").into(),
        ..status.clone()
    };
    bench.edge.record_status(status).await.unwrap();
    bench.edge.record_status(unreadable).await.unwrap();
    let kept = "SELECT (SELECT count(recording_url) FROM calls) + (SELECT count(recording_url) FROM media_sessions)
        || (SELECT string_agg(split_part(problem, ':', 1) || length(body), ' ' ORDER BY id) FROM webhook_inbox)";
    assert_eq!(
        bench.text(kept).await,
        "0late0 JSON body could not be read as an object of fields0"
    );
    bench.service.stop().await;
}

/// F48: an edge is told which tokens were rotated out for good; one that is newer than the database may be good again.
#[tokio::test]
async fn a_token_that_was_rotated_out_is_told_from_others() {
    let mut bench = Bench::new(&[]).await;
    bench
        .sql
        .batch_execute("UPDATE accounts SET token_generation = 3")
        .await
        .unwrap();
    for (generation, expected) in [
        (1, Some((Code::FailedPrecondition, TOKEN_ENDED))),
        (2, None),
        (3, None),
        (4, Some((Code::NotFound, "NOT_FOUND"))),
    ] {
        let probe = AnswerProbeRequest {
            account_id: bench.account_id.clone(),
            token_generation: generation,
            word: "w".to_owned(),
            edge_id: EDGE.to_owned(),
        };
        let refused = bench.edge.answer_probe(probe).await.err();
        let told = refused.map(|status| (status.code(), reason(&status)));
        assert_eq!(
            told,
            expected.map(|(code, word)| (code, word.to_owned())),
            "{generation}"
        );
    }
    bench.service.stop().await;
}
