//! F36: what a pooler in transaction mode takes from its clients. The stories run through a real one in `tests/checks/pgbouncer.sh`.

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::CallState;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use e2e::{CUSTOMER, Story, quick, registration, session};
use exotel_sim::Outcome;
use runtime::config::Vars;
use stack::shared_postgres;

use crate::outbound::short;

/// F36: nothing can be set for a session, so nobody is served until the limits are set in the database; nobody listens where there is
/// no direct address, and what one replica commits is known to the other all the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_sessions_of_ones_own_limits_are_the_databases_and_news_come_by_a_poll() -> Result<()> {
    let postgres = shared_postgres().await?;
    let url = postgres.create_database().await?;
    let admin = session(&url).await?;
    let name: String = admin.query_one("SELECT current_database()::text", &[]).await?.get(0);
    let limit = async |setting: &str, value: &str| {
        admin
            .batch_execute(&format!("ALTER DATABASE {name} SET {setting} = '{value}'"))
            .await
    };
    limit("lock_timeout", "1s").await?;
    limit("idle_in_transaction_session_timeout", "10s").await?;
    limit("synchronous_commit", "on").await?;
    let mut conn = AsyncPgConnection::establish(&url).await?;
    let lacking = call_service::db::unlimited(&mut conn).await?;
    assert_eq!(
        lacking,
        [format!(
            "ALTER ROLE callbridge IN DATABASE {name} SET statement_timeout = '5s'"
        )]
    );
    limit("statement_timeout", "5s").await?;
    let builder = quick()
        .database_url(&url)
        .replicas(2)
        .call_setting("DATABASE_POOLED", "true");
    let story = Story::with(builder, registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let placed = story
        .stack
        .clients_of(1)
        .calls()
        .place_call(story.request(CUSTOMER))
        .await?
        .into_inner()
        .call
        .context("no call")?;
    let (call, _) = story.ended(&placed.id).await?;
    assert_eq!((call.state(), story.posts()?), (CallState::Completed, 1));
    let listening = "pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'";
    assert_eq!(story.count(listening).await?, 0);
    story.stack.shut_down().await
}

/// F36: migrations need a session, and say so.
#[test]
fn migrations_are_not_run_through_a_pooler() {
    let vars = |more: &[(&str, &str)]| -> Vars {
        let base = [
            ("DATABASE_URL", "postgres://pooler/callbridge"),
            ("DATABASE_POOLED", "true"),
        ];
        base.iter().chain(more).map(|(name, value)| (*name, *value)).collect()
    };
    let problems = call_service::config::migrate_url(vars(&[]))
        .err()
        .map(|error| error.0)
        .unwrap_or_default();
    assert!(
        problems.len() == 1 && problems[0].contains("DATABASE_DIRECT_URL"),
        "{problems:?}"
    );
    let direct = [("DATABASE_DIRECT_URL", "postgres://server/callbridge")];
    assert!(call_service::config::migrate_url(vars(&direct)).is_ok());
}
