//! Requests of callers over gRPC, and what is in them: protobuf, addresses, page tokens.

use std::{net::IpAddr, sync::LazyLock};

use call_service::{
    directory::{account, agent, phone},
    rpc::page,
};
use callbridge_proto::directory::v1::{CreateAccountRequest, CreateAgentRequest, CreatePhoneRequest};
use exotel::rest::Endpoint;
use prost::Message;
use runtime::endpoint::Allow;
use uuid::Uuid;

static ALLOW: LazyLock<Allow> = LazyLock::new(|| {
    Allow::parse("agents.example.com,10.0.0.0/8,2001:db8::/32,loopback").expect("it is a list of hosts and ranges")
});

/// Requests that change the directory (F127): the first byte chooses the message, the rest is decoded and checked; nothing that is
/// refused tells what was in it.
pub fn requests(data: &[u8]) {
    let Some((message, bytes)) = data.split_first() else {
        return;
    };
    match message % 3 {
        0 => checked(bytes, |request: &CreateAgentRequest| {
            agent::New::read(&ALLOW, request).map(|_| ())
        }),
        1 => checked(bytes, |request: &CreatePhoneRequest| {
            phone::New::read(request).map(|_| ())
        }),
        _ => checked(bytes, |request: &CreateAccountRequest| {
            account::New::read(request).map(|_| ())
        }),
    }
}

fn checked<T: Message + Default + PartialEq>(
    bytes: &[u8],
    check: impl Fn(&T) -> Result<(), call_service::error::Error>,
) {
    let Ok(request) = T::decode(bytes) else { return };
    let again = T::decode(&request.encode_to_vec()[..]);
    assert!(again.is_ok(), "what was decoded is encoded to what cannot be decoded");
    let (first, second) = (check(&request), check(&request));
    assert_eq!(first.is_ok(), second.is_ok());
    if let Err(error) = first {
        let status = tonic::Status::from(error);
        assert!(!status.message().is_empty());
    }
}

/// Addresses that lead somewhere (F124): an agent's endpoint, Exotel's host, the lists that allow them, and page tokens. The first
/// line is a list, the second one an address.
pub fn addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (list, address) = text.split_once('\n').unwrap_or(("", text));
    if let Ok(checked) = ALLOW.check(address) {
        assert_eq!(
            ALLOW.check(&checked).as_ref(),
            Ok(&checked),
            "an endpoint is not as it will be dialled"
        );
        // What dials reads the text with another parser, which must find the same host and no user in it.
        if let Ok(uri) = checked.parse::<http::Uri>() {
            let authority = uri.authority().expect("an endpoint has a host").as_str();
            assert!(!authority.contains('@'));
            assert!(
                ALLOW.check(&format!("http://{authority}")).is_ok(),
                "it is dialled elsewhere"
            );
        }
    }
    assert!(
        Allow::default().check(address).is_err(),
        "nothing is allowed, and something is"
    );
    if let Ok(endpoint) = Endpoint::parse(address) {
        assert!(endpoint.other_clusters().len() <= 2);
    }
    let _ = Endpoint::parse(list);
    let ip: Option<IpAddr> = address.parse().ok();
    let allow = Allow::parse(list);
    if let (Ok(allow), Some(ip)) = (&allow, ip) {
        let _ = (
            allow.permits(list, ip),
            allow.address(ip),
            allow.check(&format!("http://{ip}")),
        );
    }
    if let Ok(Some(row)) = page::after("calls", list.as_bytes(), address) {
        assert_eq!(page::token("calls", list.as_bytes(), row), address);
    }
    let token = page::token("calls", list.as_bytes(), Uuid::nil());
    assert_eq!(
        page::after("calls", list.as_bytes(), &token).ok(),
        Some(Some(Uuid::nil()))
    );
    assert!(page::after("phones", list.as_bytes(), &token).is_err());
}
