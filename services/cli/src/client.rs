//! The way to call-service.

use std::time::Duration;

use callbridge_proto::{
    access::v1::key_service_client::KeyServiceClient,
    call::v1::call_service_client::CallServiceClient,
    campaign::v1::campaign_service_client::CampaignServiceClient,
    directory::v1::{
        account_service_client::AccountServiceClient, agent_service_client::AgentServiceClient,
        phone_service_client::PhoneServiceClient,
    },
    privacy::v1::{audit_service_client::AuditServiceClient, privacy_service_client::PrivacyServiceClient},
};
use runtime::tls::{self, ClientFiles, Connector, TlsError};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{Failure, arguments::Connection};

/// A person waits.
const CONNECT: Duration = Duration::from_secs(5);
/// A watch that is cut off by a firewall is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Adds the key to each call.
#[derive(Clone)]
pub(crate) struct ApiKey(Option<MetadataValue<Ascii>>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Keyed = InterceptedService<Channel, ApiKey>;

/// Makes clients of the public API.
pub(crate) struct Client {
    endpoint: String,
    channel: Keyed,
}

impl Client {
    /// Connects when the first call is made.
    pub(crate) fn new(connection: &Connection) -> Result<Self, Failure> {
        runtime::install_crypto_provider();
        let url = &connection.endpoint;
        let wrong = |what: &str| {
            Failure::Usage(format!(
                "cannot use the endpoint {url}: {what}, such as https://calls.example.com:443"
            ))
        };
        let asked = Endpoint::from_shared(url.clone()).map_err(|_| wrong("it must be a URL"))?;
        let encrypted = match asked.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let endpoint = tls::endpoint(url)
            .map_err(|_| wrong("it must be a URL"))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = if encrypted {
            let files = ClientFiles {
                ca: connection.ca.clone(),
                identity: connection.client_cert.clone().zip(connection.client_key.clone()),
            };
            endpoint.connect_with_connector_lazy(Connector::read(&files).map_err(no_tls)?)
        } else {
            endpoint.connect_lazy()
        };
        let shown = connection.api_key.as_deref().map(str::trim);
        let key = match shown.filter(|key| !key.is_empty()) {
            Some(key) => {
                let mut value: MetadataValue<Ascii> = format!("Bearer {key}").parse().map_err(|_| {
                    Failure::Usage("cannot use the API key: it has characters that no key has".to_owned())
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            endpoint: url.clone(),
            channel: InterceptedService::new(channel, ApiKey(key)),
        })
    }

    /// What a status means for somebody who wanted to `attempt` something.
    pub(crate) fn failed(&self, attempt: impl Into<String>) -> impl FnOnce(Status) -> Failure {
        let (attempt, endpoint) = (attempt.into(), self.endpoint.clone());
        move |status| Failure::Service {
            attempt,
            endpoint,
            status: Box::new(status),
        }
    }

    pub(crate) fn keys(&self) -> KeyServiceClient<Keyed> {
        KeyServiceClient::new(self.channel.clone())
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Keyed> {
        AuditServiceClient::new(self.channel.clone())
    }

    pub(crate) fn privacy(&self) -> PrivacyServiceClient<Keyed> {
        PrivacyServiceClient::new(self.channel.clone())
    }

    pub(crate) fn calls(&self) -> CallServiceClient<Keyed> {
        CallServiceClient::new(self.channel.clone())
    }

    pub(crate) fn campaigns(&self) -> CampaignServiceClient<Keyed> {
        CampaignServiceClient::new(self.channel.clone())
    }

    pub(crate) fn accounts(&self) -> AccountServiceClient<Keyed> {
        AccountServiceClient::new(self.channel.clone())
    }

    pub(crate) fn phones(&self) -> PhoneServiceClient<Keyed> {
        PhoneServiceClient::new(self.channel.clone())
    }

    pub(crate) fn agents(&self) -> AgentServiceClient<Keyed> {
        AgentServiceClient::new(self.channel.clone())
    }
}

fn no_tls(error: TlsError) -> Failure {
    match error {
        TlsError::Read { path, source } => Failure::File {
            attempt: "read",
            path,
            source,
        },
        error => Failure::Usage(format!(
            "cannot set up TLS: {error}; see --ca, --client-cert and --client-key"
        )),
    }
}
