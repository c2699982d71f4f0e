//! AuditService.

use std::sync::Arc;

use callbridge_proto::{
    id::KeyId,
    privacy::v1::{self as api, audit_service_server::AuditService},
};
use exotel::PhoneNumber;
use prost::Message as _;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    call::{given, instant},
    page,
    view::{texts, timestamp},
};
use crate::{
    app::App,
    error::{Error, Violations},
    store::audit::{self, Entry, Filter, Outcome},
};

const LIST: &str = "audit";

/// The service.
pub struct Service(pub Arc<App>);

#[tonic::async_trait]
impl AuditService for Service {
    async fn list_audit(
        &self,
        request: Request<api::ListAuditRequest>,
    ) -> Result<Response<api::ListAuditResponse>, Status> {
        let request = request.into_inner();
        let filters = api::ListAuditRequest {
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        }
        .encode_to_vec();
        let size = page::size(request.page_size)?;
        let older_than = page::after(LIST, &filters, &request.page_token)?;
        let older_than = older_than.and_then(|id| i64::try_from(id.as_u128()).ok());
        let mut wrong = Violations::new();
        let number = given(request.number).and_then(|number| wrong.check("number", PhoneNumber::parse(&number)));
        let mut filter = Filter {
            principal: given(request.principal),
            method: given(request.method),
            subject: given(request.subject),
            outcome: outcome(&mut wrong, request.outcome),
            after: instant(&mut wrong, "after", request.after.as_ref()),
            before: instant(&mut wrong, "before", request.before.as_ref()),
        };
        wrong.require(
            number.is_none() || filter.subject.is_none(),
            "number",
            "is not given together with subject",
        );
        wrong.finish()?;
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        if let Some(number) = number {
            let hash = audit::number_hash(&mut conn, number.expose())
                .await
                .map_err(Error::from)?;
            filter.subject = Some(hash);
        }
        let mut rows = audit::page(&mut conn, &filter, older_than, size + 1)
            .await
            .map_err(Error::from)?;
        let next_page_token = page::cut(&mut rows, size, LIST, &filters, |row| {
            Uuid::from_u128(row.id.unsigned_abs().into())
        });
        Ok(Response::new(api::ListAuditResponse {
            entries: rows.into_iter().map(shown).collect(),
            next_page_token,
        }))
    }
}

fn outcome(wrong: &mut Violations, outcome: i32) -> Option<Outcome> {
    match api::AuditOutcome::try_from(outcome) {
        Ok(api::AuditOutcome::Unspecified) => None,
        Ok(api::AuditOutcome::Changed) => Some(Outcome::Changed),
        Ok(api::AuditOutcome::Shown) => Some(Outcome::Shown),
        Ok(api::AuditOutcome::Refused) => Some(Outcome::Refused),
        Err(_) => {
            wrong.add("outcome", "is a value of the enum AuditOutcome");
            None
        }
    }
}

fn shown(entry: Entry) -> api::AuditEntry {
    let outcome = match entry.outcome {
        Outcome::Changed => api::AuditOutcome::Changed,
        Outcome::Shown => api::AuditOutcome::Shown,
        Outcome::Refused => api::AuditOutcome::Refused,
    };
    api::AuditEntry {
        id: entry.id,
        at: Some(timestamp(entry.at)),
        principal: entry.principal,
        key_id: entry.key_id.map(|id| KeyId(id).to_string()).unwrap_or_default(),
        method: entry.method,
        subject: entry.subject,
        trace_id: entry.trace_id.unwrap_or_default(),
        outcome: outcome.into(),
        data: texts(&entry.data).collect(),
    }
}
