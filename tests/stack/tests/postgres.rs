//! The private PostgreSQL: its databases are apart, and nothing of it outlives its owner.

use std::{net::TcpStream, process::Command, time::Duration};

use stack::{
    poll,
    postgres::{Binaries, Durability, Options, Postgres},
};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn databases_are_copies_of_one_template() {
    let postgres = Postgres::start().await.unwrap();
    let migrate = async |url: String| {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        let statement = async move {
            client
                .batch_execute("CREATE TABLE things (id int); INSERT INTO things VALUES (1)")
                .await
        };
        let (made, ended) = tokio::join!(statement, connection);
        made?;
        Ok(ended?)
    };
    let one = postgres.create_database_with(migrate).await.unwrap();
    let other = postgres
        .create_database_with(async |_| anyhow::bail!("only once"))
        .await
        .unwrap();
    assert_ne!(one, other);
    let count = async |url: &str| {
        let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
        let client = postgres.connect(name).await.unwrap();
        client.batch_execute("INSERT INTO things VALUES (2)").await.unwrap();
        client
            .query_one("SELECT count(*) FROM things", &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    assert_eq!((count(&one).await, count(&other).await, count(&one).await), (2, 2, 3));
    let address = postgres.address();
    postgres.stop().await;
    TcpStream::connect(address).unwrap_err();
}

#[tokio::test]
async fn it_dies_with_a_process_that_is_killed() {
    // This program again, as the owner: it prints the address and then sleeps.
    if std::env::var_os("STACK_TEST_OWNER").is_some() {
        let parent = std::env::var_os("STACK_TEST_OWNER").map(Into::into);
        let options = Options {
            durability: Durability::Machine,
            parent,
            log: None,
        };
        let postgres = Postgres::start_with(&Binaries::find().await.unwrap(), options)
            .await
            .unwrap();
        println!("\naddress={}", postgres.address());
        std::future::pending::<()>().await;
    }
    let folder = tempfile::tempdir().unwrap();
    // As root, another user keeps its data in it.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["it_dies_with_a_process_that_is_killed", "--exact", "--nocapture"])
        .env("STACK_TEST_OWNER", folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(owner.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(output).map_while(Result::ok);
    let address = lines
        .find_map(|line| line.strip_prefix("address=").map(str::to_owned))
        .unwrap();
    TcpStream::connect(&address).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    owner.kill().unwrap();
    owner.wait().unwrap();
    poll("the server to be gone", LIMIT, async || {
        match TcpStream::connect(&address) {
            Ok(_) => Err("it still accepts connections".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await
    .unwrap();
    poll("the data to be removed", LIMIT, async || {
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} folders are left"))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_is_committed_survives_a_crash_and_nothing_survives_the_end() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let options = Options {
        durability: Durability::Process,
        parent: Some(folder.path().to_owned()),
        log: None,
    };
    let postgres = Postgres::start_with(&Binaries::find().await.unwrap(), options)
        .await
        .unwrap();
    let client = postgres.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE things (id int)").await.unwrap();
    for round in 0..3_i64 {
        let client = postgres.connect("postgres").await.unwrap();
        client.batch_execute("INSERT INTO things VALUES (1)").await.unwrap();
        postgres.crash().await.unwrap();
        TcpStream::connect(postgres.address()).unwrap_err();
        client.batch_execute("SELECT 1").await.unwrap_err();
        postgres.revive().await.unwrap();
        let client = postgres.connect("postgres").await.unwrap();
        let kept = client.query_one("SELECT count(*) FROM things", &[]).await.unwrap();
        assert_eq!(kept.get::<_, i64>(0), round + 1);
    }
    // Also while it is down.
    postgres.crash().await.unwrap();
    postgres.stop().await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
