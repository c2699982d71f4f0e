//! What strangers try who have found out a URL: calls that are none, and tricks in every field.

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{Call, CallState, Direction};
use e2e::{Socket, Story, answer, callback_url, http, kinds, media, seconds_from_now, start, tone};
use exotel_sim::CallerScript;

const CALLER: &str = "09812340018";

/// Opens the socket of a call and starts its audio.
async fn talk(story: &Story, sid: &str, url: &str) -> Result<Socket> {
    let mut socket = Socket::open(url, None)
        .await?
        .map_err(|status| anyhow::anyhow!("the upgrade was answered {status}"))?;
    let (account, phone) = (&story.registered.account_sid, &story.registered.phone_number);
    let stream = format!("stream-{sid}");
    socket.send(&start(&stream, sid, account, CALLER, phone)).await?;
    socket.send(&media(&stream, 1, &tone(800))).await?;
    socket.until("media").await?;
    Ok(socket)
}

async fn inbound(story: &Story, sid: &str) -> Result<Call> {
    let rows = story.list(Direction::Inbound).await?;
    let row = rows.into_iter().find(|row| row.exotel_call_sid == sid);
    row.context("no such call")
}

/// F48: somebody has the account's token and tells of a call that Exotel never had. Exotel is asked, and a person looks at it; a call
/// that Exotel knows is asked about too, and nothing comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_inbound_call_that_exotel_does_not_know_is_marked() -> Result<()> {
    let story = Story::start().await?;
    let genuine = story.call_in("+919812340018", CallerScript::new()).await?;
    let known = story.inbound_row().await?;
    let known = story.until_state(&known.id, CallState::InProgress).await?;
    let (status, body) = answer(&story.registered.urls.connect_url, &story.arrival("sid-forged", CALLER)).await?;
    assert_eq!(status, 200, "an account's token is believed at first");
    let socket = talk(&story, "sid-forged", body["url"].as_str().context("a URL")?).await?;
    let forged = inbound(&story, "sid-forged").await?;
    // Both are asked about by themselves, ten seconds after their audio began: here at once.
    let due = "calls WHERE read_back_at BETWEEN now() - interval '1 minute' AND now() + interval '20 seconds' AND state = 'in_progress'";
    assert_eq!(story.count(due).await?, 2);
    story.read_back_now(&known).await?;
    story.read_back_now(&forged).await?;
    let forged = story.until(&forged.id, "the mark", |call| call.needs_review).await?;
    let events = story.events(&forged.id).await?;
    let mark = events
        .iter()
        .find(|event| event.r#type == "contradiction")
        .context("an event")?;
    assert_eq!(
        (mark.source.as_str(), mark.data.get("contradiction").map(String::as_str)),
        ("read_back", Some("unknown_at_exotel"))
    );
    let far = "calls WHERE read_back_at > now() + interval '50 minutes' AND NOT needs_review";
    stack::poll("the answer about the other", e2e::PATIENCE, async || {
        match story.count(far).await {
            Ok(1) => Ok(()),
            Ok(count) => Err(count.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    let known = story.get(&known.id).await?;
    assert_eq!((known.state(), known.needs_review), (CallState::InProgress, false));
    drop(socket);
    story.stack.control().hang_up(&genuine)?;
    story.ended(&known.id).await?;
    story.stack.shut_down().await
}

/// F127: tricks for databases and formats are data, in each field that a stranger can fill.
#[tokio::test(flavor = "multi_thread")]
async fn tricks_stay_data() -> Result<()> {
    let story = Story::start().await?;
    let tables = "information_schema.tables WHERE table_schema = 'public'";
    let before = story.count(tables).await?;
    let tricks = [
        "';DROP/**/TABLE/**/calls;--",
        "'OR'1'='1",
        "\\';SELECT/**/pg_sleep(30);--",
        "$1{}{0}%s%n${jndi:ldap://x}",
        "<script>alert(1)</script>",
    ];
    for trick in tricks {
        // As Exotel's id it names its own call, as a number nobody.
        let mut query = story.arrival(trick, trick);
        query.push(("CustomField", format!("{trick}.AAAAAAAAAAAAAAAA")));
        query.push(("call_id", trick.to_owned()));
        let (status, body) = answer(&story.registered.urls.connect_url, &query).await?;
        assert_eq!(status, 200, "{trick}");
        let row = inbound(&story, trick).await?;
        assert_eq!((row.customer_number.as_str(), row.state()), (trick, CallState::Placed));
        drop(talk(&story, trick, body["url"].as_str().context("a URL")?).await);
        // What a caller pressed, and a callback's fields.
        let digits = http()?
            .get(&story.registered.urls.input_url)
            .query(&query)
            .query(&[("digits", trick)]);
        assert_eq!(digits.send().await?.status().as_u16(), 200, "{trick}");
        let url = callback_url(&story, &row.id, seconds_from_now(60))?;
        let form = [
            ("CallSid", trick),
            ("Status", trick),
            ("From", trick),
            ("EventType", trick),
            (trick, trick),
        ];
        assert_eq!(
            http()?.post(url).form(&form).send().await?.status().as_u16(),
            200,
            "{trick}"
        );
        // A number that is not the phone's is another's, whatever it is.
        let mut query = story.arrival(&format!("{trick}2"), CALLER);
        query.retain(|(key, _)| *key != "CallTo");
        query.push(("CallTo", trick.to_owned()));
        assert_eq!(
            answer(&story.registered.urls.connect_url, &query).await?.0,
            404,
            "{trick}"
        );
    }
    assert_eq!(story.count(tables).await?, before);
    let rows = story.list(Direction::Inbound).await?;
    assert_eq!(rows.len(), 2 * tricks.len());
    for row in &rows {
        assert!(!kinds(&story.events(&row.id).await?).is_empty());
    }
    assert_eq!(
        story
            .count("webhook_inbox WHERE applied_at IS NULL AND problem IS NULL")
            .await?,
        0
    );
    story.stack.shut_down().await
}
