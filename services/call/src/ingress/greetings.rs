//! Greetings for edges, in pieces.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;

use crate::{app::App, error::Error, store::greetings};

/// As FetchGreeting promises.
const CHUNK: usize = 64 * 1024;

/// A greeting's WAV file in pieces of at most 64 KiB.
///
/// # Errors
/// `NotFound` when there is no greeting with this hash.
pub async fn fetch(app: &Arc<App>, sha256: &str) -> Result<Vec<Bytes>, Error> {
    let missing = || {
        Error::not_found(
            "greeting",
            sha256
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(64)
                .collect::<String>(),
        )
    };
    let hash = HEXLOWER
        .decode(sha256.as_bytes())
        .ok()
        .filter(|hash| hash.len() == 32)
        .ok_or_else(missing)?;
    let mut conn = app.db.reserved().await?;
    let greeting = greetings::find(&mut conn, &hash).await?.ok_or_else(missing)?;
    Ok(pieces(greeting.wav.into()))
}

fn pieces(mut wav: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(wav.len().div_ceil(CHUNK));
    while !wav.is_empty() {
        pieces.push(wav.split_to(CHUNK.min(wav.len())));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_file() {
        let wav: Bytes = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let pieces = pieces(wav.clone());
        assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= CHUNK));
        assert_eq!(pieces.concat(), wav);
        assert!(super::pieces(Bytes::new()).is_empty());
    }
}
