//! Contacts through AddContacts, and the same rows through COPY.

use std::{fmt::Write as _, fs, time::Instant};

use anyhow::{Context as _, ensure};
use futures_util::SinkExt as _;
use tokio_postgres::Client;

use crate::{
    Registered, Stack,
    campaign::{self, People},
};

/// Where rows go.
pub(super) struct Import<'a> {
    stack: &'a Stack,
    registered: &'a Registered,
    client: Client,
}

/// What an import came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// Contacts a second.
    pub(super) per_second: f64,
    /// How much memory this process took at most, beyond what it had before. The sender is in it.
    pub(super) peak_mib: f64,
}

impl<'a> Import<'a> {
    pub(super) fn new(stack: &'a Stack, registered: &'a Registered, client: Client) -> Self {
        Self {
            stack,
            registered,
            client,
        }
    }

    /// Makes a campaign with these people. Returns its id.
    pub(super) async fn contacts(&self, first: u64, contacts: u64) -> anyhow::Result<(String, Sent)> {
        let clients = self.stack.clients();
        let id = campaign::create(&clients, super::settings("load", self.registered)).await?;
        let before = resident_mib();
        forget_peak();
        let begun = Instant::now();
        let file = tokio_stream::iter(People::new(first, contacts).csv());
        let report = campaign::send(&clients, &id, "contacts.csv", file)
            .await
            .context("AddContacts")?;
        let took = begun.elapsed().as_secs_f64();
        ensure!(
            u64::try_from(report.accepted)? == contacts,
            "{} of {contacts} contacts were taken",
            report.accepted
        );
        let sent = Sent {
            per_second: per_second(contacts, took),
            peak_mib: (peak_mib() - before).max(0.0),
        };
        Ok((id, sent))
    }

    /// COPY into a table with the columns and the keys of `contacts`. Returns rows a second.
    pub(super) async fn copy(&self, first: u64, contacts: u64) -> anyhow::Result<f64> {
        let table = "CREATE TABLE raw (LIKE contacts INCLUDING ALL)";
        let copy = "COPY raw (campaign_id, id, number, variables) FROM STDIN";
        self.copied(table, copy, first, contacts, |text, person| {
            let _ = write!(
                text,
                "01970000-0000-7000-8000-000000000000\t01970000-0000-7000-8000-{person:012x}\t"
            );
            row(text, person);
        })
        .await
    }

    /// COPY of what a row has into a table without keys.
    pub(super) async fn copy_bare(&self, first: u64, contacts: u64) -> anyhow::Result<f64> {
        let table = "CREATE TABLE raw (line bigint, number text, variables jsonb)";
        let copy = "COPY raw FROM STDIN";
        self.copied(table, copy, first, contacts, |text, person| {
            let _ = write!(text, "{person}\t");
            row(text, person);
        })
        .await
    }

    async fn copied(
        &self,
        table: &str,
        copy: &str,
        first: u64,
        contacts: u64,
        line: impl Fn(&mut String, u64),
    ) -> anyhow::Result<f64> {
        self.client
            .batch_execute(table)
            .await
            .context("cannot make a table for COPY")?;
        let begun = Instant::now();
        let sink = self.client.copy_in(copy).await.context("COPY")?;
        let mut sink = std::pin::pin!(sink);
        for piece in People::new(first, contacts).pieces(line) {
            sink.send(piece).await.context("COPY")?;
        }
        let rows = sink.finish().await.context("COPY")?;
        let took = begun.elapsed().as_secs_f64();
        ensure!(rows == contacts, "COPY took {rows} of {contacts} rows");
        self.client.batch_execute("DROP TABLE raw").await?;
        Ok(per_second(contacts, took))
    }

    /// What autovacuum does within a minute.
    pub(super) async fn tidy(&self) -> anyhow::Result<()> {
        for statement in ["VACUUM ANALYZE contacts", "VACUUM ANALYZE calls", "CHECKPOINT"] {
            self.client.batch_execute(statement).await.context(statement)?;
        }
        Ok(())
    }

    /// Fails as long as a call is active.
    pub(super) async fn active(&self) -> Result<(), String> {
        let statement =
            "SELECT count(*) FROM calls WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')";
        let row = self.client.query_one(statement, &[]).await;
        let active: i64 = row.map_err(|error| error.to_string())?.get(0);
        if active == 0 {
            Ok(())
        } else {
            Err(format!("{active} calls"))
        }
    }
}

fn row(text: &mut String, person: u64) {
    let number = People::number(person);
    let _ = writeln!(
        text,
        "{number}\t{{\"name\":\"Person {person}\",\"order\":\"A-{person}\"}}"
    );
}

#[expect(clippy::cast_precision_loss, reason = "millions of rows")]
fn per_second(rows: u64, took: f64) -> f64 {
    rows as f64 / took.max(1e-9)
}

/// Has the kernel forget the peak, where it can.
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn resident_mib() -> f64 {
    status("VmRSS:")
}

fn peak_mib() -> f64 {
    status("VmHWM:")
}

/// A figure of this process; 0 where the system does not tell.
fn status(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.trim();
        value.split(' ').next()?.parse::<f64>().ok()
    });
    kib.unwrap_or_default() / 1_024.0
}
