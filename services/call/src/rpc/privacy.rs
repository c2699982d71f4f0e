//! PrivacyService.

use std::sync::Arc;

use callbridge_proto::{
    id::CallId,
    privacy::v1::{self as api, privacy_service_server::PrivacyService},
};
use exotel::PhoneNumber;
use futures_util::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{call::BoxStream, id, view::timestamp};
use crate::{
    app::App,
    error::{Error, Violations},
    privacy::{erase, export, hold},
};

/// Digits in a row that may be a number.
const NUMBER_DIGITS: usize = 7;
const REASON_CHARS: usize = 128;

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl PrivacyService for Service {
    type ExportNumberStream = BoxStream<api::ExportNumberResponse>;

    async fn export_number(&self, request: Request<api::ExportNumberRequest>) -> Answer<Self::ExportNumberStream> {
        let number = number(&request.get_ref().number)?;
        let stream = ReceiverStream::new(export::export(&self.0, number).await?).map(|piece| {
            piece
                .map(|json_lines| api::ExportNumberResponse { json_lines })
                .map_err(Status::from)
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn erase_number(&self, request: Request<api::EraseNumberRequest>) -> Answer<api::EraseNumberResponse> {
        let request = request.into_inner();
        let mut wrong = Violations::new();
        let number = wrong.check("number", PhoneNumber::parse(&request.number));
        let reason = reason(&mut wrong, request.reason);
        wrong.finish()?;
        let number = number.ok_or_else(|| Error::internal("a violation was lost"))?;
        let erased = if request.dry_run {
            erase::count(&self.0, &number, &reason).await?
        } else {
            erase::erase(&self.0, &number, &reason).await?
        };
        Ok(Response::new(api::EraseNumberResponse {
            done: erased.done,
            calls: erased.counts.calls,
            transcripts: erased.counts.transcripts,
            recordings: erased.counts.recordings,
            contacts: erased.counts.contacts,
            suppressions: erased.counts.suppressions,
            transfers: erased.counts.transfers,
        }))
    }

    async fn hold_call(&self, request: Request<api::HoldCallRequest>) -> Answer<api::HoldCallResponse> {
        let request = request.into_inner();
        let mut wrong = Violations::new();
        let call = wrong.check("call_id", request.call_id.parse::<CallId>());
        let reason = reason(&mut wrong, request.reason);
        wrong.finish()?;
        let call = call.ok_or_else(|| Error::internal("a violation was lost"))?;
        let held_at = hold::hold(&self.0, call, &reason).await?;
        Ok(Response::new(api::HoldCallResponse {
            held_at: Some(timestamp(held_at)),
        }))
    }

    async fn hold_number(&self, request: Request<api::HoldNumberRequest>) -> Answer<api::HoldNumberResponse> {
        let request = request.into_inner();
        let mut wrong = Violations::new();
        let number = wrong.check("number", PhoneNumber::parse(&request.number));
        let reason = reason(&mut wrong, request.reason);
        wrong.finish()?;
        let number = number.ok_or_else(|| Error::internal("a violation was lost"))?;
        let held_at = hold::hold_number(&self.0, &number, &reason).await?;
        Ok(Response::new(api::HoldNumberResponse {
            held_at: Some(timestamp(held_at)),
        }))
    }

    async fn release_number(&self, request: Request<api::ReleaseNumberRequest>) -> Answer<api::ReleaseNumberResponse> {
        let number = number(&request.get_ref().number)?;
        let released = hold::release_number(&self.0, &number).await?;
        Ok(Response::new(api::ReleaseNumberResponse { released }))
    }

    async fn release_call(&self, request: Request<api::ReleaseCallRequest>) -> Answer<api::ReleaseCallResponse> {
        let call: CallId = id("call_id", &request.get_ref().call_id)?;
        let released = hold::release(&self.0, call).await?;
        Ok(Response::new(api::ReleaseCallResponse { released }))
    }
}

fn number(text: &str) -> Result<PhoneNumber, Error> {
    PhoneNumber::parse(text).map_err(|error| Error::invalid("number", error.to_string()))
}

/// It is kept longer than what it is about, so there must be no number in it.
fn reason(wrong: &mut Violations, text: String) -> String {
    wrong.require(!text.trim().is_empty(), "reason", "is required: up to 128 characters");
    wrong.require(
        text.chars().count() <= REASON_CHARS && !text.contains('\0'),
        "reason",
        "at most 128 characters, without NUL",
    );
    let digits = text.chars().filter(|c| c.is_numeric()).count();
    wrong.require(
        digits < NUMBER_DIGITS,
        "reason",
        "has no number in it: at most six digits",
    );
    text
}
