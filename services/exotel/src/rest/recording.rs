//! Exotel's own recordings (`exotel.md` §1.8): fetched from Exotel's hosts alone, with the account's key, in pieces.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use tracing::Instrument as _;
use url::{Host, Url};

use super::{Client, Credentials, Endpoint, RestError, authorize, reason, span::Operation};

/// Where recordings have been since before they had a host of their own.
const BUCKET: &str = "exotelrecordings";
/// An hour of stereo MP3 has 60 MiB.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// To the last byte.
const LIMIT: Duration = Duration::from_mins(5);
/// From Exotel's host to the bucket is one.
const MAX_REDIRECTS: usize = 3;
const MAX_CONTENT_TYPE: usize = 64;

/// A recording on its way. `Debug` does not show where it is.
#[derive(Debug)]
pub struct Recording {
    /// Such as `audio/mpeg`; at most 64 characters.
    pub content_type: String,
    /// Length of the file, where Exotel tells it.
    pub size: Option<u64>,
    response: reqwest::Response,
    left: u64,
}

impl Recording {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`RestError::Transport`] when it breaks off, takes more than five minutes, or has more than 256 MiB.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RestError> {
        let transport = |reason| RestError::Transport { reason };
        let chunk = self.response.chunk().await.map_err(|error| transport(reason(&error)))?;
        if let Some(chunk) = &chunk {
            let left = self.left.checked_sub(chunk.len() as u64);
            self.left = left.ok_or(transport("body_too_large"))?;
        }
        Ok(chunk)
    }
}

impl Client {
    /// Fetches a recording from where Exotel said that it is. The key goes to Exotel's own hosts alone; each redirect is
    /// checked as the first address is.
    ///
    /// # Errors
    /// [`RestError::ForeignRecording`]; [`RestError::Status`] with 404 while Exotel does not have it yet; the others as for any read.
    pub async fn recording(&self, credentials: &Credentials, url: &str) -> Result<Recording, RestError> {
        let span = Operation::Recording.span(credentials);
        self.follow(credentials, url).instrument(span).await
    }

    async fn follow(&self, credentials: &Credentials, url: &str) -> Result<Recording, RestError> {
        let endpoint = Endpoint::parse(&credentials.subdomain)?;
        let mut url = Url::parse(url).map_err(|_| RestError::ForeignRecording)?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.reader.get(url.clone()).timeout(LIMIT);
            match owner(&endpoint, &url) {
                Owner::Exotel => request = authorize(request, credentials),
                Owner::Bucket => {}
                Owner::Foreign => return Err(RestError::ForeignRecording),
            }
            let response = request
                .send()
                .await
                .map_err(|error| RestError::Transport { reason: reason(&error) })?;
            let status = response.status();
            if status.is_redirection() {
                let target = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                url = target
                    .and_then(|target| url.join(target).ok())
                    .ok_or(RestError::Status(status.as_u16()))?;
                continue;
            }
            if !status.is_success() {
                return Err(RestError::Status(status.as_u16()));
            }
            return read(response);
        }
        Err(RestError::Transport {
            reason: "too_many_redirects",
        })
    }
}

fn read(response: reqwest::Response) -> Result<Recording, RestError> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let content_type = header(CONTENT_TYPE).unwrap_or_default();
    // A page that says to log in is no recording.
    let is_sound = content_type.starts_with("audio/") || content_type.starts_with("application/octet-stream");
    if !is_sound || content_type.len() > MAX_CONTENT_TYPE {
        return Err(RestError::Unreadable("a recording"));
    }
    let (content_type, size) = (
        content_type.to_owned(),
        header(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
    );
    if size.is_some_and(|size| size > MAX_BYTES) {
        return Err(RestError::Transport {
            reason: "body_too_large",
        });
    }
    Ok(Recording {
        content_type,
        size,
        response,
        left: MAX_BYTES,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A host of Exotel's, or the simulator that the account is at.
    Exotel,
    /// The bucket of old recordings, which is Exotel's, on a host that is not.
    Bucket,
    Foreign,
}

fn owner(endpoint: &Endpoint, url: &Url) -> Owner {
    if !url.username().is_empty() || url.password().is_some() {
        return Owner::Foreign;
    }
    if endpoint.is_simulator() {
        // Only the very server that the account names.
        return if url.origin() == endpoint.origin() {
            Owner::Exotel
        } else {
            Owner::Foreign
        };
    }
    let Some(Host::Domain(host)) = url.host() else {
        return Owner::Foreign;
    };
    if url.scheme() != "https" || url.port().is_some() {
        return Owner::Foreign;
    }
    if Endpoint::is_exotels(host) {
        return Owner::Exotel;
    }
    // s3, s3-region or s3.region: with more labels it is somebody's bucket.
    let of_s3 = |host: &str| {
        let region = host
            .strip_suffix(".amazonaws.com")
            .and_then(|host| host.strip_prefix("s3"));
        region.is_some_and(|region| region.is_empty() || region.starts_with(['-', '.']) && !region[1..].contains('.'))
    };
    let first = url.path_segments().and_then(|mut segments| segments.next());
    let by_path = of_s3(host) && first == Some(BUCKET);
    let by_host = host
        .strip_prefix(BUCKET)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(of_s3);
    if by_path || by_host {
        Owner::Bucket
    } else {
        Owner::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F124: the key goes to Exotel alone, and nothing at all goes elsewhere.
    #[test]
    fn only_exotels_addresses_are_asked() {
        let exotel = Endpoint::parse("api.in.exotel.com").unwrap();
        let simulator = Endpoint::parse("http://127.0.0.1:8090").unwrap();
        for (url, wanted) in [
            (
                "https://recordings.exotel.com/exotelrecordings/acme1/a.mp3",
                Owner::Exotel,
            ),
            ("https://RECORDINGS.exotel.in/a.mp3", Owner::Exotel),
            (
                "https://s3-ap-southeast-1.amazonaws.com/exotelrecordings/acme1/a.mp3",
                Owner::Bucket,
            ),
            (
                "https://s3.ap-south-1.amazonaws.com/exotelrecordings/acme1/a.mp3?X-Amz-Signature=1",
                Owner::Bucket,
            ),
            (
                "https://exotelrecordings.s3.ap-southeast-1.amazonaws.com/acme1/a.mp3",
                Owner::Bucket,
            ),
            ("https://s3.amazonaws.com/exotelrecordings/a.mp3", Owner::Bucket),
            ("http://recordings.exotel.com/a.mp3", Owner::Foreign),
            ("https://recordings.exotel.com:8443/a.mp3", Owner::Foreign),
            ("https://recordings.exotel.com.evil.example/a.mp3", Owner::Foreign),
            ("https://evilexotel.com/a.mp3", Owner::Foreign),
            ("https://exotel.com@evil.example/a.mp3", Owner::Foreign),
            ("https://key:token@recordings.exotel.com/a.mp3", Owner::Foreign),
            ("https://s3.amazonaws.com/another-bucket/a.mp3", Owner::Foreign),
            (
                "https://s3.amazonaws.com/another/../exotelrecordings-not/a.mp3",
                Owner::Foreign,
            ),
            ("https://evil.amazonaws.com/exotelrecordings/a.mp3", Owner::Foreign),
            ("https://s3evil.s3.amazonaws.com/exotelrecordings/a.mp3", Owner::Foreign),
            (
                "https://s3-evil.s3.amazonaws.com/exotelrecordings/a.mp3",
                Owner::Foreign,
            ),
            ("https://evil.exotelrecordings.s3.amazonaws.com/a.mp3", Owner::Foreign),
            ("https://exotelrecordings.evil.example/a.mp3", Owner::Foreign),
            ("https://exotelrecordings.s3.evil.example/a.mp3", Owner::Foreign),
            ("https://127.0.0.1/a.mp3", Owner::Foreign),
            ("https://2130706433/a.mp3", Owner::Foreign),
            ("https://[::ffff:127.0.0.1]/a.mp3", Owner::Foreign),
            ("https://169.254.169.254/latest/meta-data", Owner::Foreign),
            ("https://localhost/a.mp3", Owner::Foreign),
            ("http://127.0.0.1:8090/exotelrecordings/a.mp3", Owner::Foreign),
            ("file:///etc/passwd", Owner::Foreign),
        ] {
            assert_eq!(owner(&exotel, &Url::parse(url).unwrap()), wanted, "{url}");
        }
        for (url, wanted) in [
            ("http://127.0.0.1:8090/exotelrecordings/acme1/a.mp3", Owner::Exotel),
            ("http://127.0.0.1:8091/exotelrecordings/acme1/a.mp3", Owner::Foreign),
            ("http://localhost:8090/a.mp3", Owner::Foreign),
            ("https://recordings.exotel.com/a.mp3", Owner::Foreign),
        ] {
            assert_eq!(owner(&simulator, &Url::parse(url).unwrap()), wanted, "{url}");
        }
    }
}
