//! PhoneService.

use std::sync::Arc;

use callbridge_proto::{
    directory::v1::{self as api, diagnose_response::Message, phone_service_server::PhoneService},
    id::{AgentId, PhoneId},
};
use exotel::PhoneNumber;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    account::checked,
    auth::{Caller, Scope},
    call::{BoxStream, short_text},
    id,
    view::timestamp,
};
use crate::{
    app::App,
    audit::{self, Subject},
    diagnosis::{self, Check, Encoding, KeyCase, Outcome, Part, Query, Variants},
    directory::phone::{self, New, View, audio},
    error::{Error, Violations},
    store::phones::{DialMode, Gather},
    toll::Dialler,
};

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl PhoneService for Service {
    async fn create_phone(&self, request: Request<api::CreatePhoneRequest>) -> Answer<api::CreatePhoneResponse> {
        self.may_be_dialled(&Caller::of(&request)?, &request.get_ref().transfer_numbers)?;
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
        let numbers = request
            .get_ref()
            .phone
            .as_ref()
            .map(|phone| phone.transfer_numbers.as_slice());
        self.may_be_dialled(&Caller::of(&request)?, numbers.unwrap_or_default())?;
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

    type DiagnoseStream = BoxStream<api::DiagnoseResponse>;

    async fn diagnose(&self, request: Request<api::DiagnoseRequest>) -> Answer<Self::DiagnoseStream> {
        let caller = Caller::of(&request)?;
        // Whom it calls hears it ring, as with PlaceCall.
        if !request.get_ref().call.trim().is_empty() && !caller.may(Scope::CallsWrite) {
            return Err(Error::Forbidden {
                scope: Scope::CallsWrite.word(),
            }
            .into());
        }
        let wanted = diagnosis_wanted(caller.dialler(), request.into_inner())?;
        if let Some(to) = &wanted.call {
            self.0.config.toll.allow(&wanted.caller.limits, to)?;
        }
        let data = match &wanted.hours_override {
            Some(reason) => json!({ "calling_hours_override": audit::without_digits(reason) }),
            None => json!({}),
        };
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        audit::changed_with(&mut conn, Subject::Id(&wanted.phone), data).await?;
        drop(conn);
        let parts = diagnosis::start(&self.0, wanted).await?;
        let stream = ReceiverStream::new(parts).map(|part| {
            let message = match part? {
                Part::Check(check) => Message::Check(shown_check(check)),
                Part::Variants(variants) => Message::Variants(shown_variants(&variants)),
            };
            Ok(api::DiagnoseResponse { message: Some(message) })
        });
        Ok(Response::new(Box::pin(stream)))
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

impl Service {
    /// Whether all numbers that calls may be handed to may be dialled; those that are none are told of elsewhere.
    fn may_be_dialled(&self, caller: &Caller, numbers: &[String]) -> Result<(), Error> {
        let limits = caller.limits();
        numbers
            .iter()
            .filter_map(|number| PhoneNumber::parse(number).ok())
            .try_for_each(|number| self.0.config.toll.allow(&limits, &number))
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
    let variants = phone.variants();
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
        variants: variants.as_ref().map(shown_variants),
    })
}

fn diagnosis_wanted(caller: Dialler, request: api::DiagnoseRequest) -> Result<diagnosis::Request, Error> {
    let mut wrong = Violations::new();
    let phone = wrong.check("phone_id", request.phone_id.parse());
    let call = if request.call.trim().is_empty() {
        None
    } else {
        wrong.check("call", PhoneNumber::parse(&request.call))
    };
    let hours_override = wrong.check(
        "calling_hours_override",
        short_text("calling_hours_override", request.calling_hours_override),
    );
    wrong.finish()?;
    Ok(diagnosis::Request {
        caller,
        phone: phone.ok_or_else(|| Error::internal("a violation was lost"))?,
        call,
        hours_override: hours_override.filter(|reason| !reason.trim().is_empty()),
    })
}

fn shown_check(check: Check) -> api::DiagnosisCheck {
    let outcome = match check.outcome {
        Outcome::Passed => api::DiagnosisOutcome::Passed,
        Outcome::Warning => api::DiagnosisOutcome::Warning,
        Outcome::Failed => api::DiagnosisOutcome::Failed,
        Outcome::Skipped => api::DiagnosisOutcome::Skipped,
    };
    api::DiagnosisCheck {
        name: check.name.to_owned(),
        outcome: outcome.into(),
        seen: check.seen,
        advice: check.advice,
        call_id: check.call.map(|id| id.to_string()).unwrap_or_default(),
    }
}

fn shown_variants(variants: &Variants) -> api::Variants {
    let key_case = match variants.key_case {
        None => api::KeyCase::Unspecified,
        Some(KeyCase::Snake) => api::KeyCase::Snake,
        Some(KeyCase::Camel) => api::KeyCase::Camel,
    };
    let query = match variants.query {
        None => api::QueryHandling::Unspecified,
        Some(Query::Kept) => api::QueryHandling::Kept,
        Some(Query::Parameters) => api::QueryHandling::Parameters,
        Some(Query::Dropped) => api::QueryHandling::Dropped,
    };
    let callback = variants.callback.as_ref();
    let encoding = match callback.map(|callback| callback.encoding) {
        None => api::CallbackEncoding::Unspecified,
        Some(Encoding::Multipart) => api::CallbackEncoding::Multipart,
        Some(Encoding::Form) => api::CallbackEncoding::Form,
        Some(Encoding::Json) => api::CallbackEncoding::Json,
    };
    let fields = match callback.map(|callback| callback.full) {
        None => api::CallbackFields::Unspecified,
        Some(false) => api::CallbackFields::Short,
        Some(true) => api::CallbackFields::Full,
    };
    api::Variants {
        seen_at: Some(timestamp(variants.seen_at)),
        key_case: key_case.into(),
        sample_rate: variants.sample_rate.unwrap_or(0),
        chunk_bytes: variants.chunk_bytes.unwrap_or(0),
        query: query.into(),
        callback_encoding: encoding.into(),
        callback_fields: fields.into(),
        utc_offset_minutes: variants.utc_offset_minutes,
    }
}
