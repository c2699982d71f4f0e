//! The way to call-service.

use std::{fs, time::Duration};

use callbridge_proto::{
    call::v1::call_service_client::CallServiceClient,
    campaign::v1::campaign_service_client::CampaignServiceClient,
    directory::v1::{
        account_service_client::AccountServiceClient, agent_service_client::AgentServiceClient,
        phone_service_client::PhoneServiceClient,
    },
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
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
        let mut endpoint = Endpoint::from_shared(url.clone()).map_err(|_| wrong("it must be a URL"))?;
        if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
            return Err(wrong("it must begin with http:// or https://"));
        }
        endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        if endpoint.uri().scheme_str() == Some("https") {
            let mut tls = ClientTlsConfig::new().with_enabled_roots();
            if let Some(path) = &connection.ca {
                let pem = fs::read(path).map_err(|source| Failure::File {
                    attempt: "read the authority's certificate in",
                    path: path.clone(),
                    source,
                })?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|_| {
                Failure::Usage("cannot set up TLS: the file of --ca must hold certificates in PEM".to_owned())
            })?;
        }
        let key = match &connection.api_key {
            Some(key) => {
                let mut value: MetadataValue<Ascii> = format!("Bearer {}", key.trim()).parse().map_err(|_| {
                    Failure::Usage("cannot use the API key: it has characters that no key has".to_owned())
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            endpoint: url.clone(),
            channel: InterceptedService::new(endpoint.connect_lazy(), ApiKey(key)),
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
