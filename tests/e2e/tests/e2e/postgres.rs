//! PostgreSQL goes away and comes back, and call-service with it: no process is started again.

use std::time::Duration;

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{Call, CallState, GetCallRequest, PlaceCallRequest};
use e2e::{Database, PATIENCE, Session, Story, find, quick, read_wav, refusal, refused_for_now, tone};
use exotel_sim::Outcome;
use stack::{
    poll,
    postgres::{Binaries, Durability, Options, Postgres},
};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::{
    commits::in_ms,
    outbound::short,
    restart::{live, talk},
};

/// The pool's wait, and something for a busy machine.
const FAST: Duration = Duration::from_secs(3);

/// Two calls that are due in a moment.
async fn waiting(story: &Story) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    for number in ["+919812340041", "+919812340042"] {
        story
            .stack
            .control()
            .set_outcome(number, Outcome::answered_by(short()))?;
        let request = PlaceCallRequest {
            not_before: Some(in_ms(800)),
            ..story.request(number)
        };
        calls.push(story.place(request).await?);
    }
    Ok(calls)
}

/// Each of them is dialled once, by itself.
async fn dialled_once(story: &Story, calls: &[Call]) -> Result<()> {
    for (call, national) in calls.iter().zip(["09812340041", "09812340042"]) {
        let ended = story.until_state(&call.id, CallState::Completed).await?;
        assert_eq!((ended.attempt, story.dials(national).await?), (1, 1));
    }
    Ok(())
}

/// An RPC that reads and one that writes hear at once that the database is away.
async fn unavailable(story: &Story, id: &str, number: &str) -> Result<PlaceCallRequest> {
    let request = story.request(number);
    let mut client = story.stack.clients().calls();
    for _ in 0..3 {
        let began = Instant::now();
        let got = timeout(PATIENCE, client.get_call(GetCallRequest { call_id: id.to_owned() })).await?;
        assert_away(&got.err().context("the database is not away")?, began);
        let began = Instant::now();
        let placed = timeout(PATIENCE, client.place_call(request.clone())).await?;
        assert_away(&placed.err().context("the database is not away")?, began);
    }
    Ok(request)
}

pub(super) fn assert_away(status: &Status, began: Instant) {
    assert_eq!(
        refusal(status),
        refused_for_now(Code::Unavailable, "DATABASE_UNAVAILABLE"),
        "{status:?}"
    );
    assert!(began.elapsed() < FAST, "it took {:?} to say so", began.elapsed());
}

/// The same request again, until it is taken.
pub(super) async fn taken(story: &Story, request: &PlaceCallRequest) -> Result<Call> {
    let mut client = story.stack.clients().calls();
    let taken = poll("the database's return", PATIENCE, async || {
        match client.place_call(request.clone()).await {
            Ok(answer) => answer.into_inner().call.ok_or_else(|| "no call".to_owned()),
            Err(status) => Err(format!("{status:?}")),
        }
    });
    Ok(taken.await?)
}

/// The live call is what it was, and ends well; what was said on it was heard without a hole.
async fn nothing_was_missed(story: &Story, session: &mut Session, call: &Call, said: &[i16]) -> Result<()> {
    talk(session, "after").await?;
    let now = story.until_state(&call.id, CallState::InProgress).await?;
    assert_eq!(now.media_sessions.len(), 1);
    assert!(now.media_sessions[0].ended_at.is_none());
    story.stack.control().hang_up(&call.exotel_call_sid)?;
    let ended = story.until_state(&call.id, CallState::Completed).await?;
    assert_eq!(ended.media_sessions.len(), 1);
    let report = story.report(&ended).await?;
    let [stream] = &report.streams[..] else {
        anyhow::bail!("{} streams", report.streams.len())
    };
    assert_eq!(
        (
            stream.gaps,
            stream.odd_messages,
            stream.invalid_messages,
            stream.overflow_bytes
        ),
        (0, 0, 0, 0)
    );
    let heard = read_wav(stream.heard.as_deref())?;
    assert!(find(said, &heard).is_some(), "{} samples have a hole", said.len());
    Ok(())
}

/// F28: PostgreSQL crashes under a live call and calls that wait, and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn people_talk_on_while_postgresql_is_down_and_all_goes_on_by_itself() -> Result<()> {
    let options = Options {
        durability: Durability::Process,
        ..Options::default()
    };
    let postgres = Postgres::start_with(&Binaries::find().await?, options).await?;
    let (story, _agent, mut session, call) = live(quick().database_url(postgres.create_database().await?)).await?;
    talk(&mut session, "before").await?;
    let waiting = waiting(&story).await?;

    // Two seconds of speech, from before the crash to after it.
    let said = tone(16_000);
    session.speak(&said, 0).await;
    postgres.crash().await?;
    let request = unavailable(&story, &call.id, "+919812340043").await?;
    talk(&mut session, "while it is down").await?;
    poll("the time of those that wait", PATIENCE, async || {
        let due = waiting
            .iter()
            .filter_map(|call| call.not_before)
            .map(|at| at.seconds)
            .max();
        let now = runtime::Clock::system().now().timestamp();
        if due.is_some_and(|due| due < now) {
            Ok(())
        } else {
            Err(now)
        }
    })
    .await?;
    assert_eq!(story.posts()?, 1, "only the live call");

    postgres.revive().await?;
    let began = Instant::now();
    let call_after = taken(&story, &request).await?;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "back after {:?}",
        began.elapsed()
    );
    dialled_once(&story, &waiting).await?;
    story
        .until(&call_after.id, "the new call's dial", |call| {
            !call.exotel_call_sid.is_empty()
        })
        .await?;
    assert_eq!(story.dials("09812340043").await?, 1);
    nothing_was_missed(&story, &mut session, &call, &said).await
}

/// F28: all connections are reset, and new ones refused for a while.
#[tokio::test(flavor = "multi_thread")]
async fn people_talk_on_while_the_way_to_postgresql_is_closed() -> Result<()> {
    let database = Database::proxied().await?;
    let faults = database.proxy.faults();
    let (story, _agent, mut session, call) = live(database.builder()).await?;
    let waiting = waiting(&story).await?;
    let said = tone(12_000);
    session.speak(&said, 0).await;
    faults.refuse().await;
    faults.reset_all();
    let request = unavailable(&story, &call.id, "+919812340043").await?;
    talk(&mut session, "while it is closed").await?;
    // A callback is kept, or refused so that it comes again; it is never lost.
    faults.accept().await?;
    taken(&story, &request).await?;
    dialled_once(&story, &waiting).await?;
    nothing_was_missed(&story, &mut session, &call, &said).await
}

/// F35: PostgreSQL has no connection left for us, and then does not know our password any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_connections_and_one_with_another_password_come_back() -> Result<()> {
    let database = Database::proxied().await?;
    let admin = database.session().await?;
    let role = format!("app_{}", database.proxy.addr().port());
    let grants = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'one';
        GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}"
    );
    admin.batch_execute(&grants).await?;
    // The shared server asks nobody else for a password.
    let ask = format!(
        "COPY (SELECT line FROM (VALUES (1, 'host all {role} 127.0.0.1/32 scram-sha-256'), (2, 'host all all 127.0.0.1/32 trust'))
        AS lines (at, line) ORDER BY at) TO "
    );
    let file: String = admin.query_one("SHOW hba_file", &[]).await?.get(0);
    admin
        .batch_execute(&format!("{ask} '{file}'; SELECT pg_reload_conf()"))
        .await?;
    let url = database.url().replace("callbridge@", &format!("{role}:one@"));
    poll("the password to be asked for", PATIENCE, async || {
        match e2e::session(&url.replace(":one@", ":two@")).await {
            Ok(_) => Err("anybody may come".to_owned()),
            Err(error) if format!("{error:?}").contains("password") => Ok(()),
            Err(error) => Err(format!("{error:?}")),
        }
    })
    .await?;
    let (story, _agent, mut session, call) = live(quick().database_url(url)).await?;
    let faults = database.proxy.faults();
    let cases = [
        ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1", "+919812340043"),
        ("PASSWORD 'two'", "PASSWORD 'one'", "+919812340044"),
    ];
    for (wrong, right, number) in cases {
        // No connection that was let in before, or is just being let in, is left.
        faults.refuse().await;
        admin.batch_execute(&format!("ALTER ROLE {role} {wrong}")).await?;
        faults.reset_all();
        faults.accept().await?;
        let request = unavailable(&story, &call.id, number).await?;
        talk(&mut session, wrong).await?;
        assert_eq!(story.dials(&number.replace("+91", "0")).await?, 0);
        admin.batch_execute(&format!("ALTER ROLE {role} {right}")).await?;
        let placed = taken(&story, &request).await?;
        story
            .until(&placed.id, "the dial", |call| !call.exotel_call_sid.is_empty())
            .await?;
        assert_eq!(story.dials(&number.replace("+91", "0")).await?, 1);
    }
    let said = tone(800);
    nothing_was_missed(&story, &mut session, &call, &said).await
}
