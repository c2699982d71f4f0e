//! What each method leaves on the audit trail.

use std::collections::BTreeSet;

use bytes::Bytes;
use callbridge_proto::{
    access::v1::{CreateKeyRequest, RevokeKeyRequest, key_service_client::KeyServiceClient},
    call::v1::{
        EndCallRequest, GetCallRequest, GetRecordingRequest, GetTranscriptRequest, ListCallsRequest, PlaceCallRequest,
        SendToAgentRequest, TransferCallRequest, WatchCallRequest, WatchCallsRequest,
        call_service_client::CallServiceClient, place_call_request,
    },
    campaign::v1::{
        AbortCampaignRequest, AddContactsRequest, AddSuppressionsRequest, CampaignSettings, CreateCampaignRequest,
        ExportResultsRequest, ImportHeader, ListContactsRequest, ListSuppressionsRequest, PauseCampaignRequest,
        RemoveSuppressionsRequest, ResumeCampaignRequest, StartCampaignRequest, UpdateCampaignRequest,
        add_contacts_request::Message, campaign_service_client::CampaignServiceClient,
    },
    directory::v1::{
        Account, Agent, ClearPhoneCredentialsRequest, CreateAccountRequest, CreateAgentRequest, CreatePhoneRequest,
        DiagnoseRequest, ExotelCredentials, GetWebhookUrlsRequest, Phone, RotateAccountTokenRequest,
        SetAccountCredentialsRequest, SetPhoneCredentialsRequest, UpdateAccountRequest, UpdateAgentRequest,
        UpdatePhoneRequest, UploadGreetingRequest, account_service_client::AccountServiceClient,
        agent_service_client::AgentServiceClient, phone_service_client::PhoneServiceClient,
    },
    privacy::v1::{
        AuditEntry, AuditOutcome, EraseNumberRequest, ExportNumberRequest, HoldCallRequest, HoldNumberRequest,
        ListAuditRequest, ReleaseCallRequest, ReleaseNumberRequest, audit_service_client::AuditServiceClient,
        privacy_service_client::PrivacyServiceClient,
    },
};
use prost_types::FieldMask;
use tokio_postgres::Client;
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    api_keys::Shows,
    people::{CALL, OTHER, audit, count, root, started},
    service::Service,
};

type Keyed = InterceptedService<Channel, Shows>;

fn mask(path: &str) -> FieldMask {
    FieldMask {
        paths: vec![path.to_owned()],
    }
}

fn secrets() -> ExotelCredentials {
    ExotelCredentials {
        api_key: "canary-api-key".to_owned(),
        api_token: "canary-api-token".to_owned(),
    }
}

/// Returns an agent and a phone.
async fn directory(service: &Service) -> [String; 2] {
    let mut accounts = root!(AccountServiceClient, service);
    let create = CreateAccountRequest {
        name: "a".to_owned(),
        sid: "acme1".to_owned(),
        subdomain: "http://127.0.0.1:9".to_owned(),
        ..Default::default()
    };
    let account = accounts
        .create_account(create)
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap()
        .id;
    let update = UpdateAccountRequest {
        account: Some(Account {
            id: account.clone(),
            name: "b".to_owned(),
            ..Default::default()
        }),
        update_mask: Some(mask("name")),
    };
    accounts.update_account(update).await.unwrap();
    let (account_id, credentials) = (account.clone(), Some(secrets()));
    let set = SetAccountCredentialsRequest {
        account_id,
        credentials,
    };
    accounts.set_account_credentials(set).await.unwrap();
    let account_id = account.clone();
    accounts
        .rotate_account_token(RotateAccountTokenRequest { account_id })
        .await
        .unwrap();
    let account_id = account.clone();
    accounts
        .get_webhook_urls(GetWebhookUrlsRequest { account_id })
        .await
        .unwrap();

    let mut agents = root!(AgentServiceClient, service);
    let create = CreateAgentRequest {
        name: "a".to_owned(),
        endpoints: vec!["http://127.0.0.1:50061".to_owned()],
        ..Default::default()
    };
    let agent = agents
        .create_agent(create)
        .await
        .unwrap()
        .into_inner()
        .agent
        .unwrap()
        .id;
    let update = UpdateAgentRequest {
        agent: Some(Agent {
            id: agent.clone(),
            name: "b".to_owned(),
            ..Default::default()
        }),
        update_mask: Some(mask("name")),
    };
    agents.update_agent(update).await.unwrap();
    agents
        .upload_greeting(tokio_stream::iter([UploadGreetingRequest { chunk: wav() }]))
        .await
        .unwrap();

    let mut phones = root!(PhoneServiceClient, service);
    let create = CreatePhoneRequest {
        account_id: account.clone(),
        number: "+918045678902".to_owned(),
        agent_id: agent.clone(),
        ..Default::default()
    };
    let phone = phones
        .create_phone(create)
        .await
        .unwrap()
        .into_inner()
        .phone
        .unwrap()
        .id;
    let update = UpdatePhoneRequest {
        phone: Some(Phone {
            id: phone.clone(),
            label: "b".to_owned(),
            ..Default::default()
        }),
        update_mask: Some(mask("label")),
    };
    phones.update_phone(update).await.unwrap();
    let set = SetPhoneCredentialsRequest {
        phone_id: phone.clone(),
        credentials: Some(secrets()),
        ..Default::default()
    };
    phones.set_phone_credentials(set).await.unwrap();
    let phone_id = phone.clone();
    phones
        .clear_phone_credentials(ClearPhoneCredentialsRequest { phone_id })
        .await
        .unwrap();
    let request = DiagnoseRequest {
        phone_id: phone.clone(),
        ..Default::default()
    };
    drop(phones.diagnose(request).await);
    [agent, phone]
}

async fn campaigns(service: &Service, agent: &str, phone: &str) {
    let mut campaigns = root!(CampaignServiceClient, service);
    let create = CreateCampaignRequest {
        idempotency_key: "k".to_owned(),
        settings: Some(CampaignSettings {
            name: "c".to_owned(),
            agent_id: agent.to_owned(),
            phone_ids: vec![phone.to_owned()],
            ..Default::default()
        }),
    };
    let campaign = campaigns
        .create_campaign(create.clone())
        .await
        .unwrap()
        .into_inner()
        .campaign
        .unwrap()
        .id;
    assert!(campaigns.create_campaign(create).await.unwrap().into_inner().repeated);
    let of = || campaign.clone();
    let update = UpdateCampaignRequest {
        campaign_id: of(),
        settings: Some(CampaignSettings {
            name: "d".to_owned(),
            ..Default::default()
        }),
        update_mask: Some(mask("name")),
    };
    campaigns.update_campaign(update).await.unwrap();
    let header = AddContactsRequest {
        message: Some(Message::Header(ImportHeader {
            campaign_id: of(),
            key: "i".to_owned(),
            ..Default::default()
        })),
    };
    let csv = AddContactsRequest {
        message: Some(Message::CsvChunk(Bytes::from_static(b"number\n+919812340019\n"))),
    };
    campaigns.add_contacts(tokio_stream::iter([header, csv])).await.unwrap();
    let list = ListContactsRequest {
        campaign_id: of(),
        ..Default::default()
    };
    campaigns.list_contacts(list).await.unwrap();
    campaigns
        .export_results(ExportResultsRequest { campaign_id: of() })
        .await
        .unwrap();
    campaigns
        .start_campaign(StartCampaignRequest { campaign_id: of() })
        .await
        .unwrap();
    let pause = PauseCampaignRequest {
        campaign_id: of(),
        ..Default::default()
    };
    campaigns.pause_campaign(pause).await.unwrap();
    campaigns
        .resume_campaign(ResumeCampaignRequest { campaign_id: of() })
        .await
        .unwrap();
    let abort = AbortCampaignRequest {
        campaign_id: of(),
        ..Default::default()
    };
    campaigns.abort_campaign(abort.clone()).await.unwrap();
    campaigns.abort_campaign(abort).await.unwrap();
    let add = AddSuppressionsRequest {
        numbers: vec!["+919812340020".to_owned()],
        reason: "asked".to_owned(),
        ..Default::default()
    };
    campaigns.add_suppressions(add).await.unwrap();
    campaigns
        .list_suppressions(ListSuppressionsRequest::default())
        .await
        .unwrap();
    let remove = RemoveSuppressionsRequest {
        numbers: vec!["+919812340020".to_owned()],
        ..Default::default()
    };
    campaigns.remove_suppressions(remove).await.unwrap();
}

async fn calls(service: &Service, db: &Client, phone: &str) {
    let mut calls = root!(CallServiceClient, service);
    calls.list_calls(ListCallsRequest::default()).await.unwrap();
    let call_id = CALL.to_owned();
    let watch = WatchCallRequest {
        call_id,
        ..Default::default()
    };
    calls.watch_call(watch).await.unwrap();
    calls.watch_calls(WatchCallsRequest::default()).await.unwrap();
    let call_id = CALL.to_owned();
    calls.get_transcript(GetTranscriptRequest { call_id }).await.unwrap();
    let recording = GetRecordingRequest {
        call_id: CALL.to_owned(),
        ..Default::default()
    };
    // Somebody who asks for what is not there is noted too.
    calls.get_recording(recording).await.unwrap_err();
    db.batch_execute("UPDATE media_sessions SET ended_at = NULL, attached_until = now() + interval '1 hour'")
        .await
        .unwrap();
    let send = SendToAgentRequest {
        call_id: CALL.to_owned(),
        json: "{}".to_owned(),
    };
    calls.send_to_agent(send).await.unwrap();
    let transfer = TransferCallRequest {
        call_id: CALL.to_owned(),
        to: "+919812340021".to_owned(),
        ..Default::default()
    };
    calls.transfer_call(transfer).await.unwrap();
    let end = EndCallRequest {
        call_id: CALL.to_owned(),
        ..Default::default()
    };
    calls.end_call(end).await.unwrap();
    // Outside the calling hours; whether it is placed does not matter.
    let place = PlaceCallRequest {
        idempotency_key: "k".to_owned(),
        from: Some(place_call_request::From::PhoneId(phone.to_owned())),
        to: "+919812340022".to_owned(),
        calling_hours_override: "asked by 98123 40022".to_owned(),
        ..Default::default()
    };
    drop(calls.place_call(place).await);
}

async fn privacy(service: &Service) {
    let mut privacy = root!(PrivacyServiceClient, service);
    let hold = HoldCallRequest {
        call_id: CALL.to_owned(),
        reason: "x".to_owned(),
    };
    privacy.hold_call(hold).await.unwrap();
    let call_id = CALL.to_owned();
    privacy.release_call(ReleaseCallRequest { call_id }).await.unwrap();
    let number = OTHER.to_owned();
    let hold = HoldNumberRequest {
        number: number.clone(),
        reason: "x".to_owned(),
    };
    privacy.hold_number(hold).await.unwrap();
    let release = ReleaseNumberRequest { number: number.clone() };
    privacy.release_number(release).await.unwrap();
    privacy.export_number(ExportNumberRequest { number }).await.unwrap();
    let nobody = EraseNumberRequest {
        number: "+919812340099".to_owned(),
        reason: "x".to_owned(),
        dry_run: false,
    };
    privacy.erase_number(nobody).await.unwrap();
}

/// Each method that changes something or shows somebody leaves an entry that says who and what.
#[tokio::test]
async fn every_change_and_every_showing_leaves_an_entry() {
    let (service, db) = started(&[]).await;
    let [agent, phone] = directory(&service).await;
    let mut keys = root!(KeyServiceClient, service);
    let create = CreateKeyRequest {
        name: "crm".to_owned(),
        scopes: vec!["calls.read".to_owned()],
        ..Default::default()
    };
    let made = keys.create_key(create).await.unwrap().into_inner();
    let key = made.key.unwrap().id;

    campaigns(&service, &agent, &phone).await;
    // With the key that was made: its id is in the trail.
    let mut read: CallServiceClient<Keyed> =
        CallServiceClient::with_interceptor(service.channel.clone(), Shows::new(&made.api_key));
    let call_id = CALL.to_owned();
    read.get_call(GetCallRequest { call_id }).await.unwrap();
    keys.revoke_key(RevokeKeyRequest { key_id: key.clone() }).await.unwrap();
    calls(&service, &db, &phone).await;
    privacy(&service).await;

    let request = ListAuditRequest {
        page_size: 200,
        ..Default::default()
    };
    let trail = audit(&service, request).await;
    let methods: BTreeSet<_> = trail.iter().map(|entry| entry.method.as_str()).collect();
    let wanted: BTreeSet<_> = AUDITED.iter().copied().collect();
    assert_eq!(methods, wanted);
    assert!(trail.is_sorted_by(|newer, older| newer.id > older.id));
    let first = trail
        .iter()
        .find(|entry| entry.method == "CallService/GetCall")
        .unwrap();
    assert_eq!(
        (
            first.principal.as_str(),
            first.key_id.as_str(),
            first.subject.as_str(),
            first.outcome()
        ),
        ("crm", key.as_str(), CALL, AuditOutcome::Shown)
    );
    // No secret and no number.
    for canary in ["canary", "98123400"] {
        assert_eq!(
            count(
                &db,
                &format!("audit a WHERE position('{canary}' IN to_jsonb(a)::text) > 0")
            )
            .await,
            0
        );
    }
    let of = |method: &str| trail.iter().find(|entry| entry.method == method).unwrap();
    let place = of("CallService/PlaceCall");
    assert_eq!(place.data["calling_hours_override"], "asked by ##### #####");
    assert_eq!(of("PhoneService/UpdatePhone").data["fields"], "label");
    pages(&service, &trail).await;
    service.stop().await;
}

/// Pages and filters.
async fn pages(service: &Service, trail: &[AuditEntry]) {
    let mut page = ListAuditRequest {
        page_size: 5,
        principal: "root".to_owned(),
        ..Default::default()
    };
    let mut seen = Vec::new();
    loop {
        let answer = root!(AuditServiceClient, service)
            .list_audit(page.clone())
            .await
            .unwrap()
            .into_inner();
        seen.extend(answer.entries.iter().map(|entry| entry.id));
        page.page_token = answer.next_page_token;
        if page.page_token.is_empty() {
            break;
        }
    }
    let all: Vec<_> = trail
        .iter()
        .filter(|entry| entry.principal == "root")
        .map(|entry| entry.id)
        .collect();
    assert_eq!(seen, all);
    let first = &trail[3];
    let narrow = ListAuditRequest {
        method: first.method.clone(),
        subject: first.subject.clone(),
        outcome: first.outcome,
        after: first.at,
        ..Default::default()
    };
    let found = audit(service, narrow.clone()).await;
    assert!(
        !found.is_empty()
            && found
                .iter()
                .all(|entry| entry.method == first.method && entry.outcome == first.outcome)
    );
    let earlier = ListAuditRequest {
        after: None,
        before: trail.last().unwrap().at,
        ..narrow
    };
    assert_eq!(audit(service, earlier).await, []);
}

/// Written apart from the server's own table.
const AUDITED: &[&str] = &[
    "AccountService/CreateAccount",
    "AccountService/GetWebhookUrls",
    "AccountService/RotateAccountToken",
    "AccountService/SetAccountCredentials",
    "AccountService/UpdateAccount",
    "AgentService/CreateAgent",
    "AgentService/UpdateAgent",
    "AgentService/UploadGreeting",
    "CallService/EndCall",
    "CallService/GetCall",
    "CallService/GetRecording",
    "CallService/GetTranscript",
    "CallService/ListCalls",
    "CallService/PlaceCall",
    "CallService/SendToAgent",
    "CallService/TransferCall",
    "CallService/WatchCall",
    "CallService/WatchCalls",
    "CampaignService/AbortCampaign",
    "CampaignService/AddContacts",
    "CampaignService/AddSuppressions",
    "CampaignService/CreateCampaign",
    "CampaignService/ExportResults",
    "CampaignService/ListContacts",
    "CampaignService/ListSuppressions",
    "CampaignService/PauseCampaign",
    "CampaignService/RemoveSuppressions",
    "CampaignService/ResumeCampaign",
    "CampaignService/StartCampaign",
    "CampaignService/UpdateCampaign",
    "KeyService/CreateKey",
    "KeyService/RevokeKey",
    "PhoneService/ClearPhoneCredentials",
    "PhoneService/CreatePhone",
    "PhoneService/Diagnose",
    "PhoneService/SetPhoneCredentials",
    "PhoneService/UpdatePhone",
    "PrivacyService/EraseNumber",
    "PrivacyService/ExportNumber",
    "PrivacyService/HoldCall",
    "PrivacyService/HoldNumber",
    "PrivacyService/ReleaseCall",
    "PrivacyService/ReleaseNumber",
];

/// A tenth of a second of silence at 8 kHz.
fn wav() -> Bytes {
    let mut bytes =
        b"RIFF\x64\x06\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x40\x06\0\0".to_vec();
    bytes.resize(44 + 1600, 0);
    bytes.into()
}
