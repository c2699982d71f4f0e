use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn vars(extra: &[(&str, &str)]) -> Vars {
    let keys = format!("1:{KEY}");
    let api = format!("crm:calls.write:{}", "ab".repeat(32));
    let base = [
        ("DATABASE_URL", "postgres://u:canary-password@db/callbridge"),
        ("CREDENTIAL_KEYS", keys.as_str()),
        ("TOKEN_KEYS", keys.as_str()),
        ("API_KEYS", api.as_str()),
        ("RENDER_EXTERNAL_URL", "https://calls.example.com/"),
    ];
    base.iter().chain(extra).map(|(name, value)| (*name, *value)).collect()
}

fn problems(extra: &[(&str, &str)]) -> Vec<String> {
    Config::read(vars(extra)).unwrap_err().0
}

#[test]
fn defaults() {
    let config = Config::read(vars(&[])).unwrap();
    assert_eq!(config.addr.to_string(), "0.0.0.0:50051");
    assert_eq!(config.internal_addr.to_string(), "0.0.0.0:9091");
    assert_eq!(config.public_base_url, "https://calls.example.com");
    assert!(config.reflection && config.environment.credentials.is_none());
    let seconds: Vec<i64> = config.read_back_steps.iter().map(TimeDelta::num_seconds).collect();
    assert_eq!(seconds, [10, 30, 60]);
    assert_eq!(
        (config.sweep_after.num_seconds(), config.settle_window.num_minutes()),
        (60, 15)
    );
    assert_eq!(
        (config.attach_lease.num_seconds(), config.drain_timeout.as_secs()),
        (45, 45)
    );
    assert_eq!(config.retention.transcripts.map(|kept| kept.num_days()), Some(400));
}

#[test]
fn settings_are_read() {
    let config = Config::read(vars(&[
        ("WEBHOOK_BASE_URL", "http://127.0.0.1:8080"),
        ("AGENT_ENDPOINT_ALLOW", "loopback"),
        ("REFLECTION", "off"),
        ("SWEEP_AFTER", "300ms"),
        ("READ_BACK_STEPS", "100ms, 2s"),
        ("DIAL_CONCURRENCY", "3"),
        ("RETENTION", "0"),
        ("EXOTEL_SID", "acme1"),
        ("EXOTEL_API_KEY", "canary-key"),
        ("EXOTEL_API_TOKEN", "canary-token"),
        ("EXOTEL_SUBDOMAIN", "API.in.exotel.com"),
        ("EXOTEL_CALLER_ID", "080 4000 0155"),
        ("EXOTEL_APP_ID", "29281"),
    ]))
    .unwrap();
    assert_eq!(config.public_base_url, "http://127.0.0.1:8080");
    assert!(!config.reflection && config.agent_endpoints.check("http://127.0.0.1:1").is_ok());
    assert_eq!(
        (
            config.sweep_after,
            config.dial_concurrency.get(),
            config.retention.calls
        ),
        (TimeDelta::milliseconds(300), 3, None)
    );
    assert_eq!(
        config.default_caller_id().map(PhoneNumber::expose),
        Some("+918040000155")
    );
    assert_eq!(config.default_app_id().as_deref(), Some("29281"));
    assert_eq!(
        config.environment.credentials.as_ref().unwrap().subdomain,
        "api.in.exotel.com"
    );

    // F122.
    let shown = format!("{config:?}");
    for secret in ["canary", "AAECAwQF", "abababab", "80400"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn all_mistakes_are_told_together_and_without_values() {
    let ConfigError(nothing) = Config::read(Vars::default()).unwrap_err();
    for name in [
        "DATABASE_URL",
        "CREDENTIAL_KEYS",
        "TOKEN_KEYS",
        "API_KEYS",
        "WEBHOOK_BASE_URL",
    ] {
        assert_eq!(
            nothing.iter().filter(|problem| problem.contains(name)).count(),
            1,
            "{name}: {nothing:?}"
        );
    }
    let told = problems(&[
        ("CALL_SERVICE_ADDR", "canary"),
        ("CREDENTIAL_KEYS", "1:canary"),
        ("TOKEN_KEYS", "canary"),
        ("API_KEYS", "canary"),
        ("WEBHOOK_BASE_URL", "http://canary.example"),
        ("AGENT_ENDPOINT_ALLOW", "can ary"),
        ("REFLECTION", "canary"),
        ("SETTLE_WINDOW", "canary"),
        ("RETENTION", "canary"),
        ("DB_POOL_SIZE", "0"),
        ("EXOTEL_SUBDOMAIN", "canary.example"),
        ("EXOTEL_CALLER_ID", "canary"),
    ]);
    assert_eq!(told.len(), 12, "{told:?}");
    assert!(!told.concat().contains("canary"), "{told:?}");
}

#[test]
fn exotels_three_go_together() {
    let told = problems(&[("EXOTEL_SID", "acme1"), ("EXOTEL_API_TOKEN", "t")]);
    assert!(told.len() == 1 && told[0].contains("EXOTEL_API_KEY"), "{told:?}");
    assert_eq!(problems(&[("EXOTEL_API_KEY", "k")]).len(), 2);
}
