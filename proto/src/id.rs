//! Typed ids: a prefix that tells the kind, and a `UUIDv7` (RFC 9562) in 32 hex digits, such as
//! `call_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b`. They sort by the time they were made.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}_ and 32 hex digits")]
pub struct ParseIdError {
    /// The prefix that was expected.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(
            /// The id without its prefix, as the database keeps it.
            pub Uuid,
        );

        impl $name {
            /// What the written form begins with, before the underscore.
            pub const PREFIX: &'static str = $prefix;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = ParseIdError { prefix: $prefix };
                let digits = text.strip_prefix(concat!($prefix, "_")).ok_or(error.clone())?;
                // Only the written form: Uuid's parser would also take braces, hyphens and upper case.
                if digits.len() != 32 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(error);
                }
                Uuid::try_parse(digits).map(Self).map_err(|_| error)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }
    };
}

id!(
    /// A phone call.
    CallId, "call"
);
id!(
    /// One stretch of live audio of a call.
    MediaSessionId, "media"
);
id!(
    /// An Exotel account.
    AccountId, "acct"
);
id!(
    /// An ExoPhone.
    PhoneId, "phone"
);
id!(
    /// A voice agent.
    AgentId, "agent"
);
id!(
    /// One edge process.
    EdgeId, "edge"
);
id!(
    /// Something an edge was told to do.
    CommandId, "cmd"
);
id!(
    /// A campaign.
    CampaignId, "campaign"
);
id!(
    /// An API key of the database.
    KeyId, "key"
);
id!(
    /// A person of a campaign.
    ContactId, "contact"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = CallId(Uuid::from_u128(0x0198_0a6f_3c1e_7d0f_8a2b_4c6d_8e0f_1a2b));
        assert_eq!(id.to_string(), "call_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            "",
            "01980a6f3c1e7d0f8a2b4c6d8e0f1a2b",
            "phone_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b",
            "call_01980a6f-3c1e-7d0f-8a2b-4c6d8e0f1a2b",
            "call_01980A6F3C1E7D0F8A2B4C6D8E0F1A2B",
            "call_01980a6f3c1e7d0f8a2b4c6d8e0f1a2",
        ] {
            assert_eq!(wrong.parse::<CallId>(), Err(ParseIdError { prefix: "call" }), "{wrong}");
        }
    }
}
