//! Who gets in.

use callbridge_proto::{DESCRIPTORS, directory::v1 as api};
use http::{Uri, uri::PathAndQuery};
use prost::Message as _;
use tonic::{Code, client::Grpc};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::{v1, v1alpha};

use crate::service::{ADMIN, READER, Service, reason};

/// F101: every method of every service, without a key.
#[tokio::test]
async fn without_a_key_there_is_health_and_nothing_else() {
    let service = Service::start(&[]).await;
    for name in [
        "",
        "callbridge.directory.v1.AccountService",
        "callbridge.call.v1.CallService",
    ] {
        assert_eq!(service.health(name).await, ServingStatus::Serving, "{name}");
    }
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let mut asked = 0;
    for file in files.iter().filter(|file| file.package() != "callbridge.agent.v1") {
        for declared in &file.service {
            for method in &declared.method {
                let path = format!("/{}.{}/{}", file.package(), declared.name(), method.name());
                let path = PathAndQuery::try_from(path).unwrap();
                let mut grpc = Grpc::with_origin(service.channel.clone(), Uri::from_static("http://x"));
                grpc.ready().await.unwrap();
                let request = tonic::Request::new(());
                let answer = grpc.unary(request, path.clone(), ProstCodec::<(), ()>::default()).await;
                assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated, "{path}");
                asked += 1;
            }
        }
    }
    assert!(asked > 30, "{asked}");

    // F102.
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(service.channel.clone());
    let answer = reflection
        .server_reflection_info(tokio_stream::iter([v1::ServerReflectionRequest::default()]))
        .await;
    assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated);
    service.stop().await;
}

/// F101.
#[tokio::test]
async fn a_scope_does_not_open_another() {
    let service = Service::start(&[]).await;
    let mut reader = service.accounts(READER);
    assert!(reader.list_accounts(api::ListAccountsRequest::default()).await.is_ok());
    let refused = reader
        .create_account(api::CreateAccountRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "SCOPE_MISSING")
    );
    service.stop().await;
}

/// F102.
#[tokio::test]
async fn reflection_lists_the_services_to_callers_with_a_key_in_both_versions() {
    use crate::service::Bearer;
    let service = Service::start(&[]).await;
    let names = |mut names: Vec<String>| {
        names.retain(|name| name.starts_with("callbridge."));
        names.sort();
        names
    };

    let mut client = v1::server_reflection_client::ServerReflectionClient::with_interceptor(
        service.channel.clone(),
        Bearer(Some(READER)),
    );
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let new = names(list.service.into_iter().map(|service| service.name).collect());

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::with_interceptor(
        service.channel.clone(),
        Bearer(Some(ADMIN)),
    );
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let old = names(list.service.into_iter().map(|service| service.name).collect());
    assert!(new.contains(&"callbridge.call.v1.CallService".to_owned()), "{new:?}");
    assert_eq!(new, old);
    service.stop().await;

    let without = Service::start(&[("REFLECTION", "off")]).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::with_interceptor(
        without.channel.clone(),
        Bearer(Some(ADMIN)),
    );
    let answer = client
        .server_reflection_info(tokio_stream::iter([v1::ServerReflectionRequest::default()]))
        .await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    without.stop().await;
}

#[tokio::test]
async fn a_request_beyond_its_size_is_refused() {
    let service = Service::start(&[]).await;
    let large = api::CreateAccountRequest {
        name: "x".repeat(70 * 1024),
        ..Default::default()
    };
    let refused = service.accounts(ADMIN).create_account(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    service.stop().await;
}
