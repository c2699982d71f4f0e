//! AgentService.

use std::sync::Arc;

use callbridge_proto::{
    directory::v1::{self as api, agent_service_server::AgentService},
    id::AgentId,
};
use data_encoding::HEXLOWER;
use tonic::{Request, Response, Status, Streaming};

use super::{id, view::timestamp};
use crate::{
    app::App,
    directory::{
        agent::{self, New, View},
        greeting::{self, Upload},
    },
    error::Error,
};

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AgentService for Service {
    async fn create_agent(&self, request: Request<api::CreateAgentRequest>) -> Answer<api::CreateAgentResponse> {
        let new = New::read(&self.0.config.agent_endpoints, request.get_ref())?;
        let view = agent::create(&self.0, new).await?;
        Ok(Response::new(api::CreateAgentResponse {
            agent: Some(shown(view)?),
        }))
    }

    async fn get_agent(&self, request: Request<api::GetAgentRequest>) -> Answer<api::GetAgentResponse> {
        let id: AgentId = id("agent_id", &request.get_ref().agent_id)?;
        let view = agent::get(&self.0, id).await?;
        Ok(Response::new(api::GetAgentResponse {
            agent: Some(shown(view)?),
        }))
    }

    async fn list_agents(&self, request: Request<api::ListAgentsRequest>) -> Answer<api::ListAgentsResponse> {
        let request = request.into_inner();
        let (views, next_page_token) = agent::list(&self.0, request.page_size, &request.page_token).await?;
        let agents: Result<_, Error> = views.into_iter().map(shown).collect();
        Ok(Response::new(api::ListAgentsResponse {
            agents: agents?,
            next_page_token,
        }))
    }

    async fn update_agent(&self, request: Request<api::UpdateAgentRequest>) -> Answer<api::UpdateAgentResponse> {
        let view = agent::update(&self.0, request.get_ref()).await?;
        Ok(Response::new(api::UpdateAgentResponse {
            agent: Some(shown(view)?),
        }))
    }

    async fn upload_greeting(
        &self,
        request: Request<Streaming<api::UploadGreetingRequest>>,
    ) -> Answer<api::UploadGreetingResponse> {
        let mut pieces = request.into_inner();
        let mut upload = Upload::default();
        while let Some(piece) = pieces.message().await? {
            upload.push(&piece.chunk)?;
        }
        let stored = greeting::store(&self.0, upload.finish()?).await?;
        Ok(Response::new(api::UploadGreetingResponse {
            wav_sha256: stored.sha256,
            duration_ms: stored.duration_ms,
        }))
    }
}

fn shown(view: View) -> Result<api::Agent, Error> {
    let View { agent, version } = view;
    let endpoints = version
        .endpoints()
        .map_err(|error| Error::internal_from("stored endpoints cannot be read", error))?;
    let greeting = (version.greeting_text.is_some() || version.greeting_sha256.is_some()).then(|| api::Greeting {
        text: version.greeting_text.unwrap_or_default(),
        wav_sha256: version
            .greeting_sha256
            .map(|hash| HEXLOWER.encode(&hash))
            .unwrap_or_default(),
    });
    Ok(api::Agent {
        id: agent.id().to_string(),
        version: version.version,
        name: agent.name,
        endpoints,
        greeting,
        sample_rate: version.sample_rate.unsigned_abs(),
        config: version.config,
        max_concurrent_calls: agent.max_concurrent_calls,
        created_at: Some(timestamp(agent.created_at)),
        updated_at: Some(timestamp(agent.updated_at)),
    })
}
