//! The gRPC surface: messages in, use cases called, messages out. Nothing here decides.

pub mod account;
pub mod agent;
pub mod audit;
pub mod auth;
pub mod call;
pub mod campaign;
pub mod ingress;
pub mod key;
pub mod page;
pub mod phone;
pub mod privacy;
pub mod status;
pub mod view;

use std::{str::FromStr, sync::Arc, time::Duration};

use callbridge_proto::{
    access::v1::key_service_server::KeyServiceServer,
    call::v1::call_service_server::CallServiceServer,
    campaign::v1::campaign_service_server::CampaignServiceServer,
    directory::v1::{
        account_service_server::AccountServiceServer, agent_service_server::AgentServiceServer,
        phone_service_server::PhoneServiceServer,
    },
    id::ParseIdError,
    ingress::v1::ingress_service_server::IngressServiceServer,
    privacy::v1::{audit_service_server::AuditServiceServer, privacy_service_server::PrivacyServiceServer},
};
use tonic::{
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::server::Server,
};
use tonic_health::server::{HealthReporter, HealthService};

use crate::{app::App, error::Error};

/// What a request outside streams may weigh. The largest documents are agent configs (16 KiB) and agent messages.
const UNARY_BYTES: usize = 64 * 1024;
/// What one message of a stream, or a webhook as it came, may weigh.
const STREAM_BYTES: usize = 256 * 1024;
/// What a message of an answer may weigh: as much as gRPC's clients take by default.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Anybody may ask for health, so a question weighs little.
const HEALTH_BYTES: usize = 4 * 1024;
/// Streams on one connection; hyper's own limit is lifted by tonic.
const STREAMS: u32 = 1000;
const HEADER_BYTES: u32 = 16 * 1024;
/// A peer that vanished is noticed within half a minute.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Resets by the peer that wait to be handled (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;

/// The server's settings.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .tcp_nodelay(true)
}

/// All services, and their health.
///
/// # Errors
/// When the descriptors for reflection cannot be read, which a test would have noticed.
pub(crate) fn services(app: &Arc<App>, health: &HealthReporter) -> Result<Routes, tonic_reflection::server::Error> {
    let mut routes = RoutesBuilder::default();
    macro_rules! served {
        ($server:ident, $service:expr, $bytes:expr) => {
            $server::new($service)
                .max_decoding_message_size($bytes)
                .max_encoding_message_size(ANSWER_BYTES)
        };
    }
    routes
        .add_service(
            tonic_health::pb::health_server::HealthServer::new(HealthService::from_health_reporter(health.clone()))
                .max_decoding_message_size(HEALTH_BYTES),
        )
        .add_service(served!(KeyServiceServer, key::Service(app.clone()), UNARY_BYTES))
        .add_service(served!(AuditServiceServer, audit::Service(app.clone()), UNARY_BYTES))
        .add_service(served!(
            PrivacyServiceServer,
            privacy::Service(app.clone()),
            UNARY_BYTES
        ))
        .add_service(served!(
            AccountServiceServer,
            account::Service(app.clone()),
            UNARY_BYTES
        ))
        .add_service(served!(PhoneServiceServer, phone::Service(app.clone()), UNARY_BYTES))
        .add_service(served!(AgentServiceServer, agent::Service(app.clone()), STREAM_BYTES))
        .add_service(served!(CallServiceServer, call::Service(app.clone()), UNARY_BYTES))
        .add_service(served!(
            CampaignServiceServer,
            campaign::Service(app.clone()),
            STREAM_BYTES
        ))
        .add_service(served!(
            IngressServiceServer,
            ingress::Service(app.clone()),
            STREAM_BYTES
        ));
    if app.config.reflection {
        let configured = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(callbridge_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes
            .add_service(configured().build_v1()?)
            .add_service(configured().build_v1alpha()?);
    }
    Ok(routes.routes())
}

/// The names that health is reported for; the empty one is the whole server.
pub(crate) const NAMES: [&str; 10] = [
    "",
    <KeyServiceServer<key::Service> as NamedService>::NAME,
    <AuditServiceServer<audit::Service> as NamedService>::NAME,
    <PrivacyServiceServer<privacy::Service> as NamedService>::NAME,
    <AccountServiceServer<account::Service> as NamedService>::NAME,
    <PhoneServiceServer<phone::Service> as NamedService>::NAME,
    <AgentServiceServer<agent::Service> as NamedService>::NAME,
    <CallServiceServer<call::Service> as NamedService>::NAME,
    <CampaignServiceServer<campaign::Service> as NamedService>::NAME,
    <IngressServiceServer<ingress::Service> as NamedService>::NAME,
];

/// Reads an id of a request.
///
/// # Errors
/// [`Error::Invalid`] on the field.
fn id<T: FromStr<Err = ParseIdError>>(field: &str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|error: ParseIdError| Error::invalid(field, error.to_string()))
}
