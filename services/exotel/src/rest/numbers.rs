//! ExoPhones: whether a number belongs to an account.

use super::answer::{Node, Rejection};
use super::endpoint::Endpoint;
use super::{Client, Credentials, RestError, span::Operation};
use crate::form::normal;
use crate::number::PhoneNumber;
use serde_json::Value;
use url::Url;

/// Pages followed; at fifty numbers each, more than any account has.
const MAX_PAGES: usize = 20;

/// Whether an ExoPhone belongs to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// It does.
    Owned,
    /// The credentials work, and the account does not have it.
    NotOwned,
    /// The credentials do not work, here at least: keys belong to one cluster.
    BadCredentials,
}

impl Client {
    /// Looks for a number among the account's ExoPhones. This also tells whether the credentials work.
    pub async fn owns_number(&self, credentials: &Credentials, number: &PhoneNumber) -> Result<Ownership, RestError> {
        let first = Endpoint::parse(&credentials.subdomain)?.v2_url(&credentials.sid, &["IncomingPhoneNumbers"])?;
        let mut url = first.clone();
        for _ in 0..MAX_PAGES {
            let request = self.reader.get(url.clone());
            let answer = match self
                .read(credentials, request, Operation::Numbers.span(credentials))
                .await
            {
                Err(
                    RestError::Refused {
                        kind: Rejection::BadCredentials,
                        ..
                    }
                    | RestError::Status(401),
                ) => {
                    return Ok(Ownership::BadCredentials);
                }
                other => other?,
            };
            let tree = answer.tree().ok_or(RestError::Unreadable("a list of ExoPhones"))?;
            if lists(&tree, number) {
                return Ok(Ownership::Owned);
            }
            match next_page(&tree, &first) {
                Some(next) if next != url => url = next,
                _ => break,
            }
        }
        Ok(Ownership::NotOwned)
    }
}

/// Whether any `phone_number` in the answer is this one. The list has had several shapes, the member always this name.
fn lists(tree: &Value, number: &PhoneNumber) -> bool {
    match tree {
        Value::Array(list) => list.iter().any(|item| lists(item, number)),
        Value::Object(members) => members.iter().any(|(key, value)| match value {
            Value::String(text) => {
                normal(key) == "phonenumber" && PhoneNumber::parse(text).is_ok_and(|listed| listed == *number)
            }
            value => lists(value, number),
        }),
        _ => false,
    }
}

/// The next page, if it is at the same place: credentials are not sent elsewhere because an answer says so.
fn next_page(tree: &Value, first: &Url) -> Option<Url> {
    let root = Node::root(tree);
    let uri = root
        .text("next_page_uri")
        .or_else(|| root.child("metadata").and_then(|m| m.text("next_page_uri")))?;
    let next = first.join(&uri).ok()?;
    (next.origin() == first.origin() && next.path() == first.path()).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_shape_and_form_is_found() {
        let number = PhoneNumber::parse("+918040000155").unwrap();
        for tree in [
            json!({"incoming_phone_numbers": [{"sid": "1", "phone_number": "04040000155"}, {"phone_number": "08040000155"}]}),
            json!({"IncomingPhoneNumbers": [{"IncomingPhoneNumber": {"PhoneNumber": "+918040000155"}}]}),
            json!({"TwilioResponse": {"IncomingPhoneNumbers": {"IncomingPhoneNumber": {"PhoneNumber": "8040000155"}}}}),
        ] {
            assert!(lists(&tree, &number), "{tree}");
        }
        assert!(!lists(
            &json!({"incoming_phone_numbers": [{"friendly_name": "08040000155"}]}),
            &number
        ));
    }

    #[test]
    fn pages_stay_at_their_host_and_path() {
        let first = Url::parse("https://api.exotel.com/v2_beta/Accounts/a/IncomingPhoneNumbers").unwrap();
        let next = |uri: &str| next_page(&json!({"metadata": {"next_page_uri": uri}}), &first);
        assert!(next("/v2_beta/Accounts/a/IncomingPhoneNumbers?offset=50").is_some());
        assert_eq!(
            next("https://evil.example/v2_beta/Accounts/a/IncomingPhoneNumbers"),
            None
        );
        assert_eq!(next("/other"), None);
        assert_eq!(next_page(&json!({}), &first), None);
    }
}
