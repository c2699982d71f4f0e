//! What a person with `grpcurl` and a key can do, and one without a key cannot.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use callbridge_proto::{
    call::v1::{GetCallRequest, ListCallsRequest, WatchCallsRequest},
    directory::v1::{CreateAccountRequest, ListAccountsRequest, ListAgentsRequest, ListPhonesRequest},
    ingress::v1::{FetchGreetingRequest, ResolveConnectRequest},
};
use e2e::{CUSTOMER, Story, quick, refusal, refused, registration, with_another_key};
use exotel_sim::{CallerScript, Outcome};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use stack::ApiKey;
use tokio::process::Command;
use tokio_stream::once;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const SERVICES: [&str; 5] = [
    "callbridge.call.v1.CallService",
    "callbridge.directory.v1.AccountService",
    "callbridge.directory.v1.AgentService",
    "callbridge.directory.v1.PhoneService",
    "callbridge.ingress.v1.IngressService",
];

async fn channel(story: &Story) -> Result<Channel> {
    let address = format!("http://{}", story.stack.grpc_address());
    Ok(Channel::from_shared(address)?.connect().await?)
}

fn keyed<T>(story: &Story, message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {}", story.stack.keys.api_key).parse()?);
    Ok(request)
}

/// Both versions have the same messages under other names.
macro_rules! reflected {
    ($version:ident, $story:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new(channel($story).await?);
        let ask = |what| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(what),
        };
        let list = once(ask(MessageRequest::ListServices(String::new())));
        let status = client.server_reflection_info(Request::new(list)).await.unwrap_err();
        assert_eq!(refusal(&status), refused(Code::Unauthenticated, "UNAUTHENTICATED"));

        let list = once(ask(MessageRequest::ListServices(String::new())));
        let mut answers = client.server_reflection_info(keyed($story, list)?).await?.into_inner();
        let answer = answers
            .message()
            .await?
            .and_then(|answer| answer.message_response)
            .context("no answer")?;
        let MessageResponse::ListServicesResponse(listed) = answer else {
            anyhow::bail!("{answer:?}")
        };
        let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
        for service in SERVICES {
            assert!(
                names.iter().any(|name| name == service),
                "{service} is not in {names:?}"
            );
        }

        let describe = once(ask(MessageRequest::FileContainingSymbol(SERVICES[0].to_owned())));
        let mut answers = client
            .server_reflection_info(keyed($story, describe)?)
            .await?
            .into_inner();
        let answer = answers
            .message()
            .await?
            .and_then(|answer| answer.message_response)
            .context("no answer")?;
        let MessageResponse::FileDescriptorResponse(files) = answer else {
            anyhow::bail!("{answer:?}")
        };
        files.file_descriptor_proto
    }};
}

/// The methods of a service in encoded files.
fn methods(files: &[Vec<u8>], service: &str) -> Result<Vec<String>> {
    use prost::Message as _;
    for file in files {
        let file = FileDescriptorProto::decode(&file[..])?;
        let found = file
            .service
            .iter()
            .find(|one| service == format!("{}.{}", file.package(), one.name()));
        if let Some(found) = found {
            return Ok(found.method.iter().map(|method| method.name().to_owned()).collect());
        }
    }
    anyhow::bail!("no file has {service}")
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_tells_all_in_both_versions_to_whoever_has_a_key() -> Result<()> {
    let story = Story::start().await?;
    for files in [reflected!(v1, &story), reflected!(v1alpha, &story)] {
        let told = methods(&files, SERVICES[0])?;
        for method in [
            "PlaceCall",
            "GetCall",
            "ListCalls",
            "WatchCall",
            "WatchCalls",
            "EndCall",
            "SendToAgent",
        ] {
            assert!(told.iter().any(|name| name == method), "{method} is not in {told:?}");
        }
    }
    Ok(())
}

/// Every method of every service, as the descriptors have them.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_there_is_health_and_nothing_else() -> Result<()> {
    use prost::Message as _;
    let (builder, reader) = with_another_key(quick(), "reader", "calls.read")?;
    let story = Story::with(builder, registration()?).await?;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build()?;
    let code = async |path: &str, key: Option<&str>| -> Result<String> {
        let url = format!("http://{}{path}", story.stack.grpc_address());
        // An empty message; a method that is let in answers something else than 16.
        let mut request = client
            .post(url)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(vec![0; 5]);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let answer = request.send().await?;
        Ok(answer
            .headers()
            .get("grpc-status")
            .context("no status in the head")?
            .to_str()?
            .to_owned())
    };
    let mut asked = 0;
    for file in FileDescriptorSet::decode(callbridge_proto::DESCRIPTORS)?.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                // The agents' own service is not served here, and a stranger does not learn that.
                assert_eq!(code(&path, None).await?, "16", "{path}");
                assert_eq!(code(&path, Some("Bearer ck_stack_0000")).await?, "16", "{path}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 40, "only {asked} methods");
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/callbridge.call.v1.CallService/Nonsense",
        "/",
    ] {
        assert_eq!(code(path, None).await?, "16", "{path}");
    }

    let mut health = HealthClient::new(channel(&story).await?);
    for service in ["", SERVICES[0]] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        assert_eq!(
            health.check(request).await?.into_inner().status(),
            ServingStatus::Serving
        );
    }

    // A key that may only read.
    let reader = story.stack.clients().with_key(reader);
    reader.calls().list_calls(ListCallsRequest::default()).await?;
    reader.accounts().list_accounts(ListAccountsRequest::default()).await?;
    reader.phones().list_phones(ListPhonesRequest::default()).await?;
    reader.agents().list_agents(ListAgentsRequest::default()).await?;
    reader.calls().watch_calls(WatchCallsRequest::default()).await?;
    let missing = refused(Code::PermissionDenied, "SCOPE_MISSING");
    let status = reader.calls().place_call(story.request(CUSTOMER)).await.unwrap_err();
    assert_eq!(refusal(&status), missing);
    assert!(status.message().contains("calls.write"), "{}", status.message());
    let status = reader
        .accounts()
        .create_account(CreateAccountRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refusal(&status), missing);
    // The users' key is not the edge's, and the edge's is not the users'.
    let users = story.stack.clients();
    let status = users
        .ingress()
        .resolve_connect(ResolveConnectRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refusal(&status), missing);
    let status = users
        .ingress()
        .fetch_greeting(FetchGreetingRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refusal(&status), missing);
    let edges = users.with_key(ApiKey::new(&story.stack.keys.edge_api_key));
    let status = edges.calls().get_call(GetCallRequest::default()).await.unwrap_err();
    assert_eq!(refusal(&status), missing);
    assert_eq!((story.posts()?, story.count("calls").await?), (0, 0));
    Ok(())
}

/// `tests/checks/grpcurl.sh` fetches one; here the one on this machine is used.
fn grpcurl() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("grpcurl"))
        .find(|program| program.is_file())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_places_a_call() -> Result<()> {
    let Some(program) = grpcurl() else {
        eprintln!("grpcurl is not on PATH, so it was not tried; tests/checks/grpcurl.sh fetches it");
        return Ok(());
    };
    let story = Story::start().await?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome::answered_by(CallerScript::new().silence(100).hang_up()),
    )?;
    let address = story.stack.grpc_address().to_string();
    let authorization = format!("authorization: Bearer {}", story.stack.keys.api_key);
    let run = async |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(&program);
        let output = command
            .arg("-plaintext")
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let (said, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        ensure!(output.status.success(), "{complaint}");
        Ok(said)
    };
    let key = ["-H", authorization.as_str()];
    let listed = run(&[&key[..], &[&address, "list"]].concat()).await?;
    assert!(SERVICES.iter().all(|service| listed.contains(service)), "{listed}");
    let described = run(&[&key[..], &[&address, "describe", SERVICES[0]]].concat()).await?;
    assert!(described.contains("rpc PlaceCall"), "{described}");
    let body = format!(
        r#"{{"idempotency_key":"g","to":"{CUSTOMER}","phone_id":"{}","wait_for":"WAIT_FOR_ENDED"}}"#,
        story.registered.phone_id
    );
    let placed = run(&[
        &key[..],
        &["-d", &body, &address, "callbridge.call.v1.CallService/PlaceCall"],
    ]
    .concat())
    .await?;
    assert!(placed.contains("CALL_STATE_COMPLETED"), "{placed}");
    assert!(
        run(&[&address, "list"])
            .await
            .unwrap_err()
            .to_string()
            .contains("Bearer")
    );
    Ok(())
}
