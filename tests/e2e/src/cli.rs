//! The operators' command line, as its program runs it.

use callbridge_cli::{Arguments, Failure, run};
use clap::Parser as _;
use serde_json::Value;

use crate::Story;

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Standard output.
    pub output: String,
    /// What goes to standard error, and its exit code.
    pub failure: Option<(String, u8)>,
}

impl Ran {
    /// The output's lines as JSON.
    ///
    /// # Errors
    /// When a line is none.
    pub fn json(&self) -> serde_json::Result<Vec<Value>> {
        self.output.lines().map(serde_json::from_str).collect()
    }
}

impl Story {
    /// Runs `callbridge` with these arguments against this stack.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn callbridge(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        let key = self.stack.keys.api_key.clone();
        self.callbridge_with(&key, arguments).await
    }

    /// The same with another API key.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn callbridge_with(&self, key: &str, arguments: &[&str]) -> anyhow::Result<Ran> {
        let endpoint = format!("http://{}", self.stack.grpc_address());
        callbridge_at(&endpoint, key, arguments).await
    }
}

/// Runs `callbridge` against whatever is at an endpoint.
///
/// # Errors
/// When the arguments cannot be read.
pub async fn callbridge_at(endpoint: &str, key: &str, arguments: &[&str]) -> anyhow::Result<Ran> {
    let before = ["callbridge", "--endpoint", endpoint, "--api-key", key];
    let arguments = Arguments::try_parse_from(before.iter().chain(arguments))?;
    let mut output = Vec::new();
    let result: Result<(), Failure> = run(arguments, &mut output).await;
    Ok(Ran {
        output: String::from_utf8(output)?,
        failure: result.err().map(|failure| (failure.to_string(), failure.exit_code())),
    })
}
