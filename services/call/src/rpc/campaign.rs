//! CampaignService.

mod read;
mod shown;

use std::{pin::pin, sync::Arc, time::Duration};

use callbridge_proto::{
    campaign::v1::{self as api, add_contacts_request::Message, campaign_service_server::CampaignService},
    id::CampaignId,
};
use exotel::PhoneNumber;
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    auth::{Caller, Principal},
    call::{BoxStream, given, instant, short_text},
    id, page,
};
use crate::{
    app::App,
    audit::{self, Subject},
    campaigns::{
        control, dry_run, export,
        import::{self, Begun},
        progress,
        state::Control,
        suppress,
    },
    error::{Error, Violations},
    store::{
        campaigns::{
            self,
            numbers::{self as lists, Source},
        },
        contacts,
    },
};

/// A stream of contacts that brings nothing for this long is given up; it is sent again with its key.
const SILENCE: Duration = Duration::from_mins(1);
/// Entries of the history that GetCampaign shows.
const HISTORY: i64 = 100;
/// Numbers of one change of a list.
const MOST_NUMBERS: usize = 1_000;

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl CampaignService for Service {
    type WatchCampaignStream = BoxStream<api::WatchCampaignResponse>;
    type ExportResultsStream = BoxStream<api::ExportResultsResponse>;

    async fn create_campaign(
        &self,
        request: Request<api::CreateCampaignRequest>,
    ) -> Answer<api::CreateCampaignResponse> {
        let caller = Principal::of(&request)?.name;
        let request = request.into_inner();
        let settings = read::settings(&self.0, &request.idempotency_key, request.settings.unwrap_or_default())?;
        let (whole, repeated) = control::create(&self.0, &caller, &request.idempotency_key, &settings).await?;
        Ok(Response::new(api::CreateCampaignResponse {
            campaign: Some(shown::campaign(&whole)?),
            repeated,
        }))
    }

    async fn update_campaign(
        &self,
        request: Request<api::UpdateCampaignRequest>,
    ) -> Answer<api::UpdateCampaignResponse> {
        let caller = Principal::of(&request)?.name;
        let request = request.into_inner();
        let id: CampaignId = id("campaign_id", &request.campaign_id)?;
        let fields = read::mask(request.update_mask.as_ref())?;
        let wanted = read::part(&self.0, &fields, request.settings.unwrap_or_default())?;
        let whole = control::update(&self.0, &caller, id, &fields, |before| {
            read::merge(before, &wanted, &fields)
        })
        .await?;
        Ok(Response::new(api::UpdateCampaignResponse {
            campaign: Some(shown::campaign(&whole)?),
        }))
    }

    async fn get_campaign(&self, request: Request<api::GetCampaignRequest>) -> Answer<api::GetCampaignResponse> {
        let id: CampaignId = id("campaign_id", &request.get_ref().campaign_id)?;
        let whole = control::get(&self.0, id).await?;
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        let progress = progress::of(&mut conn, &self.0, &whole.campaign).await?;
        let history = campaigns::history(&mut conn, id, HISTORY).await.map_err(Error::from)?;
        Ok(Response::new(api::GetCampaignResponse {
            campaign: Some(shown::campaign(&whole)?),
            progress: Some(shown::progress(&progress)),
            history: history.iter().map(shown::entry).collect(),
        }))
    }

    async fn list_campaigns(&self, request: Request<api::ListCampaignsRequest>) -> Answer<api::ListCampaignsResponse> {
        let request = request.into_inner();
        let state = read::state(request.state)?;
        let filters = state.unwrap_or_default();
        let size = page::size(request.page_size)?;
        let before = page::after("campaigns", filters.as_bytes(), &request.page_token)?.map(CampaignId);
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        let mut rows = campaigns::page(&mut conn, state, before, size + 1)
            .await
            .map_err(Error::from)?;
        let next_page_token = page::cut(&mut rows, size, "campaigns", filters.as_bytes(), |row| row.id);
        let mut shown = Vec::with_capacity(rows.len());
        for row in rows {
            shown.push(shown::campaign(&control::whole(&mut conn, row).await?)?);
        }
        Ok(Response::new(api::ListCampaignsResponse {
            campaigns: shown,
            next_page_token,
        }))
    }

    async fn start_campaign(&self, request: Request<api::StartCampaignRequest>) -> Answer<api::StartCampaignResponse> {
        let caller = Principal::of(&request)?.name;
        let campaign = self
            .steer(&caller, &request.get_ref().campaign_id, Control::Start, "")
            .await?;
        Ok(Response::new(api::StartCampaignResponse {
            campaign: Some(campaign),
        }))
    }

    async fn pause_campaign(&self, request: Request<api::PauseCampaignRequest>) -> Answer<api::PauseCampaignResponse> {
        let caller = Principal::of(&request)?.name;
        let request = request.into_inner();
        let reason = or_operator(short_text("reason", request.reason)?);
        let campaign = self
            .steer(&caller, &request.campaign_id, Control::Pause, &reason)
            .await?;
        Ok(Response::new(api::PauseCampaignResponse {
            campaign: Some(campaign),
        }))
    }

    async fn resume_campaign(
        &self,
        request: Request<api::ResumeCampaignRequest>,
    ) -> Answer<api::ResumeCampaignResponse> {
        let caller = Principal::of(&request)?.name;
        let campaign = self
            .steer(&caller, &request.get_ref().campaign_id, Control::Resume, "")
            .await?;
        Ok(Response::new(api::ResumeCampaignResponse {
            campaign: Some(campaign),
        }))
    }

    async fn abort_campaign(&self, request: Request<api::AbortCampaignRequest>) -> Answer<api::AbortCampaignResponse> {
        let caller = Principal::of(&request)?.name;
        let request = request.into_inner();
        let reason = or_operator(short_text("reason", request.reason)?);
        let campaign = self
            .steer(&caller, &request.campaign_id, Control::Abort, &reason)
            .await?;
        let id: CampaignId = id("campaign_id", &request.campaign_id)?;
        let in_flight = control::in_flight(&self.0, id).await?;
        Ok(Response::new(api::AbortCampaignResponse {
            campaign: Some(campaign),
            in_flight: i32::try_from(in_flight).unwrap_or(i32::MAX),
        }))
    }

    async fn add_contacts(
        &self,
        request: Request<Streaming<api::AddContactsRequest>>,
    ) -> Answer<api::AddContactsResponse> {
        let caller = Caller::of(&request)?.dialler();
        let mut stream = request.into_inner();
        let mut stopping = pin!(self.0.tasks.stopping());
        let mut importing = None;
        loop {
            let message = tokio::select! {
                () = &mut stopping => {
                    return Err(Error::unavailable("this replica shuts down: send it again with the same key").into());
                }
                message = timeout(SILENCE, stream.message()) => message.map_err(|_| Error::TooSlow)??,
            };
            let Some(message) = message.map(|request| request.message) else {
                break;
            };
            match (message, &mut importing) {
                (Some(Message::Header(header)), None) => {
                    match import::begin(&self.0, &caller, read::header(header)?).await? {
                        Begun::Goes(goes) => importing = Some(goes),
                        Begun::Done(report) => return Ok(Response::new(shown::report(report))),
                    }
                }
                (Some(Message::Header(_)), Some(_)) => {
                    return Err(Error::invalid("header", "is sent once, first").into());
                }
                (Some(Message::CsvChunk(piece)), Some(importing)) => importing.csv(&piece).await?,
                (Some(Message::Contacts(list)), Some(importing)) => importing.list(&list.contacts).await?,
                (None, Some(_)) => return Err(Error::invalid("message", "is csv_chunk or contacts").into()),
                (_, None) => return Err(Error::invalid("header", "is required, first").into()),
            }
        }
        let importing = importing.ok_or_else(|| Error::invalid("header", "is required, first"))?;
        Ok(Response::new(shown::report(importing.finish().await?)))
    }

    async fn list_contacts(&self, request: Request<api::ListContactsRequest>) -> Answer<api::ListContactsResponse> {
        let request = request.into_inner();
        let id: CampaignId = id("campaign_id", &request.campaign_id)?;
        let state = read::contact_state(request.state)?;
        let number = given(request.number.clone())
            .map(|number| PhoneNumber::parse(&number))
            .transpose()
            .map_err(|error| Error::invalid("number", error.to_string()))?;
        let filters = api::ListContactsRequest {
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        }
        .encode_to_vec();
        let size = page::size(request.page_size)?;
        let after = page::after("contacts", &filters, &request.page_token)?;
        control::get(&self.0, id).await?;
        let number = number.as_ref().map(PhoneNumber::expose);
        audit::shown(&self.0.trail, number.map_or(Subject::Id(&id), Subject::Number)).await?;
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        let mut rows = contacts::page(&mut conn, id, state, number, after, size + 1)
            .await
            .map_err(Error::from)?;
        let next_page_token = page::cut(&mut rows, size, "contacts", &filters, |row| row.id);
        Ok(Response::new(api::ListContactsResponse {
            contacts: rows.iter().map(shown::contact).collect(),
            next_page_token,
        }))
    }

    async fn forecast_campaign(
        &self,
        request: Request<api::ForecastCampaignRequest>,
    ) -> Answer<api::ForecastCampaignResponse> {
        let request = request.into_inner();
        let id: CampaignId = id("campaign_id", &request.campaign_id)?;
        let assumed = read::assumed(request)?;
        let (forecast, rules) = dry_run::run(&self.0, id, assumed).await?;
        Ok(Response::new(shown::forecast(&forecast, &rules)))
    }

    async fn watch_campaign(&self, request: Request<api::WatchCampaignRequest>) -> Answer<Self::WatchCampaignStream> {
        let id: CampaignId = id("campaign_id", &request.get_ref().campaign_id)?;
        let stream = ReceiverStream::new(progress::watch(&self.0, id).await?).map(|progress| {
            progress
                .map(|progress| api::WatchCampaignResponse {
                    progress: Some(shown::progress(&progress)),
                })
                .map_err(Status::from)
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn export_results(&self, request: Request<api::ExportResultsRequest>) -> Answer<Self::ExportResultsStream> {
        let id: CampaignId = id("campaign_id", &request.get_ref().campaign_id)?;
        let stream = ReceiverStream::new(export::export(&self.0, id).await?).map(|piece| {
            piece
                .map(|csv_chunk| api::ExportResultsResponse { csv_chunk })
                .map_err(Status::from)
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn add_suppressions(
        &self,
        request: Request<api::AddSuppressionsRequest>,
    ) -> Answer<api::AddSuppressionsResponse> {
        let caller = Principal::of(&request)?.name;
        let request = request.into_inner();
        let campaign = campaign_id(&request.campaign_id)?;
        let mut wrong = Violations::new();
        let numbers = numbers(&mut wrong, &request.numbers);
        let reason = wrong
            .check("reason", short_text("reason", request.reason))
            .unwrap_or_default();
        wrong.require(!reason.trim().is_empty(), "reason", "is required: up to 128 characters");
        wrong.require(
            reason.trim() != lists::DND,
            "reason",
            "is yours: exotel_dnd is what Exotel itself refused",
        );
        let expires_at = instant(&mut wrong, "expires_at", request.expires_at.as_ref());
        wrong.finish()?;
        let added = suppress::add(&self.0, &caller, campaign, &numbers, &reason, expires_at).await?;
        Ok(Response::new(api::AddSuppressionsResponse {
            added: i32::try_from(added).unwrap_or(i32::MAX),
        }))
    }

    async fn remove_suppressions(
        &self,
        request: Request<api::RemoveSuppressionsRequest>,
    ) -> Answer<api::RemoveSuppressionsResponse> {
        let caller = Principal::of(&request)?.name;
        let request = request.into_inner();
        let campaign = campaign_id(&request.campaign_id)?;
        let mut wrong = Violations::new();
        let numbers = numbers(&mut wrong, &request.numbers);
        wrong.finish()?;
        let source = if request.exotel_dnd {
            Source::Exotel
        } else {
            Source::Caller
        };
        let removed = suppress::remove(&self.0, &caller, (campaign, source), &numbers).await?;
        Ok(Response::new(api::RemoveSuppressionsResponse {
            removed: i32::try_from(removed).unwrap_or(i32::MAX),
        }))
    }

    async fn list_suppressions(
        &self,
        request: Request<api::ListSuppressionsRequest>,
    ) -> Answer<api::ListSuppressionsResponse> {
        let request = request.into_inner();
        let campaign = campaign_id(&request.campaign_id)?;
        let number = given(request.number.clone())
            .map(|number| PhoneNumber::parse(&number))
            .transpose()
            .map_err(|error| Error::invalid("number", error.to_string()))?;
        let filters = api::ListSuppressionsRequest {
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        }
        .encode_to_vec();
        let size = page::size(request.page_size)?;
        let after = page::after("suppressions", &filters, &request.page_token)?;
        let number = number.as_ref().map(PhoneNumber::expose);
        let subject = match (number, &campaign) {
            (Some(number), _) => Subject::Number(number),
            (None, Some(id)) => Subject::Id(id),
            (None, None) => Subject::All,
        };
        audit::shown(&self.0.trail, subject).await?;
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        let mut rows = lists::page(&mut conn, campaign, number, after, size + 1)
            .await
            .map_err(Error::from)?;
        let next_page_token = page::cut(&mut rows, size, "suppressions", &filters, |row| row.id);
        Ok(Response::new(api::ListSuppressionsResponse {
            suppressions: rows.iter().map(shown::suppression).collect(),
            next_page_token,
        }))
    }
}

impl Service {
    async fn steer(&self, by: &str, campaign: &str, wanted: Control, reason: &str) -> Result<api::Campaign, Error> {
        let id: CampaignId = id("campaign_id", campaign)?;
        control::control(&self.0, by, id, wanted, reason).await?;
        shown::campaign(&control::get(&self.0, id).await?)
    }
}

fn or_operator(reason: String) -> String {
    if reason.trim().is_empty() {
        "operator".to_owned()
    } else {
        reason
    }
}

/// None: all campaigns.
fn campaign_id(text: &str) -> Result<Option<CampaignId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    id("campaign_id", text).map(Some)
}

fn numbers(wrong: &mut Violations, numbers: &[String]) -> Vec<String> {
    wrong.require(
        (1..=MOST_NUMBERS).contains(&numbers.len()),
        "numbers",
        "are from 1 to 1,000",
    );
    let read = numbers.iter().take(MOST_NUMBERS).enumerate();
    read.filter_map(|(index, number)| wrong.check(&format!("numbers[{index}]"), PhoneNumber::parse(number)))
        .map(|number| number.expose().to_owned())
        .collect()
}
