//! F39: whoever migrates dies in the middle.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use e2e::{PATIENCE, session};
use runtime::Tasks;
use stack::{poll, shared_postgres};
use tokio_postgres::Client;

/// All that a schema is made of, and whether it can be used.
async fn things(client: &Client) -> Result<BTreeSet<String>> {
    let rows = client
        .query(
            "SELECT format('%s %s', c.relkind, c.relname) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
            UNION ALL SELECT format('constraint %s', conname) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT format('function %s', proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT format('type %s', typname) FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn count(client: &Client, from_where: &str) -> Result<i64> {
    let row = client
        .query_one(&format!("SELECT count(*) FROM {from_where}"), &[])
        .await?;
    Ok(row.get(0))
}

/// F39: the session is gone in the middle of a migration, early and late. Nothing of that migration stays, and the next runner
/// brings it to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_dies_half_way_is_run_again_from_its_start() -> Result<()> {
    let postgres = shared_postgres().await?;
    let whole = things(&session(&postgres.create_database().await?).await?).await?;
    let url = postgres.create_empty_database().await?;
    let admin = session(&url).await?;
    admin
        .batch_execute(
            "CREATE SCHEMA halt; CREATE TABLE halt.at (thing text);
            CREATE FUNCTION halt.halt() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() JOIN halt.at ON object_identity = 'public.' || thing) THEN
                    PERFORM pg_sleep(60);
                END IF;
            END $$;
            CREATE EVENT TRIGGER halt ON ddl_command_end EXECUTE FUNCTION halt.halt()",
        )
        .await?;
    for (thing, complete) in [
        ("calls", 0),
        ("webhook_inbox_waiting", 0),
        ("calls_single_flight", 1),
        ("calls_retention", 1),
    ] {
        admin
            .batch_execute(&format!("DELETE FROM halt.at; INSERT INTO halt.at VALUES ('{thing}')"))
            .await?;
        let migrating = Tasks::new().spawn({
            let url = url.clone();
            async move { call_service::migrate(&url).await }
        });
        poll(thing, PATIENCE, async || {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event = 'PgSleep'";
            match admin.execute(kill, &[]).await {
                Ok(1) => Ok(()),
                Ok(_) => Err("nobody is there yet".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        let error = migrating
            .await?
            .context("dropped")?
            .err()
            .context("it came to its end")?;
        let applied = if count(&admin, "pg_class WHERE relname = '__diesel_schema_migrations'").await? == 1 {
            count(&admin, "__diesel_schema_migrations").await?
        } else {
            0
        };
        assert_eq!(applied, complete, "at {thing}: {error}");
        let left = things(&admin).await?;
        assert!(
            !left.iter().any(|it| it.split(' ').nth(1) == Some(thing)),
            "{thing} of a migration that did not end"
        );
        assert_eq!(
            count(&admin, "pg_index WHERE NOT indisvalid OR NOT indisready").await?,
            0
        );
    }
    admin
        .batch_execute("DROP EVENT TRIGGER halt; DROP SCHEMA halt CASCADE")
        .await?;
    call_service::migrate(&url).await?;
    assert_eq!(things(&admin).await?, whole);
    assert_eq!(
        count(&admin, "pg_index WHERE NOT indisvalid OR NOT indisready").await?,
        0
    );
    Ok(())
}

/// F39: an index whose concurrent build was killed is there, of no use and in the way; the next runner builds it again. One that was
/// built by a runner that died before it could say so is taken as it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_half_built_is_built_again() -> Result<()> {
    let postgres = shared_postgres().await?;
    let url = postgres.create_database().await?;
    let admin = session(&url).await?;
    let whole = things(&admin).await?;
    admin
        .batch_execute(
            "SET allow_system_table_mods = on;
            UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'calls_campaign'::regclass",
        )
        .await?;
    admin
        .batch_execute("DELETE FROM __diesel_schema_migrations WHERE version IN ('20261127000001', '20261127000005')")
        .await?;
    assert_eq!(call_service::migrate(&url).await?.len(), 2);
    assert_eq!(count(&admin, "pg_index WHERE NOT indisvalid").await?, 0);
    assert_eq!(things(&admin).await?, whole);
    Ok(())
}
