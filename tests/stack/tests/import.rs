//! A file of contacts while the process that takes it is killed (F117).
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{net::TcpListener, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use callbridge_proto::campaign::v1::{
    AddContactsRequest, CampaignSettings, CreateCampaignRequest, GetCampaignRequest, ImportHeader,
    add_contacts_request::Message,
};
use runtime::Tasks;
use stack::{ApiKey, Clients, Registration, Stack, poll, shared_postgres};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

const LIMIT: Duration = Duration::from_mins(1);
const CONTACTS: usize = 60_000;
/// After so many contacts the process dies, each time.
const DEATHS: [i64; 3] = [1, 20_001, 40_001];
const PIECE: usize = 8 * 1024;

/// A call-service that is a process of its own, on the stack's database.
struct Process {
    child: Child,
    clients: Clients,
}

impl Process {
    async fn start(stack: &Stack) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (address, internal) = (free().unwrap(), free().unwrap());
        let mut child = Command::new(env!("CARGO_BIN_EXE_chaos"))
            .args(["piece", "call-service"])
            .env_clear()
            .envs([
                ("RUST_LOG", "warn"),
                ("DATABASE_URL", &stack.database_url),
                ("CREDENTIAL_KEYS", &stack.keys.credential_keys),
                ("TOKEN_KEYS", &stack.keys.token_keys),
                ("API_KEYS", &stack.keys.api_keys()),
                ("WEBHOOK_BASE_URL", &stack.edge_url()),
                ("AGENT_ENDPOINT_ALLOW", "loopback,127.0.0.0/8"),
                ("CALL_SERVICE_ADDR", &address.to_string()),
                ("CALL_SERVICE_INTERNAL_ADDR", &internal.to_string()),
            ])
            // It ends with its input.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
        let url = format!("http://{internal}/readyz");
        poll("the process to be ready", LIMIT, async || {
            if let Some(status) = child.try_wait().unwrap() {
                return Err(format!("it ended: {status}"));
            }
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        Self {
            child,
            clients: Clients::new(address, ApiKey::new(&stack.keys.api_key)),
        }
    }
}

fn messages(campaign: &str) -> Vec<AddContactsRequest> {
    let header = Message::Header(ImportHeader {
        campaign_id: campaign.to_owned(),
        key: "file".to_owned(),
        ..ImportHeader::default()
    });
    let mut file = "number\n".to_owned();
    file.extend((0..CONTACTS).map(|number| format!("+9198{:08}\n", 20_000_000 + number)));
    let pieces = file.as_bytes().chunks(PIECE).map(Bytes::copy_from_slice);
    std::iter::once(header)
        .chain(pieces.map(Message::CsvChunk))
        .map(|message| AddContactsRequest { message: Some(message) })
        .collect()
}

/// F117: the process that takes a file is killed while it writes, and the next one too, and another goes on with the same key:
/// every row is there, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_taken_once_however_often_the_process_is_killed() {
    let stack = Stack::builder().start().await.unwrap();
    let registered = stack.register(Registration::new("import").unwrap()).await.unwrap();
    let request = CreateCampaignRequest {
        idempotency_key: "one".to_owned(),
        settings: Some(CampaignSettings {
            name: "import".to_owned(),
            agent_id: registered.agent.id.clone(),
            phone_ids: vec![registered.phone_id.clone()],
            ..CampaignSettings::default()
        }),
    };
    let mut campaigns = stack.clients().campaigns();
    let campaign = campaigns.create_campaign(request).await.unwrap().into_inner();
    let campaign = campaign.campaign.unwrap().id;
    let messages = Arc::new(messages(&campaign));
    let name = stack
        .database_url
        .rsplit('/')
        .next()
        .unwrap()
        .split('?')
        .next()
        .unwrap();
    let database = shared_postgres().await.unwrap().connect(name).await.unwrap();
    let count = async |what: &str| -> i64 {
        let statement = format!("SELECT count({what}) FROM contacts");
        database.query_one(&statement, &[]).await.unwrap().get(0)
    };

    for least in DEATHS {
        let mut process = Process::start(&stack).await;
        let (sender, receiver) = mpsc::channel(1);
        let mut taker = process.clients.campaigns();
        let taking = Tasks::new().spawn(async move { taker.add_contacts(ReceiverStream::new(receiver)).await });
        let sent = Arc::clone(&messages);
        // All but the end of the file, so that it is never whole before it breaks off.
        let sending = Tasks::new().spawn(async move {
            for message in &sent[..sent.len() - 1] {
                if sender.send(message.clone()).await.is_err() {
                    break;
                }
            }
            // The stream stays open.
            sender.closed().await;
        });
        poll("enough contacts", LIMIT, async || match count("*").await {
            contacts if contacts >= least => Ok(()),
            contacts => Err(contacts.to_string()),
        })
        .await
        .unwrap();
        process.child.start_kill().unwrap();
        process.child.wait().await.unwrap();
        taking.await.unwrap().unwrap().unwrap_err();
        sending.await.unwrap();
        let there = count("*").await;
        assert!((least..i64::try_from(CONTACTS).unwrap()).contains(&there), "{there}");
    }

    let file = tokio_stream::iter(messages.as_ref().clone());
    let report = campaigns.add_contacts(file).await.unwrap().into_inner();
    let all = i64::try_from(CONTACTS).unwrap();
    assert_eq!(
        (report.rows, report.accepted, report.duplicates, report.rejected),
        (all, all, 0, 0)
    );
    assert!(report.resumed_after >= DEATHS[2] - 1, "{}", report.resumed_after);
    assert_eq!((count("*").await, count("DISTINCT number").await), (all, all));
    let request = GetCampaignRequest { campaign_id: campaign };
    let progress = campaigns.get_campaign(request).await.unwrap().into_inner().progress;
    let progress = progress.unwrap();
    assert_eq!((progress.contacts, progress.by_state["pending"]), (all, all));
    stack.shut_down().await.unwrap();
}
