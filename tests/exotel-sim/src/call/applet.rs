//! The HTTP requests of applets.

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::{Call, query::Query, voicebot::without_user};
use crate::{settings::AppendQuery, world::World};

/// Largest answer that is read: the documented 2 MB of a WAV file.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// One request of an applet.
pub(crate) struct Ask<'a> {
    pub(crate) applet: &'static str,
    pub(crate) url: &'a str,
    pub(crate) query: Query,
    /// Whether it carries `Exotel-Version: 1.0`.
    pub(crate) versioned: bool,
    pub(crate) head: bool,
}

/// What came back.
pub(crate) struct Fetched {
    pub(crate) status: u16,
    content_type: String,
    pub(crate) body: Bytes,
}

impl Fetched {
    /// Whether the content type is this one; parameters do not count.
    pub(crate) fn is(&self, content_type: &str) -> bool {
        self.content_type
            .split(';')
            .next()
            .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(content_type))
    }
}

/// Sends the request; `None` when the call has to end first.
pub(crate) async fn ask(world: &Arc<World>, call: &Arc<Call>, ask: Ask<'_>) -> Option<Result<Fetched, String>> {
    call.ending.run_until_cancelled(ask_anyway(world, call, ask)).await
}

/// Sends the request even when the person has hung up.
pub(crate) async fn ask_anyway(world: &Arc<World>, call: &Arc<Call>, ask: Ask<'_>) -> Result<Fetched, String> {
    let settings = world.settings();
    let url = with_query(ask.url, &ask.query, settings.append_query);
    let began = Instant::now();
    let limit = Duration::from_millis(settings.applet_timeout_ms);
    let fetched = match tokio::time::timeout(limit, fetch(world, &url, &ask)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    };
    let facts = json!({
        "applet": ask.applet,
        "method": if ask.head { "HEAD" } else { "GET" },
        "url": without_user(&url),
        "status": fetched.as_ref().ok().map(|fetched| fetched.status),
        "error": fetched.as_ref().err(),
        "ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    world.note(Some(&call.sid), "applet", facts);
    fetched
}

async fn fetch(world: &World, url: &str, ask: &Ask<'_>) -> Result<Fetched, String> {
    let mut request = if ask.head {
        world.http.head(url)
    } else {
        world.http.get(url)
    };
    if ask.versioned {
        request = request.header("Exotel-Version", "1.0");
    }
    let mut response = request.send().await.map_err(words)?;
    let status = response.status().as_u16();
    let content_type = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
        .to_owned();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(words)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return Err(format!("the answer is longer than {MAX_BODY} bytes"));
        }
    }
    Ok(Fetched {
        status,
        content_type,
        body: body.into(),
    })
}

/// An HTTP error with its causes and without its URL.
pub(crate) fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Puts the query behind the URL; what is there already stays.
fn with_query(url: &str, query: &Query, append: AppendQuery) -> String {
    let mut encoded = form_urlencoded::Serializer::new(String::new());
    encoded.extend_pairs(query);
    let encoded = encoded.finish();
    let joint = match append {
        AppendQuery::Ampersand if url.contains('?') => '&',
        _ => '?',
    };
    format!("{url}{joint}{encoded}")
}

#[cfg(test)]
mod tests {
    use super::with_query;
    use crate::settings::AppendQuery;

    #[test]
    fn a_query_that_is_there_stays() {
        let query = vec![
            ("CallSid".to_owned(), "a b".to_owned()),
            ("Stream[Status]".to_owned(), "x".to_owned()),
        ];
        let join = |url, append| with_query(url, &query, append);
        assert_eq!(
            join("http://h/p", AppendQuery::Ampersand),
            "http://h/p?CallSid=a+b&Stream%5BStatus%5D=x"
        );
        assert_eq!(
            join("http://h/p?k=1", AppendQuery::Ampersand),
            "http://h/p?k=1&CallSid=a+b&Stream%5BStatus%5D=x"
        );
        assert_eq!(
            join("http://h/p?k=1", AppendQuery::QuestionMark),
            "http://h/p?k=1?CallSid=a+b&Stream%5BStatus%5D=x"
        );
    }
}
