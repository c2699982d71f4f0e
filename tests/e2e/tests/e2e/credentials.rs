//! Which key a call is made with.

use anyhow::{Context as _, Result};
use callbridge_proto::{
    call::v1::{Call, CallState, PlaceCallRequest, WaitFor, place_call_request::From},
    directory::v1::{
        ClearPhoneCredentialsRequest, CreatePhoneRequest, CredentialCheck, ExotelCredentials, GetWebhookUrlsRequest,
        ListAccountsRequest, Phone, SetAccountCredentialsRequest, SetPhoneCredentialsRequest,
        VerifyAccountCredentialsRequest, VerifyCredentialsRequest,
    },
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use e2e::{CUSTOMER, PATIENCE, Story, kinds, quick, registration};
use exotel_sim::{Account, Applet, CallerScript, Config, ExoPhone, Flow, Outcome, Simulator};
use prost_types::Timestamp;
use stack::{
    poll,
    proxy::{Direction, Proxy},
};
use tempfile::TempDir;

fn short() -> Outcome {
    Outcome::answered_by(CallerScript::new().silence(100).hang_up())
}

fn set(name: &str) -> ExotelCredentials {
    ExotelCredentials {
        api_key: format!("key-{name}"),
        api_token: format!("token-{name}"),
    }
}

/// Another Exotel: the same account may have another key there.
struct Elsewhere {
    simulator: Simulator,
    _folder: TempDir,
}

impl Elsewhere {
    async fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let simulator = Simulator::start(Config {
            accounts: Vec::new(),
            ..Config::for_tests(folder.path())
        })
        .await?;
        simulator.control().set_outcome(CUSTOMER, short())?;
        Ok(Self {
            simulator,
            _folder: folder,
        })
    }

    fn put(&self, sid: &str, name: &str, number: &str, applets: Vec<Applet>) -> Result<()> {
        let ExotelCredentials { api_key, api_token } = set(name);
        let exophones = vec![ExoPhone {
            number: number.to_owned(),
            flow: "1001".to_owned(),
        }];
        let flows = vec![Flow {
            app_id: "1001".to_owned(),
            applets,
        }];
        let account = Account {
            sid: sid.to_owned(),
            api_key,
            api_token,
            exophones,
            flows,
            ..Account::default()
        };
        Ok(self.simulator.control().put_account(account)?)
    }

    /// How each REST request ended, and how many dials there were.
    async fn took(&self) -> Result<(Vec<u64>, usize)> {
        took(&self.simulator.control()).await
    }
}

async fn took(control: &exotel_sim::Control) -> Result<(Vec<u64>, usize)> {
    let events = control.events(None).await?;
    let posts = events
        .iter()
        .filter(|event| event.kind == "rest" && event.facts["method"] == "POST");
    Ok((
        posts.filter_map(|event| event.facts["status"].as_u64()).collect(),
        control.ledger().await?.len(),
    ))
}

fn applets(story: &Story) -> Vec<Applet> {
    let urls = &story.registered.urls;
    let voicebot = Applet::Voicebot {
        url: urls.connect_url.clone(),
        record: false,
    };
    vec![
        voicebot,
        Applet::Passthru {
            url: urls.end_url.clone(),
            branch_b: Vec::new(),
            asynchronous: false,
        },
        Applet::Hangup,
    ]
}

async fn add_phone(story: &Story, number: &str, own: Option<ExotelCredentials>, subdomain: &str) -> Result<Phone> {
    let request = CreatePhoneRequest {
        account_id: story.registered.account_id.clone(),
        number: number.to_owned(),
        agent_id: story.registered.agent.id.clone(),
        credentials: own,
        subdomain: subdomain.to_owned(),
        ..CreatePhoneRequest::default()
    };
    story
        .stack
        .clients()
        .phones()
        .create_phone(request)
        .await?
        .into_inner()
        .phone
        .context("no phone")
}

async fn call_from(story: &Story, phone_id: &str) -> Result<Call> {
    let from = Some(From::PhoneId(phone_id.to_owned()));
    story
        .place(PlaceCallRequest {
            from,
            wait_for: WaitFor::Ended.into(),
            ..story.request(CUSTOMER)
        })
        .await
}

async fn verify(story: &Story, phone_id: &str) -> Result<CredentialCheck> {
    let request = VerifyCredentialsRequest {
        phone_id: phone_id.to_owned(),
    };
    story
        .stack
        .clients()
        .phones()
        .verify_credentials(request)
        .await?
        .into_inner()
        .check
        .context("no check")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_phone_calls_with_its_own_key_or_its_accounts() -> Result<()> {
    let story = Story::start().await?;
    story.stack.control().set_outcome(CUSTOMER, short())?;
    let (north, south) = (Elsewhere::start().await?, Elsewhere::start().await?);
    let sid = story.registered.account_sid.as_str();
    north.put(sid, "north", "08047770001", applets(&story))?;
    south.put(sid, "south", "08047770002", applets(&story))?;
    let northern = add_phone(&story, "08047770001", Some(set("north")), &north.simulator.base_url()).await?;
    let southern = add_phone(&story, "08047770002", Some(set("south")), &south.simulator.base_url()).await?;

    for phone_id in [&northern.id, &southern.id, &story.registered.phone_id] {
        let call = call_from(&story, phone_id).await?;
        assert_eq!(
            (call.state(), call.attempt, &call.phone_id),
            (CallState::Completed, 1, phone_id)
        );
    }
    // Each Exotel knows one key only, so 200 is the proof that it was used.
    let once = (vec![200], 1);
    assert_eq!((north.took().await?, south.took().await?), (once.clone(), once.clone()));
    assert_eq!(took(&story.stack.control()).await?, once);
    let [dial] = &north.simulator.control().ledger().await?[..] else {
        anyhow::bail!("not one dial")
    };
    assert_eq!(dial.caller_id.as_deref(), Some("08047770001"));

    for (phone_id, source) in [(&northern.id, "phone"), (&story.registered.phone_id, "account")] {
        let check = verify(&story, phone_id).await?;
        assert_eq!(
            (check.accepted, check.owns_number, check.source.as_str()),
            (true, true, source),
            "{}",
            check.problem
        );
    }

    // Without its own key a phone uses its account's, at the account's Exotel, which does not have that number.
    let request = ClearPhoneCredentialsRequest {
        phone_id: southern.id.clone(),
    };
    story.stack.clients().phones().clear_phone_credentials(request).await?;
    let check = verify(&story, &southern.id).await?;
    assert_eq!(
        (check.accepted, check.owns_number, check.source.as_str()),
        (true, false, "account")
    );
    assert!(!check.problem.is_empty());
    let call = call_from(&story, &southern.id).await?;
    assert_eq!(
        (call.state(), call.ended_by.as_str()),
        (CallState::Failed, "provider"),
        "{}",
        call.end_reason
    );
    assert_eq!(south.took().await?, once);
    Ok(())
}

/// F121.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_call_uses_the_key_that_was_set_last() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    control.set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
    let before = story
        .place(PlaceCallRequest {
            wait_for: WaitFor::Answered.into(),
            ..story.request(CUSTOMER)
        })
        .await?;

    // The account's key is replaced at Exotel while a call is live.
    let mut account = control
        .accounts()
        .into_iter()
        .find(|one| one.sid == story.registered.account_sid)
        .context("no account")?;
    let ExotelCredentials { api_key, api_token } = set("new");
    (account.api_key, account.api_token) = (api_key, api_token);
    control.put_account(account)?;
    let mut accounts = story.stack.clients().accounts();
    let account_id = story.registered.account_id.clone();
    let mut check = async || -> Result<CredentialCheck> {
        let request = VerifyAccountCredentialsRequest {
            account_id: account_id.clone(),
        };
        accounts
            .verify_account_credentials(request)
            .await?
            .into_inner()
            .check
            .context("no check")
    };
    let stale = check().await?;
    assert!(
        !stale.accepted && stale.problem.contains("does not accept"),
        "{}",
        stale.problem
    );
    let refused = story
        .place(PlaceCallRequest {
            wait_for: WaitFor::Ended.into(),
            ..story.request("+919812300002")
        })
        .await?;
    assert_eq!(
        (refused.state(), refused.end_reason.as_str()),
        (CallState::Failed, "bad_credentials")
    );

    let request = SetAccountCredentialsRequest {
        account_id: account_id.clone(),
        credentials: Some(set("new")),
    };
    story
        .stack
        .clients()
        .accounts()
        .set_account_credentials(request)
        .await?;
    assert!(check().await?.accepted);
    control.set_outcome("+919812300003", short())?;
    let after = story
        .place(PlaceCallRequest {
            wait_for: WaitFor::Ended.into(),
            ..story.request("+919812300003")
        })
        .await?;
    assert_eq!((after.state(), after.attempt), (CallState::Completed, 1));

    // The live call did not notice, and its end is told with the new key.
    assert_eq!(story.get(&before.id).await?.state(), CallState::InProgress);
    control.hang_up(&before.exotel_call_sid)?;
    let (before, _) = story.ended(&before.id).await?;
    assert_eq!(
        (before.state(), before.end_reason.as_str()),
        (CallState::Completed, "customer_hung_up")
    );
    assert_eq!(took(&control).await?, (vec![200, 401, 200], 2));
    Ok(())
}

/// F121: Exotel refuses a key that was replaced while the dial with it was under way: the call is made with the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_replaced_during_a_dial_is_read_again_once() -> Result<()> {
    const NUMBER: &str = "08047770004";
    let story = Story::start().await?;
    let exotel = Elsewhere::start().await?;
    let sid = story.registered.account_sid.as_str();
    exotel.put(sid, "new", NUMBER, applets(&story))?;
    let at: std::net::SocketAddr = exotel
        .simulator
        .base_url()
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()?;
    let proxy = Proxy::start((std::net::Ipv4Addr::LOCALHOST, 0).into(), [at]).await?;
    let host = format!("http://{}", proxy.addr());
    let phone = add_phone(&story, NUMBER, Some(set("old")), &host).await?;

    // Exotel's answer is on its way for as long as it takes to set the new key.
    proxy.faults().change(Direction::ToClient, |link| link.stalled = true);
    let from = Some(From::PhoneId(phone.id.clone()));
    let call = story
        .place(PlaceCallRequest {
            from,
            ..story.request(CUSTOMER)
        })
        .await?;
    let refused = poll("Exotel's refusal", PATIENCE, async || match exotel.took().await {
        Ok((posts, dials)) if posts == [401] => Ok(dials),
        took => Err(format!("{took:?}")),
    });
    assert_eq!(refused.await?, 0);
    let request = SetPhoneCredentialsRequest {
        phone_id: phone.id,
        credentials: Some(set("new")),
        subdomain: host,
    };
    story.stack.clients().phones().set_phone_credentials(request).await?;
    proxy.faults().change(Direction::ToClient, |link| link.stalled = false);
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.attempt),
        (CallState::Completed, 2),
        "{:?}",
        kinds(&events)
    );
    assert_eq!(exotel.took().await?, (vec![401, 200], 1));
    Ok(())
}

/// F119: what was changed does not open the next time either.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_credentials_were_changed_is_refused_and_the_others_are_made() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    control.set_outcome(CUSTOMER, short())?;
    let mut own = ExotelCredentials::default();
    story.at_account(|account| {
        own.api_key.clone_from(&account.api_key);
        own.api_token.clone_from(&account.api_token);
        account.exophones.push(ExoPhone {
            number: "08047770005".to_owned(),
            flow: "1001".to_owned(),
        });
    })?;
    let other = add_phone(&story, "08047770005", Some(own.clone()), "").await?;
    let in_an_hour = Timestamp {
        seconds: runtime::Clock::system().now().timestamp() + 3600,
        nanos: 0,
    };
    let waits = story
        .place(PlaceCallRequest {
            not_before: Some(in_an_hour),
            ..story.request("+919812300002")
        })
        .await?;
    assert_eq!(waits.state(), CallState::Queued);

    // One bit of the account's own row; and then the call's time has come.
    let mut conn = AsyncPgConnection::establish(&story.stack.database_url).await?;
    conn.batch_execute(
        "UPDATE credentials SET sealed = set_byte(sealed, 90, get_byte(sealed, 90) # 1) WHERE account_id IS NOT NULL;
        UPDATE calls SET not_before = now(), due_at = now() WHERE state = 'queued'",
    )
    .await?;
    let (refused, _) = story.ended(&waits.id).await?;
    assert_eq!(
        (refused.state(), refused.end_reason.as_str(), refused.attempt),
        (CallState::Failed, "credentials_unreadable", 0)
    );
    let request = story.request("+919812300003");
    let status = story.stack.clients().calls().place_call(request).await.unwrap_err();
    assert_eq!(
        e2e::refusal(&status),
        e2e::refused(tonic::Code::FailedPrecondition, "CREDENTIALS_UNREADABLE")
    );
    assert_eq!((story.posts()?, story.count("calls").await?), (0, 1));

    let made = call_from(&story, &other.id).await?;
    assert_eq!((made.state(), made.attempt), (CallState::Completed, 1));
    assert_eq!(took(&control).await?, (vec![200], 1));

    // Set again, they work again.
    let request = SetAccountCredentialsRequest {
        account_id: story.registered.account_id.clone(),
        credentials: Some(own),
    };
    story
        .stack
        .clients()
        .accounts()
        .set_account_credentials(request)
        .await?;
    let made = call_from(&story, &story.registered.phone_id).await?;
    assert_eq!(made.state(), CallState::Completed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_foreign_numbers_are_told_apart() -> Result<()> {
    let story = Story::start().await?;
    let phone_id = story.registered.phone_id.clone();
    let right = verify(&story, &phone_id).await?;
    assert_eq!(
        (right.accepted, right.owns_number, right.problem.as_str()),
        (true, true, "")
    );

    let foreign = add_phone(&story, "08047770009", None, "").await?;
    let check = verify(&story, &foreign.id).await?;
    assert_eq!((check.accepted, check.owns_number), (true, false));
    assert!(check.problem.contains("not one of the account's"), "{}", check.problem);

    let request = SetPhoneCredentialsRequest {
        phone_id: phone_id.clone(),
        credentials: Some(set("wrong")),
        subdomain: String::new(),
    };
    story.stack.clients().phones().set_phone_credentials(request).await?;
    let check = verify(&story, &phone_id).await?;
    assert_eq!(
        (check.accepted, check.owns_number, check.source.as_str()),
        (false, false, "phone")
    );
    assert!(
        check.problem.contains("does not accept") && !check.problem.contains("wrong"),
        "{}",
        check.problem
    );
    assert_eq!(story.count("calls").await?, 0);
    Ok(())
}

/// `EXOTEL_*` alone: nothing is registered, and nobody is named.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_the_last_resort() -> Result<()> {
    const NUMBER: &str = "08047770003";
    let exotel = Elsewhere::start().await?;
    let ExotelCredentials { api_key, api_token } = set("environment");
    let builder = quick()
        .call_setting("EXOTEL_SID", "envsid")
        .call_setting("EXOTEL_API_KEY", &api_key)
        .call_setting("EXOTEL_API_TOKEN", &api_token)
        .call_setting("EXOTEL_SUBDOMAIN", &exotel.simulator.base_url())
        .call_setting("EXOTEL_APP_ID", "1001")
        .call_setting("EXOTEL_CALLER_ID", NUMBER);
    let story = Story::with(builder, registration()?).await?;
    let mut accounts = story.stack.clients().accounts();
    let all = accounts
        .list_accounts(ListAccountsRequest::default())
        .await?
        .into_inner()
        .accounts;
    let account = all
        .into_iter()
        .find(|account| account.from_environment)
        .context("no account of the environment")?;
    assert_eq!((account.sid.as_str(), account.has_credentials), ("envsid", false));
    let urls = accounts
        .get_webhook_urls(GetWebhookUrlsRequest {
            account_id: account.id.clone(),
        })
        .await?
        .into_inner();
    let voicebot = Applet::Voicebot {
        url: urls.connect_url,
        record: false,
    };
    exotel.put("envsid", "environment", NUMBER, vec![voicebot, Applet::Hangup])?;

    let request = PlaceCallRequest {
        from: None,
        agent_id: story.registered.agent.id.clone(),
        // Its account keeps the usual hours.
        calling_hours_override: "a test at any time of day".to_owned(),
        wait_for: WaitFor::Ended.into(),
        ..story.request(CUSTOMER)
    };
    let call = story.place(request).await?;
    assert_eq!(
        (call.state(), call.phone_number.as_str()),
        (CallState::Completed, "+918047770003")
    );
    assert_eq!(call.account_id, account.id);
    assert_eq!(exotel.took().await?, (vec![200], 1));
    let check = verify(&story, &call.phone_id).await?;
    assert_eq!(
        (check.accepted, check.owns_number, check.source.as_str()),
        (true, true, "environment")
    );

    let request = SetAccountCredentialsRequest {
        account_id: account.id,
        credentials: Some(set("other")),
    };
    let status = accounts.set_account_credentials(request).await.unwrap_err();
    assert_eq!(
        e2e::refusal(&status),
        e2e::refused(tonic::Code::FailedPrecondition, "ENVIRONMENT_ACCOUNT")
    );
    Ok(())
}
