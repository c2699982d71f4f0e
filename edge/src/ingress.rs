//! The way to call-service: credentials, deadlines and the retries that hide its restarts.

use std::{future::Future, time::Duration};

use anyhow::Context as _;
use callbridge_proto::ingress::v1::ingress_service_client::IngressServiceClient;
use runtime::{
    Tasks,
    rpc::InjectTrace,
    tls::{self, Connector},
};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::Config;

/// A connection that takes longer is tried again, at another replica.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection that is silent for this long is asked, and given up after [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether certificates have changed.
pub(crate) const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(5);
/// Largest message either way: a greeting's chunk or a callback's body (64 KiB) and its envelope.
const MAX_MESSAGE: usize = 256 * 1024;
/// The first wait before a retry; it doubles up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A client of call-service. Cheap to clone.
pub(crate) type Client = IngressServiceClient<InterceptedService<Channel, Credentials>>;

/// Adds the edge's key and the trace to each call.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// None: our certificate says who we are.
    bearer: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Credentials {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = InjectTrace.call(request)?;
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// A client that connects when it is used first. `tasks` look after its certificates.
pub(crate) fn client(config: &Config, tasks: &Tasks) -> anyhow::Result<Client> {
    let endpoint = tls::endpoint(&config.call_service_url)
        .context("CALL_SERVICE_URL is not a URL")?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = if config.call_service_url.starts_with("https:") {
        let connector = Connector::read(&config.call_service_tls).context("cannot set up TLS to call-service")?;
        connector.keep_fresh(tasks, LOOK_AT_CERTIFICATES);
        endpoint.connect_with_connector_lazy(connector)
    } else {
        endpoint.connect_lazy()
    };
    let bearer = match &config.call_service_api_key {
        None => None,
        Some(key) => {
            let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", key.expose_secret())
                .parse()
                .ok()
                .context("CALL_SERVICE_API_KEY has characters that no key has")?;
            bearer.set_sensitive(true);
            Some(bearer)
        }
    };
    Ok(IngressServiceClient::with_interceptor(channel, Credentials { bearer })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE))
}

/// Calls until there is a final answer or the budget is used up. Only for calls that may be repeated.
pub(crate) async fn within<T, F>(budget: Duration, attempt: Duration, mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let end = Instant::now() + budget;
    let mut pause = BACKOFF.0;
    loop {
        let last = match timeout_at(end.min(Instant::now() + attempt), call()).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) if is_final(status.code()) => return Err(status),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("call-service did not answer in time"),
        };
        if Instant::now() + pause >= end {
            return Err(last);
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Whether asking again cannot change the answer.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}
