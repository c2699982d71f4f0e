//! Which methods leave an entry on the audit trail. A method that is not named leaves one too, and a test compares this with the
//! descriptors.

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audited {
    /// It leaves none: it shows no person and no token, or what it does is on the timeline of its call or session.
    No,
    /// It changes something.
    Changes,
    /// It shows numbers, words, recordings or tokens.
    Shows,
}

/// What a method's path leaves. None: nobody has said.
pub(super) fn audited(path: &str) -> Option<Audited> {
    use Audited::{Changes, No, Shows};
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let found = match service.strip_prefix("callbridge.").unwrap_or(service) {
        "access.v1.KeyService" => match method {
            "CreateKey" | "RevokeKey" => Changes,
            "ListKeys" => No,
            _ => return None,
        },
        "call.v1.CallService" => match method {
            // The caller says the number; the call's row has the caller. One outside the calling hours leaves an entry all the same.
            "PlaceCall" => No,
            "EndCall" | "SendToAgent" | "TransferCall" => Changes,
            "GetCall" | "ListCalls" | "WatchCall" | "WatchCalls" | "GetTranscript" | "GetRecording" => Shows,
            _ => return None,
        },
        "campaign.v1.CampaignService" => match method {
            "CreateCampaign" | "UpdateCampaign" | "StartCampaign" | "PauseCampaign" | "ResumeCampaign"
            | "AbortCampaign" | "AddContacts" | "AddSuppressions" | "RemoveSuppressions" => Changes,
            "ListContacts" | "ExportResults" | "ListSuppressions" => Shows,
            "GetCampaign" | "ListCampaigns" | "ForecastCampaign" | "WatchCampaign" => No,
            _ => return None,
        },
        "directory.v1.AccountService" => match method {
            "CreateAccount" | "UpdateAccount" | "SetAccountCredentials" | "RotateAccountToken" => Changes,
            "GetWebhookUrls" => Shows,
            "GetAccount" | "ListAccounts" | "VerifyAccountCredentials" => No,
            _ => return None,
        },
        "directory.v1.PhoneService" => match method {
            // A diagnosis may call somebody.
            "CreatePhone" | "UpdatePhone" | "SetPhoneCredentials" | "ClearPhoneCredentials" | "Diagnose" => Changes,
            // The company's own numbers.
            "GetPhone" | "ListPhones" | "VerifyCredentials" => No,
            _ => return None,
        },
        "directory.v1.AgentService" => match method {
            "CreateAgent" | "UpdateAgent" | "UploadGreeting" => Changes,
            "GetAgent" | "ListAgents" => No,
            _ => return None,
        },
        "privacy.v1.PrivacyService" => match method {
            "EraseNumber" | "HoldCall" | "ReleaseCall" | "HoldNumber" | "ReleaseNumber" => Changes,
            "ExportNumber" => Shows,
            _ => return None,
        },
        // The trail itself has no person and no token in it.
        "privacy.v1.AuditService" => match method {
            "ListAudit" => No,
            _ => return None,
        },
        // The edge acts for Exotel and agents; what it reports is on the timelines.
        "ingress.v1.IngressService" => match method {
            "ResolveConnect" | "ResolveGreeting" | "ResolveGather" | "ResolveTransfer" | "RecordInput"
            | "RecordEnd" | "RecordStatus" | "AnswerProbe" | "ClaimSocket" | "StartSession" | "ReportRecording"
            | "FetchGreeting" | "AttachEdge" => No,
            _ => return None,
        },
        "grpc.health.v1.Health"
        | "grpc.reflection.v1.ServerReflection"
        | "grpc.reflection.v1alpha.ServerReflection" => No,
        _ => return None,
    };
    Some(found)
}
