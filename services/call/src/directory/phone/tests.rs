use uuid::Uuid;

use super::*;

fn request() -> api::CreatePhoneRequest {
    api::CreatePhoneRequest {
        account_id: AccountId(Uuid::from_u128(1)).to_string(),
        number: "080 4000 0155".to_owned(),
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
fn numbers_are_kept_in_one_form() {
    let new = New::read(&api::CreatePhoneRequest {
        transfer_numbers: vec!["098123 45678".to_owned(), "+919812345679".to_owned()],
        ..request()
    })
    .unwrap();
    assert_eq!(new.number.expose(), "+918040000155");
    assert_eq!(new.settings.transfer_numbers, json!(["+919812345678", "+919812345679"]));
    assert_eq!(new.settings.dial_mode, DialMode::Flow);
    assert!(!format!("{new:?}").contains("98123"));
}

#[test]
fn a_prompt_gets_its_defaults() {
    let prompt = api::GatherPrompt {
        text: "Press one".to_owned(),
        ..Default::default()
    };
    let new = New::read(&api::CreatePhoneRequest {
        gather: Some(prompt.clone()),
        ..request()
    })
    .unwrap();
    let kept: Gather = serde_json::from_value(new.settings.gather.unwrap()).unwrap();
    let wanted = Gather {
        text: "Press one".to_owned(),
        max_digits: 1,
        finish_on_key: "#".to_owned(),
        timeout_seconds: 5,
        repeats: 0,
    };
    assert_eq!(kept, wanted);
    let none = api::GatherPrompt {
        finish_on_key: "none".to_owned(),
        ..prompt
    };
    let new = New::read(&api::CreatePhoneRequest {
        gather: Some(none),
        ..request()
    })
    .unwrap();
    assert_eq!(new.settings.gather.unwrap()["finish_on_key"], "");
}

#[test]
fn everything_wrong_is_told_at_once_by_field() {
    let wrong = api::CreatePhoneRequest {
        account_id: "acme".to_owned(),
        number: "secret-number".to_owned(),
        label: "x".repeat(101),
        dial_mode: 9,
        app_id: "/".to_owned(),
        agent_id: "agent".to_owned(),
        max_concurrent_calls: -1,
        gather: Some(api::GatherPrompt {
            text: String::new(),
            max_digits: 256,
            finish_on_key: "ab".to_owned(),
            timeout_seconds: 61,
            repeats: 11,
        }),
        transfer_numbers: vec!["1".to_owned(); 6],
        credentials: None,
        subdomain: "evil.example".to_owned(),
        audio: Some(api::AudioSettings {
            lead_ms: 1,
            ..Default::default()
        }),
        record_audio: false,
    };
    let mut told = fields(New::read(&wrong).unwrap_err());
    told.sort();
    assert_eq!(
        told,
        [
            "account_id",
            "agent_id",
            "app_id",
            "audio.lead_ms",
            "dial_mode",
            "gather.finish_on_key",
            "gather.max_digits",
            "gather.repeats",
            "gather.text",
            "gather.timeout_seconds",
            "label",
            "max_concurrent_calls",
            "number",
            "subdomain",
            "transfer_numbers",
            "transfer_numbers[0]",
            "transfer_numbers[1]",
            "transfer_numbers[2]",
            "transfer_numbers[3]",
            "transfer_numbers[4]",
        ]
    );
    assert!(!New::read(&wrong).unwrap_err().to_string().contains("secret-number"));
}

#[test]
fn a_cluster_goes_with_credentials() {
    let alone = api::CreatePhoneRequest {
        subdomain: "api.in.exotel.com".to_owned(),
        ..request()
    };
    assert_eq!(fields(New::read(&alone).unwrap_err()), ["subdomain"]);
    let set = api::ExotelCredentials {
        api_key: "k".to_owned(),
        api_token: " t ".to_owned(),
    };
    let new = New::read(&api::CreatePhoneRequest {
        credentials: Some(set),
        ..alone
    })
    .unwrap();
    assert_eq!(new.subdomain.as_deref(), Some("api.in.exotel.com"));
}

#[test]
fn an_update_touches_what_it_names() {
    let mut settings = Settings {
        label: "old".to_owned(),
        max_concurrent_calls: 3,
        ..Settings::default()
    };
    let from = api::Phone {
        label: "new".to_owned(),
        dial_mode: api::DialMode::Stream.into(),
        ..Default::default()
    };
    let mut wrong = Violations::new();
    apply(&mut wrong, &from, &["label", "gather"], &mut settings);
    wrong.finish().unwrap();
    assert_eq!((settings.label.as_str(), settings.max_concurrent_calls), ("new", 3));
    assert_eq!(settings.dial_mode, DialMode::Flow);
}
