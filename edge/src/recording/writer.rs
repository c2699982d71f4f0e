//! The one thread that writes recordings to the disk. A slow or full disk stops it, and nothing else.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use super::{
    Complete,
    align::{Piece, Side},
    spool::{About, End, Folder},
};

/// What is to be done to a session's recording.
#[derive(Debug)]
pub(super) enum Op {
    /// It begins.
    Begin(About),
    /// Audio at its place.
    Write(Arc<str>, Piece),
    /// It is over.
    End(Arc<str>, End),
    /// Nothing follows.
    Stop,
}

/// What is on the disk of a recording, and why the rest is missing.
#[derive(Debug, Default)]
struct Loss {
    /// The first one.
    reason: &'static str,
    missing: u64,
    /// Bytes that were written.
    written: u64,
    /// Sides whose file takes nothing more.
    lost: Vec<Side>,
}

/// Writes until it is told to stop. `ended` is told of each recording that is complete on the disk, with its end: on a full
/// disk nothing can be written about it.
pub(super) fn run(
    folder: &Folder,
    limit: u64,
    used: &AtomicU64,
    mut ops: mpsc::Receiver<Op>,
    mut ended: impl FnMut(Complete),
) {
    let mut losses: HashMap<Arc<str>, Loss> = HashMap::new();
    while let Some(op) = ops.blocking_recv() {
        match op {
            Op::Begin(about) => {
                let session: Arc<str> = about.session.as_str().into();
                let loss = match folder.tape(&session).create(&about) {
                    Ok(()) => Loss::default(),
                    Err(error) => Loss {
                        reason: reason(&error),
                        lost: vec![Side::Customer, Side::Agent],
                        ..Loss::default()
                    },
                };
                losses.insert(session, loss);
            }
            Op::Write(session, piece) => {
                // Without a beginning there is no place.
                let Some(loss) = losses.get_mut(&session) else { continue };
                let bytes = piece.pcm.len() as u64;
                if !loss.lost.contains(&piece.side) {
                    let failed = if used.load(Ordering::Relaxed) + bytes > limit {
                        "spool_limit"
                    } else {
                        match folder.tape(&session).write(piece.side, piece.at, &piece.pcm) {
                            Ok(()) => {
                                used.fetch_add(bytes, Ordering::Relaxed);
                                loss.written += bytes;
                                continue;
                            }
                            Err(error) => reason(&error),
                        }
                    };
                    tracing::warn!(media_session.id = %session, reason = failed, "a side of a recording goes on without what follows");
                    loss.lost.push(piece.side);
                    if loss.reason.is_empty() {
                        loss.reason = failed;
                    }
                }
                loss.missing += bytes / 2;
            }
            Op::End(session, mut end) => {
                let loss = losses.remove(&session).unwrap_or(Loss {
                    reason: "disk_slow",
                    ..Loss::default()
                });
                end.missing += loss.missing;
                if !loss.reason.is_empty() {
                    loss.reason.clone_into(&mut end.reason);
                }
                if let Err(error) = folder.tape(&session).end(&end) {
                    tracing::warn!(%error, media_session.id = %session, "the end of a recording cannot be written down");
                }
                let bytes = loss.written;
                ended(Complete { session, end, bytes });
            }
            Op::Stop => return,
        }
    }
}

fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => "disk_full",
        _ => "disk_error",
    }
}
