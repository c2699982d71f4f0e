//! The table of methods. What is not in it is refused; a test compares it with the descriptors.

use std::time::Duration;

/// What a key may be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Place, end and steer calls.
    CallsWrite,
    /// See calls, and the directory without its secrets.
    CallsRead,
    /// Run campaigns.
    CampaignsWrite,
    /// Change the directory: accounts, phones, agents and their credentials; see webhook URLs, which hold tokens.
    CredentialsWrite,
    /// Make, list and revoke API keys.
    KeysWrite,
    /// See the audit trail.
    AuditRead,
    /// Export and erase numbers, hold calls.
    PrivacyWrite,
    /// Report what Exotel's webhooks say. For the edge.
    Ingest,
    /// Run media sessions. For the edge.
    Media,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::CallsWrite,
        Self::CallsRead,
        Self::CampaignsWrite,
        Self::CredentialsWrite,
        Self::KeysWrite,
        Self::AuditRead,
        Self::PrivacyWrite,
        Self::Ingest,
        Self::Media,
    ];

    /// Its word in `API_KEYS`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::CallsWrite => "calls.write",
            Self::CallsRead => "calls.read",
            Self::CampaignsWrite => "campaigns.write",
            Self::CredentialsWrite => "credentials.write",
            Self::KeysWrite => "keys.write",
            Self::AuditRead => "audit.read",
            Self::PrivacyWrite => "privacy.write",
            Self::Ingest => "ingest",
            Self::Media => "media",
        }
    }

    /// Reads a word.
    pub(crate) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.word() == word)
    }

    /// Reads words with `+` between. None: one of them is unknown.
    pub(super) fn read_all(words: &str) -> Option<Vec<Self>> {
        words.split('+').map(|word| Self::read(word.trim())).collect()
    }

    /// The same without those that are unknown: a newer program may have more of them.
    pub(crate) fn known(words: &str) -> Vec<Self> {
        words.split('+').filter_map(Self::read).collect()
    }

    /// Words with `+` between.
    pub(crate) fn joined(scopes: &[Self]) -> String {
        scopes.iter().map(|scope| scope.word()).collect::<Vec<_>>().join("+")
    }

    /// The words of all scopes, for people.
    pub(crate) fn words() -> String {
        Self::ALL.map(Self::word).join(", ")
    }
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Whoever has a key.
    AnyKey,
    /// Whoever has a key with the scope.
    Scope(Scope),
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) access: Access,
    /// How long the answer may take. None: a stream, or `PlaceCall`, whose waiters have a limit of their own.
    pub(super) limit: Option<Duration>,
}

/// Longer than any statement, shorter than people wait.
const UNARY: Duration = Duration::from_secs(10);
/// 2 MiB over a slow line.
const UPLOAD: Duration = Duration::from_mins(1);

const fn unary(scope: Scope) -> Rule {
    Rule {
        access: Access::Scope(scope),
        limit: Some(UNARY),
    }
}

const fn unlimited(access: Access) -> Rule {
    Rule { access, limit: None }
}

/// Whether there is such a method.
pub(crate) fn is_known(path: &str) -> bool {
    rule(path).is_some()
}

/// The rule for a method's path. None: there is no such method.
pub(super) fn rule(path: &str) -> Option<Rule> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        "callbridge.access.v1.KeyService" => key(method),
        "callbridge.call.v1.CallService" => call(method),
        "callbridge.campaign.v1.CampaignService" => campaign(method),
        "callbridge.directory.v1.AccountService" => account(method),
        "callbridge.directory.v1.PhoneService" => phone(method),
        "callbridge.directory.v1.AgentService" => agent(method),
        "callbridge.ingress.v1.IngressService" => ingress(method),
        "callbridge.privacy.v1.AuditService" => (method == "ListAudit").then_some(unary(Scope::AuditRead)),
        "callbridge.privacy.v1.PrivacyService" => privacy(method),
        "grpc.health.v1.Health" => matches!(method, "Check" | "Watch").then_some(unlimited(Access::Open)),
        "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
            (method == "ServerReflectionInfo").then_some(unlimited(Access::AnyKey))
        }
        _ => None,
    }
}

fn key(method: &str) -> Option<Rule> {
    matches!(method, "CreateKey" | "ListKeys" | "RevokeKey").then_some(unary(Scope::KeysWrite))
}

fn privacy(method: &str) -> Option<Rule> {
    match method {
        // It works for some seconds, each step within the database's own limits.
        "EraseNumber" => Some(Rule {
            access: Access::Scope(Scope::PrivacyWrite),
            limit: Some(Duration::from_secs(30)),
        }),
        "HoldCall" | "ReleaseCall" | "HoldNumber" | "ReleaseNumber" => Some(unary(Scope::PrivacyWrite)),
        "ExportNumber" => Some(unlimited(Access::Scope(Scope::PrivacyWrite))),
        _ => None,
    }
}

fn call(method: &str) -> Option<Rule> {
    match method {
        "PlaceCall" => Some(unlimited(Access::Scope(Scope::CallsWrite))),
        "EndCall" | "SendToAgent" | "TransferCall" => Some(unary(Scope::CallsWrite)),
        "GetCall" | "ListCalls" | "GetTranscript" => Some(unary(Scope::CallsRead)),
        "WatchCall" | "WatchCalls" | "GetRecording" => Some(unlimited(Access::Scope(Scope::CallsRead))),
        _ => None,
    }
}

fn campaign(method: &str) -> Option<Rule> {
    match method {
        "CreateCampaign" | "UpdateCampaign" | "StartCampaign" | "PauseCampaign" | "ResumeCampaign"
        | "AbortCampaign" | "AddSuppressions" | "RemoveSuppressions" => Some(unary(Scope::CampaignsWrite)),
        // A million contacts take their time; a stream that brings nothing is given up.
        "AddContacts" => Some(unlimited(Access::Scope(Scope::CampaignsWrite))),
        "GetCampaign" | "ListCampaigns" | "ListContacts" | "ForecastCampaign" | "ListSuppressions" => {
            Some(unary(Scope::CallsRead))
        }
        "WatchCampaign" | "ExportResults" => Some(unlimited(Access::Scope(Scope::CallsRead))),
        _ => None,
    }
}

fn account(method: &str) -> Option<Rule> {
    match method {
        "GetAccount" | "ListAccounts" => Some(unary(Scope::CallsRead)),
        "CreateAccount" | "UpdateAccount" | "SetAccountCredentials" | "GetWebhookUrls" | "RotateAccountToken" => {
            Some(unary(Scope::CredentialsWrite))
        }
        // Exotel may take its 10 s.
        "VerifyAccountCredentials" => Some(Rule {
            access: Access::Scope(Scope::CredentialsWrite),
            limit: Some(Duration::from_secs(15)),
        }),
        _ => None,
    }
}

fn phone(method: &str) -> Option<Rule> {
    match method {
        "GetPhone" | "ListPhones" => Some(unary(Scope::CallsRead)),
        "CreatePhone" | "UpdatePhone" | "SetPhoneCredentials" | "ClearPhoneCredentials" => {
            Some(unary(Scope::CredentialsWrite))
        }
        // It may call somebody, who may take their time to answer.
        "Diagnose" => Some(unlimited(Access::Scope(Scope::CredentialsWrite))),
        "VerifyCredentials" => Some(Rule {
            access: Access::Scope(Scope::CredentialsWrite),
            limit: Some(Duration::from_secs(15)),
        }),
        _ => None,
    }
}

fn agent(method: &str) -> Option<Rule> {
    match method {
        "GetAgent" | "ListAgents" => Some(unary(Scope::CallsRead)),
        "CreateAgent" | "UpdateAgent" => Some(unary(Scope::CredentialsWrite)),
        "UploadGreeting" => Some(Rule {
            access: Access::Scope(Scope::CredentialsWrite),
            limit: Some(UPLOAD),
        }),
        _ => None,
    }
}

fn ingress(method: &str) -> Option<Rule> {
    match method {
        "ResolveConnect" | "ResolveGreeting" | "ResolveGather" | "ResolveTransfer" | "RecordInput" | "RecordEnd"
        | "RecordStatus" | "AnswerProbe" => Some(unary(Scope::Ingest)),
        "ClaimSocket" | "StartSession" | "ReportRecording" => Some(unary(Scope::Media)),
        "FetchGreeting" | "AttachEdge" => Some(unlimited(Access::Scope(Scope::Media))),
        _ => None,
    }
}
