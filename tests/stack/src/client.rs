//! Clients of call-service's API that carry an API key.

use std::{net::SocketAddr, time::Duration};

use callbridge_proto::{
    call::v1::call_service_client::CallServiceClient,
    campaign::v1::campaign_service_client::CampaignServiceClient,
    directory::v1::{
        account_service_client::AccountServiceClient, agent_service_client::AgentServiceClient,
        phone_service_client::PhoneServiceClient,
    },
    ingress::v1::ingress_service_client::IngressServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// A server on this machine accepts at once or not at all.
const CONNECT: Duration = Duration::from_secs(5);

/// Adds `authorization: Bearer …` to each call.
#[derive(Debug, Clone)]
pub struct ApiKey(Option<MetadataValue<Ascii>>);

impl ApiKey {
    /// The key's text, `ck_<kid>_<secret>`.
    pub fn new(key: &str) -> Self {
        let value: Option<MetadataValue<Ascii>> = format!("Bearer {key}").parse().ok();
        Self(value.map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }

    /// No key at all.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A channel that carries an API key.
pub type Keyed = InterceptedService<Channel, ApiKey>;

/// Makes clients of one call-service process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients {
    channel: Channel,
    key: ApiKey,
}

impl Clients {
    /// Connects when the first call is made, and again when the connection broke.
    pub fn new(address: SocketAddr, key: ApiKey) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
        Self {
            channel: endpoint.connect_timeout(CONNECT).connect_lazy(),
            key,
        }
    }

    /// The same process with another key.
    #[must_use]
    pub fn with_key(&self, key: ApiKey) -> Self {
        Self {
            channel: self.channel.clone(),
            key,
        }
    }

    fn keyed(&self) -> Keyed {
        InterceptedService::new(self.channel.clone(), self.key.clone())
    }

    /// Calls.
    pub fn calls(&self) -> CallServiceClient<Keyed> {
        CallServiceClient::new(self.keyed())
    }

    /// Campaigns.
    pub fn campaigns(&self) -> CampaignServiceClient<Keyed> {
        CampaignServiceClient::new(self.keyed())
    }

    /// Accounts.
    pub fn accounts(&self) -> AccountServiceClient<Keyed> {
        AccountServiceClient::new(self.keyed())
    }

    /// Phones.
    pub fn phones(&self) -> PhoneServiceClient<Keyed> {
        PhoneServiceClient::new(self.keyed())
    }

    /// Agents.
    pub fn agents(&self) -> AgentServiceClient<Keyed> {
        AgentServiceClient::new(self.keyed())
    }

    /// What only the edge may use.
    pub fn ingress(&self) -> IngressServiceClient<Keyed> {
        IngressServiceClient::new(self.keyed())
    }
}
