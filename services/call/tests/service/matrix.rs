//! Every method, asked by everybody, at the real server.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use callbridge_proto::{DESCRIPTORS, access::v1 as api};
use http::{Uri, uri::PathAndQuery};
use prost::Message as _;
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    api_keys::{KEYS, Minted, client},
    service::{PATIENCE, Service, hash},
};

/// Who may call what, as `docs/threats.md` says it. Written apart from the server's own table.
const TABLE: &[(&str, &str, &[&str])] = &[
    ("", "grpc.health.v1.Health", &["Check", "Watch"]),
    ("any", "grpc.reflection.v1.ServerReflection", &["ServerReflectionInfo"]),
    (
        "any",
        "grpc.reflection.v1alpha.ServerReflection",
        &["ServerReflectionInfo"],
    ),
    (
        "keys.write",
        "callbridge.access.v1.KeyService",
        &["CreateKey", "ListKeys", "RevokeKey"],
    ),
    (
        "calls.write",
        "callbridge.call.v1.CallService",
        &["EndCall", "PlaceCall", "SendToAgent", "TransferCall"],
    ),
    (
        "calls.read",
        "callbridge.call.v1.CallService",
        &[
            "GetCall",
            "GetRecording",
            "GetTranscript",
            "ListCalls",
            "WatchCall",
            "WatchCalls",
        ],
    ),
    (
        "campaigns.write",
        "callbridge.campaign.v1.CampaignService",
        &[
            "AbortCampaign",
            "AddContacts",
            "AddSuppressions",
            "CreateCampaign",
            "PauseCampaign",
            "RemoveSuppressions",
            "ResumeCampaign",
            "StartCampaign",
            "UpdateCampaign",
        ],
    ),
    (
        "calls.read",
        "callbridge.campaign.v1.CampaignService",
        &[
            "ExportResults",
            "ForecastCampaign",
            "GetCampaign",
            "ListCampaigns",
            "ListContacts",
            "ListSuppressions",
            "WatchCampaign",
        ],
    ),
    (
        "calls.read",
        "callbridge.directory.v1.AccountService",
        &["GetAccount", "ListAccounts"],
    ),
    (
        "credentials.write",
        "callbridge.directory.v1.AccountService",
        &[
            "CreateAccount",
            "GetWebhookUrls",
            "RotateAccountToken",
            "SetAccountCredentials",
            "UpdateAccount",
            "VerifyAccountCredentials",
        ],
    ),
    (
        "calls.read",
        "callbridge.directory.v1.AgentService",
        &["GetAgent", "ListAgents"],
    ),
    (
        "credentials.write",
        "callbridge.directory.v1.AgentService",
        &["CreateAgent", "UpdateAgent", "UploadGreeting"],
    ),
    (
        "calls.read",
        "callbridge.directory.v1.PhoneService",
        &["GetPhone", "ListPhones"],
    ),
    (
        "credentials.write",
        "callbridge.directory.v1.PhoneService",
        &[
            "ClearPhoneCredentials",
            "CreatePhone",
            "Diagnose",
            "SetPhoneCredentials",
            "UpdatePhone",
            "VerifyCredentials",
        ],
    ),
    ("audit.read", "callbridge.privacy.v1.AuditService", &["ListAudit"]),
    (
        "privacy.write",
        "callbridge.privacy.v1.PrivacyService",
        &[
            "EraseNumber",
            "ExportNumber",
            "HoldCall",
            "HoldNumber",
            "ReleaseCall",
            "ReleaseNumber",
        ],
    ),
    (
        "ingest",
        "callbridge.ingress.v1.IngressService",
        &[
            "AnswerProbe",
            "RecordEnd",
            "RecordInput",
            "RecordStatus",
            "ResolveConnect",
            "ResolveGather",
            "ResolveGreeting",
            "ResolveTransfer",
        ],
    ),
    (
        "media",
        "callbridge.ingress.v1.IngressService",
        &[
            "AttachEdge",
            "ClaimSocket",
            "FetchGreeting",
            "ReportRecording",
            "StartSession",
        ],
    ),
];

const SCOPES: [&str; 9] = [
    "calls.write",
    "calls.read",
    "campaigns.write",
    "credentials.write",
    "keys.write",
    "audit.read",
    "privacy.write",
    "ingest",
    "media",
];

/// Path → what it needs.
fn table() -> BTreeMap<String, &'static str> {
    let rows = TABLE.iter().flat_map(|(scope, service, methods)| {
        let path = move |method: &&str| (format!("/{service}/{method}"), *scope);
        methods.iter().map(path)
    });
    rows.collect()
}

/// The paths of all that is served.
fn served() -> Vec<String> {
    let sets = [
        DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = Vec::new();
    for set in sets {
        for file in prost_types::FileDescriptorSet::decode(set).unwrap().file {
            // Implemented by agents, not here.
            if file.package() == "callbridge.agent.v1" {
                continue;
            }
            for service in &file.service {
                for method in &service.method {
                    paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
    }
    paths.sort();
    paths
}

/// Empty messages out, anything in.
#[derive(Clone, Copy, Default)]
struct Anything;

impl Codec for Anything {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Anything {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&[]);
        Ok(())
    }
}

impl Decoder for Anything {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        message.advance(message.remaining());
        Ok(Some(()))
    }
}

/// What the head of the answer says. A stream that is let in may say more later.
async fn ask(service: &Service, path: &str, authorization: Option<&str>) -> Code {
    let mut grpc = Grpc::with_origin(service.channel.clone(), Uri::from_static("http://x"));
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::once(()));
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    let path = PathAndQuery::try_from(path).unwrap();
    let asked = tokio::time::timeout(PATIENCE, grpc.streaming(request, path.clone(), Anything));
    match asked.await.unwrap_or_else(|_| panic!("{path} is not answered")) {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// F101, F102: the table is whole, and exactly it is what is let in; whoever is nobody learns the same of every method.
#[tokio::test]
async fn everybody_gets_what_the_table_says_and_nothing_else() {
    let table = table();
    assert_eq!(table.keys().cloned().collect::<Vec<_>>(), served());

    let of_scope = |scope: &str| format!("ck_{}_0123456789", scope.replace('.', "-"));
    let mut api_keys: Vec<_> = SCOPES
        .iter()
        .map(|scope| format!("only-{scope}:{scope}:{}", hash(&of_scope(scope))))
        .collect();
    api_keys.push(format!("root:{}:{}", SCOPES.join("+"), hash(KEYS)));
    let settings = [
        ("API_KEYS", api_keys.join(",")),
        ("API_KEYS_REFRESH", "50ms".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let service = Service::start(&settings).await;

    let mut keys = client(&service, KEYS);
    let mut minted = BTreeMap::new();
    for scope in SCOPES {
        minted.insert(scope, Minted::make(&mut keys, &[scope]).await);
    }
    let (revoked, expired) = (
        Minted::make(&mut keys, &SCOPES).await,
        Minted::make(&mut keys, &SCOPES).await,
    );
    revoked.revoke(&mut keys).await;
    expired.expire(&service).await;

    let strangers = [
        None,
        Some("Bearer ck_calls-read_0123456788".to_owned()),
        Some(format!("Bearer {}", revoked.shown)),
        Some(format!("Bearer {}", expired.shown)),
        // The right secret with another kid.
        Some(format!(
            "Bearer ck_{}{}",
            "0".repeat(32),
            &minted["calls.read"].shown[35..]
        )),
        Some(format!("Basic {}", of_scope("calls.read"))),
        Some(of_scope("calls.read")),
        Some(format!("Bearer {}", hash(KEYS))),
    ];
    let mut asked = 0;
    for (path, needs) in &table {
        for scope in SCOPES {
            let open = matches!(*needs, "" | "any");
            for key in [of_scope(scope), minted[scope].shown.clone()] {
                let code = ask(&service, path, Some(&format!("Bearer {key}"))).await;
                let let_in = !matches!(code, Code::Unauthenticated | Code::PermissionDenied);
                assert_eq!(let_in, open || *needs == scope, "{path} with {scope}: {code:?}");
                assert!(
                    let_in || code == Code::PermissionDenied,
                    "{path} with {scope}: {code:?}"
                );
                asked += 1;
            }
        }
        for stranger in &strangers {
            let code = ask(&service, path, stranger.as_deref()).await;
            let refused = code == Code::Unauthenticated;
            assert_eq!(refused, !needs.is_empty(), "{path} with {stranger:?}: {code:?}");
            asked += 1;
        }
    }
    assert_eq!(asked, table.len() * (2 * SCOPES.len() + strangers.len()));
    // What is not there looks the same to strangers.
    let nowhere = "/callbridge.call.v1.CallService/Nope";
    assert_eq!(ask(&service, nowhere, None).await, Code::Unauthenticated);
    assert_eq!(
        ask(&service, nowhere, Some(&format!("Bearer {KEYS}"))).await,
        Code::Unimplemented
    );
    // Nothing of all that has made a key.
    let list = api::ListKeysRequest {
        include_ended: true,
        ..Default::default()
    };
    let there = keys.list_keys(list).await.unwrap().into_inner().keys;
    assert_eq!(there.len(), SCOPES.len() + 2);
    service.stop().await;
}
