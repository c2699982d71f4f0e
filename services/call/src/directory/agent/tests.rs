use super::*;

fn request() -> api::CreateAgentRequest {
    api::CreateAgentRequest {
        name: "echo".to_owned(),
        endpoints: vec!["http://127.0.0.1:50061".to_owned()],
        ..Default::default()
    }
}

fn loopback() -> Allow {
    Allow::parse("loopback").unwrap()
}

fn fields(error: Error) -> Vec<String> {
    match error {
        Error::Invalid(violations) => violations.into_iter().map(|violation| violation.field).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn defaults_are_those_of_the_proto() {
    let New(settings) = New::read(&loopback(), &request()).unwrap();
    assert_eq!((settings.sample_rate, settings.config.as_str()), (8000, "{}"));
    assert_eq!((settings.greeting_text, settings.greeting_sha256), (None, None));
}

#[test]
fn everything_wrong_is_told_at_once_by_field() {
    let wrong = api::CreateAgentRequest {
        name: " ".to_owned(),
        endpoints: vec![
            "http://127.0.0.1:1".to_owned(),
            "http://192.0.2.1:1".to_owned(),
            "x".to_owned(),
        ],
        greeting: Some(api::Greeting {
            text: "x".repeat(1001),
            wav_sha256: "AB".repeat(32),
        }),
        sample_rate: 44_100,
        config: "{".to_owned(),
        max_concurrent_calls: -1,
    };
    let mut told = fields(New::read(&loopback(), &wrong).unwrap_err());
    told.sort();
    assert_eq!(
        told,
        [
            "config",
            "endpoints[1]",
            "endpoints[2]",
            "greeting.text",
            "greeting.wav_sha256",
            "max_concurrent_calls",
            "name",
            "sample_rate",
        ]
    );
    for endpoints in [Vec::new(), vec!["http://127.0.0.1:1".to_owned(); 6]] {
        let wrong = api::CreateAgentRequest { endpoints, ..request() };
        assert_eq!(fields(New::read(&loopback(), &wrong).unwrap_err()), ["endpoints"]);
    }
    let wrong = api::CreateAgentRequest {
        config: format!("\"{}\"", "x".repeat(CONFIG_BYTES)),
        ..request()
    };
    assert_eq!(fields(New::read(&loopback(), &wrong).unwrap_err()), ["config"]);
}

#[test]
fn an_update_touches_what_it_names() {
    let New(mut settings) = New::read(&loopback(), &request()).unwrap();
    let from = api::Agent {
        config: " [1] ".to_owned(),
        sample_rate: 16_000,
        ..Default::default()
    };
    let mut wrong = Violations::new();
    apply(&mut wrong, &loopback(), &from, &["config"], &mut settings);
    wrong.finish().unwrap();
    assert_eq!(
        (settings.config.as_str(), settings.sample_rate, settings.name.as_str()),
        ("[1]", 8000, "echo")
    );
}
