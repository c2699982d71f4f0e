//! What the doctor finds: on accounts that are well, whatever their ways, and on those that are not.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};
use callbridge_proto::directory::v1::{
    CallingHours, ExotelCredentials, GetPhoneRequest, KeyCase, Phone, QueryHandling, SetAccountCredentialsRequest,
    UpdatePhoneRequest,
};
use e2e::{CUSTOMER, Ran, Story, quick, registration};
use exotel_sim::{
    Applet, CallbackEncoding, Callbacks, Callee, CallerScript, Chunks, Config, KeyCase as Keys, Outcome, Payload,
    Settings, Streams,
};
use prost_types::FieldMask;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Somebody who answers and says nothing until the call is over.
fn patient() -> Outcome {
    Outcome::answered_by(CallerScript::new().silence(60_000))
}

/// The outcome of each check, in order.
fn outcomes(ran: &Ran) -> Result<Vec<(String, String)>> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ran
        .json()?
        .iter()
        .filter_map(|part| part.get("check"))
        .map(|check| {
            let outcome = word(&check["outcome"]);
            let outcome = outcome.trim_start_matches("DIAGNOSIS_OUTCOME_");
            (word(&check["name"]), outcome.to_ascii_lowercase())
        })
        .collect())
}

/// Those checks that came out so.
fn that_are(ran: &Ran, outcome: &str) -> Result<Vec<String>> {
    let all = outcomes(ran)?.into_iter();
    Ok(all
        .filter(|(_, found)| found == outcome)
        .map(|(name, _)| name)
        .collect())
}

async fn doctor(story: &Story, more: &[&str]) -> Result<Ran> {
    let account = story.registered.account_id.as_str();
    let arguments = [&["--json", "doctor", "--account", account], more].concat();
    story.callbridge(&arguments).await
}

/// A way in which an account may behave, and how it is told.
struct Way {
    stream: Streams,
    callbacks: Callbacks,
    utc_offset_minutes: i32,
    told: Value,
}

fn ways() -> [Way; 3] {
    let quick = Settings::for_tests();
    [
        // As captured live.
        Way {
            stream: Streams::default(),
            callbacks: quick.callbacks.clone(),
            utc_offset_minutes: 330,
            told: json!({
                "key_case": "KEY_CASE_SNAKE", "sample_rate": 8000, "chunk_bytes": 1600, "query": "QUERY_HANDLING_PARAMETERS",
                "callback_encoding": "CALLBACK_ENCODING_JSON", "callback_fields": "CALLBACK_FIELDS_SHORT",
                "utc_offset_minutes": 330,
            }),
        },
        Way {
            stream: Streams {
                key_case: Keys::Camel,
                sample_rate: 16_000,
                chunks: Chunks::Bytes(640),
                strip_query: false,
                ..Streams::default()
            },
            callbacks: Callbacks {
                encoding: CallbackEncoding::UrlEncoded,
                payload: Payload::Full,
                ..quick.callbacks.clone()
            },
            utc_offset_minutes: 480,
            told: json!({
                "key_case": "KEY_CASE_CAMEL", "sample_rate": 16000, "chunk_bytes": 640, "query": "QUERY_HANDLING_KEPT",
                "callback_encoding": "CALLBACK_ENCODING_FORM", "callback_fields": "CALLBACK_FIELDS_FULL",
                "utc_offset_minutes": 480,
            }),
        },
        Way {
            stream: Streams {
                chunks: Chunks::Bytes(320),
                tell_query: false,
                ..Streams::default()
            },
            callbacks: Callbacks {
                encoding: CallbackEncoding::Multipart,
                payload: Payload::ThreeField,
                ..quick.callbacks
            },
            utc_offset_minutes: 0,
            told: json!({
                "key_case": "KEY_CASE_SNAKE", "sample_rate": 8000, "chunk_bytes": 320, "query": "QUERY_HANDLING_DROPPED",
                "callback_encoding": "CALLBACK_ENCODING_MULTIPART", "callback_fields": "CALLBACK_FIELDS_SHORT",
                "utc_offset_minutes": 0,
            }),
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_shows_how_an_account_behaves_and_a_simulator_behaves_so_too() -> Result<()> {
    for way in ways() {
        let folder = TempDir::new()?;
        let simulator = Config {
            settings: Settings {
                stream: way.stream.clone(),
                callbacks: way.callbacks.clone(),
                ..Settings::for_tests()
            },
            ..Config::for_tests(folder.path())
        };
        let mut registration = registration()?;
        registration.simulated.utc_offset_minutes = way.utc_offset_minutes;
        let story = Story::with(quick().simulator(simulator), registration).await?;
        story.stack.control().set_outcome(CUSTOMER, patient())?;
        let file = folder.path().join("profile.json");
        let profile = file.to_str().context("a path in UTF-8")?;

        let ran = doctor(&story, &["--call", CUSTOMER, "--profile", profile]).await?;
        // The edge of a test is this machine, by plain HTTP.
        assert_eq!(that_are(&ran, "warning")?, ["edge_tls"], "{}", ran.output);
        assert_eq!(outcomes(&ran)?.len(), 12, "{}", ran.output);
        assert_eq!(that_are(&ran, "passed")?.len(), 11, "{}", ran.output);
        assert_eq!(ran.failure, None);
        assert!(!ran.output.contains(&CUSTOMER[3..]), "no full number: {}", ran.output);

        let last = ran.json()?.pop().context("no output")?;
        let told = last["variants"].as_object().context("no variants")?;
        for (name, value) in way.told.as_object().context("an object")? {
            assert_eq!(told.get(name), Some(value), "{name}: {last}");
        }
        let kept = phone(&story).await?.variants.context("nothing is kept on the phone")?;
        assert_eq!(i64::from(kept.sample_rate), told["sample_rate"], "{kept:?}");

        // The simulator takes the file as its configuration, and is then as it was.
        let config: Config = serde_json::from_slice(&std::fs::read(&file)?)?;
        let (stream, callbacks) = (&config.settings.stream, &config.settings.callbacks);
        assert_eq!(
            (stream.key_case, stream.sample_rate, stream.strip_query),
            (way.stream.key_case, way.stream.sample_rate, way.stream.strip_query)
        );
        assert!(stream.tell_query == way.stream.tell_query || !way.stream.strip_query);
        assert_eq!(stream.chunks, Chunks::Bytes(kept.chunk_bytes));
        assert_eq!(
            callbacks.encoding == CallbackEncoding::Json,
            way.callbacks.encoding == CallbackEncoding::AsRequested
        );
        assert_eq!(config.accounts[0].utc_offset_minutes, way.utc_offset_minutes);
        story.stack.shut_down().await?;
    }
    Ok(())
}

async fn phone(story: &Story) -> Result<Phone> {
    let request = GetPhoneRequest {
        phone_id: story.registered.phone_id.clone(),
    };
    let answer = story.stack.clients().phones().get_phone(request).await?;
    answer.into_inner().phone.context("no phone")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_somebody_to_call_nobody_is_called() -> Result<()> {
    let story = Story::start().await?;
    let ran = doctor(&story, &[]).await?;
    assert_eq!(ran.failure, None);
    assert_eq!(
        that_are(&ran, "skipped")?,
        ["call", "audio", "hangup_applet", "callback"]
    );
    assert_eq!(story.posts()?, 0);
    assert!(phone(&story).await?.variants.is_none());
    // For people, by the account's name.
    let ran = story.callbridge(&["doctor", "--account", "story"]).await?;
    assert!(ran.output.contains("ok       credentials"), "{}", ran.output);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_at_exotel_is_told_by_name() -> Result<()> {
    let story = Story::start().await?;
    let failed = async |what: &str, expected: &[&str]| -> Result<()> {
        let ran = doctor(&story, &["--call", CUSTOMER]).await?;
        assert_eq!(that_are(&ran, "failed")?, expected, "{what}: {}", ran.output);
        assert_eq!(ran.failure.map(|(_, exit)| exit), Some(1), "{what}");
        Ok(())
    };
    story.stack.control().set_outcome(CUSTOMER, patient())?;

    story.at_account(|account| account.max_streams = 0)?;
    failed("streams are not enabled", &["streaming"]).await?;
    assert_eq!(story.posts()?, 0, "nobody is called to hear silence");
    story.at_account(|account| account.max_streams = 100)?;

    story.at_account(|account| account.kyc = false)?;
    failed("no KYC", &["call"]).await?;
    story.at_account(|account| account.kyc = true)?;

    let exophones = std::sync::Mutex::new(Vec::new());
    story.at_account(|account| std::mem::swap(&mut account.exophones, &mut exophones.lock().expect("not poisoned")))?;
    let posts = story.posts()?;
    failed("the number is not there", &["number"]).await?;
    assert_eq!(story.posts()?, posts, "nobody is called");
    story.at_account(|account| std::mem::swap(&mut account.exophones, &mut exophones.lock().expect("not poisoned")))?;

    let request = SetAccountCredentialsRequest {
        account_id: story.registered.account_id.clone(),
        credentials: Some(ExotelCredentials {
            api_key: "wrong".to_owned(),
            api_token: "canary-token".to_owned(),
        }),
    };
    story
        .stack
        .clients()
        .accounts()
        .set_account_credentials(request)
        .await?;
    failed("a wrong key", &["credentials"]).await?;
    let ran = doctor(&story, &[]).await?;
    assert!(!ran.output.contains("canary"), "no secret: {}", ran.output);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_dials_straight_to_the_edge_must_be_allowed_to() -> Result<()> {
    let mut registration = registration()?;
    registration.phone.dial_mode = callbridge_proto::directory::v1::DialMode::Stream.into();
    let story = Story::with(quick(), registration).await?;
    story.stack.control().set_outcome(CUSTOMER, patient())?;
    let ran = doctor(&story, &["--call", CUSTOMER]).await?;
    assert_eq!(ran.failure, None, "{}", ran.output);
    assert_eq!(that_are(&ran, "skipped")?, ["hangup_applet"]);
    assert_eq!(that_are(&ran, "warning")?, ["edge_tls"], "{}", ran.output);
    let variants = phone(&story).await?.variants.context("nothing is kept")?;
    assert_eq!(
        (variants.key_case(), variants.query()),
        (KeyCase::Snake, QueryHandling::Parameters)
    );

    story.at_account(|account| account.voice_ai = false)?;
    let ran = doctor(&story, &["--call", CUSTOMER]).await?;
    assert_eq!(that_are(&ran, "failed")?, ["call"], "{}", ran.output);
    assert!(ran.output.contains("Connect Voice AI"), "{}", ran.output);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_without_hangup_leaves_the_person_in_silence() -> Result<()> {
    let story = Story::start().await?;
    story.stack.control().set_outcome(CUSTOMER, patient())?;
    story.at_account(|account| {
        for flow in &mut account.flows {
            flow.applets.retain(|applet| !matches!(applet, Applet::Hangup));
        }
    })?;
    let ran = doctor(&story, &["--call", CUSTOMER]).await?;
    assert_eq!(that_are(&ran, "failed")?, ["hangup_applet"], "{}", ran.output);
    // What the account showed until then is kept all the same.
    assert!(phone(&story).await?.variants.is_some());
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_reached_is_told() -> Result<()> {
    let mut registration = registration()?;
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
    registration.agent.endpoints = vec![format!("http://{free}")];
    let story = Story::with(quick(), registration).await?;
    story.stack.control().set_outcome(CUSTOMER, patient())?;
    let ran = doctor(&story, &["--call", CUSTOMER]).await?;
    assert_eq!(that_are(&ran, "failed")?, ["audio"], "{}", ran.output);
    assert!(ran.output.contains("the agent did not answer"), "{}", ran.output);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_answers_is_a_warning() -> Result<()> {
    let story = Story::start().await?;
    let busy = Outcome {
        callee: Callee::Busy,
        ..Outcome::default()
    };
    story.stack.control().set_outcome(CUSTOMER, busy)?;
    let ran = doctor(&story, &["--call", CUSTOMER]).await?;
    assert_eq!(ran.failure, None, "{}", ran.output);
    assert_eq!(that_are(&ran, "warning")?, ["edge_tls", "call"]);

    // Without an agent nobody is called at all.
    let request = UpdatePhoneRequest {
        phone: Some(Phone {
            id: story.registered.phone_id.clone(),
            ..Phone::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["agent_id".to_owned()],
        }),
    };
    story.stack.clients().phones().update_phone(request).await?;
    let posts = story.posts()?;
    let ran = doctor(&story, &["--call", CUSTOMER]).await?;
    assert_eq!(that_are(&ran, "failed")?, ["agent"], "{}", ran.output);
    assert_eq!(story.posts()?, posts);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calling_hours_bind_a_diagnosis_unless_there_is_a_reason() -> Result<()> {
    let mut registration = registration()?;
    let minute = i32::try_from(runtime::Clock::system().unix_seconds() / 60 % 1440)?;
    // Half a day away from now.
    let open = if minute < 720 { 1200 } else { 60 };
    registration.account.calling_hours = Some(CallingHours {
        off: false,
        start_minute: open,
        end_minute: open + 1,
        time_zone: "UTC".to_owned(),
    });
    let story = Story::with(quick(), registration).await?;
    story.stack.control().set_outcome(CUSTOMER, patient())?;
    let ran = doctor(&story, &["--call", CUSTOMER]).await?;
    assert_eq!(that_are(&ran, "failed")?, ["call"], "{}", ran.output);
    assert!(ran.output.contains("calling hours"), "{}", ran.output);
    assert_eq!(story.posts()?, 0);
    let reason = [
        "--call",
        CUSTOMER,
        "--calling-hours-override",
        "the owner of the phone asked for it",
    ];
    let ran = doctor(&story, &reason).await?;
    assert_eq!(ran.failure, None, "{}", ran.output);
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_not_reached_is_told() -> Result<()> {
    // Nobody listens at a port that was just given back.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
    let builder = quick().call_setting("WEBHOOK_BASE_URL", &format!("http://{free}"));
    let story = Story::with(builder, registration()?).await?;
    let ran = doctor(&story, &[]).await?;
    assert_eq!(that_are(&ran, "failed")?, ["edge_tls"], "{}", ran.output);
    assert!(ran.output.contains("nobody listens"), "{}", ran.output);
    story.stack.shut_down().await?;

    // Somebody else's server is no edge.
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let builder = quick().call_setting("WEBHOOK_BASE_URL", &format!("http://{}", other.local_addr()?));
    let tasks = runtime::Tasks::new();
    tasks.spawn(axum::serve(other, axum::Router::new()).into_future());
    let story = Story::with(builder, registration()?).await?;
    let ran = doctor(&story, &[]).await?;
    assert_eq!(
        that_are(&ran, "failed")?,
        ["applet_urls", "audio_socket"],
        "{}",
        ran.output
    );
    story.stack.shut_down().await
}

/// Before the edge, with a certificate that nobody vouches for.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_nobody_is_refused_as_exotel_would() -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    runtime::install_crypto_provider();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let base = format!("https://localhost:{}", listener.local_addr()?.port());
    let story = Story::with(quick().call_setting("WEBHOOK_BASE_URL", &base), registration()?).await?;
    let edge = story.stack.edge_url().replace("http://", "");
    let tasks = runtime::Tasks::new();
    tasks.spawn(async move {
        while let Ok((outside, _)) = listener.accept().await {
            if let Ok(mut outside) = acceptor.accept(outside).await
                && let Ok(mut inside) = TcpStream::connect(&edge).await
            {
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            }
        }
    });
    let ran = doctor(&story, &[]).await?;
    assert_eq!(that_are(&ran, "failed")?, ["edge_tls"], "{}", ran.output);
    assert_eq!(
        that_are(&ran, "skipped")?[..2],
        ["applet_urls".to_owned(), "audio_socket".to_owned()]
    );
    assert!(ran.output.contains("public root"), "{}", ran.output);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_which_account_phone_and_file_it_cannot_find() -> Result<()> {
    let story = Story::start().await?;
    for (arguments, says) in [
        (&["doctor", "--account", "nobody"][..], "cannot find the account nobody"),
        (
            &["doctor", "--account", "story", "--phone", "+910000000000"],
            "cannot find the phone",
        ),
    ] {
        let ran = story.callbridge(arguments).await?;
        let (text, exit) = ran.failure.context("it worked")?;
        assert!(text.contains(says) && exit == 64, "{exit}: {text}");
    }
    // Nobody is called for what could not be kept.
    let ran = doctor(&story, &["--call", CUSTOMER, "--profile", "/nowhere/profile.json"]).await?;
    let (text, exit) = ran.failure.context("it worked")?;
    assert!(text.contains("/nowhere/profile.json") && exit == 66, "{exit}: {text}");
    assert_eq!(story.posts()?, 0);
    story.stack.shut_down().await
}
