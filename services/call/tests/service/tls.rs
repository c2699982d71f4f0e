//! TLS of gRPC: who is let in, and certificates that are exchanged while streams go on.

use std::{fs, path::PathBuf};

use callbridge_proto::directory::v1::{
    CreateAccountRequest, ListAccountsRequest, account_service_client::AccountServiceClient,
};
use futures_util::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, string::Ia5String};
use runtime::tls::{self, ClientFiles, Connector};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::service::{ADMIN, Bearer, PATIENCE, Service, database};

const READER: &str = "spiffe://cluster.local/ns/crm/sa/reader";

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    /// A certificate and its key.
    fn sign(&self, name: SanType) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// The files of a server and of its clients.
struct Files(TempDir);

impl Files {
    fn new(authority: &Authority) -> Self {
        let files = Self(TempDir::new().unwrap());
        files.write("ca", &authority.1);
        files.server(authority);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// In one step, as a mounted secret changes.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn server(&self, authority: &Authority) {
        let (certificate, key) = authority.sign(SanType::IpAddress([127, 0, 0, 1].into()));
        self.write("server.crt", &certificate);
        self.write("server.key", &key);
    }

    fn client(&self, name: &str, authority: &Authority, uri: &str) -> ClientFiles {
        let (certificate, key) = authority.sign(SanType::URI(Ia5String::try_from(uri).unwrap()));
        self.write(&format!("{name}.crt"), &certificate);
        self.write(&format!("{name}.key"), &key);
        ClientFiles {
            ca: Some(self.path("ca")),
            identity: Some((self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")))),
        }
    }

    fn nobody(&self) -> ClientFiles {
        ClientFiles {
            ca: Some(self.path("ca")),
            identity: None,
        }
    }

    async fn start(&self, more: &[(&str, &str)]) -> Service {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let (certificate, key, ca) = (path("server.crt"), path("server.key"), path("ca"));
        let clients = format!("{READER}=reader:calls.read");
        let mut settings = vec![
            ("CALL_SERVICE_TLS_CERT", certificate.as_str()),
            ("CALL_SERVICE_TLS_KEY", &key),
            ("CALL_SERVICE_TLS_CLIENT_CA", &ca),
            ("CALL_SERVICE_TLS_CLIENTS", &clients),
            ("CALL_SERVICE_TLS_REFRESH", "50ms"),
        ];
        settings.extend(more);
        let service = Service::start_on(&database().await, &settings).await;
        service.until_ready().await;
        service
    }
}

fn connect(service: &Service, connector: Connector) -> Channel {
    let endpoint = tls::endpoint(&format!("https://{}", service.grpc)).unwrap();
    endpoint.connect_with_connector_lazy(connector)
}

fn channel(service: &Service, files: &ClientFiles) -> Channel {
    connect(service, Connector::read(files).unwrap())
}

fn accounts(channel: Channel, key: Option<&'static str>) -> AccountServiceClient<InterceptedService<Channel, Bearer>> {
    AccountServiceClient::with_interceptor(channel, Bearer(key))
}

async fn list(channel: Channel, key: Option<&'static str>) -> Code {
    let answer = accounts(channel, key)
        .list_accounts(ListAccountsRequest::default())
        .await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// F101: certificates × keys.
#[tokio::test]
async fn a_certificate_is_a_caller_with_its_scopes() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let files = Files::new(&ours);
    let service = files.start(&[]).await;
    let reader = channel(&service, &files.client("reader", &ours, READER));
    assert_eq!(list(reader.clone(), None).await, Code::Ok);
    let refused = accounts(reader.clone(), None)
        .create_account(CreateAccountRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // With a key it is the key's caller, and a wrong key is nobody.
    let with_key = accounts(reader.clone(), Some(ADMIN))
        .create_account(CreateAccountRequest::default())
        .await;
    assert_eq!(with_key.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(list(reader, Some("ck_1_wrong")).await, Code::Unauthenticated);

    let unnamed = channel(&service, &files.client("unnamed", &ours, &format!("{READER}2")));
    assert_eq!(list(unnamed.clone(), None).await, Code::Unauthenticated);
    assert_eq!(list(unnamed, Some(ADMIN)).await, Code::Ok);

    // None of these has a connection, whatever they show on it.
    let forged = files.client("forged", &foreign, READER);
    for nobody in [
        channel(&service, &files.nobody()),
        channel(&service, &forged),
        service.channel.clone(),
    ] {
        let code = timeout(PATIENCE, list(nobody, Some(ADMIN))).await.unwrap();
        assert!(
            !matches!(code, Code::Ok | Code::Unauthenticated | Code::PermissionDenied),
            "{code:?}"
        );
    }
    // A client believes its own authority alone.
    let distrusting = Files::new(&foreign);
    let code = list(channel(&service, &distrusting.nobody()), Some(ADMIN)).await;
    assert!(!matches!(code, Code::Ok | Code::Unauthenticated), "{code:?}");
    service.stop().await;

    let service = files.start(&[("CALL_SERVICE_TLS_CLIENT_AUTH", "optional")]).await;
    let nobody = channel(&service, &files.nobody());
    assert_eq!(list(nobody.clone(), Some(ADMIN)).await, Code::Ok);
    assert_eq!(list(nobody, None).await, Code::Unauthenticated);
    let code = list(
        channel(&service, &files.client("forged", &foreign, READER)),
        Some(ADMIN),
    )
    .await;
    assert!(!matches!(code, Code::Ok | Code::Unauthenticated), "{code:?}");
    service.stop().await;
}

/// Server, clients and authority are exchanged under 100 live streams: those go on, new connections are made with the new ones, and
/// certificates of the old authority are not taken any more.
#[tokio::test]
async fn certificates_are_exchanged_while_streams_go_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old);
    let service = files.start(&[]).await;
    let of_client = files.client("reader", &old, READER);
    let connector = Connector::read(&of_client).unwrap();
    connector.keep_fresh(&service.tasks, std::time::Duration::from_millis(50));
    let live = connect(&service, connector.clone());
    let streams = (0..100).map(|_| async {
        let request = HealthCheckRequest::default();
        let mut stream = HealthClient::new(live.clone())
            .watch(request)
            .await
            .unwrap()
            .into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        stream
    });
    let streams = join_all(streams).await;
    let left_behind = files.client("left", &old, READER);
    assert_eq!(list(channel(&service, &left_behind), None).await, Code::Ok);

    // Kept apart from what changes: it still believes the old authority.
    let kept = Files::new(&old);
    let left_behind = ClientFiles {
        ca: Some(kept.path("ca")),
        ..left_behind
    };
    files.server(&new);
    files.write("ca", &new.1);
    files.client("reader", &new, READER);
    // The same connector, which reads its files again, makes new connections.
    stack::poll("a connection with the new certificates", PATIENCE, async || match list(
        connect(&service, connector.clone()),
        None,
    )
    .await
    {
        Code::Ok => match list(channel(&service, &left_behind), None).await {
            Code::Ok => Err("the old one is still taken"),
            _ => Ok(()),
        },
        _ => Err("it is not taken"),
    })
    .await
    .unwrap();
    let before = list(live, None).await;
    assert_eq!(before, Code::Ok, "the connection of before");

    service.tasks.stop();
    for mut stream in streams {
        let next: Result<_, Status> = timeout(PATIENCE, stream.message()).await.unwrap();
        assert_eq!(next.unwrap().unwrap().status(), ServingStatus::NotServing);
    }
    service.stop().await;
}
