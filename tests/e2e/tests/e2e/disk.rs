//! F33: PostgreSQL has no room left.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use callbridge_proto::call::v1::{CallFilter, CallState, ListCallsRequest};
use e2e::{CUSTOMER, Story, quick, refusal, refused_for_now, registration, session};
use exotel_sim::Outcome;
use stack::postgres::Postgres;
use tempfile::TempDir;
use tokio_postgres::{Client, error::SqlState};
use tonic::Code;

use crate::outbound::short;

/// A file system of a few megabytes; unmounted when dropped.
struct Small(TempDir);

impl Small {
    /// None where this process may not mount.
    fn mount() -> Result<Option<Self>> {
        let folder = TempDir::new()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "callbridge-test"])
            .arg(folder.path())
            .output();
        Ok(mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(folder)))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

/// A disk that can be filled, and emptied again.
struct Disk {
    small: bool,
}

impl Disk {
    async fn fill(&self, admin: &Client) -> Result<()> {
        if !self.small {
            let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE 'could not extend file \"base/1/2\": No space left on device' USING ERRCODE = '53100'; END $$;
                CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON calls FOR EACH ROW EXECUTE FUNCTION full_disk()";
            return Ok(admin.batch_execute(full).await?);
        }
        // Page by page, to the last one.
        let page = "INSERT INTO filler VALUES (repeat('x', 7000)::bytea)";
        for _ in 0..10_000 {
            if let Err(error) = admin.execute(page, &[]).await {
                assert_eq!(error.code(), Some(&SqlState::DISK_FULL), "{error:?}");
                return Ok(());
            }
        }
        anyhow::bail!("the disk is not full")
    }

    async fn empty(&self, admin: &Client) -> Result<()> {
        let empty = if self.small {
            "DROP TABLE filler"
        } else {
            "DROP TRIGGER full_disk ON calls"
        };
        Ok(admin.batch_execute(empty).await?)
    }
}

/// Puts the calls onto a small disk. Where none can be mounted a trigger says what a full one makes PostgreSQL say.
#[expect(clippy::print_stderr, reason = "whoever reads that it passed should know how")]
async fn disk(small: Option<&Small>, admin: &Client) -> Result<Disk> {
    let Some(small) = small else {
        eprintln!("no file system can be mounted here: a trigger raises 53100 instead");
        return Ok(Disk { small: false });
    };
    let data: String = admin.query_one("SHOW data_directory", &[]).await?.get(0);
    let owner = fs::metadata(Path::new(&data))?;
    let folder = small.0.path();
    chown(folder, Some(owner.uid()), Some(owner.gid()))?;
    let place = folder.to_str().context("a path that is no text")?;
    // Moving the table takes it out of the pages that it has, so that the next row needs a new one.
    for statement in [
        &format!("CREATE TABLESPACE small LOCATION '{place}'"),
        "ALTER TABLE calls SET TABLESPACE small",
        "CREATE TABLE filler (bytes bytea) TABLESPACE small",
        "ALTER TABLE filler ALTER bytes SET STORAGE PLAIN",
    ] {
        admin.batch_execute(statement).await?;
    }
    Ok(Disk { small: true })
}

/// F33: calls are refused before they are dialled, reading goes on, and with room all is as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_calls_before_they_are_dialled() -> Result<()> {
    // Outlives the server, and that one is not the shared one: it cannot do without what it has on the disk.
    let small = Small::mount()?;
    let postgres = Postgres::start().await?;
    let url = postgres.create_database().await?;
    let admin = session(&url).await?;
    let disk = disk(small.as_ref(), &admin).await?;
    let story = Story::with(quick().database_url(url), registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    disk.fill(&admin).await?;
    let mut client = story.stack.clients().calls();
    let mut refused = Vec::new();
    // What is left of the last page may take a row or two.
    for _ in 0..60 {
        let request = story.request(CUSTOMER);
        match client.place_call(request.clone()).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(
                    refusal(&status),
                    refused_for_now(Code::Unavailable, "DATABASE_UNAVAILABLE"),
                    "{status:?}"
                );
                refused.push(request);
            }
        }
        if refused.len() == 5 {
            break;
        }
    }
    ensure!(refused.len() == 5, "only {} calls were refused", refused.len());
    let rows = story.count("calls").await?;
    assert!(i64::try_from(story.posts()?)? <= rows, "a dial without a row");
    let before = story.posts()?;
    let list = client.list_calls(ListCallsRequest {
        filter: Some(CallFilter::default()),
        ..ListCallsRequest::default()
    });
    assert_eq!(
        i64::try_from(list.await?.into_inner().calls.len())?,
        rows,
        "reading goes on"
    );
    assert!(story.stack.call_services[0].is_running());

    disk.empty(&admin).await?;
    for request in refused.drain(..1) {
        let call = story.place(request).await?;
        let ended = story.until_state(&call.id, CallState::Completed).await?;
        assert_eq!(ended.attempt, 1);
    }
    assert_eq!(
        i64::try_from(story.posts()?)?,
        story.count("calls WHERE attempt > 0").await?
    );
    assert!(story.posts()? > before);
    Ok(())
}
