//! API keys of the database.

use callbridge_proto::{
    access::v1::{self as api, key_service_client::KeyServiceClient},
    call::v1::{WatchCallsRequest, call_service_client::CallServiceClient},
    directory::v1::{
        DiagnoseRequest, ListAccountsRequest, account_service_client::AccountServiceClient,
        phone_service_client::PhoneServiceClient,
    },
};
use tokio::time::timeout;
use tonic::{Code, Request, Status, metadata::MetadataMap, transport::Channel};

use crate::service::{ADMIN, PATIENCE, Service, client as database, hash, reason};

/// A key of the settings with all that people may do.
pub(crate) const KEYS: &str = "ck_keys_0123456789";

/// Adds a key.
#[derive(Clone)]
pub(crate) struct Shows(String);

impl Shows {
    pub(crate) fn new(key: &str) -> Self {
        Self(key.to_owned())
    }
}

impl tonic::service::Interceptor for Shows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = format!("Bearer {}", self.0);
        request.metadata_mut().insert("authorization", value.parse().unwrap());
        Ok(request)
    }
}

pub(crate) type Keys = KeyServiceClient<tonic::service::interceptor::InterceptedService<Channel, Shows>>;

pub(crate) fn client(service: &Service, key: &str) -> Keys {
    KeyServiceClient::with_interceptor(service.channel.clone(), Shows(key.to_owned()))
}

/// A key that was made.
pub(crate) struct Minted {
    pub(crate) id: String,
    pub(crate) shown: String,
}

impl Minted {
    pub(crate) async fn make(keys: &mut Keys, scopes: &[&str]) -> Self {
        let answer = keys.create_key(request(scopes)).await.unwrap().into_inner();
        Self {
            id: answer.key.unwrap().id,
            shown: answer.api_key,
        }
    }

    pub(crate) async fn revoke(&self, keys: &mut Keys) {
        let request = api::RevokeKeyRequest {
            key_id: self.id.clone(),
        };
        keys.revoke_key(request).await.unwrap();
    }

    /// Lets its time be over, and waits until that is noticed.
    pub(crate) async fn expire(&self, service: &Service) {
        let id = self.id.strip_prefix("key_").unwrap();
        let update = format!("UPDATE api_keys SET expires_at = now() WHERE id = '{id}'");
        database(&service.url).await.batch_execute(&update).await.unwrap();
        until(service, &self.shown, Code::Unauthenticated).await;
    }
}

fn request(scopes: &[&str]) -> api::CreateKeyRequest {
    api::CreateKeyRequest {
        name: "crm".to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        ..api::CreateKeyRequest::default()
    }
}

async fn tried(service: &Service, key: &str) -> Code {
    let mut accounts = AccountServiceClient::with_interceptor(service.channel.clone(), Shows(key.to_owned()));
    match accounts.list_accounts(ListAccountsRequest::default()).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

async fn until(service: &Service, key: &str, code: Code) {
    stack::poll("what the key is worth", PATIENCE, async || {
        match tried(service, key).await {
            now if now == code => Ok(()),
            now => Err(now),
        }
    })
    .await
    .unwrap();
}

pub(crate) fn settings() -> [(&'static str, String); 2] {
    let scopes = "keys.write+calls.read+calls.write+campaigns.write+credentials.write";
    let api_keys = format!("root:{scopes}:{},admin:calls.read:{}", hash(KEYS), hash(ADMIN));
    [("API_KEYS", api_keys), ("API_KEYS_REFRESH", "50ms".to_owned())]
}

async fn start() -> Service {
    Service::start(&settings().each_ref().map(|(name, value)| (*name, value.as_str()))).await
}

/// A second process on the same database.
async fn replica(of: &Service) -> Service {
    let replica = Service::start_on(
        &of.url,
        &settings().each_ref().map(|(name, value)| (*name, value.as_str())),
    )
    .await;
    replica.until_ready().await;
    replica
}

/// F101.
#[tokio::test]
async fn a_key_is_made_once_used_everywhere_and_revoked_everywhere() {
    let service = start().await;
    let other = replica(&service).await;
    let mut keys = client(&service, KEYS);
    let made = keys.create_key(request(&["calls.read"])).await.unwrap().into_inner();
    let (key, shown) = (made.key.unwrap(), made.api_key);
    assert_eq!((key.name.as_str(), key.created_by.as_str()), ("crm", "root"));
    assert!(key.created_with.is_empty() && key.expires_at.is_none());
    assert!(shown.starts_with(&format!("ck_{}_", key.id.strip_prefix("key_").unwrap())));

    // At once here, soon there.
    assert_eq!(tried(&service, &shown).await, Code::Ok);
    until(&other, &shown, Code::Ok).await;

    // The secret is nowhere: neither in a list nor in the row.
    let list = keys
        .list_keys(api::ListKeysRequest::default())
        .await
        .unwrap()
        .into_inner();
    let secret = &shown[36..];
    assert!(!format!("{list:?}").contains(secret));
    let row: String = database(&service.url)
        .await
        .query_one("SELECT row_to_json(api_keys)::text FROM api_keys", &[])
        .await
        .unwrap()
        .get(0);
    assert!(!row.contains(secret) && row.contains(&hash(&shown)), "{row}");

    // A stream that was opened with it ends with it, at the other replica too.
    let mut streams = Vec::new();
    for at in [&service, &other] {
        let mut calls = CallServiceClient::with_interceptor(at.channel.clone(), Shows(shown.clone()));
        let stream = calls.watch_calls(WatchCallsRequest::default()).await.unwrap();
        streams.push(stream.into_inner());
    }
    let revoke = api::RevokeKeyRequest { key_id: key.id.clone() };
    let revoked = keys.revoke_key(revoke.clone()).await.unwrap().into_inner().key.unwrap();
    assert_eq!(revoked.revoked_by, "root");
    assert_eq!(tried(&service, &shown).await, Code::Unauthenticated);
    until(&other, &shown, Code::Unauthenticated).await;
    for mut stream in streams {
        let ended = timeout(PATIENCE, async {
            loop {
                if let Err(status) = stream.message().await.transpose().expect("it ends with a status") {
                    break status;
                }
            }
        });
        assert_eq!(ended.await.unwrap().code(), Code::Unauthenticated);
    }

    // Again: nothing changes. Unknown: NOT_FOUND.
    assert_eq!(
        keys.revoke_key(revoke).await.unwrap().into_inner().key.unwrap(),
        revoked
    );
    let unknown = api::RevokeKeyRequest {
        key_id: format!("key_{}", "0".repeat(32)),
    };
    assert_eq!(keys.revoke_key(unknown).await.unwrap_err().code(), Code::NotFound);
    for (include_ended, count) in [(false, 0), (true, 1)] {
        let list = api::ListKeysRequest {
            include_ended,
            ..Default::default()
        };
        assert_eq!(keys.list_keys(list).await.unwrap().into_inner().keys.len(), count);
    }
    // Those of the settings are still there.
    assert_eq!(tried(&service, KEYS).await, Code::Ok);
    other.stop().await;
    service.stop().await;
}

/// F101: no scope comes from nowhere, through any number of hands.
#[tokio::test]
async fn nobody_makes_a_key_that_may_do_more() {
    let service = start().await;
    let mut root = client(&service, KEYS);
    let deputy = Minted::make(&mut root, &["keys.write", "calls.read"]).await;
    let mut deputys = client(&service, &deputy.shown);
    for (scopes, expected) in [
        (&["calls.read"][..], None),
        (&["keys.write", "calls.read"], None),
        (&["calls.write"], Some("SCOPE_NOT_HELD")),
        (&["keys.write", "ingest"], Some("SCOPE_NOT_HELD")),
    ] {
        let made = deputys.create_key(request(scopes)).await;
        let refused = made.as_ref().err().map(|status| (status.code(), reason(status)));
        assert_eq!(
            refused,
            expected.map(|reason| (Code::PermissionDenied, reason.to_owned())),
            "{scopes:?}"
        );
        if let Ok(made) = made {
            let key = made.into_inner().key.unwrap();
            assert_eq!((key.created_by.as_str(), &key.created_with), ("crm", &deputy.id));
        }
    }
    // Without the scope there is no list either.
    let reader = Minted::make(&mut root, &["calls.read"]).await;
    let refused = client(&service, &reader.shown)
        .list_keys(api::ListKeysRequest::default())
        .await;
    assert_eq!(reason(&refused.unwrap_err()), "SCOPE_MISSING");
    service.stop().await;
}

/// F101: forged keys cost no query, whatever their form.
#[tokio::test]
async fn forged_keys_ask_the_database_nothing() {
    let service = Service::start(
        &settings()
            .each_ref()
            .map(|(name, value)| (*name, if *name == "API_KEYS" { value.as_str() } else { "1h" })),
    )
    .await;
    let mut keys = client(&service, KEYS);
    let real = Minted::make(&mut keys, &["calls.read"]).await;
    assert_eq!(tried(&service, &real.shown).await, Code::Ok);
    let db = database(&service.url).await;
    // Whoever would ask now has to wait, and is seen.
    let (holder, wait) = (
        database(&service.url).await,
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    holder.batch_execute("BEGIN; LOCK TABLE api_keys").await.unwrap();
    for at in 0..2000_u128 {
        let forged = match at % 4 {
            0 => format!("ck_{:032x}_{}", at, &real.shown[36..]),
            1 => format!(
                "{}{}",
                &real.shown[..real.shown.len() - 1],
                if at % 8 == 1 { "!" } else { "~" }
            ),
            2 => format!("ck_{at}_x"),
            _ => format!("{}_{}", &real.shown[..35], "A".repeat(43)),
        };
        assert_eq!(tried(&service, &forged).await, Code::Unauthenticated, "{forged}");
        if at % 50 == 0 {
            let waiting: i64 = db.query_one(wait, &[]).await.unwrap().get(0);
            assert_eq!(waiting, 0, "{forged}");
        }
    }
    assert_eq!(tried(&service, &real.shown).await, Code::Ok);
    service.stop().await;
}

/// F101: an answer of before is not believed for long when the database is away, and nobody is told that a key is unknown.
#[tokio::test]
async fn a_list_that_cannot_be_read_is_given_up() {
    let service = start().await;
    let mut keys = client(&service, KEYS);
    let made = Minted::make(&mut keys, &["calls.read"]).await;
    assert_eq!(tried(&service, &made.shown).await, Code::Ok);
    let db = database(&service.url).await;
    db.batch_execute("ALTER TABLE api_keys RENAME TO api_keys_away")
        .await
        .unwrap();
    until(&service, &made.shown, Code::Unavailable).await;
    assert_eq!(tried(&service, KEYS).await, Code::Ok);
    db.batch_execute("ALTER TABLE api_keys_away RENAME TO api_keys")
        .await
        .unwrap();
    until(&service, &made.shown, Code::Ok).await;
    service.stop().await;
}

#[tokio::test]
async fn a_use_is_noted_now_and_then() {
    let service = Service::start(
        &settings()
            .each_ref()
            .map(|(name, value)| (*name, if *name == "API_KEYS" { value.as_str() } else { "10ms" })),
    )
    .await;
    let mut keys = client(&service, KEYS);
    let made = Minted::make(&mut keys, &["calls.read"]).await;
    assert_eq!(tried(&service, &made.shown).await, Code::Ok);
    let list = async |keys: &mut Keys| {
        let answer = keys.list_keys(api::ListKeysRequest::default()).await.unwrap();
        answer.into_inner().keys.remove(0).last_used_at
    };
    let first = stack::poll("the use", PATIENCE, async || {
        list(&mut client(&service, KEYS)).await.ok_or("not noted")
    })
    .await
    .unwrap();
    // Another use within minutes writes nothing: the row is the same version after many more looks.
    let db = database(&service.url).await;
    let version = async || -> String {
        db.query_one("SELECT xmin::text FROM api_keys", &[])
            .await
            .unwrap()
            .get(0)
    };
    let before = version().await;
    for _ in 0..200 {
        assert_eq!(tried(&service, &made.shown).await, Code::Ok);
    }
    assert_eq!(version().await, before);
    assert_eq!(list(&mut keys).await, Some(first));
    service.stop().await;
}

/// F101: a diagnosis that calls somebody takes what PlaceCall takes, too.
#[tokio::test]
async fn a_diagnosis_that_calls_needs_both_scopes() {
    let service = start().await;
    let mut root = client(&service, KEYS);
    for (scopes, call, expected) in [
        (&["credentials.write"][..], "", (Code::NotFound, "NOT_FOUND")),
        (
            &["credentials.write"],
            "+919812345678",
            (Code::PermissionDenied, "SCOPE_MISSING"),
        ),
        (
            &["credentials.write"],
            "  \t+919812345678",
            (Code::PermissionDenied, "SCOPE_MISSING"),
        ),
        (
            &["calls.write"],
            "+919812345678",
            (Code::PermissionDenied, "SCOPE_MISSING"),
        ),
        (
            &["credentials.write", "calls.write"],
            "+919812345678",
            (Code::NotFound, "NOT_FOUND"),
        ),
        (
            &["credentials.write", "calls.write"],
            "+442079460123",
            (Code::PermissionDenied, "DESTINATION_NOT_ALLOWED"),
        ),
    ] {
        let key = Minted::make(&mut root, scopes).await;
        let mut phones = PhoneServiceClient::with_interceptor(service.channel.clone(), Shows(key.shown));
        let request = DiagnoseRequest {
            phone_id: format!("phone_{}", "0".repeat(32)),
            call: call.to_owned(),
            ..Default::default()
        };
        let refused = phones.diagnose(request).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            expected,
            "{scopes:?} {call}"
        );
    }
    service.stop().await;
}

/// F101: all keys that work are in every replica's memory, so they have an end.
#[tokio::test]
async fn there_are_a_thousand_keys_at_most() {
    let service = start().await;
    let mut root = client(&service, KEYS);
    let kept = Minted::make(&mut root, &["calls.read"]).await;
    let db = database(&service.url).await;
    db.batch_execute(
        "INSERT INTO api_keys (id, name, sha256, scopes, created_by)
        SELECT gen_random_uuid(), 'many', sha256(n::text::bytea), 'calls.read', 'test' FROM generate_series(1, 998) AS n",
    )
    .await
    .unwrap();
    let last = Minted::make(&mut root, &["calls.read"]).await;
    let refused = root.create_key(request(&["calls.read"])).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_KEYS")
    );
    for works in [&kept.shown, &last.shown] {
        assert_eq!(tried(&service, works).await, Code::Ok);
    }
    // One that is revoked makes room.
    kept.revoke(&mut root).await;
    Minted::make(&mut root, &["calls.read"]).await;
    assert_eq!(tried(&service, &kept.shown).await, Code::Unauthenticated);
    service.stop().await;
}

/// Nothing of the request's head is in the answer.
#[tokio::test]
async fn a_refusal_does_not_repeat_the_key() {
    let service = start().await;
    let canary = format!("ck_{}_{}", "0".repeat(32), "canary0".repeat(7));
    let mut accounts = AccountServiceClient::with_interceptor(service.channel.clone(), Shows(canary));
    let refused = accounts
        .list_accounts(ListAccountsRequest::default())
        .await
        .unwrap_err();
    let told = |metadata: &MetadataMap| format!("{metadata:?}");
    let text = format!("{refused:?}{}", told(refused.metadata()));
    assert!(!text.contains("canary0"), "{text}");
    service.stop().await;
}
