//! What the simulated platform knows from the start: its accounts, their numbers and flows.

use std::{
    collections::HashSet,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{Settings, number::Number, settings::Callbacks};

/// Everything a simulator is started with. Every field has a default, so `{}` is a valid file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address of REST, control and recordings; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the ledger, the event journal and the WAV files go. Created when missing.
    pub state_dir: PathBuf,
    /// The accounts; more can be added while it runs.
    pub accounts: Vec<Account>,
    /// Timings and behaviours, all changeable while it runs.
    pub settings: Settings,
    /// Seeds all random faults, and mixed chunk sizes, so that a run can be repeated.
    pub seed: u64,
    /// What a caller without a script says: a WAV file (mono, 16-bit). `None` takes the voice built in.
    pub speech: Option<PathBuf>,
    /// PEM file with roots that are trusted beside the operating system's, for `https` and `wss`.
    pub root_certificates: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8090)),
            state_dir: PathBuf::from("exotel-sim-state"),
            accounts: vec![Account::default()],
            settings: Settings::default(),
            seed: 1,
            speech: None,
            root_certificates: None,
        }
    }
}

impl Config {
    /// Settings for tests: a free port, short delays, one default account.
    pub fn for_tests(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state_dir: state_dir.into(),
            settings: Settings::for_tests(),
            ..Self::default()
        }
    }
}

/// One Exotel account.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Account {
    /// The account SID: a slug such as `examplesid1`.
    pub sid: String,
    /// User name of HTTP Basic.
    pub api_key: String,
    /// Password of HTTP Basic.
    pub api_token: String,
    /// The numbers bought by the account.
    pub exophones: Vec<ExoPhone>,
    /// The App-Bazaar flows.
    pub flows: Vec<Flow>,
    /// Whether KYC is done; without it every connect is refused with 403.
    pub kyc: bool,
    /// Connects allowed in any sliding minute; more are refused with 429. 0 is without a limit.
    pub calls_per_minute: u32,
    /// Reads (details, lists, numbers) allowed in any sliding minute. 0 is without a limit.
    pub reads_per_minute: u32,
    /// Streams open at once; one more fails with `Streaming_call_throttled`.
    pub max_streams: u32,
    /// Whether connects straight to a `StreamUrl` are enabled; without it they get 403.
    pub voice_ai: bool,
    /// The account's clock, in minutes east of UTC: 330 is India.
    pub utc_offset_minutes: i32,
    /// Callback behaviour of this account's calls, instead of the settings'.
    pub callbacks: Option<Callbacks>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            sid: "examplesid1".to_owned(),
            api_key: "simkey".to_owned(),
            api_token: "simtoken".to_owned(),
            exophones: vec![ExoPhone {
                number: "08040000155".to_owned(),
                flow: "1001".to_owned(),
            }],
            flows: vec![Flow {
                app_id: "1001".to_owned(),
                applets: vec![Applet::Hangup],
            }],
            kyc: true,
            calls_per_minute: 200,
            reads_per_minute: 0,
            max_streams: 100,
            voice_ai: true,
            utc_offset_minutes: 330,
            callbacks: None,
        }
    }
}

impl Account {
    /// Says what is wrong with the account, in words that name the field.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.sid.is_empty() || self.sid.contains('/') {
            return Some("an account's sid is empty or holds a slash".to_owned());
        }
        if let Some(at) = self
            .exophones
            .iter()
            .position(|phone| Number::parse(&phone.number).is_none())
        {
            return Some(format!(
                "account {}: exophones[{at}].number is not a phone number",
                self.sid
            ));
        }
        let mut seen = HashSet::new();
        if let Some(flow) = self.flows.iter().find(|flow| !seen.insert(flow.app_id.as_str())) {
            return Some(format!(
                "account {}: app_id {} is given to two flows",
                self.sid, flow.app_id
            ));
        }
        if self.utc_offset_minutes.abs() >= 24 * 60 {
            return Some(format!("account {}: utc_offset_minutes is more than a day", self.sid));
        }
        None
    }

    /// The flow with this app id.
    pub fn flow(&self, app_id: &str) -> Option<&Flow> {
        self.flows.iter().find(|flow| flow.app_id == app_id)
    }

    pub(crate) fn exophone(&self, number: &Number) -> Option<&ExoPhone> {
        self.exophones
            .iter()
            .find(|phone| Number::parse(&phone.number).as_ref() == Some(number))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("sid", &self.sid)
            .field("exophones", &self.exophones.len())
            .field("flows", &self.flows)
            .finish_non_exhaustive()
    }
}

/// A number of the platform that belongs to an account.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExoPhone {
    /// The number, in any usual form.
    pub number: String,
    /// App id of the flow that takes calls to it; empty when there is none.
    #[serde(default)]
    pub flow: String,
}

impl fmt::Debug for ExoPhone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExoPhone")
            .field("flow", &self.flow)
            .finish_non_exhaustive()
    }
}

/// An App-Bazaar flow: applets that run one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// The number at the end of the flow's URL.
    pub app_id: String,
    /// What it does. A flow that ends without `hangup` leaves the caller on a silent line, as the platform does.
    pub applets: Vec<Applet>,
}

/// One step of a flow.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "applet", rename_all = "snake_case", deny_unknown_fields)]
pub enum Applet {
    /// Bidirectional audio; the flow waits until the socket ends.
    Voicebot {
        /// `ws(s)://…`, or `http(s)://…` that answers `{"url":"wss://…"}`.
        url: String,
        /// Whether the applet's record option is on: adds a recording URL to the next Passthru.
        #[serde(default)]
        record: bool,
    },
    /// Dials somebody and bridges.
    Connect {
        /// Dynamic URL that answers whom to dial.
        #[serde(default)]
        url: Option<String>,
        /// Asked when the first URL fails.
        #[serde(default)]
        fallback_url: Option<String>,
        /// Whom to dial when there is no URL.
        #[serde(default)]
        numbers: Vec<String>,
    },
    /// Tells a server where the call is; 200 goes on, 302 takes branch B.
    Passthru {
        /// The server.
        url: String,
        /// What runs instead of the rest of the flow after a 302.
        #[serde(default)]
        branch_b: Vec<Applet>,
        /// Whether the flow goes on without waiting for the answer.
        #[serde(default, rename = "async")]
        asynchronous: bool,
    },
    /// Says a text or plays WAV files.
    Greeting {
        /// Dynamic URL: HEAD, then GET, `text/plain`.
        #[serde(default)]
        url: Option<String>,
        /// What is said when there is no URL.
        #[serde(default)]
        text: Option<String>,
    },
    /// Asks for digits.
    Gather {
        /// Dynamic URL that answers the prompt.
        #[serde(default)]
        url: Option<String>,
        /// What the caller presses when nothing is pressed through the control API.
        #[serde(default)]
        digits: String,
    },
    /// Ends the call.
    Hangup,
}

impl Applet {
    /// The applet's name in journals and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Voicebot { .. } => "voicebot",
            Self::Connect { .. } => "connect",
            Self::Passthru { .. } => "passthru",
            Self::Greeting { .. } => "greeting",
            Self::Gather { .. } => "gather",
            Self::Hangup => "hangup",
        }
    }
}

/// The name alone: URLs carry tokens.
impl fmt::Debug for Applet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
