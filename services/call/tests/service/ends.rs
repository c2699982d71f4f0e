//! How the service starts and stops, and what it does while the database is away.

use std::time::{Duration, Instant};

use callbridge_proto::directory::v1 as api;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::service::{ADMIN, PATIENCE, Service, reason};

/// F103.
#[tokio::test]
async fn it_waits_for_migrations() {
    let url = stack::shared_postgres()
        .await
        .unwrap()
        .create_empty_database()
        .await
        .unwrap();
    let service = Service::start_on(&url, &[]).await;
    assert_eq!(service.health("").await, ServingStatus::NotServing);
    assert_eq!((service.readyz().await, service.http("/livez").await), (503, 200));
    call_service::migrate(&url).await.unwrap();
    service.until_ready().await;
    assert_eq!(service.health("").await, ServingStatus::Serving);
    service.stop().await;
}

/// F103: without a database each request fails at once, and the process stays live and ready.
#[tokio::test]
async fn a_database_that_goes_away_fails_requests_at_once() {
    let service = Service::start(&[]).await;
    let name = service
        .url
        .rsplit('/')
        .next()
        .unwrap()
        .split('?')
        .next()
        .unwrap()
        .to_owned();
    let admin = stack::shared_postgres()
        .await
        .unwrap()
        .connect("postgres")
        .await
        .unwrap();
    admin
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        .await
        .unwrap();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    admin.query(&end, &[]).await.unwrap();
    let began = Instant::now();
    let refused = service
        .accounts(ADMIN)
        .list_accounts(api::ListAccountsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "DATABASE_UNAVAILABLE")
    );
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!refused.message().contains(&name));
    assert_eq!((service.readyz().await, service.http("/livez").await), (200, 200));
    assert_eq!(service.health("").await, ServingStatus::Serving);

    admin
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        .await
        .unwrap();
    stack::poll("an answer", PATIENCE, async || {
        service
            .accounts(ADMIN)
            .list_accounts(api::ListAccountsRequest::default())
            .await
            .map(drop)
    })
    .await
    .unwrap();
    service.stop().await;
}

/// An open stream does not hold the process, and hears of the end.
#[tokio::test]
async fn it_ends_within_its_limit_with_a_stream_open() {
    let service = Service::start(&[]).await;
    let mut watch = HealthClient::new(service.channel.clone())
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let began = Instant::now();
    service.tasks.stop();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    tokio::time::timeout(PATIENCE, service.ended)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    // DRAIN_TIMEOUT is a second here, for streams and then for tasks.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}
