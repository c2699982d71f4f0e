//! Compiles the `.proto` files with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 11] = [
    "callbridge/access/v1/key.proto",
    "callbridge/agent/v1/agent.proto",
    "callbridge/agent/v1/hook.proto",
    "callbridge/call/v1/call.proto",
    "callbridge/campaign/v1/campaign.proto",
    "callbridge/directory/v1/account.proto",
    "callbridge/directory/v1/agent.proto",
    "callbridge/directory/v1/credentials.proto",
    "callbridge/directory/v1/phone.proto",
    "callbridge/ingress/v1/ingress.proto",
    "callbridge/privacy/v1/privacy.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=callbridge");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // compile_fds writes only code, and reflection needs the descriptors.
    fs::write(out.join("callbridge.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::SmallBuffers")
        .build_transport(true)
        .compile_fds(descriptors)?;
    Ok(())
}
