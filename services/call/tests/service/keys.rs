//! Credentials at rest: the keys of the database, and their rotation.

use callbridge_proto::directory::v1 as api;
use tonic::Code;

use crate::service::{ADMIN, PATIENCE, Service, client, database, key, reason};

async fn with_credentials(url: &str) -> Service {
    let service = Service::start_on(url, &[]).await;
    service.until_ready().await;
    let request = api::CreateAccountRequest {
        name: "Acme".to_owned(),
        sid: "acme1".to_owned(),
        subdomain: "http://127.0.0.1:1".to_owned(),
        credentials: Some(api::ExotelCredentials {
            api_key: "key".to_owned(),
            api_token: "token".to_owned(),
        }),
        ..Default::default()
    };
    service.accounts(ADMIN).create_account(request).await.unwrap();
    service
}

/// All that a start could write.
async fn writes(url: &str) -> Vec<String> {
    let rows = client(url)
        .await
        .query(
            "SELECT kek_id::text || encode(sealed, 'hex') || row_version FROM credentials
             UNION ALL SELECT kek_id::text || encode(sealed, 'hex') FROM crypto_canary
             UNION ALL SELECT id::text || updated_at FROM accounts ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn now(url: &str) -> String {
    client(url)
        .await
        .query_one("SELECT clock_timestamp()::text", &[])
        .await
        .unwrap()
        .get(0)
}

/// Waits until a service that began later has looked at the keys and has not liked them.
async fn until_checked(url: &str, since: &str) {
    let db = client(url).await;
    let look = "SELECT coalesce(string_agg(query, '; '), 'no connection') FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'callbridge call-service'
                  AND backend_start > $1::text::timestamptz";
    stack::poll("a check of the keys", PATIENCE, async || {
        let last: String = db.query_one(look, &[&since]).await.unwrap().get(0);
        if last.eq_ignore_ascii_case("rollback") {
            Ok(())
        } else {
            Err(last)
        }
    })
    .await
    .unwrap();
}

/// Starts with these keys and the environment's account: nobody is let in, and nothing is written.
async fn is_refused(url: &str, keys: &str) {
    let (before, since) = (writes(url).await, now(url).await);
    let service = Service::start_on(
        url,
        &[
            ("CREDENTIAL_KEYS", keys),
            ("EXOTEL_SID", "env1"),
            ("EXOTEL_API_KEY", "k"),
            ("EXOTEL_API_TOKEN", "t"),
        ],
    )
    .await;
    let refused = service
        .accounts(ADMIN)
        .list_accounts(api::ListAccountsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "STARTING")
    );
    assert_eq!((service.readyz().await, service.http("/livez").await), (503, 200));
    until_checked(url, &since).await;
    service.stop().await;
    assert_eq!(writes(url).await, before, "{}", &keys[..2]);
}

/// F118.
#[tokio::test]
async fn a_wrong_or_missing_key_is_noticed_before_anything_is_written() {
    let url = database().await;
    with_credentials(&url).await.stop().await;
    for keys in [
        format!("1:{}", key(9)),
        format!("2:{}", key(1)),
        format!("2:{},1:{}", key(2), key(9)),
    ] {
        is_refused(&url, &keys).await;
    }
}

/// F118: a database without credentials has its keys all the same.
#[tokio::test]
async fn keys_that_are_all_unknown_are_those_of_another_database() {
    let url = database().await;
    let service = Service::start_on(&url, &[]).await;
    service.until_ready().await;
    service.stop().await;
    is_refused(&url, &format!("2:{},3:{}", key(2), key(3))).await;
}

/// F118: rows without a canary are not a reason to make one.
#[tokio::test]
async fn a_canary_is_never_made_beside_rows() {
    let url = database().await;
    with_credentials(&url).await.stop().await;
    client(&url)
        .await
        .execute("DELETE FROM crypto_canary", &[])
        .await
        .unwrap();
    let since = now(&url).await;
    let service = Service::start_on(&url, &[]).await;
    until_checked(&url, &since).await;
    let refused = service
        .accounts(ADMIN)
        .list_accounts(api::ListAccountsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "STARTING");
    service.stop().await;
    let left = client(&url)
        .await
        .query_one("SELECT count(*) FROM crypto_canary", &[])
        .await
        .unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
}

/// F119: a blob that was put into another row, or changed, is refused, and the caller is told what to do.
#[tokio::test]
async fn a_moved_blob_does_not_open() {
    let url = database().await;
    let service = with_credentials(&url).await;
    let db = client(&url).await;
    let list = service
        .accounts(ADMIN)
        .list_accounts(api::ListAccountsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let request = api::VerifyAccountCredentialsRequest {
        account_id: list.accounts[0].id.clone(),
    };
    let mut accounts = service.accounts(ADMIN);
    // Nobody listens at its host: opened, asked, not answered.
    let check = accounts
        .verify_account_credentials(request.clone())
        .await
        .unwrap()
        .into_inner()
        .check
        .unwrap();
    assert_eq!((check.accepted, check.source.as_str()), (false, "account"));
    let byte = "UPDATE credentials SET sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1)";
    for (change, back) in [
        (
            "UPDATE credentials SET row_version = row_version + 1",
            "UPDATE credentials SET row_version = row_version - 1",
        ),
        (byte, byte),
        (
            "UPDATE accounts SET subdomain = 'evil.example'",
            "UPDATE accounts SET subdomain = 'http://127.0.0.1:1'",
        ),
    ] {
        db.execute(change, &[]).await.unwrap();
        let refused = accounts.verify_account_credentials(request.clone()).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "CREDENTIALS_UNREADABLE"),
            "{change}"
        );
        db.execute(back, &[]).await.unwrap();
        let opened = accounts.verify_account_credentials(request.clone()).await;
        assert!(opened.is_ok(), "{change}");
    }
    service.stop().await;
}
