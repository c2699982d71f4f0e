//! Recordings on the local disk, until they are in the object store.
//!
//! ```text
//! {RECORDING_SPOOL}/{edge id}/lock                       held by the edge that it belongs to
//! {RECORDING_SPOOL}/{edge id}/{media session}/about.json  what it is
//!                                           /customer.pcm, agent.pcm  each side's samples, at their places
//!                                           /end.json    its length and what is missing; absent: the edge died
//!                                           /stored.json where it is in the object store
//! ```
//!
//! A place that nobody has written is a hole in the file, which reads as silence.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::align::Side;

const LOCK: &str = "lock";
const ABOUT: &str = "about.json";
const END: &str = "end.json";
const STORED: &str = "stored.json";
/// The largest of our small files.
const MAX_NOTE: u64 = 16 * 1024;

/// What a recording is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// The call's id.
    pub(crate) call: String,
    /// The media session's id.
    pub(crate) session: String,
    /// Samples per second.
    pub(crate) rate: u32,
}

/// How a recording ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Samples of each side.
    pub(crate) samples: u64,
    /// Samples of either side that are not in it.
    pub(crate) missing: u64,
    /// A stable machine word for why something is missing; empty: it is whole.
    pub(crate) reason: String,
}

/// A recording that is in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// Where.
    pub(crate) key: String,
    /// Of the file, lower-case hex.
    pub(crate) sha256: String,
    /// Length of the file.
    pub(crate) bytes: u64,
}

/// A folder of one edge, held as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The lock ends with the process, however that ends.
    _lock: File,
}

impl Folder {
    /// Makes the folder of this edge.
    pub(crate) fn create(spool: &Path, edge_id: &str) -> io::Result<Self> {
        let (path, hidden) = (spool.join(edge_id), spool.join(format!(".{edge_id}")));
        fs::create_dir_all(&hidden)?;
        let lock = File::create(hidden.join(LOCK))?;
        lock.try_lock()?;
        // Others may see it from now on.
        fs::rename(hidden, &path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Folders whose edges are gone. They are this one's from now on.
    pub(crate) fn adopt(spool: &Path) -> Vec<Self> {
        let entries = fs::read_dir(spool).into_iter().flatten().flatten();
        let seen = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        let adopted = seen.filter_map(|entry| {
            let path = entry.path();
            let lock = OpenOptions::new().write(true).open(path.join(LOCK)).ok()?;
            match lock.try_lock() {
                Ok(()) => Some(Self { path, _lock: lock }),
                Err(TryLockError::WouldBlock) => None,
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(%error, "a folder of recordings cannot be locked and is left alone");
                    None
                }
            }
        });
        adopted.collect()
    }

    /// The place of a session's recording.
    pub(crate) fn tape(&self, session: &str) -> Tape {
        Tape(self.path.join(session))
    }

    /// All recordings in it.
    pub(crate) fn tapes(&self) -> Vec<Tape> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .map(Tape)
            .collect()
    }

    /// Removes the folder, if nothing is in it.
    pub(crate) fn remove(self) {
        if self.tapes().is_empty() {
            // Whoever looks at it meanwhile holds a lock of a file that is gone.
            let _ = fs::remove_file(self.path.join(LOCK));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// One recording's place on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tape(PathBuf);

impl Tape {
    /// The session's id, by which the place is called.
    pub(crate) fn session(&self) -> String {
        let name = self.0.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default().to_owned()
    }

    /// Makes the place.
    pub(crate) fn create(&self, about: &About) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        self.note(ABOUT, about)
    }

    fn track(&self, side: Side) -> PathBuf {
        self.0.join(match side {
            Side::Customer => "customer.pcm",
            Side::Agent => "agent.pcm",
        })
    }

    /// Writes samples at their place.
    pub(crate) fn write(&self, side: Side, at: u64, pcm: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.track(side))?;
        file.write_all_at(pcm, at * 2)
    }

    /// Says how it ended.
    pub(crate) fn end(&self, end: &End) -> io::Result<()> {
        self.note(END, end)
    }

    /// Says where it is now.
    pub(crate) fn stored(&self, stored: &Stored) -> io::Result<()> {
        self.note(STORED, stored)
    }

    /// What it is. None: nobody can tell.
    pub(crate) fn about(&self) -> Option<About> {
        self.read(ABOUT)
    }

    /// How it ended. None: the edge that made it did not live to say so.
    pub(crate) fn ended(&self) -> Option<End> {
        self.read(END)
    }

    /// Where it is, if it is in the object store.
    pub(crate) fn is_stored(&self) -> Option<Stored> {
        self.read(STORED)
    }

    /// Samples of the longer side, whole ones.
    pub(crate) fn samples(&self) -> u64 {
        let length = |side| fs::metadata(self.track(side)).map_or(0, |track| track.len());
        length(Side::Customer).max(length(Side::Agent)) / 2
    }

    /// What it takes of the disk; holes take nothing.
    pub(crate) fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let length = |side| fs::metadata(self.track(side)).map_or(0, |track| track.blocks() * 512);
        length(Side::Customer) + length(Side::Agent)
    }

    /// When it was made, as far as the disk knows.
    pub(crate) fn made(&self) -> Option<std::time::SystemTime> {
        fs::metadata(self.0.join(ABOUT))
            .or_else(|_| fs::metadata(&self.0))
            .and_then(|made| made.modified())
            .ok()
    }

    /// Up to so many samples of a side from a place on; fewer where the file ends.
    pub(crate) fn samples_of(&self, side: Side, at: u64, count: usize) -> io::Result<Vec<u8>> {
        let file = match File::open(self.track(side)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut pcm = vec![0; count * 2];
        let mut filled = 0;
        while filled < pcm.len() {
            match file.read_at(&mut pcm[filled..], at * 2 + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        pcm.truncate(filled);
        Ok(pcm)
    }

    /// Removes it. First what tells whose it is: a part of a recording must not take the place of the whole one.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for removed in [fs::remove_file(self.0.join(ABOUT)), fs::remove_dir_all(&self.0)] {
            match removed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// Written whole or not at all.
    fn note(&self, name: &str, note: &impl Serialize) -> io::Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        fs::write(&new, serde_json::to_vec(note)?)?;
        fs::rename(new, path)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let mut text = Vec::new();
        let file = File::open(self.0.join(name)).ok()?;
        file.take(MAX_NOTE).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}
