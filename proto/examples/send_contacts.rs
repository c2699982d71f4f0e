//! Sends a CSV file of contacts to a campaign. Its first line names the columns: number, and, as far as they are wanted, zone and
//! variables for the agent. A file that broke off is sent again and goes on where it was.
//!
//! `CALLBRIDGE_API_KEY=ck_… cargo run -p callbridge-proto --example send_contacts -- --campaign campaign_… contacts.csv`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use callbridge_proto::campaign::v1::{
    AddContactsRequest, AddContactsResponse, ImportHeader, add_contacts_request::Message,
    campaign_service_client::CampaignServiceClient,
};
use clap::Parser;
use ring::digest::{self, SHA256};
use tonic::{Code, Request, Status, metadata::AsciiMetadataValue, transport::Endpoint};

/// What the API allows in one message.
const CHUNK: usize = 64 * 1024;
/// How often a file is sent again when the service goes away.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_secs(2);

/// Sends a CSV file of contacts to a campaign.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where call-service is.
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    address: Endpoint,
    /// Its API key: ck_<kid>_<secret>.
    #[arg(long, env = "CALLBRIDGE_API_KEY", hide_env_values = true)]
    api_key: String,
    /// The campaign's id.
    #[arg(long)]
    campaign: String,
    /// The file.
    file: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut key: AsciiMetadataValue = format!("Bearer {}", arguments.api_key).parse()?;
    key.set_sensitive(true);
    let channel = arguments.address.connect_lazy();
    let mut campaigns = CampaignServiceClient::with_interceptor(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", key.clone());
        Ok::<_, Status>(request)
    });
    let hash = hash(&arguments.file)?;
    for attempt in 1.. {
        let messages = messages(&arguments.campaign, &hash, File::open(&arguments.file)?);
        match campaigns.add_contacts(tokio_stream::iter(messages)).await {
            Ok(report) => {
                tell(&report.into_inner());
                break;
            }
            // The hash is the key: what was taken is not taken again.
            Err(status) if attempt < TRIES && matches!(status.code(), Code::Unavailable | Code::Aborted) => {
                eprintln!("{}; again in {} s", status.message(), BETWEEN_TRIES.as_secs());
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            Err(status) => bail!("{:?}: {}", status.code(), status.message()),
        }
    }
    Ok(())
}

/// SHA-256 in hex.
fn hash(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut hash, mut piece) = (digest::Context::new(&SHA256), vec![0; CHUNK]);
    loop {
        let read = file
            .read(&mut piece)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok(data_encoding::HEXLOWER.encode(hash.finish().as_ref()));
        }
        hash.update(&piece[..read]);
    }
}

/// The header, and the file in pieces, read as they are sent.
fn messages(campaign: &str, hash: &str, mut file: File) -> impl Iterator<Item = AddContactsRequest> + use<> {
    let header = Message::Header(ImportHeader {
        campaign_id: campaign.to_owned(),
        key: hash.to_owned(),
        sha256: hash.to_owned(),
        ..ImportHeader::default()
    });
    let pieces = std::iter::from_fn(move || {
        let mut piece = Vec::with_capacity(CHUNK);
        match io::Read::by_ref(&mut file).take(CHUNK as u64).read_to_end(&mut piece) {
            Ok(read) => (read > 0).then(|| Message::CsvChunk(piece.into())),
            Err(error) => {
                // What is missing is told by the hash.
                eprintln!("cannot read on after {:?} bytes: {error}", file.stream_position().ok());
                None
            }
        }
    });
    std::iter::once(header)
        .chain(pieces)
        .map(|message| AddContactsRequest { message: Some(message) })
}

fn tell(report: &AddContactsResponse) {
    println!(
        "{} rows: {} contacts taken, {} duplicates, {} in error",
        report.rows, report.accepted, report.duplicates, report.rejected
    );
    for problem in &report.problems {
        println!("line {}: {} {}", problem.line, problem.column, problem.problem);
    }
    if report.problems_cut {
        println!("and more");
    }
}
