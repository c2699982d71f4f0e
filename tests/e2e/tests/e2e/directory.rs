//! Accounts, phones, agents and greetings: kept as they were given, and their secrets inside.

use anyhow::{Context as _, Result};
use callbridge_proto::directory::v1::{
    Account, Agent, CreateAccountRequest, CreateAgentRequest, CreatePhoneRequest, DialMode, ExotelCredentials,
    GetAccountRequest, GetAgentRequest, GetPhoneRequest, Greeting, ListAccountsRequest, ListAgentsRequest,
    ListPhonesRequest, Phone, SetAccountCredentialsRequest, SetPhoneCredentialsRequest, UpdateAccountRequest,
    UpdateAgentRequest, UpdatePhoneRequest, UploadGreetingRequest, VerifyAccountCredentialsRequest,
};
use e2e::{Story, invalid, quick, refusal, refused, registration, wav};
use prost_types::FieldMask;
use tokio_stream::iter;
use tonic::Code;

const NO_AGENT: &str = "agent_00000000000070008000000000000000";
const NO_ACCOUNT: &str = "acct_00000000000070008000000000000000";

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    }
}

/// F122 for answers: what was written never comes back.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_kept_and_their_secrets_stay_inside() -> Result<()> {
    let story = Story::start().await?;
    let mut accounts = story.stack.clients().accounts();
    let mut answers = Vec::new();
    let new = |sid: &str| CreateAccountRequest {
        name: format!("Account {sid}"),
        sid: sid.to_owned(),
        credentials: Some(ExotelCredentials {
            api_key: "canary-key".to_owned(),
            api_token: "canary-token".to_owned(),
        }),
        subdomain: story.stack.simulator_url(),
        ..CreateAccountRequest::default()
    };
    let created = accounts.create_account(new("one")).await?.into_inner();
    answers.push(format!("{created:?}"));
    let one = created.account.context("no account")?;
    assert_eq!(
        (one.calls_per_minute, one.has_credentials, one.from_environment),
        (60, true, false)
    );
    let hours = one.calling_hours.clone().unwrap_or_default();
    assert_eq!(
        (hours.start_minute, hours.end_minute, hours.time_zone.as_str()),
        (540, 1260, "Asia/Kolkata")
    );
    let status = accounts.create_account(new("one")).await.unwrap_err();
    assert_eq!(refusal(&status), refused(Code::AlreadyExists, "SID_TAKEN"));
    accounts.create_account(new("two")).await?;

    let got = accounts
        .get_account(GetAccountRequest {
            account_id: one.id.clone(),
        })
        .await?
        .into_inner();
    answers.push(format!("{got:?}"));
    assert_eq!(got.account.as_ref(), Some(&one));
    let unknown = accounts
        .get_account(GetAccountRequest {
            account_id: NO_ACCOUNT.to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(refusal(&unknown), refused(Code::NotFound, "NOT_FOUND"));

    // The story's own account is the third.
    let mut sids = Vec::new();
    let mut page_token = String::new();
    for expected in [2, 1] {
        let page = accounts
            .list_accounts(ListAccountsRequest {
                page_size: 2,
                page_token,
            })
            .await?
            .into_inner();
        answers.push(format!("{page:?}"));
        assert_eq!(page.accounts.len(), expected);
        sids.extend(page.accounts.into_iter().map(|account| account.sid));
        page_token = page.next_page_token;
        assert_eq!(page_token.is_empty(), expected == 1);
    }
    sids.sort_unstable();
    let mut expected = vec!["one".to_owned(), story.registered.account_sid.clone(), "two".to_owned()];
    expected.sort_unstable();
    assert_eq!(sids, expected);
    for (request, field) in [
        (
            ListAccountsRequest {
                page_size: 201,
                ..ListAccountsRequest::default()
            },
            "page_size",
        ),
        (
            ListAccountsRequest {
                page_token: "AAAA".to_owned(),
                ..ListAccountsRequest::default()
            },
            "page_token",
        ),
    ] {
        assert_eq!(
            refusal(&accounts.list_accounts(request).await.unwrap_err()),
            invalid(&[field])
        );
    }

    // Only what the mask names is taken.
    let changed = Account {
        name: "New name".to_owned(),
        calls_per_minute: 7,
        app_id: "55".to_owned(),
        ..one.clone()
    };
    let request = UpdateAccountRequest {
        account: Some(changed),
        update_mask: Some(mask(&["calls_per_minute", "app_id"])),
    };
    let updated = accounts.update_account(request).await?.into_inner();
    answers.push(format!("{updated:?}"));
    let expected = Account {
        calls_per_minute: 7,
        app_id: "55".to_owned(),
        ..one.clone()
    };
    assert_eq!(updated.account, Some(expected));
    for paths in [&[][..], &["sid"], &["name", "nonsense"]] {
        let request = UpdateAccountRequest {
            account: Some(one.clone()),
            update_mask: Some(mask(paths)),
        };
        assert_eq!(
            refusal(&accounts.update_account(request).await.unwrap_err()),
            invalid(&["update_mask"])
        );
    }
    let wrong = Account {
        calls_per_minute: -1,
        subdomain: "https://elsewhere.example".to_owned(),
        ..one.clone()
    };
    let request = UpdateAccountRequest {
        account: Some(wrong),
        update_mask: Some(mask(&["calls_per_minute", "subdomain"])),
    };
    let status = accounts.update_account(request).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        invalid(&["account.calls_per_minute", "account.subdomain"])
    );

    let credentials = Some(ExotelCredentials {
        api_key: "canary-other".to_owned(),
        api_token: String::new(),
    });
    let request = SetAccountCredentialsRequest {
        account_id: one.id.clone(),
        credentials,
    };
    let status = accounts.set_account_credentials(request).await.unwrap_err();
    answers.push(format!("{status:?}"));
    assert_eq!(refusal(&status), invalid(&["credentials.api_token"]));
    let request = VerifyAccountCredentialsRequest { account_id: one.id };
    answers.push(format!(
        "{:?}",
        accounts.verify_account_credentials(request).await?.into_inner()
    ));
    assert!(!answers.concat().contains("canary"), "{answers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_are_kept_and_their_secrets_stay_inside() -> Result<()> {
    let story = Story::start().await?;
    let mut phones = story.stack.clients().phones();
    let mut answers = Vec::new();
    let account_id = story.registered.account_id.clone();
    let new = |number: &str| CreatePhoneRequest {
        account_id: account_id.clone(),
        number: number.to_owned(),
        label: "Sales".to_owned(),
        credentials: Some(ExotelCredentials {
            api_key: "canary-key".to_owned(),
            api_token: "canary-token".to_owned(),
        }),
        ..CreatePhoneRequest::default()
    };
    let created = phones.create_phone(new("080 4222 0001")).await?.into_inner();
    answers.push(format!("{created:?}"));
    let phone = created.phone.context("no phone")?;
    assert_eq!(
        (phone.number.as_str(), phone.dial_mode(), phone.has_credentials),
        ("+918042220001", DialMode::Flow, true)
    );
    let status = phones.create_phone(new("+91-80-4222-0001")).await.unwrap_err();
    assert_eq!(refusal(&status), refused(Code::AlreadyExists, "NUMBER_TAKEN"));
    for (request, expected) in [
        (
            CreatePhoneRequest {
                number: "12".to_owned(),
                ..new("")
            },
            invalid(&["number"]),
        ),
        (
            CreatePhoneRequest {
                account_id: String::new(),
                ..new("08042220002")
            },
            invalid(&["account_id"]),
        ),
        (
            CreatePhoneRequest {
                dial_mode: 9,
                ..new("08042220002")
            },
            invalid(&["dial_mode"]),
        ),
        (
            CreatePhoneRequest {
                subdomain: "evil.example".to_owned(),
                ..new("08042220002")
            },
            invalid(&["subdomain"]),
        ),
        (
            CreatePhoneRequest {
                transfer_numbers: vec!["7".to_owned()],
                ..new("08042220002")
            },
            invalid(&["transfer_numbers[0]"]),
        ),
        (
            CreatePhoneRequest {
                account_id: NO_ACCOUNT.to_owned(),
                ..new("08042220002")
            },
            refused(Code::NotFound, "NOT_FOUND"),
        ),
        (
            CreatePhoneRequest {
                agent_id: NO_AGENT.to_owned(),
                ..new("08042220002")
            },
            refused(Code::NotFound, "NOT_FOUND"),
        ),
    ] {
        let status = phones.create_phone(request).await.unwrap_err();
        answers.push(format!("{status:?}"));
        assert_eq!(refusal(&status), expected, "{}", status.message());
    }

    let got = phones
        .get_phone(GetPhoneRequest {
            phone_id: phone.id.clone(),
        })
        .await?
        .into_inner();
    assert_eq!(got.phone.as_ref(), Some(&phone));
    let request = ListPhonesRequest {
        account_id: account_id.clone(),
        page_size: 1,
        page_token: String::new(),
    };
    let first = phones.list_phones(request.clone()).await?.into_inner();
    let second = ListPhonesRequest {
        page_token: first.next_page_token.clone(),
        ..request
    };
    let rest = phones.list_phones(second.clone()).await?.into_inner();
    answers.push(format!("{first:?} {rest:?}"));
    let numbers: Vec<_> = first
        .phones
        .iter()
        .chain(&rest.phones)
        .map(|phone| phone.number.clone())
        .collect();
    assert_eq!(numbers, [story.registered.phone_number.clone(), phone.number.clone()]);
    assert!(rest.next_page_token.is_empty());
    // A token belongs to its list.
    let other = ListPhonesRequest {
        account_id: String::new(),
        ..second
    };
    assert_eq!(
        refusal(&phones.list_phones(other).await.unwrap_err()),
        invalid(&["page_token"])
    );

    let changed = Phone {
        label: "Support".to_owned(),
        app_id: "9".to_owned(),
        ..phone.clone()
    };
    let request = UpdatePhoneRequest {
        phone: Some(changed),
        update_mask: Some(mask(&["label"])),
    };
    let updated = phones.update_phone(request).await?.into_inner().phone;
    assert_eq!(
        updated,
        Some(Phone {
            label: "Support".to_owned(),
            ..phone.clone()
        })
    );
    let request = UpdatePhoneRequest {
        phone: Some(phone.clone()),
        update_mask: Some(mask(&["number"])),
    };
    assert_eq!(
        refusal(&phones.update_phone(request).await.unwrap_err()),
        invalid(&["update_mask"])
    );

    let credentials = Some(ExotelCredentials {
        api_key: "canary-new".to_owned(),
        api_token: "canary-new".to_owned(),
    });
    let request = SetPhoneCredentialsRequest {
        phone_id: phone.id.clone(),
        credentials,
        subdomain: String::new(),
    };
    answers.push(format!(
        "{:?}",
        phones.set_phone_credentials(request).await?.into_inner()
    ));
    assert!(!answers.concat().contains("canary"), "{answers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_have_versions_and_stay_where_they_are_allowed() -> Result<()> {
    let builder = quick().call_setting("AGENT_ENDPOINT_ALLOW", "loopback,agents.example,10.1.0.0/16");
    let story = Story::with(builder, registration()?).await?;
    let mut agents = story.stack.clients().agents();
    let new = |endpoints: &[&str]| CreateAgentRequest {
        name: "Agent".to_owned(),
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
        ..CreateAgentRequest::default()
    };
    for endpoint in [
        "http://elsewhere.example:50051",
        "http://agents.example.evil:50051",
        "http://10.2.0.1:50051",
        "http://169.254.169.254",
        "http://[::ffff:169.254.169.254]",
        "http://user@agents.example",
        "ftp://agents.example",
        "agents.example",
        "http://agents.example/path",
    ] {
        let status = agents
            .create_agent(new(&["https://agents.example", endpoint]))
            .await
            .unwrap_err();
        assert_eq!(refusal(&status), invalid(&["endpoints[1]"]), "{endpoint}");
    }
    assert_eq!(
        refusal(&agents.create_agent(new(&[])).await.unwrap_err()),
        invalid(&["endpoints"])
    );
    let wrong = CreateAgentRequest {
        sample_rate: 44_100,
        config: "{".to_owned(),
        ..new(&["http://10.1.2.3:7"])
    };
    assert_eq!(
        refusal(&agents.create_agent(wrong).await.unwrap_err()),
        invalid(&["sample_rate", "config"])
    );

    let created = agents
        .create_agent(new(&["http://10.1.2.3:7", "wss://voice.agents.example/bot?x=1"]))
        .await?
        .into_inner();
    let agent = created.agent.context("no agent")?;
    assert_eq!(
        (agent.version, agent.sample_rate, agent.config.as_str()),
        (1, 8000, "{}")
    );
    let changed = Agent {
        config: r#"{"a":1}"#.to_owned(),
        name: "Other".to_owned(),
        ..agent.clone()
    };
    let request = UpdateAgentRequest {
        agent: Some(changed),
        update_mask: Some(mask(&["config"])),
    };
    let updated = agents
        .update_agent(request)
        .await?
        .into_inner()
        .agent
        .context("no agent")?;
    assert_eq!(
        (updated.version, updated.name.as_str(), updated.config.as_str()),
        (2, "Agent", r#"{"a":1}"#)
    );
    let moved = Agent {
        endpoints: vec!["http://127.0.0.2".to_owned(), "http://8.8.8.8".to_owned()],
        ..agent.clone()
    };
    let request = UpdateAgentRequest {
        agent: Some(moved),
        update_mask: Some(mask(&["endpoints"])),
    };
    assert_eq!(
        refusal(&agents.update_agent(request).await.unwrap_err()),
        invalid(&["agent.endpoints[1]"])
    );
    let got = agents
        .get_agent(GetAgentRequest {
            agent_id: agent.id.clone(),
        })
        .await?
        .into_inner()
        .agent;
    assert_eq!(got, Some(updated));
    let unknown = agents
        .get_agent(GetAgentRequest {
            agent_id: NO_AGENT.to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(refusal(&unknown), refused(Code::NotFound, "NOT_FOUND"));
    let all = agents.list_agents(ListAgentsRequest::default()).await?.into_inner();
    let ids: Vec<_> = all.agents.into_iter().map(|agent| agent.id).collect();
    // By name: "Agent" before "story echo".
    assert_eq!(
        (ids, all.next_page_token),
        (vec![agent.id, story.registered.agent.id.clone()], String::new())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_is_stored_once_and_only_if_it_can_be_played() -> Result<()> {
    let story = Story::start().await?;
    let mut agents = story.stack.clients().agents();
    let second = wav(&[1_000; 8_000], 8_000)?;
    let stored = story.stack.upload_greeting(&second).await?;
    assert_eq!((stored.duration_ms, stored.wav_sha256.len()), (1_000, 64));
    assert_eq!(story.stack.upload_greeting(&second).await?, stored);
    assert_eq!(story.count("greetings").await?, 1);

    let with = |wav_sha256: String| CreateAgentRequest {
        name: "Agent".to_owned(),
        endpoints: vec![story.stack.agent_url()],
        greeting: Some(Greeting {
            text: String::new(),
            wav_sha256,
        }),
        ..CreateAgentRequest::default()
    };
    let agent = agents
        .create_agent(with(stored.wav_sha256.clone()))
        .await?
        .into_inner()
        .agent
        .context("no agent")?;
    assert_eq!(agent.greeting.unwrap_or_default().wav_sha256, stored.wav_sha256);
    for hash in ["0".repeat(64), "short".to_owned()] {
        let status = agents.create_agent(with(hash)).await.unwrap_err();
        assert_eq!(refusal(&status), invalid(&["greeting.wav_sha256"]));
    }

    let mut stereo = second.clone();
    stereo[22] = 2;
    let (truncated, long) = (second[..second.len() - 9].to_vec(), wav(&vec![0; 61 * 8_000], 8_000)?);
    let bad: [(&str, Vec<Vec<u8>>); 6] = [
        ("nothing", Vec::new()),
        ("no WAV", vec![b"RIFF and more, but no sound".to_vec()]),
        ("two channels", vec![stereo]),
        ("cut off", vec![truncated]),
        (
            "longer than a minute",
            long.chunks(60_000).map(<[u8]>::to_vec).collect(),
        ),
        ("too much in a message", vec![vec![0; 65 * 1_024]]),
    ];
    for (what, chunks) in bad {
        let chunks: Vec<_> = chunks
            .into_iter()
            .map(|chunk| UploadGreetingRequest { chunk: chunk.into() })
            .collect();
        let status = agents.upload_greeting(iter(chunks)).await.unwrap_err();
        assert_eq!(refusal(&status), invalid(&["chunk"]), "{what}: {}", status.message());
    }
    assert_eq!(story.count("greetings").await?, 1);
    Ok(())
}
