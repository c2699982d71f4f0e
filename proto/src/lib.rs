//! callbridge's gRPC API: generated messages, clients and servers, and the id types.
//!
//! The `.proto` files beside this crate are the source; their comments are the documentation of each item.

#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes,
    reason = "generated from documented .proto files"
)]
mod generated {
    pub mod access {
        pub mod v1 {
            tonic::include_proto!("callbridge.access.v1");
        }
    }
    pub mod agent {
        pub mod v1 {
            tonic::include_proto!("callbridge.agent.v1");
        }
    }
    pub mod call {
        pub mod v1 {
            tonic::include_proto!("callbridge.call.v1");
        }
    }
    pub mod campaign {
        pub mod v1 {
            tonic::include_proto!("callbridge.campaign.v1");
        }
    }
    pub mod directory {
        pub mod v1 {
            tonic::include_proto!("callbridge.directory.v1");
        }
    }
    pub mod ingress {
        pub mod v1 {
            tonic::include_proto!("callbridge.ingress.v1");
        }
    }
    pub mod privacy {
        pub mod v1 {
            tonic::include_proto!("callbridge.privacy.v1");
        }
    }
}

mod codec;
pub mod id;

pub use generated::{access, agent, call, campaign, directory, ingress, privacy};

/// The encoded descriptor set of every service, for reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("callbridge");

/// The reason of a refusal because an account's token was rotated out (`IngressService`): whoever is told need not ask again.
pub const TOKEN_ENDED: &str = "TOKEN_ENDED";
