//! AccountService.

use std::sync::Arc;

use callbridge_proto::{
    directory::v1::{self as api, account_service_server::AccountService},
    id::AccountId,
};
use exotel::paths::Applet;
use tonic::{Request, Response, Status};

use super::{id, view::timestamp};
use crate::{
    app::App,
    audit::{self, Subject},
    directory::account::{self, Check, New, View},
};

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AccountService for Service {
    async fn create_account(&self, request: Request<api::CreateAccountRequest>) -> Answer<api::CreateAccountResponse> {
        let new = New::read(request.get_ref())?;
        let view = account::create(&self.0, new).await?;
        Ok(Response::new(api::CreateAccountResponse {
            account: Some(shown(view)),
        }))
    }

    async fn get_account(&self, request: Request<api::GetAccountRequest>) -> Answer<api::GetAccountResponse> {
        let id: AccountId = id("account_id", &request.get_ref().account_id)?;
        let view = account::get(&self.0, id).await?;
        Ok(Response::new(api::GetAccountResponse {
            account: Some(shown(view)),
        }))
    }

    async fn list_accounts(&self, request: Request<api::ListAccountsRequest>) -> Answer<api::ListAccountsResponse> {
        let request = request.into_inner();
        let (views, next_page_token) = account::list(&self.0, request.page_size, &request.page_token).await?;
        let accounts = views.into_iter().map(shown).collect();
        Ok(Response::new(api::ListAccountsResponse {
            accounts,
            next_page_token,
        }))
    }

    async fn update_account(&self, request: Request<api::UpdateAccountRequest>) -> Answer<api::UpdateAccountResponse> {
        let view = account::update(&self.0, request.get_ref()).await?;
        Ok(Response::new(api::UpdateAccountResponse {
            account: Some(shown(view)),
        }))
    }

    async fn set_account_credentials(
        &self,
        request: Request<api::SetAccountCredentialsRequest>,
    ) -> Answer<api::SetAccountCredentialsResponse> {
        let request = request.into_inner();
        let id: AccountId = id("account_id", &request.account_id)?;
        let view = account::set_credentials(&self.0, id, request.credentials.as_ref()).await?;
        Ok(Response::new(api::SetAccountCredentialsResponse {
            account: Some(shown(view)),
        }))
    }

    async fn verify_account_credentials(
        &self,
        request: Request<api::VerifyAccountCredentialsRequest>,
    ) -> Answer<api::VerifyAccountCredentialsResponse> {
        let id: AccountId = id("account_id", &request.get_ref().account_id)?;
        let check = account::verify(&self.0, id).await?;
        Ok(Response::new(api::VerifyAccountCredentialsResponse {
            check: Some(checked(check)),
        }))
    }

    async fn get_webhook_urls(
        &self,
        request: Request<api::GetWebhookUrlsRequest>,
    ) -> Answer<api::GetWebhookUrlsResponse> {
        let id: AccountId = id("account_id", &request.get_ref().account_id)?;
        let urls = account::webhook_urls(&self.0, id).await?;
        audit::shown(&self.0.trail, Subject::Id(&id)).await?;
        Ok(Response::new(api::GetWebhookUrlsResponse {
            connect_url: urls.applet(Applet::Connect),
            greeting_url: urls.applet(Applet::Greeting),
            gather_url: urls.applet(Applet::Gather),
            input_url: urls.applet(Applet::Input),
            transfer_url: urls.applet(Applet::Transfer),
            end_url: urls.applet(Applet::End),
            socket_url: urls.socket(),
            account_token: urls.token,
        }))
    }

    async fn rotate_account_token(
        &self,
        request: Request<api::RotateAccountTokenRequest>,
    ) -> Answer<api::RotateAccountTokenResponse> {
        let id: AccountId = id("account_id", &request.get_ref().account_id)?;
        let generation = account::rotate_token(&self.0, id).await?;
        Ok(Response::new(api::RotateAccountTokenResponse { generation }))
    }
}

fn shown(view: View) -> api::Account {
    let View {
        account,
        has_credentials,
    } = view;
    api::Account {
        id: account.id().to_string(),
        name: account.name,
        sid: account.sid,
        calls_per_minute: account.calls_per_minute,
        max_concurrent_calls: account.max_concurrent_calls,
        inbound_reserve: account.inbound_reserve,
        calling_hours: Some(api::CallingHours {
            off: account.hours_off,
            start_minute: account.hours_start_minute,
            end_minute: account.hours_end_minute,
            time_zone: account.hours_time_zone,
        }),
        app_id: account.app_id.unwrap_or_default(),
        has_credentials,
        from_environment: account.from_environment,
        created_at: Some(timestamp(account.created_at)),
        subdomain: account.subdomain,
    }
}

/// A check as the API has it.
pub(super) fn checked(check: Check) -> api::CredentialCheck {
    api::CredentialCheck {
        accepted: check.accepted,
        owns_number: check.owns_number,
        source: check.source.word().to_owned(),
        problem: check.problem,
    }
}
