//! An account, a phone and an agent: in call-service through its API, and in the simulator.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use callbridge_proto::directory::v1::{
    Agent, CallingHours, CreateAccountRequest, CreateAgentRequest, CreatePhoneRequest, DialMode, ExotelCredentials,
    GetWebhookUrlsRequest, GetWebhookUrlsResponse, Greeting, UploadGreetingRequest, UploadGreetingResponse,
};
use exotel_sim::{Account, Applet, Control, ExoPhone, Flow};
use tokio_stream::iter;

use crate::{
    Clients, Stack,
    keys::{Error as KeysError, random},
};

/// What the API allows in one message.
const CHUNK: usize = 64 * 1024;

/// Numbers of registrations, so that each has an ExoPhone of its own in this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What is to be registered. Start from [`Registration::new`] and change what matters.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Requests to call-service.
    pub account: CreateAccountRequest,
    /// The agent; without endpoints it is the stack's echo agent.
    pub agent: CreateAgentRequest,
    /// The phone; its ids and its flow are filled in.
    pub phone: CreatePhoneRequest,
    /// A WAV file to be uploaded as the agent's greeting.
    pub greeting: Option<Vec<u8>>,
    /// The account at the simulator; sid, credentials, numbers and flow are filled in.
    pub simulated: Account,
    /// Whether the Voicebot applet records.
    pub record: bool,
}

impl Registration {
    /// An account of its own with one ExoPhone, calling hours off, and a rate that tests do not notice.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(name: &str) -> Result<Self, KeysError> {
        let unique = data_encoding::HEXLOWER.encode(&random::<6>()?);
        let number = format!("+91804000{:04}", 1_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 8_000);
        let credentials = ExotelCredentials {
            api_key: format!("key{unique}"),
            api_token: format!("token{unique}"),
        };
        Ok(Self {
            account: CreateAccountRequest {
                name: name.to_owned(),
                sid: format!("{name}{unique}"),
                calls_per_minute: 600,
                calling_hours: Some(CallingHours {
                    off: true,
                    ..CallingHours::default()
                }),
                app_id: "1001".to_owned(),
                credentials: Some(credentials),
                ..CreateAccountRequest::default()
            },
            agent: CreateAgentRequest {
                name: format!("{name} echo"),
                ..CreateAgentRequest::default()
            },
            phone: CreatePhoneRequest {
                number,
                label: name.to_owned(),
                dial_mode: DialMode::Flow.into(),
                ..CreatePhoneRequest::default()
            },
            greeting: None,
            simulated: Account {
                calls_per_minute: 0,
                ..Account::default()
            },
            record: false,
        })
    }
}

/// What was registered.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The account's id.
    pub account_id: String,
    /// The account's SID at the simulator.
    pub account_sid: String,
    /// The phone's id.
    pub phone_id: String,
    /// The phone's number in E.164.
    pub phone_number: String,
    /// The agent as it stands.
    pub agent: Agent,
    /// The account's token and URLs. Secrets.
    pub urls: GetWebhookUrlsResponse,
    /// The stored greeting, if one was uploaded.
    pub greeting: Option<UploadGreetingResponse>,
}

impl Stack {
    /// Registers an account, an agent and a phone, and gives the simulator the same account, whose flow is Voicebot, Passthru,
    /// Hangup at this stack's URLs.
    ///
    /// # Errors
    /// Of the API or the simulator.
    pub async fn register(&self, registration: Registration) -> anyhow::Result<Registered> {
        let (simulator, agent) = (self.simulator_url(), self.agent_url());
        registration
            .put(&self.clients(), &self.control(), &simulator, &agent)
            .await
    }

    /// Stores a WAV file as a greeting.
    ///
    /// # Errors
    /// Of the API.
    pub async fn upload_greeting(&self, wav: &[u8]) -> anyhow::Result<UploadGreetingResponse> {
        upload_greeting(&self.clients(), wav).await
    }
}

impl Registration {
    /// Registers it at any call-service and simulator. The URLs are for an account without a subdomain and an agent without
    /// endpoints.
    pub(crate) async fn put(
        self,
        clients: &Clients,
        control: &Control,
        simulator_url: &str,
        agent_url: &str,
    ) -> anyhow::Result<Registered> {
        let Self {
            mut account,
            mut agent,
            mut phone,
            greeting,
            mut simulated,
            record,
        } = self;
        if account.subdomain.is_empty() {
            simulator_url.clone_into(&mut account.subdomain);
        }
        let credentials = account.credentials.clone().unwrap_or_default();
        let (account_sid, app_id) = (account.sid.clone(), account.app_id.clone());
        let account = clients
            .accounts()
            .create_account(account)
            .await
            .context("CreateAccount")?
            .into_inner()
            .account;
        let account = account.context("CreateAccount answered without an account")?;

        let greeting = match greeting {
            Some(wav) => Some(upload_greeting(clients, &wav).await?),
            None => None,
        };
        if let Some(greeting) = &greeting {
            agent.greeting = Some(Greeting {
                wav_sha256: greeting.wav_sha256.clone(),
                ..agent.greeting.unwrap_or_default()
            });
        }
        if agent.endpoints.is_empty() {
            agent.endpoints = vec![agent_url.to_owned()];
        }
        let agent = clients
            .agents()
            .create_agent(agent)
            .await
            .context("CreateAgent")?
            .into_inner()
            .agent;
        let agent = agent.context("CreateAgent answered without an agent")?;

        phone.account_id.clone_from(&account.id);
        phone.agent_id.clone_from(&agent.id);
        let phone = clients
            .phones()
            .create_phone(phone)
            .await
            .context("CreatePhone")?
            .into_inner()
            .phone;
        let phone = phone.context("CreatePhone answered without a phone")?;

        let request = GetWebhookUrlsRequest {
            account_id: account.id.clone(),
        };
        let urls = clients
            .accounts()
            .get_webhook_urls(request)
            .await
            .context("GetWebhookUrls")?
            .into_inner();

        simulated.sid.clone_from(&account_sid);
        simulated.api_key = credentials.api_key;
        simulated.api_token = credentials.api_token;
        simulated.exophones = vec![ExoPhone {
            number: phone.number.clone(),
            flow: app_id.clone(),
        }];
        let voicebot = Applet::Voicebot {
            url: urls.connect_url.clone(),
            record,
        };
        let passthru = Applet::Passthru {
            url: urls.end_url.clone(),
            branch_b: Vec::new(),
            asynchronous: false,
        };
        simulated.flows = vec![Flow {
            app_id,
            applets: vec![voicebot, passthru, Applet::Hangup],
        }];
        control
            .put_account(simulated)
            .context("the simulator does not take the account")?;

        Ok(Registered {
            account_id: account.id,
            account_sid,
            phone_id: phone.id,
            phone_number: phone.number,
            agent,
            urls,
            greeting,
        })
    }
}

async fn upload_greeting(clients: &Clients, wav: &[u8]) -> anyhow::Result<UploadGreetingResponse> {
    let chunks: Vec<_> = wav
        .chunks(CHUNK)
        .map(|chunk| UploadGreetingRequest {
            chunk: chunk.to_vec().into(),
        })
        .collect();
    let stored = clients
        .agents()
        .upload_greeting(iter(chunks))
        .await
        .context("UploadGreeting")?;
    Ok(stored.into_inner())
}
