//! Results as a CSV file.

use std::{fs::File, io::Write as _, path::PathBuf};

use callbridge_proto::campaign::v1::ExportResultsRequest;

use crate::{Failure, client::Client, output::Out};

pub(super) async fn export(
    client: &Client,
    out: &mut Out<'_>,
    id: String,
    output: Option<PathBuf>,
) -> Result<(), Failure> {
    let request = ExportResultsRequest { campaign_id: id };
    let answer = client.campaigns().export_results(request).await;
    let mut pieces = answer.map_err(client.failed("export the results"))?.into_inner();
    let path = output.clone().unwrap_or_default();
    let unwritable = |source| Failure::File {
        attempt: "write the results to",
        path: path.clone(),
        source,
    };
    let mut file = output.as_ref().map(File::create).transpose().map_err(unwritable)?;
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await.map_err(client.failed("export the results"))? {
        bytes += piece.csv_chunk.len();
        match &mut file {
            Some(file) => file.write_all(&piece.csv_chunk).map_err(unwritable)?,
            None => out.bytes(&piece.csv_chunk)?,
        }
    }
    if let Some(file) = file {
        file.sync_all().map_err(unwritable)?;
        if !out.json {
            out.line(&format!("{bytes} bytes in {}", path.display()))?;
        }
    }
    Ok(())
}
