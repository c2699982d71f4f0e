//! API keys by the command line, and an edge that is known by its certificate.

use std::fs;

use anyhow::{Context as _, Result};
use e2e::{Story, callbridge_at};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, string::Ia5String};
use runtime::{Tasks, config::Vars};
use stack::Keys;
use tempfile::TempDir;

/// F101: made, used, listed and revoked from the command line, for scripts and for people.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_revoked() -> Result<()> {
    let story = Story::start().await?;
    let create = [
        "--json",
        "keys",
        "create",
        "crm",
        "--scope",
        "calls.read",
        "--expires-in",
        "90d",
    ];
    let made = story.callbridge(&create).await?.json()?.remove(0);
    let (id, shown) = (
        made["key"]["id"].as_str().context("no id")?,
        made["api_key"].as_str().context("no key")?,
    );
    assert_eq!(made["key"]["scopes"], serde_json::json!(["calls.read"]));
    assert!(
        story
            .callbridge_with(shown, &["calls", "list"])
            .await?
            .failure
            .is_none()
    );
    // It may neither make others nor see them.
    for refused in [&["keys", "list"][..], &["keys", "create", "x", "--scope", "calls.read"]] {
        let (told, exit) = story
            .callbridge_with(shown, refused)
            .await?
            .failure
            .context("it is let in")?;
        assert_eq!(exit, 77, "{told}");
    }
    let listed = story.callbridge(&["keys", "list"]).await?.output;
    assert!(listed.contains(id) && !listed.contains(&shown[36..]), "{listed}");
    // Nobody has the edge's scopes but edges.
    let create = ["keys", "create", "spy", "--scope", "media"];
    let (told, exit) = story.callbridge(&create).await?.failure.context("it is made")?;
    assert!(exit == 77 && told.contains("media"), "{exit}: {told}");

    let revoked = story.callbridge(&["keys", "revoke", id]).await?.output;
    assert!(revoked.contains("revoked by"), "{revoked}");
    let failure = story.callbridge_with(shown, &["calls", "list"]).await?.failure;
    assert_eq!(failure.context("it is let in")?.1, 77);
    assert!(!story.callbridge(&["keys", "list"]).await?.output.contains(id));
    let all = story.callbridge(&["--json", "keys", "list", "--all"]).await?.json()?;
    assert_eq!(all.len(), 1);
    assert!(!all[0]["revoked_at"].is_null(), "{all:?}");
    let people = story
        .callbridge(&["keys", "create", "crm", "--scope", "calls.read"])
        .await?
        .output;
    assert!(
        people.contains("api key") && people.contains("not shown again"),
        "{people}"
    );
    Ok(())
}

/// F101: call-service and edge speak TLS with each other; the edge has no API key, and neither has an operator with a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_known_by_its_certificate() -> Result<()> {
    runtime::install_crypto_provider();
    let folder = TempDir::new()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    fs::write(path("ca"), params.self_signed(&key)?.pem())?;
    let authority = Issuer::new(params, key);
    let sign = |name: &str, of: SanType| -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![of];
        fs::write(path(&format!("{name}.crt")), params.signed_by(&key, &authority)?.pem())?;
        fs::write(path(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    };
    sign("server", SanType::IpAddress([127, 0, 0, 1].into()))?;
    sign("edge", SanType::URI(Ia5String::try_from("spiffe://test/edge")?))?;
    sign("ops", SanType::URI(Ia5String::try_from("spiffe://test/ops")?))?;

    let database = stack::shared_postgres().await?.create_empty_database().await?;
    call_service::migrate(&database).await?;
    let keys = Keys::generate()?;
    let common = [
        ("WEBHOOK_BASE_URL", "http://127.0.0.1:1".to_owned()),
        ("AGENT_ENDPOINT_ALLOW", "loopback".to_owned()),
    ];
    let settings = [
        ("DATABASE_URL", database),
        ("CREDENTIAL_KEYS", keys.credential_keys.clone()),
        ("TOKEN_KEYS", keys.token_keys.clone()),
        ("API_KEYS", keys.api_keys()),
        ("CALL_SERVICE_ADDR", "127.0.0.1:0".to_owned()),
        ("CALL_SERVICE_INTERNAL_ADDR", "127.0.0.1:0".to_owned()),
        ("CALL_SERVICE_TLS_CERT", path("server.crt")),
        ("CALL_SERVICE_TLS_KEY", path("server.key")),
        ("CALL_SERVICE_TLS_CLIENT_CA", path("ca")),
        (
            "CALL_SERVICE_TLS_CLIENTS",
            "spiffe://test/edge=edge:ingest+media,spiffe://test/ops=ops:calls.read".to_owned(),
        ),
        ("DRAIN_TIMEOUT", "1s".to_owned()),
    ];
    let config = call_service::Config::read(settings.into_iter().chain(common.clone()).collect::<Vars>())?;
    let listeners = call_service::Listeners::bind(&config).await?;
    let (url, tasks) = (format!("https://{}", listeners.grpc.local_addr()?), Tasks::new());
    let serving = Tasks::new().spawn(call_service::run(config, listeners, tasks.clone()));

    let settings = [
        ("EDGE_ADDR", "127.0.0.1:0".to_owned()),
        ("EDGE_INTERNAL_ADDR", "127.0.0.1:0".to_owned()),
        ("EDGE_TOKEN_KEYS", keys.edge_token_keys()?),
        ("EDGE_ACCEPT_SECONDS", "0".to_owned()),
        ("CALL_SERVICE_URL", url.clone()),
        ("CALL_SERVICE_CA", path("ca")),
        ("CALL_SERVICE_CLIENT_CERT", path("edge.crt")),
        ("CALL_SERVICE_CLIENT_KEY", path("edge.key")),
    ];
    let config = edge::Config::read(settings.into_iter().chain(common).collect::<Vars>())?;
    let listeners = edge::Listeners::bind(&config).await?;
    let ready = format!("http://{}/readyz", listeners.internal.local_addr()?);
    let edge_tasks = Tasks::new();
    let edge = Tasks::new().spawn(edge::run(config, listeners, edge_tasks.clone()));
    let http = reqwest::Client::builder().no_proxy().build()?;
    // An edge is ready when it is attached.
    stack::poll("the edge's readiness", e2e::PATIENCE, async || {
        let answer = http.get(&ready).send().await.map_err(|error| error.to_string())?;
        answer.error_for_status().map(drop).map_err(|error| error.to_string())
    })
    .await?;

    let (ca, certificate, key) = (path("ca"), path("ops.crt"), path("ops.key"));
    let with = ["--ca", &ca, "--client-cert", &certificate, "--client-key", &key];
    let ran = |more: &[&'static str]| [&with[..], more].concat();
    // An empty key is none.
    let listed = callbridge_at(&url, "", &ran(&["calls", "list"])).await?;
    assert!(listed.failure.is_none(), "{listed:?}");
    let failure = callbridge_at(&url, "", &ran(&["keys", "list"])).await?.failure;
    assert_eq!(failure.context("it is let in")?.1, 77);
    let strange = callbridge_at(&url, "", &["--ca", &ca, "calls", "list"]).await?;
    let (told, exit) = strange.failure.context("it is let in without a certificate")?;
    assert!(exit == 69 && told.contains("needs a certificate"), "{exit}: {told}");

    edge_tasks.stop();
    edge.await?.context("the edge was dropped")??;
    tasks.stop();
    serving.await?.context("call-service was dropped")??;
    Ok(())
}
