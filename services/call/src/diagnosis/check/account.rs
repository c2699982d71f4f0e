//! What Exotel says of the account, and what of ours a call needs.

use exotel::rest::{ActiveStreams, Rejection, RestError};

use super::Check;

const CREDENTIALS: &str = "credentials";
const CLUSTER: &str = "cluster";
const NUMBER: &str = "number";
const AGENT: &str = "agent";
const STREAMING: &str = "streaming";
const ENABLE: &str = "ask Exotel (hello@exotel.com) to enable AgentStream for the account";

/// What asking for the account's ExoPhones told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exophones {
    /// The number is one of them.
    Owned,
    /// It is not.
    NotOwned,
    /// The key is refused.
    BadCredentials,
    /// There is no key to ask with; the text says what to do.
    NoCredentials(String),
    /// No answer: a word such as `dns`.
    Unreachable(&'static str),
    /// Another answer; the text says which.
    Refused(String),
}

/// What is known of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Where the credentials came from: phone, account or environment.
    pub(crate) source: &'static str,
    /// The cluster that was asked.
    pub(crate) subdomain: String,
    /// Another cluster that takes the key.
    pub(crate) elsewhere: Option<&'static str>,
    /// What Exotel said.
    pub(crate) exophones: Exophones,
}

/// Checks credentials, cluster and number.
pub(crate) fn account(seen: &Account) -> [Check; 3] {
    let Account {
        source,
        subdomain,
        elsewhere,
        exophones,
    } = seen;
    let unasked = |why: &str| [Check::skipped(CLUSTER, why), Check::skipped(NUMBER, why)];
    let credentials = || Check::passed(CREDENTIALS, format!("Exotel takes the key and token of the {source}"));
    let cluster = || Check::passed(CLUSTER, format!("{subdomain} knows the key"));
    let with = |first: Check, [second, third]: [Check; 2]| [first, second, third];
    match (exophones, elsewhere) {
        (Exophones::Owned, _) => [
            credentials(),
            cluster(),
            Check::passed(NUMBER, "the number is one of the account's ExoPhones"),
        ],
        (Exophones::NotOwned, _) => [
            credentials(),
            cluster(),
            Check::failed(
                NUMBER,
                "the number is not one of the account's ExoPhones",
                "compare the phone's number with the dashboard's list of ExoPhones, and see that the phone is registered with the account \
                 that has it",
            ),
        ],
        (Exophones::BadCredentials, Some(host)) => [
            Check::passed(CREDENTIALS, format!("{host} takes the key and token of the {source}")),
            Check::failed(
                CLUSTER,
                format!("the key belongs to {host}, and the {source} says {subdomain}"),
                format!("set subdomain to {host}"),
            ),
            Check::skipped(NUMBER, "the cluster is another one"),
        ],
        (Exophones::BadCredentials, None) => with(
            Check::failed(
                CREDENTIALS,
                format!("{subdomain} refuses the key and token of the {source} (401)"),
                "set the API key and token again, from the dashboard's Settings, API settings, and see that sid and subdomain are those shown there",
            ),
            unasked("the key is refused"),
        ),
        (Exophones::NoCredentials(what), _) => with(
            Check::failed(
                CREDENTIALS,
                what.as_str(),
                "set credentials for the account or the phone",
            ),
            unasked("there is no key to ask with"),
        ),
        (Exophones::Unreachable(reason), _) => with(
            Check::failed(
                CREDENTIALS,
                format!("{subdomain} could not be asked ({reason})"),
                format!("see that call-service reaches {subdomain} by HTTPS: DNS, egress rules, CA certificates"),
            ),
            unasked("Exotel could not be asked"),
        ),
        (Exophones::Refused(what), _) => with(
            Check::failed(
                CREDENTIALS,
                what.as_str(),
                "see the account's state in the dashboard: suspended, or a list of allowed addresses without call-service's",
            ),
            unasked("Exotel did not answer the question"),
        ),
    }
}

/// What a call needs that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The phone has an agent.
    pub(crate) agent: bool,
    /// It dials through a flow.
    pub(crate) flow: bool,
    /// A flow is named.
    pub(crate) app_id: bool,
}

impl Ready {
    /// Whether a call can be placed.
    pub(crate) fn is_ready(self) -> bool {
        self.agent && (self.app_id || !self.flow)
    }
}

/// Checks that somebody will talk, and that the phone knows how to get there.
pub(crate) fn agent(ready: Ready) -> Check {
    if !ready.agent {
        return Check::failed(
            AGENT,
            "the phone has no agent: inbound calls find nobody",
            "set the phone's agent_id",
        );
    }
    if !ready.is_ready() {
        return Check::failed(
            AGENT,
            "the phone dials through a flow, and no flow is named",
            "set app_id, the number in the flow's URL, on the phone or the account, or dial_mode to DIAL_MODE_STREAM",
        );
    }
    let how = if ready.flow {
        "outbound calls go through its flow"
    } else {
        "outbound calls go straight to the edge"
    };
    Check::passed(AGENT, format!("the phone has an agent, and {how}"))
}

/// Checks that the account may have audio streams. None: Exotel was not asked.
pub(crate) fn streaming(asked: Option<&Result<ActiveStreams, RestError>>) -> Check {
    match asked {
        None => Check::skipped(STREAMING, "a check before failed"),
        Some(Ok(ActiveStreams { limit: Some(0), .. })) => {
            Check::failed(STREAMING, "the account may have no audio streams (limit 0)", ENABLE)
        }
        Some(Ok(ActiveStreams {
            active,
            limit: Some(limit),
        })) if active >= limit => Check::warning(
            STREAMING,
            format!("all {limit} audio streams are in use: the next call's fails"),
            "set the account's max_concurrent_calls below the limit, or ask Exotel for more",
        ),
        Some(Ok(ActiveStreams { active, limit })) => {
            let of = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
            Check::passed(STREAMING, format!("{active}{of} audio streams are in use"))
        }
        Some(Err(RestError::Refused {
            kind: Rejection::Forbidden | Rejection::NotFound,
            ..
        })) => Check::failed(STREAMING, "Exotel shows no audio streams for the account", ENABLE),
        Some(Err(error)) => Check::warning(
            STREAMING,
            format!("how many streams the account may have is not known: {error}"),
            "a diagnosis with a call shows whether audio comes",
        ),
    }
}
