//! PhoneService.

use std::sync::Arc;

use callbridge_proto::{
    directory::v1::{self as api, phone_service_server::PhoneService},
    id::{AgentId, PhoneId},
};
use tonic::{Request, Response, Status};

use super::{account::checked, id, view::timestamp};
use crate::{
    app::App,
    directory::phone::{self, New, View, audio},
    error::Error,
    store::phones::{DialMode, Gather},
};

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl PhoneService for Service {
    async fn create_phone(&self, request: Request<api::CreatePhoneRequest>) -> Answer<api::CreatePhoneResponse> {
        let new = New::read(request.get_ref())?;
        let view = phone::create(&self.0, new).await?;
        Ok(Response::new(api::CreatePhoneResponse {
            phone: Some(shown(view)?),
        }))
    }

    async fn get_phone(&self, request: Request<api::GetPhoneRequest>) -> Answer<api::GetPhoneResponse> {
        let id: PhoneId = id("phone_id", &request.get_ref().phone_id)?;
        let view = phone::get(&self.0, id).await?;
        Ok(Response::new(api::GetPhoneResponse {
            phone: Some(shown(view)?),
        }))
    }

    async fn list_phones(&self, request: Request<api::ListPhonesRequest>) -> Answer<api::ListPhonesResponse> {
        let (views, next_page_token) = phone::list(&self.0, request.get_ref()).await?;
        let phones: Result<_, Error> = views.into_iter().map(shown).collect();
        Ok(Response::new(api::ListPhonesResponse {
            phones: phones?,
            next_page_token,
        }))
    }

    async fn update_phone(&self, request: Request<api::UpdatePhoneRequest>) -> Answer<api::UpdatePhoneResponse> {
        let view = phone::update(&self.0, request.get_ref()).await?;
        Ok(Response::new(api::UpdatePhoneResponse {
            phone: Some(shown(view)?),
        }))
    }

    async fn set_phone_credentials(
        &self,
        request: Request<api::SetPhoneCredentialsRequest>,
    ) -> Answer<api::SetPhoneCredentialsResponse> {
        let request = request.into_inner();
        let id: PhoneId = id("phone_id", &request.phone_id)?;
        let view = phone::set_credentials(&self.0, id, &request).await?;
        Ok(Response::new(api::SetPhoneCredentialsResponse {
            phone: Some(shown(view)?),
        }))
    }

    async fn clear_phone_credentials(
        &self,
        request: Request<api::ClearPhoneCredentialsRequest>,
    ) -> Answer<api::ClearPhoneCredentialsResponse> {
        let id: PhoneId = id("phone_id", &request.get_ref().phone_id)?;
        let view = phone::clear_credentials(&self.0, id).await?;
        Ok(Response::new(api::ClearPhoneCredentialsResponse {
            phone: Some(shown(view)?),
        }))
    }

    async fn verify_credentials(
        &self,
        request: Request<api::VerifyCredentialsRequest>,
    ) -> Answer<api::VerifyCredentialsResponse> {
        let id: PhoneId = id("phone_id", &request.get_ref().phone_id)?;
        let check = phone::verify(&self.0, id).await?;
        Ok(Response::new(api::VerifyCredentialsResponse {
            check: Some(checked(check)),
        }))
    }
}

fn shown(view: View) -> Result<api::Phone, Error> {
    let View { phone, has_credentials } = view;
    let broken = |error| Error::internal_from("a stored phone cannot be read", error);
    let gather = phone.gather().map_err(broken)?.map(|gather| {
        let Gather {
            text,
            max_digits,
            finish_on_key,
            timeout_seconds,
            repeats,
        } = gather;
        // Empty means the default on the way in.
        let finish_on_key = if finish_on_key.is_empty() {
            "none".to_owned()
        } else {
            finish_on_key
        };
        api::GatherPrompt {
            text,
            max_digits,
            finish_on_key,
            timeout_seconds,
            repeats,
        }
    });
    let dial_mode = match phone.dial_mode {
        DialMode::Flow => api::DialMode::Flow,
        DialMode::Stream => api::DialMode::Stream,
    };
    Ok(api::Phone {
        id: phone.id().to_string(),
        account_id: phone.account_id().to_string(),
        dial_mode: dial_mode.into(),
        agent_id: phone.agent_id.map(|id| AgentId(id).to_string()).unwrap_or_default(),
        max_concurrent_calls: phone.max_concurrent_calls,
        gather,
        transfer_numbers: phone.transfer_numbers().map_err(broken)?,
        audio: phone.audio().map(audio::shown),
        has_credentials,
        created_at: Some(timestamp(phone.created_at)),
        number: phone.number,
        label: phone.label,
        app_id: phone.app_id.unwrap_or_default(),
        record_audio: phone.record_audio,
    })
}
