use super::*;

fn request() -> api::CreateAccountRequest {
    api::CreateAccountRequest {
        name: " Acme ".to_owned(),
        sid: "acme1".to_owned(),
        ..Default::default()
    }
}

fn fields(error: Error) -> Vec<String> {
    match error {
        Error::Invalid(violations) => violations.into_iter().map(|violation| violation.field).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn defaults_are_those_of_the_proto() {
    let new = New::read(&request()).unwrap();
    assert_eq!(
        new.settings,
        Settings {
            name: "Acme".to_owned(),
            ..from_environment("api.exotel.com")
        }
    );
    assert!(new.secrets.is_none());
}

#[test]
fn everything_wrong_is_told_at_once_by_field() {
    let wrong = api::CreateAccountRequest {
        name: "x".repeat(101),
        sid: "a/b".to_owned(),
        calls_per_minute: -1,
        max_concurrent_calls: -1,
        inbound_reserve: -1,
        calling_hours: Some(api::CallingHours {
            off: false,
            start_minute: 1300,
            end_minute: 1441,
            time_zone: "Mars/Olympus".to_owned(),
        }),
        app_id: "a b".to_owned(),
        credentials: Some(api::ExotelCredentials {
            api_key: String::new(),
            api_token: "tok en".to_owned(),
        }),
        subdomain: "evil.example".to_owned(),
    };
    let mut told = fields(New::read(&wrong).unwrap_err());
    told.sort();
    assert_eq!(
        told,
        [
            "app_id",
            "calling_hours.end_minute",
            "calling_hours.time_zone",
            "calls_per_minute",
            "credentials.api_key",
            "credentials.api_token",
            "inbound_reserve",
            "max_concurrent_calls",
            "name",
            "sid",
            "subdomain",
        ]
    );
    assert!(!New::read(&wrong).unwrap_err().to_string().contains("tok en"));
}

#[test]
fn hours_never_reach_into_the_night_by_a_left_out_field() {
    let with = |start_minute, end_minute| {
        let hours = api::CallingHours {
            start_minute,
            end_minute,
            ..Default::default()
        };
        New::read(&api::CreateAccountRequest {
            calling_hours: Some(hours),
            ..request()
        })
        .map(|new| (new.settings.hours_start_minute, new.settings.hours_end_minute))
        .map_err(fields)
    };
    assert_eq!(with(0, 0), Ok((540, 1260)));
    assert_eq!(with(0, 1200), Ok((540, 1200)));
    assert_eq!(with(600, 0), Ok((600, 1260)));
    assert_eq!(with(1, 1440), Ok((1, 1440)));
    assert_eq!(with(0, 500), Err(vec!["calling_hours".to_owned()]));
}

#[test]
fn an_update_checks_the_whole() {
    let mut settings = from_environment("api.exotel.com");
    settings.max_concurrent_calls = 5;
    let mut wrong = Violations::new();
    let from = api::Account {
        inbound_reserve: 6,
        name: String::new(),
        ..Default::default()
    };
    apply(&mut wrong, &from, &["inbound_reserve"], &mut settings);
    assert_eq!(fields(wrong.finish().unwrap_err()), ["account.inbound_reserve"]);
    assert_eq!(settings.name, "environment");
}
