//! The edge's doors, tried by hand: applets' URLs, account tokens, and the sockets.

use anyhow::{Context as _, Result};
use callbridge_proto::{
    call::v1::{Call, CallState, Direction},
    directory::v1::{GetWebhookUrlsRequest, RotateAccountTokenRequest},
    id::CallId,
};
use e2e::{CUSTOMER, Socket, Story, answer, http, kinds, media, seconds_from_now, start, tone};
use exotel::token::{Purpose, TokenKeys};
use exotel_sim::Outcome;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const CALLER: &str = "09812340018";

/// The socket URL that an arriving call is given.
async fn arrive(story: &Story, call_sid: &str) -> Result<String> {
    let (status, body) = answer(&story.registered.urls.connect_url, &story.arrival(call_sid, CALLER)).await?;
    anyhow::ensure!(status == 200, "the connect request was answered {status}");
    Ok(body["url"].as_str().context("no URL")?.to_owned())
}

fn begin(story: &Story, stream_sid: &str, call_sid: &str) -> Value {
    start(
        stream_sid,
        call_sid,
        &story.registered.account_sid,
        CALLER,
        &story.registered.phone_number,
    )
}

async fn open(url: &str) -> Result<Socket> {
    Socket::open(url, None)
        .await?
        .map_err(|status| anyhow::anyhow!("the upgrade was answered {status}"))
}

async fn only(story: &Story) -> Result<Call> {
    let rows = story.list(Direction::Unspecified).await?;
    let [row] = &rows[..] else {
        anyhow::bail!("{} rows", rows.len())
    };
    story.get(&row.id).await
}

/// F59: the same answer until the session has started, then a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_connect_request_gets_the_same_socket_until_it_is_used() -> Result<()> {
    let story = Story::start().await?;
    let first = arrive(&story, "sid-1").await?;
    assert!(first.starts_with("ws://") && first.contains("/ws/exotel/voice/call_"));
    assert_eq!(arrive(&story, "sid-1").await?, first);
    let form: Vec<_> = story.arrival("sid-1", CALLER);
    let posted: Value = http()?
        .post(&story.registered.urls.connect_url)
        .form(&form)
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(posted["url"], first.as_str(), "POST is as good as GET");
    assert_eq!(only(&story).await?.state(), CallState::Placed);

    let mut socket = open(&first).await?;
    socket.send(&begin(&story, "stream-1", "sid-1")).await?;
    socket.send(&media("stream-1", 1, &tone(800))).await?;
    socket.until("media").await?;
    let second = arrive(&story, "sid-1").await?;
    assert_ne!(second, first, "another session of the same call");
    assert_eq!(only(&story).await?.state(), CallState::InProgress);
    assert_ne!(arrive(&story, "sid-2").await?, second, "another call");
    assert_eq!(story.list(Direction::Inbound).await?.len(), 2);
    drop(socket);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_creates_nothing() -> Result<()> {
    let story = Story::start().await?;
    let url = &story.registered.urls.connect_url;
    let known = http()?.head(url).query(&story.arrival("sid-1", CALLER)).send().await?;
    assert_eq!(
        (known.status().as_u16(), known.bytes().await?.len()),
        (200, 0),
        "the call would be taken"
    );
    let mut elsewhere = story.arrival("sid-1", CALLER);
    elsewhere.retain(|(key, _)| *key != "CallTo");
    elsewhere.push(("CallTo", "08049999999".to_owned()));
    assert_eq!(http()?.head(url).query(&elsewhere).send().await?.status().as_u16(), 404);
    for path in ["greeting_url", "end_url"] {
        let url = if path == "end_url" {
            &story.registered.urls.end_url
        } else {
            &story.registered.urls.greeting_url
        };
        let looked = http()?.head(url).query(&story.arrival("sid-1", CALLER)).send().await?;
        assert_eq!(looked.status().as_u16(), 200, "{path}");
    }
    // A call of ours that we do not know of.
    for word in ["outbound-dial", "outbound-api", ""] {
        let mut ours = story.arrival("sid-1", CALLER);
        ours.retain(|(key, _)| *key != "Direction");
        ours.push(("Direction", word.to_owned()));
        assert_eq!(
            answer(url, &ours).await?,
            (404, json!({ "error": "not_found" })),
            "{word}"
        );
    }
    // Nor one without an id.
    let mut nameless = story.arrival("sid-1", CALLER);
    nameless.retain(|(key, _)| *key != "CallSid");
    assert_eq!(answer(url, &nameless).await?.0, 404);
    assert_eq!(
        (story.count("calls").await?, story.count("media_sessions").await?),
        (0, 0)
    );
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paths_of_older_set_ups_work_with_a_key() -> Result<()> {
    let story = Story::start().await?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome {
            answer_after_ms: Some(1_500),
            ..Outcome::default()
        },
    )?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let call = story.until_state(&call.id, CallState::Placed).await?;
    let (edge, token) = (story.stack.edge_url(), &story.registered.urls.account_token);
    let legacy = format!("{edge}/api/v1/exotel/voice/connect");

    // Whatever the call, nothing is told without the key.
    for query in [format!("call_id={}", call.id), format!("call_id={}&key=x", call.id)] {
        assert_eq!(answer(&format!("{legacy}?{query}"), &[]).await?.0, 404);
    }
    let (status, body) = answer(&format!("{legacy}?call_id={}&key={token}", call.id), &[]).await?;
    let by_id = body["url"].as_str().context("a URL")?.to_owned();
    assert_eq!((status, by_id.contains(&call.id)), (200, true));
    let sid = &call.exotel_call_sid;
    for query in [
        format!("key={token}&call_id={}", call.id),
        format!("key={token}?CallSid={sid}&Direction=outbound-dial"),
        format!("key={token}&CallSid={sid}"),
    ] {
        let (status, body) = answer(&format!("{legacy}?{query}"), &[]).await?;
        assert_eq!((status, body["url"].as_str()), (200, Some(by_id.as_str())), "{query}");
    }
    // A call id of nobody does not fall back to the other clues.
    let nobody = format!(
        "key={token}&CallSid={sid}&call_id={}",
        CallId(uuid::Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001))
    );
    assert_eq!(answer(&format!("{legacy}?{nobody}"), &[]).await?.0, 404);
    let events = story.events(&call.id).await?;
    assert_eq!(kinds(&events), ["queued", "dialing", "placed", "answered"]);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_generations_of_an_account_token_work() -> Result<()> {
    let story = Story::start().await?;
    let account_id = story.registered.account_id.clone();
    let mut urls = vec![story.registered.urls.clone()];
    for generation in [2, 3] {
        let request = RotateAccountTokenRequest {
            account_id: account_id.clone(),
        };
        let rotated = story
            .stack
            .clients()
            .accounts()
            .rotate_account_token(request)
            .await?
            .into_inner();
        assert_eq!(rotated.generation, generation);
        let request = GetWebhookUrlsRequest {
            account_id: account_id.clone(),
        };
        urls.push(
            story
                .stack
                .clients()
                .accounts()
                .get_webhook_urls(request)
                .await?
                .into_inner(),
        );
        let valid = urls.len().saturating_sub(2)..urls.len();
        for (at, urls) in urls.iter().enumerate() {
            let sid = format!("sid-{generation}-{at}");
            let (status, body) = answer(&urls.connect_url, &story.arrival(&sid, CALLER)).await?;
            let expected = if valid.contains(&at) { 200 } else { 404 };
            assert_eq!(status, expected, "token {} after rotation to {generation}", at + 1);
            assert_eq!(body["url"].is_string(), expected == 200);
            let socket = Socket::open(&urls.socket_url, Some((&account_id, &urls.account_token))).await?;
            if let Ok(mut socket) = socket {
                // The edge cannot know the generation; call-service refuses the start.
                socket.send(&begin(&story, &format!("stream-{sid}"), &sid)).await?;
                socket.send(&media(&format!("stream-{sid}"), 1, &tone(800))).await?;
                match socket.next().await? {
                    Ok(event) => assert_eq!((&event["event"], expected), (&json!("media"), 200)),
                    Err(code) => assert_eq!((code, expected), (1008, 404), "closed"),
                }
            }
        }
    }
    assert_eq!(story.count("calls WHERE state = 'failed'").await?, 0);
    assert_eq!(story.count("calls").await?, 4, "two after each rotation");
    story.stack.shut_down().await
}

/// F62: nothing is upgraded for a token that is forged, expired or for another call.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_needs_its_own_token() -> Result<()> {
    let story = Story::start().await?;
    let url = arrive(&story, "sid-1").await?;
    let call = only(&story).await?;
    let other = arrive(&story, "sid-2").await?;
    let (base, token) = url.rsplit_once('/').context("a path")?;
    let keys = TokenKeys::parse(&story.stack.keys.token_keys)?;
    let id: CallId = call.id.parse()?;
    let expired = keys.mint(Purpose::Socket, id.0, [1; 8], seconds_from_now(-1));
    let unknown = keys.mint(Purpose::Socket, id.0, [1; 8], seconds_from_now(60));
    let purpose = keys.mint(Purpose::Callback, id.0, [1; 8], seconds_from_now(60));
    let swapped = other.rsplit_once('/').context("a path")?.1;
    let forged = format!("{}{}", &token[..83], if token.ends_with('A') { 'B' } else { 'A' });
    for (what, token) in [
        ("expired", &*expired),
        ("unknown", &unknown),
        ("purpose", &purpose),
        ("swapped", swapped),
        ("forged", &forged),
        ("short", "x"),
    ] {
        let refused = Socket::open(&format!("{base}/{token}"), None).await?;
        assert_eq!(refused.err(), Some(404), "{what}");
    }
    // The fixed URL wants Basic credentials: the account's id and its token, not another's.
    let (fixed, account, token) = (
        &story.registered.urls.socket_url,
        &story.registered.account_id,
        &story.registered.urls.account_token,
    );
    assert_eq!(Socket::open(fixed, None).await?.err(), Some(401));
    assert_eq!(Socket::open(fixed, Some((account, "x"))).await?.err(), Some(401));
    assert_eq!(Socket::open(fixed, Some(("acct_x", token))).await?.err(), Some(401));
    assert_eq!(story.count("media_sessions WHERE started_at IS NOT NULL").await?, 0);
    open(&url).await?;
    story.stack.shut_down().await
}

/// F63 and F64: the newest upgrade owns the session until it has started; after that the token is spent.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_one_session() -> Result<()> {
    let story = Story::start().await?;
    let url = arrive(&story, "sid-1").await?;
    let (mut old, mut new) = (open(&url).await?, open(&url).await?);
    old.send(&begin(&story, "stream-1", "sid-1")).await?;
    assert_eq!(old.closed().await?, 1008, "the newer one owns it");
    drop(old);
    new.send(&begin(&story, "stream-2", "sid-1")).await?;
    new.send(&media("stream-2", 1, &tone(800))).await?;
    new.until("media").await?;

    assert_eq!(Socket::open(&url, None).await?.err(), Some(404), "spent");
    // The first goes on.
    new.send(&media("stream-2", 2, &tone(800))).await?;
    new.until("media").await?;
    let call = only(&story).await?;
    assert_eq!((call.state(), call.media_sessions.len()), (CallState::InProgress, 1));
    assert_eq!(
        (call.media_sessions[0].stream_sid.as_str(), call.needs_review),
        ("stream-2", false)
    );
    let events = story.events(&call.id).await?;
    assert_eq!(kinds(&events), ["placed", "media_started", "agent_connected"]);
    drop(new);
    story.stack.shut_down().await
}

/// F65: a start about another call is refused and noted; the call goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_about_another_call_is_refused() -> Result<()> {
    let story = Story::start().await?;
    let (account, phone) = (
        story.registered.account_sid.clone(),
        story.registered.phone_number.clone(),
    );
    let cases = [
        ("call_sid", start("stream-a", "sid-other", &account, CALLER, &phone)),
        (
            "account_sid",
            start("stream-b", "sid-account_sid", "somebodyelse", CALLER, &phone),
        ),
        (
            "numbers",
            start("stream-c", "sid-numbers", &account, "09812340099", &phone),
        ),
    ];
    for (what, start) in cases {
        let sid = format!("sid-{what}");
        let url = arrive(&story, &sid).await?;
        let mut socket = open(&url).await?;
        socket.send(&start).await?;
        assert_eq!(socket.closed().await?, 1008, "{what}");
        let rows = story.list(Direction::Inbound).await?;
        let call = rows.iter().find(|row| row.exotel_call_sid == sid).context("a row")?;
        assert_eq!((call.state(), call.needs_review), (CallState::Placed, true), "{what}");
        let events = story.events(&call.id).await?;
        assert_eq!(kinds(&events), ["placed", "media_refused"]);
        assert_eq!(events[1].data.get("contradiction").map(String::as_str), Some(what));

        // The call's own stream starts all the same.
        let mut socket = open(&url).await?;
        socket.send(&begin(&story, &format!("stream-{what}"), &sid)).await?;
        socket.send(&media(&format!("stream-{what}"), 1, &tone(800))).await?;
        socket.until("media").await?;
        assert_eq!(story.get(&call.id).await?.state(), CallState::InProgress);
    }
    assert_eq!(story.count("calls").await?, 3);
    story.stack.shut_down().await
}

/// F80, F84, F85, F87: each is dropped and counted, and the twentieth ends the session.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_are_dropped_until_there_are_twenty() -> Result<()> {
    let story = Story::start().await?;
    let mut socket = open(&arrive(&story, "sid-1").await?).await?;
    socket.send(&begin(&story, "stream-1", "sid-1")).await?;
    let deep = "[".repeat(10_000);
    let bad = [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "NaN",
        "\"event\"",
        deep.as_str(),
        r#"{"event":"media"}"#,
        r#"{"event":"media","stream_sid":"stream-1","media":{"payload":"!!!!"}}"#,
        r#"{"event":"media","stream_sid":"stream-1","media":{"payload":7}}"#,
        r#"{"event":"media","stream_sid":"stream-2","media":{"payload":"AAAA"}}"#,
        r#"{"event":"start"}"#,
        r#"{"event":"\ud800"}"#,
    ];
    for text in bad {
        let read = exotel::stream::decode(text);
        assert!(
            read.is_err() || text.contains("stream-2"),
            "{} is no bad frame",
            &text[..text.len().min(80)]
        );
        socket.raw(Message::text(text)).await?;
    }
    for _ in bad.len()..19 {
        socket.raw(Message::binary(vec![0; 320])).await?;
    }
    // The call goes on: the echo of a frame that is well-formed.
    socket.send(&media("stream-1", 2, &tone(800))).await?;
    socket.until("media").await?;
    socket.raw(Message::text("the twentieth")).await?;
    assert_eq!(socket.closed().await?, 1008);
    let call = only(&story).await?;
    let call = story
        .until(&call.id, "the session's end", |call| {
            !call.media_sessions[0].end_reason.is_empty()
        })
        .await?;
    let session = &call.media_sessions[0];
    assert_eq!(
        (session.end_reason.as_str(), session.ended_by.as_str()),
        ("bad_frames", "callbridge")
    );
    assert_eq!(session.quality.get("bad_frames"), Some(&20), "{:?}", session.quality);
    assert_eq!(call.state(), CallState::InProgress, "only Exotel ends a call");
    drop(socket);
    story.stack.shut_down().await
}
