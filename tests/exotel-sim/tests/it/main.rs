//! The simulator from outside: a small bot and webhook server on real sockets, and a REST client.

mod arrivals;
mod callbacks;
mod chance;
mod control;
mod faults;
mod flows;
mod raw;
mod rest;
mod server;
mod streams;
mod tls;

use std::time::Duration;

use exotel_sim::{Account, Applet, Config, Control, ExoPhone, Flow, Settings, Simulator};
use serde_json::Value;
use server::Server;

/// Longest wait for anything; a failing wait prints the last state.
const PATIENCE: Duration = Duration::from_secs(10);

const CUSTOMER: &str = "09440000609";
const EXOPHONE: &str = "08040000155";

/// A simulator with one account, a server for its requests, and a REST client.
struct World {
    simulator: Simulator,
    control: Control,
    server: Server,
    http: reqwest::Client,
    state: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config::for_tests(state.path());
        config.settings = Settings {
            answer_delay_ms: 20,
            ring_delay_ms: 20,
            ..config.settings
        };
        change(&mut config);
        let simulator = Simulator::start(config).await.expect("the simulator starts");
        let control = simulator.control();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self {
            simulator,
            control,
            server: Server::start().await,
            http,
            state,
        }
    }

    /// Gives the account this flow, for its ExoPhone and for connects.
    fn flow(&self, applets: Vec<Applet>) {
        let account = Account {
            exophones: vec![ExoPhone {
                number: EXOPHONE.to_owned(),
                flow: "77".to_owned(),
            }],
            flows: vec![Flow {
                app_id: "77".to_owned(),
                applets,
            }],
            ..Account::default()
        };
        self.control.put_account(account).expect("a valid account");
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/Accounts/examplesid1/{path}", self.simulator.base_url())
    }

    /// A connect into the flow, with more parameters.
    async fn dial(&self, from: &str, more: &[(&str, &str)]) -> Result<reqwest::Response, reqwest::Error> {
        let mut form = vec![("From", from), ("CallerId", EXOPHONE)];
        if !more.iter().any(|(key, _)| matches!(*key, "To" | "StreamUrl" | "Url")) {
            form.push(("Url", "http://my.exotel.com/examplesid1/exoml/start_voice/77"));
        }
        form.extend(more);
        let request = self
            .http
            .post(self.url("Calls/connect.json"))
            .basic_auth("simkey", Some("simtoken"));
        request.form(&form).send().await
    }

    /// The same, for connects that have to be accepted; returns the SID.
    async fn call(&self, more: &[(&str, &str)]) -> String {
        let response = self.dial(CUSTOMER, more).await.expect("an answer");
        let status = response.status();
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(status, 200, "{body}");
        body["Call"]["Sid"].as_str().expect("a Sid").to_owned()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = self.http.get(self.url(path)).basic_auth("simkey", Some("simtoken"));
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    async fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }
}
