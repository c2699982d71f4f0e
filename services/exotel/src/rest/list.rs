//! Reading calls in bulk.

use super::answer::{Node, is_sid, tree};
use super::calls::{CallDetails, Direction};
use super::{Client, Credentials, RestError, span::Operation};
use crate::number::PhoneNumber;
use crate::time::print_naive;
use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};
use url::Url;

/// Ids per bulk request that Exotel advises.
pub const MAX_SIDS: usize = 20;
/// Largest page.
const MAX_PAGE: u32 = 100;

/// Which calls to list.
#[derive(Debug, Clone, Default)]
pub struct CallsQuery {
    /// Calls by id, at most 20; what cannot be an id is left out, and when nothing is left the page is empty. Without
    /// `created` Exotel looks back 31 days.
    pub sids: Vec<String>,
    /// By one end, in both number forms; at most 2.
    pub from: Vec<PhoneNumber>,
    /// By the other end, likewise.
    pub to: Vec<PhoneNumber>,
    /// By ExoPhone, likewise.
    pub phone_number: Vec<PhoneNumber>,
    /// By direction.
    pub direction: Option<Direction>,
    /// By time of creation, from and to, as the account's zone prints it; at most one month.
    pub created: Option<(NaiveDateTime, NaiveDateTime)>,
    /// Calls per page; Exotel's default is 50, its most 100.
    pub page_size: Option<u32>,
    /// [`CallsPage::next`] of the page before.
    pub after: Option<String>,
}

impl CallsQuery {
    /// The window of `margin` before and after a time, in an account's zone, for [`CallsQuery::created`].
    pub fn around(time: DateTime<Utc>, margin: TimeDelta, zone: FixedOffset) -> (NaiveDateTime, NaiveDateTime) {
        let local = |time: DateTime<Utc>| time.with_timezone(&zone).naive_local();
        (local(time - margin), local(time + margin))
    }

    /// None where no call can match: without its ids the same request would list every call.
    fn pairs(&self) -> Option<Vec<(&'static str, String)>> {
        let mut pairs = vec![("details", "true".to_owned())];
        let sids: Vec<_> = self
            .sids
            .iter()
            .filter(|sid| is_sid(sid))
            .take(MAX_SIDS)
            .map(String::as_str)
            .collect();
        if sids.is_empty() && !self.sids.is_empty() {
            return None;
        }
        if !sids.is_empty() {
            pairs.push(("Sid", sids.join(",")));
        }
        for (name, numbers) in [
            ("From", &self.from),
            ("To", &self.to),
            ("PhoneNumber", &self.phone_number),
        ] {
            // Exotel takes five values, and each number has two forms.
            let forms: Vec<_> = numbers
                .iter()
                .take(2)
                .flat_map(|number| [number.expose().to_owned(), number.national()])
                .collect();
            if !forms.is_empty() {
                pairs.push((name, forms.join(",")));
            }
        }
        if let Some(direction) = &self.direction {
            pairs.push(("Direction", direction.word().to_owned()));
        }
        if let Some((from, to)) = self.created {
            pairs.push((
                "DateCreated",
                format!("gte:{};lte:{}", print_naive(from), print_naive(to)),
            ));
        }
        if let Some(size) = self.page_size {
            pairs.push(("PageSize", size.clamp(1, MAX_PAGE).to_string()));
        }
        if let Some(after) = &self.after {
            pairs.push(("After", after.clone()));
        }
        Some(pairs)
    }
}

/// One page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallsPage {
    /// The calls, newest first. Entries without an id or a state are left out.
    pub calls: Vec<CallDetails>,
    /// For [`CallsQuery::after`], where there is another page.
    pub next: Option<String>,
    /// Calls on all pages, where Exotel tells it.
    pub total: Option<u64>,
    /// When Exotel answered, by its own clock.
    pub server_date: Option<DateTime<Utc>>,
}

impl CallsPage {
    /// Reads the body of a list's answer, JSON or XML; `server_date` is the answer's `Date`.
    pub fn parse(body: &[u8], server_date: Option<DateTime<Utc>>) -> Option<Self> {
        Self::read(Node::root(&tree(body)?), server_date)
    }

    fn read(root: Node<'_>, server_date: Option<DateTime<Utc>>) -> Option<Self> {
        let calls = root.list("Calls", "Call")?;
        let metadata = root.child("Metadata");
        let next = metadata
            .and_then(|metadata| metadata.text("NextPageUri"))
            .and_then(|uri| cursor(&uri));
        Some(Self {
            calls: calls
                .into_iter()
                .filter_map(|call| CallDetails::read(call, server_date))
                .collect(),
            next,
            total: metadata
                .and_then(|metadata| metadata.text("Total"))
                .and_then(|total| total.parse().ok()),
            server_date,
        })
    }
}

/// The `After` of a page's address, which may be a path or a URL.
fn cursor(uri: &str) -> Option<String> {
    let base = Url::parse("https://api.exotel.com/").ok()?;
    let url = base.join(uri).ok()?;
    url.query_pairs()
        .find(|(key, _)| key.eq_ignore_ascii_case("after"))
        .map(|(_, value)| value.into_owned())
}

impl Client {
    /// Lists calls, one page.
    pub async fn calls(&self, credentials: &Credentials, query: &CallsQuery) -> Result<CallsPage, RestError> {
        let Some(pairs) = query.pairs() else {
            return Ok(CallsPage::default());
        };
        let answer = self
            .get(credentials, Operation::Calls.span(credentials), &["Calls.json"], &pairs)
            .await?;
        CallsPage::parse(&answer.body, answer.date).ok_or(RestError::Unreadable("a list of calls"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ProviderStatus;
    use insta::assert_snapshot;

    #[test]
    fn queries() {
        let time = "2026-11-22T08:00:00Z".parse().unwrap();
        let query = CallsQuery {
            from: vec![PhoneNumber::parse("09812345678").unwrap()],
            phone_number: vec![PhoneNumber::parse("08040000155").unwrap()],
            direction: Some(Direction::OutboundApi),
            created: Some(CallsQuery::around(time, TimeDelta::hours(3), crate::time::ist())),
            page_size: Some(1000),
            ..CallsQuery::default()
        };
        let pairs: Vec<_> = query
            .pairs()
            .unwrap()
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_snapshot!(pairs.join("\n"), @r"
        details=true
        From=+919812345678,09812345678
        PhoneNumber=+918040000155,08040000155
        Direction=outbound-api
        DateCreated=gte:2026-11-22 10:30:00;lte:2026-11-22 16:30:00
        PageSize=100
        ");
        let sids = CallsQuery {
            sids: (0..30).map(|i| format!("sid{i:08}")).collect(),
            ..CallsQuery::default()
        };
        assert_eq!(sids.pairs().unwrap()[1].1.split(',').count(), MAX_SIDS);
    }

    #[test]
    fn a_page_with_details() {
        let body = r#"{"Metadata":{"Total":1027,"PageSize":20,"NextPageUri":"/v1/Accounts/a/Calls.json?PageSize=20&After=Mg%3D%3D"},
            "Calls":[{"Sid":"c5797dcbaaeed7678c4062a4a3ed2f8a","DateCreated":"2017-03-03 10:48:33","To":"0XXXXX38847",
            "From":"09812345678","PhoneNumberSid":"08040000155","Status":"completed","StartTime":"2017-03-03 10:48:33",
            "EndTime":"2017-03-03 10:49:33","Duration":"60","Price":"1.500","Direction":"outbound-api","RecordingUrl":"https://s3.exotel.com/SECRET.mp3","CustomField":"SECRET",
            "Details":{"ConversationDuration":21,"Leg1Status":"completed","Leg2Status":"no-answer",
            "Legs":[{"Leg":{"Id":1,"OnCallDuration":21}},{"Leg":{"Id":2,"OnCallDuration":0}}]}},
            {"Sid":null,"Status":"busy"}]}"#;
        let page = CallsPage::parse(body.as_bytes(), None).unwrap();
        assert_eq!(
            (page.calls.len(), page.next.as_deref(), page.total),
            (1, Some("Mg=="), Some(1027))
        );
        let call = &page.calls[0];
        assert_eq!(call.status, ProviderStatus::Completed);
        assert_eq!(call.direction, Some(Direction::OutboundApi));
        assert_eq!(
            (call.duration_s, call.talk_s, call.price.as_deref()),
            (Some(60), Some(21), Some("1.500"))
        );
        assert_eq!(call.end_time.unwrap().to_rfc3339(), "2017-03-03T05:19:33+00:00");
        assert_eq!(call.legs[1].status, Some(ProviderStatus::NoAnswer));
        assert_eq!(call.legs[0].on_call_s, Some(21));
        let shown = format!("{call:?}");
        assert!(!shown.contains("9812345678") && !shown.contains("SECRET"), "{shown}");
    }
}
