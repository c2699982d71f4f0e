//! The state folder.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What an earlier run left that would be mistaken for this one's.
const STALE: [&str; 6] = [
    "dev.json",
    "log.txt",
    "postgres.log",
    "simulator",
    "outbound",
    "inbound",
];

/// The state folder, held by this process alone.
pub(super) struct Folder {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

impl Folder {
    /// Makes it, takes it and empties it.
    pub(super) fn prepare(path: PathBuf) -> anyhow::Result<Self> {
        let unusable = || {
            format!(
                "cannot use the state folder {}; choose another with --state-dir",
                path.display()
            )
        };
        fs::create_dir_all(&path).with_context(unusable)?;
        let lock = File::create(path.join(".lock")).with_context(unusable)?;
        if lock.try_lock().is_err() {
            bail!(
                "another `cargo dev` runs with the state folder {}; stop it, or choose another with --state-dir (and --port-base)",
                path.display()
            );
        }
        for name in STALE {
            let stale = path.join(name);
            if stale.is_dir() {
                fs::remove_dir_all(&stale)
            } else {
                fs::remove_file(&stale)
            }
            .or_else(|error| {
                if error.kind() == std::io::ErrorKind::NotFound {
                    Ok(())
                } else {
                    Err(error)
                }
            })
            .with_context(|| format!("cannot remove {}", stale.display()))?;
        }
        // A cluster whose guard was killed together with us.
        for entry in fs::read_dir(&path).with_context(unusable)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("callbridge-pg-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        // As root, PostgreSQL runs as another user, who must be able to enter; the files with secrets are their owner's.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(unusable)?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    pub(super) fn postgres_log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    pub(super) fn simulator(&self) -> PathBuf {
        self.path.join("simulator")
    }

    pub(super) fn json(&self) -> PathBuf {
        self.path.join("dev.json")
    }

    /// Replaces `dev.json` in one step; only its owner can read it.
    pub(super) fn write_json(&self, content: &Value) -> anyhow::Result<()> {
        let (partial, path) = (self.path.join("dev.json.partial"), self.json());
        let write = || {
            let mut file = File::options()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(format!("{content:#}\n").as_bytes())?;
            fs::rename(&partial, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
