//! A running service.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use call_service::{Config, Listeners, run};
use callbridge_proto::directory::v1::{
    CreateAccountRequest, CreateAgentRequest, CreatePhoneRequest, account_service_client::AccountServiceClient,
    agent_service_client::AgentServiceClient, phone_service_client::PhoneServiceClient,
};
use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use runtime::{Tasks, config::Vars};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

/// Long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const ADMIN: &str = "ck_admin_0123456789";
pub(crate) const READER: &str = "ck_reader_0123456789";

#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) Option<&'static str>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = self.0 {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        Ok(request)
    }
}

pub(crate) type Keyed = InterceptedService<Channel, Bearer>;

pub(crate) struct Service {
    pub(crate) url: String,
    pub(crate) grpc: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) tasks: Tasks,
    pub(crate) ended: JoinHandle<anyhow::Result<()>>,
}

/// As `API_KEYS` has it.
pub(crate) fn hash(key: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref())
}

pub(crate) fn key(byte: u8) -> String {
    BASE64.encode(&[byte; 32])
}

pub(crate) async fn database() -> String {
    let url = stack::shared_postgres()
        .await
        .unwrap()
        .create_empty_database()
        .await
        .unwrap();
    call_service::migrate(&url).await.unwrap();
    url
}

/// The settings of a service on this database, and some more.
pub(crate) fn settings(url: &str, settings: &[(&str, &str)]) -> Vars {
    let mut vars: BTreeMap<String, String> = [
        ("DATABASE_URL", url.to_owned()),
        ("CREDENTIAL_KEYS", format!("1:{}", key(1))),
        ("TOKEN_KEYS", format!("1:{}", key(2))),
        (
            "API_KEYS",
            format!(
                "admin:credentials.write+calls.read:{},reader:calls.read:{}",
                hash(ADMIN),
                hash(READER)
            ),
        ),
        ("WEBHOOK_BASE_URL", "https://calls.example.com".to_owned()),
        ("AGENT_ENDPOINT_ALLOW", "loopback".to_owned()),
        ("DRAIN_TIMEOUT", "1s".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    vars.extend(
        settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    vars.into_iter().collect()
}

pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    client
}

impl Service {
    /// Starts on a database of its own.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let service = Self::start_on(&database().await, settings).await;
        service.until_ready().await;
        service
    }

    /// Starts, and does not wait.
    pub(crate) async fn start_on(url: &str, settings: &[(&str, &str)]) -> Self {
        runtime::install_crypto_provider();
        let config = Config::read(self::settings(url, settings)).unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, at_internal) = (grpc.local_addr().unwrap(), internal.local_addr().unwrap());
        let tasks = Tasks::new();
        #[expect(clippy::disallowed_methods, reason = "what is under test stops its own tasks")]
        let ended = tokio::spawn(run(config, Listeners { grpc, internal }, tasks.clone()));
        let channel = Endpoint::from_shared(format!("http://{at}")).unwrap().connect_lazy();
        Self {
            url: url.to_owned(),
            grpc: at,
            internal: at_internal,
            channel,
            tasks,
            ended,
        }
    }

    pub(crate) async fn until_ready(&self) {
        stack::poll("readiness", PATIENCE, async || match self.readyz().await {
            200 => Ok(()),
            status => Err(status),
        })
        .await
        .unwrap();
    }

    /// An account, an agent, and a phone of both with this number. Returns their ids.
    pub(crate) async fn register(&self, account: CreateAccountRequest, number: &str) -> [String; 3] {
        let account = self.accounts(ADMIN).create_account(account).await.unwrap();
        let account_id = account.into_inner().account.unwrap().id;
        let agent = CreateAgentRequest {
            name: "echo".to_owned(),
            endpoints: vec!["http://127.0.0.1:1".to_owned()],
            ..Default::default()
        };
        let agent = self.agents().create_agent(agent).await.unwrap();
        let agent_id = agent.into_inner().agent.unwrap().id;
        let phone = CreatePhoneRequest {
            account_id: account_id.clone(),
            number: number.to_owned(),
            agent_id: agent_id.clone(),
            ..Default::default()
        };
        let phone = self.phones().create_phone(phone).await.unwrap();
        [account_id, agent_id, phone.into_inner().phone.unwrap().id]
    }

    /// The HTTP status of `/readyz`; 0 when there is no answer.
    pub(crate) async fn readyz(&self) -> u16 {
        self.http("/readyz").await
    }

    pub(crate) async fn http(&self, path: &str) -> u16 {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.internal).await else {
            return 0;
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0)
    }

    pub(crate) async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(self.channel.clone()).check(request).await.unwrap();
        answer.into_inner().status()
    }

    pub(crate) fn accounts(&self, key: &'static str) -> AccountServiceClient<Keyed> {
        AccountServiceClient::with_interceptor(self.channel.clone(), Bearer(Some(key)))
    }

    pub(crate) fn phones(&self) -> PhoneServiceClient<Keyed> {
        PhoneServiceClient::with_interceptor(self.channel.clone(), Bearer(Some(ADMIN)))
    }

    pub(crate) fn agents(&self) -> AgentServiceClient<Keyed> {
        AgentServiceClient::with_interceptor(self.channel.clone(), Bearer(Some(ADMIN)))
    }

    pub(crate) async fn stop(self) {
        self.tasks.stop();
        tokio::time::timeout(PATIENCE, self.ended)
            .await
            .expect("it ends")
            .unwrap()
            .unwrap();
    }
}

/// The stable word of an error.
pub(crate) fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// The fields that an error names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let violations = status
        .get_details_bad_request()
        .map(|bad| bad.field_violations)
        .unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}
