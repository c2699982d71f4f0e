//! How many AgentStream sockets an account has open, as Exotel counts them.

use super::answer::{Node, tree};
use super::{Client, Credentials, RestError, span::Operation};

/// An account's open streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveStreams {
    /// Open now.
    pub active: u32,
    /// Beyond this streams fail, where Exotel tells it.
    pub limit: Option<u32>,
}

impl ActiveStreams {
    /// Reads the body of either of the two documented answers, XML or JSON.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let tree = tree(body)?;
        let root = Node::root(&tree);
        let stream = root.child("Stream").unwrap_or(root);
        let number = |names: [&str; 2]| {
            names
                .iter()
                .find_map(|name| stream.text(name))
                .and_then(|text| text.parse().ok())
        };
        Some(Self {
            active: number(["ActiveStreamCount", "active_streams"])?,
            limit: number(["ThrottleLimit", "max_allowed_streams"]),
        })
    }
}

impl Client {
    /// Counts the account's open streams. A drift metric: the count lags.
    pub async fn active_streams(&self, credentials: &Credentials) -> Result<ActiveStreams, RestError> {
        let answer = self
            .get(
                credentials,
                Operation::ActiveStreams.span(credentials),
                &["ActiveStreams"],
                &[],
            )
            .await?;
        ActiveStreams::parse(&answer.body).ok_or(RestError::Unreadable("a count of streams"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documented_answers() {
        let read = |body: &str| ActiveStreams::parse(body.as_bytes());
        let xml = "<TwilioResponse><Stream><ActiveStreamCount>0</ActiveStreamCount><ThrottleLimit>100</ThrottleLimit></Stream></TwilioResponse>";
        assert_eq!(
            read(xml),
            Some(ActiveStreams {
                active: 0,
                limit: Some(100)
            })
        );
        let json = r#"{"status":"success","active_streams":12,"max_allowed_streams":100,"account_sid":"a"}"#;
        assert_eq!(
            read(json),
            Some(ActiveStreams {
                active: 12,
                limit: Some(100)
            })
        );
        assert_eq!(read(r#"{"status":"success"}"#), None);
    }
}
