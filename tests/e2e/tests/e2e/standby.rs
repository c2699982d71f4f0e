//! F27: the database's server dies and its synchronous standby takes its place. What was dialled is not forgotten.

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{CallState, PlaceCallRequest};
use e2e::{PATIENCE, Story, quick, registration};
use exotel_sim::Outcome;
use stack::{
    Builder, poll,
    postgres::{Binaries, Durability, Options, Postgres},
};
use tokio_postgres::Client;

use crate::{commits::in_ms, outbound::short};

/// Two servers, of which the second one follows the first.
struct Pair {
    first: Postgres,
    second: Postgres,
    /// A session with the first one.
    admin: Client,
    /// The database at whichever server can be written.
    url: String,
}

impl Pair {
    /// No commit of the first is answered before it is with the second.
    async fn start() -> Result<Self> {
        let options = Options {
            durability: Durability::Process,
            ..Options::default()
        };
        let binaries = Binaries::find().await?;
        let first = Postgres::start_with(&binaries, options.clone()).await?;
        let url = first.create_database().await?;
        let name = name(&url);
        let second = first.standby(&binaries, options).await?;
        let admin = first.connect(name).await?;
        admin
            .batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            .await?;
        admin.batch_execute("SELECT pg_reload_conf()").await?;
        until(
            &admin,
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'",
            1,
        )
        .await?;
        let url = format!(
            "postgres://callbridge@{},{}/{name}?target_session_attrs=read-write&sslmode=disable",
            first.address(),
            second.address()
        );
        Ok(Self {
            first,
            second,
            admin,
            url,
        })
    }

    fn builder(&self) -> Builder {
        quick()
            .database_url(&self.url)
            .call_setting("SWEEP_AFTER", "2s")
            .call_setting("SETTLE_WINDOW", "1s")
    }

    /// The second one hears nothing any more.
    async fn part(&self) -> Result<()> {
        let standby = self.second.connect("postgres").await?;
        standby.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await?;
        standby.batch_execute("SELECT pg_reload_conf()").await?;
        until(&self.admin, "SELECT count(*) FROM pg_stat_replication", 0).await
    }

    /// The first one dies, and the second one takes its place.
    async fn fail_over(&self) -> Result<()> {
        self.first.crash().await?;
        let standby = self.second.connect("postgres").await?;
        standby.batch_execute("SELECT pg_promote(true)").await?;
        Ok(())
    }
}

async fn until(client: &Client, count: &str, wanted: i64) -> Result<()> {
    let counted = poll(count, PATIENCE, async || match client.query_one(count, &[]).await {
        Ok(row) if row.get::<_, i64>(0) == wanted => Ok(()),
        Ok(row) => Err(row.get::<_, i64>(0).to_string()),
        Err(error) => Err(error.to_string()),
    });
    Ok(counted.await?)
}

/// F27: a dial whose intent is on one server only is not made: neither while its commit waits for the standby, nor when somebody has
/// that wait given up, which the server answers as a commit. The standby, which never heard of it, has it dialled once.
#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_the_standby_does_not_know_is_not_made() -> Result<()> {
    let pair = Pair::start().await?;
    let story = Story::with(pair.builder(), registration()?).await?;
    let numbers = ["+919812340051", "+919812340052"];
    let mut calls = Vec::new();
    for number in numbers {
        story
            .stack
            .control()
            .set_outcome(number, Outcome::answered_by(short()))?;
        let request = PlaceCallRequest {
            not_before: Some(in_ms(1_500)),
            ..story.request(number)
        };
        calls.push(story.place(request).await?);
    }
    pair.part().await?;
    // The first claim's commit, given up as soon as it waits: later than two seconds after the claim it would not be dialled anyway.
    poll("a claim to wait for the standby", PATIENCE, async || {
        let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        match pair.admin.query_one(cancel, &[]).await {
            Ok(row) if row.get::<_, i64>(0) > 0 => Ok(()),
            Ok(_) => Err("nobody waits".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    // What followed from the commit follows within this; whoever gives the dial back has to wait in turn.
    until(
        &pair.admin,
        "SELECT least(count(*), 1) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        1,
    )
    .await?;
    let dialling = "SELECT least(count(*), 1) FROM calls WHERE attempt > 0";
    until(&pair.admin, dialling, 1).await?;
    assert_eq!(story.posts()?, 0, "a dial was made whose intent can be lost");
    pair.fail_over().await?;
    for (call, number) in calls.iter().zip(numbers) {
        let ended = story.until_state(&call.id, CallState::Completed).await?;
        assert_eq!(
            story.dials(&number.replace("+91", "0")).await?,
            1,
            "{number}: {ended:?}"
        );
    }
    story.stack.shut_down().await
}

/// F27: the server dies while calls are dialled. Each person is called once at most, no call that was taken is lost, and what the
/// rows say is what Exotel did.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_dialled_once_over_a_fail_over() -> Result<()> {
    let pair = Pair::start().await?;
    let mut registration = registration()?;
    registration.account.calls_per_minute = 1_200;
    registration.simulated.calls_per_minute = 1_200;
    let story = Story::with(pair.builder().replicas(2), registration).await?;
    let numbers: Vec<String> = (0..30).map(|n| format!("+9198123410{n:02}")).collect();
    let mut requests = Vec::new();
    for number in &numbers {
        story
            .stack
            .control()
            .set_outcome(number, Outcome::answered_by(short()))?;
        requests.push(story.request(number));
    }
    let mut taken = Vec::new();
    for (n, request) in requests.iter().enumerate() {
        if n == 12 {
            poll("some dials", PATIENCE, async || match story.posts() {
                Ok(posts) if posts >= 3 => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await?;
            pair.fail_over().await?;
        }
        // The same key again, as long as the database is away.
        let mut client = story.stack.clients_of(n % 2).calls();
        let call = poll("the call to be taken", PATIENCE, async || {
            match client.place_call(request.clone()).await {
                Ok(answer) => answer.into_inner().call.ok_or_else(|| "no call".to_owned()),
                Err(status) => Err(format!("{status:?}")),
            }
        });
        taken.push(call.await?);
    }
    let mut completed = 0;
    for (call, number) in taken.iter().zip(&numbers) {
        let ended = story
            .until(&call.id, "the end", |call| call.ended_at.is_some())
            .await
            .with_context(|| number.clone())?;
        let dials = story.dials(&number.replace("+91", "0")).await?;
        let said = usize::from(ended.state() == CallState::Completed);
        assert_eq!(dials, said, "{number} was dialled {dials} times: {ended:?}");
        completed += said;
    }
    assert!(completed > 20, "{completed} of {} calls came about", numbers.len());
    let there = pair.second.connect(name(&pair.url)).await?;
    until(&there, "SELECT count(*) FROM calls", 30).await?;
    story.stack.shut_down().await
}

fn name(url: &str) -> &str {
    url.rsplit('/')
        .next()
        .and_then(|rest| rest.split('?').next())
        .unwrap_or_default()
}
