//! KeyService.

use std::sync::Arc;

use callbridge_proto::{
    access::v1::{self as api, key_service_server::KeyService},
    id::KeyId,
};
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};

use super::{auth::Caller, id, view::timestamp};
use crate::{
    access::keys::{self, New},
    app::App,
    store::api_keys::ApiKey,
};

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl KeyService for Service {
    async fn create_key(&self, request: Request<api::CreateKeyRequest>) -> Answer<api::CreateKeyResponse> {
        let caller = Caller::of(&request)?;
        let new = New::read(&caller, self.0.clock.now(), &self.0.config.toll, request.get_ref())?;
        let (key, presented) = keys::create(&self.0, &caller, new).await?;
        Ok(Response::new(api::CreateKeyResponse {
            key: Some(shown(key)),
            // The one secret that an RPC returns.
            api_key: presented.expose_secret().to_owned(),
        }))
    }

    async fn list_keys(&self, request: Request<api::ListKeysRequest>) -> Answer<api::ListKeysResponse> {
        let (keys, next_page_token) = keys::list(&self.0, request.get_ref()).await?;
        Ok(Response::new(api::ListKeysResponse {
            keys: keys.into_iter().map(shown).collect(),
            next_page_token,
        }))
    }

    async fn revoke_key(&self, request: Request<api::RevokeKeyRequest>) -> Answer<api::RevokeKeyResponse> {
        let caller = Caller::of(&request)?;
        let id: KeyId = id("key_id", &request.get_ref().key_id)?;
        let key = keys::revoke(&self.0, &caller, id).await?;
        Ok(Response::new(api::RevokeKeyResponse { key: Some(shown(key)) }))
    }
}

fn shown(key: ApiKey) -> api::Key {
    api::Key {
        id: key.id().to_string(),
        scopes: key.scopes.split('+').map(str::to_owned).collect(),
        created_at: Some(timestamp(key.created_at)),
        created_by: key.created_by,
        created_with: key.created_with.map(|id| KeyId(id).to_string()).unwrap_or_default(),
        expires_at: key.expires_at.map(timestamp),
        last_used_at: key.last_used_at.map(timestamp),
        revoked_at: key.revoked_at.map(timestamp),
        revoked_by: key.revoked_by.unwrap_or_default(),
        dial_prefixes: key
            .dial_prefixes
            .iter()
            .flat_map(|list| list.split(','))
            .map(str::to_owned)
            .collect(),
        daily_calls: key.daily_calls.unwrap_or_default(),
        name: key.name,
    }
}
