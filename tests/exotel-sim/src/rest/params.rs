//! The parameters of a request: form or multipart body, and the query.

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};

use super::error::Refusal;

/// Largest body that is read; the real limits of all parameters together are far below.
const MAX_BODY: usize = 64 * 1024;

/// Most parameters of one request.
const MAX_PARAMETERS: usize = 100;

/// Parameters in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// The pairs of a query.
    pub(crate) fn of_query(query: &str) -> Self {
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .take(MAX_PARAMETERS)
                .collect(),
        )
    }

    /// Query and body together. JSON is not offered.
    pub(crate) async fn read(request: Request) -> Result<Self, Refusal> {
        let mut params = Self::of_query(request.uri().query().unwrap_or(""));
        let content_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        let content_type = content_type.to_owned();
        let essence = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        let body: Body = request.into_body();
        let bytes = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
            let mut refusal = Refusal::bad_request("The request body cannot be read");
            if error.is::<http_body_util::LengthLimitError>() {
                refusal.status = StatusCode::PAYLOAD_TOO_LARGE;
            }
            refusal
        })?;
        let bytes = bytes.to_bytes();
        match essence.as_str() {
            "" if bytes.is_empty() => {}
            "" | "application/x-www-form-urlencoded" => params.0.extend(form_urlencoded::parse(&bytes).into_owned()),
            "multipart/form-data" => {
                let malformed = |_| Refusal::bad_request("The multipart body is malformed");
                let boundary = multer::parse_boundary(&content_type).map_err(malformed)?;
                let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes)]).boxed();
                let mut form = multer::Multipart::new(stream, boundary);
                while let Some(field) = form.next_field().await.map_err(malformed)? {
                    let name = field.name().unwrap_or("").to_owned();
                    params.0.push((name, field.text().await.map_err(malformed)?));
                }
            }
            _ => {
                return Err(Refusal::bad_request(
                    "Content-Type must be application/x-www-form-urlencoded or multipart/form-data",
                ));
            }
        }
        if params.0.len() > MAX_PARAMETERS {
            return Err(Refusal::bad_request("Too many parameters"));
        }
        Ok(params)
    }

    /// The first value, when it is not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, value)| name == key && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}
