//! Accounts, phones, agents and greetings over the wire.

use callbridge_proto::directory::v1 as api;
use exotel::{
    paths::{Applet, applet_url},
    token::{Purpose, TokenKeys},
};
use prost_types::FieldMask;
use tonic::{Code, Request};

use crate::service::{ADMIN, Service, client, fields, key, reason};

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask {
        paths: paths.iter().map(ToString::to_string).collect(),
    }
}

fn set(key: &str, token: &str) -> api::ExotelCredentials {
    api::ExotelCredentials {
        api_key: key.to_owned(),
        api_token: token.to_owned(),
    }
}

async fn account(service: &Service, name: &str, sid: &str) -> api::Account {
    let request = api::CreateAccountRequest {
        name: name.to_owned(),
        sid: sid.to_owned(),
        ..Default::default()
    };
    service
        .accounts(ADMIN)
        .create_account(request)
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap()
}

#[tokio::test]
async fn an_account_is_created_read_changed_and_listed() {
    let service = Service::start(&[]).await;
    let mut accounts = service.accounts(ADMIN);
    let request = api::CreateAccountRequest {
        name: "Acme".to_owned(),
        sid: "acme1".to_owned(),
        credentials: Some(set("canary-key", "canary-token")),
        ..Default::default()
    };
    let made = accounts
        .create_account(request.clone())
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap();
    assert!(made.id.starts_with("acct_") && made.has_credentials && !made.from_environment);
    assert_eq!((made.calls_per_minute, made.subdomain.as_str()), (60, "api.exotel.com"));

    let again = accounts.create_account(request).await.unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::AlreadyExists, "SID_TAKEN")
    );

    let changed = api::Account {
        id: made.id.clone(),
        calls_per_minute: 120,
        name: "not in the mask".to_owned(),
        calling_hours: Some(api::CallingHours {
            off: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let update = |account, update_mask| api::UpdateAccountRequest {
        account: Some(account),
        update_mask,
    };
    let paths = ["calls_per_minute", "calling_hours"];
    let after = accounts
        .update_account(update(changed.clone(), Some(mask(&paths))))
        .await
        .unwrap()
        .into_inner();
    let after = after.account.unwrap();
    assert_eq!((after.calls_per_minute, after.name.as_str()), (120, "Acme"));
    assert!(after.calling_hours.clone().unwrap().off && after.has_credentials);
    for (wrong, field) in [(Some(mask(&["sid"])), "update_mask"), (None, "update_mask")] {
        assert_eq!(
            fields(
                &accounts
                    .update_account(update(changed.clone(), wrong))
                    .await
                    .unwrap_err()
            ),
            [field]
        );
    }

    let got = accounts
        .get_account(api::GetAccountRequest {
            account_id: made.id.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.account.unwrap(), after);
    let nobody = "acct_00000000000000000000000000000000".to_owned();
    let missing = accounts
        .get_account(api::GetAccountRequest { account_id: nobody })
        .await
        .unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let not_an_id = accounts
        .get_account(api::GetAccountRequest {
            account_id: "x".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (not_an_id.code(), fields(&not_an_id)),
        (Code::InvalidArgument, vec!["account_id".to_owned()])
    );

    // F122: what is stored shows neither.
    let row = client(&service.url)
        .await
        .query_one("SELECT sealed FROM credentials", &[])
        .await
        .unwrap();
    let sealed: Vec<u8> = row.get(0);
    assert!(!String::from_utf8_lossy(&sealed).contains("canary"));
    service.stop().await;
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    let service = Service::start(&[]).await;
    // Two of one name: the order is still total.
    for (name, sid) in [("b", "s1"), ("a", "s2"), ("b", "s3"), ("c", "s4"), ("a", "s5")] {
        account(&service, name, sid).await;
    }
    let mut accounts = service.accounts(ADMIN);
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = api::ListAccountsRequest {
            page_size: 2,
            page_token,
        };
        let page = accounts.list_accounts(request).await.unwrap().into_inner();
        assert!(page.accounts.len() <= 2);
        seen.extend(page.accounts.into_iter().map(|account| account.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["a", "a", "b", "b", "c"]);
    let request = api::ListAccountsRequest {
        page_size: 2,
        page_token: "x".to_owned(),
    };
    assert_eq!(
        fields(&accounts.list_accounts(request).await.unwrap_err()),
        ["page_token"]
    );
    service.stop().await;
}

#[tokio::test]
async fn webhook_urls_hold_a_token_of_the_present_generation() {
    let service = Service::start(&[]).await;
    let account_id = account(&service, "Acme", "acme1").await.id;
    let mut accounts = service.accounts(ADMIN);
    let verifier = TokenKeys::parse(&format!("1:{}", key(2))).unwrap().verifier();
    for generation in [1, 2, 3] {
        let request = api::GetWebhookUrlsRequest {
            account_id: account_id.clone(),
        };
        let urls = accounts.get_webhook_urls(request).await.unwrap().into_inner();
        let claims = verifier.verify(&urls.account_token, Purpose::Account, 0).unwrap();
        assert_eq!((claims.generation(), claims.expires_unix), (generation, 0));
        assert_eq!(account_id, format!("acct_{}", claims.id.simple()));
        assert_eq!(
            urls.connect_url,
            applet_url("https://calls.example.com", &urls.account_token, Applet::Connect)
        );
        assert_eq!(urls.socket_url, "wss://calls.example.com/ws/exotel/voice");
        let request = api::RotateAccountTokenRequest {
            account_id: account_id.clone(),
        };
        let rotated = accounts.rotate_account_token(request).await.unwrap().into_inner();
        assert_eq!(rotated.generation, i32::from(generation) + 1);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_phone_has_an_agent_and_credentials_of_its_own() {
    let service = Service::start(&[]).await;
    let account_id = account(&service, "Acme", "acme1").await.id;
    let (mut phones, mut agents) = (service.phones(), service.agents());
    let request = api::CreateAgentRequest {
        name: "echo".to_owned(),
        endpoints: vec!["http://127.0.0.1:50061".to_owned()],
        ..Default::default()
    };
    let agent = agents.create_agent(request).await.unwrap().into_inner().agent.unwrap();

    let request = api::CreatePhoneRequest {
        account_id: account_id.clone(),
        number: "08040000155".to_owned(),
        agent_id: agent.id.clone(),
        gather: Some(api::GatherPrompt {
            text: "Press".to_owned(),
            finish_on_key: "none".to_owned(),
            ..Default::default()
        }),
        transfer_numbers: vec!["09812345678".to_owned()],
        ..Default::default()
    };
    let made = phones
        .create_phone(request.clone())
        .await
        .unwrap()
        .into_inner()
        .phone
        .unwrap();
    assert_eq!((made.number.as_str(), made.has_credentials), ("+918040000155", false));
    assert_eq!(made.dial_mode(), api::DialMode::Flow);
    assert_eq!(made.gather.clone().unwrap().finish_on_key, "none");
    assert_eq!(made.transfer_numbers, ["+919812345678"]);

    let taken = phones.create_phone(request.clone()).await.unwrap_err();
    assert_eq!(
        (taken.code(), reason(&taken).as_str()),
        (Code::AlreadyExists, "NUMBER_TAKEN")
    );
    let nobody = "agent_00000000000000000000000000000000".to_owned();
    let missing = phones.create_phone(api::CreatePhoneRequest {
        agent_id: nobody,
        number: "08040000156".to_owned(),
        ..request
    });
    assert_eq!(missing.await.unwrap_err().code(), Code::NotFound);

    // Nothing to verify with, then credentials come, then they go again.
    let phone_id = made.id.clone();
    let verify = api::VerifyCredentialsRequest {
        phone_id: phone_id.clone(),
    };
    let refused = phones.verify_credentials(verify).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "NO_CREDENTIALS")
    );
    for (api_key, subdomain) in [("one", "api.in.exotel.com"), ("two", "")] {
        let request = api::SetPhoneCredentialsRequest {
            phone_id: phone_id.clone(),
            credentials: Some(set(api_key, "token")),
            subdomain: subdomain.to_owned(),
        };
        let after = phones
            .set_phone_credentials(request)
            .await
            .unwrap()
            .into_inner()
            .phone
            .unwrap();
        assert!(after.has_credentials);
    }
    let row = client(&service.url)
        .await
        .query_one("SELECT row_version, subdomain FROM credentials", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Option<String>>(1)), (2, None));
    let request = api::ClearPhoneCredentialsRequest {
        phone_id: phone_id.clone(),
    };
    assert!(
        !phones
            .clear_phone_credentials(request)
            .await
            .unwrap()
            .into_inner()
            .phone
            .unwrap()
            .has_credentials
    );

    let change = api::Phone {
        id: phone_id,
        label: "Support".to_owned(),
        ..Default::default()
    };
    let request = api::UpdatePhoneRequest {
        phone: Some(change),
        update_mask: Some(mask(&["label", "gather"])),
    };
    let after = phones.update_phone(request).await.unwrap().into_inner().phone.unwrap();
    assert_eq!(
        (after.label.as_str(), after.gather, after.agent_id),
        ("Support", None, agent.id)
    );

    let request = api::ListPhonesRequest {
        account_id,
        ..Default::default()
    };
    assert_eq!(phones.list_phones(request).await.unwrap().into_inner().phones.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn each_change_of_an_agent_is_a_version() {
    let service = Service::start(&[]).await;
    let mut agents = service.agents();
    let request = api::CreateAgentRequest {
        name: "echo".to_owned(),
        endpoints: vec!["http://127.0.0.1:50061".to_owned()],
        ..Default::default()
    };
    // F124.
    let elsewhere = api::CreateAgentRequest {
        endpoints: vec!["http://169.254.169.254".to_owned()],
        ..request.clone()
    };
    assert_eq!(
        fields(&agents.create_agent(elsewhere).await.unwrap_err()),
        ["endpoints[0]"]
    );

    let made = agents.create_agent(request).await.unwrap().into_inner().agent.unwrap();
    let change = api::Agent {
        id: made.id.clone(),
        config: "{\"a\":1}".to_owned(),
        ..Default::default()
    };
    let request = api::UpdateAgentRequest {
        agent: Some(change),
        update_mask: Some(mask(&["config"])),
    };
    let both = futures_util::future::join(
        agents.clone().update_agent(request.clone()),
        agents.update_agent(request),
    )
    .await;
    let mut versions = [both.0, both.1].map(|made| made.unwrap().into_inner().agent.unwrap().version);
    versions.sort_unstable();
    assert_eq!((made.version, versions), (1, [2, 3]));
    let rows = client(&service.url)
        .await
        .query("SELECT config FROM agent_versions ORDER BY version", &[])
        .await
        .unwrap();
    let configs: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(configs, ["{}", "{\"a\":1}", "{\"a\":1}"]);
    service.stop().await;
}

#[tokio::test]
async fn a_greeting_is_uploaded_and_named_by_its_hash() {
    let service = Service::start(&[]).await;
    let mut agents = service.agents();
    let mut wav = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut wav, spec).unwrap();
    for sample in 0..80_000_i32 {
        writer.write_sample(i16::try_from(sample % 100).unwrap()).unwrap();
    }
    writer.finalize().unwrap();
    let wav = wav.into_inner();
    let pieces = |size: usize| -> Vec<api::UploadGreetingRequest> {
        wav.chunks(size)
            .map(|chunk| api::UploadGreetingRequest {
                chunk: chunk.to_vec().into(),
            })
            .collect()
    };
    let mut hashes = Vec::new();
    for size in [1000, 65_536] {
        let stored = agents
            .upload_greeting(Request::new(tokio_stream::iter(pieces(size))))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(stored.duration_ms, 10_000);
        hashes.push(stored.wav_sha256);
    }
    assert_eq!(hashes[0], hashes[1]);
    let large = agents
        .upload_greeting(tokio_stream::iter(pieces(65_537)))
        .await
        .unwrap_err();
    assert_eq!(
        (large.code(), fields(&large)),
        (Code::InvalidArgument, vec!["chunk".to_owned()])
    );

    let with = |hash: String| api::CreateAgentRequest {
        name: "echo".to_owned(),
        endpoints: vec!["http://127.0.0.1:50061".to_owned()],
        greeting: Some(api::Greeting {
            text: String::new(),
            wav_sha256: hash,
        }),
        ..Default::default()
    };
    assert_eq!(
        fields(&agents.create_agent(with("00".repeat(32))).await.unwrap_err()),
        ["greeting.wav_sha256"]
    );
    let made = agents
        .create_agent(with(hashes[0].clone()))
        .await
        .unwrap()
        .into_inner()
        .agent
        .unwrap();
    assert_eq!(made.greeting.unwrap().wav_sha256, hashes[0]);
    service.stop().await;
}

#[tokio::test]
async fn the_environments_account_is_a_row_without_secrets() {
    let url = crate::service::database().await;
    let environment = [
        ("EXOTEL_SID", "env1"),
        ("EXOTEL_API_KEY", "canary-key"),
        ("EXOTEL_API_TOKEN", "canary-token"),
        ("EXOTEL_SUBDOMAIN", "http://127.0.0.1:1"),
        ("EXOTEL_CALLER_ID", "08040000155"),
    ];
    let mut found = None;
    // The second start finds what the first one made.
    for _ in 0..2 {
        let service = Service::start_on(&url, &environment).await;
        service.until_ready().await;
        let mut accounts = service.accounts(ADMIN);
        let list = accounts
            .list_accounts(api::ListAccountsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .accounts;
        assert_eq!(list.len(), 1);
        assert!(list[0].from_environment && !list[0].has_credentials);
        let list_phones = api::ListPhonesRequest::default();
        let phones = service
            .phones()
            .list_phones(list_phones)
            .await
            .unwrap()
            .into_inner()
            .phones;
        assert_eq!(
            phones.iter().map(|phone| phone.number.as_str()).collect::<Vec<_>>(),
            ["+918040000155"]
        );
        assert_eq!(*found.get_or_insert_with(|| list[0].id.clone()), list[0].id);

        let request = api::SetAccountCredentialsRequest {
            account_id: list[0].id.clone(),
            credentials: Some(set("a", "b")),
        };
        let refused = accounts.set_account_credentials(request).await.unwrap_err();
        assert_eq!(reason(&refused), "ENVIRONMENT_ACCOUNT");

        // Nobody listens there, so nothing is known; but the environment's set was taken.
        let verify = api::VerifyCredentialsRequest {
            phone_id: phones[0].id.clone(),
        };
        let check = service
            .phones()
            .verify_credentials(verify)
            .await
            .unwrap()
            .into_inner()
            .check
            .unwrap();
        assert_eq!((check.accepted, check.source.as_str()), (false, "environment"));
        assert!(!check.problem.contains("canary"), "{}", check.problem);
        service.stop().await;
    }
    // Another sid: the old account stays, as an ordinary one.
    let service = Service::start_on(&url, &[environment[1], environment[2], ("EXOTEL_SID", "env2")]).await;
    service.until_ready().await;
    let list = service
        .accounts(ADMIN)
        .list_accounts(api::ListAccountsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut sids: Vec<_> = list
        .accounts
        .iter()
        .map(|a| (a.sid.as_str(), a.from_environment))
        .collect();
    sids.sort_unstable();
    assert_eq!(sids, [("env1", false), ("env2", true)]);
    service.stop().await;
}
