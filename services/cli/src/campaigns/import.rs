//! Contacts out of a CSV file.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use callbridge_proto::campaign::v1::{
    AddContactsRequest, AddContactsResponse, DuplicatePolicy, ImportHeader, add_contacts_request::Message,
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ring::digest::{self, SHA256};
use tonic::Code;

use crate::{Failure, client::Client, output::Out};

/// What the API allows in one message.
const CHUNK: usize = 64 * 1024;
/// How often a file is sent again when the service goes away.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_secs(2);

/// Which file goes where.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// The campaign's id.
    id: String,
    /// The file: CSV in UTF-8, whose first line names the columns: number, and, as far as they are wanted, zone and variables.
    file: PathBuf,
    /// Names the file, so that it is taken once; default is its hash.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Give a contact that is there already the file's zone and variables, instead of leaving it as it is.
    #[arg(long)]
    replace: bool,
}

pub(super) async fn run(client: &Client, out: &mut Out<'_>, wanted: Wanted) -> Result<(), Failure> {
    let unreadable = |source| Failure::File {
        attempt: "read the contacts in",
        path: wanted.file.clone(),
        source,
    };
    let hash = hash(&wanted.file).map_err(unreadable)?;
    let length = wanted.file.metadata().map_err(unreadable)?.len();
    // Drawn only where standard error is a terminal.
    let bar = ProgressBar::new(length).with_style(style());
    let header = ImportHeader {
        campaign_id: wanted.id.clone(),
        key: wanted.key.clone().unwrap_or_else(|| hash.clone()),
        sha256: hash,
        when_duplicate: if wanted.replace {
            DuplicatePolicy::Replace.into()
        } else {
            DuplicatePolicy::Skip.into()
        },
    };
    let broken: Arc<Mutex<Option<io::Error>>> = Arc::default();
    let mut tries = 0;
    let report = loop {
        tries += 1;
        bar.set_position(0);
        let file = File::open(&wanted.file).map_err(unreadable)?;
        let messages = messages(header.clone(), file, bar.clone(), Arc::clone(&broken));
        let answer = client.campaigns().add_contacts(tokio_stream::iter(messages)).await;
        if let Some(source) = broken.lock().ok().and_then(|mut broken| broken.take()) {
            return Err(unreadable(source));
        }
        match answer {
            Ok(report) => break report.into_inner(),
            // The key is the same: what was taken is not taken again.
            Err(status) if tries < TRIES && matches!(status.code(), Code::Unavailable | Code::Aborted) => {
                bar.println(format!("{}; again in {} s", status.message(), BETWEEN_TRIES.as_secs()));
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            Err(status) => return Err(client.failed(format!("import {}", wanted.file.display()))(status)),
        }
    };
    bar.finish_and_clear();
    if out.json {
        return Ok(out.message(&report)?);
    }
    tell(out, &report)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// SHA-256 in hex.
fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut piece) = (digest::Context::new(&SHA256), vec![0; CHUNK]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(data_encoding::HEXLOWER.encode(hash.finish().as_ref()));
        }
        hash.update(&piece[..read]);
    }
}

/// The header, and the file in pieces, read as they are sent. An error of the file ends them, which the hash tells the service.
fn messages(
    header: ImportHeader,
    mut file: File,
    bar: ProgressBar,
    broken: Arc<Mutex<Option<io::Error>>>,
) -> impl Iterator<Item = AddContactsRequest> {
    let pieces = std::iter::from_fn(move || {
        let mut piece = Vec::with_capacity(CHUNK);
        match io::Read::by_ref(&mut file).take(CHUNK as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(read) => {
                bar.inc(read as u64);
                Some(Message::CsvChunk(piece.into()))
            }
            Err(error) => {
                if let Ok(mut broken) = broken.lock() {
                    *broken = Some(error);
                }
                None
            }
        }
    });
    std::iter::once(Message::Header(header))
        .chain(pieces)
        .map(|message| AddContactsRequest { message: Some(message) })
}

fn tell(out: &mut Out<'_>, report: &AddContactsResponse) -> Result<(), Failure> {
    if report.repeated {
        out.line("this file was taken before; nothing was read")?;
    }
    out.line(&format!(
        "{} rows: {} contacts taken, {} duplicates, {} in error",
        report.rows, report.accepted, report.duplicates, report.rejected
    ))?;
    if report.problems.is_empty() {
        return Ok(());
    }
    let rows = report.problems.iter().map(|problem| {
        [
            problem.line.to_string(),
            problem.column.clone(),
            problem.problem.clone(),
        ]
    });
    out.table(["line", "column", "problem"], rows.collect())?;
    if report.problems_cut {
        out.line("and more")?;
    }
    Ok(())
}
