//! The way between call-service and its database, for stories in which it breaks.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;
use runtime::Tasks;
use stack::{
    Builder,
    proxy::{Direction, Proxy, When},
    shared_postgres,
};
use tokio_postgres::{Client, NoTls};

use crate::{PATIENCE, quick};

/// Numbers of wires that are cut, so that each has a word of its own.
static NEXT_CUT: AtomicU32 = AtomicU32::new(0);

/// A migrated database in the shared PostgreSQL, and a proxy in front of it.
#[derive(Debug)]
pub struct Database {
    /// Breaks the way to it.
    pub proxy: Proxy,
    /// Its URL past the proxy.
    pub direct: String,
}

/// What becomes of the transaction whose client never hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is committed.
    Committed,
    /// It is rolled back after a second, in the middle of the commit.
    RolledBack,
}

impl Database {
    /// A fresh one.
    ///
    /// # Errors
    /// When PostgreSQL does not start.
    pub async fn proxied() -> anyhow::Result<Self> {
        let postgres = shared_postgres().await?;
        let direct = postgres.create_database().await?;
        let proxy = Proxy::start((Ipv4Addr::LOCALHOST, 0).into(), [postgres.address()]).await?;
        Ok(Self { proxy, direct })
    }

    /// The URL through the proxy.
    pub fn url(&self) -> String {
        let at = self.direct.find("127.0.0.1:").unwrap_or_default();
        let (before, rest) = self.direct.split_at(at);
        let path = rest.find('/').map_or("", |slash| &rest[slash..]);
        format!("{before}{}{path}", self.proxy.addr())
    }

    /// A stack whose call-service goes through the proxy.
    pub fn builder(&self) -> Builder {
        quick().database_url(self.url())
    }

    /// A session of the story's own, past the proxy.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn session(&self) -> anyhow::Result<Client> {
        session(&self.direct).await
    }

    /// Lets the answer be lost to the next commit of a transaction that does this (`INSERT`, `UPDATE`) to a row of this table for
    /// which the condition on `NEW` and `OLD` holds. Its client sees the connection reset, and nothing else is disturbed.
    ///
    /// # Errors
    /// Of the database.
    pub async fn lose_commit(&self, event: &str, table: &str, condition: &str, fate: Fate) -> anyhow::Result<()> {
        let number = NEXT_CUT.fetch_add(1, Ordering::Relaxed);
        let word = format!("the wire is cut here, {number}.");
        let last_word = match fate {
            Fate::Committed => format!("RAISE NOTICE '{word}';"),
            // The client is cut off while it waits, by whoever sees that it does.
            Fate::RolledBack => "PERFORM pg_sleep(1); RAISE EXCEPTION 'rolled back';".to_owned(),
        };
        // A sequence counts also what is rolled back. The trigger is deferred: it runs in the middle of COMMIT.
        let statements = format!(
            "CREATE SEQUENCE cut_{number};
            CREATE FUNCTION cut_{number}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('cut_{number}') = 1 THEN {last_word} END IF;
                RETURN NULL;
            END $$;
            CREATE CONSTRAINT TRIGGER cut_{number} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION cut_{number}()"
        );
        self.session().await?.batch_execute(&statements).await?;
        if fate == Fate::Committed {
            self.proxy.faults().cut_on(Direction::ToClient, word, When::Before, 1);
        }
        Ok(())
    }

    /// Waits until so many wires were cut at their word.
    ///
    /// # Errors
    /// When they were not in time.
    pub async fn cut(&self, times: u64) -> anyhow::Result<()> {
        let cut = stack::poll("the wire to be cut", PATIENCE, async || {
            let counters = self.proxy.faults().counters();
            if counters.pattern_cuts >= times {
                Ok(())
            } else {
                Err(format!("{counters:?}"))
            }
        });
        Ok(cut.await?)
    }
}

/// A session with a database.
///
/// # Errors
/// When it cannot be opened.
pub async fn session(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("no session")?;
    // Ends with the client.
    Tasks::new().spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}
